//! `ipip` over ports with an MTU: what fits, what the sender is told of what does not, and the MSS of SYNs.

use std::net::{Ipv4Addr, Ipv6Addr};

use zdd_common::entries::Port;
use zdd_common::reason::Reason;

use super::actions::{REDIRECT, TX};
use super::ipip::{TUNNELS, Tunnel, summed};
use super::{Row, patch};
use crate::frames::{ACK, L3, L4, Pkt, SYN};
use crate::odd_frames::{QINQ, VLAN, tagged, told};
use crate::rig::{MAC_B, Rig};

/// A slot that no other row uses.
const NARROW: u16 = 6;

fn narrow(t: Tunnel, mtu: u32) -> impl Fn(&mut Rig) {
    move |rig| {
        let port = Port { ifindex: rig.b, flags: 0, mac: MAC_B, tags: 0, mtu };
        rig.plane.set_port(NARROW, port).expect("a port");
        t.build(rig, NARROW);
    }
}

/// Don't fragment, of an IPv4 packet.
pub(super) fn df(t: Tunnel, frame: Vec<u8>) -> Vec<u8> {
    if t.inner_v6 { frame } else { summed(patch(frame, L3 + 6, &[0x40, 0])) }
}

/// A frame whose IP packet has this length.
pub(super) fn long(t: Tunnel, length: usize, hops: u8) -> Vec<u8> {
    let empty = t.packet().payload(b"").bytes().len() - L3;
    let payload: Vec<u8> = (0..length - empty).map(|at| at as u8 ^ 0x5a).collect();
    df(t, t.packet().payload(&payload).hops(hops).bytes())
}

/// The error that tells the sender of `frame` about `mtu`.
fn error(t: Tunnel, frame: &[u8], mtu: u32) -> Vec<u8> {
    told(frame, t.vip().0, t.client().0, mtu)
}

pub(super) fn rows() -> Vec<Row> {
    let each = |t: &Tunnel| sizes(*t).into_iter().chain(in_vlans(*t)).chain(segments(*t)).collect::<Vec<_>>();
    TUNNELS.iter().flat_map(each).chain(untold()).collect()
}

/// Tagged packets: the sender is told by its own link, with its tags.
fn in_vlans(t: Tunnel) -> Vec<Row> {
    let room = 1500 - t.overhead() as u32;
    let frame = long(t, 1500, 64);
    let mut rows = vec![];
    for (what, tags, vlans) in [
        ("one tag", &[(VLAN, 7)][..], 7),
        ("a priority tag", &[(VLAN, 0)], 0),
        ("QinQ", &[(QINQ, 5), (VLAN, 6)], 5 | 6 << 16),
    ] {
        let narrow = move |rig: &mut Rig| {
            let port = Port { ifindex: rig.b, flags: 0, mac: MAC_B, tags: vlans, mtu: 1500 };
            rig.plane.set_port(NARROW, port).expect("a port");
            t.build(rig, NARROW);
        };
        let full = long(t, room as usize, 64);
        rows.extend([
            t.row(&format!("{what}: as large as fits"), tagged(&full, tags))
                .with(narrow)
                .out(
                    REDIRECT,
                    tagged(&t.wrapped(&long(t, room as usize, 63), 0, MAC_B), tags),
                    Reason::Settled,
                )
                .counts(t.n, t.n, false),
            t.row(&format!("{what}: one byte too large"), tagged(&long(t, room as usize + 1, 64), tags))
                .with(narrow)
                .out(
                    REDIRECT,
                    tagged(&error(t, &long(t, room as usize + 1, 64), room), tags),
                    Reason::TooBig,
                ),
            t.row(&format!("{what}: a full packet"), tagged(&frame, tags)).with(narrow).out(
                REDIRECT,
                tagged(&error(t, &frame, room), tags),
                Reason::TooBig,
            ),
            t.row(&format!("{what}: bounced"), tagged(&frame, tags))
                .with(narrow)
                .with(|rig| rig.plane.set_redirect(rig.a, false).expect("known"))
                .out(TX, tagged(&error(t, &frame, room), tags), Reason::TooBig),
            t.row(&format!("{what}: no hop left"), tagged(&t.packet().hops(1).bytes(), tags))
                .with(narrow)
                .drop(Reason::DropTtl),
        ]);
    }
    // Somebody would have to take the packet to another VLAN, and its size is not asked before that.
    rows.push(
        t.row("a tag that its way does not have: too large or not", tagged(&frame, &[(VLAN, 8)]))
            .with(narrow(t, 1500))
            .drop(Reason::DropNoNextHop),
    );
    rows
}

