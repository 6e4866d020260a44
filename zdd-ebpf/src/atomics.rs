//! `zdd_common::atomic` for the BPF target, which has no `AtomicU64`.
//!
//! Everything is SeqCst on purpose: with Relaxed, LLVM 23.1 drops the result of an xadd (seen in its output), and the
//! kernel's fetching atomics are fully ordered anyway.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_or, atomic_xadd};

use zdd_common::atomic::Atomics;

/// BPF instructions of cpu v3 (Linux 5.12).
pub(crate) struct Bpf;

const SEQ: AtomicOrdering = AtomicOrdering::SeqCst;

impl Atomics for Bpf {
    #[inline(always)]
    unsafe fn load(word: *const u64) -> u64 {
        // SAFETY: the caller's promise. One aligned 64-bit load is never torn.
        unsafe { word.read_volatile() }
    }

    #[inline(always)]
    unsafe fn store(word: *mut u64, value: u64) {
        // SAFETY: as above.
        unsafe { word.write_volatile(value) }
    }

    #[inline(always)]
    unsafe fn cas(word: *mut u64, old: u64, new: u64) -> bool {
        // SAFETY: the caller's promise.
        unsafe { atomic_cxchg::<u64, SEQ, SEQ>(word, old, new).0 == old }
    }

    #[inline(always)]
    unsafe fn or(word: *mut u64, bits: u64) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { atomic_or::<u64, u64, SEQ>(word, bits) }
    }

    #[inline(always)]
    unsafe fn add(word: *mut u64, value: u64) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { atomic_xadd::<u64, u64, SEQ>(word, value) }
    }
}
