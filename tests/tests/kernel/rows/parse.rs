//! What is not ours, and what contradicts itself.

use zdd_common::reason::Reason;

use super::actions::{DROP, REDIRECT};
use super::scene::{self, BEYOND, L2, L2_UDP, L2_V6, NAT, NAT_UDP_V6, NEVER, client, mac, to_vip, vip};
use super::{Row, cut, patch};
use crate::frames::{ACK, CWR, ECE, FIN, L3, L4, PSH, Pkt, RST, SYN};
use crate::rig::{Link, MAC_B};

const V4_LEN: usize = 20;
const V6_LEN: usize = 40;

/// `l2` to the service's own backend.
fn sent(name: &str, pkt: &Pkt, n: u16, new_flow: bool) -> Row {
    let out = pkt.clone().macs(mac(n), MAC_B).bytes();
    Row::new(name, pkt.bytes()).out(REDIRECT, out, Reason::Settled).counts(n, n, new_flow)
}

/// The same with bytes of the packet overwritten, which come out as they went in.
fn sent_patched(name: &str, pkt: &Pkt, n: u16, at: usize, bytes: &[u8]) -> Row {
    let out = patch(pkt.clone().macs(mac(n), MAC_B).bytes(), at, bytes);
    Row::new(name, patch(pkt.bytes(), at, bytes)).out(REDIRECT, out, Reason::Settled).counts(n, n, false)
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = not_ip();
    rows.extend(v4());
    rows.extend(v6());
    rows.extend(flags());
    let others: Vec<_> =
        rows.iter().filter(|row| row.action == DROP && row.link == Link::A).map(Row::elsewhere).collect();
    rows.extend(others);
    rows.extend(not_ours());
    rows
}

fn not_ip() -> Vec<Row> {
    let arp = patch(to_vip(L2).bytes(), 12, &[0x08, 0x06]);
    let lldp = patch(to_vip(L2).bytes(), 12, &[0x88, 0xcc]);
    vec![
        Row::new("ARP", arp).pass(Reason::PassNotIp),
        Row::new("another EtherType", lldp).pass(Reason::PassNotIp),
        Row::new("an Ethernet header that promises IPv4, alone", cut(to_vip(L2).bytes(), L3))
            .pass(Reason::PassNotIp),
        Row::new("an Ethernet header that promises IPv6, alone", cut(to_vip(L2_V6).bytes(), L3))
            .pass(Reason::PassNotIp),
    ]
}

fn v4() -> Vec<Row> {
    let tcp = || to_vip(L2).bytes();
    let udp = || to_vip(L2_UDP).bytes();
    let bad = |name: &str, frame: Vec<u8>| Row::new(name, frame).drop(Reason::DropMalformed);
    // Nobody can tell whose it is.
    let no_header = |name: &str, frame: Vec<u8>| Row::new(name, frame).pass(Reason::PassNotIp);
    let other =
        |name: &str, proto: u8| Row::new(name, patch(tcp(), L3 + 9, &[proto])).pass(Reason::PassNotTransport);
    let length = |bytes: u16| patch(tcp(), L3 + 2, &bytes.to_be_bytes());
    let options = Pkt { ip_options: vec![148, 4, 0, 0], ..to_vip(L2) };
    let most = Pkt { ip_options: vec![1; 40], ..to_vip(L2) };
    vec![
        no_header("IPv4 header cut", cut(tcp(), L3 + V4_LEN - 1)),
        bad("TCP header over IPv4 cut", cut(tcp(), L3 + V4_LEN + 19)),
        bad("UDP header over IPv4 cut", cut(udp(), L3 + V4_LEN + 7)),
        bad("no TCP header at all", cut(tcp(), L3 + V4_LEN)),
        no_header("IHL 4", patch(tcp(), L3, &[0x44])),
        no_header("IHL 0", patch(tcp(), L3, &[0x40])),
        bad("IHL beyond the frame", patch(tcp(), L3, &[0x4f])),
        no_header("version 5", patch(tcp(), L3, &[0x55])),
        no_header("version 6 below the EtherType of IPv4", patch(tcp(), L3, &[0x65])),
        bad("total length 0", length(0)),
        bad("total length below the header's", length(19)),
        bad("total length ends in the TCP header", length(39)),
        bad("total length beyond the frame", length(41)),
        bad("UDP, total length beyond the frame", patch(udp(), L3 + 2, &500u16.to_be_bytes())),
        sent("padding behind the packet", &Pkt { padding: 6, ..to_vip(L2) }, L2, false),
        sent("IPv4 options", &options, L2, false),
        sent("IPv4 options, as many as fit", &most, L2, false),
        bad("IPv4 options, TCP header cut", cut(most.bytes(), L3 + 60 + 19)),
        sent_patched("don't fragment is no fragment", &to_vip(L2), L2, L3 + 6, &[0x40, 0]),
        other("ICMP for a VIP", 1),
        other("IPIP", 4),
        other("SCTP", 132),
    ]
}

