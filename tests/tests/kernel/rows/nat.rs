//! `nat`: the destination becomes the backend's, as a router would send it on.

use zdd_common::entries::{Backend, Cell, Mode, NextHop};
use zdd_common::reason::Reason;

use super::actions::{ABORTED, PASS, REDIRECT, TX};
use super::scene::{self, NAT, NAT_UDP, NAT_UDP_V6, NAT_V6, OTHER, backend, cell, hop, mac, to_vip};
use super::{Row, patch};
use crate::frames::{ACK, L3, L4, PSH, Pkt, SYN};
use crate::rig::{MAC_A, MAC_B};

/// What a packet to the VIP becomes when it is sent on from our interface `src`.
fn sent(pkt: &Pkt, n: u16, src: [u8; 6]) -> Pkt {
    pkt.clone().dst(backend(n)).hops(pkt.hops - 1).macs(mac(n), src)
}

/// A packet that is redirected to the service's backend.
fn goes(name: impl Into<String>, pkt: &Pkt, n: u16, new_flow: bool) -> Row {
    Row::new(name, pkt.bytes())
        .out(REDIRECT, sent(pkt, n, MAC_B).bytes(), Reason::Settled)
        .counts(n, n, new_flow)
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = vec![];
    for (family, n) in [("TCP", NAT), ("UDP", NAT_UDP), ("TCP/IPv6", NAT_V6), ("UDP/IPv6", NAT_UDP_V6)] {
        rows.extend(ways(family, n));
        rows.extend(payloads(family, n));
    }
    rows.extend(tcp());
    rows.extend(udp());
    rows.extend(modes());
    rows
}

fn ways(family: &str, n: u16) -> Vec<Row> {
    let row = |what: &str| Row::new(format!("nat {family}: {what}"), to_vip(n).bytes());
    // For the stack the hop count and the MAC addresses stay: it routes the packet itself.
    let to_stack = to_vip(n).dst(backend(n)).bytes();
    let last = |hops: u8| Row::new(format!("nat {family}: hop limit {hops}"), to_vip(n).hops(hops).bytes());
    vec![
        goes(format!("nat {family}: redirected"), &to_vip(n), n, false),
        row("bounced where it came in")
            .with(move |rig| hop(rig, n, scene::BOUNCE))
            .out(TX, sent(&to_vip(n), n, MAC_A).bytes(), Reason::Settled)
            .counts(n, n, false),
        row("redirected where it came in, when the device cannot bounce")
            .with(move |rig| hop(rig, n, scene::SAME))
            .out(REDIRECT, sent(&to_vip(n), n, MAC_A).bytes(), Reason::Settled)
            .counts(n, n, false),
        row("the port's interface is gone")
            .with(move |rig| hop(rig, n, scene::GONE))
            .out(ABORTED, sent(&to_vip(n), n, MAC_B).bytes(), Reason::Settled)
            .counts(n, n, false),
        row("next hop unresolved: the stack routes it")
            .with(move |rig| rig.plane.set_next_hop(n, NextHop(0)))
            .out(PASS, to_stack.clone(), Reason::StackRouted)
            .counts(n, n, false),
        row("a port for the stack")
            .with(move |rig| hop(rig, n, scene::STACK))
            .out(PASS, to_stack.clone(), Reason::StackRouted)
            .counts(n, n, false),
        row("a port beyond the map: the stack routes it")
            .with(move |rig| hop(rig, n, 60_000))
            .out(PASS, to_stack, Reason::StackRouted)
            .counts(n, n, false),
        row("no backend in the cell")
            .with(move |rig| cell(rig, n, Cell::settled(0)))
            .drop(Reason::DropNoBackend),
        goes(format!("nat {family}: hop limit 2"), &to_vip(n).hops(2), n, false),
        goes(format!("nat {family}: hop limit 255"), &to_vip(n).hops(255), n, false),
        last(1).drop(Reason::DropTtl),
        last(0).drop(Reason::DropTtl),
        Row::new(
            format!("nat {family}: hop limit 1 for the stack, which answers it"),
            to_vip(n).hops(1).bytes(),
        )
        .with(move |rig| hop(rig, n, scene::STACK))
        .out(PASS, to_vip(n).hops(1).dst(backend(n)).bytes(), Reason::StackRouted)
        .counts(n, n, false),
    ]
}

fn payloads(family: &str, n: u16) -> Vec<Row> {
    [("no", 0), ("an odd", 1), ("another odd", 777), ("a full", 1400)]
        .into_iter()
        .map(|(what, length)| {
            let pkt = to_vip(n).payload(&vec![0xa5; length]);
            goes(format!("nat {family}: {what} payload"), &pkt, n, false)
        })
        .collect()
}

