//! The flow table: an array of buckets of four ways, each key in one of two buckets, changed by compare-and-swap.
//!
//! Nothing is evicted. An entry's key is written while its word says BUSY and is not rewritten before the entry has been
//! DEAD, then FREE, for longer than any packet can be looking at it (the sweep's grace period); so whoever reads a live
//! word may trust the key beside it. A BPF hash map recycles elements under a reader, which is why this is an array.
//!
//! A packet waits longest for lines of this table, so it touches few: one for most entries, and one for a flow that has none.
//! Key, word and positions of a bucket's first way share its first line, with word and ports of the second; [`Beyond`], there too,
//! tells whether there is anything further away that a look could miss.

#[cfg(any(test, feature = "std"))]
mod sweep;

#[cfg(any(test, feature = "std"))]
pub use sweep::{Place, Recount, apply, beyond, ways};

use core::hint::black_box;

use crate::atomic::Atomics;
use crate::entries::{FlowKey, Positions, State, Word};
use crate::limits::WAYS;
use crate::net::Addr;
use crate::tables::Found;

/// One entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Way {
    /// [`Word`].
    pub word: u64,
    /// [`FlowKey::ports`], with a [`tag`] in bits 48-63.
    pub ports: u64,
    /// [`FlowKey::client`].
    pub client: Addr,
    /// [`Positions`].
    pub positions: u64,
    /// Of a bucket's first way: [`Beyond`]; of others 0.
    pub beyond: u64,
}

impl Way {
    /// Key of an occupied way.
    pub const fn key(&self) -> FlowKey {
        FlowKey { client: self.client, ports: self.ports & PORTS }
    }
}

wire!(Way, 48, { word: u64, ports: u64, client: Addr, positions: u64, beyond: u64 });

/// Four entries.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Bucket {
    /// The first two are near: whether they have a key is told by the bucket's first line.
    pub ways: [Way; WAYS],
}
wire!(Bucket, 192, { ways: [Way; WAYS] });

/// Ways of which the first line holds word and ports.
const NEAR: usize = 2;
const _: () = assert!((NEAR - 1) * size_of::<Way>() + core::mem::offset_of!(Way, client) == 64);

/// What a look at a bucket's near ways does not tell. Never less than there is: counted before an entry is made, and counted off
/// after it was freed. Too much, as after the death of an agent in between, costs looks.
///
/// Bits 0-31: entries in this bucket's other ways. 32-62: entries whose first bucket this is and that lie in their second. 63: 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Beyond(pub u64);

impl Beyond {
    /// One more in the bucket's far ways.
    const FAR: u64 = 1;
    /// One more in another bucket.
    const SPILLED: u64 = 1 << 32;

    /// Entries in far ways.
    #[inline(always)]
    pub const fn far(self) -> u32 {
        self.0 as u32
    }

    /// Entries in their second bucket.
    #[inline(always)]
    pub const fn spilled(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// # Safety
    /// The bucket is valid.
    #[inline(always)]
    unsafe fn of<A: Atomics>(bucket: *const Bucket) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { A::load(&raw const (*bucket).ways[0].beyond) })
    }
}

/// A flow entry in a mapped bucket: the address of its way, which begins with its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(*mut u64);

impl Default for Slot {
    fn default() -> Self {
        NO_SLOT
    }
}

/// No entry.
const NO_SLOT: Slot = Slot(core::ptr::null_mut());

impl Slot {
    /// Way `way` of a bucket.
    ///
    /// # Safety
    /// `bucket` is valid for as long as the slot is used.
    #[inline(always)]
    pub unsafe fn of(bucket: *mut Bucket, way: usize) -> Self {
        // SAFETY: the caller's promise; ways begin with their word.
        Self(unsafe { bucket.cast::<Way>().add(way) }.cast())
    }

    #[inline(always)]
    fn way(self) -> *mut Way {
        self.0.cast()
    }

    #[inline(always)]
    fn positions(self) -> *mut u64 {
        // SAFETY: a slot is the address of a way.
        unsafe { &raw mut (*self.way()).positions }
    }
}

