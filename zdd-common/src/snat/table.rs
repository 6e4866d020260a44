//! The table of mappings, changed by compare-and-swap.
//!
//! A flow's port is looked for in two buckets of its backend's plane. A mapping's key is written while its word says BUSY,
//! and not rewritten before it has been DEAD for longer than any packet can be looking at it: whoever reads a live word may
//! trust the key beside it. Two CPUs that map one flow at a moment see each other's key or BUSY word (each looks after a full
//! barrier), and at most one stays; two flows never get one way, because there is only one compare-and-swap from 0.

use core::hint::black_box;

use crate::atomic::Atomics;
use crate::entries::FlowKey;
use crate::limits::SNAT_WAYS;
use crate::net::Addr;

use super::mapping::{Bucket, Mapping, State};

const WAYS: u32 = SNAT_WAYS as u32;

/// What a look for a flow found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Its mapping, live or dead: in the first or the second bucket, and which way.
    Here(u32, u32, Mapping),
    /// None.
    None,
    /// Somebody is writing one that may be this flow's.
    Busy,
}

/// Way `way` of a bucket, as the verifier sees some way of it: paths on which different ways were found become one again.
#[inline(always)]
unsafe fn word_at(bucket: *mut Bucket, way: u32) -> *mut u64 {
    // SAFETY: the caller's promise; masked to a way; words are the first field.
    unsafe { bucket.cast::<u64>().add((way & (WAYS - 1)) as usize) }
}

/// A field of way `way`.
macro_rules! field {
    ($bucket:expr, $field:ident, $way:expr) => {
        (&raw mut (*$bucket).$field[0]).add(($way & (WAYS - 1)) as usize)
    };
}

#[inline(always)]
unsafe fn has_key<A: Atomics>(bucket: *mut Bucket, way: u32, key: &FlowKey) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let (ports, client) = (field!(bucket, ports, way), field!(bucket, clients, way));
        A::load(ports) == key.ports
            && A::load(&raw const (*client).lo) == key.client.lo
            && A::load(&raw const (*client).hi) == key.client.hi
    }
}

/// Looks a flow up by key and word of the mapping that it would get.
///
/// # Safety
/// Both pointers are valid.
#[inline(always)]
pub unsafe fn find<A: Atomics>(homes: &[*mut Bucket; 2], wanted: &Wanted) -> Found {
    // SAFETY: the caller's promise.
    let at = unsafe { scan::<A>(homes[0], homes[1], wanted) };
    if at >= NOWHERE {
        return if at == NOWHERE { Found::None } else { Found::Busy };
    }
    let (second, way) = ((at & 1) as u32, (at >> 1) as u32 & (WAYS - 1));
    let bucket = if second == 0 { homes[0] } else { homes[1] };
    // SAFETY: as above.
    let word = Mapping(unsafe { A::load(word_at(bucket, way)) });
    // Freed since, which takes the sweep a grace period: asked for the reader's peace.
    if word.is(State::Free) || word.is(State::Busy) { Found::Busy } else { Found::Here(second, way, word) }
}

/// [`scan`] or [`vacancy`] found nothing.
const NOWHERE: u64 = 2 * SNAT_WAYS as u64;
/// [`scan`] found somebody writing.
const WRITING: u64 = NOWHERE + 1;

/// Twice the number of the way that has the key, plus 1 in the second bucket.
#[cfg_attr(target_arch = "bpf", inline(never))]
unsafe fn scan<A: Atomics>(first: *mut Bucket, second: *mut Bucket, wanted: &Wanted) -> u64 {
    let mut none = NOWHERE;
    for at in 0..2 * SNAT_WAYS as u64 {
        let bucket = if at & 1 == 0 { first } else { second };
        let way = (at >> 1) as u32;
        // SAFETY: the caller's promise.
        unsafe {
            let word = Mapping(A::load(word_at(bucket, way)));
            if word.is(State::Free) || !word.resembles(wanted.word) {
                continue;
            }
            if word.is(State::Busy) {
                none = WRITING;
            } else if has_key::<A>(bucket, way, &wanted.key) {
                return at;
            }
        }
    }
    none
}

/// A mapping to be made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Whose.
    pub key: FlowKey,
    /// The address that the client dialled.
    pub vip: Addr,
    /// Its word.
    pub word: Mapping,
    /// The client's sequence number.
    pub reached: u32,
    /// Which way is looked at first: spreads flows over ports.
    pub turn: u32,
}

/// Gives a flow a port, for which [`find`] answered [`Found::None`]: in which bucket, and which way. `None`: there is none left
/// there, or another CPU was quicker.
///
/// # Safety
/// Both pointers are valid.
#[inline(always)]
pub unsafe fn make<A: Atomics>(homes: &[*mut Bucket; 2], wanted: &Wanted) -> Option<(u32, u32)> {
    let busy = wanted.word.with_state(State::Busy);
    // SAFETY: the caller's promise.
    unsafe {
        let at = vacancy::<A>(homes[0], homes[1], wanted.turn);
        if at >= NOWHERE {
            return None;
        }
        let (second, way) = ((at & 1) as u32, (at >> 1) as u32 & (WAYS - 1));
        let bucket = if second == 0 { homes[0] } else { homes[1] };
        let word = word_at(bucket, way);
        if !A::cas(word, 0, busy.0) {
            return None;
        }
        A::store(field!(bucket, ports, way), wanted.key.ports);
        A::store(field!(bucket, reached, way), wanted.reached as u64);
        let (client, vip) = (field!(bucket, clients, way), field!(bucket, vips, way));
        A::store(&raw mut (*client).hi, wanted.key.client.hi);
        A::store(&raw mut (*client).lo, wanted.key.client.lo);
        A::store(&raw mut (*vip).hi, wanted.vip.hi);
        A::store(&raw mut (*vip).lo, wanted.vip.lo);
        // A full barrier between the key's stores and the look for rivals.
        A::cas(word, busy.0, busy.0);
        if rival::<A>(homes[0], homes[1], wanted, at) {
            A::cas(word, busy.0, 0);
            return None;
        }
        if !A::cas(word, busy.0, wanted.word.0) {
            return None;
        }
        Some((second, way))
    }
}

