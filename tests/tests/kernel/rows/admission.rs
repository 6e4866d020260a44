//! VIPs of many ports, sources that are denied or have a row of their own, and limits of new connections.

use zdd_agent::dataplane::{Ends, SourceSet};
use zdd_common::entries::{Cell, EndEntry, EndKind};
use zdd_common::pace::Pace;
use zdd_common::reason::Reason;
use zdd_common::sources::Source;

use super::Row;
use super::actions::REDIRECT;
use super::scene::{
    self, L2, L2_UDP, L2_V6, NAT, NAT_UDP, NAT_UDP_V6, NAT_V6, OTHER, backend, client, mac, to_client,
    to_vip, vip,
};
use crate::frames::{ACK, L3, L4, Pkt, SYN};
use crate::odd_frames::{Error, fragments};
use crate::rig::{Link, MAC_A, MAC_B, Rig, neighbour_mac, neighbour4, neighbour6};

/// The first port of the VIPs of many ports, and of the backends behind them.
const FIRST: u16 = 8000;
/// How many follow it.
const MORE: u16 = 99;

pub(super) fn rows() -> Vec<Row> {
    let mut rows = vec![];
    for n in [L2, L2_UDP, L2_V6, NAT, NAT_UDP, NAT_V6, NAT_UDP_V6] {
        rows.extend(ranges(n));
        rows.extend(sources(n));
    }
    rows.extend(precedence());
    for n in [NAT, NAT_UDP, NAT_V6, NAT_UDP_V6] {
        rows.extend(replies(n));
    }
    for n in [L2, NAT, L2_V6, NAT_V6] {
        rows.extend(paces(n));
    }
    rows
}

/// Gives a service a VIP of many ports beside its own.
fn span(rig: &mut Rig, n: u16, first: u16, more: u16) {
    let entry = EndEntry { kind: EndKind::Vip as u16, service: n, id: n, ..EndEntry::default() };
    let ends = Ends { first: scene::end((vip(n).0, first), n), more };
    rig.plane.set_ends(ends, entry, "a VIP").expect("a VIP");
    if scene::is_nat(n) {
        let (vip, vip_port) = (vip(n).0.into(), first.to_be());
        let kind = EndKind::NatBackend as u16;
        let entry = EndEntry { kind, service: n, id: n, vip_port, vip, ..EndEntry::default() };
        let ends = Ends { first: scene::end(backend(n), n), more };
        rig.plane.set_ends(ends, entry, "a backend").expect("a backend");
    }
}

/// A packet to one of its ports.
fn to_port(n: u16, port: u16) -> Pkt {
    to_vip(n).dst((vip(n).0, port))
}

/// What becomes of it, so many ports behind the first.
fn sent(pkt: &Pkt, n: u16, behind: u16) -> Vec<u8> {
    let (addr, port) = backend(n);
    let pkt = pkt.clone().macs(mac(n), MAC_B);
    if scene::is_nat(n) { pkt.hops(63).dst((addr, port + behind)).bytes() } else { pkt.bytes() }
}

fn ranges(n: u16) -> Vec<Row> {
    let mut rows = vec![];
    for port in [FIRST, FIRST + 1, 8063, 8064, 8095, FIRST + MORE] {
        rows.push(
            Row::new(format!("port {port} of a range, service {n}"), to_port(n, port).bytes())
                .with(move |rig| span(rig, n, FIRST, MORE))
                .out(REDIRECT, sent(&to_port(n, port), n, port - FIRST), Reason::Settled)
                .counts(n, n, false),
        );
    }
    for port in [FIRST - 1, FIRST + MORE + 1, 1] {
        rows.push(
            Row::new(format!("port {port} beside a range, service {n}"), to_port(n, port).bytes())
                .with(move |rig| span(rig, n, FIRST, MORE))
                .pass(Reason::PassNotVip),
        );
    }
    let gone =
        Row::new(format!("a port of a range that was removed, service {n}"), to_port(n, FIRST).bytes())
            .with(move |rig| span(rig, n, FIRST, MORE))
            .with(move |rig| {
                rig.plane.remove_ends(Ends { first: scene::end((vip(n).0, FIRST), n), more: MORE });
            })
            .pass(Reason::PassNotVip);
    rows.push(gone);
    rows
}

