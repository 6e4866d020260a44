//! Where sampled flows are followed: buckets of four, one for each hash. When a bucket is full the flow that was silent longest
//! gives way, and is unknown from then on.

use crate::atomic::Atomics;
use crate::time::Tick;

use super::SignalKey;
use super::stage;

/// Flows of a bucket.
pub const SIGNAL_WAYS: usize = 4;

/// One flow: a cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SignalFlow {
    /// See [`stage`]; changed by compare-and-swap only.
    pub word: u64,
    /// [`SignalKey::rest`].
    pub rest: u64,
    /// The client's address.
    pub client_hi: u64,
    /// Its second half.
    pub client_lo: u64,
    /// When its first SYN came, exact ns since boot.
    pub began: u64,
    /// When the client first asked, exact ns since boot; before that when the handshake ended.
    pub asked: u64,
    /// Bits 0-31 the client's initial sequence number, 32-63 the number of the backend's first byte, once known.
    pub numbers: u64,
    /// 0.
    pub reserved: u64,
}
wire!(SignalFlow, 64, {
    word: u64, rest: u64, client_hi: u64, client_lo: u64, began: u64, asked: u64, numbers: u64, reserved: u64,
});

/// The flows of one place.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SignalBucket {
    /// In no order.
    pub flows: [SignalFlow; SIGNAL_WAYS],
}
wire!(SignalBucket, 256, { flows: [SignalFlow; SIGNAL_WAYS] });

/// Index of a hash's bucket in a table of `buckets` (a power of two).
#[inline(always)]
pub const fn home(hash: u64, buckets: u32) -> u32 {
    hash as u32 & (buckets - 1)
}

/// A live flow by its key.
///
/// # Safety
/// `bucket` is valid.
#[inline(always)]
pub(super) unsafe fn find<A: Atomics>(bucket: *mut SignalBucket, key: &SignalKey) -> Option<*mut SignalFlow> {
    let mut at = SIGNAL_WAYS;
    for way in 0..SIGNAL_WAYS {
        // SAFETY: the caller's promise; ways are below their number.
        unsafe {
            let flow = bucket.cast::<SignalFlow>().add(way);
            if A::load(&raw const (*flow).rest) == key.rest
                && A::load(&raw const (*flow).client_lo) == key.client.lo
                && A::load(&raw const (*flow).client_hi) == key.client.hi
                && stage::is_known(A::load(&raw const (*flow).word))
            {
                at = way;
            }
        }
    }
    if at == SIGNAL_WAYS {
        return None;
    }
    // SAFETY: as above.
    Some(unsafe { bucket.cast::<SignalFlow>().add(at & (SIGNAL_WAYS - 1)) })
}

/// The flow that matters least: none, one that has ended, or the one that was silent longest.
///
/// # Safety
/// `bucket` is valid.
#[inline(always)]
pub(super) unsafe fn victim<A: Atomics>(bucket: *mut SignalBucket, now: Tick) -> *mut SignalFlow {
    let (mut at, mut age) = (0, 0);
    for way in 0..SIGNAL_WAYS {
        // SAFETY: the caller's promise.
        let word = unsafe { A::load(&raw const (*bucket.cast::<SignalFlow>().add(way)).word) };
        let silent = stage::worth(word, now);
        if silent > age {
            age = silent;
            at = way;
        }
    }
    // SAFETY: as above.
    unsafe { bucket.cast::<SignalFlow>().add(at & (SIGNAL_WAYS - 1)) }
}
