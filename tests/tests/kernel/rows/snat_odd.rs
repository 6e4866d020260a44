//! `snat` and what is not a plain packet: ICMP errors from either side, fragments in both directions.

use std::net::IpAddr;

use zdd_common::entries::{Cell, NextHop, Port};
use zdd_common::limits::FRAGMENT_LIFE_NS;
use zdd_common::reason::Reason;
use zdd_common::time::ticks;

use super::Row;
use super::actions::{PASS, REDIRECT};
use super::scene::{
    self, MAPPED, MAPPED_UDP_V6, SNAT, SNAT_UDP, SNAT_UDP_V6, SNAT_V6, backend, cell, client, is_udp, is_v6,
    mac, to_vip, vip,
};
use super::snat::{answered, ours, row, sent, taken, to_us};
use crate::frames::{L3, L4, Pkt};
use crate::odd_frames::{Error, VLAN, fragment, fragments, tagged};
use crate::rig::{Link, MAC_A, MAC_B, Rig, SNAT_PORT, neighbour_mac, neighbour4, neighbour6};

pub(super) fn rows() -> Vec<Row> {
    let mut rows = vec![];
    // Of a `nat` backend by a VIP that maps, too.
    for n in [SNAT, SNAT_UDP, SNAT_V6, SNAT_UDP_V6, MAPPED, MAPPED_UDP_V6] {
        rows.extend(errors(n));
        rows.extend(errors_from_clients(n));
        rows.extend(errors_from_backends(n));
        rows.extend(pieces(n));
        rows.extend(odd_pieces(n));
    }
    rows
}

fn router(n: u16, link: Link) -> IpAddr {
    if is_v6(n) { neighbour6(link, 13) } else { neighbour4(link, 13) }
}

/// Puts the port towards backends into VLAN 7.
fn in_vlan(rig: &mut Rig) {
    let port = Port { tags: 7, ..rig.plane.port(scene::REDIRECT) };
    rig.plane.set_port(scene::REDIRECT, port).expect("a port");
}

/// All errors that a router or host may send, by type and code.
fn kinds(n: u16) -> &'static [(u8, u8)] {
    if is_v6(n) {
        &[(1, 0), (1, 4), (2, 0), (3, 0), (3, 1), (4, 1)]
    } else {
        &[(3, 0), (3, 1), (3, 3), (3, 4), (3, 13), (11, 0), (11, 1), (12, 0)]
    }
}

/// Bytes of a quote's network header.
fn network(n: u16) -> usize {
    if is_v6(n) { 40 } else { 20 }
}

