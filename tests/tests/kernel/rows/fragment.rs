//! Fragments: the first one is steered, the others follow it.

use zdd_common::entries::Cell;
use zdd_common::limits::FRAGMENT_LIFE_NS;
use zdd_common::reason::Reason;
use zdd_common::time::ticks;

use super::actions::{PASS, REDIRECT};
use super::scene::{
    self, L2, L2_UDP, L2_V6, NAT, NAT_UDP, NAT_UDP_V6, NAT_V6, NEVER, backend, cell, mac, to_client, to_vip,
    vip,
};
use super::{Row, cut, patch};
use crate::frames::{L3, L4, Pkt};
use crate::odd_frames::{fragment, fragments};
use crate::rig::{Link, MAC_A, MAC_B, neighbour_mac};

/// A datagram of four fragments of 64 bytes and a last, shorter one.
fn whole(pkt: Pkt) -> Pkt {
    Pkt { payload: (0..270u16).map(|n| (n * 7) as u8).collect(), ..pkt }
}

const SIZE: usize = 64;

fn pieces(pkt: &Pkt) -> Vec<Vec<u8>> {
    fragments(&whole(pkt.clone()).bytes(), SIZE)
}

/// What a packet becomes at backend `to`'s door.
fn sent(n: u16) -> Pkt {
    let pkt = to_vip(n).macs(mac(n), MAC_B);
    if scene::is_nat(n) { pkt.dst(backend(n)).hops(63) } else { pkt }
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = vec![];
    for n in [L2, NAT, L2_V6, NAT_V6, L2_UDP, NAT_UDP, NAT_UDP_V6] {
        let (pieces, out) = (pieces(&to_vip(n)), pieces_of(n));
        let row = |what: &str, index: usize| Row::new(format!("{what}, service {n}"), pieces[index].clone());
        rows.push(
            row("a first fragment is steered", 0)
                .out(REDIRECT, out[0].clone(), Reason::Settled)
                .counts(n, n, false),
        );
        for (index, out) in out.iter().enumerate().skip(1) {
            rows.push(
                row(&format!("fragment {index} follows the first"), index)
                    .after(Link::A, pieces[0].clone())
                    .out(REDIRECT, out.clone(), Reason::Fragment)
                    .counts(n, n, false),
            );
        }
        let last = pieces.len() - 1;
        rows.extend([
            row("a fragment that comes before the first", 1).drop(Reason::DropFragmentEarly),
            row("a fragment of another datagram", last)
                .after(Link::A, other_id(&pieces[0]))
                .drop(Reason::DropFragmentEarly),
            row("a fragment follows the first also when the cell has changed", 1)
                .after(Link::A, pieces[0].clone())
                .then(move |rig| cell(rig, n, Cell::settled(0)))
                .out(REDIRECT, out[1].clone(), Reason::Fragment)
                .counts(n, n, false),
            row("a fragment whose first came too long ago", 1)
                .after(Link::A, pieces[0].clone())
                .then(|rig| rig.age_trails(ticks(FRAGMENT_LIFE_NS) + 2))
                .drop(Reason::DropFragmentEarly),
            row("a fragment whose first came not quite too long ago", 1)
                .after(Link::A, pieces[0].clone())
                .then(|rig| rig.age_trails(ticks(FRAGMENT_LIFE_NS) - 2))
                .out(REDIRECT, out[1].clone(), Reason::Fragment)
                .counts(n, n, false),
        ]);
        rows.extend(shapes(n));
        rows.extend(not_ours(n));
    }
    for n in [NAT, NAT_V6, NAT_UDP, NAT_UDP_V6] {
        rows.extend(replies(n));
    }
    let never = pieces(&to_vip(NEVER));
    rows.push(
        Row::new("a first fragment for a service never committed", never[0].clone())
            .pass(Reason::PassNoService),
    );
    rows.push(
        Row::new("a later fragment for a service never committed", never[1].clone())
            .after(Link::A, never[0].clone())
            .pass(Reason::PassFragment),
    );
    let silent = Pkt { l4: L4::Udp(false), ..to_vip(NAT_UDP) };
    let out = fragments(&whole(Pkt { l4: L4::Udp(false), ..sent(NAT_UDP) }).bytes(), SIZE);
    rows.push(
        Row::new("a first fragment of UDP without a checksum", pieces(&silent)[0].clone())
            .out(REDIRECT, out[0].clone(), Reason::Settled)
            .counts(NAT_UDP, NAT_UDP, false),
    );
    rows
}

fn pieces_of(n: u16) -> Vec<Vec<u8>> {
    fragments(&whole(sent(n)).bytes(), SIZE)
}

fn other_id(piece: &[u8]) -> Vec<u8> {
    let at = if piece[12] == 0x86 { L3 + 40 + 7 } else { L3 + 5 };
    patch(piece.to_vec(), at, &[piece[at] ^ 1])
}

