//! Connections, packet by packet, and what is counted of them.

use std::collections::HashMap;

use super::expire::{Patience, expire};
use super::*;
use crate::atomic::Host;

const F: u8 = 0x01;
const S: u8 = 0x02;
const R: u8 = 0x04;
const A: u8 = 0x10;
const MS: u64 = 1_000_000;
const PATIENCE: Patience = Patience { handshake: 3_000 * MS, answer: 10_000 * MS, idle: 350_000 * MS };

#[derive(Default)]
struct World {
    now: u64,
    buckets: Vec<SignalBucket>,
    counters: HashMap<BackendId, Box<SignalCounters>>,
}

impl SignalTables for World {
    type Atomic = Host;
    fn exact_ns(&mut self) -> u64 {
        self.now
    }
    fn coarse_ns(&mut self) -> u64 {
        self.now
    }
    fn signal_secret(&mut self) -> u64 {
        7
    }
    fn signal_bucket(&mut self, hash: u64) -> Option<*mut SignalBucket> {
        let at = table::home(hash, self.buckets.len() as u32) as usize;
        Some(&raw mut self.buckets[at])
    }
    fn signal_counters(&mut self, backend: BackendId) -> Option<*mut SignalCounters> {
        Some(&raw mut **self.counters.entry(backend).or_default())
    }
}

/// One connection of a client, with the numbers that a real one has.
struct Talk {
    world: World,
    key: SignalKey,
}

fn key(port: u16, backend: BackendId) -> SignalKey {
    SignalKey::new(Addr::v4([192, 0, 2, 1]), port, 80, backend)
}

impl Talk {
    fn new() -> Self {
        let world = World { now: 1_000_000 * MS, buckets: vec![SignalBucket::default()], ..World::default() };
        Self { world, key: key(1, 5) }
    }

    fn packet(&mut self, side: Side, flags: u8, seq: u32, ack: u32, payload: u32) -> &mut Self {
        let seen = Seen { flags, seq, ack, payload };
        observe(&mut self.world, &mut Look { key: self.key, hash: self.key.hash(7), seen, side });
        self
    }

    fn client(&mut self, flags: u8, seq: u32, ack: u32, payload: u32) -> &mut Self {
        self.packet(Side::Client, flags, seq, ack, payload)
    }

    fn backend(&mut self, flags: u8, seq: u32, ack: u32, payload: u32) -> &mut Self {
        self.packet(Side::Backend, flags, seq, ack, payload)
    }

    fn after(&mut self, ms: u64) -> &mut Self {
        self.world.now += ms * MS;
        self
    }

    fn shaken(&mut self) -> &mut Self {
        self.client(S, 100, 0, 0).after(2).backend(S | A, 500, 101, 0).after(1).client(A, 101, 501, 0)
    }

    fn shaken_one_sided(&mut self) -> &mut Self {
        self.client(S, 100, 0, 0).after(2).client(A, 101, 501, 0)
    }

    fn sweep(&mut self) -> &mut Self {
        for flow in self.world.buckets.iter_mut().flat_map(|bucket| &mut bucket.flows) {
            if let Some((word, event)) = expire(flow, &PATIENCE, self.world.now) {
                flow.word = word;
                let of = SignalKey { client: Addr::default(), rest: flow.rest }.backend();
                self.world.counters.entry(of).or_default().events[event as usize] += 1;
            }
        }
        self
    }

    /// What was counted, New left out.
    fn told(&self) -> Vec<(&'static str, u64)> {
        let Some(counters) = self.world.counters.get(&self.key.backend()) else { return Vec::new() };
        let quiet = [
            Event::None,
            Event::New,
            Event::ClientBytes,
            Event::BackendBytes,
            Event::HandshakeNs,
            Event::FirstByteNs,
        ];
        let events = EVENTS.iter().filter(|event| !quiet.contains(event));
        events.map(|event| (event.name(), counters.of(*event))).filter(|(_, n)| *n > 0).collect()
    }

