//! What is meant to confuse, in every mode: lying lengths, addresses and ports that nobody uses, hop limits, link addresses of groups.

use std::net::IpAddr;

use zdd_common::reason::Reason;

use super::actions::REDIRECT;
use super::ipip::{TUNNELS, Tunnel};
use super::scene::{
    self, L2, L2_UDP, L2_V6, NAT, NAT_UDP, NAT_UDP_V6, NAT_V6, SNAT, SNAT_UDP, SNAT_UDP_V6, SNAT_V6, mac,
};
use super::{Row, patch, snat};
use crate::frames::{ACK, CWR, ECE, FIN, L3, L4, PSH, Pkt, RST, SYN, URG};
use crate::odd_frames::{HOP_BY_HOP, VLAN, extended, tagged};
use crate::rig::{MAC_B, neighbour4, neighbour6};

/// A way to a backend: a mode and a family.
#[derive(Clone, Copy)]
pub(super) enum Way {
    /// `l2`, `nat`, `snat`: the service.
    Plain(u16),
    Tunnel(Tunnel),
}

/// Bytes of a packet's own header changed, which come out as they went in.
type Change<'a> = &'a dyn Fn(Vec<u8>) -> Vec<u8>;

impl Way {
    pub(super) fn number(self) -> u16 {
        match self {
            Self::Plain(n) => n,
            Self::Tunnel(t) => t.n,
        }
    }

    fn name(self) -> String {
        match self {
            Self::Plain(n) if scene::is_nat(n) => format!("nat service {n}"),
            Self::Plain(n) if scene::is_snat(n) => format!("snat service {n}"),
            Self::Plain(n) => format!("l2 service {n}"),
            Self::Tunnel(t) => t.name.to_owned(),
        }
    }

    pub(super) fn v6(self) -> bool {
        match self {
            Self::Plain(n) => scene::is_v6(n),
            Self::Tunnel(t) => t.inner_v6,
        }
    }

    pub(super) fn udp(self) -> bool {
        match self {
            Self::Plain(n) => scene::is_udp(n),
            Self::Tunnel(t) => t.udp,
        }
    }

    /// Whether a packet loses a hop.
    fn routes(self) -> bool {
        !matches!(self, Self::Plain(L2 | L2_UDP | L2_V6))
    }

    pub(super) fn packet(self) -> Pkt {
        match self {
            Self::Plain(n) => scene::to_vip(n),
            Self::Tunnel(t) => t.packet(),
        }
    }

    pub(super) fn row(self, what: &str, frame: Vec<u8>) -> Row {
        let what = format!("{}: {what}", self.name());
        match self {
            Self::Plain(n) if scene::is_snat(n) => snat::row(what, frame),
            Self::Plain(_) => Row::new(what, frame),
            Self::Tunnel(t) => Row::new(what, frame).with(move |rig| t.build(rig, scene::REDIRECT)),
        }
    }

    /// What a packet becomes at its backend's door.
    fn sent(self, pkt: &Pkt, change: Change<'_>) -> Vec<u8> {
        match self {
            Self::Plain(n) if scene::is_snat(n) => change(snat::sent(pkt, n, MAC_B).bytes()),
            Self::Plain(n) => {
                let pkt = pkt.clone().macs(mac(n), MAC_B);
                let pkt = if scene::is_nat(n) { pkt.dst(scene::backend(n)) } else { pkt };
                let hops = pkt.hops - u8::from(self.routes());
                change(pkt.hops(hops).bytes())
            }
            Self::Tunnel(t) => t.wrapped(&change(pkt.clone().hops(pkt.hops - 1).bytes()), 0, MAC_B),
        }
    }

    /// The frame that leaves for its backend.
    pub(super) fn forwarded(self, pkt: &Pkt) -> Vec<u8> {
        self.sent(pkt, &|frame| frame)
    }

    /// Goes as any other packet does.
    fn goes_changed(self, what: &str, pkt: &Pkt, change: Change<'_>) -> Row {
        let new_flow = matches!(pkt.l4, L4::Tcp(flags, _) if flags & (SYN | ACK) == SYN);
        self.row(what, change(pkt.bytes())).out(REDIRECT, self.sent(pkt, change), Reason::Settled).counts(
            self.number(),
            self.number(),
            new_flow,
        )
    }

    pub(super) fn goes(self, what: &str, pkt: &Pkt) -> Row {
        self.goes_changed(what, pkt, &|frame| frame)
    }
}

