//! Feeds the program under test: BPF_PROG_TEST_RUN gives every repeat the frame as the last one left it.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::{BPF_F_MMAPABLE, xdp_action};
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, ProgramArray};
use aya_ebpf::programs::XdpContext;
use zdd_common::bench::{Drive, HEADER, PORT_BITS, PORT_FIRST};

/// What to do next. Mapped into the bench.
#[map]
static DRIVE: Array<Drive> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// The program under test. At a constant index: the kernel makes that a direct jump.
#[map]
static PROGRAM: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Bytes of an IPv4 frame's start that are restored: Ethernet, IPv4, TCP and its first option, rounded up to words.
const HEADER_V4: usize = 64;
/// Bytes that every frame has and [`Fields`] lie in.
const LEAST: usize = 64;

/// Offsets of what changes from flow to flow: the last four bytes of source and destination, source port, sequence number.
struct Fields {
    src: usize,
    dst: usize,
    port: usize,
    seq: usize,
}

const V4: Fields = Fields { src: 26, dst: 30, port: 34, seq: 38 };
const V6: Fields = Fields { src: 34, dst: 50, port: 54, seq: 58 };

/// Restores the frame, makes it the next flow's, and hands it on. XDP_ABORTED: the driver itself failed.
#[xdp]
pub fn drive(ctx: XdpContext) -> u32 {
    if let Some(drive) = DRIVE.get_ptr_mut(0) {
        // SAFETY: a map value that only this CPU touches while the program runs.
        let drive = unsafe { &mut *drive };
        // Opaque: in 32 bits, the compiler's choice, the kernel takes no difference of packet pointers.
        let length = core::hint::black_box(ctx.data_end() - ctx.data());
        let grown = length as i32 - drive.length as i32;
        // SAFETY: the context is the caller's.
        if grown == 0 || unsafe { bpf_xdp_adjust_head(ctx.ctx, grown) } == 0 {
            let done = if drive.v6 != 0 { v6(&ctx, drive) } else { v4(&ctx, drive) };
            if done {
                settle(drive);
                // SAFETY: nothing here needs dropping.
                unsafe { PROGRAM.tail_call(&ctx, 0) };
            }
        }
    }
    xdp_action::XDP_ABORTED
}

/// Waits until what was written is in the cache. A network card's frame is not in this CPU's store buffer, where a program that reads
/// across two writes waits for both: that would be the driver's fault, and not the same for every program.
#[inline(always)]
fn settle(drive: &mut Drive) {
    // SAFETY: a map value that only this CPU touches. Nothing is added: it is done for its order, which is the strictest.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(&raw mut drive.next, 0) };
}

#[inline(always)]
fn v4(ctx: &XdpContext, drive: &mut Drive) -> bool {
    restore::<HEADER_V4>(ctx, drive) && next(ctx, drive, &V4)
}

#[inline(always)]
fn v6(ctx: &XdpContext, drive: &mut Drive) -> bool {
    restore::<HEADER>(ctx, drive) && next(ctx, drive, &V6)
}

#[inline(always)]
fn restore<const BYTES: usize>(ctx: &XdpContext, drive: &Drive) -> bool {
    let start = ctx.data();
    if start + BYTES > ctx.data_end() {
        return false;
    }
    let frame = start as *mut u64;
    for (word, value) in drive.header.iter().take(BYTES / 8).enumerate() {
        // SAFETY: within the frame, checked above. Volatile, here and below, for one store instead of one for every byte: BPF
        // on the machines that this runs on takes words at any address of a frame.
        unsafe { frame.add(word).write_volatile(*value) };
    }
    true
}

#[inline(always)]
fn next(ctx: &XdpContext, drive: &mut Drive, at: &Fields) -> bool {
    let start = ctx.data();
    if start + LEAST > ctx.data_end() {
        return false;
    }
    let flow = drive.next as u32 & drive.mask;
    drive.next += 1;
    // SAFETY: within the frame, checked above.
    unsafe {
        add(start + at.src, flow >> PORT_BITS);
        let port = PORT_FIRST + (flow & ((1 << PORT_BITS) - 1)) as u16;
        ((start + at.port) as *mut u16).write_volatile(port.to_be());
        if drive.vips > 1 {
            // Spread, not in step with the ports.
            let mixed = flow.wrapping_mul(0x9E37_79B9) as u64;
            add(start + at.dst, ((mixed * drive.vips as u64) >> 32) as u32);
        }
        if drive.isn != 0 {
            let seq = (drive.next as u32).wrapping_mul(0x85EB_CA6B);
            ((start + at.seq) as *mut u32).write_volatile(seq);
        }
    }
    true
}

/// Adds to the number that four bytes of an address are.
///
/// # Safety
/// The bytes are within the frame.
#[inline(always)]
unsafe fn add(at: usize, number: u32) {
    let at = at as *mut u32;
    // SAFETY: the caller's promise.
    unsafe { at.write_volatile(u32::from_be(at.read_volatile()).wrapping_add(number).to_be()) };
}