fn sizes(t: Tunnel) -> Vec<Row> {
    let room = |mtu: u32| mtu - t.overhead() as u32;
    let told = |what: &str, mtu: u32, length: usize| {
        let frame = long(t, length, 64);
        let error = error(t, &frame, room(mtu));
        t.row(what, frame).with(narrow(t, mtu)).out(REDIRECT, error, Reason::TooBig)
    };
    let fits = |what: &str, mtu: u32, length: usize| {
        t.row(what, long(t, length, 64))
            .with(narrow(t, mtu))
            .out(REDIRECT, t.wrapped(&long(t, length, 63), 0, MAC_B), Reason::Settled)
            .counts(t.n, t.n, false)
    };
    let full = room(1500) as usize;
    let frame = long(t, 1500, 64);
    vec![
        fits("as large as fits", 1500, full),
        told("one byte too large", 1500, full + 1),
        told("a full packet", 1500, 1500),
        told("a jumbo packet", 1500, 3000),
        told("over a way with a larger MTU", 3000, 3000),
        fits("a full packet over a way that has room", 1540, 1500),
        fits("nothing is known of the way: nothing is too large", 0, 1500),
        told("the last hop: too large is told first", 1500, 1500).last_hop(t, room(1500)),
        t.row("bounced where the device takes no redirects", frame.clone())
            .with(narrow(t, 1500))
            .with(|rig| rig.plane.set_redirect(rig.a, false).expect("known"))
            .out(TX, error(t, &frame, room(1500)), Reason::TooBig),
    ]
}

/// Of frames in several buffers: cut to what the error quotes.
pub(super) fn jumbo() -> Vec<Row> {
    let told = |t: Tunnel, length: usize| {
        let frame = long(t, length, 64);
        let error = error(t, &frame, 5000 - t.overhead() as u32);
        t.row(&format!("{length} bytes, over a way of 5000"), frame).with(narrow(t, 5000)).out(
            REDIRECT,
            error,
            Reason::TooBig,
        )
    };
    TUNNELS.into_iter().flat_map(|t| [told(t, 9000), told(t, 4990)]).collect()
}

impl Row {
    fn last_hop(self, t: Tunnel, room: u32) -> Self {
        let frame = long(t, 1500, 1);
        let out = error(t, &frame, room);
        Self { frame, ..self }.out(REDIRECT, out, Reason::TooBig)
    }
}

/// What is too large, and nobody is told.
fn untold() -> Vec<Row> {
    let [four, six, mixed, ..] = TUNNELS;
    let drop = |t: Tunnel, what: &str, mtu: u32, frame: Vec<u8>| {
        t.row(what, frame).with(narrow(t, mtu)).drop(Reason::DropTooBig)
    };
    let may_be_cut = |t: Tunnel| summed(patch(t.packet().payload(&[7; 1460]).bytes(), L3 + 6, &[0, 0]));
    let mut rows = vec![
        drop(four, "too large without don't fragment", 1500, may_be_cut(four)),
        drop(mixed, "too large without don't fragment", 1500, may_be_cut(mixed)),
        drop(six, "a way too narrow for IPv6", 1319, long(six, 1280, 64)),
        drop(four, "too short to be quoted", 500, long(four, 500, 64)),
        // The narrowest way that IPv6 can be told of.
        six.row("the narrowest way for IPv6", long(six, 1281, 64)).with(narrow(six, 1320)).out(
            REDIRECT,
            error(six, &long(six, 1281, 64), 1280),
            Reason::TooBig,
        ),
    ];
    // Nor anything from where no host is: see `martian`.
    for from in ["240.0.0.1", "255.255.255.254"] {
        let from: Ipv4Addr = from.parse().expect("an address");
        let pkt = four.packet().payload(&[7; 1460]).src((from.into(), 40_000)).bytes();
        rows.push(drop(four, &format!("no errors to {from}"), 1500, df(four, pkt)));
    }
    for from in ["::2", "::ffff"] {
        let from: Ipv6Addr = from.parse().expect("an address");
        let pkt = six.packet().payload(&[7; 1460]).src((from.into(), 40_000)).bytes();
        rows.push(drop(six, &format!("no errors to {from}"), 1500, pkt));
    }
    rows
}

