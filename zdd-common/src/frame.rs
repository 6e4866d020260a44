//! Access to a frame's bytes, checked at every step.

use crate::wire::Wire;

/// A frame, from its Ethernet header on.
pub trait Frame {
    /// Bytes of the whole frame.
    fn length(&self) -> usize;
    /// A value at an offset in bytes, if all of it lies within the frame. Multi-byte integers come as they stand.
    fn read<T: Wire>(&self, offset: usize) -> Option<T>;
    /// Overwrites; false if it does not lie within the frame.
    fn write<T: Wire>(&mut self, offset: usize, value: T) -> bool;
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