    fn times(&self) -> (Vec<usize>, Vec<usize>) {
        let of = |all: &[u64]| (0..BUCKETS).filter(|at| all[*at] > 0).collect();
        let counters = &self.world.counters[&self.key.backend()];
        (of(&counters.handshake), of(&counters.first_byte))
    }
}

fn at(ms: u64) -> Vec<usize> {
    vec![counters::bucket(ms * MS)]
}

#[test]
fn a_whole_connection_is_established_answered_and_closed() {
    let mut talk = Talk::new();
    talk.shaken().after(4).client(A, 101, 501, 30).after(8).backend(A, 501, 131, 1000);
    talk.client(A, 131, 1501, 0)
        .client(F | A, 131, 1501, 0)
        .backend(F | A, 1501, 132, 0)
        .client(A, 132, 1502, 0);
    assert_eq!(talk.told(), [("established", 1), ("answered", 1), ("closed", 1)]);
    assert_eq!(talk.times(), (at(2), at(8)), "handshake up to the SYN-ACK, first byte from the question");
    let counters = &talk.world.counters[&5];
    assert_eq!((counters.of(Event::ClientBytes), counters.of(Event::BackendBytes)), (30, 1000));
    assert_eq!(talk.after(1_000_000).sweep().told(), [("established", 1), ("answered", 1), ("closed", 1)]);
}

#[test]
fn one_sided_the_client_s_acknowledgements_tell_of_handshake_and_reply() {
    let mut talk = Talk::new();
    talk.shaken_one_sided().after(4).client(A, 101, 501, 30).after(8).client(A, 131, 1501, 0);
    assert_eq!(talk.told(), [("established", 1), ("answered", 1)]);
    assert_eq!(talk.times(), (at(2), at(8)));
    talk.client(F | A, 131, 1501, 0).client(R, 132, 0, 0);
    assert_eq!(talk.told(), [("established", 1), ("answered", 1), ("closed", 1)]);
}

#[test]
fn a_backend_that_speaks_first_is_timed_from_the_handshake() {
    let mut talk = Talk::new();
    talk.shaken().after(16).backend(A, 501, 101, 10);
    assert_eq!(talk.times().1, at(16));
    let mut talk = Talk::new();
    talk.shaken_one_sided().after(16).client(A, 101, 511, 0);
    assert_eq!((talk.told().len(), talk.times().1), (2, at(16)));
}

#[test]
fn a_refused_connection_is_a_reset_by_the_backend_in_the_handshake() {
    let mut talk = Talk::new();
    talk.client(S, 100, 0, 0).backend(R | A, 0, 101, 0);
    assert_eq!(talk.told(), [("backend_reset_handshake", 1)]);
    assert_eq!(talk.after(60_000).sweep().told().len(), 1, "and not half-open as well");
}

#[test]
fn resets_are_told_apart_by_side_and_phase() {
    for (side, names) in [
        (Side::Client, ["client_reset_handshake", "client_reset_early", "client_reset_late"]),
        (Side::Backend, ["backend_reset_handshake", "backend_reset_early", "backend_reset_late"]),
    ] {
        let mut phases: [fn(&mut Talk); 3] = [
            |talk| _ = talk.client(S, 100, 0, 0),
            |talk| _ = talk.shaken().client(A, 101, 501, 30),
            |talk| _ = talk.shaken().client(A, 101, 501, 30).backend(A, 501, 131, 9),
        ];
        for (phase, name) in phases.iter_mut().zip(names) {
            let mut talk = Talk::new();
            phase(&mut talk);
            talk.packet(side, R | A, 131, 501, 0);
            assert!(talk.told().contains(&(name, 1)), "{name}: {:?}", talk.told());
        }
    }
}

#[test]
fn a_reset_after_a_close_is_no_failure() {
    let mut talk = Talk::new();
    talk.shaken().client(A, 101, 501, 30).backend(A, 501, 131, 9).backend(F | A, 510, 131, 0);
    talk.client(R | A, 131, 511, 0);
    assert_eq!(talk.told(), [("established", 1), ("answered", 1), ("closed", 1)]);
}

