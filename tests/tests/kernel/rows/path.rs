//! `ipip`: a router on the way to a backend says that the outer packet does not fit, and the client is told.

use std::net::IpAddr;

use zdd_common::entries::{Cell, Port};
use zdd_common::reason::Reason;

use super::actions::{PASS, REDIRECT};
use super::ipip::{TUNNELS, Tunnel, summed};
use super::mtu::{df, long};
use super::{Row, patch, scene};
use crate::frames::{ACK, L3, L4, Pkt, SYN};
use crate::odd_frames::{DESTINATION, Error, QINQ, VLAN, extended, fragments, tagged, telling};
use crate::rig::{Link, MAC_A, MAC_B, Rig, neighbour_mac, neighbour4, neighbour6};

/// MTU behind the router.
const MTU: u32 = 1380;

fn router(t: Tunnel) -> IpAddr {
    if t.outer_v6 { neighbour6(Link::B, 17) } else { neighbour4(Link::B, 17) }
}

/// The packet as the router got it: behind its outer header. `plain`: the frame that tells its flow.
fn outer(t: Tunnel, plain: &[u8], inner: &[u8]) -> Vec<u8> {
    t.wrapped_as(plain, inner, 0, MAC_B)
}

/// The router's error about it, which quotes so many bytes.
fn error(t: Tunnel, outer: &[u8], quoted: usize) -> Error {
    let source: IpAddr = if t.outer_v6 {
        <[u8; 16]>::try_from(&outer[L3 + 8..L3 + 24]).expect("an address").into()
    } else {
        <[u8; 4]>::try_from(&outer[L3 + 12..L3 + 16]).expect("an address").into()
    };
    let mut error = Error::about(outer, router(t), source);
    error.quote.truncate(quoted);
    error.told = MTU.to_be_bytes();
    error
}

/// The row of an error that comes in by the link towards backends.
pub(super) fn row(t: Tunnel, what: &str, error: &Error) -> Row {
    t.row(&format!("path: {what}"), error.bytes()).from(Link::B).untouched()
}

/// What the client gets to see: so much of its packet, and what is left of the MTU.
fn seen(t: Tunnel, inner: &[u8], mtu: u32) -> Vec<u8> {
    telling((neighbour_mac(Link::A, 10), MAC_A), inner, (t.vip().0, t.client().0), mtu)
}

/// The largest error that a router sends: 576 bytes over IPv4, 1,280 over IPv6.
fn whole(t: Tunnel) -> usize {
    if t.outer_v6 { 1232 } else { 548 }
}

/// How much of the packet the client is shown if the router shows all it may.
fn shown(t: Tunnel) -> usize {
    let inner = whole(t) - t.overhead();
    if t.inner_v6 { inner } else { inner.min(544) }
}

fn room(t: Tunnel, mtu: u32) -> u32 {
    mtu - t.overhead() as u32
}

/// As large as a link of 1,500 bytes lets through, with a hop less than it came with.
fn full(t: Tunnel) -> Vec<u8> {
    long(t, room(t, 1500) as usize, 63)
}

/// A router's whole error, which would be told to the client.
pub(super) fn from_router(t: Tunnel, router: IpAddr) -> Error {
    let inner = full(t);
    Error { src: router, ..error(t, &outer(t, &inner, &inner), whole(t)) }
}

pub(super) fn rows() -> Vec<Row> {
    let kinds = [told, cuts, sizes, shapes, not_told];
    TUNNELS.iter().flat_map(|t| kinds.iter().flat_map(|kind| kind(*t))).collect()
}

