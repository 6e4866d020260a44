//! The few atomic operations on shared 64-bit words, behind a trait: the BPF target has no `AtomicU64`, so the XDP
//! program brings its own, and everybody else uses [`Host`].

/// Atomic operations on aligned words that the other side of a map may touch at the same time. All are sequentially
/// consistent except [`Atomics::load`] and [`Atomics::store`], which are plain untorn accesses.
pub trait Atomics {
    /// Reads a word whole.
    ///
    /// # Safety
    /// `word` is valid and aligned to 8.
    unsafe fn load(word: *const u64) -> u64;

    /// Writes a word whole.
    ///
    /// # Safety
    /// `word` is valid and aligned to 8.
    unsafe fn store(word: *mut u64, value: u64);

    /// Writes `new` if the word is `old`; tells whether it was.
    ///
    /// # Safety
    /// `word` is valid and aligned to 8.
    unsafe fn cas(word: *mut u64, old: u64, new: u64) -> bool;

    /// Sets bits, returns the word as it was.
    ///
    /// # Safety
    /// `word` is valid and aligned to 8.
    unsafe fn or(word: *mut u64, bits: u64) -> u64;

    /// Adds (wrapping), returns the word as it was.
    ///
    /// # Safety
    /// `word` is valid and aligned to 8.
    unsafe fn add(word: *mut u64, value: u64) -> u64;
}

/// [`Atomics`] by the standard library.
#[cfg(not(target_arch = "bpf"))]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Host;

#[cfg(test)]
pub(crate) mod interrupted;

#[cfg(not(target_arch = "bpf"))]
mod host {
    use super::{Atomics, Host};
    use core::sync::atomic::{AtomicU64, Ordering};

    impl Atomics for Host {
        #[inline]
        unsafe fn load(word: *const u64) -> u64 {
            // SAFETY: the caller's promise.
            unsafe { AtomicU64::from_ptr(word.cast_mut()) }.load(Ordering::Acquire)
        }

        #[inline]
        unsafe fn store(word: *mut u64, value: u64) {
            // SAFETY: the caller's promise.
            unsafe { AtomicU64::from_ptr(word) }.store(value, Ordering::Release);
        }

        #[inline]
        unsafe fn cas(word: *mut u64, old: u64, new: u64) -> bool {
            // SAFETY: the caller's promise.
            unsafe { AtomicU64::from_ptr(word) }
                .compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
        }

        #[inline]
        unsafe fn or(word: *mut u64, bits: u64) -> u64 {
            // SAFETY: the caller's promise.
            unsafe { AtomicU64::from_ptr(word) }.fetch_or(bits, Ordering::SeqCst)
        }

        #[inline]
        unsafe fn add(word: *mut u64, value: u64) -> u64 {
            // SAFETY: the caller's promise.
            unsafe { AtomicU64::from_ptr(word) }.fetch_add(value, Ordering::SeqCst)
        }
    }
}
