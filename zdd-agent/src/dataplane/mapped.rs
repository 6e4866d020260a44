//! An array map in this process's memory, part by part.
//!
//! The kernel counts all that is mapped of a map as the process's own memory, touched or not. Most hosts use a small part of what
//! their limits allow, so address space is reserved for a whole array, and a part of it is mapped when it is first asked for. What is
//! not needed any more can be let go.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Parts of an array at the most, so that the process's number of mappings stays small.
const PARTS: usize = 64;
/// Bytes of a part at the least.
const PART: usize = 256 << 10;
/// Values of a part at the least: of any size that is a multiple of 8 bytes, these fill pages.
const VALUES: usize = 512;

/// The values of a `BPF_F_MMAPABLE` array, shared with the kernel. Access is by pointer: packets change the words at any
/// moment, so a Rust reference to them would be a lie.
pub(crate) struct Mapped<T> {
    map: OwnedFd,
    start: *mut T,
    values: usize,
    bytes: usize,
    /// Values of a part, as a power of two.
    shift: u32,
    /// Which parts are mapped.
    there: Box<[AtomicBool]>,
    mapping: Mutex<()>,
    marker: PhantomData<T>,
}

// SAFETY: all access is by raw pointer and, where packets write too, atomic.
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mapped<T> {}

impl<T> Mapped<T> {
    /// Reserves room for all `values` of the array, and maps the first part: an array that cannot be mapped is told here.
    pub(crate) fn new(map: BorrowedFd<'_>, values: u32) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8), "the kernel rounds values up to 8 bytes") };
        let values = values as usize;
        let bytes = (values * size_of::<T>()).next_multiple_of(4096);
        let part = values.div_ceil(PARTS).max(PART / size_of::<T>()).max(VALUES).next_power_of_two();
        let map = map.try_clone_to_owned()?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping, of nothing that can be read or written.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let this = Self {
            map,
            start: start.cast(),
            values,
            bytes,
            shift: part.trailing_zeros(),
            there: (0..values.div_ceil(part)).map(|_| AtomicBool::new(false)).collect(),
            mapping: Mutex::new(()),
            marker: PhantomData,
        };
        this.bring(0)?;
        Ok(this)
    }

    /// Number of values.
    pub(crate) fn len(&self) -> usize {
        self.values
    }

    /// Address of a value.
    ///
    /// # Panics
    /// Beyond the end: ids and rows are given out by the agent, so that is a bug of its own. When the kernel has no memory for page
    /// tables: the agent starts again, and traffic goes on meanwhile.
    #[inline]
    pub(crate) fn at(&self, index: usize) -> *mut T {
        assert!(index < self.values, "index {index} of {}", self.values);
        self.ensure(index >> self.shift);
        // SAFETY: within the mapping.
        unsafe { self.start.add(index) }
    }

    /// Address of the first of `count` values, all of which may be reached from it.
    ///
    /// # Panics
    /// As [`Mapped::at`].
    pub(crate) fn range(&self, first: usize, count: usize) -> *mut T {
        let last = first + count.max(1) - 1;
        assert!(last < self.values, "index {last} of {}", self.values);
        (first >> self.shift..=last >> self.shift).for_each(|part| self.ensure(part));
        // SAFETY: within the mapping.
        unsafe { self.start.add(first) }
    }

    /// Sets a value by a system call, which brings nothing into this process's memory: for one of many that nobody here looks at. A
    /// packet may meet half of it.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn write(&self, index: u32, value: &T) -> io::Result<()> {
        super::per_cpu::write(self.map.as_fd(), index, value)
    }

    /// Lets go of every part but the first; what is in them stays in the kernel, and each comes back when it is asked for. `&mut`:
    /// nobody may hold an address of a value.
    pub(crate) fn let_go(&mut self) {
        for part in 1..self.there.len() {
            if !self.there[part].load(Ordering::Acquire) {
                continue;
            }
            let offset = (part << self.shift) * size_of::<T>();
            let length = (size_of::<T>() << self.shift).min(self.bytes - offset);
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
            // SAFETY: over a part of what `new` has reserved, of which nobody holds an address.
            let left = unsafe {
                let at = self.start.byte_add(offset).cast();
                libc::mmap(at, length, libc::PROT_NONE, flags, -1, 0)
            };
            // A part that stays mapped is no harm.
            if left != libc::MAP_FAILED {
                self.there[part].store(false, Ordering::Release);
            }
        }
    }

    #[inline]
    fn ensure(&self, part: usize) {
        if !self.there[part].load(Ordering::Acquire)
            && let Err(error) = self.bring(part)
        {
            panic!("cannot map {} bytes of a BPF map: {error}", size_of::<T>() << self.shift);
        }
    }

    #[cold]
    fn bring(&self, part: usize) -> io::Result<()> {
        let _one = self.mapping.lock().unwrap_or_else(PoisonError::into_inner);
        if self.there[part].load(Ordering::Acquire) {
            return Ok(());
        }
        let offset = (part << self.shift) * size_of::<T>();
        let length = (size_of::<T>() << self.shift).min(self.bytes - offset);
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        // SAFETY: over a part of what `new` has reserved, which nobody touches before `there` says so; the kernel checks that it
        // lies within the array.
        let mapped = unsafe {
            let at = self.start.byte_add(offset).cast();
            libc::mmap(at, length, rights, flags, self.map.as_raw_fd(), offset as libc::off_t)
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        self.there[part].store(true, Ordering::Release);
        Ok(())
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: reserved in new, with whatever was mapped over it; given back once.
        unsafe { libc::munmap(self.start.cast(), self.bytes) };
    }
}
