//! Rows that the model checker found missing, on the in-memory tables.

use super::{Segment, Steered, Transport, steer};
use crate::entries::{Cell, Commit, FlowKey, Service, State, Word};
use crate::model::Model;
use crate::net::Addr;
use crate::tables::{Found, SteerTables};
use crate::time::TICK_SHIFT;

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
