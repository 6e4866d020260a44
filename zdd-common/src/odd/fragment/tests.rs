//! What packet rows cannot show: the kernel's map of trails has no room.

use crate::entries::{Affinity, Backend, Cell, Commit, EndEntry, EndKind, Mode, NextHop, Port, Service};
use crate::model::Model;
use crate::net::{Addr, DirectKey, End, UDP};
use crate::process::{Verdict, process};
use crate::reason::Reason;

const OLD: u16 = 1;
const NEW: u16 = 2;
const VIP: [u8; 4] = [10, 0, 9, 1];
const BACKEND: [u8; 4] = [10, 0, 9, 2];

/// A service over UDP, settled on the old backend.
fn model() -> Model {
    let mut model = Model::new(8, 4);
    model.cells = vec![Cell::settled(OLD)];
    let service = Service {
        commit: Commit::new(0, 1).0,
        groups: 1,
        per_group: 1,
        affinity: Affinity::Flow as u32,
        ..Service::default()
    };
    model.services.insert(0, service);
    let vip = EndEntry { kind: EndKind::Vip as u16, ..EndEntry::default() };
    model.ends.insert(End::new(Addr::v4(VIP), 53u16.to_be(), UDP), vip);
    let address = EndEntry { kind: EndKind::Address as u16, ..EndEntry::default() };
    model.ends.insert(End::new(Addr::v4(VIP), 0, 0), address);
    for id in [OLD, NEW] {
        model.ports.insert(id, Port { ifindex: id.into(), ..Port::default() });
        let next_hop = NextHop::new([6, 0, 0, 0, 0, id as u8], id).0;
        model.backends.insert(id, Backend { next_hop, mode: Mode::L2 as u16, ..Backend::default() });
    }
    model
}

/// One of two fragments of datagram 7.
fn fragment(later: bool) -> Vec<u8> {
    let field = if later { [0, 2] } else { [0x20, 0] };
    let mut frame = [&[2; 12][..], &[8, 0, 0x45, 0, 0, 36, 0, 7], &field, &[64, UDP, 0, 0]].concat();
    frame.extend([[10, 0, 9, 10], VIP].concat());
    frame.extend([0x9c, 0x40, 0, 53, 0, 24, 0, 0]);
    frame.extend([0x6a; 8]);
    frame
}

/// The same from a backend's port 53 to the client.
fn answer(later: bool) -> Vec<u8> {
    let mut frame = fragment(later);
    frame[26..34].copy_from_slice(&[BACKEND, [10, 0, 9, 10]].concat());
    frame[34..38].copy_from_slice(&[0, 53, 0x9c, 0x40]);
    frame
}

#[test]
fn what_a_backend_says_by_itself_is_not_led_by_an_older_answer_of_its() {
    let mut model = model();
    let backend = End::new(Addr::v4(BACKEND), 53u16.to_be(), UDP);
    let nat = EndEntry {
        kind: EndKind::NatBackend as u16,
        vip: Addr::v4(VIP),
        vip_port: 53u16.to_be(),
        ..EndEntry::default()
    };
    model.ends.insert(backend, nat);
    let says = |model: &mut Model, later| process(&mut answer(later), model);
    let answered = says(&mut model, false);
    assert!(matches!(answered, Verdict::Pass(Reason::ReplyStackRouted)), "{answered:?}");
    assert_eq!(says(&mut model, true), answered);
    let (peer, peer_port) = (Addr::v4([10, 0, 9, 10]), 0x9c40u16.to_be());
    model.direct.insert(DirectKey { backend, peer, peer_port, zero: [0; 6] });
    assert_eq!(says(&mut model, false), Verdict::Pass(Reason::PassDirect));
    assert_eq!(says(&mut model, true), Verdict::Pass(Reason::PassFragment));
}

#[test]
fn a_trail_that_finds_no_room_leaves_no_older_one_to_follow() {
    let mut model = model();
    let to = |model: &mut Model, later| process(&mut fragment(later), model);
    assert_eq!(to(&mut model, false), Verdict::Redirect(OLD.into(), Reason::Settled));
    assert_eq!(to(&mut model, true), Verdict::Redirect(OLD.into(), Reason::Fragment));
    model.cells[0] = Cell::settled(NEW);
    model.trails_full = true;
    assert_eq!(to(&mut model, false), Verdict::Redirect(NEW.into(), Reason::Settled));
    assert_eq!(to(&mut model, true), Verdict::Drop(Reason::DropFragmentEarly), "not to the old backend");
    model.trails_full = false;
    assert_eq!(to(&mut model, false), Verdict::Redirect(NEW.into(), Reason::Settled));
    assert_eq!(to(&mut model, true), Verdict::Redirect(NEW.into(), Reason::Fragment));
}