/// Errors for the VIP, about what a backend sent.
fn errors_from_clients(n: u16) -> Vec<Row> {
    let name = |what: &str| format!("{what}, service {n}");
    let answer = |pkt: Pkt| pkt.payload(&[0x5a; 33]);
    let (seen, own) = (answer(to_us(n)).src(vip(n)).dst(client(n)), answer(to_us(n)));
    let error = Error::about(&seen.bytes(), router(n, Link::A), vip(n).0);
    let gone = |error: &Error, quote: Vec<u8>| Error {
        macs: (mac(n), MAC_B),
        src: ours(n).0,
        dst: backend(n).0,
        hops: error.hops - 1,
        quote,
        ..error.clone()
    };
    let own = own.bytes()[L3..].to_vec();
    let after = |what: &str, frame: Vec<u8>| row(name(what), frame).after(Link::A, to_vip(n).bytes());
    let goes = |what: &str, error: &Error, quote: Vec<u8>| {
        after(what, error.bytes())
            .out(REDIRECT, gone(error, quote).bytes(), Reason::IcmpError)
            .counts(n, n, false)
    };
    let mut rows: Vec<Row> = (kinds(n).iter())
        .map(|kind| {
            let error = Error { kind: *kind, ..error.clone() };
            goes(&format!("an error for the VIP of type and code {kind:?}"), &error, own.clone())
        })
        .collect();
    rows.push(goes(
        "a client's own error is our address's, too",
        &Error { src: client(n).0, ..error.clone() },
        own.clone(),
    ));
    let short = |length: usize| Error { quote: error.quote[..length].to_vec(), ..error.clone() };
    for bytes in [4, 8] {
        let length = network(n) + bytes;
        // The addresses' part of a transport checksum is only there if the checksum is.
        rows.push(goes(
            &format!("an error with {bytes} bytes of the transport header"),
            &short(length),
            own[..length].to_vec(),
        ));
    }
    let stack = Error { macs: error.macs, hops: error.hops, ..gone(&error, own.clone()) };
    let source = ours(n).0;
    let unresolved = move |rig: &mut Rig| rig.plane.set_next_hop(n, NextHop(0));
    rows.extend([
        after("an error that quotes half of a port", short(network(n) + 3).bytes())
            .pass(Reason::PassNotTransport),
        after("an error with hop limit 1", Error { hops: 1, ..error.clone() }.bytes()).drop(Reason::DropTtl),
        after("a tagged error", tagged(&error.bytes(), &[(VLAN, 7)]))
            .with(in_vlan)
            .out(REDIRECT, tagged(&gone(&error, own.clone()).bytes(), &[(VLAN, 7)]), Reason::IcmpError)
            .counts(n, n, false),
        after("an error, next hop unresolved", error.bytes())
            .then(unresolved)
            .out(PASS, stack.bytes(), Reason::StackRouted)
            .counts(n, n, false),
        after("an error that the stack would take for forged", error.bytes())
            .then(unresolved)
            .then(move |rig| rig.plane.set_locals(&[source]).expect("room"))
            .drop(Reason::DropNoNextHop),
        after("an error about another client's flow", {
            let seen = answer(to_us(n)).src(vip(n)).dst((client(n).0, 40_001));
            Error::about(&seen.bytes(), router(n, Link::A), vip(n).0).bytes()
        })
        .pass(Reason::PassNoMapping),
        after("an error about a flow whose version is gone", error.bytes())
            .then(move |rig| cell(rig, n, Cell::settled(0)))
            .drop(Reason::DropNoBackend),
        // What the VIP's host was asked by ping, and another error: nobody's flow.
        after("an error that quotes an error", {
            let quote = error.clone();
            Error::about(
                &Error { src: vip(n).0, dst: router(n, Link::A), ..quote }.bytes(),
                router(n, Link::A),
                vip(n).0,
            )
            .bytes()
        })
        .pass(Reason::PassNotTransport),
    ]);
    if is_udp(n) && !is_v6(n) {
        let silent = |pkt: &Pkt| Pkt { l4: L4::Udp(false), ..pkt.clone() };
        let about = Error::about(&silent(&seen).bytes(), router(n, Link::A), vip(n).0);
        let quote = silent(&answer(to_us(n))).bytes()[L3..].to_vec();
        rows.push(goes("a quote without a UDP checksum stays without", &about, quote));
    }
    rows
}