/// A free way of the emptier bucket, as [`scan`] tells it.
#[cfg_attr(target_arch = "bpf", inline(never))]
unsafe fn vacancy<A: Atomics>(first: *mut Bucket, second: *mut Bucket, turn: u32) -> u64 {
    // SAFETY: the caller's promise.
    let fuller = unsafe { used::<A>(first) > used::<A>(second) } as u64;
    let other = if fuller == 0 { first } else { second };
    for at in 0..SNAT_WAYS as u32 {
        let way = at.wrapping_add(turn) & (WAYS - 1);
        // SAFETY: as above.
        if unsafe { A::load(word_at(other, way)) } == 0 {
            return (way as u64) << 1 | fuller;
        }
    }
    NOWHERE
}

/// Ways that are in use, without branches, hidden from the compiler, which would make some: the verifier would follow every
/// combination of them.
#[inline(always)]
unsafe fn used<A: Atomics>(bucket: *mut Bucket) -> u64 {
    let mut used = 0;
    for way in 0..WAYS {
        // SAFETY: the caller's promise.
        let word = black_box(unsafe { A::load(word_at(bucket, way)) });
        used += (word | black_box(word.wrapping_neg())) >> 63;
    }
    used
}

/// Whether a way other than `own` has the flow, or is being written by somebody who may be giving it one.
#[cfg_attr(target_arch = "bpf", inline(never))]
unsafe fn rival<A: Atomics>(first: *mut Bucket, second: *mut Bucket, wanted: &Wanted, own: u64) -> bool {
    for at in 0..2 * SNAT_WAYS as u64 {
        let bucket = if at & 1 == 0 { first } else { second };
        let way = (at >> 1) as u32;
        // In a plane of one bucket both homes are the same.
        if at == own || (first == second && at >> 1 == own >> 1) {
            continue;
        }
        // SAFETY: the caller's promise.
        unsafe {
            let word = Mapping(A::load(word_at(bucket, way)));
            if !word.is(State::Free)
                && word.resembles(wanted.word)
                && (word.is(State::Busy) || has_key::<A>(bucket, way, &wanted.key))
            {
                return true;
            }
        }
    }
    false
}

/// The other end of one of our ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The client's address.
    pub client: Addr,
    /// Its port, network byte order.
    pub client_port: u16,
    /// The address that it dialled.
    pub vip: Addr,
    /// The port that it dialled, network byte order.
    pub vip_port: u16,
    /// Number of the VIP.
    pub vip_id: u16,
}

/// Word, sequence numbers and peer of a way.
///
/// # Safety
/// The pointer is valid.
#[inline(always)]
pub unsafe fn read<A: Atomics>(bucket: *mut Bucket, way: u32) -> (Mapping, u64, Peer) {
    // SAFETY: the caller's promise.
    unsafe {
        let (client, vip) = (field!(bucket, clients, way), field!(bucket, vips, way));
        let word = Mapping(A::load(word_at(bucket, way)));
        let ports = A::load(field!(bucket, ports, way));
        let client = Addr { hi: A::load(&raw const (*client).hi), lo: A::load(&raw const (*client).lo) };
        let vip = Addr { hi: A::load(&raw const (*vip).hi), lo: A::load(&raw const (*vip).lo) };
        let (client_port, vip_port, vip_id) = (ports as u16, (ports >> 16) as u16, (ports >> 32) as u16);
        (word, A::load(field!(bucket, reached, way)), Peer { client, client_port, vip, vip_port, vip_id })
    }
}

/// Compare-and-swap of a way's word.
///
/// # Safety
/// The pointer is valid.
#[inline(always)]
pub unsafe fn update<A: Atomics>(bucket: *mut Bucket, way: u32, old: Mapping, new: Mapping) -> bool {
    // SAFETY: the caller's promise.
    unsafe { A::cas(word_at(bucket, way), old.0, new.0) }
}

/// A way's word.
///
/// # Safety
/// The pointer is valid.
#[inline(always)]
pub unsafe fn word<A: Atomics>(bucket: *mut Bucket, way: u32) -> Mapping {
    // SAFETY: the caller's promise.
    Mapping(unsafe { A::load(word_at(bucket, way)) })
}

/// A way's sequence numbers.
///
/// # Safety
/// The pointer is valid.
#[inline(always)]
pub unsafe fn reached<A: Atomics>(bucket: *mut Bucket, way: u32) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { A::load(field!(bucket, reached, way)) }
}

/// Writes a way's sequence numbers. Of two packets at a moment one wins: they are near each other.
///
/// # Safety
/// The pointer is valid.
#[inline(always)]
pub unsafe fn reach<A: Atomics>(bucket: *mut Bucket, way: u32, reached: u64) {
    // SAFETY: the caller's promise.
    unsafe { A::store(field!(bucket, reached, way), reached) }
}
