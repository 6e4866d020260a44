//! The flow table: an array of buckets of four ways, each key in one of two buckets, changed by compare-and-swap.
//!
//! Nothing is evicted. An entry's key is written while its word says BUSY and is not rewritten before the entry has been
//! DEAD, then FREE, for longer than any packet can be looking at it (the sweep's grace period); so whoever reads a live
//! word may trust the key beside it. A BPF hash map recycles elements under a reader, which is why this is an array.
//!
//! Within a bucket the words and ports of all ways share the first cache line: a miss touches one line per bucket.

use crate::atomic::Atomics;
use crate::entries::{FlowKey, Positions, State, Word};
use crate::limits::WAYS;
use crate::net::Addr;
use crate::tables::Found;

/// Four entries, laid out by field.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Bucket {
    /// [`Word`] of each way.
    pub words: [u64; WAYS],
    /// [`FlowKey::ports`] of each way, with a tag of the hash in bits 48-63.
    pub ports: [u64; WAYS],
    /// [`FlowKey::client`] of each way.
    pub clients: [Addr; WAYS],
    /// [`Positions`] of each way.
    pub positions: [u64; WAYS],
    /// 0: a bucket begins on a cache line.
    pub reserved: [u64; WAYS],
}
wire!(Bucket, 192, {
    words: [u64; WAYS], ports: [u64; WAYS], clients: [Addr; WAYS], positions: [u64; WAYS], reserved: [u64; WAYS],
});

/// Distance in words from an entry's word to its positions.
const TO_POSITIONS: usize = core::mem::offset_of!(Bucket, positions) / 8;
const _: () = assert!(core::mem::offset_of!(Bucket, words) == 0);

/// A flow entry in a mapped bucket: the address of its word.
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
        // SAFETY: words are the first field.
        Self(unsafe { bucket.cast::<u64>().add(way) })
    }

    #[inline(always)]
    fn positions(self) -> *mut u64 {
        // SAFETY: stays within the bucket, see TO_POSITIONS.
        unsafe { self.0.add(TO_POSITIONS) }
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
    let mask = buckets - 1;
    let first = table_hash as u32 & mask;
    // Never the same bucket twice while there is more than one: two locks on one door help nobody.
    let step = ((table_hash >> 32) as u32 & mask) | 1;
    (first, (first ^ step) & mask)
}

#[inline(always)]
const fn tagged(key: &FlowKey, table_hash: u64) -> u64 {
    key.ports & 0xffff_ffff_ffff | table_hash & 0xffff << 48
}

/// Key of an occupied way, for the sweep.
///
/// # Safety
/// `bucket` is valid.
pub unsafe fn key_at<A: Atomics>(bucket: *const Bucket, way: usize) -> FlowKey {
    // SAFETY: the caller's promise; way is below WAYS by the index check.
    unsafe {
        let ports = A::load(&raw const (*bucket).ports[way]) & 0xffff_ffff_ffff;
        let client = Addr {
            hi: A::load(&raw const (*bucket).clients[way].hi),
            lo: A::load(&raw const (*bucket).clients[way].lo),
        };
        FlowKey { client, ports }
    }
}

#[inline(always)]
unsafe fn matches<A: Atomics>(bucket: *const Bucket, way: usize, key: &FlowKey, ports: u64) -> bool {
    // SAFETY: the callers pass valid buckets and ways below WAYS.
    unsafe {
        A::load(&raw const (*bucket).ports[way]) == ports
            && A::load(&raw const (*bucket).clients[way].lo) == key.client.lo
            && A::load(&raw const (*bucket).clients[way].hi) == key.client.hi
    }
}

