//! Random frames with structure: mostly packets of few connections, some replies, some nonsense.

use std::net::IpAddr;

use etherparse::{IpNumber, Ipv4Header, Ipv6Header};
use zdd_common::encap;
use zdd_common::entries::Mode;
use zdd_common::net::{Addr, TCP, UDP};
use zdd_common::packet::Packet;

use super::random::Random;
use super::world::{self, LOST, SERVICES, SPANNED, SPANNED6, backend, backends, is_udp, is_v6, vip};
use crate::frames::{ACK, FIN, L4, PSH, Pkt, RST, SYN};
use crate::odd_frames::{
    DESTINATION, Error, FRAGMENT, HOP_BY_HOP, QINQ, ROUTING, VLAN, extended, fragments, tagged,
};
use crate::rig::{FAR, FAR6, Link, SNAT_PORT, SNAT_SOURCE, SNAT_SOURCE6, neighbour4, neighbour6};

/// Sequence numbers near each other, near the reaches of the rules, far away, and around the wrap.
const SEQS: [u32; 14] = [
    1000,
    1001,
    1500,
    999,
    1000 + (64 << 10),
    1001 + (64 << 10),
    1000 + (64 << 20),
    1001 + (64 << 20),
    1000 + (128 << 20),
    0x8000_0000,
    0x8000_03e8,
    u32::MAX,
    0,
    900_000_000,
];

/// Services with backends of more than one kind come twice as often: otherwise a kind of theirs came too seldom.
const OFTEN: [u16; 12] = [1, 2, 2, 3, 3, 4, 4, 5, 6, 7, 7, 8];

/// The next frame, where it comes in, and the backend that it is from, if it is a backend's.
pub fn frame(random: &mut Random) -> (Link, Vec<u8>, u16) {
    let link = if random.chance(80) { Link::A } else { Link::B };
    let id = if random.chance(3) { random.of(&LOST) } else { random.of(&OFTEN) };
    let service = id.min(SERVICES);
    let number = random.of(&backends(service).collect::<Vec<_>>());
    let client = client(random, id);
    let own = backend(service, number);
    let mut own = own;
    // Sometimes a backend is its own client.
    let client = if random.chance(5) && own.0.is_ipv6() == is_v6(id) { (own.0, client.1) } else { client };
    if matches!(service, SPANNED | SPANNED6) && random.chance(30) {
        own.1 += random.of(&[1, 50, 99, 100]);
    }
    let mut pkt = match random.below(20) {
        // An answer to one of our ports.
        0..3 if world::mode(service, number) == Mode::Snat => {
            let ours: IpAddr = if is_v6(service) { SNAT_SOURCE6.into() } else { SNAT_SOURCE.into() };
            packet(random, service).src(own).dst((ours, SNAT_PORT + random.below(17) as u16))
        }
        // A reply, or the answer to somebody who asked the backend itself.
        0..4 if own.0.is_ipv6() == is_v6(id) => packet(random, service).src(own).dst(client),
        4 if own.0.is_ipv6() == is_v6(id) && random.chance(30) => {
            packet(random, service).src(client).dst(own)
        }
        5 => packet(random, id).src(client).dst((vip(id).0, random.of(&[79, 80, 53]))),
        6 | 7 if matches!(service, SPANNED | SPANNED6) => {
            packet(random, id).src(client).dst((vip(id).0, random.of(&PORTS)))
        }
        _ => packet(random, id).src(client).dst(vip(id)),
    };
    if random.chance(10) {
        pkt.hops = random.of(&[0, 1, 2, 255]);
    }
    if random.chance(40) {
        let most = random.of(&[60, 60, 60, 60, 1600]);
        pkt.payload = (0..random.below(most)).map(|_| random.bits() as u8).collect();
    }
    if random.chance(5) && !is_v6(id) {
        pkt.ip_options = vec![1; 4 * random.below(11)];
    }
    if random.chance(15) && matches!(pkt.l4, L4::Tcp(..)) {
        let mut options = vec![1; random.below(8)];
        options.extend([2, 4, random.bits() as u8, random.bits() as u8]);
        options.resize(options.len().next_multiple_of(4), 0);
        pkt.tcp_options = options;
    }
    if random.chance(10) {
        pkt.padding = random.below(20);
    }
    let mut frame = pkt.bytes();
    let mut link = link;
    if id == service && world::mode(id, number) == Mode::Ipip && random.chance(15) {
        (link, frame) = (Link::B, path_error(random, id, number, client));
    } else if random.chance(10) && own.0.is_ipv6() == is_v6(id) {
        (link, frame) = error(random, id, own, client);
    }
    if is_v6_frame(&frame) && random.chance(8) {
        frame = extended(&frame, &chain(random));
    } else if random.chance(15) {
        frame = piece(random, &frame);
    }
    if random.chance(8) {
        frame = tagged(&frame, random.of(&TAGS));
    }
    if random.chance(8) {
        nonsense(random, &mut frame);
    }
    (link, frame, number)
}