/// A packet that `n` takes though the port lies in ranges of `others` {service, first port, how many follow}.
fn goes_before(name: &str, n: u16, port: u16, others: &[(u16, u16, u16)]) -> Row {
    let others = others.to_vec();
    Row::new(name, to_port(L2, port).bytes())
        .with(move |rig| {
            for (service, first, more) in &others {
                let entry = EndEntry {
                    kind: EndKind::Vip as u16,
                    service: *service,
                    id: *service,
                    ..EndEntry::default()
                };
                let ends = Ends { first: scene::end((vip(L2).0, *first), L2), more: *more };
                rig.plane.set_ends(ends, entry, "a VIP").expect("a VIP");
            }
        })
        .out(REDIRECT, to_port(L2, port).macs(mac(n), MAC_B).bytes(), Reason::Settled)
        .counts(n, n, false)
}

fn precedence() -> Vec<Row> {
    let all = (OTHER, 0, u16::MAX);
    let range = (L2_UDP, 1, 65_534);
    vec![
        goes_before("a port goes before a range of it", L2, 80, &[(L2_UDP, 1, 65_534)]),
        goes_before("a port goes before all ports", L2, 80, &[all]),
        goes_before("a range goes before all ports", L2_UDP, 81, &[all, range]),
        goes_before("a range goes before all ports that came later", L2_UDP, 65_535, &[range, all]),
        goes_before("all ports take the rest", OTHER, 9999, &[all, (L2_UDP, 8000, 99)]),
        Row::new("all ports of another protocol", to_port(L2_UDP, 99).bytes())
            .with(|rig| {
                let entry =
                    EndEntry { kind: EndKind::Vip as u16, service: L2, id: L2, ..EndEntry::default() };
                let ends = Ends { first: scene::end((vip(L2_UDP).0, 0), L2), more: u16::MAX };
                rig.plane.set_ends(ends, entry, "a VIP").expect("a VIP");
            })
            .pass(Reason::PassNotVip),
    ]
}

fn replies(n: u16) -> Vec<Row> {
    let (addr, port) = backend(n);
    let router = if scene::is_v6(n) { neighbour6(Link::A, 17) } else { neighbour4(Link::A, 17) };
    let set = move |rig: &mut Rig| span(rig, n, FIRST, MORE);
    let mut rows = vec![];
    for behind in [0, 1, 50, MORE] {
        let pkt = to_client(n).src((addr, port + behind));
        // The first port is the end of a VIP of one port too, and that goes first.
        let seen = if behind == 0 { vip(n) } else { (vip(n).0, FIRST + behind) };
        let out = pkt.clone().src(seen).hops(63).macs(neighbour_mac(Link::A, 10), MAC_A);
        let name = format!("a reply from port {} of a range, service {n}", port + behind);
        rows.push(Row::new(name, pkt.bytes()).from(Link::B).with(set).out(
            REDIRECT,
            out.bytes(),
            Reason::Reply,
        ));
        let name = format!("an error about a reply from port {} of a range, service {n}", port + behind);
        let own = Pkt { payload: vec![0x5a; 33], ..pkt.clone() };
        let error = Error::about(&own.clone().src(seen).bytes(), router, vip(n).0);
        let mut out = Error { macs: (mac(n), MAC_B), dst: addr, hops: 63, ..error.clone() };
        out.quote = own.bytes()[L3..].to_vec();
        rows.push(
            Row::new(name, error.bytes())
                .with(set)
                .out(REDIRECT, out.bytes(), Reason::IcmpError)
                .counts(n, n, false),
        );
        let name =
            format!("a backend's error about a packet to port {} of a range, service {n}", port + behind);
        let asked = to_vip(n).dst((addr, port + behind)).bytes();
        let error = Error {
            kind: if scene::is_v6(n) { (1, 4) } else { (3, 3) },
            ..Error::about(&asked, addr, client(n).0)
        };
        let mut out =
            Error { macs: (neighbour_mac(Link::A, 10), MAC_A), src: vip(n).0, hops: 63, ..error.clone() };
        out.quote = to_vip(n).dst(seen).bytes()[L3..].to_vec();
        rows.push(Row::new(name, error.bytes()).from(Link::B).with(set).out(
            REDIRECT,
            out.bytes(),
            Reason::Reply,
        ));
    }
    let beside = to_client(n).src((addr, port + MORE + 1));
    rows.push(
        Row::new(format!("a packet from a port beside a range, service {n}"), beside.bytes())
            .from(Link::B)
            .with(set)
            .pass(Reason::PassNotVip),
    );
    let direct = to_vip(n).dst((addr, port + 7));
    let answer = to_client(n).src((addr, port + 7));
    rows.push(
        Row::new(
            format!("an answer to who asked a port of the backend's range itself, service {n}"),
            answer.bytes(),
        )
        .from(Link::B)
        .with(set)
        .after(Link::A, direct.bytes())
        .pass(Reason::PassDirect),
    );
    rows
}

