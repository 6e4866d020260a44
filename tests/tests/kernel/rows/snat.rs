//! `snat`: both ends become others, out and back. All ports but one are taken, so that it is known which one a flow gets.

use std::net::IpAddr;

use zdd_common::entries::{Cell, EndEntry, EndKind, NextHop, Port};
use zdd_common::reason::Reason;
use zdd_common::snat::mapping::Mapping;
use zdd_common::time::Tick;

use super::Row;
use super::actions::{ABORTED, PASS, REDIRECT, TX};
use super::scene::{
    self, NAT, NAT_UDP, NAT_UDP_V6, NAT_V6, SNAT, SNAT_UDP, SNAT_UDP_V6, SNAT_V6, backend, cell, client, hop,
    is_udp, is_v6, mac, to_vip, vip,
};
use crate::frames::{ACK, FIN, L4, Pkt, RST, SYN};
use crate::odd_frames::{Error, VLAN, tagged};
use crate::rig::{
    FAR, FAR6, Link, MAC_A, MAC_B, Rig, SNAT_BUCKETS, SNAT_PORT, SNAT_SOURCE, SNAT_SOURCE6, neighbour_mac,
    neighbour4, neighbour6,
};

/// The port that is left: the fourth of the second bucket.
const LEFT: (usize, usize) = (1, 3);

/// Our end of the only mapping that there can be.
pub(super) fn ours(n: u16) -> (IpAddr, u16) {
    let source: IpAddr = if is_v6(n) { SNAT_SOURCE6.into() } else { SNAT_SOURCE.into() };
    (source, SNAT_PORT + (LEFT.0 * 8 + LEFT.1) as u16)
}

/// Takes every port, of both families, but so many ways of the bucket that is left.
pub(super) fn taken(rig: &Rig, left: bool) {
    for bucket in 0..SNAT_BUCKETS {
        for way in 0..8 {
            if left && bucket % 2 == LEFT.0 && way == LEFT.1 {
                continue;
            }
            let somebody = Mapping::new(63, false, 0xdead, Tick(1));
            // SAFETY: a mapped value; no thread runs the program.
            unsafe { (*rig.mappings.at(bucket)).words[way] = somebody.0 };
        }
    }
}

pub(super) fn row(what: impl Into<String>, frame: Vec<u8>) -> Row {
    Row::new(format!("snat: {}", what.into()), frame).with(|rig| taken(rig, true))
}

/// What a packet to the VIP becomes.
pub(super) fn sent(pkt: &Pkt, n: u16, src: [u8; 6]) -> Pkt {
    pkt.clone().src(ours(n)).dst(backend(n)).hops(pkt.hops - 1).macs(mac(n), src)
}

fn goes(what: impl Into<String>, pkt: &Pkt, n: u16, new_flow: bool) -> Row {
    row(what, pkt.bytes()).out(REDIRECT, sent(pkt, n, MAC_B).bytes(), Reason::Settled).counts(n, n, new_flow)
}

/// A packet of the backend's to our port.
pub(super) fn to_us(n: u16) -> Pkt {
    if is_udp(n) { Pkt::udp(backend(n), ours(n)) } else { Pkt::tcp(backend(n), ours(n), SYN | ACK, 7000) }
}

/// What it becomes for a client behind neighbour `host`.
pub(super) fn answered(pkt: &Pkt, n: u16, host: u8) -> Pkt {
    pkt.clone().src(vip(n)).dst(client(n)).hops(pkt.hops - 1).macs(neighbour_mac(Link::A, host), MAC_A)
}

