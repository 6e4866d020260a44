//! Two CPUs in one thread, in an order of the test's choice: between two operations of the one, all that the other does.

use std::cell::RefCell;

use super::{Atomics, Host};

/// What the other CPU does, and before which operation of the one.
struct Other {
    before: usize,
    does: Option<Box<dyn FnOnce()>>,
}

thread_local! {
    static OTHER: RefCell<Option<Other>> = const { RefCell::new(None) };
}

/// [`Host`]'s operations, before one of which another CPU's may come: see [`with`].
pub(crate) struct Interrupted;

/// Does `one`, and before its operation number `before`, from 0, all that the `other` does. Whether it had as many operations.
pub(crate) fn with<R>(before: usize, other: impl FnOnce() + 'static, one: impl FnOnce() -> R) -> (R, bool) {
    OTHER.set(Some(Other { before, does: Some(Box::new(other)) }));
    let done = one();
    (done, OTHER.take().is_some_and(|other| other.does.is_none()))
}

/// An operation of either comes next; the other's are not interrupted.
fn next() {
    let does = OTHER.with_borrow_mut(|other| {
        let other = other.as_mut()?;
        match other.before.checked_sub(1) {
            Some(left) => {
                other.before = left;
                None
            }
            None => other.does.take(),
        }
    });
    if let Some(does) = does {
        does();
    }
}

impl Atomics for Interrupted {
    unsafe fn load(word: *const u64) -> u64 {
        next();
        // SAFETY: the caller's promise.
        unsafe { Host::load(word) }
    }

    unsafe fn store(word: *mut u64, value: u64) {
        next();
        // SAFETY: the caller's promise.
        unsafe { Host::store(word, value) };
    }

    unsafe fn cas(word: *mut u64, old: u64, new: u64) -> bool {
        next();
        // SAFETY: the caller's promise.
        unsafe { Host::cas(word, old, new) }
    }

    unsafe fn or(word: *mut u64, bits: u64) -> u64 {
        next();
        // SAFETY: the caller's promise.
        unsafe { Host::or(word, bits) }
    }

    unsafe fn add(word: *mut u64, value: u64) -> u64 {
        next();
        // SAFETY: the caller's promise.
        unsafe { Host::add(word, value) }
    }
}