/// Errors for our address, about what we sent to a backend.
fn errors_from_backends(n: u16) -> Vec<Row> {
    let name = |what: &str| format!("{what}, service {n}");
    let asked = |pkt: Pkt| pkt.payload(&[0x5a; 33]).hops(63);
    let theirs = asked(to_vip(n)).bytes()[L3..].to_vec();
    let there = |pkt: Pkt| asked(pkt).src(ours(n)).dst(backend(n));
    let error = Error::about(&there(to_vip(n)).bytes(), router(n, Link::B), ours(n).0);
    let told = |error: &Error, quote: Vec<u8>| Error {
        macs: (neighbour_mac(Link::A, 10), MAC_A),
        dst: client(n).0,
        hops: error.hops - 1,
        quote,
        ..error.clone()
    };
    let after =
        |what: &str, frame: Vec<u8>| row(name(what), frame).from(Link::B).after(Link::A, to_vip(n).bytes());
    let goes = |what: &str, error: &Error, quote: Vec<u8>| {
        after(what, error.bytes()).out(REDIRECT, told(error, quote).bytes(), Reason::Reply)
    };
    let mut rows: Vec<Row> = (kinds(n).iter())
        .map(|kind| {
            let error = Error { kind: *kind, ..error.clone() };
            goes(&format!("a router's error of type and code {kind:?}"), &error, theirs.clone())
        })
        .collect();
    let short = |length: usize| Error { quote: error.quote[..length].to_vec(), ..error.clone() };
    for bytes in [4, 8] {
        let length = network(n) + bytes;
        rows.push(goes(
            &format!("a router's error with {bytes} bytes of the transport header"),
            &short(length),
            theirs[..length].to_vec(),
        ));
    }
    let stack = Error { macs: error.macs, hops: error.hops, ..told(&error, theirs.clone()) };
    let (source, beyond) = (ours(n).0, (ours(n).0, SNAT_PORT + 16));
    rows.extend([
        after("a router's error with hop limit 1", Error { hops: 1, ..error.clone() }.bytes())
            .drop(Reason::DropTtl),
        after("a router's error when the interface takes no redirects", error.bytes())
            .with(|rig| rig.plane.set_redirect(rig.a, false).expect("known"))
            .out(PASS, stack.bytes(), Reason::ReplyStackRouted),
        // The kernel's answer is about the untagged link.
        after("a router's error with a tag is the stack's to route", tagged(&error.bytes(), &[(VLAN, 7)]))
            .out(PASS, tagged(&stack.bytes(), &[(VLAN, 7)]), Reason::ReplyStackRouted),
        after("a router's error about a probe of ours", {
            let probe = asked(to_vip(n)).src(beyond).dst(backend(n));
            Error::about(&probe.bytes(), router(n, Link::B), source).bytes()
        })
        .with(move |rig| rig.plane.set_locals(&[source]).expect("room"))
        .pass(Reason::PassLocal),
        after("a router's error about a first fragment", {
            let piece = fragments(&there(to_vip(n)).bytes(), 24)[0].clone();
            Error::about(&piece, router(n, Link::B), source).bytes()
        })
        .out(
            REDIRECT,
            told(&error, fragments(&asked(to_vip(n)).bytes(), 24)[0][L3..].to_vec()).bytes(),
            Reason::Reply,
        ),
        after("a router's error about a later fragment is nobody's flow", {
            let piece = fragments(&there(to_vip(n)).bytes(), 24)[1].clone();
            Error::about(&piece, router(n, Link::B), source).bytes()
        })
        .pass(Reason::PassNotTransport),
    ]);
    if is_udp(n) && !is_v6(n) {
        let silent = |pkt: Pkt| Pkt { l4: L4::Udp(false), ..pkt };
        let about = Error::about(&silent(there(to_vip(n))).bytes(), router(n, Link::B), ours(n).0);
        let quote = silent(asked(to_vip(n))).bytes()[L3..].to_vec();
        rows.push(goes("a router's quote without a UDP checksum stays without", &about, quote));
    }
    rows
}

