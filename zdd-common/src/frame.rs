//! Access to a frame's bytes, checked at every step.

use crate::wire::Wire;

/// A frame, from its Ethernet header on.
pub trait Frame {
    /// Bytes of the frame.
    fn length(&self) -> usize;
    /// Bytes of all of it, also of tags that are left out of sight.
    #[inline(always)]
    fn size(&self) -> usize {
        self.length()
    }
    /// A value at an offset in bytes, if all of it lies within the frame. Multi-byte integers come as they stand.
    fn read<T: Wire>(&self, offset: usize) -> Option<T>;
    /// Overwrites; false if it does not lie within the frame.
    fn write<T: Wire>(&mut self, offset: usize, value: T) -> bool;
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
    fn read<T: Wire>(&self, offset: usize) -> Option<T> {
        (**self).read(offset)
    }

    #[inline(always)]
    fn write<T: Wire>(&mut self, offset: usize, value: T) -> bool {
        (**self).write(offset, value)
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