/// Every mode in every family and protocol.
pub(super) fn ways() -> impl Iterator<Item = Way> {
    let plain = [L2, NAT, SNAT, L2_V6, NAT_V6, SNAT_V6, L2_UDP, NAT_UDP, SNAT_UDP, NAT_UDP_V6, SNAT_UDP_V6];
    plain.into_iter().map(Way::Plain).chain(TUNNELS.into_iter().map(Way::Tunnel))
}

pub(super) fn rows() -> Vec<Row> {
    ways()
        .flat_map(|way| {
            let mut rows = addresses(way);
            rows.extend(links(way));
            rows.extend(hops(way));
            rows.extend(lengths(way));
            rows.extend(if way.v6() { not_transport6(way) } else { not_transport4(way) });
            rows
        })
        .collect()
}

/// Who may send as whom is for filters at the edge, so long as it could be a host at all (else: see `martian`). No packet of ours is one
/// that the backend's stack would not judge by itself.
fn addresses(way: Way) -> Vec<Row> {
    let pkt = way.packet();
    let (vip, client) = (pkt.dst, pkt.src);
    let backend: IpAddr =
        if way.v6() { neighbour6(crate::rig::Link::B, 11) } else { neighbour4(crate::rig::Link::B, 11) };
    let mut rows = vec![
        way.goes("from the VIP itself (LAND)", &pkt.clone().src(vip)),
        way.goes("from the VIP's address, another port", &pkt.clone().src((vip.0, 40_000))),
        way.goes("from a backend's address", &pkt.clone().src((backend, 40_000))),
        way.goes("from port 0", &pkt.clone().src((client.0, 0))),
        way.goes("from port 65535", &pkt.clone().src((client.0, 65_535))),
        way.row("to port 0 of the VIP", pkt.clone().dst((vip.0, 0)).bytes()).pass(Reason::PassNotVip),
    ];
    if !way.udp() {
        let syn = Pkt { l4: L4::Tcp(SYN, 1), ..pkt };
        rows.push(way.goes("a SYN from the VIP itself (LAND)", &syn.src(vip)));
    }
    rows
}

/// XDP sees what the network card takes. What came to a group is nobody's to forward (RFC 1812, 5.3.4): each balancer of the link would.
fn links(way: Way) -> Vec<Row> {
    let to = |mac: [u8; 6]| Pkt { macs: (mac, way.packet().macs.1), ..way.packet() };
    let dropped = |what: &str, frame: Vec<u8>| way.row(what, frame).drop(Reason::DropLinkGroup).untouched();
    let mut rows = vec![
        way.goes("to the lowest link address of one", &to([2, 0, 0, 0, 0, 0])),
        way.goes("to the highest link address of one", &to([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff])),
    ];
    for (what, mac) in [
        ("to a group's link address", [1, 0, 0x5e, 0, 0, 1]),
        ("to everybody's link address", [0xff; 6]),
        ("to an IPv6 group's link address", [0x33, 0x33, 0, 0, 0, 1]),
    ] {
        let frame = to(mac).bytes();
        rows.push(dropped(what, frame.clone()).elsewhere());
        rows.push(dropped(what, frame.clone()));
        rows.push(dropped(&format!("{what}, tagged"), tagged(&frame, &[(VLAN, 7)])));
    }
    rows
}

fn hops(way: Way) -> Vec<Row> {
    [0, 1, 2, 255]
        .into_iter()
        .map(|hops| {
            let (what, pkt) = (format!("{hops} hops left"), way.packet().hops(hops));
            if way.routes() && hops < 2 {
                way.row(&what, pkt.bytes()).drop(Reason::DropTtl)
            } else {
                way.goes(&what, &pkt)
            }
        })
        .collect()
}

/// Lengths that only the transport layer counts on are the backend's to judge; nothing is read or written by them.
fn lengths(way: Way) -> Vec<Row> {
    let pkt = way.packet();
    let l4 = L3 + if way.v6() { 40 } else { 20 };
    let word = |value: u16| move |frame: Vec<u8>| patch(frame, l4 + 4, &value.to_be_bytes());
    if way.udp() {
        return vec![
            way.goes_changed("UDP length 0", &pkt, &word(0)),
            way.goes_changed("UDP length below its header's", &pkt, &word(7)),
            way.goes_changed("UDP length beyond the packet", &pkt, &word(0xffff)),
            way.goes("an empty datagram", &pkt.clone().payload(b"")),
            way.goes("without a UDP checksum", &Pkt { l4: L4::Udp(false), ..pkt }),
        ];
    }
    let syn = Pkt { l4: L4::Tcp(SYN, 1), ..pkt.clone() };
    let mut rows = flags(way);
    let words = |value: u8| move |frame: Vec<u8>| patch(frame, l4 + 12, &[value << 4]);
    rows.extend([
        way.goes_changed("TCP header of no length", &pkt, &words(0)),
        way.goes_changed("TCP header shorter than it is", &pkt, &words(4)),
        way.goes_changed("TCP header beyond the packet", &pkt, &words(15)),
        way.goes_changed("a SYN whose header is beyond the packet", &syn, &words(15)),
    ]);
    rows
}