/// The same, after the client's first packet.
pub(super) fn back(what: impl Into<String>, pkt: &Pkt, n: u16) -> Row {
    row(what, pkt.bytes()).from(Link::B).after(Link::A, to_vip(n).bytes())
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = vec![];
    for n in [SNAT, SNAT_UDP, SNAT_V6, SNAT_UDP_V6] {
        rows.extend(outward(n));
        rows.extend(homeward(n));
    }
    // Of a `nat` backend by a VIP that maps, all that is not about what comes by other ways holds, too.
    for n in [scene::MAPPED, scene::MAPPED_UDP_V6] {
        rows.extend(outward(n));
        rows.extend(homeward(n));
    }
    for n in [SNAT, SNAT_V6, scene::MAPPED] {
        rows.extend(connections(n));
    }
    for n in [NAT, NAT_UDP, NAT_V6, NAT_UDP_V6] {
        rows.extend(hairpins(n));
    }
    rows
}

/// `nat` backends as clients of their own VIP: only one that is sent to itself is mapped.
fn hairpins(n: u16) -> Vec<Row> {
    let name = |what: &str| format!("{what}, service {n}");
    // As the agent writes it where ports are given out.
    let mapped = move |rig: &mut Rig| {
        let (vip, vip_port) = (vip(n).0.into(), vip(n).1.to_be());
        let kind = EndKind::NatBackend as u16;
        let entry = EndEntry { kind, service: n, id: n, vip_port, vip, mapped: 1, ..EndEntry::default() };
        rig.plane.set_end(scene::end(backend(n), n), entry, "a backend").expect("a backend");
    };
    let own = to_vip(n).src((backend(n).0, 40_000)).macs(MAC_B, mac(n));
    let to_own = to_us(n).src(vip(n)).dst((backend(n).0, 40_000)).hops(63).macs(mac(n), MAC_B);
    let other = to_vip(n).src((client(n).0, 40_000));
    let plain = other.clone().dst(backend(n)).hops(63).macs(mac(n), MAC_B);
    let row = |what: &str, pkt: &Pkt| row(name(what), pkt.bytes()).from(Link::B).with(mapped);
    let mut rows = vec![
        row("a nat backend that is sent to itself", &own)
            .out(REDIRECT, sent(&own, n, MAC_B).bytes(), Reason::Settled)
            .counts(n, n, false),
        row("from the port that it serves", &own.clone().src(backend(n)))
            .out(REDIRECT, sent(&own, n, MAC_B).bytes(), Reason::Settled)
            .counts(n, n, false),
        row("what a nat backend answers itself", &to_us(n)).after(Link::B, own.bytes()).out(
            REDIRECT,
            to_own.bytes(),
            Reason::Reply,
        ),
        row("a neighbour of a nat backend that is not", &other)
            .out(REDIRECT, plain.bytes(), Reason::Settled)
            .counts(n, n, false),
        Row::new(name("a nat backend that is sent to itself, and no port is left"), own.bytes())
            .from(Link::B)
            .with(|rig| taken(rig, false))
            .drop(Reason::DropNoPort),
    ];
    // A router between us and the backend says that the VIP's packet, which the backend got as its client, is too big.
    let seen = Pkt { payload: vec![0x5a; 33], ..to_us(n) }.src(vip(n)).dst((backend(n).0, 40_000));
    let about = Pkt { payload: vec![0x5a; 33], ..to_us(n) };
    let error = Error::about(&seen.bytes(), mid(n), vip(n).0);
    let out = Error {
        macs: (mac(n), MAC_B),
        dst: backend(n).0,
        hops: 63,
        quote: about.bytes()[14..].to_vec(),
        ..error.clone()
    };
    let out = Error { src: ours(n).0, ..out };
    rows.push(
        super::snat::row(name("an error about what a nat backend answered itself"), error.bytes())
            .from(Link::B)
            .with(mapped)
            .after(Link::B, own.bytes())
            .out(REDIRECT, out.bytes(), Reason::IcmpError)
            .counts(n, n, false),
    );
    rows
}

/// A router on the way to the backends.
fn mid(n: u16) -> IpAddr {
    if is_v6(n) { neighbour6(Link::B, 17) } else { neighbour4(Link::B, 17) }
}