/// Fragments in trouble.
fn odd_pieces(n: u16) -> Vec<Row> {
    let name = |what: &str| format!("{what}, service {n}");
    let long = |pkt: Pkt| pkt.payload(&[0x77; 270]);
    let whole = |pkt: Pkt| fragments(&long(pkt).bytes(), 64);
    let (asked, gone) = (whole(to_vip(n)), whole(sent(&to_vip(n), n, MAC_B)));
    let (answer, stack) = (whole(to_us(n)), whole(to_us(n).src(vip(n)).dst(client(n))));
    let first = |what: &str, at: usize| row(name(what), asked[at].clone()).after(Link::A, asked[0].clone());
    let unresolved = move |rig: &mut Rig| rig.plane.set_next_hop(n, NextHop(0));
    let source = ours(n).0;
    let frame = long(to_vip(n)).bytes();
    let body = &frame[L3 + network(n)..];
    let mut rows = vec![
        row(name("a first fragment finds no port"), asked[0].clone())
            .with(|rig| taken(rig, false))
            .drop(Reason::DropNoPort),
        first("a fragment whose first one found no port", 1)
            .with(|rig| taken(rig, false))
            .drop(Reason::DropFragmentEarly),
        row(name("another client's fragment of the same number"), {
            let far = (super::sizes::other_client(n), 40_000);
            whole(to_vip(n).src(far))[1].clone()
        })
        .after(Link::A, asked[0].clone())
        .drop(Reason::DropFragmentEarly),
        first("a fragment whose first one came too long ago", 1)
            .then(|rig| rig.age_trails(ticks(FRAGMENT_LIFE_NS) + 2))
            .drop(Reason::DropFragmentEarly),
        first("a fragment of a flow whose cell has changed", 1)
            .then(move |rig| cell(rig, n, Cell::settled(0)))
            .out(REDIRECT, gone[1].clone(), Reason::Fragment)
            .counts(n, n, false),
        row(name("a fragment that overlaps the first one"), fragment(&frame, 7, true, &body[56..128]))
            .after(Link::A, asked[0].clone())
            .drop(Reason::DropFragment),
        row(name("a fragment with hop limit 1"), whole(to_vip(n).hops(1))[1].clone())
            .after(Link::A, asked[0].clone())
            .drop(Reason::DropTtl),
        first("a fragment, next hop unresolved", 1)
            .then(unresolved)
            .out(PASS, whole(to_vip(n).src(ours(n)).dst(backend(n)))[1].clone(), Reason::StackRouted)
            .counts(n, n, false),
        first("a fragment that the stack would take for forged", 1)
            .then(unresolved)
            .then(move |rig| rig.plane.set_locals(&[source]).expect("room"))
            .drop(Reason::DropNoNextHop),
        row(name("a tagged fragment"), tagged(&asked[2], &[(VLAN, 7)]))
            .with(in_vlan)
            .after(Link::A, tagged(&asked[0], &[(VLAN, 7)]))
            .out(REDIRECT, tagged(&gone[2], &[(VLAN, 7)]), Reason::Fragment)
            .counts(n, n, false),
        row(name("a backend's first fragment for no flow's port"), answer[0].clone())
            .from(Link::B)
            .pass(Reason::PassNoMapping),
        row(name("a backend's later fragment for no flow's port"), answer[1].clone())
            .from(Link::B)
            .after(Link::B, answer[0].clone())
            .pass(Reason::PassFragment),
        row(name("a backend's fragment when the interface takes no redirects"), answer[1].clone())
            .from(Link::B)
            .with(|rig| rig.plane.set_redirect(rig.a, false).expect("known"))
            .after(Link::A, to_vip(n).bytes())
            .after(Link::B, answer[0].clone())
            .out(PASS, stack[1].clone(), Reason::ReplyStackRouted),
    ];
    if is_udp(n) && !is_v6(n) {
        let silent = |pkt: Pkt| Pkt { l4: L4::Udp(false), ..pkt };
        rows.push(
            row(name("a first fragment without a UDP checksum"), whole(silent(to_vip(n)))[0].clone())
                .out(REDIRECT, whole(silent(sent(&to_vip(n), n, MAC_B)))[0].clone(), Reason::Settled)
                .counts(n, n, false),
        );
    }
    rows
}

fn errors(n: u16) -> Vec<Row> {
    let name = |what: &str| format!("{what}, service {n}");
    // About what the backend sent, as the client's side saw it.
    let seen = to_us(n).payload(&[0x5a; 33]).src(vip(n)).dst(client(n));
    let own = to_us(n).payload(&[0x5a; 33]);
    let error = Error::about(&seen.bytes(), router(n, Link::A), vip(n).0);
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
        ("a router's keeps its address", router(n, Link::B), router(n, Link::B)),
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