fn v6() -> Vec<Row> {
    let tcp = || to_vip(L2_V6).bytes();
    let udp = || to_vip(NAT_UDP_V6).bytes();
    let bad = |name: &str, frame: Vec<u8>| Row::new(name, frame).drop(Reason::DropMalformed);
    // Nobody can tell whose it is.
    let no_header = |name: &str, frame: Vec<u8>| Row::new(name, frame).pass(Reason::PassNotIp);
    let next = |name: &str, number: u8, reason| Row::new(name, patch(tcp(), L3 + 6, &[number])).pass(reason);
    let length = |bytes: u16| patch(tcp(), L3 + 4, &bytes.to_be_bytes());
    // ::ffff:10.9.0.1: how an IPv4 VIP is written in the tables, and nothing that may stand in a frame.
    let mut mapped = [0u8; 16];
    mapped[10..].copy_from_slice(&[0xff, 0xff, 10, 9, 0, L2 as u8]);
    let mut backend = mapped;
    backend[12..].copy_from_slice(&[10, 0, 2, 12]);
    vec![
        no_header("IPv6 header cut early", cut(tcp(), L3 + 7)),
        no_header("IPv6 header cut in the source", cut(tcp(), L3 + 23)),
        no_header("IPv6 header cut", cut(tcp(), L3 + V6_LEN - 1)),
        bad("TCP header over IPv6 cut", cut(tcp(), L3 + V6_LEN + 19)),
        bad("UDP header over IPv6 cut", cut(udp(), L3 + V6_LEN + 7)),
        no_header("version 4 below the EtherType of IPv6", patch(tcp(), L3, &[0x45])),
        bad("payload length 0", length(0)),
        bad("payload length ends in the TCP header", length(19)),
        bad("payload length beyond the frame", length(21)),
        bad("payload length of all ones", length(0xffff)),
        sent_patched("traffic class and flow label", &to_vip(L2_V6), L2_V6, L3, &[0x6f, 0xff, 0xff, 0xff]),
        sent("IPv6, padding behind the packet", &Pkt { padding: 3, ..to_vip(L2_V6) }, L2_V6, false),
        next("ICMPv6 for a VIP", 58, Reason::PassNotTransport),
        next("no next header", 59, Reason::PassNotTransport),
        Row::new("an IPv4 VIP as a mapped address in IPv6", {
            let frame = patch(tcp(), L3 + 24, &mapped);
            patch(frame, L3 + V6_LEN + 2, &80u16.to_be_bytes())
        })
        .pass(Reason::PassNotVip),
        Row::new("an IPv4 backend as a mapped address in IPv6", {
            let frame = patch(tcp(), L3 + 8, &backend);
            patch(frame, L3 + V6_LEN, &8080u16.to_be_bytes())
        })
        .pass(Reason::PassNotVip),
    ]
}