fn told(t: Tunnel) -> Vec<Row> {
    let inner = full(t);
    let error = error(t, &outer(t, &inner, &inner), whole(t));
    let out = seen(t, &inner[L3..L3 + shown(t)], room(t, MTU));
    let to_stack = patch(out.clone(), 0, &error.bytes()[..12]);
    let row = |what: &str| row(t, what, &error);
    let no_redirects = |rig: &mut Rig| rig.plane.set_redirect(rig.a, false).expect("known");
    let mut rows = vec![
        row("the client is told").out(REDIRECT, out.clone(), Reason::TooBigPath),
        row("by whichever link").from(Link::A).out(REDIRECT, out.clone(), Reason::TooBigPath),
        row("routed by the stack").with(no_redirects).out(PASS, to_stack.clone(), Reason::PassTooBig),
        row("a backend whose next hop is gone")
            .with(move |rig| rig.plane.set_next_hop(t.n, zdd_common::entries::NextHop(0)))
            .out(REDIRECT, out.clone(), Reason::TooBigPath),
    ];
    for (what, tags) in [
        ("one tag", &[(VLAN, 7)][..]),
        ("QinQ", &[(QINQ, 5), (VLAN, 6)]),
        ("a 0 tag and another", &[(VLAN, 0), (VLAN, 6)]),
    ] {
        let frame = tagged(&error.bytes(), tags);
        rows.push(
            t.row(&format!("path: {what}: for the stack, with its tags"), frame)
                .from(Link::B)
                .with(|rig| {
                    let port = rig.plane.port(scene::REDIRECT);
                    rig.plane.set_port(scene::REDIRECT, Port { tags: 7, ..port }).expect("a port");
                })
                .out(PASS, tagged(&to_stack, tags), Reason::PassTooBig),
        );
    }
    let priority = tagged(&error.bytes(), &[(VLAN, 0)]);
    rows.push(t.row("path: a priority tag belongs to the untagged link", priority).from(Link::B).out(
        REDIRECT,
        tagged(&out, &[(VLAN, 0)]),
        Reason::TooBigPath,
    ));
    // Flows in transition: the one whose entry says that its packets went there.
    if !t.udp {
        let changing = Cell::new(scene::OTHER, t.n, Cell::DIRTY | Cell::LOOKUP);
        let tcp = |flags, seq| Pkt { l4: L4::Tcp(flags, seq), ..t.packet() }.bytes();
        let begun = |row: Row| {
            row.with(move |rig| scene::cell(rig, t.n, changing))
                .after(Link::A, tcp(SYN, 1))
                .after(Link::A, tcp(ACK, 2))
        };
        rows.extend([
            begun(row("a flow with an entry")).out(REDIRECT, out.clone(), Reason::TooBigPath),
            begun(row("a flow with an entry, whose cell has gone on"))
                .then(move |rig| {
                    scene::cell(rig, t.n, Cell::new(scene::OTHER, scene::OTHER, changing.flags()))
                })
                .out(REDIRECT, out, Reason::TooBigPath),
            row("a flow without an entry, whose base is another")
                .with(move |rig| scene::cell(rig, t.n, changing))
                .pass(Reason::PassTooBig),
        ]);
    }
    rows
}

/// Quotes of every length: the inner packet's ports must be there.
fn cuts(t: Tunnel) -> Vec<Row> {
    let inner = full(t);
    let outer = outer(t, &inner, &inner);
    let header = if t.inner_v6 { 40 } else { 20 };
    (0..t.overhead() + header + 30)
        .map(|quoted| {
            let error = error(t, &outer, quoted);
            let row = row(t, &format!("a quote of {quoted} bytes"), &error);
            match quoted.checked_sub(t.overhead()) {
                None => row.pass(Reason::PassNotTransport),
                Some(shown) if shown < header + 4 => row.pass(Reason::PassTooBig),
                Some(shown) => {
                    row.out(REDIRECT, seen(t, &inner[L3..L3 + shown], room(t, MTU)), Reason::TooBigPath)
                }
            }
        })
        .collect()
}

