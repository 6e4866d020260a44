//! Sources that no host has, or that stay on their link: nothing is forwarded from them (RFC 1122, 3.2.1.3; RFC 1812, 5.3.7; RFC 4291, 2.5.6 and
//! 2.7), least of all as a packet of ours. Linux refuses the same, and its routes are asked only about the others.

use std::net::IpAddr;

use zdd_common::reason::Reason;

use super::actions::REDIRECT;
use super::hostile::{Way, ways};
use super::ipip::TUNNELS;
use super::scene::{
    self, L2, L2_V6, NAT, NAT_UDP, NAT_UDP_V6, NAT_V6, SNAT, SNAT_UDP, SNAT_UDP_V6, SNAT_V6, backend, client,
    to_client, to_vip, vip,
};
use super::{Row, patch, path, snat};
use crate::frames::{ACK, L3, L4, Pkt, SYN};
use crate::odd_frames::{DESTINATION, Error, VLAN, extended, fragments, tagged};
use crate::rig::{Link, neighbour4, neighbour6};

/// Both ends of every range.
fn martians(v6: bool) -> Vec<IpAddr> {
    let all: &[&str] = if v6 {
        &["::", "::1", "fe80::", "fe80::1", "febf:ffff::1", "ff00::", "ff00:2::11", "ff02::1", "ffff::1"]
    } else {
        &[
            "0.0.0.0",
            "0.255.255.255",
            "127.0.0.0",
            "127.255.255.255",
            "224.0.0.0",
            "239.255.255.255",
            "255.255.255.255",
        ]
    };
    all.iter().map(|text| text.parse().expect("an address")).collect()
}

/// What is next to them.
fn neighbours(v6: bool) -> Vec<IpAddr> {
    let all: &[&str] = if v6 {
        &["::2", "::1:0:0", "1::", "fe7f:ffff::1", "fec0::", "feff::1"]
    } else {
        &["1.0.0.0", "126.255.255.255", "128.0.0.0", "223.255.255.255", "240.0.0.0", "255.255.255.254"]
    };
    all.iter().map(|text| text.parse().expect("an address")).collect()
}

/// For what belongs to no host of the link: one of each kind.
fn few(v6: bool) -> Vec<IpAddr> {
    let all: &[&str] =
        if v6 { &["::", "::1", "fe80::1", "ff02::1"] } else { &["0.0.0.0", "127.0.0.1", "224.0.0.1"] };
    all.iter().map(|text| text.parse().expect("an address")).collect()
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows: Vec<_> = ways().flat_map(to_the_vip).collect();
    for n in [L2, NAT, SNAT, L2_V6, NAT_V6, SNAT_V6] {
        rows.extend(odd(n));
        rows.extend(not_ours(n));
    }
    for n in [NAT, NAT_V6, NAT_UDP, NAT_UDP_V6] {
        rows.extend(errors_to_the_client(n));
        rows.extend(to_a_group(n));
    }
    for n in [SNAT, SNAT_V6, SNAT_UDP, SNAT_UDP_V6] {
        rows.extend(few(scene::is_v6(n)).into_iter().map(|group| {
            let pkt = to_client(n).dst((group, client(n).1));
            snat::row(format!("a snat backend to {group}, service {n}"), pkt.bytes())
                .from(Link::B)
                .pass(Reason::PassDirect)
        }));
    }
    for n in [NAT, NAT_V6, NAT_UDP, NAT_UDP_V6, SNAT, SNAT_V6] {
        rows.extend(from_behind_to_a_group(n));
    }
    for t in TUNNELS {
        rows.extend(few(t.outer_v6).into_iter().map(|router| {
            path::row(t, &format!("from {router}"), &path::from_router(t, router)).drop(Reason::DropMartian)
        }));
    }
    rows
}