#[test]
fn a_repeated_syn_is_counted_each_time_and_its_flow_once() {
    let mut talk = Talk::new();
    talk.client(S, 100, 0, 0).after(1000).client(S, 100, 0, 0).after(1500).client(S, 100, 0, 0);
    assert_eq!(talk.told(), [("syn_retransmissions", 2), ("syn_retransmitted", 1)]);
    assert_eq!(talk.after(600).sweep().told()[2], ("half_open", 1));
    assert_eq!(talk.world.counters[&5].of(Event::New), 1);
}

#[test]
fn a_client_that_never_ends_its_handshake_is_not_the_backend_s_fault() {
    let mut talk = Talk::new();
    talk.client(S, 100, 0, 0).backend(S | A, 500, 101, 0).after(2_900).sweep();
    assert_eq!(talk.told(), []);
    assert_eq!(talk.after(200).sweep().told(), [("unfinished", 1)]);
}

#[test]
fn who_never_answers_is_unanswered_and_who_is_not_asked_is_silent() {
    for one_sided in [false, true] {
        let begin = |talk: &mut Talk| {
            let _ = if one_sided { talk.shaken_one_sided() } else { talk.shaken() };
        };
        let mut talk = Talk::new();
        begin(&mut talk);
        talk.client(A, 101, 501, 30).after(9_000).client(A, 101, 501, 30).sweep();
        assert_eq!(talk.told(), [("established", 1)]);
        assert_eq!(talk.after(1_000).sweep().told(), [("established", 1), ("unanswered", 1)]);
        let mut talk = Talk::new();
        begin(&mut talk);
        assert_eq!(talk.after(10_000).sweep().told(), [("established", 1), ("silent", 1)]);
    }
}

#[test]
fn a_close_without_a_reply_is_early_and_has_a_side() {
    let mut talk = Talk::new();
    talk.shaken().client(A, 101, 501, 30).backend(F | A, 501, 131, 0);
    assert_eq!(talk.told(), [("established", 1), ("backend_close_early", 1)]);
    let mut talk = Talk::new();
    talk.shaken().client(F | A, 101, 501, 0).backend(F | A, 501, 102, 0);
    assert_eq!(talk.told(), [("established", 1), ("client_close_early", 1)]);
    // One-sided: the backend's FIN is one number without a byte.
    let mut talk = Talk::new();
    talk.shaken_one_sided().client(A, 101, 501, 30).client(A, 131, 502, 0).client(F | A, 131, 502, 0);
    assert_eq!(talk.told(), [("established", 1), ("backend_close_early", 1)]);
    let mut talk = Talk::new();
    talk.shaken_one_sided().client(F | A, 101, 501, 0).client(A, 102, 502, 0);
    assert_eq!(talk.told(), [("established", 1), ("client_close_early", 1)]);
}

#[test]
fn a_half_close_that_is_answered_is_no_early_close() {
    let mut talk = Talk::new();
    talk.shaken().client(F | A, 101, 501, 30).backend(A, 501, 132, 9).backend(F | A, 510, 132, 0);
    assert_eq!(talk.told(), [("established", 1), ("answered", 1), ("closed", 1)]);
}

#[test]
fn a_port_used_again_is_a_new_flow_and_the_one_before_unknown() {
    let mut talk = Talk::new();
    talk.client(S, 100, 0, 0).client(S, 9_000_000, 0, 0);
    assert_eq!((talk.told(), talk.world.counters[&5].of(Event::New)), (vec![("evicted", 1)], 2));
    talk.backend(S | A, 500, 9_000_001, 0).client(A, 9_000_001, 501, 0);
    assert_eq!(talk.told(), [("established", 1), ("evicted", 1)]);
    let mut talk = Talk::new();
    talk.client(S, 100, 0, 0).backend(R | A, 0, 101, 0).client(S, 9_000_000, 0, 0);
    assert_eq!(talk.told(), [("backend_reset_handshake", 1)], "one that had ended is not unknown");
}

