//! `snat`: both ends become others, out and back. All ports but one are taken, so that it is known which one a flow gets.

use std::net::IpAddr;

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber, Ipv4Header, Ipv6Header};
use zdd_common::entries::{Cell, NextHop, Port};
use zdd_common::reason::Reason;
use zdd_common::snat::mapping::Mapping;
use zdd_common::time::Tick;

use super::actions::{ABORTED, PASS, REDIRECT, TX};
use super::scene::{
    self, NAT, NAT_V6, SNAT, SNAT_UDP, SNAT_UDP_V6, SNAT_V6, backend, cell, client, hop, is_udp, is_v6, mac,
    to_vip, vip,
};
use super::{Row, patch};
use crate::frames::{ACK, FIN, L3, L4, Pkt, RST, SYN};
use crate::odd_frames::{Error, VLAN, fragments, tagged};
use crate::rig::{
    FAR, FAR6, Link, MAC_A, MAC_B, NARROW, Rig, SNAT_BUCKETS, SNAT_PORT, SNAT_SOURCE, SNAT_SOURCE6,
    neighbour_mac, neighbour4, neighbour6,
};

/// The port that is left: the fourth of the second bucket.
const LEFT: (usize, usize) = (1, 3);

/// Our end of the only mapping that there can be.
fn ours(n: u16) -> (IpAddr, u16) {
    let source: IpAddr = if is_v6(n) { SNAT_SOURCE6.into() } else { SNAT_SOURCE.into() };
    (source, SNAT_PORT + (LEFT.0 * 8 + LEFT.1) as u16)
}

