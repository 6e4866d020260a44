//! `ipip`: the packet as a router would send it on, behind an outer header that etherparse built.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{IpNumber, Ipv4Header, Ipv6Header};
use zdd_common::encap::variation;
use zdd_common::entries::{Affinity, Backend, Cell, Commit, EndEntry, EndKind, Mode, NextHop, Port, Service};
use zdd_common::packet;
use zdd_common::reason::Reason;

use super::actions::{ABORTED, DROP, REDIRECT, TX};
use super::{Row, patch, scene};
use crate::frames::{ACK, L3, Pkt, SYN};
use crate::odd_frames::{DESTINATION, QINQ, VLAN, extended, fragments, tagged};
use crate::rig::{Link, MAC_A, MAC_B, Rig, neighbour_mac, neighbour4, neighbour6, with};

/// One service and backend; inner and outer family.
#[derive(Clone, Copy)]
pub(super) struct Tunnel {
    pub(super) name: &'static str,
    pub(super) n: u16,
    pub(super) inner_v6: bool,
    pub(super) outer_v6: bool,
    pub(super) udp: bool,
}

/// All kinds. IPv6 over IPv4 is refused by the configuration; the program would do it.
pub(super) const TUNNELS: [Tunnel; 5] = [
    Tunnel { name: "4in4", n: 21, inner_v6: false, outer_v6: false, udp: false },
    Tunnel { name: "6in6", n: 22, inner_v6: true, outer_v6: true, udp: false },
    Tunnel { name: "4in6", n: 23, inner_v6: false, outer_v6: true, udp: false },
    Tunnel { name: "4in4 UDP", n: 24, inner_v6: false, outer_v6: false, udp: true },
    Tunnel { name: "6in6 UDP", n: 25, inner_v6: true, outer_v6: true, udp: true },
];

/// Prefixes of outer sources, and how many of the last bits vary.
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 0);
const SOURCE6: Ipv6Addr = Ipv6Addr::new(0xfd7a, 0x6464, 0, 0, 0, 0, 0, 0);
const SPREAD: u32 = 0xffff;