fn outward(n: u16) -> Vec<Row> {
    let name = |what: &str| format!("{what}, service {n}");
    let out = |what: &str| row(name(what), to_vip(n).bytes());
    let both = to_vip(n).src(ours(n)).dst(backend(n)).bytes();
    let source: IpAddr = ours(n).0;
    let mut rows = vec![
        goes(name("a first packet"), &to_vip(n), n, false),
        goes(name("the next one has the same port"), &to_vip(n).payload(b"more"), n, false)
            .after(Link::A, to_vip(n).bytes()),
        goes(name("an odd payload"), &to_vip(n).payload(&[0xa5; 777]), n, false),
        goes(name("hop limit 2"), &to_vip(n).hops(2), n, false),
        row(name("hop limit 1"), to_vip(n).hops(1).bytes()).drop(Reason::DropTtl),
        row(name("another flow finds no port"), to_vip(n).src((client(n).0, 40_001)).bytes())
            .after(Link::A, to_vip(n).bytes())
            .drop(Reason::DropNoPort),
        out("every port is taken").with(|rig| taken(rig, false)).drop(Reason::DropNoPort),
        goes(name("a flow that has one goes on when all are taken"), &to_vip(n), n, false)
            .after(Link::A, to_vip(n).bytes())
            .after(Link::A, to_vip(n).src((client(n).0, 40_001)).bytes()),
        out("bounced where it came in")
            .with(move |rig| hop(rig, n, scene::BOUNCE))
            .out(TX, sent(&to_vip(n), n, MAC_A).bytes(), Reason::Settled)
            .counts(n, n, false),
        out("the port's interface is gone")
            .with(move |rig| hop(rig, n, scene::GONE))
            .out(ABORTED, sent(&to_vip(n), n, MAC_B).bytes(), Reason::Settled)
            .counts(n, n, false),
        out("a port for the stack")
            .with(move |rig| hop(rig, n, scene::STACK))
            .out(PASS, both.clone(), Reason::StackRouted)
            .counts(n, n, false),
        out("next hop unresolved, our address is routed here")
            .with(move |rig| rig.plane.set_next_hop(n, NextHop(0)))
            .out(PASS, both, Reason::StackRouted)
            .counts(n, n, false),
        out("next hop unresolved, the stack would take our address for forged")
            .with(move |rig| rig.plane.set_next_hop(n, NextHop(0)))
            .with(move |rig| rig.plane.set_locals(&[source]).expect("room"))
            .drop(Reason::DropNoNextHop),
        out("no backend in the cell")
            .with(move |rig| cell(rig, n, Cell::settled(0)))
            .drop(Reason::DropNoBackend),
        row(name("to the backend's own address"), to_vip(n).dst(backend(n)).bytes()).pass(Reason::PassDirect),
    ];
    let frame = |pkt: &Pkt| tagged(&pkt.bytes(), &[(VLAN, 7)]);
    rows.push(
        row(name("with a tag"), frame(&to_vip(n)))
            .with(|rig| {
                let port = Port { tags: 7, ..rig.plane.port(scene::REDIRECT) };
                rig.plane.set_port(scene::REDIRECT, port).expect("a port");
            })
            .out(REDIRECT, frame(&sent(&to_vip(n), n, MAC_B)), Reason::Settled)
            .counts(n, n, false),
    );
    // The backend calls the VIP of which it is the backend.
    let own = to_vip(n).src((backend(n).0, 40_000)).macs(MAC_B, mac(n));
    rows.push(
        row(name("a backend as client of its own VIP"), own.bytes())
            .from(Link::B)
            .out(REDIRECT, sent(&own, n, MAC_B).bytes(), Reason::Settled)
            .counts(n, n, false),
    );
    let to_own = to_us(n).src(vip(n)).dst((backend(n).0, 40_000)).hops(63).macs(mac(n), MAC_B);
    rows.push(
        row(name("and what it answers itself"), to_us(n).bytes())
            .from(Link::B)
            .after(Link::B, own.bytes())
            .out(REDIRECT, to_own.bytes(), Reason::Reply),
    );
    if !is_udp(n) {
        let syn = Pkt { l4: L4::Tcp(SYN, 1), ..to_vip(n) };
        rows.push(goes(name("a SYN"), &syn, n, true));
    } else {
        let without = Pkt { l4: L4::Udp(false), ..to_vip(n) };
        rows.push(goes(name("without a checksum"), &without, n, false));
    }
    rows
}

