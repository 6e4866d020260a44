//! ICMP errors go to the backend whose packet they quote, or to the client, with the quote as that one knows it.

use std::net::IpAddr;

use zdd_common::entries::{Cell, Class, FlowKey, NextHop, Positions, State, Word};
use zdd_common::flows::Bucket;
use zdd_common::reason::Reason;
use zdd_common::time::Tick;

use super::actions::{PASS, REDIRECT, TX};
use super::scene::{
    self, L2, L2_UDP, L2_V6, NAT, NAT_UDP, NAT_UDP_V6, NAT_V6, OTHER, backend, cell, client, mac, to_client,
    to_vip, vip,
};
use super::{Row, cut, patch};
use crate::frames::{ACK, L3, L4, Pkt, SYN};
use crate::odd_frames::{Error, VLAN, extended, fragments, tagged};
use crate::rig::{FAR, FAR6, Link, MAC_A, MAC_B, Rig, neighbour_mac, neighbour4, neighbour6};

/// A router on the way to the client.
fn router(n: u16) -> IpAddr {
    if scene::is_v6(n) { neighbour6(Link::A, 17) } else { neighbour4(Link::A, 17) }
}

/// What the client gets to see of a backend's packet, and the packet itself.
fn answer(n: u16) -> (Pkt, Pkt) {
    let pkt = Pkt { payload: vec![0x5a; 33], ..to_client(n) };
    (pkt.clone().src(vip(n)), pkt)
}

fn about(pkt: &Pkt, n: u16) -> Error {
    Error::about(&pkt.bytes(), router(n), vip(n).0)
}

/// What an error for the VIP becomes, with the quote of `pkt` in the backend's words.
fn sent(error: &Error, quote: &[u8], n: u16) -> Error {
    let mut out = Error { macs: (mac(n), MAC_B), ..error.clone() };
    if scene::is_nat(n) {
        out.dst = backend(n).0;
        out.hops -= 1;
        out.quote = quote.to_vec();
    }
    out
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = vec![];
    for n in [L2, NAT, L2_V6, NAT_V6, L2_UDP, NAT_UDP, NAT_UDP_V6] {
        rows.extend(to_backend(n));
        rows.extend(cuts(n));
        rows.extend(not_ours(n));
    }
    for n in [NAT, NAT_V6, NAT_UDP, NAT_UDP_V6] {
        rows.extend(to_the_client(n));
    }
    for n in [L2, NAT, L2_V6, NAT_V6] {
        rows.extend(entries(n));
    }
    rows
}