/// Has what [`find`] touches fetched, and, if the flow is `new`, [`insert`], without waiting for it: loads whose values nobody wants. Most
/// entries lie in their first bucket.
///
/// # Safety
/// Both pointers are valid.
#[inline(always)]
pub unsafe fn expect<A: Atomics>(buckets: &[*mut Bucket; 2], new: bool) {
    let [first, second] = *buckets;
    // SAFETY: the caller's promise.
    unsafe {
        A::load(&raw const (*first).words[0]);
        A::load(&raw const (*second).words[0]);
        A::load(&raw const (*first).clients[0].hi);
        A::load(&raw const (*first).positions[0]);
        if new {
            A::load(&raw const (*second).clients[0].hi);
            A::load(&raw const (*second).positions[0]);
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
    let ports = tagged(key, table_hash);
    let mut none = NONE;
    let mut found = None;
    'search: for bucket in *buckets {
        for way in 0..WAYS {
            // SAFETY: the caller's promise.
            let word = Word(unsafe { A::load(&raw const (*bucket).words[way]) });
            if word.is(State::Busy) {
                none = BUSY;
            } else if !word.is(State::Free)
                // SAFETY: the caller's promise.
                && unsafe { matches::<A>(bucket, way, key, ports) }
            {
                found = Some((bucket, way));
                break 'search;
            }
        }
    }
    let Some((bucket, way)) = found else { return none };
    // SAFETY: the caller's promise.
    unsafe {
        hit.slot = some_way(bucket, way, A::load(&raw const (*bucket).reserved[0])).0;
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
        let bucket = if home & 1 == 0 { first } else { second };
        let way = (home >> 1) as usize & (WAYS - 1);
        // A free word is 0. One that is no longer free names another way, which is free as well, or is refused like this one.
        let (slot, way) = some_way(bucket, way, A::load(&raw const (*bucket).words[way]));
        if !A::cas(slot.0, 0, busy.0) {
            return false;
        }
        A::store(&raw mut (*bucket).ports[way], ports);
        A::store(&raw mut (*bucket).clients[way].hi, key.client.hi);
        A::store(&raw mut (*bucket).clients[way].lo, key.client.lo);
        A::store(slot.positions(), positions.0);
        // A full barrier between the key's stores and the look for rivals: of two inserters of one key, at least one
        // sees the other's key.
        A::cas(slot.0, busy.0, busy.0);
        if rival::<A>(first, slot, key, ports) || rival::<A>(second, slot, key, ports) {
            A::cas(slot.0, busy.0, 0);
            return false;
        }
        A::cas(slot.0, busy.0, word.0)
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
        if Word(unsafe { A::load(&raw const (*bucket).words[way]) }).is(State::Free) {
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
            if Slot::of(bucket, way) != own
                && !Word(A::load(&raw const (*bucket).words[way])).is(State::Free)
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
mod tests {
    use super::*;
    use crate::atomic::Host;
    use crate::entries::Class;
    use crate::hash;
    use crate::time::Tick;

    struct Table(Vec<Bucket>);

    impl Table {
        fn new(entries: u32) -> Self {
            Self(vec![Bucket::default(); buckets_for(entries) as usize])
        }

        fn key(n: u32) -> (FlowKey, u64) {
            let key =
                FlowKey { client: Addr { hi: 0, lo: 0xffff_0a00_0000 | u64::from(n) }, ports: 0x1f90_9c40 };
            (key, table_hash(hash::fold(7, n.into()), 1))
        }

        fn homes(&mut self, hash: u64) -> [*mut Bucket; 2] {
            let (first, second) = homes(hash, self.0.len() as u32);
            let start = self.0.as_mut_ptr();
            // SAFETY: homes are below the number of buckets.
            unsafe { [start.add(first as usize), start.add(second as usize)] }
        }

        fn insert(&mut self, n: u32) -> bool {
            let (key, hash) = Self::key(n);
            let word = Word::new(State::Est, Class::Learned, 1, 1, Tick(1));
            // SAFETY: buckets of a vector that does not grow.
            unsafe { insert::<Host>(&self.homes(hash), &key, hash, word, Positions::new(n, n)) }
        }

        /// Whether an entry is in its first bucket.
        fn first(&mut self, n: u32) -> bool {
            let (key, hash) = Self::key(n);
            let [first, second] = self.homes(hash);
            // SAFETY: as above.
            let [here, there] = [[first, first], [second, second]]
                .map(|homes| matches!(unsafe { find::<Host>(&homes, &key, hash) }, Found::Live(..)));
            assert!(here != there, "entry {n} is in one bucket");
            here
        }
    }

    #[test]
    fn an_entry_is_found_by_all_of_its_key() {
        let mut table = Table::new(64);
        assert!(table.insert(1));
        let (key, hash) = Table::key(1);
        let homes = table.homes(hash);
        // SAFETY: buckets of a vector that does not grow.
        let known = |key: &FlowKey| matches!(unsafe { find::<Host>(&homes, key, hash) }, Found::Live(..));
        let Addr { hi, lo } = key.client;
        assert!(known(&key));
        assert!(!known(&FlowKey { client: Addr { hi: hi | 1, lo }, ..key }));
        assert!(!known(&FlowKey { client: Addr { hi, lo: lo ^ 1 }, ..key }));
        assert!(!known(&FlowKey { ports: key.ports ^ 1, ..key }));
        assert!(!known(&FlowKey { ports: key.ports ^ 1 << 32, ..key }));
    }

    #[test]
    fn most_entries_of_a_table_that_is_not_full_are_found_at_the_first_look() {
        let entries = 1 << 14;
        let mut table = Table::new(entries);
        let quarter = entries / 4;
        assert!((0..quarter).all(|n| table.insert(n)));
        let first = (0..quarter).filter(|n| table.first(*n)).count() as u32;
        assert!(first * 100 >= quarter * 88, "{first} of {quarter}");
    }

    #[test]
    fn of_entries_for_three_quarters_of_a_table_hardly_one_in_a_hundred_finds_no_place() {
        let entries = 1 << 16;
        let mut table = Table::new(entries);
        let tried = entries / 4 * 3;
        let refused = (0..tried).filter(|n| !table.insert(*n)).count() as u32;
        assert!(refused * 100 <= tried, "{refused} of {tried}");
    }
}
