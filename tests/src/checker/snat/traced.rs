//! Operations on mappings, one at a time.
//!
//! A packet that stays inside the program between two operations is not kept on a stack of its own: it is run again from its first byte,
//! told what its operations told it before, allowed one more on the memory as it is now, and what comes after that is thrown away.
//! So the code that is stepped through is the code of the packets, and a state stays a plain value.

use std::cell::RefCell;

use zdd_common::atomic::{Atomics, Host};
use zdd_common::snat::mapping::Bucket;

use super::state::{Mid, OPERATIONS};

/// [`Host`]'s operations, each of them a step if a [`Script`] is being followed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traced;

/// What a packet has been told, and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    mid: Mid,
    /// Where the table begins.
    table: usize,
    /// Bucket and way of the ports that are given out. What others hold never changes: no step.
    open: [Option<(usize, usize)>; 2],
    at: usize,
    stepped: bool,
    /// It wanted more than one step.
    more: bool,
    /// Between the barrier and the next compare-and-swap.
    looks: bool,
    /// The rule that it looks for rivals is taken out.
    rivals_unseen: bool,
}

thread_local! {
    static SCRIPT: RefCell<Option<Script>> = const { RefCell::new(None) };
}

impl Script {
    /// One more step of a packet over a table.
    pub fn new(
        mid: &Mid,
        table: *const Bucket,
        open: [Option<(usize, usize)>; 2],
        rivals_unseen: bool,
    ) -> Self {
        Self {
            mid: *mid,
            table: table.addr(),
            open,
            at: 0,
            stepped: false,
            more: false,
            looks: false,
            rivals_unseen,
        }
    }

    /// Runs with this script; answers what the packet has been told then, and whether it came to its end.
    pub fn follow<R>(self, run: impl FnOnce() -> R) -> (R, Mid, bool) {
        SCRIPT.replace(Some(self));
        let done = run();
        let script = SCRIPT.take().expect("set above");
        (done, script.mid, !script.more)
    }

    fn is_open(&self, word: *const u64) -> bool {
        let offset = word.addr() - self.table;
        let (bucket, within) = (offset / size_of::<Bucket>(), offset % size_of::<Bucket>() / 8);
        // Three fields of 8 words, then two of 8 addresses.
        let way = if within < 24 { within % 8 } else { (within - 24) % 16 / 2 };
        self.open.contains(&Some((bucket, way)))
    }

    fn is_word(&self, word: *const u64) -> bool {
        (word.addr() - self.table) % size_of::<Bucket>() < 64
    }

    /// What one operation tells.
    fn tell(&mut self, timed: bool, act: impl FnOnce() -> u64) -> u64 {
        if self.at < usize::from(self.mid.len) {
            self.at += 1;
            return self.mid.log[self.at - 1];
        }
        if self.stepped {
            self.more = true;
            return 0;
        }
        assert!(self.at < OPERATIONS, "a packet that does not come to an end");
        let told = act();
        self.mid.log[self.at] = told;
        self.mid.words |= u64::from(timed) << self.at;
        self.mid.len += 1;
        self.at += 1;
        self.stepped = true;
        told
    }
}

/// Performs an operation: at once, or as a script has it.
fn operate(word: *const u64, act: impl FnOnce() -> u64) -> u64 {
    SCRIPT.with_borrow_mut(|script| match script {
        Some(script) if script.is_open(word) => script.tell(script.is_word(word), act),
        _ => act(),
    })
}

impl Atomics for Traced {
    unsafe fn load(word: *const u64) -> u64 {
        let blind = |script: &Script| script.is_word(word) && script.looks && script.rivals_unseen;
        if SCRIPT.with_borrow(|script| script.as_ref().is_some_and(blind)) {
            return 0;
        }
        // SAFETY: the caller's promise.
        operate(word, || unsafe { Host::load(word) })
    }

    unsafe fn store(word: *mut u64, value: u64) {
        operate(word, || {
            // SAFETY: the caller's promise.
            unsafe { Host::store(word, value) };
            0
        });
    }

    unsafe fn cas(word: *mut u64, old: u64, new: u64) -> bool {
        let swap = || {
            // SAFETY: the caller's promise.
            u64::from(unsafe { Host::cas(word, old, new) })
        };
        let done = SCRIPT.with_borrow_mut(|script| match script {
            Some(script) if script.is_open(word) => {
                script.looks = old == new;
                script.tell(false, swap)
            }
            _ => swap(),
        });
        done != 0
    }

    unsafe fn or(word: *mut u64, bits: u64) -> u64 {
        // SAFETY: the caller's promise.
        operate(word, || unsafe { Host::or(word, bits) })
    }

    unsafe fn add(word: *mut u64, value: u64) -> u64 {
        // SAFETY: the caller's promise.
        operate(word, || unsafe { Host::add(word, value) })
    }
}