impl Tunnel {
    pub(super) fn vip(self) -> (IpAddr, u16) {
        let port = if self.udp { 53 } else { 80 };
        if self.inner_v6 {
            (Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, self.n).into(), port)
        } else {
            (Ipv4Addr::new(10, 9, 0, self.n as u8).into(), port)
        }
    }

    pub(super) fn client(self) -> (IpAddr, u16) {
        (if self.inner_v6 { neighbour6(Link::A, 10) } else { neighbour4(Link::A, 10) }, 40_000)
    }

    /// Bytes of the outer header.
    pub(super) fn overhead(self) -> usize {
        if self.outer_v6 { 40 } else { 20 }
    }

    pub(super) fn backend(self) -> IpAddr {
        if self.outer_v6 { neighbour6(Link::B, 14) } else { neighbour4(Link::B, 14) }
    }

    fn mac(self) -> [u8; 6] {
        neighbour_mac(Link::B, 14)
    }

    pub(super) fn packet(self) -> Pkt {
        if self.udp {
            Pkt::udp(self.client(), self.vip())
        } else {
            Pkt::tcp(self.client(), self.vip(), ACK, 1000)
        }
    }

    /// Makes service and backend; the next hop leaves by `port`.
    pub(super) fn build(self, rig: &mut Rig, port: u16) {
        let n = self.n;
        let source: IpAddr = if self.outer_v6 { SOURCE6.into() } else { SOURCE.into() };
        rig.plane.write_backend(
            n,
            &Backend {
                addr: self.backend().into(),
                next_hop: NextHop::new(self.mac(), port).0,
                port: self.vip().1.to_be(),
                mode: Mode::Ipip as u16,
                service: n.into(),
                source: source.into(),
                spread: SPREAD,
                ..Backend::default()
            },
        );
        let service = Service {
            groups: 1,
            per_group: 1,
            affinity: Affinity::Flow as u32,
            udp_idle: 100,
            ..Service::default()
        };
        rig.plane.write_service(n, &service);
        scene::cell(rig, n, Cell::settled(n));
        rig.plane.commit(n, Commit::new(n.into(), 1));
        let entry = EndEntry { kind: EndKind::Vip as u16, service: n, id: n, ..EndEntry::default() };
        let proto = if self.udp { zdd_common::net::UDP } else { zdd_common::net::TCP };
        let end = zdd_common::net::End::new(self.vip().0.into(), self.vip().1.to_be(), proto);
        rig.plane.set_end(end, entry, "a VIP").expect("a VIP");
    }

    /// The flow's number, from the frame as it came in.
    fn variation(frame: &[u8]) -> u64 {
        let mut packet = packet::Packet::default();
        assert!(packet::parse_into(frame, &mut packet).is_none(), "a plain packet");
        variation(&packet)
    }

    /// What `inner` (a frame with a hop less) becomes: the outer header in front of it, with this class, sent from `src`.
    pub(super) fn wrapped(self, inner: &[u8], class: u8, src: [u8; 6]) -> Vec<u8> {
        self.wrapped_as(inner, inner, class, src)
    }

    /// The same for a frame that is not plain, of the flow of `plain`.
    pub(super) fn wrapped_as(self, plain: &[u8], inner: &[u8], class: u8, src: [u8; 6]) -> Vec<u8> {
        let variation = Self::variation(plain);
        let low = variation as u32 & SPREAD;
        let packet = &inner[L3..];
        let ether_type = if self.outer_v6 { 0x86ddu16 } else { 0x0800 };
        let mut frame = [&self.mac()[..], &src[..], &ether_type.to_be_bytes()[..]].concat();
        let next = if self.inner_v6 { IpNumber::IPV6 } else { IpNumber::IPV4 };
        // The inner packet's length is what its header says; what Ethernet padded it with stays behind it.
        let length = if self.inner_v6 {
            40 + u16::from_be_bytes([packet[4], packet[5]])
        } else {
            u16::from_be_bytes([packet[2], packet[3]])
        };
        match self.backend() {
            IpAddr::V4(to) => {
                let from = Ipv4Addr::from(u32::from(SOURCE) | low);
                let mut ip = Ipv4Header::new(length, 64, next, from.octets(), to.octets()).expect("it fits");
                ip.dscp = (class >> 2).try_into().expect("six bits");
                ip.ecn = (class & 3).try_into().expect("two bits");
                ip.dont_fragment = true;
                ip.identification = 0;
                ip.header_checksum = ip.calc_header_checksum();
                frame.extend_from_slice(&ip.to_bytes());
            }
            IpAddr::V6(to) => {
                let ip = Ipv6Header {
                    traffic_class: class,
                    flow_label: ((variation >> 44) as u32).try_into().expect("twenty bits"),
                    payload_length: length,
                    next_header: next,
                    hop_limit: 64,
                    source: Ipv6Addr::from(u128::from(SOURCE6) | u128::from(low)).octets(),
                    destination: to.octets(),
                };
                frame.extend_from_slice(&ip.to_bytes());
            }
        }
        frame.extend_from_slice(packet);
        frame
    }

    /// A row in a scene with this tunnel; the frame is redirected towards the backends.
    pub(super) fn row(self, what: &str, frame: Vec<u8>) -> Row {
        Row::new(format!("{}: {what}", self.name), frame).with(move |rig| self.build(rig, scene::REDIRECT))
    }

    /// A packet that goes to the backend.
    fn goes(self, what: &str, pkt: &Pkt) -> Row {
        let sent = pkt.clone().hops(pkt.hops - 1).bytes();
        self.row(what, pkt.bytes())
            .out(REDIRECT, self.wrapped(&sent, 0, MAC_B), Reason::Settled)
            .counts(self.n, self.n, false)
    }
}

/// Sets the traffic class of a frame's IP header.
pub fn with_class(mut frame: Vec<u8>, class: u8) -> Vec<u8> {
    if frame[L3] >> 4 == 6 {
        frame[L3] = 0x60 | class >> 4;
        frame[L3 + 1] = frame[L3 + 1] & 0x0f | class << 4;
        return frame;
    }
    frame[L3 + 1] = class;
    summed(frame)
}