/// In every mode: dropped, and nothing is made for it.
fn to_the_vip(way: Way) -> Vec<Row> {
    let pkt = way.packet();
    let from = |pkt: &Pkt, source| pkt.clone().src((source, 40_000));
    let mut rows = vec![];
    for source in martians(way.v6()) {
        let row = way.row(&format!("from {source}"), from(&pkt, source).bytes());
        rows.push(row.elsewhere());
        rows.push(row.drop(Reason::DropMartian).untouched());
    }
    rows.extend(
        neighbours(way.v6())
            .into_iter()
            .map(|source| way.goes(&format!("from {source}"), &from(&pkt, source))),
    );
    if !way.udp() {
        let syn = Pkt { l4: L4::Tcp(SYN, 1), ..pkt };
        rows.extend(few(way.v6()).into_iter().map(|source| {
            let changing = zdd_common::entries::Cell::new(
                scene::OTHER,
                way.number(),
                zdd_common::entries::Cell::DIRTY | zdd_common::entries::Cell::LOOKUP,
            );
            way.row(&format!("a SYN from {source} for a changing cell"), from(&syn, source).bytes())
                .with(move |rig| scene::cell(rig, way.number(), changing))
                .drop(Reason::DropMartian)
                .untouched()
        }));
    }
    rows
}

/// Tagged, with extension headers, in pieces; ICMP errors.
fn odd(n: u16) -> Vec<Row> {
    let v6 = scene::is_v6(n);
    let long = Pkt { l4: L4::Tcp(ACK, 5), payload: vec![0x5a; 60], ..to_vip(n) };
    let mut rows = vec![];
    for source in few(v6) {
        let pkt = long.clone().src((source, 40_000));
        let mut dropped = |what: &str, frame: Vec<u8>| {
            let row = snat::row(format!("{what} from {source}, service {n}"), frame);
            rows.push(row.drop(Reason::DropMartian).untouched());
        };
        dropped("a tagged packet", tagged(&pkt.bytes(), &[(VLAN, 7)]));
        let pieces = fragments(&pkt.bytes(), 32);
        dropped("a first fragment", pieces[0].clone());
        dropped("a later fragment", pieces[1].clone());
        if v6 {
            dropped("a packet with an extension header", extended(&pkt.bytes(), &[(DESTINATION, 8)]));
        } else {
            dropped("a packet with options", Pkt { ip_options: vec![1; 4], ..pkt }.bytes());
        }
        let answer = Pkt { payload: vec![0x5a; 33], ..to_client(n) }.src(vip(n));
        dropped("an error", Error::about(&answer.bytes(), source, vip(n).0).bytes());
        // Trails are by source: nobody can send the rest of another's.
        let first = fragments(&long.bytes(), 32)[0].clone();
        let row = snat::row(
            format!("a later fragment from {source} after a host's first, service {n}"),
            pieces[1].clone(),
        );
        rows.push(row.after(Link::A, first).drop(Reason::DropMartian));
    }
    rows
}

/// What is nobody's flow is the stack's, whoever it says it is: a neighbour asks from `::` before it has an address.
fn not_ours(n: u16) -> Vec<Row> {
    let v6 = scene::is_v6(n);
    let answer = Pkt { payload: vec![0x5a; 33], ..to_client(n) }.src(vip(n));
    let mut rows = vec![];
    for source in few(v6) {
        let error = Error::about(&answer.bytes(), source, vip(n).0);
        let row = |what: &str, error: &Error| {
            Row::new(format!("{what} from {source}, service {n}"), error.bytes())
                .pass(Reason::PassNotTransport)
        };
        let kind = |kind: u8| Error { kind: (kind, 0), ..error.clone() };
        rows.push(row("an echo request", &kind(if v6 { 128 } else { 8 })));
        if v6 {
            rows.push(row("a neighbour solicitation", &kind(135)));
        }
        let foreign = Error::about(&answer.clone().src((vip(n).0, 9)).bytes(), source, vip(n).0);
        rows.push(row("an error about another port of the VIP", &foreign));
        let frame = patch(error.bytes(), L3 + if v6 { 6 } else { 9 }, &[50]);
        let frame = if v6 { frame } else { super::ipip::summed(frame) };
        rows.push(Row::new(format!("ESP from {source}, service {n}"), frame).pass(Reason::PassNotTransport));
    }
    rows
}

