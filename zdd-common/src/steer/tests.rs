//! Rows that the model checker found missing, on the in-memory tables.

use super::{Segment, Steered, Transport, steer};
use crate::entries::{Cell, Class, Commit, FlowKey, Service, State, Word};
use crate::model::Model;
use crate::net::Addr;
use crate::reason::Reason;
use crate::tables::{Found, SteerTables};
use crate::time::{TICK_SHIFT, Tick};

const CHANGING: Cell = Cell::new(1, 2, Cell::DIRTY | Cell::LOOKUP);
const ISN: u32 = 1_000_000;
const FAR: u32 = 2_000_000_000;

fn tables(cell: Cell) -> Model {
    let mut model = Model::new(8, 8);
    let service =
        Service { commit: Commit::new(0, 1).0, groups: 1, per_group: 1, udp_idle: 10, ..Service::default() };
    model.services.insert(0, service);
    model.cells.push(cell);
    model.now_ns = 1000 << TICK_SHIFT;
    model
}

fn key() -> FlowKey {
    FlowKey::new(Addr::v4([192, 0, 2, 1]), 4000, 80, 1)
}

fn tcp(model: &mut Model, segment: Segment) -> Steered {
    steer(model, 0, &key(), Transport::Tcp(segment))
}

fn syn(seq: u32) -> Segment {
    Segment { syn: true, seq, ..Segment::default() }
}

fn ack(seq: u32) -> Segment {
    Segment { seq, ..Segment::default() }
}

fn entry(model: &mut Model) -> Word {
    let service = model.services[&0].view();
    let hash = super::place(&service, &key()).table_hash;
    match model.find(&key(), hash) {
        Found::Live(_, word, _) => word,
        other => panic!("no live entry: {other:?}"),
    }
}

#[test]
fn a_new_connection_that_finds_no_room_keeps_the_entry_that_it_depends_on_alive() {
    let mut model = tables(CHANGING);
    assert_eq!(tcp(&mut model, ack(ISN)).backend, 1);
    model.quota[0] = 0;
    model.now_ns += 100 << TICK_SHIFT;
    assert_eq!(tcp(&mut model, syn(FAR)).backend, 1);
    assert_eq!(entry(&mut model).seen().0, 1100);
}

#[test]
fn a_fin_that_somebody_guessed_blindly_closes_nothing() {
    let mut model = tables(CHANGING);
    tcp(&mut model, ack(ISN));
    tcp(&mut model, Segment { fin: true, seq: FAR, ..Segment::default() });
    assert!(!entry(&mut model).fin_seen());
    tcp(&mut model, Segment { rst: true, seq: FAR, ..Segment::default() });
    assert!(!entry(&mut model).fin_seen());
    tcp(&mut model, Segment { fin: true, seq: ISN + 1, ..Segment::default() });
    assert!(entry(&mut model).fin_seen());
}

#[test]
fn a_learned_fin_is_forgotten_when_the_connection_turns_out_to_be_elsewhere() {
    let mut model = tables(CHANGING);
    tcp(&mut model, Segment { fin: true, seq: FAR, ..Segment::default() });
    assert!(entry(&mut model).fin_seen());
    tcp(&mut model, ack(ISN));
    assert!(!entry(&mut model).fin_seen());
}

#[test]
fn a_late_copy_of_the_own_syn_is_no_second_identity() {
    let mut model = tables(CHANGING);
    tcp(&mut model, ack(ISN + 5000));
    assert_eq!(tcp(&mut model, syn(ISN)).backend, 1);
    let word = entry(&mut model);
    assert!(word.single() && word.is(State::Est));
    assert_eq!(tcp(&mut model, syn(FAR)).backend, 2);
}

/// A whole connection from the client's side, but for the SYN: confirmed, then closed.
fn rest(model: &mut Model, isn: u32) -> u16 {
    let to = tcp(model, ack(isn + 1)).backend;
    assert_eq!(tcp(model, Segment { fin: true, ..ack(isn + 100) }).backend, to);
    assert_eq!(tcp(model, ack(isn + 101)).backend, to);
    to
}