/// Buckets of a table for so many entries. Not each of them finds a place: a bucket may be full before the table is.
pub const fn buckets_for(entries: u32) -> u32 {
    let buckets = entries / WAYS as u32;
    if buckets < 1 { 1 } else { buckets.next_power_of_two() }
}

/// The two buckets of a hash in a table of `buckets` (a power of two).
#[inline(always)]
pub const fn homes(table_hash: u64, buckets: u32) -> (u32, u32) {
    let first = table_hash as u32 & (buckets - 1);
    (first, other_home(first, tag(table_hash), buckets))
}

/// Bits of [`Way::ports`] that are the key's.
const PORTS: u64 = 0xffff_ffff_ffff;
/// Bit of a tag: the entry lies in its second bucket.
const SECOND: u64 = 1 << 48;
/// Bits of a tag without it.
const TAG: u64 = 0xfffe << 48;

/// What an entry keeps of its flow's hash, in bits 49-63: besides telling keys apart it tells one of the two buckets from the other, so
/// that a sweep need not hash (Fan, Andersen, Kaminsky, "MemC3", NSDI 2013, 3.2: partial-key cuckoo hashing).
#[inline(always)]
const fn tag(table_hash: u64) -> u64 {
    table_hash & TAG
}

/// The other of the two buckets of an entry with such a tag.
#[inline(always)]
const fn other_home(home: u32, tag: u64, buckets: u32) -> u32 {
    // Odd, so never the same bucket twice while there is more than one: two locks on one door help nobody.
    let step = ((tag >> 49) as u32).wrapping_mul(0x9E37_79B1) >> 8 | 1;
    (home ^ step) & (buckets - 1)
}

#[inline(always)]
const fn tagged(key: &FlowKey, table_hash: u64) -> u64 {
    key.ports & PORTS | tag(table_hash)
}

#[inline(always)]
unsafe fn matches<A: Atomics>(bucket: *const Bucket, way: usize, key: &FlowKey, ports: u64) -> bool {
    // SAFETY: the callers pass valid buckets and ways below WAYS.
    unsafe {
        let way = &raw const (*bucket).ways[way];
        A::load(&raw const (*way).ports) == ports
            && A::load(&raw const (*way).client.lo) == key.client.lo
            && A::load(&raw const (*way).client.hi) == key.client.hi
    }
}

/// Has what [`find`] touches first fetched, and, if the flow is `new`, [`insert`], without waiting for it: loads whose values nobody wants.
/// Most entries lie in their first bucket, and to ask for the second as well would drive twice as much out of the caches.
///
/// # Safety
/// Both pointers are valid.
#[inline(always)]
pub unsafe fn expect<A: Atomics>(buckets: &[*mut Bucket; 2], new: bool) {
    let first = buckets[0];
    // SAFETY: the caller's promise.
    unsafe {
        A::load(&raw const (*first).ways[0].word);
        if new {
            // Of the second way. Else the barrier of the insertion would wait for it.
            A::load(&raw const (*first).ways[1].client.lo);
        }
    }
}

/// Looks a key up in its two buckets.
///
/// # Safety
/// Both pointers are valid.
#[inline(always)]
pub unsafe fn find<A: Atomics>(buckets: &[*mut Bucket; 2], key: &FlowKey, table_hash: u64) -> Found<Slot> {
    let mut hit = Hit { slot: Slot::default(), word: 0, positions: 0 };
    // Once more and volatile: the compiler clears the structure by a loop over bytes, after which the verifier no longer
    // knows the pointer as null.
    // SAFETY: a reference is valid.
    unsafe { (&raw mut hit.slot).write_volatile(Slot::default()) };
    // SAFETY: the caller's promise.
    let state = unsafe { scan::<A>(buckets, key, table_hash, &mut hit) };
    // Asked of the pointer itself: the verifier does not tie it to the number.
    if hit.slot.0.is_null() {
        return if state == BUSY { Found::Busy } else { Found::None };
    }
    match state {
        LIVE => Found::Live(hit.slot, Word(hit.word), Positions(hit.positions)),
        DEAD => Found::Dead(hit.slot, Word(hit.word)),
        _ => Found::Busy,
    }
}