/// Takes every port, of both families, but so many ways of the bucket that is left.
fn taken(rig: &Rig, left: bool) {
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

fn row(what: impl Into<String>, frame: Vec<u8>) -> Row {
    Row::new(format!("snat: {}", what.into()), frame).with(|rig| taken(rig, true))
}

/// What a packet to the VIP becomes.
fn sent(pkt: &Pkt, n: u16, src: [u8; 6]) -> Pkt {
    pkt.clone().src(ours(n)).dst(backend(n)).hops(pkt.hops - 1).macs(mac(n), src)
}

fn goes(what: impl Into<String>, pkt: &Pkt, n: u16, new_flow: bool) -> Row {
    row(what, pkt.bytes()).out(REDIRECT, sent(pkt, n, MAC_B).bytes(), Reason::Settled).counts(n, n, new_flow)
}

/// A packet of the backend's to our port.
fn to_us(n: u16) -> Pkt {
    if is_udp(n) { Pkt::udp(backend(n), ours(n)) } else { Pkt::tcp(backend(n), ours(n), SYN | ACK, 7000) }
}

/// What it becomes for a client behind neighbour `host`.
fn answered(pkt: &Pkt, n: u16, host: u8) -> Pkt {
    pkt.clone().src(vip(n)).dst(client(n)).hops(pkt.hops - 1).macs(neighbour_mac(Link::A, host), MAC_A)
}

/// The same, after the client's first packet.
fn back(what: impl Into<String>, pkt: &Pkt, n: u16) -> Row {
    row(what, pkt.bytes()).from(Link::B).after(Link::A, to_vip(n).bytes())
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = vec![];
    for n in [SNAT, SNAT_UDP, SNAT_V6, SNAT_UDP_V6] {
        rows.extend(outward(n));
        rows.extend(homeward(n));
        rows.extend(errors(n));
        rows.extend(pieces(n));
    }
    // Of a `nat` backend by a VIP that maps, all that is not about what comes by other ways holds, too.
    for n in [scene::MAPPED, scene::MAPPED_UDP_V6] {
        rows.extend(outward(n));
        rows.extend(homeward(n));
        rows.extend(errors(n));
        rows.extend(pieces(n));
    }
    for n in [SNAT, SNAT_V6, scene::MAPPED] {
        rows.extend(connections(n));
        rows.extend(segments(n, false));
    }
    for n in [SNAT, SNAT_V6, SNAT_UDP, SNAT_UDP_V6, NAT, NAT_V6] {
        rows.extend(sizes(n));
    }
    for n in [NAT, NAT_V6] {
        rows.extend(segments(n, true));
    }
    rows
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

fn errors(n: u16) -> Vec<Row> {
    let name = |what: &str| format!("{what}, service {n}");
    let router = |link| if is_v6(n) { neighbour6(link, 13) } else { neighbour4(link, 13) };
    // About what the backend sent, as the client's side saw it.
    let seen = to_us(n).payload(&[0x5a; 33]).src(vip(n)).dst(client(n));
    let own = to_us(n).payload(&[0x5a; 33]);
    let error = Error::about(&seen.bytes(), router(Link::A), vip(n).0);
    let out = Error {
        macs: (mac(n), MAC_B),
        src: ours(n).0,
        dst: backend(n).0,
        hops: error.hops - 1,
        quote: own.bytes()[L3..].to_vec(),
        ..error.clone()
    };
    let after = |row: Row| row.after(Link::A, to_vip(n).bytes());
    let mut rows = vec![
        after(row(name("an error for the VIP"), error.bytes()))
            .out(REDIRECT, out.bytes(), Reason::IcmpError)
            .counts(n, n, false),
        row(name("an error about a flow that has no port"), error.bytes()).pass(Reason::PassNoMapping),
    ];
    // About what we sent to the backend.
    let asked = to_vip(n).payload(&[0x5a; 33]).hops(63);
    let ours_there = asked.clone().src(ours(n)).dst(backend(n));
    for (what, from, becomes) in [
        ("a backend's error comes from the VIP", backend(n).0, vip(n).0),
        ("a router's keeps its address", router(Link::B), router(Link::B)),
    ] {
        let error = Error::about(&ours_there.bytes(), from, ours(n).0);
        let told = Error {
            macs: (neighbour_mac(Link::A, 10), MAC_A),
            src: becomes,
            dst: client(n).0,
            hops: error.hops - 1,
            quote: asked.bytes()[L3..].to_vec(),
            ..error.clone()
        };
        rows.push(after(row(name(what), error.bytes())).from(Link::B).out(
            REDIRECT,
            told.bytes(),
            Reason::Reply,
        ));
        rows.push(
            row(name(&format!("{what}: no flow's port")), error.bytes())
                .from(Link::B)
                .pass(Reason::PassNoMapping),
        );
    }
    rows
}

fn pieces(n: u16) -> Vec<Row> {
    let name = |what: &str| format!("{what}, service {n}");
    let whole = |pkt: Pkt| fragments(&pkt.payload(&[0x77; 270]).bytes(), 64);
    let (asked, gone) = (whole(to_vip(n)), whole(sent(&to_vip(n), n, MAC_B)));
    let (answer, home) = (whole(to_us(n)), whole(answered(&to_us(n), n, 10)));
    let mut rows = vec![
        row(name("a first fragment"), asked[0].clone())
            .out(REDIRECT, gone[0].clone(), Reason::Settled)
            .counts(n, n, false),
        row(name("a later fragment without the first"), asked[1].clone()).drop(Reason::DropFragmentEarly),
        row(name("a backend's later fragment without the first"), answer[1].clone())
            .from(Link::B)
            .after(Link::A, to_vip(n).bytes())
            .pass(Reason::PassFragment),
        row(name("a backend's first fragment"), answer[0].clone())
            .from(Link::B)
            .after(Link::A, to_vip(n).bytes())
            .out(REDIRECT, home[0].clone(), Reason::Reply),
    ];
    for at in 1..asked.len() {
        rows.push(
            row(name(&format!("fragment {at}")), asked[at].clone())
                .after(Link::A, asked[0].clone())
                .out(REDIRECT, gone[at].clone(), Reason::Fragment)
                .counts(n, n, false),
        );
        rows.push(
            row(name(&format!("a backend's fragment {at}")), answer[at].clone())
                .from(Link::B)
                .after(Link::A, to_vip(n).bytes())
                .after(Link::B, answer[0].clone())
                .out(REDIRECT, home[at].clone(), Reason::Reply),
        );
    }
    rows
}

/// A slot that no other row uses.
const TIGHT: u16 = 6;

fn tight(n: u16, mtu: u32) -> impl Fn(&mut Rig) {
    move |rig| {
        rig.plane
            .set_port(TIGHT, Port { ifindex: rig.b, flags: 0, mac: MAC_B, tags: 0, mtu })
            .expect("a port");
        hop(rig, n, TIGHT);
    }
}

/// A packet of this length, not to be cut.
fn long(pkt: &Pkt, length: usize) -> Vec<u8> {
    let empty = pkt.clone().payload(b"").bytes().len() - L3;
    let frame = pkt.clone().payload(&vec![0x3c; length - empty]).bytes();
    if frame[12] == 0x86 { frame } else { super::ipip::summed(patch(frame, L3 + 6, &[0x40, 0])) }
}

/// The error that tells the sender of `frame` about `mtu`.
fn told(frame: &[u8], src: IpAddr, dst: IpAddr, mtu: u32) -> Vec<u8> {
    let mut out = [&frame[6..12], &frame[..6], &frame[12..14]].concat();
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let quote = &frame[L3..L3 + 544];
            let kind = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu as u16 };
            let icmp = Icmpv4Header::with_checksum(Icmpv4Type::DestinationUnreachable(kind), quote);
            let mut ip =
                Ipv4Header::new(8 + 544, 64, IpNumber::ICMP, src.octets(), dst.octets()).expect("it fits");
            ip.dscp = 48.try_into().expect("six bits");
            ip.dont_fragment = true;
            ip.header_checksum = ip.calc_header_checksum();
            out.extend([&ip.to_bytes()[..], &icmp.to_bytes()[..], quote].concat());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let quote = &frame[L3..L3 + 1232];
            let kind = Icmpv6Type::PacketTooBig { mtu };
            let icmp = Icmpv6Header::with_checksum(kind, src.octets(), dst.octets(), quote).expect("it fits");
            let ip = Ipv6Header {
                traffic_class: 0xc0,
                payload_length: 8 + 1232,
                next_header: IpNumber::IPV6_ICMP,
                hop_limit: 64,
                source: src.octets(),
                destination: dst.octets(),
                ..Ipv6Header::default()
            };
            out.extend([&ip.to_bytes()[..], &icmp.to_bytes()[..], quote].concat());
        }
        families => panic!("one family: {families:?}"),
    }
    out
}