#[test]
fn a_port_used_again_and_again_follows_the_weights() {
    let mut model = tables(CHANGING);
    // Each one new: the filter knows a SYN by its number. Near its predecessor, as a clock-driven ISN is within seconds, and far from it.
    for isn in [ISN, ISN + 1_000_000, FAR, FAR + 5_000_000, ISN + 300_000] {
        assert_eq!(tcp(&mut model, syn(isn)).backend, 2, "{isn}");
        assert_eq!(rest(&mut model, isn), 2);
    }
    // Rolled back, and forth, and to a third backend.
    for (current, isn) in [(1, ISN + 400_000), (1, FAR + 1), (2, FAR + 200_000), (3, 5), (1, 200_000)] {
        model.cells[0] = Cell::new(1, current, Cell::DIRTY | Cell::LOOKUP);
        assert_eq!(tcp(&mut model, syn(isn)).backend, current, "{isn}");
        assert_eq!(rest(&mut model, isn), current);
    }
    assert_eq!(model.used, [0, 0, 1]);
}

#[test]
fn a_half_closed_connection_outlives_a_forged_one_of_its_tuple() {
    let mut model = tables(CHANGING);
    tcp(&mut model, syn(ISN));
    rest(&mut model, ISN);
    model.cells[0] = Cell::new(1, 3, Cell::DIRTY | Cell::LOOKUP);
    assert_eq!(tcp(&mut model, syn(FAR)).backend, 3);
    assert_eq!(tcp(&mut model, ack(ISN + 101)).backend, 2);
    assert_eq!(tcp(&mut model, ack(FAR + 1)).backend, 3);
    // Not closed: the next SYN does not take the half-closed one's place.
    assert_eq!(tcp(&mut model, syn(FAR / 2)).backend, 2);
    assert_eq!(tcp(&mut model, ack(ISN + 101)).backend, 2);
}

#[test]
fn a_fin_right_after_a_syn_closes_nothing() {
    let mut model = tables(CHANGING);
    tcp(&mut model, syn(FAR));
    tcp(&mut model, Segment { fin: true, ..ack(FAR + 1) });
    assert!(entry(&mut model).is(State::Est) && !entry(&mut model).fin_seen());
}

#[test]
fn a_second_identity_that_speaks_elsewhere_is_not_closed() {
    let mut model = tables(CHANGING);
    tcp(&mut model, syn(ISN));
    rest(&mut model, ISN);
    model.cells[0] = Cell::new(1, 3, Cell::DIRTY | Cell::LOOKUP);
    tcp(&mut model, syn(FAR));
    assert!(entry(&mut model).alt_fin());
    tcp(&mut model, ack(FAR / 2));
    assert!(!entry(&mut model).alt_fin());
}

#[test]
fn a_late_copy_of_the_older_connections_syn_draws_it_nowhere_when_both_have_closed() {
    let mut model = tables(CHANGING);
    tcp(&mut model, syn(ISN));
    rest(&mut model, ISN);
    model.cells[0] = Cell::new(1, 3, Cell::DIRTY | Cell::LOOKUP);
    tcp(&mut model, syn(FAR));
    assert_eq!(rest(&mut model, FAR), 3);
    // So late that the filter has forgotten it.
    model.filter.iter_mut().for_each(|line| *line = Default::default());
    assert_eq!(tcp(&mut model, syn(ISN)).backend, 2);
    // Its backend may still be sending: the client has only closed its own side.
    assert_eq!(tcp(&mut model, ack(ISN + 101)).backend, 2);
    assert_eq!(tcp(&mut model, ack(FAR + 101)).backend, 3);
}

#[test]
fn an_entry_never_looks_older_because_of_a_clock_that_is_behind() {
    let mut model = tables(CHANGING);
    tcp(&mut model, ack(ISN));
    model.now_ns -= 1 << TICK_SHIFT;
    tcp(&mut model, ack(ISN + 1));
    assert_eq!(entry(&mut model).seen().0, 1000);
}