fn to_backend(n: u16) -> Vec<Row> {
    let (seen, own) = answer(n);
    let goes = |what: &str, error: &Error, quote: &[u8]| {
        Row::new(format!("{what}, service {n}"), error.bytes())
            .out(REDIRECT, sent(error, quote, n).bytes(), Reason::IcmpError)
            .counts(n, n, false)
    };
    let error = about(&seen, n);
    let own = own.bytes()[L3..].to_vec();
    let mut rows = vec![goes("an error about a backend's packet", &error, &own)];
    let kinds: &[(u8, u8)] = if scene::is_v6(n) {
        &[(1, 0), (1, 4), (2, 0), (3, 0), (4, 1)]
    } else {
        &[(3, 0), (3, 3), (11, 0), (12, 0)]
    };
    for kind in kinds {
        let error = Error { kind: *kind, ..error.clone() };
        rows.push(goes(&format!("an error of type and code {kind:?}"), &error, &own));
    }
    if !scene::is_v6(n) {
        let options = Error { ip_options: vec![1; 40], ..error.clone() };
        rows.push(goes("an error with IPv4 options", &options, &own));
        let quoting = |pkt: Pkt| Pkt { ip_options: vec![1; 40], ..pkt };
        let (seen, own) = (quoting(answer(n).0), quoting(answer(n).1));
        let mut both = about(&seen, n);
        both.ip_options = vec![1; 40];
        rows.push(goes("options outside and inside", &both, &own.bytes()[L3..]));
    } else {
        let headers = &[(0, 56), (60, 72)];
        let error = Error { quote: extended(&seen.bytes(), headers)[L3..].to_vec(), ..error.clone() };
        let own = extended(&answer(n).1.bytes(), headers)[L3..].to_vec();
        let out = extended(&sent(&error, &own, n).bytes(), headers);
        rows.push(
            Row::new(
                format!("extension headers outside and inside, service {n}"),
                extended(&error.bytes(), headers),
            )
            .out(REDIRECT, out, Reason::IcmpError)
            .counts(n, n, false),
        );
    }
    let first = |pkt: &Pkt| fragments(&pkt.bytes(), 24)[0][L3..].to_vec();
    let of_fragment = Error { quote: first(&answer(n).0), ..error.clone() };
    rows.push(goes("an error about a first fragment", &of_fragment, &first(&answer(n).1)));
    let tags = &[(VLAN, 7)];
    rows.push(
        Row::new(format!("a tagged error, service {n}"), tagged(&error.bytes(), tags))
            .with(|rig| {
                let port = rig.plane.port(scene::REDIRECT);
                let port = zdd_common::entries::Port { tags: 7, ..port };
                rig.plane.set_port(scene::REDIRECT, port).expect("a port");
            })
            .out(REDIRECT, tagged(&sent(&error, &own, n).bytes(), tags), Reason::IcmpError)
            .counts(n, n, false),
    );
    let padded = [error.bytes(), vec![0xff; 30]].concat();
    rows.push(
        Row::new(format!("an error with padding, service {n}"), padded)
            .out(REDIRECT, [sent(&error, &own, n).bytes(), vec![0xff; 30]].concat(), Reason::IcmpError)
            .counts(n, n, false),
    );
    let row = |what: &str| Row::new(format!("{what}, service {n}"), error.bytes());
    let mut stack = Error { macs: error.macs, ..sent(&error, &own, n) };
    stack.hops = error.hops;
    let unresolved =
        row("an error, next hop unresolved").with(move |rig| rig.plane.set_next_hop(n, NextHop(0)));
    rows.push(if scene::is_nat(n) {
        // In counters it is what it was steered by.
        unresolved.out(PASS, stack.bytes(), Reason::StackRouted).counts(n, n, false)
    } else {
        unresolved.drop(Reason::DropNoNextHop)
    });
    let mut bounced = sent(&error, &own, n);
    bounced.macs.1 = MAC_A;
    rows.extend([
        row("an error bounced where it came in")
            .with(move |rig| scene::hop(rig, n, scene::BOUNCE))
            .out(TX, bounced.bytes(), Reason::IcmpError)
            .counts(n, n, false),
        row("an error and no backend")
            .with(move |rig| cell(rig, n, Cell::settled(0)))
            .drop(Reason::DropNoBackend),
    ]);
    if scene::is_udp(n) && !scene::is_v6(n) {
        let silent = |pkt: Pkt| Pkt { l4: L4::Udp(false), ..pkt };
        let error = about(&silent(answer(n).0), n);
        rows.push(goes("a quote without a UDP checksum", &error, &silent(answer(n).1).bytes()[L3..]));
    }
    rows
}

/// Quotes of every length: 8 bytes of the transport header must be there (RFC 792), more may be.
fn cuts(n: u16) -> Vec<Row> {
    let (seen, own) = answer(n);
    let (seen, own) = (seen.bytes()[L3..].to_vec(), own.bytes()[L3..].to_vec());
    let ports = if scene::is_v6(n) { 40 } else { 20 } + 4;
    let checksum = ports - 4 + if scene::is_udp(n) { 8 } else { 18 };
    (0..seen.len())
        .map(|length| {
            let error = Error { quote: seen[..length].to_vec(), ..about(&answer(n).0, n) };
            // The quote's own transport checksum is rewritten only where all of it is there.
            let mut quote = own[..length].to_vec();
            if length < checksum && length > ports {
                let from = if scene::is_udp(n) { ports + 2 } else { ports + 12 };
                let from = from.min(length);
                quote[from..].copy_from_slice(&seen[from..length]);
            }
            // Behind the cut, padding that is not to be touched.
            let pad = |frame: Vec<u8>| [frame, vec![0xee; 20]].concat();
            let row = Row::new(format!("a quote of {length} bytes, service {n}"), pad(error.bytes()));
            if length < ports {
                return row.pass(Reason::PassNotTransport);
            }
            row.out(REDIRECT, pad(sent(&error, &quote, n).bytes()), Reason::IcmpError).counts(n, n, false)
        })
        .collect()
}