/// Looks where most entries lie: at one of the first two ways of the key's first bucket. What is found there, if word and positions belong
/// together; else a word that is FREE, which says nothing about the key.
///
/// # Safety
/// Both pointers are valid.
#[inline(always)]
pub unsafe fn glance<A: Atomics>(
    [first, second]: &[*mut Bucket; 2],
    key: &FlowKey,
    table_hash: u64,
) -> (Slot, Word, Positions) {
    let ports = tagged(key, table_hash);
    let (first, second) = (*first, *second);
    // SAFETY: the caller's promise; the way is 0 or 1.
    unsafe {
        let none = (Slot::default(), Word::default(), Positions::default());
        let [one, other] = [0, 1].map(|way| A::load(&raw const (*first).ways[way].ports) ^ ports);
        // What follows may lie in the next line.
        if one != 0 && other != 0 {
            // Where it lies then, for find: loads whose values nobody wants.
            let beyond = Beyond::of::<A>(first);
            if beyond.far() != 0 {
                A::load(&raw const (*first).ways[NEAR].ports);
            }
            if beyond.spilled() != 0 {
                A::load(&raw const (*second).ways[0].ports);
            }
            return none;
        }
        // By arithmetic: the verifier would follow all that comes after once for each way.
        let way = (black_box(one | one.wrapping_neg()) >> 63) as usize;
        let slot = Slot::of(first, way);
        let mut word = Word(A::load(slot.0));
        let at = slot.way();
        let its = A::load(&raw const (*at).ports) ^ ports
            | A::load(&raw const (*at).client.lo) ^ key.client.lo
            | A::load(&raw const (*at).client.hi) ^ key.client.hi;
        let positions = Positions(A::load(slot.positions()));
        if its | A::load(slot.0) ^ word.0 != 0 {
            word = Word::default();
        }
        (slot, word, positions)
    }
}

const NONE: u64 = 0;
const LIVE: u64 = 1;
const DEAD: u64 = 2;
const BUSY: u64 = 3;

/// What [`scan`] found.
struct Hit {
    slot: Slot,
    word: u64,
    positions: u64,
}

/// Way `way` of `bucket`, for the verifier some way of it: the paths on which this or that way was found become one path
/// again, where it would otherwise follow all that comes after once for each way. `zero`: loaded from a bucket.
#[inline(always)]
unsafe fn some_way(bucket: *mut Bucket, way: usize, zero: u64) -> (Slot, usize) {
    let way = way.wrapping_add(zero as usize) & (WAYS - 1);
    // SAFETY: the caller's promise; the sum is masked to a way.
    (unsafe { Slot::of(bucket, way) }, way)
}

/// [`find`], answering in a number and through a reference: in the kernel a function of its own, and the verifier takes no
/// returned stack pointer.
#[cfg_attr(target_arch = "bpf", inline(never))]
unsafe fn scan<A: Atomics>(buckets: &[*mut Bucket; 2], key: &FlowKey, table_hash: u64, hit: &mut Hit) -> u64 {
    let mut ports = tagged(key, table_hash);
    let mut none = NONE;
    let mut found = None;
    'search: for bucket in *buckets {
        let mut beyond = Beyond::default();
        for way in 0..WAYS {
            if way == NEAR {
                // SAFETY: the caller's promise.
                beyond = unsafe { Beyond::of::<A>(bucket) };
                if beyond.far() == 0 {
                    break;
                }
            }
            // SAFETY: as above.
            let word = Word(unsafe { A::load(&raw const (*bucket).ways[way].word) });
            if word.is(State::Busy) {
                none = BUSY;
            } else if !word.is(State::Free)
                // SAFETY: as above.
                && unsafe { matches::<A>(bucket, way, key, ports) }
            {
                found = Some((bucket, way));
                break 'search;
            }
        }
        if beyond.spilled() == 0 {
            break;
        }
        ports |= SECOND;
    }
    let Some((bucket, way)) = found else { return none };
    // SAFETY: the caller's promise.
    unsafe {
        hit.slot = some_way(bucket, way, Beyond::of::<A>(bucket).0 >> 63).0;
        read_together::<A>(Word(A::load(hit.slot.0)), hit)
    }
}