/// SYNs: the options of the one that comes in, and of the one inside that goes out.
fn segments(t: Tunnel) -> Vec<Row> {
    if t.udp {
        return vec![];
    }
    // 1500 less the outer header, the inner one, and TCP's.
    let most = (1500 - t.overhead() - if t.inner_v6 { 40 } else { 20 } - 20) as u16;
    let syn = |options: &[u8]| Pkt { tcp_options: options.to_vec(), l4: L4::Tcp(SYN, 1), ..t.packet() };
    let goes = |what: String, mtu: u32, came: Pkt, gone: Pkt, new_flow: bool| {
        t.row(&what, came.bytes())
            .with(narrow(t, mtu))
            .out(REDIRECT, t.wrapped(&gone.hops(63).bytes(), 0, MAC_B), Reason::Settled)
            .counts(t.n, t.n, new_flow)
    };
    let same = |what: &str, options: &[u8]| goes(what.to_owned(), 1500, syn(options), syn(options), true);
    let mss = |value: u16| [&[2, 4][..], &value.to_be_bytes()[..]].concat();
    let mut rows = vec![];
    for before in 0..=36 {
        let with = |value: u16| {
            let mut options = [vec![1; before], mss(value)].concat();
            options.resize(options.len().next_multiple_of(4), 1);
            syn(&options)
        };
        rows.push(goes(format!("MSS behind {before} bytes"), 1500, with(1460 + 40), with(most), true));
    }
    for value in [0, 1, 536, most - 1, most] {
        rows.push(same(&format!("MSS {value} stays"), &mss(value)));
    }
    for value in [most + 1, 0x7fff, 0xffff] {
        rows.push(goes(format!("MSS {value}"), 1500, syn(&mss(value)), syn(&mss(most)), true));
    }
    let behind = |head: &[u8]| [head, &mss(9000)].concat();
    let lowered = |head: &[u8]| [head, &mss(most)].concat();
    let stamps = [8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];
    rows.push(goes(
        "MSS behind a timestamp".into(),
        1500,
        syn(&behind(&stamps)),
        syn(&lowered(&stamps)),
        true,
    ));
    let twice = [mss(9000), mss(9000)].concat();
    rows.push(goes(
        "MSS twice: the first counts".into(),
        1500,
        syn(&twice),
        syn(&[mss(most), mss(9000)].concat()),
        true,
    ));
    rows.extend([
        same("no options", &[]),
        same("other options", &[4, 2, 1, 3, 3, 7, 1, 1]),
        same("an end before the MSS", &behind(&[0, 1, 1, 1])),
        same("an option of length 0 before the MSS", &behind(&[8, 0, 1, 1])),
        same("an option of length 1 before the MSS", &behind(&[8, 1, 1, 1])),
        same("an option that reaches beyond the MSS", &behind(&[8, 8, 1, 1])),
        same("an option that reaches beyond all", &behind(&[8, 255, 1, 1])),
        same("MSS of length 3", &[2, 3, 0x23, 0x28]),
        same("MSS of length 5", &[2, 5, 0x23, 0x28, 0, 1, 1, 1]),
        same("MSS of length 0", &[2, 0, 0x23, 0x28]),
    ]);
    // The option's value would lie in the payload.
    for options in [[1, 1, 1, 2], [1, 1, 2, 4], [1, 2, 4, 0xff]] {
        let pkt = syn(&options).payload(&[0xff; 8]);
        rows.push(goes(format!("options cut off: {options:?}"), 1500, pkt.clone(), pkt, true));
    }
    let ack = |flags| Pkt { l4: L4::Tcp(flags, 1), ..syn(&mss(9000)) };
    rows.push(goes("MSS without SYN".into(), 1500, ack(ACK), ack(ACK), false));
    rows.push(goes("MSS of a SYN-ACK of a client".into(), 1500, ack(SYN | ACK), ack(SYN | ACK), false));
    rows.push(goes("MSS over a way of unknown MTU".into(), 0, syn(&mss(9000)), syn(&mss(9000)), true));
    let other = (4000 - 1500) as u16 + most;
    rows.push(goes("MSS over a wider way".into(), 4000, syn(&mss(9000)), syn(&mss(other)), true));
    rows
}