fn not_ours(n: u16) -> Vec<Row> {
    let (seen, _) = answer(n);
    let error = about(&seen, n);
    let v6 = scene::is_v6(n);
    let row = |what: &str, error: &Error| Row::new(format!("{what}, service {n}"), error.bytes());
    let kind = |kind: u8| Error { kind: (kind, 0), ..error.clone() };
    let echo = kind(if v6 { 128 } else { 8 });
    let whole = error.bytes();
    let quote_at = L3 + if v6 { 48 } else { 28 };
    let mut rows = vec![
        row("an echo request to a VIP is the host's to answer", &echo).pass(Reason::PassNotTransport),
        row("an echo reply", &kind(if v6 { 129 } else { 0 })).pass(Reason::PassNotTransport),
        row("a redirect", &kind(if v6 { 137 } else { 5 })).pass(Reason::PassNotTransport),
        row("a source quench, or a type beyond the errors", &kind(if v6 { 5 } else { 4 }))
            .pass(Reason::PassNotTransport),
        row("an error about another port of the VIP", &about(&seen.clone().src((vip(n).0, 9)), n))
            .pass(Reason::PassNotTransport),
        row("an error for somebody else", &Error { dst: router(n), ..error.clone() })
            .pass(Reason::PassNotTransport),
        row("an error about somebody else's packet", &about(&seen.clone().src((router(n), vip(n).1)), n))
            .pass(Reason::PassNotTransport),
        row("a fragment of an error", &error)
            .shape(|frame| fragments(&frame, 48)[0].clone())
            .pass(Reason::PassFragment),
        row("an error about a later fragment", &{
            Error { quote: fragments(&seen.bytes(), 24)[1][L3..].to_vec(), ..error.clone() }
        })
        .pass(Reason::PassNotTransport),
        row("a quote of another version", &error)
            .shape(move |frame| patch(frame, quote_at, &[0x55]))
            .pass(Reason::PassNotTransport),
        row("an error with its header alone", &error)
            .shape(move |frame| cut(frame, quote_at))
            .pass(Reason::PassNotTransport),
        row("an error that is cut", &error)
            .shape(move |frame| cut(frame, whole.len() - 1))
            .pass(Reason::PassNotTransport),
    ];
    if !v6 {
        rows.push(
            row("a quote whose header is too short", &error)
                .shape(move |frame| patch(frame, quote_at, &[0x44]))
                .pass(Reason::PassNotTransport),
        );
    }
    rows
}