/// Reads word and positions that belong together: positions change their meaning only while the word is PENDING or
/// BUSY, so a word that is the same before and after vouches for the positions between.
#[inline(always)]
unsafe fn read_together<A: Atomics>(mut word: Word, hit: &mut Hit) -> u64 {
    for _ in 0..2 {
        // Freed, and perhaps another's already, since the key was compared: that takes the sweep two grace periods, so
        // it is only asked for the verifier's and the reader's peace.
        if word.is(State::Busy) || word.is(State::Free) {
            return BUSY;
        }
        hit.word = word.0;
        if !word.live() {
            return DEAD;
        }
        // SAFETY: the caller's promise.
        hit.positions = unsafe { A::load(hit.slot.positions()) };
        // SAFETY: as above.
        let again = Word(unsafe { A::load(hit.slot.0) });
        if again.0 == word.0 {
            return LIVE;
        }
        word = again;
    }
    // Changed twice under our eyes: steer by its backend and change nothing.
    hit.word = word.with_state(State::Pending).0;
    LIVE
}

/// Makes an entry. See [`crate::tables::SteerTables::insert`].
///
/// # Safety
/// Both pointers are valid.
#[inline(always)]
pub unsafe fn insert<A: Atomics>(
    buckets: &[*mut Bucket; 2],
    key: &FlowKey,
    table_hash: u64,
    word: Word,
    positions: Positions,
) -> bool {
    let [first, second] = *buckets;
    let ports = tagged(key, table_hash);
    let busy = word.with_state(State::Busy);
    // SAFETY: the caller's promise; vacancy's answer is masked to a way.
    unsafe {
        let home = vacancy::<A>(first, second);
        if home == NOWHERE {
            return false;
        }
        let spilled = home & 1;
        let bucket = if spilled == 0 { first } else { second };
        let way = (home >> 1) as usize & (WAYS - 1);
        // A free word is 0. One that is no longer free names another way, which is free as well, or is refused like this one.
        let (slot, way) = some_way(bucket, way, A::load(&raw const (*bucket).ways[way].word));
        // Before anything of the entry can be seen.
        let far = way >= NEAR;
        count::<A>(bucket, first, far, spilled, 1);
        if !A::cas(slot.0, 0, busy.0) {
            count::<A>(bucket, first, far, spilled, u64::MAX);
            return false;
        }
        A::store(&raw mut (*slot.way()).ports, ports | (spilled * SECOND));
        A::store(&raw mut (*slot.way()).client.hi, key.client.hi);
        A::store(&raw mut (*slot.way()).client.lo, key.client.lo);
        A::store(slot.positions(), positions.0);
        // A full barrier between the key's stores and the look for rivals: of two inserters of one key, at least one
        // sees the other's key.
        A::cas(slot.0, busy.0, busy.0);
        if rival::<A>(first, slot, key, ports)
            || Beyond::of::<A>(first).spilled() != 0 && rival::<A>(second, slot, key, ports | SECOND)
        {
            A::cas(slot.0, busy.0, 0);
            count::<A>(bucket, first, far, spilled, u64::MAX);
            return false;
        }
        A::cas(slot.0, busy.0, word.0)
    }
}

/// Counts an entry in what lies beyond: `times` 1, or -1 in two's complement, for an entry in a far way of `bucket`, and for one that
/// lies there although `first` was its first bucket.
///
/// # Safety
/// Both pointers are valid.
#[inline(always)]
unsafe fn count<A: Atomics>(bucket: *mut Bucket, first: *mut Bucket, far: bool, spilled: u64, times: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        if far {
            A::add(&raw mut (*bucket).ways[0].beyond, Beyond::FAR.wrapping_mul(times));
        }
        if spilled != 0 {
            A::add(&raw mut (*first).ways[0].beyond, Beyond::SPILLED.wrapping_mul(times));
        }
    }
}