/// What scanners send, and urgent data: of a flow like all else, unchanged.
fn flags(way: Way) -> Vec<Row> {
    let tcp = |flags| Pkt { l4: L4::Tcp(flags, 1), ..way.packet() };
    let mut rows = vec![
        way.goes("no flags", &tcp(0)),
        way.goes("FIN alone", &tcp(FIN)),
        way.goes("RST with FIN", &tcp(RST | FIN)),
        way.goes("all flags but SYN", &tcp(FIN | RST | PSH | ACK | URG | ECE | CWR)),
        way.goes("FIN, PSH and URG", &tcp(FIN | PSH | URG)),
        way.goes("urgent data", &tcp(ACK | PSH | URG).payload(b"!")),
        way.goes("an urgent pointer beyond the data", &tcp(ACK | URG)),
        way.goes("a SYN with urgent data", &tcp(SYN | URG).payload(b"!")),
        way.goes("a SYN with data", &tcp(SYN).payload(&[7; 1200])),
        way.goes("a SYN and ACK", &tcp(SYN | ACK)),
    ];
    for (what, flags) in [
        ("SYN and FIN", SYN | FIN),
        ("SYN and RST", SYN | RST),
        ("all flags", 0xff),
        ("SYN, RST and URG", SYN | RST | URG),
    ] {
        rows.push(way.row(what, tcp(flags).bytes()).drop(Reason::DropSynFin).untouched());
    }
    rows
}

fn not_transport4(way: Way) -> Vec<Row> {
    let pkt = way.packet();
    let frame = pkt.bytes();
    let reserved: Change<'_> = &|frame| super::ipip::summed(patch(frame, L3 + 6, &[0x80, 0]));
    let route = Pkt { ip_options: vec![131, 7, 4, 10, 9, 8, 7, 0], ..pkt.clone() };
    let recorded = Pkt { ip_options: vec![7, 15, 8, 10, 9, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0], ..pkt.clone() };
    let broken = Pkt { ip_options: vec![7, 40, 4, 0], ..pkt.clone() };
    let sum: Change<'_> = &|mut frame| {
        frame[L3 + 10] ^= 0x10;
        frame
    };
    let mut rows = vec![
        way.goes("a route that is recorded", &recorded),
        way.goes("an option longer than the header", &broken),
        way.goes_changed("a wrong header checksum stays wrong", &pkt, sum),
        way.goes_changed("the reserved bit is no fragment", &pkt, reserved),
        way.goes("a source route goes along", &route),
    ];
    for (what, number) in [("ESP", 50), ("AH", 51), ("GRE", 47), ("IPv6 in IPv4", 41), ("hop-by-hop", 0)] {
        rows.push(way.row(what, patch(frame.clone(), L3 + 9, &[number])).pass(Reason::PassNotTransport));
    }
    rows
}

fn not_transport6(way: Way) -> Vec<Row> {
    let frame = way.packet().bytes();
    // RFC 2675: payload length 0, and a hop-by-hop option that tells it.
    let jumbo = extended(&frame, &[(HOP_BY_HOP, 8)]);
    let length = (jumbo.len() - L3 - 40) as u32;
    let jumbo = patch(jumbo, L3 + 42, &[0xc2, 4]);
    let jumbo = patch(patch(jumbo, L3 + 44, &length.to_be_bytes()), L3 + 4, &[0, 0]);
    let mut rows = vec![way.row("a jumbogram", jumbo).drop(Reason::DropMalformed)];
    for (what, number) in
        [("ESP", 50), ("AH", 51), ("IPv4 in IPv6", 4), ("mobility", 135), ("ICMP of IPv4", 1)]
    {
        rows.push(way.row(what, patch(frame.clone(), L3 + 6, &[number])).pass(Reason::PassNotTransport));
    }
    rows
}
