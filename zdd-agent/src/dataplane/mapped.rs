//! An array map in this process's memory.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The values of a `BPF_F_MMAPABLE` array, shared with the kernel. Access is by pointer: packets change the words at any
/// moment, so a Rust reference to them would be a lie.
pub(crate) struct Mapped<T> {
    start: *mut T,
    values: usize,
    bytes: usize,
    marker: PhantomData<T>,
}

// SAFETY: all access is by raw pointer and, where packets write too, atomic.
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mapped<T> {}

impl<T> Mapped<T> {
    /// Maps all `values` of the array.
    pub(crate) fn new(map: BorrowedFd<'_>, values: u32) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8), "the kernel rounds values up to 8 bytes") };
        let values = values as usize;
        let bytes = (values * size_of::<T>()).next_multiple_of(4096);
        // SAFETY: a fresh mapping; the kernel checks the length.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: start.cast(), values, bytes, marker: PhantomData })
    }

    /// Number of values.
    pub(crate) fn len(&self) -> usize {
        self.values
    }

    /// Address of a value.
    ///
    /// # Panics
    /// Beyond the end: ids and rows are given out by the agent, so that is a bug of its own.
    pub(crate) fn at(&self, index: usize) -> *mut T {
        assert!(index < self.values, "index {index} of {}", self.values);
        // SAFETY: within the mapping.
        unsafe { self.start.add(index) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: mapped in new, unmapped once.
        unsafe { libc::munmap(self.start.cast(), self.bytes) };
    }
}