/// From behind us, about what we sent to a backend: from its router's address, which is none.
fn errors_to_the_client(n: u16) -> Vec<Row> {
    let asked = Pkt { payload: vec![0x5a; 33], ..to_vip(n) }.dst(backend(n)).hops(63);
    let kind = if scene::is_v6(n) { (4, 0) } else { (12, 0) };
    let from = |router: IpAddr| {
        let error = Error { kind, ..Error::about(&asked.bytes(), router, client(n).0) };
        Row::new(format!("an error for a client from {router}, service {n}"), error.bytes())
            .from(Link::B)
            .drop(Reason::DropMartian)
    };
    // Nothing was sent on from there.
    let to = |group: IpAddr| {
        let asked = asked.clone().src((group, client(n).1));
        let error = Error { kind, ..Error::about(&asked.bytes(), backend(n).0, group) };
        Row::new(format!("a backend's error for {group}, service {n}"), error.bytes())
            .from(Link::B)
            .pass(Reason::PassDirect)
    };
    let all = few(scene::is_v6(n));
    all.iter().map(|addr| from(*addr)).chain(all.iter().map(|addr| to(*addr))).collect()
}

/// A backend that speaks to a group, from its service's port, answers nobody: it stays as it is, and on its link.
fn to_a_group(n: u16) -> Vec<Row> {
    let v6 = scene::is_v6(n);
    let all: &[&str] = if v6 { &["ff02::fb", "fe80::1"] } else { &["224.0.0.251", "255.255.255.255"] };
    let mut rows: Vec<_> = all
        .iter()
        .map(|group| {
            let pkt = to_client(n).dst((group.parse().expect("an address"), 5353));
            Row::new(format!("a nat backend to {group}, service {n}"), pkt.bytes())
                .from(Link::B)
                .pass(Reason::PassDirect)
        })
        .collect();
    let near = if v6 { neighbour6(Link::A, 10) } else { neighbour4(Link::A, 10) };
    let sent = to_client(n).dst((near, 5353));
    let out = sent.clone().src(vip(n)).hops(63).macs(client_mac(), crate::rig::MAC_A).bytes();
    rows.push(
        Row::new(format!("a nat backend to a host's port 5353, service {n}"), sent.bytes())
            .from(Link::B)
            .out(REDIRECT, out, Reason::Reply),
    );
    rows
}

/// What a backend sends to a group's link address is no reply on its way to us.
fn from_behind_to_a_group(n: u16) -> Vec<Row> {
    let everybody = |frame: Vec<u8>| patch(frame, 0, &[0xff; 6]);
    let asked = Pkt { payload: vec![0x5a; 33], ..to_vip(n) }.dst(backend(n)).hops(63);
    let error = Error { kind: (3, 0), ..Error::about(&asked.bytes(), backend(n).0, client(n).0) };
    let (answer, error) = if scene::is_snat(n) {
        (
            snat::to_us(n).bytes(),
            Error::about(&to_client(n).src(vip(n)).bytes(), client(n).0, vip(n).0).bytes(),
        )
    } else {
        (to_client(n).bytes(), error.bytes())
    };
    let row = |what: &str, frame: &[u8]| {
        snat::row(format!("{what} to everybody's link address, service {n}"), everybody(frame.to_vec()))
            .from(Link::B)
            .drop(Reason::DropLinkGroup)
    };
    vec![row("a reply", &answer), row("an error", &error)]
}

fn client_mac() -> [u8; 6] {
    crate::rig::neighbour_mac(Link::A, 10)
}
