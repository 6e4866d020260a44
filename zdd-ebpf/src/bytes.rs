//! Packet memory, checked against its end at every access, as the verifier wants it.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail};
use aya_ebpf::programs::XdpContext;
use zdd_common::frame::Frame;
use zdd_common::wire::Wire;

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
        // SAFETY: the context of the packet at hand.
        unsafe { (*self.ctx).data as usize }
    }

    #[inline(always)]
    fn end(&self) -> usize {
        // SAFETY: the context of the packet at hand.
        unsafe { (*self.ctx).data_end as usize }
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

impl Frame for Bytes {
    #[inline(always)]
    fn length(&self) -> usize {
        // Opaque: a comparison with the length would let the compiler leave out checks against the end, which alone count
        // for the verifier.
        core::hint::black_box(self.end() - self.start())
    }

    #[inline(always)]
    fn read<T: Wire>(&self, offset: usize) -> Option<T> {
        // SAFETY: within the frame, checked above.
        self.at::<T>(offset).map(|at| unsafe { at.read_unaligned() })
    }

    #[inline(always)]
    fn write<T: Wire>(&mut self, offset: usize, value: T) -> bool {
        match self.at::<T>(offset) {
            Some(at) => {
                // SAFETY: within the frame, checked above.
                unsafe { at.write_unaligned(value) };
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
