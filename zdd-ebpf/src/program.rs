//! The entry points and the one counted exit.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use zdd_common::odd;
use zdd_common::process::{Verdict, Work, plain};
use zdd_common::snat::{self, Order};

use crate::bytes::Bytes;
use crate::tables::Maps;
use crate::{alarm, maps, stats, trace};

#[xdp(frags)]
fn zdd(ctx: XdpContext) -> u32 {
    let mut frame = Bytes::of(&ctx);
    let mut found: *const Work = core::ptr::null();
    let mut traced = false;
    let verdict = match maps::WORK.get_ptr_mut(0) {
        Some(work) => {
            found = work;
            // Asked once: what a packet leaves to be told of it depends on it.
            let on = trace::on();
            // SAFETY: this CPU's own, and XDP is not preempted by itself; all zero, as it begins, is a valid value.
            unsafe {
                (&raw mut (*work).traced).write_volatile(on);
                let verdict = plain(&mut frame, &mut Maps::of(&ctx), &mut *work, !on);
                // Read again, for the verifier: as long as it knew the answer, it would follow all that lies between once for each.
                traced = (&raw const (*work).traced).read_volatile();
                verdict
            }
        }
        None => Verdict::Odd,
    };
    if let Verdict::Odd = verdict {
        // SAFETY: nothing here waits to be dropped. It only comes back when the slot is empty.
        unsafe { maps::PROGRAMS.tail_call(&ctx, maps::ODD) };
    }
    if let Verdict::Map = verdict {
        // SAFETY: as above.
        unsafe { maps::PROGRAMS.tail_call(&ctx, maps::SNAT) };
    }
    leave(&ctx, verdict, found, core::ptr::null(), traced)
}

/// Frames that are not plain; see `maps::PROGRAMS`.
#[xdp(frags)]
fn zdd_odd(ctx: XdpContext) -> u32 {
    let mut found: *const Work = core::ptr::null();
    let verdict = match maps::ODD_WORK.get_ptr_mut(0) {
        Some(odd) => {
            // SAFETY: this CPU's own, and XDP is not preempted by itself; the first thing is to overwrite it, by plain values.
            let odd = unsafe { &mut *odd };
            found = odd.work();
            odd::process(Bytes::of(&ctx), &mut Maps::of(&ctx), odd)
        }
        None => Verdict::Odd,
    };
    if let Verdict::Map = verdict {
        // SAFETY: nothing here waits to be dropped. It only comes back when the slot is empty.
        unsafe { maps::PROGRAMS.tail_call(&ctx, maps::SNAT) };
    }
    leave(&ctx, verdict, found, core::ptr::null(), true)
}

/// Packets to and from `snat` backends; see `maps::PROGRAMS`.
#[xdp(frags)]
fn zdd_snat(ctx: XdpContext) -> u32 {
    let mut ordered: *const Order = core::ptr::null();
    let verdict = match (maps::HANDED.get_ptr_mut(0), maps::SNAT_WORK.get_ptr_mut(0)) {
        (Some(order), Some(job)) => {
            ordered = order;
            // SAFETY: this CPU's own, and XDP is not preempted by itself; what lies in the second is overwritten first.
            unsafe { snat::process(Bytes::of(&ctx), &mut Maps::of(&ctx), &mut *order, &mut *job) }
        }
        _ => Verdict::Map,
    };
    leave(&ctx, verdict, core::ptr::null(), ordered, true)
}

#[inline(always)]
fn leave(ctx: &XdpContext, verdict: Verdict, found: *const Work, ordered: *const Order, traced: bool) -> u32 {
    stats::count_reason(verdict.reason());
    if traced {
        trace::look(ctx, verdict, found, ordered);
    }
    if let Verdict::Odd | Verdict::Map = verdict {
        alarm::no_program(ctx, verdict.reason() as u32);
    }
    match verdict {
        Verdict::Pass(_) | Verdict::Odd => xdp_action::XDP_PASS,
        Verdict::Drop(_) | Verdict::Map => xdp_action::XDP_DROP,
        Verdict::Transmit(_) => xdp_action::XDP_TX,
        // A port that vanished between the agent's look and this frame: its next hop is about to be replaced.
        Verdict::Redirect(ifindex, _) => match maps::TX.redirect(ifindex, 0) {
            Ok(action) | Err(action) => action,
        },
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here can panic; the verifier would refuse an endless loop that is reachable.
    loop {}
}

/// The licence that the kernel checks before it lets a program call GPL-only helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
