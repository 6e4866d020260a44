//! Frames that are not plain, built by etherparse: tags, extension headers, fragments, ICMP errors.

use std::net::IpAddr;

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{
    Ethernet2Header, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpFragOffset, IpNumber, Ipv4Header,
    Ipv6FragmentHeader, Ipv6Header, SingleVlanHeader, VlanId,
};

use crate::frames::{L3, OUTSIDE};

/// EtherType of a tag (802.1Q).
pub const VLAN: u16 = 0x8100;
/// EtherType of an outer tag (802.1ad).
pub const QINQ: u16 = 0x88a8;
/// The number that [`fragments`] gives a datagram.
pub const DATAGRAM: u32 = 0x1234;
/// Extension headers.
pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const DESTINATION: u8 = 60;

/// The frame with tags {EtherType, VLAN}, outermost first.
pub fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    for (index, (kind, _)) in tags.iter().enumerate() {
        out.extend(kind.to_be_bytes());
        let vlan = VlanId::try_new(tags[index].1).expect("12 bits");
        let next = tags.get(index + 1).map_or(u16::from_be_bytes([frame[12], frame[13]]), |next| next.0);
        let header = SingleVlanHeader { vlan_id: vlan, ether_type: next.into(), ..Default::default() };
        // The header's own bytes are the tag's control field and the type of what follows.
        out.extend(&header.to_bytes()[..2]);
    }
    out.extend(&frame[12..]);
    out
}

/// An IPv6 frame with extension headers {number, length in bytes, a multiple of 8} before what it carries.
pub fn extended(frame: &[u8], headers: &[(u8, usize)]) -> Vec<u8> {
    let (mut ip, rest) = Ipv6Header::from_slice(&frame[L3..]).expect("IPv6");
    let last = ip.next_header.0;
    let mut bytes = vec![];
    for (index, (_, length)) in headers.iter().enumerate() {
        let next = headers.get(index + 1).map_or(last, |next| next.0);
        let mut header = vec![0; *length];
        header[0] = next;
        header[1] = (length / 8 - 1) as u8;
        // Padding options fill it (RFC 8200, 4.2); a fragment or routing header is all zero, which ends it at once.
        if length > &8 || headers[index].0 != FRAGMENT && headers[index].0 != ROUTING {
            header[2..4].copy_from_slice(&[1, (length - 4).min(255) as u8]);
        }
        if headers[index].0 == ROUTING {
            header[2..4].copy_from_slice(&[0, 0]);
        }
        bytes.extend(header);
    }
    ip.next_header = headers.first().map_or(ip.next_header, |first| IpNumber(first.0));
    ip.payload_length += bytes.len() as u16;
    [&frame[..L3], &ip.to_bytes()[..], &bytes, rest].concat()
}

/// A frame's packet in fragments that hold up to `size` bytes (a multiple of 8) of what it carries.
pub fn fragments(frame: &[u8], size: usize) -> Vec<Vec<u8>> {
    let v6 = frame[12] == 0x86;
    let rest = if v6 { &frame[L3 + 40..] } else { Ipv4Header::from_slice(&frame[L3..]).expect("IPv4").1 };
    let count = rest.len().div_ceil(size);
    (rest.chunks(size).enumerate())
        .map(|(index, piece)| fragment(frame, index * size / 8, index + 1 < count, piece))
        .collect()
}

/// One fragment of a frame's packet at `offset` in units of 8 bytes.
pub fn fragment(frame: &[u8], offset: usize, more: bool, piece: &[u8]) -> Vec<u8> {
    let offset = IpFragOffset::try_new(offset as u16).expect("13 bits");
    if frame[12] == 0x86 {
        let (mut ip, _) = Ipv6Header::from_slice(&frame[L3..]).expect("IPv6");
        let header = Ipv6FragmentHeader::new(ip.next_header, offset, more, DATAGRAM);
        ip.next_header = IpNumber::IPV6_FRAGMENTATION_HEADER;
        ip.payload_length = 8 + piece.len() as u16;
        return [&frame[..L3], &ip.to_bytes()[..], &header.to_bytes(), piece].concat();
    }
    let (mut ip, _) = Ipv4Header::from_slice(&frame[L3..]).expect("IPv4");
    ip.identification = DATAGRAM as u16;
    ip.fragment_offset = offset;
    ip.more_fragments = more;
    ip.dont_fragment = false;
    ip.set_payload_len(piece.len()).expect("it fits");
    ip.header_checksum = ip.calc_header_checksum();
    [&frame[..L3], &ip.to_bytes()[..], piece].concat()
}

/// An ICMP error that quotes a packet.
#[derive(Clone, Debug)]
pub struct Error {
    pub macs: ([u8; 6], [u8; 6]),
    pub src: IpAddr,
    pub dst: IpAddr,
    pub hops: u8,
    /// Type and code.
    pub kind: (u8, u8),
    /// The quoted packet, from its IP header on.
    pub quote: Vec<u8>,
    pub ip_options: Vec<u8>,
    /// Bytes 4 to 7 of the ICMP header: the MTU, where there is one.
    pub told: [u8; 4],
}