/// Fragments that contradict themselves or each other.
fn shapes(n: u16) -> Vec<Row> {
    let frame = whole(to_vip(n)).bytes();
    let body = &frame[L3 + if scene::is_v6(n) { 40 } else { 20 }..];
    let header = if scene::is_udp(n) { 8 } else { 20 };
    let first = fragments(&frame, SIZE)[0].clone();
    let row = |what: &str, frame: Vec<u8>| Row::new(format!("{what}, service {n}"), frame);
    let mut rows = vec![
        row("a first fragment whose frame is cut", cut(first.clone(), first.len() - 1))
            .drop(Reason::DropFragment),
        row(
            "a fragment that overlaps the first",
            fragment(&frame, SIZE / 8 - 1, true, &body[SIZE - 8..2 * SIZE]),
        )
        .after(Link::A, first.clone())
        .drop(Reason::DropFragment),
        row("a fragment that overlaps the transport header", fragment(&frame, 1, true, &body[8..SIZE]))
            .after(Link::A, first.clone())
            .drop(Reason::DropFragment),
        row("a fragment that ends beyond what a datagram can be", fragment(&frame, 8191, false, &body[..16]))
            .after(Link::A, first.clone())
            .drop(Reason::DropMalformed),
        row("the same without the first", fragment(&frame, 8191, false, &body[..16]))
            .drop(Reason::DropMalformed),
        row("a later fragment whose frame is cut", {
            let piece = fragment(&frame, SIZE / 8, true, &body[SIZE..2 * SIZE]);
            cut(piece.clone(), piece.len() - 1)
        })
        .after(Link::A, first)
        .drop(Reason::DropMalformed),
    ];
    for length in [0, 3, 4, header - 1] {
        let piece = fragment(&frame, 0, true, &body[..length]);
        rows.push(row(&format!("a first fragment of {length} bytes"), piece).drop(Reason::DropFragment));
    }
    rows
}

/// What is not for a VIP passes, and takes no room.
fn not_ours(n: u16) -> Vec<Row> {
    let elsewhere = pieces(&to_vip(n).dst((backend(n).0, 9)));
    let port = pieces(&to_vip(n).dst((vip(n).0, 9)));
    let frame = whole(to_vip(n)).bytes();
    let at = L3 + if scene::is_v6(n) { 40 } else { 9 };
    let other = if scene::is_v6(n) { 58 } else { 1 };
    let row = |what: &str, frame: &[u8]| Row::new(format!("{what}, service {n}"), frame.to_vec());
    vec![
        row("a first fragment for somebody else", &elsewhere[0]).pass(Reason::PassNotVip),
        row("a later fragment for somebody else", &elsewhere[1]).pass(Reason::PassFragment),
        row("a first fragment for a VIP's other port", &port[0]).pass(Reason::PassNotVip),
        row("a later fragment for a VIP's other port", &port[1])
            .after(Link::A, port[0].clone())
            .pass(Reason::PassFragment),
        row("a tiny first fragment for somebody else", &{
            fragment(&whole(to_vip(n).dst((backend(n).0, 9))).bytes(), 0, true, &frame[..2])
        })
        .pass(Reason::PassNotVip),
        row("a fragment of an echo to a VIP", &patch(pieces(&to_vip(n))[1].clone(), at, &[other]))
            .pass(Reason::PassFragment),
    ]
}

fn replies(n: u16) -> Vec<Row> {
    let out = to_client(n).src(vip(n)).hops(63).macs(neighbour_mac(Link::A, 10), MAC_A);
    let (pieces, out) = (pieces(&to_client(n)), fragments(&whole(out).bytes(), SIZE));
    let to_stack = fragments(&whole(to_client(n).src(vip(n))).bytes(), SIZE);
    let direct = fragments(&whole(to_vip(n).dst(backend(n))).bytes(), SIZE);
    let row = |what: &str, index: usize| {
        Row::new(format!("{what}, service {n}"), pieces[index].clone()).from(Link::B)
    };
    vec![
        row("a reply's first fragment", 0).out(REDIRECT, out[0].clone(), Reason::Reply),
        row("a reply's second fragment", 1).after(Link::B, pieces[0].clone()).out(
            REDIRECT,
            out[1].clone(),
            Reason::Reply,
        ),
        row("a reply's last fragment", 4).after(Link::B, pieces[0].clone()).out(
            REDIRECT,
            out[4].clone(),
            Reason::Reply,
        ),
        row("a reply's second fragment, routed by the stack", 1)
            .with(|rig| rig.plane.set_redirect(rig.a, false).expect("known"))
            .after(Link::B, pieces[0].clone())
            .out(PASS, to_stack[1].clone(), Reason::ReplyStackRouted),
        row("a reply's second fragment without the first", 1).pass(Reason::PassFragment),
        row("a direct answer's first fragment", 0).after(Link::A, direct[0].clone()).pass(Reason::PassDirect),
        row("a direct answer's second fragment", 1)
            .after(Link::A, direct[0].clone())
            .after(Link::B, pieces[0].clone())
            .pass(Reason::PassFragment),
    ]
}
