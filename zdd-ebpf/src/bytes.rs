//! Packet memory, checked against its end at every access, as the verifier wants it.

use aya_ebpf::programs::XdpContext;
use zdd_common::frame::Frame;
use zdd_common::wire::Wire;

/// The frame of an XDP context.
pub(crate) struct Bytes {
    start: usize,
    end: usize,
}

impl Bytes {
    #[inline(always)]
    pub(crate) fn of(ctx: &XdpContext) -> Self {
        Self { start: ctx.data(), end: ctx.data_end() }
    }

    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let at = self.start + offset;
        if at + size_of::<T>() > self.end { None } else { Some(at as *mut T) }
    }
}

impl Frame for Bytes {
    #[inline(always)]
    fn length(&self) -> usize {
        // Opaque: a comparison with the length would let the compiler leave out checks against the end, which alone count
        // for the verifier.
        core::hint::black_box(self.end - self.start)
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
}
