//! A small world of all modes and both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zdd_common::entries::{
    Affinity, Backend, BackendId, Cell, Commit, EndEntry, EndKind, Mode, NextHop, Port, Service,
};
use zdd_common::flows::Bucket;
use zdd_common::hash::HashKey;
use zdd_common::model::Model;
use zdd_common::net::{Addr, End, TCP, UDP};
use zdd_common::pace::Pace;
use zdd_common::rules;
use zdd_common::sources::Source;
use zdd_common::spans::Span;
use zdd_common::syn_filter::Line;
use zdd_common::tables::Route;

use crate::input::{Act, Input};

/// One service.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Mode of its backends.
    pub mode: Mode,
    /// Whether its VIP is IPv6.
    pub v6: bool,
    /// Whether its VIP is UDP.
    pub udp: bool,
}

const fn kind(mode: Mode, v6: bool, udp: bool) -> Kind {
    Kind { mode, v6, udp }
}

/// All services; a service's number is its place.
pub const SERVICES: [Kind; 8] = [
    kind(Mode::L2, false, false),
    kind(Mode::L2, true, false),
    kind(Mode::Nat, false, false),
    kind(Mode::Nat, true, false),
    kind(Mode::Ipip, false, false),
    kind(Mode::Ipip, true, false),
    kind(Mode::Nat, false, true),
    kind(Mode::Ipip, false, true),
];

/// First and last of the ports that every VIP has besides its own.
const SPAN: (u16, u16) = (8000, 8099);

fn span(end: EndEntry) -> Span {
    Span { end, first: SPAN.0.to_be(), zero: [0; 3] }
}

/// Backends of each service.
const EACH: u16 = 2;
/// The highest id of a backend.
pub const BACKENDS: BackendId = SERVICES.len() as u16 * EACH;
/// A client of each family.
pub const CLIENTS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7))];
/// MAC address behind every next hop.
const HOP: [u8; 6] = [2, 0, 0, 0, 0xbb, 1];
const CELLS: u32 = 2;

/// A service's VIP.
pub fn vip(id: usize) -> (IpAddr, u16) {
    let Kind { v6, udp, .. } = SERVICES[id];
    let addr = if v6 {
        Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, id as u16).into()
    } else {
        Ipv4Addr::new(10, 9, 0, id as u8).into()
    };
    (addr, if udp { 53 } else { 80 })
}

/// Ids of a service's backends.
pub fn backends(id: usize) -> std::ops::Range<u16> {
    let first = 1 + id as u16 * EACH;
    first..first + EACH
}

/// A backend's own address and port.
pub fn backend(id: usize, backend: BackendId) -> (IpAddr, u16) {
    // An IPv4 VIP of ipip has a backend of either family.
    let v6 = SERVICES[id].v6 || (matches!(SERVICES[id].mode, Mode::Ipip) && backend.is_multiple_of(2));
    let addr = if v6 {
        Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, backend).into()
    } else {
        Ipv4Addr::new(10, 1, 0, backend as u8).into()
    };
    (addr, if matches!(SERVICES[id].mode, Mode::Nat) { 8000 + backend } else { vip(id).1 })
}

/// The tables at the beginning of an input.
pub fn build(input: &mut Input<'_>) -> Model {
    let quota = u64::from(input.byte() % 6);
    let mut model = Model::new(8, quota);
    model.buckets = vec![Bucket::default(); 2];
    model.filter = vec![Line::default(); 4];
    model.now_ns = 1 << 40;
    model.cells = vec![Cell::default(); SERVICES.len() * CELLS as usize];
    model.ports.insert(1, Port { ifindex: 2, flags: 0, mac: [2, 0, 0, 0, 0, 2], tags: 0, mtu: 300 });
    model.ports.insert(2, Port { ifindex: 1, flags: Port::TX, mac: [2, 0, 0, 0, 0, 1], tags: 0, mtu: 0 });
    model.ports.insert(3, Port { ifindex: 2, flags: Port::STACK, mac: [2, 0, 0, 0, 0, 2], tags: 0, mtu: 0 });
    model.ports.insert(4, Port { ifindex: 2, flags: 0, mac: [2, 0, 0, 0, 0, 2], tags: 7, mtu: 0 });
    model.ingress = 1;
    model.redirects.extend([1, 2]);
    model.routes.insert(CLIENTS[0].into(), Route { ifindex: 1, src_mac: [2; 6], dst_mac: [4; 6], fits: 0 });
    sources(&mut model);
    for id in 0..SERVICES.len() {
        service(&mut model, id, input.byte());
    }
    model
}

/// Sets of sources: one denies the clients, one gives them to another service's cells.
fn sources(model: &mut Model) {
    for client in CLIENTS {
        let bits = if client.is_ipv4() { 120 } else { 64 };
        let mask = u128::MAX << (128 - bits);
        let first = Addr::v6((u128::from_be_bytes(Addr::from(client).octets()) & mask).to_be_bytes());
        model.sources.insert((1, first, bits), Source { flags: Source::DENIED, service: 0 });
        model.sources.insert((2, first, bits), Source { flags: 0, service: 2 });
        model.sources.insert((2, Addr::default(), 0), Source { flags: Source::DENIED, service: 0 });
    }
}