/// The order in which [`vacancy`] looks: twice the way, plus 1 in the second bucket.
const ORDER: [u64; 2 * WAYS] = [0, 2, 1, 3, 4, 5, 6, 7];

/// [`vacancy`] found nothing.
const NOWHERE: u64 = 2 * WAYS as u64;

/// A free way: twice its number, plus 1 in the second bucket. The first two ways of the first bucket come first, for most entries are
/// then found at the first look; from then on level by level, so that both buckets fill alike (two random choices) without counting: the
/// verifier would follow every combination of counts.
#[cfg_attr(target_arch = "bpf", inline(never))]
unsafe fn vacancy<A: Atomics>(first: *mut Bucket, second: *mut Bucket) -> u64 {
    for step in ORDER {
        let (way, bucket) = ((step >> 1) as usize, if step & 1 == 0 { first } else { second });
        // SAFETY: the caller's promise; the order names ways below WAYS.
        if Word(unsafe { A::load(&raw const (*bucket).ways[way].word) }).is(State::Free) {
            return step;
        }
    }
    NOWHERE
}

/// Whether a way of a bucket, other than `own`, holds the key in any state but FREE.
#[cfg_attr(target_arch = "bpf", inline(never))]
unsafe fn rival<A: Atomics>(bucket: *mut Bucket, own: Slot, key: &FlowKey, ports: u64) -> bool {
    for way in 0..WAYS {
        // SAFETY: the caller's promise.
        unsafe {
            if way == NEAR && Beyond::of::<A>(bucket).far() == 0 {
                break;
            }
            if Slot::of(bucket, way) != own
                && !Word(A::load(&raw const (*bucket).ways[way].word)).is(State::Free)
                && matches::<A>(bucket, way, key, ports)
            {
                return true;
            }
        }
    }
    false
}

/// Compare-and-swap of an entry's word.
///
/// # Safety
/// The slot's bucket is valid.
#[inline(always)]
pub unsafe fn update<A: Atomics>(slot: Slot, old: Word, new: Word) -> bool {
    // SAFETY: the caller's promise.
    unsafe { A::cas(slot.0, old.0, new.0) }
}

/// Compare-and-swap of an entry's positions.
///
/// # Safety
/// The slot's bucket is valid.
#[inline(always)]
pub unsafe fn advance<A: Atomics>(slot: Slot, old: Positions, new: Positions) {
    // SAFETY: the caller's promise.
    unsafe {
        A::cas(slot.positions(), old.0, new.0);
    }
}

/// Replaces word and positions. See [`crate::tables::SteerTables::replace`].
///
/// # Safety
/// The slot's bucket is valid.
#[inline(always)]
pub unsafe fn replace<A: Atomics>(slot: Slot, old: Word, new: Word, positions: Positions) -> bool {
    let between = if old.live() {
        // Whoever comes by meanwhile goes to the one identity that lasts: the old one, which is the new word's alt.
        Word::new(State::Pending, crate::entries::Class::Half, new.alt(), new.alt(), new.seen())
    } else {
        old.with_state(State::Busy)
    };
    // SAFETY: the caller's promise.
    unsafe {
        if !A::cas(slot.0, old.0, between.0) {
            return false;
        }
        // Nobody changes positions now but a packet that read the old word before: at most once each.
        A::store(slot.positions(), positions.0);
        A::cas(slot.0, between.0, new.0)
    }
}

/// Hash for the table, from the flow's hash, which is mixed already, and the VIP's number. The multiplication does not wait for the flow.
#[inline(always)]
pub const fn table_hash(flow: u64, vip: u16) -> u64 {
    flow ^ (0x5ca1_ab1e_0000_0000 | vip as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod races;

#[cfg(test)]
mod tests;
