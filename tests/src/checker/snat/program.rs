//! A packet's way through the real program: a frame in, the tables of the state, a frame out.

use std::cell::RefCell;

use zdd_common::entries::{Affinity, Backend, Cell, Commit, EndEntry, EndKind, Mode, NextHop, Port, Service};
use zdd_common::hash::HashKey;
use zdd_common::model::Model;
use zdd_common::net::{Addr, End, TCP, UDP};
use zdd_common::process::{Verdict, process};
use zdd_common::reason::Reason;
use zdd_common::snat::mapping::{Bucket, Mapping};
use zdd_common::tables::Route;
use zdd_common::time::Tick;

use super::config::{BACKENDS, Config, PORTS, Without};
use super::state::{Kind, Mid, NEVER, Packet, Way, at};
use super::traced::{Script, Traced};

const OURS: [u8; 4] = [10, 0, 2, 1];
const FIRST: u16 = 61_000;
const VIP: ([u8; 4], u16) = ([10, 9, 0, 1], 80);
const CLIENT: [u8; 4] = [192, 0, 2, 1];
const CLIENT_PORT: u16 = 4000;
const BACKEND_PORT: u16 = 8080;
/// Bucket and way of each port that may be given out: one in either bucket of the plane.
const OPEN: [(usize, usize); PORTS] = [(0, 2), (1, 5)];
/// The first sequence number that a connection's backend chooses: far from that of every other.
fn back_isn(packet: &Packet) -> u32 {
    5_000_000 + u32::from(packet.conn) * 1_000_000_000
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ran {
    /// It is still inside.
    Inside,
    /// It went to a backend (1 or 2) from a port of ours.
    Out(u8, u8),
    /// It went to a client.
    Back(u8),
    /// It went nowhere.
    Not(Reason),
}

/// The address of backend 1 or 2.
fn backend(number: u8) -> [u8; 4] {
    [10, 0, 3, number]
}

/// Which port of ours a number stands for.
fn port_number(port: u8) -> u16 {
    let (bucket, way) = OPEN[usize::from(port)];
    FIRST + (bucket * 8 + way) as u16
}

/// Everything but the mappings is the same in all states.
fn tables() -> Model<Traced> {
    let mut model = Model::<Traced> { epoch_shift: 9, quota: [4; 3], ..Model::default() };
    model.buckets = vec![Default::default(); 1];
    model.filter = vec![Default::default(); 1];
    let pool = &mut model.pool;
    (pool.key, pool.first, pool.ports, pool.planes) = (HashKey { k0: 1, k1: 2 }, FIRST, 16, 1);
    (pool.addresses, pool.sources[0][0]) = ([1, 0], Addr::v4(OURS));
    let port = Port { ifindex: 7, flags: 0, mac: [2; 6], tags: 0, mtu: 0 };
    model.ports.insert(1, port);
    let service = Service { groups: 1, per_group: 1, affinity: Affinity::Flow as u32, ..Service::default() };
    model.services.insert(1, Service { commit: Commit::new(0, 1).0, ..service });
    let vip = EndEntry { kind: EndKind::Vip as u16, service: 1, id: 9, ..EndEntry::default() };
    for proto in [TCP, UDP] {
        model.ends.insert(End::new(Addr::v4(VIP.0), VIP.1.to_be(), proto), vip);
    }
    for id in 1..=BACKENDS as u16 {
        let addr = Addr::v4(backend(id as u8));
        let next_hop = NextHop::new([3; 6], 1).0;
        let mode = Mode::Snat as u16;
        let port = BACKEND_PORT.to_be();
        model.backends.insert(id, Backend { addr, next_hop, port, mode, ..Backend::default() });
        let entry = EndEntry { kind: EndKind::SnatBackend as u16, service: 1, id, ..EndEntry::default() };
        for proto in [TCP, UDP] {
            model.ends.insert(End::new(addr, port, proto), entry);
        }
    }
    let route = Route { ifindex: 8, src_mac: [4; 6], dst_mac: [5; 6], fits: 0 };
    model.routes.insert(Addr::v4(CLIENT), route);
    model
}

thread_local! {
    static TABLES: RefCell<Model<Traced>> = RefCell::new(tables());
}

/// The ports that the node to which a packet comes gives out.
fn open(config: &Config, packet: &Packet) -> [Option<(usize, usize)>; PORTS] {
    let mut open = [None; PORTS];
    for (number, (to, at)) in open.iter_mut().zip(OPEN).enumerate().take(config.ports.into()) {
        *to = (config.nodes == 1 || usize::from(packet.port) == number).then_some(at);
    }
    open
}

fn lay(open: &[Option<(usize, usize)>; PORTS], ways: &[Way; PORTS]) -> Vec<Bucket> {
    // Somebody else's, of a backend that nobody here knows.
    let taken = Mapping::new(63, false, 0xdead, Tick(1)).0;
    let mut table = vec![Bucket { words: [taken; 8], ..Bucket::default() }; 2];
    for (way, at) in ways.iter().zip(open) {
        let Some((bucket, at)) = *at else { continue };
        let bucket = &mut table[bucket];
        [bucket.words[at], bucket.ports[at], bucket.reached[at]] = [way[0], way[1], way[2]];
        bucket.clients[at] = Addr { hi: way[3], lo: way[4] };
        bucket.vips[at] = Addr { hi: way[5], lo: way[6] };
    }
    table
}

fn take(open: &[Option<(usize, usize)>; PORTS], table: &[Bucket], ways: &mut [Way; PORTS]) {
    for (way, at) in ways.iter_mut().zip(open) {
        let Some((bucket, at)) = *at else { continue };
        let of = &table[bucket];
        let (client, vip) = (of.clients[at], of.vips[at]);
        *way = [of.words[at], of.ports[at], of.reached[at], client.hi, client.lo, vip.hi, vip.lo];
    }
}

/// Whose mapping it is: the client's number, if its key and VIP are those of one.
pub fn owner(way: &Way) -> Option<u8> {
    let client = Addr { hi: way[3], lo: way[4] };
    let port = u16::from_be(way[1] as u16).wrapping_sub(CLIENT_PORT);
    let whole = client == Addr::v4(CLIENT)
        && Addr { hi: way[5], lo: way[6] } == Addr::v4(VIP.0)
        && (way[1] >> 16) as u16 == VIP.1.to_be()
        && port < 4;
    whole.then_some(port as u8)
}

/// The tuple of a packet's connection; an attacker takes the first.
pub fn tuple_of(config: &Config, packet: &Packet) -> u8 {
    config.conns.get(usize::from(packet.conn)).map_or(0, |conn| conn.tuple)
}

/// The backend of a packet's connection.
pub fn backend_of(config: &Config, packet: &Packet) -> u8 {
    let conn = if packet.conn == NEVER { 0 } else { usize::from(packet.conn) };
    config.conns[conn].backend
}

fn frame(config: &Config, packet: &Packet) -> Vec<u8> {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;
    let client = (CLIENT, CLIENT_PORT + u16::from(tuple_of(config, packet)));
    let server = (backend(backend_of(config, packet)), BACKEND_PORT);
    let (src, dst) = match packet.kind.is_reply() {
        false => (client, VIP),
        true => (server, (OURS, port_number(packet.port))),
    };
    let flags = match packet.kind {
        Kind::Syn => SYN,
        Kind::SynAck => SYN | ACK,
        Kind::Fin | Kind::BackFin => FIN | ACK,
        Kind::Rst | Kind::BackRst => RST,
        _ => ACK,
    };
    let seq = match packet.kind {
        Kind::SynAck => back_isn(packet),
        kind if kind.is_reply() => back_isn(packet) + 1,
        _ => packet.seq,
    };
    let mut bytes = vec![2; 12];
    let (length, proto) = if config.udp { (28, UDP) } else { (40, TCP) };
    bytes.extend([8, 0, 0x45, 0, 0, length, 0, 0, 0x40, 0, 64, proto, 0, 0]);
    bytes.extend(src.0);
    bytes.extend(dst.0);
    bytes.extend(src.1.to_be_bytes());
    bytes.extend(dst.1.to_be_bytes());
    if config.udp {
        bytes.extend([0, 8, 0, 0]);
        return bytes;
    }
    bytes.extend(seq.to_be_bytes());
    bytes.extend([0, 0, 0, 1, 5 << 4, flags, 16, 0, 0, 0, 0, 0]);
    bytes
}

/// Reads a frame that came out.
fn read(bytes: &[u8]) -> Option<Ran> {
    let (src, dst) = (&bytes[26..30], &bytes[30..34]);
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let (src_port, dst_port) = (port(34), port(36));
    if dst == CLIENT && (src, src_port) == (&VIP.0, VIP.1) {
        return Some(Ran::Back((dst_port - CLIENT_PORT) as u8));
    }
    let number = (1..=BACKENDS as u8).find(|number| dst == backend(*number))?;
    let ours = (0..PORTS as u8).find(|ours| port_number(*ours) == src_port)?;
    (src == OURS && dst_port == BACKEND_PORT).then_some(Ran::Out(number, ours))
}

/// Runs a packet through the program: whole, or one operation further if it is inside.
pub fn run(config: &Config, ways: &mut [Way; PORTS], packet: &Packet, mid: Option<&mut Mid>) -> Ran {
    TABLES.with_borrow_mut(|model| {
        model.now_ns = at(if mid.is_some() { packet.age } else { 0 });
        model.cells = vec![Cell::settled(backend_of(config, packet).into())];
        let open = open(config, packet);
        model.mappings = lay(&open, ways);
        let mut bytes = frame(config, packet);
        let (verdict, whole) = match mid {
            None => (process(&mut bytes, model), true),
            Some(mid) => {
                let rivals_unseen = config.is_without(Without::Rival);
                let script = Script::new(mid, model.mappings.as_ptr(), open, rivals_unseen);
                let (verdict, told, whole) = script.follow(|| process(&mut bytes, model));
                *mid = told;
                (verdict, whole)
            }
        };
        take(&open, &model.mappings, ways);
        match verdict {
            _ if !whole => Ran::Inside,
            Verdict::Redirect(..) => {
                read(&bytes).unwrap_or_else(|| panic!("a frame to nobody: {bytes:02x?}, {packet:?}"))
            }
            other => Ran::Not(other.reason()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::state::Kind;
    use super::*;
    use crate::checker::snat::config::ISN;

    /// Stepped through operation by operation and run at once, a packet does the same.
    #[test]
    fn a_packet_that_is_stepped_through_does_what_it_does_at_once() {
        let config = Config { ports: 2, ..Config::base("test", "") };
        let syn = Packet { kind: Kind::Syn, conn: 0, seq: ISN, ..Packet::default() };
        let (mut whole, mut stepped) = ([[0; 7]; PORTS], [[0; 7]; PORTS]);
        let done = run(&config, &mut whole, &syn, None);
        let mut mid = Mid { packet: syn, ..Mid::default() };
        let mut operations = 1;
        while run(&config, &mut stepped, &syn, Some(&mut mid)) == Ran::Inside {
            operations += 1;
        }
        assert!(matches!(done, Ran::Out(1, _)) && operations > 10, "{done:?}, {operations} operations");
        assert_eq!(whole, stepped);
        let Ran::Out(_, port) = done else { unreachable!() };
        assert_eq!(owner(&whole[usize::from(port)]), Some(0));
        let answer = Packet { kind: Kind::SynAck, conn: 0, port, ..Packet::default() };
        assert_eq!(run(&config, &mut whole, &answer, None), Ran::Back(0));
    }
}