fn homeward(n: u16) -> Vec<Row> {
    let name = |what: &str| format!("{what}, service {n}");
    let far: IpAddr = if is_v6(n) { FAR6.into() } else { FAR.into() };
    let from_far = to_vip(n).src((far, 555));
    let to_far = to_us(n).src(vip(n)).dst((far, 555)).hops(63).macs(neighbour_mac(Link::A, 17), MAC_A);
    let stack = to_us(n).src(vip(n)).dst(client(n)).bytes();
    let beyond = (ours(n).0, SNAT_PORT + 16);
    let source = ours(n).0;
    // What a `nat` backend sends to others is a reply of its own VIP.
    let vips =
        |pkt: &Pkt, host| pkt.clone().src(vip(n)).hops(63).macs(neighbour_mac(Link::A, host), MAC_A).bytes();
    let others = |row: Row, pkt: &Pkt, host| match scene::is_mapped(n) {
        true => row.out(REDIRECT, vips(pkt, host), Reason::Reply),
        false => row.pass(Reason::PassDirect),
    };
    let mut rows = vec![];
    let asked = to_us(n).dst(client(n));
    rows.push(others(back(name("to somebody who asked the backend itself"), &asked, n), &asked, 10));
    if !scene::is_mapped(n) {
        let row = back(name("to a port beyond the range"), &to_us(n).dst(beyond), n);
        rows.push(row.pass(Reason::PassDirect));
    }
    rows.extend([
        back(name("an answer"), &to_us(n), n).out(
            REDIRECT,
            answered(&to_us(n), n, 10).bytes(),
            Reason::Reply,
        ),
        back(name("an answer with a payload"), &to_us(n).payload(&[9; 1001]), n).out(
            REDIRECT,
            answered(&to_us(n).payload(&[9; 1001]), n, 10).bytes(),
            Reason::Reply,
        ),
        row(name("an answer to somebody behind a router"), to_us(n).bytes())
            .from(Link::B)
            .after(Link::A, from_far.bytes())
            .out(REDIRECT, to_far.bytes(), Reason::Reply),
        back(name("an answer with hop limit 1"), &to_us(n).hops(1), n).drop(Reason::DropTtl),
        back(name("an answer when the interface takes no redirects"), &to_us(n), n)
            .with(|rig| rig.plane.set_redirect(rig.a, false).expect("known"))
            .out(PASS, stack, Reason::ReplyStackRouted),
        row(name("to a port that is no flow's"), to_us(n).bytes()).from(Link::B).pass(Reason::PassNoMapping),
        back(name("to a port of somebody else's backend"), &to_us(n).dst((ours(n).0, SNAT_PORT)), n)
            .pass(Reason::PassNoMapping),
        back(name("to a probe of ours"), &to_us(n).dst(beyond), n)
            .with(move |rig| rig.plane.set_locals(&[source]).expect("room"))
            .pass(Reason::PassLocal),
        back(name("from another port of the backend"), &to_us(n).src((backend(n).0, 9)), n)
            .pass(Reason::PassNotVip),
    ]);
    rows
}

/// What ends a connection, and what does not, seen by whether its port is still its own.
fn connections(n: u16) -> Vec<Row> {
    let out = |flags: u8, seq: u32| Pkt { l4: L4::Tcp(flags, seq), ..to_vip(n) };
    let name = |what: &str| format!("{what}, service {n}");
    [("FIN", FIN | ACK), ("RST", RST), ("SYN", SYN)]
        .into_iter()
        .map(|(what, flags)| {
            let new = flags == SYN;
            goes(name(&format!("{what} in the middle")), &out(flags, 1001), n, new)
                .after(Link::A, to_vip(n).bytes())
                .after(Link::B, to_us(n).bytes())
        })
        .collect()
}
