//! What a sweep does with entries: found one by one, changed by compare-and-swap, so that whatever a packet did meanwhile wins.

use super::{Beyond, Bucket, NEAR, PORTS, SECOND, Slot, TAG, count, other_home, replace, update};
use crate::atomic::Atomics;
use crate::entries::{FlowKey, Positions, State, Word};
use crate::limits::WAYS;
use crate::net::Addr;
use crate::rules::Sweep;

/// A way of a table.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The table.
    pub table: *mut Bucket,
    /// Buckets of the table, a power of two.
    pub buckets: u32,
    /// Number of the bucket, below that.
    pub index: u32,
    /// Number of the way, below [`WAYS`].
    pub way: usize,
}

impl Place {
    /// # Safety
    /// The table is valid.
    unsafe fn bucket(&self) -> *mut Bucket {
        // SAFETY: the caller's promise; the index is below the number of buckets.
        unsafe { self.table.add(self.index as usize) }
    }

    /// # Safety
    /// The table is valid.
    unsafe fn slot(&self) -> Slot {
        // SAFETY: the caller's promise.
        unsafe { Slot::of(self.bucket(), self.way) }
    }

    /// The word.
    ///
    /// # Safety
    /// The table is valid.
    pub unsafe fn word<A: Atomics>(&self) -> Word {
        // SAFETY: the caller's promise.
        Word(unsafe { A::load(self.slot().0) })
    }

    /// Key of an occupied way.
    ///
    /// # Safety
    /// The table is valid.
    pub unsafe fn key<A: Atomics>(&self) -> FlowKey {
        // SAFETY: the caller's promise.
        unsafe {
            let way = self.slot().way();
            let ports = A::load(&raw const (*way).ports) & PORTS;
            let client =
                Addr { hi: A::load(&raw const (*way).client.hi), lo: A::load(&raw const (*way).client.lo) };
            FlowKey { client, ports }
        }
    }
}

/// Ways of a bucket that may be occupied: a sweep touches lines only for them.
///
/// # Safety
/// The bucket is valid.
pub unsafe fn ways<A: Atomics>(bucket: *const Bucket) -> usize {
    // SAFETY: the caller's promise.
    if unsafe { Beyond::of::<A>(bucket) }.far() == 0 { NEAR } else { WAYS }
}

/// What each bucket's [`Beyond`] should tell, by a look at all entries: for tests.
#[doc(hidden)]
pub fn beyond(table: &[Bucket]) -> Vec<Beyond> {
    let mut all = vec![Beyond::default(); table.len()];
    for (index, bucket) in table.iter().enumerate() {
        for (number, way) in bucket.ways.iter().enumerate().filter(|(_, way)| way.word != 0) {
            all[index].0 += u64::from(number >= NEAR) * Beyond::FAR;
            if way.ports & SECOND != 0 {
                all[other_home(index as u32, way.ports & TAG, table.len() as u32) as usize].0 +=
                    Beyond::SPILLED;
            }
        }
    }
    all
}

/// An entry that counts no longer against the class of number `from`, but against `to`, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recount {
    /// [`Word::class_bits`] before.
    pub from: usize,
    /// And after; none: the way is free.
    pub to: Option<usize>,
}

/// Does with an entry, whose word was `word`, what a rule said. `None`: no count changes, as when a packet came first.
///
/// # Safety
/// The table is valid, and no packet is looking at an entry that is freed.
pub unsafe fn apply<A: Atomics>(place: &Place, word: Word, fate: Sweep) -> Option<Recount> {
    let from = word.class_bits().min(2);
    // SAFETY: the caller's promise.
    unsafe {
        let slot = place.slot();
        match fate {
            Sweep::Keep => None,
            Sweep::Word(new) => {
                update::<A>(slot, word, new);
                None
            }
            Sweep::Restore(new) => {
                let alt = Positions(A::load(slot.positions())).alt();
                let to = new.class_bits().min(2);
                (replace::<A>(slot, word, new, Positions::new(alt, alt)) && to != from)
                    .then_some(Recount { from, to: Some(to) })
            }
            Sweep::Free => {
                (free::<A>(place, word) && !word.is(State::Busy)).then_some(Recount { from, to: None })
            }
        }
    }
}

/// Frees a way, if its word is still `word`.
unsafe fn free<A: Atomics>(place: &Place, word: Word) -> bool {
    // SAFETY: the callers' promise; the other bucket's number is below theirs as well.
    unsafe {
        let slot = place.slot();
        // Read before the way is another's.
        let ports = A::load(&raw const (*slot.way()).ports);
        if !update::<A>(slot, word, Word::default()) {
            return false;
        }
        // Of one that is busy the key may be the former entry's. It is not counted off, which costs looks and hides nothing.
        if !word.is(State::Busy) {
            let spilled = ports & SECOND;
            let first =
                if spilled == 0 { place.index } else { other_home(place.index, ports & TAG, place.buckets) };
            count::<A>(place.bucket(), place.table.add(first as usize), place.way >= NEAR, spilled, u64::MAX);
        }
        true
    }
}