/// Every length around the limits of what is shown, and every kind of MTU.
fn sizes(t: Tunnel) -> Vec<Row> {
    let inner = full(t);
    let outer = outer(t, &inner, &inner);
    let mut rows = vec![];
    // Nothing keeps a router from quoting more than it should.
    for inside in [541, 542, 543, 544, 545, 546, 547, 600, 1191, 1192, 1300] {
        let kept = if t.inner_v6 { inside } else { inside.min(544) };
        rows.push(
            row(t, &format!("{inside} bytes of the packet"), &error(t, &outer, t.overhead() + inside)).out(
                REDIRECT,
                seen(t, &inner[L3..L3 + kept], room(t, MTU)),
                Reason::TooBigPath,
            ),
        );
    }
    let told = |mtu: u32| Error { told: mtu.to_be_bytes(), ..error(t, &outer, whole(t)) };
    let least = t.overhead() as u32 + if t.inner_v6 { 1280 } else { 68 };
    for mtu in [least, least + 1, 1400, 1499, 1500, 9000, 65_535] {
        let out = seen(t, &inner[L3..L3 + shown(t)], room(t, mtu));
        rows.push(row(t, &format!("an MTU of {mtu}"), &told(mtu)).out(REDIRECT, out, Reason::TooBigPath));
    }
    for mtu in [1, t.overhead() as u32, t.overhead() as u32 + 1, least - 1] {
        rows.push(row(t, &format!("an MTU of {mtu}, less than any"), &told(mtu)).drop(Reason::DropTooBig));
    }
    let silent = row(t, "a router that does not tell the MTU", &told(0));
    rows.push(if t.inner_v6 {
        silent.drop(Reason::DropTooBig)
    } else {
        silent.out(REDIRECT, seen(t, &inner[L3..L3 + shown(t)], 0), Reason::TooBigPath)
    });
    if !t.outer_v6 {
        // The length of what precedes extensions (RFC 4884) is no part of ours.
        let [.., high, low] = MTU.to_be_bytes();
        let extended = Error { told: [0, 32, high, low], ..told(MTU) };
        rows.push(row(t, "an error with extensions", &extended).out(
            REDIRECT,
            seen(t, &inner[L3..L3 + shown(t)], room(t, MTU)),
            Reason::TooBigPath,
        ));
    }
    rows
}

/// What the inner packet may be.
fn shapes(t: Tunnel) -> Vec<Row> {
    let plain = full(t);
    let goes = |what: &str, inner: &[u8], quoted: usize| {
        let error = error(t, &outer(t, &plain, inner), t.overhead() + quoted);
        row(t, what, &error).out(REDIRECT, seen(t, &inner[L3..L3 + quoted], room(t, MTU)), Reason::TooBigPath)
    };
    let mut rows = vec![];
    if t.inner_v6 {
        let headers = extended(&plain, &[(0, 56), (DESTINATION, 72)]);
        rows.push(goes("extension headers inside", &headers, 40 + 128 + 8));
        let first = fragments(&plain, 1024)[0].clone();
        rows.push(goes("a first fragment inside", &first, 200));
        let later = fragments(&plain, 1024)[1].clone();
        rows.push(
            row(t, "a later fragment inside", &error(t, &outer(t, &plain, &later), 200))
                .pass(Reason::PassTooBig),
        );
        rows.push(
            row(t, "one extension header too many inside", &{
                let headers = extended(&plain, &[(DESTINATION, 8); 5]);
                error(t, &outer(t, &plain, &headers), 200)
            })
            .pass(Reason::PassTooBig),
        );
    } else {
        let options = Pkt { ip_options: vec![1; 40], ..t.packet().hops(63) };
        let options = df(t, Pkt { payload: vec![0x5a; 900], ..options }.bytes());
        rows.push(goes("IPv4 options inside", &options, 200));
        let may_cut = summed(patch(plain.clone(), L3 + 6, &[0, 0]));
        rows.push(
            row(t, "a packet that may be cut", &error(t, &outer(t, &plain, &may_cut), 200))
                .drop(Reason::DropTooBig),
        );
        let later = fragments(&plain, 1024)[1].clone();
        rows.push(
            row(t, "a later fragment inside", &error(t, &outer(t, &plain, &later), 200))
                .pass(Reason::PassTooBig),
        );
    }
    // A router counts hops down on the outer header, before it finds that the packet does not fit or after.
    let mut counted = outer(t, &plain, &plain);
    if t.outer_v6 {
        counted[L3 + 7] -= 1;
    } else {
        counted[L3 + 8] -= 1;
        counted = summed(counted);
    }
    rows.push(row(t, "a hop less outside", &error(t, &counted, 300)).out(
        REDIRECT,
        seen(t, &plain[L3..L3 + 300 - t.overhead()], room(t, MTU)),
        Reason::TooBigPath,
    ));
    // What came damaged stays so, wherever the checksum is changed only.
    let quoted = t.overhead() + 120;
    let damage = |frame: Vec<u8>| {
        let last = frame.len() - 1;
        let bad = frame[last] ^ 0x40;
        patch(frame, last, &[bad])
    };
    rows.push(row(t, "a damaged quote", &error(t, &outer(t, &plain, &plain), quoted)).shape(damage).out(
        REDIRECT,
        damage(seen(t, &plain[L3..L3 + 120], room(t, MTU))),
        Reason::TooBigPath,
    ));
    rows
}