fn flags() -> Vec<Row> {
    let tcp = |n: u16, flags: u8| Pkt { l4: L4::Tcp(flags, 1000), ..to_vip(n) };
    let drop = |name: &str, n: u16, flags: u8| Row::new(name, tcp(n, flags).bytes()).drop(Reason::DropSynFin);
    let other = tcp(L2, SYN | FIN).dst((vip(L2).0, 81));
    vec![
        drop("SYN and FIN", L2, SYN | FIN),
        drop("SYN and RST", L2, SYN | RST),
        drop("SYN, FIN and ACK", L2, SYN | FIN | ACK),
        drop("IPv6, SYN and FIN", L2_V6, SYN | FIN),
        drop("IPv6, SYN and RST", L2_V6, SYN | RST),
        Row::new("SYN and FIN for a VIP's other port", other.bytes()).pass(Reason::PassNotVip),
        Row::new(
            "SYN and FIN for a backend's own address",
            tcp(NAT, SYN | FIN).dst(scene::backend(NAT)).bytes(),
        )
        .pass(Reason::PassDirect),
        Row::new("SYN and FIN from a backend", {
            Pkt { l4: L4::Tcp(SYN | FIN, 1), ..scene::to_client(NAT) }.bytes()
        })
        .from(Link::B)
        .drop(Reason::DropSynFin),
        Row::new("cut behind the ports, for a VIP's other port", {
            cut(tcp(L2, ACK).dst((vip(L2).0, 81)).bytes(), L3 + V4_LEN + 5)
        })
        .pass(Reason::PassNotVip),
        Row::new("cut behind the ports, from a backend", cut(scene::to_client(NAT).bytes(), L3 + V4_LEN + 5))
            .from(Link::B)
            .drop(Reason::DropMalformed),
        Row::new("cut before the ports, from a backend", cut(scene::to_client(NAT).bytes(), L3 + V4_LEN + 3))
            .from(Link::B)
            .pass(Reason::PassNotVip),
        Row::new("cut before the ports, for an address of which one VIP of two is left", {
            cut(tcp(L2, ACK).bytes(), L3 + V4_LEN + 3)
        })
        .with(|rig| {
            let second = scene::end((vip(L2).0, 81), L2);
            let entry = rig.plane.end(scene::end(vip(L2), L2)).expect("a VIP");
            rig.plane.set_end(second, entry, "a second VIP").expect("room");
            rig.plane.remove_end(scene::end(vip(L2), L2));
        })
        .drop(Reason::DropMalformed),
        Row::new("cut before the ports, for an address of which no VIP is left", {
            cut(tcp(L2, ACK).bytes(), L3 + V4_LEN + 3)
        })
        .with(|rig| rig.plane.remove_end(scene::end(vip(L2), L2)))
        .pass(Reason::PassNotVip),
        Row::new("SYN and FIN, and the program for odd frames not loaded", tcp(L2, SYN | FIN).bytes())
            .with(|rig| rig.plane.clear_odd().expect("cleared"))
            .pass(Reason::PassOdd),
        sent("SYN", &tcp(L2, SYN), L2, true),
        sent("IPv6, SYN", &tcp(L2_V6, SYN), L2_V6, true),
        sent("SYN with ECN bits", &tcp(L2, SYN | ECE | CWR), L2, true),
        sent("SYN with data (fast open)", &tcp(L2, SYN).payload(b"GET /"), L2, true),
        sent(
            "SYN with options",
            &Pkt { tcp_options: vec![2, 4, 5, 180, 1, 3, 3, 7], ..tcp(L2, SYN) },
            L2,
            true,
        ),
        sent("SYN and ACK is not the first packet", &tcp(L2, SYN | ACK), L2, false),
        sent("data", &tcp(L2, ACK | PSH).payload(b"hello"), L2, false),
        sent("FIN", &tcp(L2, ACK | FIN), L2, false),
        sent("RST", &tcp(L2, RST), L2, false),
        sent("no flags", &tcp(L2, 0), L2, false),
        sent("the same SYN again is no new flow", &tcp(L2, SYN), L2, false)
            .after(Link::A, tcp(L2, SYN).bytes()),
        sent("another SYN of the tuple is a new flow", &tcp(L2, SYN), L2, true)
            .after(Link::A, Pkt { l4: L4::Tcp(SYN, 1001), ..to_vip(L2) }.bytes()),
    ]
}

fn not_ours() -> Vec<Row> {
    let pass = |name: &str, pkt: Pkt| Row::new(name, pkt.bytes()).pass(Reason::PassNotVip);
    let elsewhere = |n: u16| (scene::backend(n).0, 9999);
    vec![
        pass("an unknown address", to_vip(L2).dst(elsewhere(L2))),
        pass("an unknown IPv6 address", to_vip(L2_V6).dst(elsewhere(L2_V6))),
        pass("a VIP's other port", to_vip(L2).dst((vip(L2).0, 81))),
        pass("an IPv6 VIP's other port", to_vip(L2_V6).dst((vip(L2_V6).0, 81))),
        pass("a TCP VIP by UDP", Pkt::udp(client(L2), vip(L2))),
        pass("a UDP VIP by TCP", Pkt::tcp(client(L2_UDP), vip(L2_UDP), SYN, 1)),
        pass("from a VIP", to_vip(L2).src(vip(L2)).dst(client(L2))),
        pass("from an l2 backend", to_vip(L2).src(scene::backend(L2)).dst(client(L2))),
        Row::new("a service never committed", to_vip(NEVER).bytes()).pass(Reason::PassNoService),
        Row::new("a service beyond the map", to_vip(BEYOND).bytes()).pass(Reason::PassNoService),
        Row::new("a VIP that was removed", to_vip(NAT).bytes())
            .with(|rig| rig.plane.remove_end(scene::end(vip(NAT), NAT)))
            .pass(Reason::PassNotVip),
    ]
}