/// Gives a service's VIP a set of sources.
fn know(rig: &mut Rig, n: u16, table: &[(&str, u16, u16)]) {
    let entry = |(prefix, flags, service): &(&str, u16, u16)| {
        (prefix.parse().expect("a prefix"), Source { flags: *flags, service: *service })
    };
    let table: SourceSet = table.iter().map(entry).collect();
    rig.plane.write_sources(7, &table).expect("room");
    let entry = EndEntry { kind: EndKind::Vip as u16, service: n, id: n, sources: 7, ..EndEntry::default() };
    rig.plane.set_end(scene::end(vip(n), n), entry, "a VIP").expect("a VIP");
}

fn sources(n: u16) -> Vec<Row> {
    let no = Source::DENIED;
    let (near, wide, all, other) = if scene::is_v6(n) {
        ("fd00:1::a/128", "fd00:1::/64", "::/0", "fd00:1::b/128")
    } else {
        ("10.0.1.10/32", "10.0.1.0/24", "0.0.0.0/0", "10.0.1.11/32")
    };
    let row = |what: &str, table: &[(&'static str, u16, u16)]| {
        let table = table.to_vec();
        Row::new(format!("sources: {what}, service {n}"), to_vip(n).bytes())
            .with(move |rig| know(rig, n, &table))
    };
    let goes = |row: Row| row.out(REDIRECT, sent(&to_vip(n), n, 0), Reason::Settled).counts(n, n, false);
    let mut rows = vec![
        row("denied", &[(near, no, n)]).drop(Reason::DropDenied),
        row("denied by a prefix", &[(wide, no, n), (other, 0, n)]).drop(Reason::DropDenied),
        row("everybody denied", &[(all, no, n)]).drop(Reason::DropDenied),
        goes(row("another one denied", &[(other, no, n)])),
        goes(row("allowed by the longer prefix", &[(all, no, n), (wide, no, n), (near, 0, n)])),
        row("denied by the longer prefix", &[(all, 0, n), (near, no, n)]).drop(Reason::DropDenied),
        row("with a row that does not exist", &[(near, 0, 60_000)]).pass(Reason::PassNoService),
    ];
    // Cells of its own, another's counters.
    let own = row("with a row of cells of its own", &[(wide, 0, OTHER)])
        .with(move |rig| scene::cell(rig, OTHER, Cell::settled(n)));
    rows.push(own.out(REDIRECT, sent(&to_vip(n), n, 0), Reason::Settled).counts(OTHER, n, false));
    // A set of another number says nothing.
    rows.push(goes(Row::new(format!("sources: of another VIP, service {n}"), to_vip(n).bytes()).with(
        move |rig| {
            let denied = (near.parse().expect("a prefix"), Source { flags: no, service: n });
            rig.plane.write_sources(8, &[denied].into()).expect("room");
            let entry =
                EndEntry { kind: EndKind::Vip as u16, service: n, id: n, sources: 7, ..EndEntry::default() };
            rig.plane.set_end(scene::end(vip(n), n), entry, "a VIP").expect("a VIP");
        },
    )));
    let pieces = fragments(&to_vip(n).payload(&[7; 100]).bytes(), 48);
    for (what, piece, reason) in
        [("first", &pieces[0], Reason::DropDenied), ("later", &pieces[1], Reason::DropFragmentEarly)]
    {
        let row = Row::new(format!("sources: a {what} fragment, denied, service {n}"), piece.clone())
            .with(move |rig| know(rig, n, &[(near, no, n)]))
            .after(Link::A, pieces[0].clone());
        rows.push(row.drop(reason));
    }
    let router = if scene::is_v6(n) { neighbour6(Link::A, 17) } else { neighbour4(Link::A, 17) };
    let error = Error::about(&to_client(n).src(vip(n)).bytes(), router, vip(n).0);
    rows.push(
        Row::new(format!("sources: an error about a flow of one that is denied, service {n}"), error.bytes())
            .with(move |rig| know(rig, n, &[(near, no, n)]))
            .drop(Reason::DropDenied),
    );
    rows
}

/// One connection every four seconds and a little, and one at once.
const SLOW: Pace = Pace { interval: u32::MAX, burst: 1 };

fn syn(n: u16, port: u16, seq: u32) -> Pkt {
    let (addr, _) = client(n);
    Pkt { l4: L4::Tcp(SYN, seq), ..to_vip(n).src((addr, port)) }
}

fn paces(n: u16) -> Vec<Row> {
    let row = |what: &str, pkt: &Pkt, burst: u32| {
        Row::new(format!("limit: {what}, service {n}"), pkt.bytes())
            .with(move |rig| rig.plane.set_pace(n, Pace { burst, ..SLOW }))
            .after(Link::A, syn(n, 40_000, 1).bytes())
    };
    let goes = |row: Row, pkt: &Pkt, new: bool| {
        row.out(REDIRECT, sent(pkt, n, 0), Reason::Settled).counts(n, n, new)
    };
    let (second, again) = (syn(n, 40_001, 2), syn(n, 40_000, 1));
    let ack = Pkt { l4: L4::Tcp(ACK, 7), ..second.clone() };
    let elsewhere = if scene::is_v6(n) { "fd00:1:0:1::a" } else { "10.0.1.11" }.parse().expect("an address");
    let other = second.clone().src((elsewhere, 40_001));
    let mut rows = vec![
        row("a second connection", &second, 1).drop(Reason::DropRate),
        // What was refused is not remembered as a SYN that was seen.
        row("a second connection tried again", &second, 1)
            .after(Link::A, second.bytes())
            .drop(Reason::DropRate),
        goes(row("a second connection within the burst", &second, 2), &second, true),
        row("a third connection", &syn(n, 40_002, 3), 2)
            .after(Link::A, second.bytes())
            .drop(Reason::DropRate),
        goes(row("a SYN that was seen before", &again, 1), &again, false),
        goes(row("a packet that begins nothing", &ack, 1), &ack, false),
        goes(row("another source", &other, 1), &other, true),
        goes(
            Row::new(format!("limit: none, service {n}"), second.bytes())
                .after(Link::A, syn(n, 40_000, 1).bytes()),
            &second,
            true,
        ),
    ];
    // On a changing cell the entry decides, and is made for nobody who is refused.
    let changing = move |rig: &mut Rig| scene::cell(rig, n, Cell::new(n, n, Cell::DIRTY | Cell::LOOKUP));
    rows.push(
        row("a second connection of a changing cell", &second, 1)
            .then(changing)
            .untouched()
            .drop(Reason::DropRate),
    );
    if scene::is_v6(n) {
        let near = second.clone().src(("fd00:1::99".parse().expect("an address"), 40_001));
        rows.push(row("another address of the same 64 bits", &near, 1).drop(Reason::DropRate));
    }
    rows
}