impl Error {
    /// "Fragmentation needed" or "packet too big" about the packet of a frame.
    pub fn about(frame: &[u8], src: IpAddr, dst: IpAddr) -> Self {
        let kind = if src.is_ipv6() { (2, 0) } else { (3, 4) };
        let (quote, told) = (frame[L3..].to_vec(), [0, 0, 5, 0]);
        Self { macs: OUTSIDE, src, dst, hops: 64, kind, quote, ip_options: vec![], told }
    }

    /// The frame, with right lengths and checksums.
    pub fn bytes(&self) -> Vec<u8> {
        let (destination, source) = self.macs;
        let (type_u8, code_u8) = self.kind;
        let bytes5to8 = self.told;
        let v6 = self.src.is_ipv6();
        let ether_type = if v6 { etherparse::EtherType::IPV6 } else { etherparse::EtherType::IPV4 };
        let mut frame = Ethernet2Header { source, destination, ether_type }.to_bytes().to_vec();
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let icmp = Icmpv4Type::Unknown { type_u8, code_u8, bytes5to8 };
                let icmp = Icmpv4Header::with_checksum(icmp, &self.quote);
                let length = 8 + self.quote.len();
                let mut ip =
                    Ipv4Header::new(length as u16, self.hops, IpNumber::ICMP, src.octets(), dst.octets())
                        .expect("it fits");
                ip.options = self.ip_options[..].try_into().expect("whole words");
                ip.set_payload_len(length).expect("it fits");
                ip.header_checksum = ip.calc_header_checksum();
                frame.extend_from_slice(&ip.to_bytes());
                frame.extend_from_slice(&icmp.to_bytes());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let icmp = Icmpv6Type::Unknown { type_u8, code_u8, bytes5to8 };
                let icmp = Icmpv6Header::with_checksum(icmp, src.octets(), dst.octets(), &self.quote);
                let ip = Ipv6Header {
                    payload_length: 8 + self.quote.len() as u16,
                    next_header: IpNumber::IPV6_ICMP,
                    hop_limit: self.hops,
                    source: src.octets(),
                    destination: dst.octets(),
                    ..Ipv6Header::default()
                };
                frame.extend_from_slice(&ip.to_bytes());
                frame.extend_from_slice(&icmp.expect("it fits").to_bytes());
            }
            families => panic!("one family: {families:?}"),
        }
        frame.extend_from_slice(&self.quote);
        frame
    }
}

/// The error by which `src` tells the sender `dst` of an untagged frame about `mtu`.
pub fn told(frame: &[u8], src: IpAddr, dst: IpAddr, mtu: u32) -> Vec<u8> {
    let (to, from) = (frame[6..12].try_into().expect("six"), frame[..6].try_into().expect("six"));
    let quoted = if src.is_ipv6() { 1232 } else { 544 };
    telling((to, from), &frame[L3..L3 + quoted], (src, dst), mtu)
}

/// The error of `src` to `dst` that quotes this and tells `mtu`, between these MAC addresses (destination, source).
pub fn telling(macs: ([u8; 6], [u8; 6]), quote: &[u8], ends: (IpAddr, IpAddr), mtu: u32) -> Vec<u8> {
    let mut out = [macs.0, macs.1].concat();
    let length = 8 + quote.len() as u16;
    match ends {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            out.extend(0x0800u16.to_be_bytes());
            let kind = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu as u16 };
            let icmp = Icmpv4Header::with_checksum(Icmpv4Type::DestinationUnreachable(kind), quote);
            let mut ip =
                Ipv4Header::new(length, 64, IpNumber::ICMP, src.octets(), dst.octets()).expect("it fits");
            ip.dscp = 48.try_into().expect("six bits");
            ip.dont_fragment = true;
            ip.header_checksum = ip.calc_header_checksum();
            out.extend([&ip.to_bytes()[..], &icmp.to_bytes()[..], quote].concat());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            out.extend(0x86ddu16.to_be_bytes());
            let kind = Icmpv6Type::PacketTooBig { mtu };
            let icmp = Icmpv6Header::with_checksum(kind, src.octets(), dst.octets(), quote).expect("it fits");
            let ip = Ipv6Header {
                traffic_class: 0xc0,
                payload_length: length,
                next_header: IpNumber::IPV6_ICMP,
                hop_limit: 64,
                source: src.octets(),
                destination: dst.octets(),
                ..Ipv6Header::default()
            };
            out.extend([&ip.to_bytes()[..], &icmp.to_bytes()[..], quote].concat());
        }
        families => panic!("one family: {families:?}"),
    }
    out
}
