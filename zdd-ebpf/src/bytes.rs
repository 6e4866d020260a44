//! Packet memory, checked against its end at every access, as the verifier wants it.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len};
use aya_ebpf::programs::XdpContext;
use zdd_common::frame::Frame;
use zdd_common::wire::Wire;

/// Whether frames may come in several buffers: the program is loaded with BPF_F_XDP_HAS_FRAGS. Where it is not, the verifier does not look at
/// what asks for their length, which Linux before 5.18 does not know.
#[unsafe(no_mangle)]
static FRAGS: u32 = 0;

/// Reads 32 bits of the context in an instruction that the compiler does not look into. For it they are a number of 32 bits, which
/// it moves in half a register, and whose sums cannot overflow, so that it compares a byte's place instead of the one behind
/// it; for the verifier they are a pointer, which neither survives.
macro_rules! word {
    ($to:ident, $ctx:expr, $offset:literal) => {
        core::arch::asm!(
            concat!("{0} = *(u32 *)({1} + ", $offset, ")"),
            out(reg) $to,
            in(reg) $ctx,
            options(pure, readonly, nostack, preserves_flags)
        )
    };
}

/// The frame of an XDP context. Where it begins and ends is asked anew each time: helpers move both, after which the
/// verifier knows no older pointer, and on the stack of the deepest chain of calls there is no room to keep them.
pub(crate) struct Bytes {
    ctx: *mut xdp_md,
}

impl Bytes {
    #[inline(always)]
    pub(crate) fn of(ctx: &XdpContext) -> Self {
        Self { ctx: ctx.ctx }
    }

    #[inline(always)]
    fn start(&self) -> usize {
        let start;
        // SAFETY: the context of the packet at hand; the first of its fields is `data`, of 32 bits. See [`word`].
        unsafe { word!(start, self.ctx, "0") };
        start
    }

    #[inline(always)]
    fn end(&self) -> usize {
        let end;
        // SAFETY: as above; the second is `data_end`.
        unsafe { word!(end, self.ctx, "4") };
        end
    }

    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let at = self.start() + offset;
        if at + size_of::<T>() > self.end() { None } else { Some(at as *mut T) }
    }

    /// Moves the first byte, back by a negative number.
    #[inline(always)]
    fn head(&mut self, by: i32) -> bool {
        // SAFETY: the context of the packet at hand.
        unsafe { bpf_xdp_adjust_head(self.ctx, by) == 0 }
    }
}

/// How many bytes at once.
#[derive(Clone, Copy)]
enum Word {
    Eight,
    Four,
    Two,
    One,
}

/// Copies a value between frame and registers by the largest words that fit. An unaligned access of Rust's is one for every byte on
/// this target; the frame's side is volatile instead, which keeps each word one instruction. The kernel takes words at any
/// address of a frame where the CPU does (x86-64, arm64), and refuses the program elsewhere.
///
/// # Safety
/// `from` and `to` are valid for the type's size.
#[inline(always)]
unsafe fn copy<T>(from: *const u8, to: *mut u8, word: impl Fn(*const u8, *mut u8, Word)) {
    let size = size_of::<T>();
    let mut done = 0;
    for (bytes, kind) in [(8, Word::Eight), (4, Word::Four), (2, Word::Two), (1, Word::One)] {
        while done + bytes <= size {
            // SAFETY: within the caller's bounds.
            unsafe { word(from.add(done), to.add(done), kind) };
            done += bytes;
        }
    }
}

impl Frame for Bytes {
    #[inline(always)]
    fn length(&self) -> usize {
        // SAFETY: a static is valid; read volatile, because the agent writes it before it loads the program.
        if unsafe { (&raw const FRAGS).read_volatile() } != 0 {
            // SAFETY: the context of the packet at hand.
            return unsafe { bpf_xdp_get_buff_len(self.ctx) } as usize;
        }
        self.linear()
    }

    #[inline(always)]
    fn linear(&self) -> usize {
        // Opaque: a comparison with the length would let the compiler leave out checks against the end, which alone count
        // for the verifier.
        let (mut length, start) = (self.end(), self.start());
        // SAFETY: a subtraction.
        unsafe {
            core::arch::asm!(
                "{0} -= {1}",
                inout(reg) length,
                in(reg) start,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        length
    }

    #[inline(always)]
    fn read<T: Wire>(&self, offset: usize) -> Option<T> {
        let at = self.at::<T>(offset)?;
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: within the frame, checked above; any bytes are a valid value of a Wire type.
        Some(unsafe {
            copy::<T>(at.cast(), value.as_mut_ptr().cast(), |from, to, word| match word {
                Word::Eight => to.cast::<u64>().write_unaligned(from.cast::<u64>().read_volatile()),
                Word::Four => to.cast::<u32>().write_unaligned(from.cast::<u32>().read_volatile()),
                Word::Two => to.cast::<u16>().write_unaligned(from.cast::<u16>().read_volatile()),
                Word::One => to.write(from.read_volatile()),
            });
            value.assume_init()
        })
    }

    #[inline(always)]
    fn write<T: Wire>(&mut self, offset: usize, value: T) -> bool {
        match self.at::<T>(offset) {
            Some(at) => {
                // SAFETY: within the frame, checked above.
                unsafe {
                    copy::<T>((&raw const value).cast(), at.cast(), |from, to, word| match word {
                        Word::Eight => to.cast::<u64>().write_volatile(from.cast::<u64>().read_unaligned()),
                        Word::Four => to.cast::<u32>().write_volatile(from.cast::<u32>().read_unaligned()),
                        Word::Two => to.cast::<u16>().write_volatile(from.cast::<u16>().read_unaligned()),
                        Word::One => to.write_volatile(from.read()),
                    });
                }
                true
            }
            None => false,
        }
    }

    #[inline(always)]
    fn prepend(&mut self, bytes: usize) -> bool {
        self.head(-(bytes as i32))
    }

    #[inline(always)]
    fn strip(&mut self, bytes: usize) -> bool {
        self.head(bytes as i32)
    }

    #[inline(always)]
    fn truncate(&mut self, length: usize) -> bool {
        let by = length as i32 - self.length() as i32;
        // SAFETY: the context of the packet at hand. Only ever shorter: a longer tail needs room that few drivers leave.
        by <= 0 && unsafe { bpf_xdp_adjust_tail(self.ctx, by) == 0 }
    }
}
