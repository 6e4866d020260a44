//! Where entries find room, and what tells them from each other.

use super::*;
use crate::atomic::Host;
use crate::entries::Class;
use crate::hash;
use crate::rules::Sweep;
use crate::time::Tick;

struct Table(Vec<Bucket>);

impl Table {
    fn new(entries: u32) -> Self {
        Self(vec![Bucket::default(); buckets_for(entries) as usize])
    }

    fn key(n: u32) -> (FlowKey, u64) {
        let key = FlowKey { client: Addr { hi: 0, lo: 0xffff_0a00_0000 | u64::from(n) }, ports: 0x1f90_9c40 };
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

    fn find(&mut self, n: u32) -> Found<Slot> {
        let (key, hash) = Self::key(n);
        // SAFETY: as above.
        unsafe { find::<Host>(&self.homes(hash), &key, hash) }
    }

    fn glance(&mut self, n: u32) -> (Slot, Word, Positions) {
        let (key, hash) = Self::key(n);
        // SAFETY: as above.
        unsafe { glance::<Host>(&self.homes(hash), &key, hash) }
    }

    /// Which line of its first bucket a look at an entry ends in; none: it lies in its second bucket.
    fn line(&mut self, n: u32) -> Option<usize> {
        let [first, _] = self.homes(Self::key(n).1);
        let Found::Live(slot, ..) = self.find(n) else { panic!("entry {n} is there") };
        let from = slot.0.addr().wrapping_sub(first.addr());
        (from < size_of::<Bucket>()).then_some((from + core::mem::offset_of!(Way, positions)) / 64)
    }

    fn told(&self) -> Vec<Beyond> {
        self.0.iter().map(|bucket| Beyond(bucket.ways[0].beyond)).collect()
    }

    /// A sweep that does with every entry what `fate` says; how many were counted off.
    fn sweep(&mut self, mut fate: impl FnMut(&FlowKey) -> Sweep) -> usize {
        let (table, buckets) = (self.0.as_mut_ptr(), self.0.len() as u32);
        let mut off = 0;
        for index in 0..buckets {
            // SAFETY: buckets of a vector that does not grow.
            unsafe {
                for way in 0..ways::<Host>(table.add(index as usize)) {
                    let place = Place { table, buckets, index, way };
                    let word = place.word::<Host>();
                    if !word.is(State::Free) {
                        let fate = fate(&place.key::<Host>());
                        off += usize::from(apply::<Host>(&place, word, fate).is_some());
                    }
                }
            }
        }
        off
    }
}

#[test]
fn an_entry_is_found_by_all_of_its_key() {
    let mut table = Table::new(64);
    assert!(table.insert(1));
    let (key, hash) = Table::key(1);
    let homes = table.homes(hash);
    // SAFETY: buckets of a vector that does not grow.
    let known = |key: &FlowKey| unsafe {
        let seen = glance::<Host>(&homes, key, hash).1.live();
        assert_eq!(seen, matches!(find::<Host>(&homes, key, hash), Found::Live(..)));
        seen
    };
    let Addr { hi, lo } = key.client;
    assert!(known(&key));
    assert!(!known(&FlowKey { client: Addr { hi: hi | 1, lo }, ..key }));
    assert!(!known(&FlowKey { client: Addr { hi, lo: lo ^ 1 }, ..key }));
    assert!(!known(&FlowKey { ports: key.ports ^ 1, ..key }));
    assert!(!known(&FlowKey { ports: key.ports ^ 1 << 32, ..key }));
}

#[test]
fn most_entries_of_a_table_that_is_not_full_cost_one_line() {
    let entries = 1 << 14;
    for (share, one, two) in [(16, 85, 99), (4, 55, 80)] {
        let mut table = Table::new(entries);
        let some = entries / share;
        assert!((0..some).all(|n| table.insert(n)));
        let lines: Vec<_> = (0..some).map(|n| table.line(n)).collect();
        let within = |line| lines.iter().filter(|at| at.is_some_and(|at| at <= line)).count() as u32 * 100;
        assert!(within(0) >= some * one && within(1) >= some * two, "{} {} of {some}", within(0), within(1));
    }
}

#[test]
fn a_glance_sees_what_lies_in_the_first_two_ways_and_nothing_else() {
    let entries = 1 << 10;
    let mut table = Table::new(entries);
    let there: Vec<u32> = (0..entries).filter(|n| table.insert(*n)).collect();
    let near = |table: &mut Table, n| {
        let [first, _] = table.homes(Table::key(n).1);
        let Found::Live(slot, ..) = table.find(n) else { panic!("entry {n} is there") };
        slot.0.addr().wrapping_sub(first.addr()) < NEAR * size_of::<Way>()
    };
    let mut seen = 0;
    for n in there.iter().copied() {
        let (slot, word, positions) = table.glance(n);
        assert_eq!(!word.is(State::Free), near(&mut table, n), "entry {n}");
        if !word.is(State::Free) {
            seen += 1;
            assert_eq!(Found::Live(slot, word, positions), table.find(n));
        }
    }
    assert!(seen > 0 && seen < there.len(), "{seen} of {}", there.len());
    assert!((entries..2 * entries).all(|n| table.glance(n).1.is(State::Free)), "of nobody");
    // Of a dead entry, and of one that is being written, it says so.
    let n = there.into_iter().find(|n| near(&mut table, *n)).expect("one lies near");
    let (slot, word, _) = table.glance(n);
    for state in [State::Dead, State::Busy, State::Pending] {
        // SAFETY: a slot of the table's.
        unsafe { *slot.0 = word.with_state(state).0 };
        assert!(table.glance(n).1.is(state));
    }
}

#[test]
fn what_lies_beyond_is_counted_whatever_comes_and_goes() {
    let entries = 1 << 10;
    let mut table = Table::new(entries);
    let mut there = std::collections::BTreeSet::new();
    for round in 0..20 {
        for n in round * 300..(round + 1) * 300 {
            if table.insert(n) {
                there.insert(n);
            }
        }
        assert_eq!(table.told(), beyond(&table.0));
        assert!(there.iter().all(|n| matches!(table.find(*n), Found::Live(..))), "round {round}");
        let leaves = |n: u32| (n + round).is_multiple_of(3);
        let gone = there.iter().filter(|n| leaves(**n)).count();
        let swept = table
            .sweep(|key| if leaves((key.client.lo & 0xff_ffff) as u32) { Sweep::Free } else { Sweep::Keep });
        assert_eq!(swept, gone);
        there.retain(|n| !leaves(*n));
        assert_eq!(table.told(), beyond(&table.0));
        assert!(
            there.iter().all(|n| matches!(table.find(*n), Found::Live(..))),
            "after the sweep of {round}"
        );
    }
    assert!(table.told().iter().any(|beyond| beyond.spilled() > 0 && beyond.far() > 0), "it was full enough");
    table.sweep(|_| Sweep::Free);
    assert!(table.told().iter().all(|beyond| beyond.0 == 0), "nothing is left to look for");
}

/// The way may hold the key of the entry before it, and so name another bucket than the one in whose count it is.
#[test]
fn an_entry_that_is_freed_while_it_is_written_is_not_counted_off() {
    let mut table = Table::new(4);
    assert!((0..4).all(|n| table.insert(n)));
    let told = table.told();
    table.0[0].ways[3].word = Word(table.0[0].ways[3].word).with_state(State::Busy).0;
    assert_eq!(table.sweep(|_| Sweep::Free), 3);
    assert_eq!((told[0].far(), table.told()[0].far()), (2, 1));
    assert_eq!(table.0[0].ways[3].word, 0);
}

#[test]
fn of_entries_for_three_quarters_of_a_table_hardly_one_in_a_hundred_finds_no_place() {
    let entries = 1 << 16;
    let mut table = Table::new(entries);
    let tried = entries / 4 * 3;
    let refused = (0..tried).filter(|n| !table.insert(*n)).count() as u32;
    assert!(refused * 100 <= tried, "{refused} of {tried}");
}