#[test]
fn a_udp_flow_that_finds_no_room_finds_base_again_though_the_cell_is_disarmed_meanwhile() {
    let mut model = tables(Cell(CHANGING.0 | Cell::ARMED));
    model.quota[1] = 0;
    assert_eq!(steer(&mut model, 0, &key(), Transport::Udp).backend, 1);
    model.cells[0] = CHANGING;
    model.quota[1] = 8;
    model.now_ns += 5 << TICK_SHIFT;
    assert_eq!(steer(&mut model, 0, &key(), Transport::Udp).backend, 1);
}

#[test]
fn a_udp_flow_is_at_base_up_to_the_last_tick_of_the_idle_timeout_after_a_failure() {
    // udp_idle is 10 ticks.
    for (later, backend) in [(10, 1), (11, 2)] {
        let mut model = tables(CHANGING);
        model.quota[1] = 0;
        assert_eq!(steer(&mut model, 0, &key(), Transport::Udp).backend, 1);
        model.quota[1] = 8;
        model.now_ns += later << TICK_SHIFT;
        assert_eq!(steer(&mut model, 0, &key(), Transport::Udp).backend, backend, "{later}");
    }
}

#[test]
fn an_entry_that_finds_no_room_in_a_full_table_takes_none_of_its_classs() {
    let mut model = tables(CHANGING);
    let of_others = Word::new(State::Est, Class::Promoted, 1, 1, Tick(1000));
    model.buckets.iter_mut().flat_map(|bucket| &mut bucket.ways).for_each(|way| way.word = of_others.0);
    assert_eq!(tcp(&mut model, syn(ISN)).backend, 1);
    assert_eq!(tcp(&mut model, ack(FAR)).backend, 1);
    assert_eq!(model.used, [0, 0, 0]);
}

#[test]
fn an_entry_that_takes_a_dead_ones_place_gives_its_room_back() {
    let mut model = tables(CHANGING);
    tcp(&mut model, ack(ISN));
    assert_eq!(model.used, [0, 1, 0]);
    let service = model.services[&0].view();
    let Found::Live(slot, word, _) = model.find(&key(), super::place(&service, &key()).table_hash) else {
        panic!("an entry");
    };
    let dead = Word::new(State::Dead, Class::Learned, word.backend(), word.alt(), word.seen());
    assert!(model.update(slot, word, dead));
    assert_eq!(tcp(&mut model, syn(FAR)).backend, 2);
    assert_eq!(model.used, [1, 0, 0]);
}

#[test]
fn a_reset_of_nobodys_flow_leaves_no_entry() {
    let mut model = tables(CHANGING);
    assert_eq!(tcp(&mut model, Segment { rst: true, ..ack(ISN) }).backend, 1);
    assert_eq!(model.used, [0, 0, 0]);
}

#[test]
fn a_syn_that_came_in_an_earlier_epoch_stays_where_its_first_copy_went() {
    let mut model = tables(Cell::settled(1));
    assert_eq!(tcp(&mut model, syn(ISN)).backend, 1);
    for epochs in 1..=2 {
        let mut model = model.clone();
        model.now_ns += (epochs << model.epoch_shift) << TICK_SHIFT;
        model.cells[0] = CHANGING;
        assert_eq!(tcp(&mut model, syn(ISN)).backend, 1, "{epochs}");
        assert_eq!(entry(&mut model).backend(), 1);
    }
}

#[test]
fn a_copy_of_a_syn_is_no_connection_more_of_its_source() {
    let mut model = tables(Cell::settled(1));
    let service = model.services.get_mut(&0).expect("the service");
    (service.new_interval, service.new_burst) = (1 << 20, 1);
    assert_eq!(tcp(&mut model, syn(ISN)).reason, Reason::Settled);
    assert_eq!(tcp(&mut model, syn(FAR)).reason, Reason::DropRate);
    assert_eq!(tcp(&mut model, syn(ISN)).reason, Reason::Settled);
}

#[test]
fn a_service_that_was_never_committed_steers_nothing() {
    let mut model = tables(Cell::settled(1));
    model.services.get_mut(&0).expect("the service").commit = 0;
    for segment in [syn(ISN), ack(ISN)] {
        assert_eq!(tcp(&mut model, segment).reason, Reason::PassNoService);
    }
}