/// Ports inside and beside of the range that some VIPs have.
const PORTS: [u16; 7] = [7999, 8000, 8001, 8050, 8099, 8100, 1];

/// Tags that frames have. The first two are those of ports.
const TAGS: [&[(u16, u16)]; 5] =
    [&[(VLAN, 7)], &[(QINQ, 5), (VLAN, 6)], &[(VLAN, 0)], &[(VLAN, 9)], &[(QINQ, 1), (VLAN, 2), (VLAN, 3)]];

/// The VLANs of [`TAGS`], as a port has them.
pub fn vlans(index: usize) -> u32 {
    TAGS[index].iter().rev().fold(0, |tags, (_, vlan)| tags << 16 | u32::from(*vlan))
}

fn is_v6_frame(frame: &[u8]) -> bool {
    frame[12] == 0x86
}

/// Few datagrams, few sizes: pieces of one often meet.
fn piece(random: &mut Random, frame: &[u8]) -> Vec<u8> {
    let all = fragments(frame, random.of(&[8, 16, 24, 24, 48]));
    let mut piece = if random.chance(50) { all[0].clone() } else { all[random.below(all.len())].clone() };
    let at = if is_v6_frame(&piece) { 14 + 40 + 7 } else { 14 + 5 };
    piece[at] ^= random.of(&[0, 0, 1, 2]);
    piece
}

fn chain(random: &mut Random) -> Vec<(u8, usize)> {
    (0..1 + random.below(5))
        .map(|_| {
            let number = random.of(&[HOP_BY_HOP, DESTINATION, ROUTING, FRAGMENT]);
            let length = if number == FRAGMENT { 8 } else { random.of(&[8, 8, 16, 24, 40, 136]) };
            (number, length)
        })
        .collect()
}

/// An ICMP error (or something like one) about a packet that a client or a backend may have sent.
fn error(random: &mut Random, id: u16, own: (IpAddr, u16), client: (IpAddr, u16)) -> (Link, Vec<u8>) {
    let odd = random.chance(5).then(|| nobody(random, is_v6(id)));
    let router = |link| odd.unwrap_or(if is_v6(id) { neighbour6(link, 17) } else { neighbour4(link, 17) });
    let mut pkt = packet(random, id);
    pkt.payload = (0..random.below(40)).map(|_| random.bits() as u8).collect();
    let (link, mut error) = if random.chance(60) {
        let pkt = pkt.src(vip(id)).dst(client);
        (Link::A, Error::about(&pkt.bytes(), router(Link::A), vip(id).0))
    } else {
        let from = if random.chance(50) { own.0 } else { router(Link::B) };
        let ours: IpAddr = if is_v6(id) { SNAT_SOURCE6.into() } else { SNAT_SOURCE.into() };
        let mapped = (ours, SNAT_PORT + random.below(17) as u16);
        let asking = if random.chance(40) { mapped } else { client };
        let pkt = pkt.src(asking).dst(own);
        (Link::B, Error::about(&pkt.bytes(), from, asking.0))
    };
    disfigure(random, &mut error);
    (link, error.bytes())
}

/// What a router says of a packet that a client may have sent, behind an outer header of ours.
fn path_error(random: &mut Random, id: u16, number: u16, client: (IpAddr, u16)) -> Vec<u8> {
    let mut pkt = packet(random, id).src(client).dst(vip(id));
    let most = random.of(&[40, 40, 700, 1400]);
    pkt.payload = (0..random.below(most)).map(|_| random.bits() as u8).collect();
    let plain = pkt.bytes();
    let mut inner = plain.clone();
    if is_v6(id) && random.chance(20) {
        inner = extended(&inner, &chain(random));
    } else if random.chance(10) {
        inner = piece(random, &inner);
    } else if !is_v6(id) && random.chance(90) {
        // Don't fragment; the header's checksum is nobody's to look at.
        inner[20] |= 0x40;
    }
    let flow = Packet {
        src: client.0.into(),
        dst: vip(id).0.into(),
        src_port: client.1.to_be(),
        dst_port: vip(id).1.to_be(),
        proto: if is_udp(id) { UDP } else { TCP },
        ..Packet::default()
    };
    let (first, spread) = world::outer_source(id, number);
    let source = Addr::from(first).or_low(encap::variation(&flow) as u32 & spread);
    let next = if is_v6(id) { IpNumber::IPV6 } else { IpNumber::IPV4 };
    let inner = &inner[14..];
    let outer = match (first, backend(id, number).0) {
        (IpAddr::V4(_), IpAddr::V4(to)) => {
            let length = inner.len() as u16;
            let ip = Ipv4Header::new(length, 63, next, source.v4_octets(), to.octets()).expect("it fits");
            [&plain[..14], &ip.to_bytes()[..], inner].concat()
        }
        (IpAddr::V6(_), IpAddr::V6(to)) => {
            let ip = Ipv6Header {
                payload_length: inner.len() as u16,
                next_header: next,
                hop_limit: 63,
                source: source.octets(),
                destination: to.octets(),
                ..Ipv6Header::default()
            };
            [&plain[..14], &ip.to_bytes()[..], inner].concat()
        }
        families => panic!("one family: {families:?}"),
    };
    let (mut router, us): (IpAddr, IpAddr) = match first {
        IpAddr::V4(_) => (neighbour4(Link::B, 17), source.v4_octets().into()),
        IpAddr::V6(_) => (neighbour6(Link::B, 17), source.octets().into()),
    };
    if random.chance(5) {
        router = nobody(random, first.is_ipv6());
    }
    let mut error = Error::about(&outer, router, us);
    error.quote.truncate(random.of(&[548, 1232, 1232, 1400]));
    error.told =
        u32::to_be_bytes(random.of(&[0, 20, 60, 87, 88, 576, 1280, 1319, 1320, 1400, 65_535, u32::MAX]));
    if random.chance(30) {
        disfigure(random, &mut error);
    }
    error.bytes()
}