#[test]
fn a_full_bucket_forgets_the_flow_that_was_silent_longest_and_it_is_neither_good_nor_bad() {
    let mut talk = Talk::new();
    for port in 1..=5 {
        talk.key = key(port, port);
        talk.client(S, 100, 0, 0).after(200);
    }
    talk.key = key(1, 1);
    assert_eq!(talk.told(), [("evicted", 1)]);
    talk.backend(R | A, 0, 101, 0).after(100_000).sweep();
    assert_eq!(talk.told(), [("evicted", 1)], "what still comes of it means nothing");
    talk.key = key(2, 2);
    assert_eq!(talk.told(), [("half_open", 1)]);
}

#[test]
fn a_flow_in_its_middle_a_forged_packet_and_a_syn_ack_from_a_client_begin_nothing() {
    let mut talk = Talk::new();
    talk.client(A, 101, 501, 30)
        .client(R, 1, 0, 0)
        .client(S | A, 1, 1, 0)
        .backend(S, 1, 0, 0)
        .backend(A, 501, 131, 10);
    assert!(talk.world.counters.get(&5).is_none_or(|counters| **counters == SignalCounters::default()));
    // An acknowledgement of something else ends no handshake.
    talk.client(S, 100, 0, 0).client(A, 0x7000_0000, 1, 0);
    assert_eq!(talk.told(), []);
}

#[test]
fn samples_are_nested_and_of_the_size_asked_for() {
    let hashes: Vec<u64> = (0..64_000u16).map(|port| key(port, 3).hash(99)).collect();
    let of = |shift: u8| hashes.iter().filter(|hash| Rate::one_in(shift).takes(**hash)).count();
    assert_eq!((of(0), hashes.iter().filter(|hash| Rate::OFF.takes(**hash)).count()), (64_000, 0));
    assert!((3_700..4_300).contains(&of(4)), "{}", of(4));
    assert!(hashes.iter().all(|hash| !Rate::one_in(5).takes(*hash) || Rate::one_in(4).takes(*hash)));
    assert!(
        hashes.iter().any(|hash| Rate::one_in(4).takes(*hash) != Rate::one_in(4).takes(hash.rotate_left(7)))
    );
}

#[test]
fn wherever_it_is_cut_a_connection_has_one_fate_at_the_most() {
    // Every order of up to five of these packets after a SYN.
    let menu: [(Side, u8, u32, u32, u32); 8] = [
        (Side::Backend, S | A, 500, 101, 0),
        (Side::Client, A, 101, 501, 0),
        (Side::Client, A, 101, 501, 30),
        (Side::Backend, A, 501, 131, 9),
        (Side::Client, F | A, 131, 510, 0),
        (Side::Backend, F | A, 510, 132, 0),
        (Side::Client, R, 131, 0, 0),
        (Side::Backend, R | A, 501, 131, 0),
    ];
    let fates = [
        Event::Closed,
        Event::HalfOpen,
        Event::Unfinished,
        Event::ClientResetHandshake,
        Event::ClientResetEarly,
        Event::ClientResetLate,
        Event::BackendResetHandshake,
        Event::BackendResetEarly,
        Event::BackendResetLate,
        Event::ClientCloseEarly,
        Event::BackendCloseEarly,
        Event::Unanswered,
        Event::Silent,
    ];
    for order in 0..menu.len().pow(5) {
        let mut talk = Talk::new();
        talk.client(S, 100, 0, 0);
        let mut rest = order;
        for _ in 0..5 {
            let (side, flags, seq, ack, payload) = menu[rest % menu.len()];
            talk.after(1).packet(side, flags, seq, ack, payload);
            rest /= menu.len();
        }
        talk.after(20_000).sweep();
        let counters = &talk.world.counters[&5];
        let ended: u64 = fates.iter().map(|event| counters.of(*event)).sum();
        let (answered, established) = (counters.of(Event::Answered), counters.of(Event::Established));
        assert!(ended <= 1 && answered <= established && established <= 1, "{order:o}: {:?}", talk.told());
        assert!(ended == 1 || answered == 1, "{order:o}: unanswered and without a fate: {:?}", talk.told());
    }
}
