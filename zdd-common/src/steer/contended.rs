//! A packet whose entry others change each time it wants to: it goes where the entry says, and leaves it to them.

use super::{Segment, Steered, TRIES, Transport, steer};
use crate::entries::{Cell, Class, Commit, FlowKey, Positions, Service, ServiceView, Word};
use crate::model::Model;
use crate::net::Addr;
use crate::reason::Reason;
use crate::tables::{Found, SteerTables};
use crate::time::{TICK_SHIFT, Tick};

type Slot = <Model as SteerTables>::Slot;

/// Before each of so many compare-and-swaps another CPU has changed the word: it is seen a tick later, or, at the last, whatever `last` makes
/// of it.
struct Rivals {
    model: Model,
    left: usize,
    last: fn(Word) -> Word,
}

impl Rivals {
    fn change(&mut self, slot: Slot, old: Word) {
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            let later = old.with_seen(Tick(old.seen().0 + 1));
            let new = if left == 0 { (self.last)(later) } else { later };
            assert!(self.model.update(slot, old, new));
        }
    }
}

impl SteerTables for Rivals {
    type Slot = Slot;

    fn now_ns(&mut self) -> u64 {
        self.model.now_ns()
    }
    fn service(&mut self, id: u16) -> Option<ServiceView> {
        self.model.service(id)
    }
    fn commit(&mut self, id: u16) -> Commit {
        self.model.commit(id)
    }
    fn cell(&mut self, index: u32) -> Option<Cell> {
        self.model.cell(index)
    }
    fn syn_seen(&mut self, hash: u64, now: Tick) -> bool {
        self.model.syn_seen(hash, now)
    }
    fn syn_seen_before(&mut self, hash: u64, now: Tick) -> bool {
        self.model.syn_seen_before(hash, now)
    }
    fn udp_fail(&mut self, service: u16) -> u64 {
        self.model.udp_fail(service)
    }
    fn note_failure(&mut self, service: u16, now_ns: u64, udp: bool) {
        self.model.note_failure(service, now_ns, udp);
    }
    fn find(&mut self, key: &FlowKey, hash: u64) -> Found<Slot> {
        self.model.find(key, hash)
    }
    fn insert(&mut self, key: &FlowKey, hash: u64, word: Word, positions: Positions) -> bool {
        self.model.insert(key, hash, word, positions)
    }
    fn update(&mut self, slot: Slot, old: Word, new: Word) -> bool {
        self.change(slot, old);
        self.model.update(slot, old, new)
    }
    fn advance(&mut self, slot: Slot, old: Positions, new: Positions) {
        self.model.advance(slot, old, new);
    }
    fn replace(&mut self, slot: Slot, old: Word, new: Word, positions: Positions) -> bool {
        self.change(slot, old);
        self.model.replace(slot, old, new, positions)
    }
    fn take(&mut self, class: Class) -> bool {
        self.model.take(class)
    }
    fn give(&mut self, class: usize) {
        self.model.give(class);
    }
}

const ISN: u32 = 1_000_000;
const FAR: u32 = 2_000_000_000;
const BASE: u16 = 1;
const CURRENT: u16 = 2;

/// A flow that began at `current` of a changing cell, and so many rivals from then on.
fn begun(left: usize) -> Rivals {
    let mut model = Model::new(8, 8);
    let service =
        Service { commit: Commit::new(0, 1).0, groups: 1, per_group: 1, udp_idle: 10, ..Service::default() };
    model.services.insert(0, service);
    model.cells.push(Cell::new(BASE, CURRENT, Cell::DIRTY | Cell::LOOKUP));
    model.now_ns = 1000 << TICK_SHIFT;
    let mut rivals = Rivals { model, left: 0, last: |word| word };
    let syn = Segment { syn: true, seq: ISN, ..Segment::default() };
    assert_eq!(send(&mut rivals, syn).backend, CURRENT);
    rivals.left = left;
    rivals.model.now_ns += 100 << TICK_SHIFT;
    rivals
}

fn send(rivals: &mut Rivals, segment: Segment) -> Steered {
    let key = FlowKey::new(Addr::v4([192, 0, 2, 1]), 4000, 80, 1);
    steer(rivals, 0, &key, Transport::Tcp(segment))
}

fn ack(seq: u32) -> Segment {
    Segment { seq, ..Segment::default() }
}

#[test]
fn a_packet_whose_entry_keeps_changing_goes_where_the_entry_says() {
    for left in 0..=TRIES + 1 {
        let mut rivals = begun(left);
        let to = send(&mut rivals, ack(ISN + 1));
        assert_eq!((to.backend, to.reason), (CURRENT, Reason::Entry), "{left} rivals");
        // It is no failure: settling need not wait for it.
        assert_eq!(rivals.model.facts.get(&0).map_or(0, |facts| facts.fails), 0, "{left} rivals");
        assert_eq!(rivals.left, left.saturating_sub(TRIES), "it tries so often");
    }
}

#[test]
fn a_forged_packet_does_so_too() {
    let mut rivals = begun(TRIES);
    let to = send(&mut rivals, ack(FAR));
    assert_eq!((to.backend, to.reason), (BASE, Reason::Alt));
    assert_eq!(rivals.model.facts.get(&0).map_or(0, |facts| facts.fails), 0);
}

#[test]
fn an_entry_that_expires_meanwhile_is_taken_over() {
    let mut rivals = begun(1);
    rivals.last = |word| word.with_state(crate::entries::State::Dead);
    // What the entry said while it lived is no longer the answer: the packet is of a connection that nobody remembers.
    let to = send(&mut rivals, ack(ISN + 1));
    assert_eq!((to.backend, to.reason), (BASE, Reason::Learned));
}

#[test]
fn quotas_are_even_after_every_contest() {
    for left in 0..=TRIES {
        for segment in [ack(ISN + 1), Segment { syn: true, seq: FAR, ..Segment::default() }] {
            let mut rivals = begun(left);
            send(&mut rivals, segment);
            assert_eq!(rivals.model.used.iter().sum::<u64>(), 1, "{left} rivals, {segment:?}");
        }
    }
}