fn service(model: &mut Model, id: usize, state: u8) {
    let Kind { mode, udp, .. } = SERVICES[id];
    let proto = if udp { UDP } else { TCP };
    let number = id as u16;
    let affinity = [Affinity::Flow, Affinity::Client, Affinity::ClientVersion][id % 3];
    model.services.insert(
        number,
        Service {
            commit: Commit::new(number as u32 * CELLS, 1).0,
            key: HashKey { k0: 7, k1: id as u64 },
            groups: 1 + u32::from(id % 3 != 2),
            per_group: 1 + u32::from(id % 3 == 2),
            affinity: affinity as u32,
            udp_idle: 100,
            ..Service::default()
        },
    );
    let mine = backends(id);
    for cell in 0..CELLS as usize {
        let flags = u64::from(state >> (3 * cell) & 7) << 32;
        // Dirty cells are looked up (Cell::LOOKUP).
        let flags = if flags & Cell::DIRTY != 0 { flags | Cell::LOOKUP } else { flags & Cell::LOOKUP };
        let current = if flags & Cell::DIRTY != 0 { mine.end - 1 } else { mine.start };
        model.cells[id * CELLS as usize + cell] = Cell::new(mine.start, current, flags);
    }
    let (addr, port) = vip(id);
    let end = |(addr, port): (IpAddr, u16)| End::new(addr.into(), port.to_be(), proto);
    let entry =
        EndEntry { kind: EndKind::Vip as u16, service: number, id: 100 + number, ..EndEntry::default() };
    model.ends.insert(end((addr, port)), entry);
    model.spans.push((end((addr, SPAN.0)), SPAN, span(entry)));
    let address = EndEntry { kind: EndKind::Address as u16, ..EndEntry::default() };
    model.ends.insert(End::new(addr.into(), 0, 0), address);
    for number in mine {
        let own = backend(id, number);
        let source = if own.0.is_ipv6() { Addr::v6([0xfe; 16]) } else { Addr::v4([10, 255, 0, 0]) };
        model.backends.insert(
            number,
            Backend {
                addr: own.0.into(),
                next_hop: NextHop::new(HOP, 1).0,
                port: own.1.to_be(),
                mode: mode as u16,
                service: id as u32,
                source,
                spread: 0xffff,
                ..Backend::default()
            },
        );
        if matches!(mode, Mode::Nat) {
            let entry = EndEntry {
                kind: EndKind::NatBackend as u16,
                service: id as u16,
                id: number,
                vip_port: port.to_be(),
                vip: addr.into(),
                ..EndEntry::default()
            };
            model.ends.insert(end(own), entry);
            let entry = EndEntry { vip_port: SPAN.0.to_be(), ..entry };
            let first = own.1 + 1000;
            let ports = (first, first + SPAN.1 - SPAN.0);
            model.spans.push((end((own.0, first)), ports, Span { first: first.to_be(), ..span(entry) }));
        }
    }
}

/// Makes a VIP look its sources up or no longer, and limits its new connections or no longer.
fn admit(model: &mut Model, argument: u8) {
    let id = usize::from(argument) % SERVICES.len();
    let (addr, port) = vip(id);
    let end = End::new(addr.into(), port.to_be(), if SERVICES[id].udp { UDP } else { TCP });
    if let Some(entry) = model.ends.get_mut(&end) {
        entry.sources = u32::from(argument >> 3 & 3);
    }
    let pace =
        if argument & 0x20 == 0 { Pace::default() } else { Pace::new(10, 1 + u32::from(argument >> 6)) };
    if let Some(service) = model.services.get_mut(&(id as u16)) {
        (service.new_interval, service.new_burst) = (pace.interval, pace.burst);
    }
}

/// What is not a frame.
pub fn change(model: &mut Model, act: Act<'_>) {
    match act {
        Act::Frame(_) => {}
        Act::Time(steps) => model.now_ns += u64::from(steps) << 27,
        Act::Admit(argument) => admit(model, argument),
        Act::Hop(argument) => {
            let id = 1 + u16::from(argument) % BACKENDS;
            let port = u16::from(argument >> 4) % 6;
            let hop = if port == 0 { NextHop::default() } else { NextHop::new(HOP, port) };
            if let Some(backend) = model.backends.get_mut(&id) {
                backend.next_hop = hop.0;
            }
        }
        Act::Cell(argument) => {
            let index = usize::from(argument) % model.cells.len();
            let mine = backends(index / CELLS as usize);
            let cell = model.cells[index];
            model.cells[index] = match argument >> 5 {
                0..3 => rules::change(cell, mine.start + u16::from(argument >> 5 & 1)).0,
                3 => rules::forget(cell),
                4 => Cell(cell.0 & !Cell::ARMED),
                5 => rules::wiped(cell),
                6 => Cell::new(cell.current(), cell.current(), Cell::LOOKUP),
                _ => rules::remove(cell, mine.start),
            };
        }
    }
}
