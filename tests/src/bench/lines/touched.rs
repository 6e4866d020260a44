//! What the packet at hand has touched so far. Of a thread: operations on words have nobody to hand it to them.

use std::cell::RefCell;
use std::collections::BTreeSet;

use zdd_common::atomic::{Atomics, Host};

use super::Lines;

const LINE: u64 = 64;

/// What a packet touched; as a sum, what many did.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Map, and line of its values; the map of words that atomic operations touched is empty: their line is that of their address,
    /// which is aligned here as there.
    maps: BTreeSet<(&'static str, u64)>,
    frame: BTreeSet<u64>,
    counters: usize,
    lookups: usize,
    sums: [usize; 4],
}

impl Touched {
    pub(super) fn add(&mut self, other: &Self) {
        let more = [other.maps.len(), other.frame.len(), other.counters, other.lookups];
        for (sum, more) in self.sums.iter_mut().zip(more) {
            *sum += more;
        }
    }

    pub(super) fn mean(&self, packets: u32) -> Lines {
        let [maps, frame, counters, lookups] = self.sums.map(|sum| sum as f64 / f64::from(packets));
        Lines { maps, frame, counters, lookups }
    }
}

thread_local! {
    static NOW: RefCell<Touched> = RefCell::default();
}

fn note(with: impl FnOnce(&mut Touched)) {
    NOW.with(|now| with(&mut now.borrow_mut()));
}

/// A packet begins.
pub(super) fn begin() {
    note(|now| *now = Touched::default());
}

/// What it touched.
pub(super) fn end() -> Touched {
    NOW.with(RefCell::take)
}

/// Bytes of a map's values, from an offset on.
pub(super) fn value(map: &'static str, offset: usize, bytes: usize) {
    let lines = offset as u64 / LINE..=(offset + bytes - 1) as u64 / LINE;
    note(|now| now.maps.extend(lines.map(|line| (map, line))));
}

/// Bytes of the frame, by their place in the page that it lies in.
pub(super) fn frame(offset: usize, bytes: usize) {
    let lines = offset as u64 / LINE..=(offset + bytes.max(1) - 1) as u64 / LINE;
    note(|now| now.frame.extend(lines));
}

/// A value in per-CPU memory.
pub(super) fn counter() {
    note(|now| now.counters += 1);
}

/// A lookup in a hash table or trie of the kernel's.
pub(super) fn lookup() {
    note(|now| now.lookups += 1);
}

/// Operations on words that are written down.
pub(super) struct Words;

fn word(at: *const u64) {
    note(|now| {
        now.maps.insert(("", at.addr() as u64 / LINE));
    });
}

impl Atomics for Words {
    unsafe fn load(at: *const u64) -> u64 {
        word(at);
        // SAFETY: the caller's promise.
        unsafe { Host::load(at) }
    }

    unsafe fn store(at: *mut u64, value: u64) {
        word(at);
        // SAFETY: the caller's promise.
        unsafe { Host::store(at, value) };
    }

    unsafe fn cas(at: *mut u64, old: u64, new: u64) -> bool {
        word(at);
        // SAFETY: the caller's promise.
        unsafe { Host::cas(at, old, new) }
    }

    unsafe fn or(at: *mut u64, bits: u64) -> u64 {
        word(at);
        // SAFETY: the caller's promise.
        unsafe { Host::or(at, bits) }
    }

    unsafe fn add(at: *mut u64, value: u64) -> u64 {
        word(at);
        // SAFETY: the caller's promise.
        unsafe { Host::add(at, value) }
    }
}
