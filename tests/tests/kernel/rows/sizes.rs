//! Packets that do not fit the link to the backend, or the way to the client, and the MSS that SYNs tell.

use std::net::IpAddr;

use zdd_common::entries::Port;
use zdd_common::reason::Reason;

use super::actions::{PASS, REDIRECT, TX};
use super::ipip::summed;
use super::scene::{
    self, L2, L2_UDP, L2_V6, MAPPED, NAT, NAT_V6, SNAT, SNAT_UDP, SNAT_UDP_V6, SNAT_V6, backend, client, hop,
    is_udp, is_v6, mac, to_vip, vip,
};
use super::snat::{answered, ours, row, to_us};
use super::{Row, patch};
use crate::frames::{ACK, L3, L4, Pkt, SYN};
use crate::odd_frames::{QINQ, VLAN, fragments, tagged, told};
use crate::rig::{Link, MAC_A, MAC_B, NARROW, Rig, neighbour_mac, neighbour4, neighbour6};

pub(super) fn rows() -> Vec<Row> {
    let mut rows = vec![];
    for n in [SNAT, SNAT_V6, SNAT_UDP, SNAT_UDP_V6, NAT, NAT_V6] {
        rows.extend(sizes(n));
        rows.extend(in_vlans(n));
    }
    for n in [L2, L2_V6, L2_UDP] {
        rows.extend(unrouted(n));
    }
    for n in [SNAT, SNAT_V6, MAPPED] {
        rows.extend(segments(n, false));
    }
    for n in [NAT, NAT_V6] {
        rows.extend(segments(n, true));
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
    if frame[12] == 0x86 { frame } else { summed(patch(frame, L3 + 6, &[0x40, 0])) }
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
    let cut = |frame: Vec<u8>| summed(patch(frame, L3 + 6, &[0, 0]));
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

/// Packets that do not fit the link to the backend under `l2`: the stack, whose address the VIP may be, is never asked.
fn unrouted(n: u16) -> Vec<Row> {
    let row = |what: &str, frame| Row::new(format!("{what} the link, mode l2, service {n}"), frame);
    let sent = |length: usize| long(&to_vip(n).macs(mac(n), MAC_B), length);
    let large = long(&to_vip(n), 1401);
    let error = told(&large, vip(n).0, client(n).0, 1400);
    let qinq = |frame: &[u8]| tagged(frame, &[(QINQ, 5), (VLAN, 6)]);
    let tagged_port = move |rig: &mut Rig| {
        let port = Port { ifindex: rig.b, flags: 0, mac: MAC_B, tags: 5 | 6 << 16, mtu: 1400 };
        rig.plane.set_port(TIGHT, port).expect("a port");
        hop(rig, n, TIGHT);
    };
    let bounce = move |rig: &mut Rig| {
        let port = Port { ifindex: rig.a, flags: Port::TX, mac: MAC_A, tags: 0, mtu: 1400 };
        rig.plane.set_port(TIGHT, port).expect("a port");
        hop(rig, n, TIGHT);
    };
    let tight = || tight(n, 1400);
    let mut rows = vec![
        row("as large as fits", long(&to_vip(n), 1400))
            .with(tight())
            .out(REDIRECT, sent(1400), Reason::Settled)
            .counts(n, n, false),
        row("one byte too large for", large.clone()).with(tight()).out(
            REDIRECT,
            error.clone(),
            Reason::TooBig,
        ),
        row("with tags, as large as fits", qinq(&long(&to_vip(n), 1400)))
            .with(tagged_port)
            .out(REDIRECT, qinq(&sent(1400)), Reason::Settled)
            .counts(n, n, false),
        row("with tags, too large for", qinq(&large)).with(tagged_port).out(
            REDIRECT,
            qinq(&error),
            Reason::TooBig,
        ),
        row("bounced, larger than", large.clone())
            .with(bounce)
            .out(TX, long(&to_vip(n).macs(mac(n), MAC_A), 1401), Reason::Settled)
            .counts(n, n, false),
    ];
    let pieces = fragments(&long(&to_vip(n), 3000), 1400);
    rows.push(
        row("a later fragment, too large for", pieces[1].clone())
            .after(Link::A, pieces[0].clone())
            .with(tight())
            .drop(Reason::DropTooBig),
    );
    if !is_v6(n) {
        let may = summed(patch(large, L3 + 6, &[0, 0]));
        rows.push(row("too large, though it may be cut, for", may).with(tight()).drop(Reason::DropTooBig));
    }
    rows
}

/// Another client than the usual one, of the service's family.
pub(super) fn other_client(n: u16) -> IpAddr {
    if is_v6(n) { neighbour6(Link::A, 11) } else { neighbour4(Link::A, 11) }
}

/// Tagged packets that do not fit: the sender is told by its own link, with its tags.
fn in_vlans(n: u16) -> Vec<Row> {
    let becomes =
        |pkt: Pkt| if scene::is_snat(n) { pkt.src(ours(n)).dst(backend(n)) } else { pkt.dst(backend(n)) };
    let fits = long(&to_vip(n), 1400);
    let sent = long(&becomes(to_vip(n)).hops(63).macs(mac(n), MAC_B), 1400);
    let large = long(&to_vip(n), 1401);
    let error = told(&large, vip(n).0, client(n).0, 1400);
    let mut rows = vec![];
    for (what, tags, vlans) in [
        ("one tag", &[(VLAN, 7)][..], 7),
        ("a priority tag", &[(VLAN, 0)], 0),
        ("QinQ", &[(QINQ, 5), (VLAN, 6)], 5 | 6 << 16),
    ] {
        let tight = move |rig: &mut Rig| {
            rig.plane
                .set_port(TIGHT, Port { ifindex: rig.b, flags: 0, mac: MAC_B, tags: vlans, mtu: 1400 })
                .expect("a port");
            hop(rig, n, TIGHT);
        };
        let row = |which: &str, frame: &[u8]| {
            row(format!("{which} with {what}, too large or not, service {n}"), tagged(frame, tags))
                .with(tight)
        };
        rows.extend([
            row("as large as fits", &fits)
                .out(REDIRECT, tagged(&sent, tags), Reason::Settled)
                .counts(n, n, false),
            row("one byte too large", &large).out(REDIRECT, tagged(&error, tags), Reason::TooBig),
            row("bounced", &large).with(|rig| rig.plane.set_redirect(rig.a, false).expect("known")).out(
                TX,
                tagged(&error, tags),
                Reason::TooBig,
            ),
        ]);
        if !is_v6(n) {
            let cut = |frame: Vec<u8>| summed(patch(frame, L3 + 6, &[0, 0]));
            let stack = cut(long(&becomes(to_vip(n)), 1401));
            rows.push(
                row("may be cut", &cut(large.clone()))
                    .out(PASS, tagged(&stack, tags), Reason::StackRouted)
                    .counts(n, n, false),
            );
        }
    }
    // Nobody has asked for its size yet: the stack takes it to another VLAN, and tells the sender itself.
    let other = row(
        format!("a tag that its way does not have, too large, service {n}"),
        tagged(&large, &[(VLAN, 8)]),
    );
    rows.push(
        other
            .with(tight(n, 1400))
            .out(PASS, tagged(&long(&becomes(to_vip(n)), 1401), &[(VLAN, 8)]), Reason::StackRouted)
            .counts(n, n, false),
    );
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
    // What lies behind the packet is no option of it, whatever its header says.
    let behind = |frame: Vec<u8>| {
        let at = L3 + if is_v6(n) { 40 } else { 20 } + 12;
        [patch(frame, at, &[6 << 4]), vec![2, 4, 0xff, 0xff]].concat()
    };
    let plain = Pkt { tcp_options: vec![], ..syn.clone() };
    let mut rows = vec![
        row(name("MSS in the padding behind a SYN"), behind(plain.bytes()))
            .with(tight(n, 1400))
            .out(
                REDIRECT,
                behind(becomes(plain.clone()).hops(63).macs(mac(n), MAC_B).bytes()),
                Reason::Settled,
            )
            .counts(n, n, true),
    ];
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
