//! Access to a frame's bytes, checked at every step.

use crate::wire::Wire;

/// A frame, from its Ethernet header on.
pub trait Frame {
    /// Bytes of the frame.
    fn length(&self) -> usize;
    /// Bytes of it that lie in one piece, from the first on: all, unless a driver keeps the frame in several buffers. No others can be read
    /// or written.
    #[inline(always)]
    fn linear(&self) -> usize {
        self.length()
    }
    /// Bytes of all of it, also of tags that are left out of sight.
    #[inline(always)]
    fn size(&self) -> usize {
        self.length()
    }
    /// A value at an offset in bytes, if all of it lies within the frame. Multi-byte integers come as they stand.
    fn read<T: Wire>(&self, offset: usize) -> Option<T>;
    /// Overwrites; false if it does not lie within the frame.
    fn write<T: Wire>(&mut self, offset: usize, value: T) -> bool;
    /// Makes room for so many bytes in front of the first; what they are is not defined. False, and nothing changed, if
    /// there is none: a driver leaves some in front of a frame (256 bytes as a rule), a bare slice has none.
    fn prepend(&mut self, _bytes: usize) -> bool {
        false
    }
    /// Takes bytes away in front. False, and nothing changed, if there are not so many.
    fn strip(&mut self, _bytes: usize) -> bool {
        false
    }
    /// Takes bytes away at the end, so that this many are left. False, and nothing changed, if there are not so many.
    fn truncate(&mut self, _length: usize) -> bool {
        false
    }
    /// Reads before the EtherType: the MAC addresses, which lie before any tags.
    #[inline(always)]
    fn read_link<T: Wire>(&self, offset: usize) -> Option<T> {
        self.read(offset)
    }
    /// Overwrites before the EtherType: the MAC addresses, which lie before any tags.
    #[inline(always)]
    fn write_link<T: Wire>(&mut self, offset: usize, value: T) -> bool {
        self.write(offset, value)
    }
    /// VLANs of the tags that are left out of sight: outer in bits 0-15, inner in 16-31. 0: none, or priority tags only,
    /// which belong to the untagged link (IEEE 802.1Q, 6.9).
    #[inline(always)]
    fn tags(&self) -> u32 {
        0
    }
    /// Whether no transport header of ours to rewrite is in sight: addresses change, ports do not.
    #[inline(always)]
    fn headless(&self) -> bool {
        false
    }
}

// Every method, also those with a default: inside a function that has a `&mut F`, this is the implementation that is found.
impl<F: Frame + ?Sized> Frame for &mut F {
    #[inline(always)]
    fn size(&self) -> usize {
        (**self).size()
    }

    #[inline(always)]
    fn read_link<T: Wire>(&self, offset: usize) -> Option<T> {
        (**self).read_link(offset)
    }

    #[inline(always)]
    fn write_link<T: Wire>(&mut self, offset: usize, value: T) -> bool {
        (**self).write_link(offset, value)
    }

    #[inline(always)]
    fn tags(&self) -> u32 {
        (**self).tags()
    }

    #[inline(always)]
    fn headless(&self) -> bool {
        (**self).headless()
    }

    #[inline(always)]
    fn length(&self) -> usize {
        (**self).length()
    }

    #[inline(always)]
    fn linear(&self) -> usize {
        (**self).linear()
    }

    #[inline(always)]
    fn read<T: Wire>(&self, offset: usize) -> Option<T> {
        (**self).read(offset)
    }

    #[inline(always)]
    fn write<T: Wire>(&mut self, offset: usize, value: T) -> bool {
        (**self).write(offset, value)
    }

    #[inline(always)]
    fn prepend(&mut self, bytes: usize) -> bool {
        (**self).prepend(bytes)
    }

    #[inline(always)]
    fn strip(&mut self, bytes: usize) -> bool {
        (**self).strip(bytes)
    }

    #[inline(always)]
    fn truncate(&mut self, length: usize) -> bool {
        (**self).truncate(length)
    }
}

#[cfg(any(test, feature = "std"))]
impl Frame for [u8] {
    fn length(&self) -> usize {
        self.len()
    }

    fn read<T: Wire>(&self, offset: usize) -> Option<T> {
        let bytes = self.get(offset..offset.checked_add(size_of::<T>())?)?;
        // SAFETY: the slice has the type's size; any bytes are a valid value of a Wire type.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }

    fn write<T: Wire>(&mut self, offset: usize, value: T) -> bool {
        let Some(end) = offset.checked_add(size_of::<T>()) else { return false };
        let Some(bytes) = self.get_mut(offset..end) else { return false };
        // SAFETY: the slice has the type's size.
        unsafe { bytes.as_mut_ptr().cast::<T>().write_unaligned(value) };
        true
    }
}

#[cfg(any(test, feature = "std"))]
impl Frame for Vec<u8> {
    fn length(&self) -> usize {
        self.len()
    }

    fn read<T: Wire>(&self, offset: usize) -> Option<T> {
        self[..].read(offset)
    }

    fn write<T: Wire>(&mut self, offset: usize, value: T) -> bool {
        self[..].write(offset, value)
    }

    fn prepend(&mut self, bytes: usize) -> bool {
        // Not 0, so that a byte which nobody writes is seen.
        self.splice(..0, std::iter::repeat_n(0xdb, bytes));
        true
    }

    fn strip(&mut self, bytes: usize) -> bool {
        let there = bytes < self.len();
        if there {
            self.drain(..bytes);
        }
        there
    }

    fn truncate(&mut self, length: usize) -> bool {
        let there = length <= self.len();
        self.truncate(length);
        there
    }
}