/// With the IPv4 header's checksum computed anew.
pub(super) fn summed(mut frame: Vec<u8>) -> Vec<u8> {
    let (header, _) = Ipv4Header::from_slice(&frame[L3..]).expect("an IPv4 header");
    frame[L3 + 10..L3 + 12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    frame
}

pub(super) fn rows() -> Vec<Row> {
    let each = TUNNELS.iter().flat_map(|tunnel| tunnel_rows(*tunnel).into_iter().chain(tagged_rows(*tunnel)));
    each.chain(shapes()).collect()
}

/// Tags stay in place, behind the MAC addresses and in front of the outer header.
fn tagged_rows(t: Tunnel) -> Vec<Row> {
    type Tags = &'static [(u16, u16)];
    let kinds: [(&str, Tags, u32); 5] = [
        ("one tag", &[(VLAN, 7)], 7),
        ("the highest VLAN", &[(VLAN, 4095)], 4095),
        ("QinQ", &[(QINQ, 5), (VLAN, 6)], 5 | 6 << 16),
        ("two 802.1Q tags", &[(VLAN, 5), (VLAN, 6)], 5 | 6 << 16),
        ("a priority tag belongs to the untagged link", &[(VLAN, 0)], 0),
    ];
    let in_vlans = |slot: u16, tags: u32| {
        move |rig: &mut Rig| {
            let port = rig.plane.port(slot);
            rig.plane.set_port(slot, Port { tags, ..port }).expect("a port");
        }
    };
    let sent = t.packet().hops(63).bytes();
    let mut rows = vec![];
    for (what, tags, vlans) in kinds {
        let row = |more: &str, pkt: &Pkt| {
            let frame = tagged(&pkt.bytes(), tags);
            t.row(&format!("{what}{more}"), frame).with(in_vlans(scene::REDIRECT, vlans))
        };
        rows.push(
            row("", &t.packet())
                .out(REDIRECT, tagged(&t.wrapped(&sent, 0, MAC_B), tags), Reason::Settled)
                .counts(t.n, t.n, false),
        );
        let padded = Pkt { padding: 7, ..t.packet() };
        let out = t.wrapped(&padded.clone().hops(63).bytes(), 0, MAC_B);
        rows.push(
            row(", with padding", &padded)
                .out(REDIRECT, tagged(&out, tags), Reason::Settled)
                .counts(t.n, t.n, false),
        );
        rows.push(row(", no hop left", &t.packet().hops(1)).drop(Reason::DropTtl));
        rows.push(
            Row { crowded: true, ..row(", no room in front", &t.packet()) }.drop(Reason::DropNoHeadroom),
        );
    }
    let one: Tags = &[(VLAN, 7)];
    let row = |what: &str| t.row(what, tagged(&t.packet().bytes(), one));
    rows.push(
        row("a tagged frame bounced where it came in")
            .with(move |rig| t.build(rig, scene::BOUNCE))
            .with(in_vlans(scene::BOUNCE, 7))
            .out(TX, tagged(&t.wrapped(&sent, 0, MAC_A), one), Reason::Settled)
            .counts(t.n, t.n, false),
    );
    for (what, vlans) in
        [("an untagged port", 0), ("a port of another VLAN", 8), ("a port of QinQ", 7 | 7 << 16)]
    {
        rows.push(
            row(&format!("a tagged frame and {what}"))
                .with(in_vlans(scene::REDIRECT, vlans))
                .drop(Reason::DropNoNextHop),
        );
    }
    rows.push(
        t.row("an untagged frame and a port of a VLAN", t.packet().bytes())
            .with(in_vlans(scene::REDIRECT, 7))
            .drop(Reason::DropNoNextHop),
    );
    // Odd shapes behind a tag: what they are without it, the outer header in front.
    if t.inner_v6 {
        let frame = extended(&sent, &[(DESTINATION, 8)]);
        rows.push(
            t.row("extension header", extended(&t.packet().bytes(), &[(DESTINATION, 8)]))
                .out(REDIRECT, t.wrapped_as(&sent, &frame, 0, MAC_B), Reason::Settled)
                .counts(t.n, t.n, false),
        );
        rows.push(
            t.row(
                "one tag, extension header",
                tagged(&extended(&t.packet().bytes(), &[(DESTINATION, 8)]), one),
            )
            .with(in_vlans(scene::REDIRECT, 7))
            .out(REDIRECT, tagged(&t.wrapped_as(&sent, &frame, 0, MAC_B), one), Reason::Settled)
            .counts(t.n, t.n, false),
        );
    }
    let pieces = |pkt: &Pkt| fragments(&pkt.bytes(), 24);
    let long = t.packet().payload(&[0xa5; 60]);
    let out = t.wrapped_as(&sent, &pieces(&long.clone().hops(63))[0], 0, MAC_B);
    rows.push(
        t.row("one tag, first fragment", tagged(&pieces(&long)[0], one))
            .with(in_vlans(scene::REDIRECT, 7))
            .out(REDIRECT, tagged(&out, one), Reason::Settled)
            .counts(t.n, t.n, false),
    );
    // A later one has no ports to vary the outer source by.
    let bare = long.clone().src((long.src.0, 0)).dst((long.dst.0, 0)).bytes();
    for (what, tags, vlans) in
        [("no tag", &[][..], 0), ("one tag", one, 7), ("QinQ", &[(QINQ, 5), (VLAN, 6)], 5 | 6 << 16)]
    {
        let (came, sent) = (pieces(&long), pieces(&long.clone().hops(63)));
        for (at, piece) in came.iter().enumerate().skip(1) {
            let frame = tagged(piece, tags);
            rows.push(
                t.row(&format!("{what}, fragment {at} follows the first"), frame.clone())
                    .with(in_vlans(scene::REDIRECT, vlans))
                    .after(Link::A, tagged(&came[0], tags))
                    .out(REDIRECT, tagged(&t.wrapped_as(&bare, &sent[at], 0, MAC_B), tags), Reason::Fragment)
                    .counts(t.n, t.n, false),
            );
            rows.push(
                t.row(&format!("{what}, fragment {at} before the first"), frame)
                    .with(in_vlans(scene::REDIRECT, vlans))
                    .drop(Reason::DropFragmentEarly),
            );
        }
    }
    rows
}

fn tunnel_rows(t: Tunnel) -> Vec<Row> {
    let pkt = t.packet();
    let sent = t.packet().hops(63).bytes();
    let row = |what: &str| t.row(what, t.packet().bytes());
    let port = |port: u16| move |rig: &mut Rig| t.build(rig, port);
    let mut rows = vec![
        t.goes("encapsulated and redirected", &pkt),
        row("bounced where it came in")
            .with(port(scene::BOUNCE))
            .out(TX, t.wrapped(&sent, 0, MAC_A), Reason::Settled)
            .counts(t.n, t.n, false),
        row("redirected where it came in, when the device cannot bounce")
            .with(port(scene::SAME))
            .out(REDIRECT, t.wrapped(&sent, 0, MAC_A), Reason::Settled)
            .counts(t.n, t.n, false),
        row("the port's interface is gone")
            .with(port(scene::GONE))
            .out(ABORTED, t.wrapped(&sent, 0, MAC_B), Reason::Settled)
            .counts(t.n, t.n, false),
        row("a port for the stack, which cannot encapsulate")
            .with(port(scene::STACK))
            .drop(Reason::DropNoNextHop),
        row("next hop unresolved")
            .with(move |rig| rig.plane.set_next_hop(t.n, NextHop(0)))
            .drop(Reason::DropNoNextHop),
        t.goes("hop limit 2", &t.packet().hops(2)),
        t.goes("hop limit 255: the outer one stays 64", &t.packet().hops(255)),
        t.row("hop limit 1", t.packet().hops(1).bytes()).drop(Reason::DropTtl),
        t.row("hop limit 0", t.packet().hops(0).bytes()).drop(Reason::DropTtl),
        Row { crowded: true, ..row("a driver that leaves no room in front of frames") }.out(
            DROP,
            sent.clone(),
            Reason::DropNoHeadroom,
        ),
        t.goes("no payload", &t.packet().payload(b"")),
        t.goes("a full payload", &t.packet().payload(&[0xa5; 1400])),
        t.goes("padding stays behind the packet", &Pkt { padding: 7, ..t.packet() }),
    ];
    // RFC 6040, normal mode: ECN is copied; so is DSCP.
    for (what, class) in [
        ("ECT(1)", 1),
        ("ECT(0)", 2),
        ("CE", 3),
        ("DSCP EF", 46 << 2),
        ("all bits of the class", 0xff),
        ("DSCP CS1 with CE", 8 << 2 | 3),
    ] {
        let out = t.wrapped(&with_class(sent.clone(), class), class, MAC_B);
        rows.push(
            t.row(what, with_class(pkt.bytes(), class))
                .out(REDIRECT, out, Reason::Settled)
                .counts(t.n, t.n, false),
        );
    }
    rows
}

fn shapes() -> Vec<Row> {
    let [four, six, mixed, ..] = TUNNELS;
    let options = Pkt { ip_options: vec![148, 4, 0, 0], ..four.packet() };
    let mut rows = vec![four.goes("IPv4 options stay inside", &options)];
    // The inner DF bit changes nothing: the outer one is always set.
    let df = |frame: Vec<u8>| summed(patch(frame, L3 + 6, &[0x40, 0]));
    for t in [four, mixed] {
        let sent = df(t.packet().hops(63).bytes());
        rows.push(
            t.row("inner don't fragment", df(t.packet().bytes()))
                .out(REDIRECT, t.wrapped(&sent, 0, MAC_B), Reason::Settled)
                .counts(t.n, t.n, false),
        );
    }
    // The inner flow label stays the client's.
    let label = |frame: Vec<u8>| patch(frame, L3 + 1, &[0x0a, 0xbc, 0xde]);
    rows.push(
        six.row("inner flow label", label(six.packet().bytes()))
            .out(REDIRECT, six.wrapped(&label(six.packet().hops(63).bytes()), 0, MAC_B), Reason::Settled)
            .counts(six.n, six.n, false),
    );
    // One service, versions of two modes: it is the backend that has one.
    rows.push(
        Row::new("an l2 service with an ipip backend", four.packet().dst(scene::vip(scene::L2)).bytes())
            .with(move |rig| four.build(rig, scene::REDIRECT))
            .with(move |rig| scene::cell(rig, scene::L2, Cell::settled(four.n)))
            .out(
                REDIRECT,
                four.wrapped(&four.packet().dst(scene::vip(scene::L2)).hops(63).bytes(), 0, MAC_B),
                Reason::Settled,
            )
            .counts(scene::L2, four.n, false),
    );
    rows
}

/// The outer source of what the program makes of a packet.
fn source_of(rig: &Rig, t: Tunnel, pkt: &Pkt) -> Vec<u8> {
    let ran = rig.run(Link::A, &pkt.bytes());
    assert_eq!(ran.action, REDIRECT);
    if t.outer_v6 { ran.frame[L3 + 8..L3 + 24].to_vec() } else { ran.frame[L3 + 12..L3 + 16].to_vec() }
}

#[test]
fn outer_sources_differ_between_flows_and_stay_within_one_and_in_the_prefix() {
    with(|rig| {
        for t in TUNNELS {
            rig.reset();
            scene::build(rig);
            t.build(rig, scene::REDIRECT);
            let pkt = |port: u16| t.packet().src((t.client().0, port));
            let flows: HashSet<_> = (1..=256u16).map(|port| source_of(rig, t, &pkt(port))).collect();
            // Of 256 values among 65,536, about one pair is the same.
            assert!(flows.len() > 240, "{}: {} sources of 256 flows", t.name, flows.len());
            // Every bit of the free ones is used, and no other.
            let prefix = if t.outer_v6 { SOURCE6.octets().to_vec() } else { SOURCE.octets().to_vec() };
            let held = prefix.len() - 2;
            assert!(flows.iter().all(|source| source[..held] == prefix[..held]), "{}", t.name);
            let ored = flows.iter().fold([0, 0], |all, s| [all[0] | s[held], all[1] | s[held + 1]]);
            assert_eq!(ored, [0xff, 0xff], "{}", t.name);
            if !t.udp {
                let one = source_of(rig, t, &pkt(7).payload(b"x"));
                for (flags, seq) in [(SYN, 1), (ACK, 2), (ACK, u32::MAX)] {
                    let again = Pkt { l4: crate::frames::L4::Tcp(flags, seq), ..pkt(7) };
                    assert_eq!(source_of(rig, t, &again), one, "{}: one flow, one source", t.name);
                }
            }
        }
    });
}

#[test]
fn without_free_bits_the_source_is_the_one_address() {
    with(|rig| {
        scene::build(rig);
        let t = TUNNELS[0];
        t.build(rig, scene::REDIRECT);
        // SAFETY: a mapped value; no thread runs the program.
        unsafe { (*rig.backends.at(t.n.into())).spread = 0 };
        for port in 1..10 {
            assert_eq!(source_of(rig, t, &t.packet().src((t.client().0, port))), SOURCE.octets());
        }
    });
}