/// Of another kind, cut, with few hops, damaged.
fn disfigure(random: &mut Random, error: &mut Error) {
    error.kind = if error.src.is_ipv6() {
        random.of(&[(2, 0), (2, 0), (1, 4), (3, 0), (4, 1), (128, 0), (5, 0)])
    } else {
        random.of(&[(3, 4), (3, 4), (3, 3), (11, 0), (12, 0), (8, 0), (4, 0)])
    };
    if random.chance(30) {
        error.quote.truncate(random.below(error.quote.len()));
    }
    if random.chance(10) {
        error.hops = random.of(&[0, 1, 2, 255]);
    }
    if random.chance(20) && !error.quote.is_empty() {
        let at = random.below(error.quote.len().min(120));
        error.quote[at] ^= 1 << random.below(8);
    }
}

/// An address that nothing is forwarded from, or one next to those.
fn nobody(random: &mut Random, v6: bool) -> IpAddr {
    let addr: &str = if v6 {
        random.of(&["::", "::1", "::2", "fe80::1", "fec0::1", "ff02::1"])
    } else {
        random.of(&["0.0.0.0", "127.0.0.1", "128.0.0.1", "224.0.0.1", "255.255.255.255", "255.255.255.254"])
    };
    addr.parse().expect("an address")
}

/// One of few: the far one, two that the host may call its own, the others neighbours; few ports.
fn client(random: &mut Random, id: u16) -> (IpAddr, u16) {
    let host = random.of(&[10, 10, 10, 11, 12, 99]);
    let near = if is_v6(id) { neighbour6(Link::A, host) } else { neighbour4(Link::A, host) };
    let far: IpAddr = if is_v6(id) { FAR6.into() } else { FAR.into() };
    let near = if random.chance(20) { far } else { near };
    let from = if random.chance(2) { nobody(random, is_v6(id)) } else { near };
    (from, random.of(&[40_000, 40_000, 40_000, 40_001, 40_001, 40_002]))
}

fn packet(random: &mut Random, id: u16) -> Pkt {
    let end = world::vip(id);
    if is_udp(id) {
        return Pkt { l4: L4::Udp(random.chance(80)), ..Pkt::udp(end, end) };
    }
    let flags = match random.below(20) {
        0..8 => SYN,
        8..14 => ACK,
        14 => ACK | PSH,
        15 => ACK | FIN,
        16 => RST,
        17 => RST | ACK,
        18 => SYN | ACK,
        _ => random.bits() as u8,
    };
    let seq = if random.chance(90) { random.of(&SEQS[..]) } else { random.bits() as u32 };
    // The initial numbers are fewer still, so that retransmissions are common.
    let seq = if flags == SYN && random.chance(60) { SEQS[0] } else { seq };
    Pkt::tcp(end, end, flags, seq)
}

/// Cuts, flips bits of the headers, or replaces the headers' length fields.
fn nonsense(random: &mut Random, frame: &mut Vec<u8>) {
    match random.below(4) {
        0 => frame.truncate(14 + random.below(frame.len() - 13)),
        1 => {
            let at = 12 + random.below((frame.len() - 12).min(60));
            frame[at] ^= 1 << random.below(8);
        }
        2 => {
            // The first byte says whether it was sent to a group.
            let at = random.of(&[0usize, 14, 16, 17, 18, 19, 20, 21]);
            frame[at] = random.bits() as u8;
        }
        _ => {
            for _ in 0..random.below(6) {
                let at = 12 + random.below((frame.len() - 12).min(60));
                frame[at] = random.bits() as u8;
            }
        }
    }
}