fn tcp() -> Vec<Row> {
    let mut rows = vec![];
    for (family, n) in [("", NAT), ("IPv6, ", NAT_V6)] {
        let syn = Pkt { l4: L4::Tcp(SYN, 1), tcp_options: vec![2, 4, 5, 180], ..to_vip(n) };
        rows.push(goes(format!("nat {family}SYN with options"), &syn, n, true));
        let wrong = |frame: Vec<u8>, delta: u16| {
            let at = L3 + if scene::is_v6(n) { 40 } else { 20 } + 16;
            let sum = u16::from_be_bytes([frame[at], frame[at + 1]]);
            // Ones' complement addition: an error in a checksum goes through as the same error.
            let (sum, carry) = sum.overflowing_add(delta);
            patch(frame, at, &(sum + u16::from(carry)).to_be_bytes())
        };
        let pkt = to_vip(n);
        rows.push(
            Row::new(format!("nat {family}a wrong TCP checksum is not made right"), wrong(pkt.bytes(), 5))
                .out(REDIRECT, wrong(sent(&pkt, n, MAC_B).bytes(), 5), Reason::Settled)
                .counts(n, n, false),
        );
    }
    let options = Pkt { ip_options: vec![148, 4, 0, 0], payload: vec![7; 9], ..to_vip(NAT) };
    rows.push(goes("nat: IPv4 options stay", &options, NAT, false));
    let padded = Pkt { padding: 5, ..to_vip(NAT) };
    rows.push(goes("nat: padding stays and is not summed", &padded, NAT, false));
    let dirty = Pkt { l4: L4::Tcp(ACK | PSH, u32::MAX), payload: vec![0xff; 64], ..to_vip(NAT) };
    rows.push(goes("nat: bytes of all ones", &dirty, NAT, false));
    rows
}

fn udp() -> Vec<Row> {
    let mut rows = vec![];
    for (family, n) in [("IPv4", NAT_UDP), ("IPv6", NAT_UDP_V6)] {
        let without = Pkt { l4: L4::Udp(false), ..to_vip(n) };
        rows.push(goes(format!("nat UDP/{family}: without a checksum it stays without"), &without, n, false));
        let checksum = |pkt: &Pkt| {
            let frame = pkt.bytes();
            let at = L3 + if scene::is_v6(n) { 40 } else { 20 } + 6;
            u16::from_be_bytes([frame[at], frame[at + 1]])
        };
        let search = |wanted: &dyn Fn(&Pkt) -> bool| {
            (0..=u16::MAX)
                .map(|word| to_vip(n).payload(&word.to_be_bytes()))
                .find(wanted)
                .expect("some payload")
        };
        // A sum of 0 is sent as all ones, because 0 means that there is none (RFC 768).
        let becomes = search(&|pkt| checksum(&sent(pkt, n, MAC_B)) == 0xffff);
        rows.push(goes(format!("nat UDP/{family}: a checksum that becomes 0"), &becomes, n, false));
        let was = search(&|pkt| checksum(pkt) == 0xffff);
        rows.push(goes(format!("nat UDP/{family}: a checksum that was 0"), &was, n, false));
        let near = search(&|pkt| checksum(&sent(pkt, n, MAC_B)) == 1);
        rows.push(goes(format!("nat UDP/{family}: a checksum that becomes 1"), &near, n, false));
    }
    rows
}

/// A version may override the service's mode: it is the backend that has one.
fn modes() -> Vec<Row> {
    let nat_of = |n: u16| {
        let (addr, port) = backend(n);
        Backend {
            addr: addr.into(),
            next_hop: NextHop::new(mac(n), scene::REDIRECT).0,
            port: port.to_be(),
            mode: Mode::Nat as u16,
            ..Backend::default()
        }
    };
    let l2 = to_vip(NAT).macs(mac(OTHER), MAC_B).bytes();
    let nat = sent(&to_vip(scene::L2), OTHER, MAC_B);
    vec![
        Row::new("a nat service with an l2 backend", to_vip(NAT).bytes())
            .with(|rig| cell(rig, NAT, Cell::settled(OTHER)))
            .out(REDIRECT, l2, Reason::Settled)
            .counts(NAT, OTHER, false),
        Row::new("an l2 service with a nat backend", to_vip(scene::L2).bytes())
            .with(move |rig| rig.plane.write_backend(OTHER, &nat_of(OTHER)))
            .with(|rig| cell(rig, scene::L2, Cell::settled(OTHER)))
            .out(REDIRECT, nat.bytes(), Reason::Settled)
            .counts(scene::L2, OTHER, false),
    ]
}