/// Packets that do not fit the link to the backend, or the way to the client, under `snat` and `nat`.
fn sizes(n: u16) -> Vec<Row> {
    let name = |what: &str| format!("{what}, mode {}", if scene::is_snat(n) { "snat" } else { "nat" });
    let name = |what: &str| format!("{}, service {n}", name(what));
    let becomes = |pkt: Pkt| {
        let pkt = if scene::is_snat(n) { pkt.src(ours(n)) } else { pkt };
        pkt.dst(backend(n))
    };
    let sent = |length: usize| long(&becomes(to_vip(n)).hops(63).macs(mac(n), MAC_B), length);
    let large = long(&to_vip(n), 1401);
    let error = told(&large, vip(n).0, client(n).0, 1400);
    let mut rows = vec![
        row(name("as large as fits"), long(&to_vip(n), 1400))
            .with(tight(n, 1400))
            .out(REDIRECT, sent(1400), Reason::Settled)
            .counts(n, n, false),
        row(name("one byte too large"), large.clone()).with(tight(n, 1400)).out(
            REDIRECT,
            error,
            Reason::TooBig,
        ),
    ];
    if is_v6(n) {
        return rows;
    }
    let cut = |frame: Vec<u8>| super::ipip::summed(patch(frame, L3 + 6, &[0, 0]));
    let may = cut(large);
    let stack = cut(long(&becomes(to_vip(n)), 1401));
    let both = row(name("too large, and may be cut: the stack does it"), may.clone()).with(tight(n, 1400));
    rows.push(both.out(PASS, stack, Reason::StackRouted).counts(n, n, false));
    if scene::is_snat(n) {
        rows.push(
            row(name("too large, may be cut, and the stack would not"), may)
                .with(tight(n, 1400))
                .with(move |rig| rig.plane.set_locals(&[ours(n).0]).expect("room"))
                .drop(Reason::DropTooBig),
        );
    }
    // A client behind a path of 1000 bytes.
    let asks = to_vip(n).src((NARROW.into(), 40_000));
    let from = if scene::is_snat(n) { ours(n) } else { (NARROW.into(), 40_000) };
    let answer = if is_udp(n) { Pkt::udp(backend(n), from) } else { Pkt::tcp(backend(n), from, ACK, 5) };
    let home = |length: usize| {
        let pkt = answer.clone().src(vip(n)).dst((NARROW.into(), 40_000)).hops(63);
        long(&pkt.macs(neighbour_mac(Link::A, 17), MAC_A), length)
    };
    let answers = |what: &str, length: usize| {
        row(name(what), long(&answer, length)).from(Link::B).after(Link::A, asks.bytes())
    };
    rows.extend([
        answers("an answer as large as the path takes", 1000).out(REDIRECT, home(1000), Reason::Reply),
        answers("an answer too large for the path", 1001).out(
            REDIRECT,
            told(&long(&answer, 1001), from.0, backend(n).0, 1000),
            Reason::TooBig,
        ),
    ]);
    rows
}

/// SYNs both ways tell what fits the link between us and the backend.
fn segments(n: u16, nat: bool) -> Vec<Row> {
    let most: u16 = 1400 - 20 - if is_v6(n) { 40 } else { 20 };
    let with = |pkt: Pkt, mss: u16| Pkt { tcp_options: [&[2, 4][..], &mss.to_be_bytes()].concat(), ..pkt };
    let syn = Pkt { l4: L4::Tcp(SYN, 1), ..to_vip(n) };
    let name = |what: &str| format!("{what}, service {n}");
    let becomes = |pkt: Pkt| if nat { pkt.dst(backend(n)) } else { pkt.src(ours(n)).dst(backend(n)) };
    let gone = |mss| with(becomes(syn.clone()).hops(63).macs(mac(n), MAC_B), mss);
    let answer = if nat { scene::to_client(n) } else { to_us(n) };
    let home = |mss| with(answered(&answer, n, 10), mss);
    let mut rows = vec![];
    for (mss, is) in [(1460, most), (most + 1, most), (most, most), (536, 536)] {
        rows.push(
            row(name(&format!("MSS {mss} of a SYN")), with(syn.clone(), mss).bytes())
                .with(tight(n, 1400))
                .out(REDIRECT, gone(is).bytes(), Reason::Settled)
                .counts(n, n, true),
        );
        rows.push(
            row(name(&format!("MSS {mss} of a SYN and ACK")), with(answer.clone(), mss).bytes())
                .from(Link::B)
                .with(tight(n, 1400))
                .after(Link::A, syn.bytes())
                .out(REDIRECT, home(is).bytes(), Reason::Reply),
        );
    }
    rows
}
