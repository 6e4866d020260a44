//! What a `nat` backend sends: rewritten to come from the VIP, unless it answers somebody who asked the backend itself.

use std::net::IpAddr;

use zdd_common::reason::Reason;

use super::Row;
use super::actions::{PASS, REDIRECT};
use super::scene::{NAT, NAT_UDP, NAT_UDP_V6, NAT_V6, backend, client, is_v6, to_client, to_vip, vip};
use crate::frames::{ACK, L4, Pkt, SYN};
use crate::rig::{BLACKHOLE, FAR, FAR6, Link, MAC_A, NARROW, neighbour_mac, neighbour4, neighbour6};

/// What a reply becomes when it is sent on to a client behind neighbour `host`.
fn sent(pkt: &Pkt, n: u16, host: u8) -> Vec<u8> {
    pkt.clone().src(vip(n)).hops(pkt.hops - 1).macs(neighbour_mac(Link::A, host), MAC_A).bytes()
}

/// What it becomes for the stack to route.
fn to_stack(pkt: &Pkt, n: u16) -> Vec<u8> {
    pkt.clone().src(vip(n)).bytes()
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = vec![];
    for (family, n) in [("TCP", NAT), ("UDP", NAT_UDP), ("TCP/IPv6", NAT_V6), ("UDP/IPv6", NAT_UDP_V6)] {
        rows.extend(routes(family, n));
        rows.extend(others(family, n));
    }
    rows.extend(shapes());
    let to_narrow = |length: usize| {
        let payload = vec![1; length];
        Pkt { l4: L4::Tcp(ACK, 5), payload, ..to_client(NAT).dst((NARROW.into(), 40_000)) }
    };
    // Without don't fragment.
    let cut = |frame: Vec<u8>| super::ipip::summed(super::patch(frame, crate::frames::L3 + 6, &[0, 0]));
    rows.extend([
        Row::new("a reply as large as the path takes", to_narrow(960).bytes()).from(Link::B).out(
            REDIRECT,
            sent(&to_narrow(960), NAT, 17),
            Reason::Reply,
        ),
        Row::new(
            "a reply larger than the path, which may be cut: the stack does it",
            cut(to_narrow(961).bytes()),
        )
        .from(Link::B)
        .out(PASS, cut(to_stack(&to_narrow(961), NAT)), Reason::ReplyStackRouted),
    ]);
    let hole = to_client(NAT).dst((BLACKHOLE.into(), 40_000));
    rows.push(Row::new("a reply into a blackhole is the stack's to drop", hole.bytes()).from(Link::B).out(
        PASS,
        to_stack(&hole, NAT),
        Reason::ReplyStackRouted,
    ));
    rows
}

fn routes(family: &str, n: u16) -> Vec<Row> {
    let row = |what: &str, pkt: &Pkt| Row::new(format!("reply {family}: {what}"), pkt.bytes()).from(Link::B);
    let near = to_client(n);
    let far: IpAddr = if is_v6(n) { FAR6.into() } else { FAR.into() };
    let far = to_client(n).dst((far, 555));
    // In the client's network, and nobody's: the stack asks for its neighbour.
    let silent = if is_v6(n) { neighbour6(Link::A, 99) } else { neighbour4(Link::A, 99) };
    let silent = to_client(n).dst((silent, 555));
    let nowhere: IpAddr = if is_v6(n) {
        [0x20, 1, 0xd, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9].into()
    } else {
        [203, 0, 113, 9].into()
    };
    let nowhere = to_client(n).dst((nowhere, 555));
    vec![
        row("to a neighbour", &near).out(REDIRECT, sent(&near, n, 10), Reason::Reply),
        row("behind a router", &far).out(REDIRECT, sent(&far, n, 17), Reason::Reply),
        row("neighbour not known", &silent).out(PASS, to_stack(&silent, n), Reason::ReplyStackRouted),
        row("no route", &nowhere).out(PASS, to_stack(&nowhere, n), Reason::ReplyStackRouted),
        row("the interface takes no redirects", &near)
            .with(|rig| rig.plane.set_redirect(rig.a, false).expect("known"))
            .out(PASS, to_stack(&near, n), Reason::ReplyStackRouted),
        row("hop limit 2", &near.clone().hops(2)).out(
            REDIRECT,
            sent(&near.clone().hops(2), n, 10),
            Reason::Reply,
        ),
        row("hop limit 1", &near.clone().hops(1)).drop(Reason::DropTtl),
        row("hop limit 1 without a route is the stack's to answer", &nowhere.clone().hops(1)).out(
            PASS,
            to_stack(&nowhere.clone().hops(1), n),
            Reason::ReplyStackRouted,
        ),
        row("an odd payload", &near.clone().payload(b"odd")).out(
            REDIRECT,
            sent(&near.clone().payload(b"odd"), n, 10),
            Reason::Reply,
        ),
    ]
}

/// Conversations with the backend's own address.
fn others(family: &str, n: u16) -> Vec<Row> {
    let row = |what: &str, pkt: &Pkt| Row::new(format!("direct {family}: {what}"), pkt.bytes());
    let ask = to_vip(n).dst(backend(n));
    let answer = to_client(n);
    let local = client(n).0;
    let other = |pkt: &Pkt| pkt.clone().dst((client(n).0, client(n).1 + 1));
    vec![
        row("to the backend's own address", &ask).pass(Reason::PassDirect),
        row("its answer is left alone", &answer)
            .from(Link::B)
            .after(Link::A, ask.bytes())
            .pass(Reason::PassDirect),
        row("a reply to another port of the same peer is rewritten", &other(&answer))
            .from(Link::B)
            .after(Link::A, ask.bytes())
            .out(REDIRECT, sent(&other(&answer), n, 10), Reason::Reply),
        row("another port of the backend is not ours", &answer.clone().src((backend(n).0, 22)))
            .from(Link::B)
            .pass(Reason::PassNotVip),
        row("an answer to this host", &answer)
            .from(Link::B)
            .with(move |rig| rig.plane.set_locals(&[local]).expect("an address"))
            .pass(Reason::PassLocal),
    ]
}

fn shapes() -> Vec<Row> {
    let without = Pkt { l4: L4::Udp(false), ..to_client(NAT_UDP) };
    let options = Pkt { ip_options: vec![7, 4, 4, 0], ..to_client(NAT) };
    let syn = Pkt { l4: L4::Tcp(SYN, 1), ..to_client(NAT) };
    vec![
        Row::new("reply UDP without a checksum", without.bytes()).from(Link::B).out(
            REDIRECT,
            sent(&without, NAT_UDP, 10),
            Reason::Reply,
        ),
        Row::new("reply with IPv4 options", options.bytes()).from(Link::B).out(
            REDIRECT,
            sent(&options, NAT, 10),
            Reason::Reply,
        ),
        // It looks like a reply: known, and the price of undoing `nat` without state.
        Row::new("a connection that the backend opens from its service port", syn.bytes()).from(Link::B).out(
            REDIRECT,
            sent(&syn, NAT, 10),
            Reason::Reply,
        ),
        Row::new("a reply whose interface vanished from the redirect map in between", to_client(NAT).bytes())
            .from(Link::B)
            .with(|rig| {
                rig.plane.set_redirect(rig.a, false).expect("known");
                rig.plane.set_redirect(rig.b, false).expect("known");
            })
            .out(PASS, to_stack(&to_client(NAT), NAT), Reason::ReplyStackRouted),
    ]
}