/// Errors that are no word about a packet of ours.
fn not_told(t: Tunnel) -> Vec<Row> {
    let inner = full(t);
    let error = error(t, &outer(t, &inner, &inner), whole(t));
    let elsewhere = |pkt: Pkt| {
        let frame = df(t, pkt.hops(63).bytes());
        super::path::error(t, &outer(t, &inner, &frame), 200)
    };
    let deep = L3 + if t.outer_v6 { 88 } else { 48 };
    let at = L3 + if t.outer_v6 { 48 } else { 28 };
    let source_low = at + if t.outer_v6 { 23 } else { 15 };
    let own_low = L3 + if t.outer_v6 { 39 } else { 19 };
    let to_low = at + if t.outer_v6 { 39 } else { 19 };
    let far = error.bytes()[to_low] ^ 1;
    let low = error.bytes()[own_low] ^ 1;
    let mut rows = vec![
        row(t, "another port of the VIP", &elsewhere(t.packet().dst((t.vip().0, 9))))
            .pass(Reason::PassNotTransport),
        row(t, "somebody else's tunnel", &elsewhere(t.packet().dst((t.client().0, 80))))
            .pass(Reason::PassNotTransport),
        row(t, "another backend", &error)
            .shape(move |frame| patch(frame, to_low, &[far]))
            .pass(Reason::PassTooBig),
        row(t, "an outer source of another flow", &error)
            .shape(move |frame| patch(patch(frame, own_low, &[low]), source_low, &[low]))
            .pass(Reason::PassTooBig),
        row(t, "an outer source that is not who is told", &error)
            .shape(move |frame| patch(frame, own_low, &[low]))
            .pass(Reason::PassNotTransport),
        row(t, "a backend of another mode", &error)
            .with(move |rig| scene::cell(rig, t.n, Cell::settled(scene::OTHER)))
            .pass(Reason::PassTooBig),
        row(t, "no backend", &error)
            .with(move |rig| scene::cell(rig, t.n, Cell::settled(0)))
            .pass(Reason::PassTooBig),
        row(t, "an inner packet of no version", &error)
            .shape(move |frame| patch(frame, deep, &[0x55]))
            .pass(Reason::PassTooBig),
        row(t, "a tunnel within the tunnel", &error)
            .shape(move |frame| patch(frame, deep + if t.inner_v6 { 6 } else { 9 }, &[4]))
            .pass(Reason::PassTooBig),
    ];
    let kinds: &[(u8, u8)] = if t.outer_v6 { &[(1, 0), (1, 4), (3, 0)] } else { &[(3, 0), (3, 1), (11, 0)] };
    for kind in kinds {
        rows.push(
            row(t, &format!("an error of type and code {kind:?}"), &Error { kind: *kind, ..error.clone() })
                .pass(Reason::PassNotTransport),
        );
    }
    if !t.outer_v6 {
        let options = Error { ip_options: vec![1; 4], ..error.clone() };
        rows.push(row(t, "an error with IPv4 options", &options).pass(Reason::PassNotTransport));
    }
    rows
}