/// Errors from behind us about what we sent to a backend.
fn to_the_client(n: u16) -> Vec<Row> {
    let asked = Pkt { payload: vec![0x5a; 33], ..to_vip(n) };
    let ours = asked.clone().dst(backend(n)).hops(63);
    let theirs = asked.hops(63).bytes()[L3..].to_vec();
    let hop = if scene::is_v6(n) { neighbour6(Link::B, 17) } else { neighbour4(Link::B, 17) };
    let unreachable = if scene::is_v6(n) { (1, 4) } else { (3, 3) };
    let error = |src: IpAddr| Error { kind: unreachable, ..Error::about(&ours.bytes(), src, client(n).0) };
    let (own, routers) = (error(backend(n).0), error(hop));
    let sent = |error: &Error, src: IpAddr| Error {
        macs: (neighbour_mac(Link::A, 10), MAC_A),
        src,
        hops: 63,
        quote: theirs.clone(),
        ..error.clone()
    };
    let row =
        |what: &str, error: &Error| Row::new(format!("{what}, service {n}"), error.bytes()).from(Link::B);
    let far: IpAddr = if scene::is_v6(n) { FAR6.into() } else { FAR.into() };
    let local = client(n).0;
    let to_stack = Error { macs: own.macs, hops: 64, ..sent(&own, vip(n).0) };
    let direct = to_vip(n).dst(backend(n));
    let mut rows = vec![
        row("a backend's error comes from the VIP", &own).out(
            REDIRECT,
            sent(&own, vip(n).0).bytes(),
            Reason::Reply,
        ),
        row("a router's error keeps the router's address", &routers).out(
            REDIRECT,
            sent(&routers, hop).bytes(),
            Reason::Reply,
        ),
        row("a backend's error, routed by the stack", &own)
            .with(|rig| rig.plane.set_redirect(rig.a, false).expect("known"))
            .out(PASS, to_stack.bytes(), Reason::ReplyStackRouted),
        row("a backend's error, last hop", &Error { hops: 1, ..own.clone() }).drop(Reason::DropTtl),
        row("a backend's error for somebody who did not send the packet", &Error { dst: far, ..own.clone() })
            .pass(Reason::PassNotTransport),
        row("a backend's error about a probe of this host", &own)
            .with(move |rig| rig.plane.set_locals(&[local]).expect("an address"))
            .pass(Reason::PassLocal),
        row("a backend's error about a direct conversation", &own)
            .after(Link::A, direct.bytes())
            .pass(Reason::PassDirect),
    ];
    let ports = if scene::is_v6(n) { 40 } else { 20 } + 8;
    let short = Error { quote: own.quote[..ports].to_vec(), ..own.clone() };
    let mut out = Error { quote: theirs[..ports].to_vec(), ..sent(&own, vip(n).0) };
    if !scene::is_udp(n) {
        out.quote = theirs[..ports].to_vec();
    }
    rows.push(row("a backend's error with 8 bytes of the transport header", &short).out(
        REDIRECT,
        out.bytes(),
        Reason::Reply,
    ));
    rows
}

/// Errors follow the flow's entry, and leave it alone.
fn entries(n: u16) -> Vec<Row> {
    let (seen, _) = answer(n);
    let error = about(&seen, n);
    let changing = Cell::new(OTHER, n, Cell::DIRTY | Cell::LOOKUP);
    let quote = answer(n).1.bytes()[L3..].to_vec();
    let to_own = sent(&error, &quote, n).bytes();
    let mut other = Error { macs: (mac(OTHER), MAC_B), ..error.clone() };
    other.quote = error.quote.clone();
    let tcp = |flags, seq| Pkt { l4: L4::Tcp(flags, seq), ..to_vip(n) }.bytes();
    let row = |what: &str| {
        Row::new(format!("{what}, service {n}"), error.bytes())
            .with(move |rig| cell(rig, n, changing))
            .untouched()
    };
    let own = |row: Row| row.out(REDIRECT, to_own.clone(), Reason::IcmpError).counts(n, n, false);
    let base = |row: Row| row.out(REDIRECT, other.bytes(), Reason::IcmpError).counts(n, OTHER, false);
    vec![
        base(row("an error without an entry goes to base")),
        base(row("an error about a half-open flow goes to the older identity").after(Link::A, tcp(SYN, 1))),
        own(row("an error about an established flow goes to its backend")
            .after(Link::A, tcp(SYN, 1))
            .after(Link::A, tcp(ACK, 2))),
        base(row("an error about a dead entry goes to base").with(move |rig| dead(rig, n))),
    ]
}

/// A dead entry of the client's flow.
fn dead(rig: &mut Rig, n: u16) {
    let view = rig.plane.service(n).view();
    let (addr, port) = client(n);
    let key = FlowKey::new(addr.into(), port.to_be(), vip(n).1.to_be(), n);
    let hash = zdd_common::steer::place(&view, &key).table_hash;
    let word = Word::new(State::Est, Class::Learned, n, n, Tick(0));
    let buckets = crate::rig::BUCKETS as u32;
    let (a, b) = zdd_common::flows::homes(hash, buckets);
    let homes: [*mut Bucket; 2] = [rig.flows.at(a as usize), rig.flows.at(b as usize)];
    // SAFETY: mapped values; no thread runs the program.
    unsafe {
        let made = zdd_common::flows::insert::<zdd_common::atomic::Host>(
            &homes,
            &key,
            hash,
            word.with_state(State::Dead),
            Positions::default(),
        );
        assert!(made, "room for an entry");
    }
}
