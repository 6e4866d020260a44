//! Parsing: from a frame to what steering and forwarding need to know.

use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::frame::Frame;
use crate::net::{Addr, TCP, UDP};
use crate::reason::Reason;
use crate::steer::{Segment, Transport};

/// Offset of the network header: Ethernet without tags.
pub const L3: usize = EthHdr::LEN;

/// EtherType of IPv4 as it stands in a frame.
pub const ETHERTYPE_IPV4: u16 = 0x0800u16.to_be();
/// EtherType of IPv6 as it stands in a frame.
pub const ETHERTYPE_IPV6: u16 = 0x86ddu16.to_be();
/// 802.1Q.
pub(crate) const ETHERTYPE_VLAN: u16 = 0x8100u16.to_be();
/// 802.1ad.
pub(crate) const ETHERTYPE_QINQ: u16 = 0x88a8u16.to_be();

/// Offset of the EtherType.
pub const ETHERTYPE: usize = core::mem::offset_of!(EthHdr, ether_type);

/// A TCP or UDP packet over IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port, network byte order.
    pub src_port: u16,
    /// Destination port, network byte order.
    pub dst_port: u16,
    /// IP protocol number, TCP or UDP.
    pub proto: u8,
    /// What the transport header says.
    pub transport: Transport,
    /// Whether the network header is IPv6.
    pub v6: bool,
    /// Offset of the transport header in the frame. A byte, so that the verifier sees its bound wherever it is used.
    pub l4: u8,
    /// Length of the IP packet in bytes, as its header says.
    pub ip_length: u16,
}

impl Default for Packet {
    #[inline(always)]
    fn default() -> Self {
        let (src, dst) = (Addr::default(), Addr::default());
        let transport = Transport::Udp;
        Self { src, dst, src_port: 0, dst_port: 0, proto: 0, transport, v6: false, l4: 0, ip_length: 0 }
    }
}

/// Parses a plain frame: untagged, one whole TCP or UDP packet without extension headers. Field by field into a packet that is
/// there: on a BPF stack there is room for one.
///
/// `None`: all went well. [`Reason::PassNotIp`]: nothing to look at. Any other reason: not a plain frame, and
/// [`crate::odd`] looks at it.
#[inline(always)]
pub fn parse_into<F: Frame + ?Sized>(frame: &F, packet: &mut Packet) -> Option<Reason> {
    match frame.read::<u16>(ETHERTYPE) {
        Some(ETHERTYPE_IPV4) => v4(frame, packet),
        Some(ETHERTYPE_IPV6) => v6(frame, packet),
        Some(ETHERTYPE_VLAN | ETHERTYPE_QINQ) => Some(Reason::PassOdd),
        _ => Some(Reason::PassNotIp),
    }
}

/// Byte offsets within an IPv4 header (RFC 791).
pub mod ipv4 {
    use super::Ipv4Hdr;
    use core::mem::offset_of;
    /// DSCP and ECN.
    pub const CLASS: usize = offset_of!(Ipv4Hdr, tos);
    /// Time to live.
    pub const TTL: usize = offset_of!(Ipv4Hdr, ttl);
    /// Header checksum.
    pub const CHECKSUM: usize = offset_of!(Ipv4Hdr, check);
    /// Source address.
    pub const SRC: usize = offset_of!(Ipv4Hdr, src_addr);
    /// Destination address.
    pub const DST: usize = offset_of!(Ipv4Hdr, dst_addr);
    /// Length without options.
    pub const LEN: usize = Ipv4Hdr::LEN;
}

/// Byte offsets within an IPv6 header (RFC 8200).
pub mod ipv6 {
    use super::Ipv6Hdr;
    use core::mem::offset_of;
    /// Hop limit.
    pub const HOP_LIMIT: usize = offset_of!(Ipv6Hdr, hop_limit);
    /// Source address.
    pub const SRC: usize = offset_of!(Ipv6Hdr, src_addr);
    /// Destination address.
    pub const DST: usize = offset_of!(Ipv6Hdr, dst_addr);
    /// Fixed length.
    pub const LEN: usize = Ipv6Hdr::LEN;
}

const MALFORMED: Option<Reason> = Some(Reason::DropMalformed);

/// The same of a frame that is known to be of a family, in one look at what most packets have: a network header without options, and
/// as much behind it as a TCP header has. `length`: of the frame. Not `None`: [`parse_into`] shall say what it is, and `outside` means
/// nothing.
///
/// What is looked at once is checked against the frame's end once; and of one family's packets the compiler leaves out all
/// that only the other's have.
#[inline(always)]
pub(crate) fn parse_most<F: Frame + ?Sized, const V6: bool>(
    frame: &F,
    length: usize,
    packet: &mut Packet,
    outside: &mut Outside,
) -> Option<Reason> {
    const FRONT4: usize = ipv4::LEN + TCP_LEN;
    const FRONT6: usize = ipv6::LEN + TCP_LEN;
    /// Version 4, five words.
    const FIRST: u8 = 0x45;
    if V6 {
        let Some(front) = frame.read::<[u8; FRONT6]>(L3) else { return MALFORMED };
        *outside = Outside {
            class: front[0] << 4 | front[1] >> 4,
            hops: front[ipv6::HOP_LIMIT],
            ..Outside::default()
        };
        return v6_header(&front, packet)
            .or_else(|| most(|at| front[ipv6::LEN + at], length, packet, outside, ipv6::LEN));
    }
    let Some(mut front) = frame.read::<[u8; FRONT4]>(L3) else { return MALFORMED };
    if front[0] != FIRST {
        return Some(Reason::PassOdd);
    }
    // So that the compiler knows it, too.
    front[0] = FIRST;
    let checksum = u16::from_ne_bytes([front[ipv4::CHECKSUM], front[ipv4::CHECKSUM + 1]]);
    *outside = Outside { class: front[ipv4::CLASS], hops: front[ipv4::TTL], checksum, ..Outside::default() };
    v4_header(&front, packet).or_else(|| most(|at| front[ipv4::LEN + at], length, packet, outside, ipv4::LEN))
}

/// What [`parse_most`] read besides, as it stands in the frame: what the network around a flow may change, and what the flow's ends
/// tell each other.
#[derive(Clone, Copy, Default)]
pub(crate) struct Outside {
    /// DSCP and ECN: the byte that was the type of service.
    pub(crate) class: u8,
    /// Time to live, or hop limit.
    pub(crate) hops: u8,
    /// IPv4: the header's checksum.
    pub(crate) checksum: u16,
    /// TCP: flags, and the sequence number in host order.
    told: (u8, u32),
}

impl Outside {
    /// What a TCP header says; [`Packet::transport`] is not set. Apart, because few packets are asked for it.
    #[inline(always)]
    pub(crate) fn segment(&self) -> Segment {
        segment(self.told.0, self.told.1)
    }
}

/// What is behind a network header of so many bytes.
#[inline(always)]
fn most(
    behind: impl Fn(usize) -> u8,
    length: usize,
    packet: &mut Packet,
    outside: &mut Outside,
    header: usize,
) -> Option<Reason> {
    let payload = (packet.ip_length as usize).wrapping_sub(header);
    if L3 + packet.ip_length as usize > length {
        return MALFORMED;
    }
    ports(&behind, packet);
    outside.told = told(&behind);
    match packet.proto {
        TCP if payload >= TCP_LEN => flawed(outside.told.0),
        UDP if payload >= UDP_LEN => None,
        _ => MALFORMED,
    }
}

#[inline(always)]
fn v4<F: Frame + ?Sized>(frame: &F, packet: &mut Packet) -> Option<Reason> {
    let Some(header) = frame.read::<[u8; ipv4::LEN]>(L3) else { return MALFORMED };
    v4_header(&header, packet).or_else(|| transport(frame, packet, behind_network(packet)))
}

/// Bytes behind the network header, of a packet whose header has been looked at.
#[inline(always)]
const fn behind_network(packet: &Packet) -> usize {
    (packet.ip_length as usize).wrapping_sub(packet.l4 as usize - L3)
}

/// Of an IPv4 packet, from the bytes of its header.
#[inline(always)]
fn v4_header<const N: usize>(header: &[u8; N], packet: &mut Packet) -> Option<Reason> {
    let words = (header[0] & 0x0f) as usize;
    let total = u16::from_be_bytes([header[2], header[3]]);
    if header[0] >> 4 != 4 || words < 5 || (total as usize) < words * 4 {
        return MALFORMED;
    }
    // More-fragments flag or an offset (RFC 791: low 14 bits without the don't-fragment bit).
    if (header[6] & 0x3f) | header[7] != 0 {
        return Some(Reason::PassFragment);
    }
    packet.src = Addr::v4([header[12], header[13], header[14], header[15]]);
    packet.dst = Addr::v4([header[16], header[17], header[18], header[19]]);
    packet.v6 = false;
    packet.ip_length = total;
    packet.l4 = (L3 + words * 4) as u8;
    packet.proto = header[9];
    martian(packet)
}

/// Whether a frame was sent to a group: broadcast or multicast (IEEE 802, the first bit of the address).
#[inline(always)]
pub(crate) fn to_group<F: Frame + ?Sized>(frame: &F) -> bool {
    frame.read_link::<u8>(0).unwrap_or_default() & 1 != 0
}

/// A source that nothing is forwarded from.
#[inline(always)]
const fn martian(packet: &Packet) -> Option<Reason> {
    if packet.src.is_martian() { Some(Reason::DropMartian) } else { None }
}

#[inline(always)]
fn v6<F: Frame + ?Sized>(frame: &F, packet: &mut Packet) -> Option<Reason> {
    let Some(header) = frame.read::<[u8; ipv6::LEN]>(L3) else { return MALFORMED };
    v6_header(&header, packet).or_else(|| {
        let payload = u16::from_be_bytes([header[4], header[5]]);
        transport(frame, packet, payload as usize)
    })
}

/// Of an IPv6 packet, from the bytes of its header.
#[inline(always)]
fn v6_header<const N: usize>(header: &[u8; N], packet: &mut Packet) -> Option<Reason> {
    if header[0] >> 4 != 6 {
        return MALFORMED;
    }
    if header[6] == IPV6_FRAGMENT {
        return Some(Reason::PassFragment);
    }
    let word = |at: usize| {
        let byte = |n: usize| header[at + n];
        u64::from_ne_bytes([byte(0), byte(1), byte(2), byte(3), byte(4), byte(5), byte(6), byte(7)])
    };
    let src = Addr { hi: word(ipv6::SRC), lo: word(ipv6::SRC + 8) };
    let dst = Addr { hi: word(ipv6::DST), lo: word(ipv6::DST + 8) };
    // Mapped addresses are how the tables write IPv4; in a frame they would stand for an IPv4 VIP or backend.
    if src.is_v4() || dst.is_v4() {
        return Some(Reason::PassNotVip);
    }
    packet.src = src;
    packet.dst = dst;
    packet.v6 = true;
    packet.ip_length = u16::from_be_bytes([header[4], header[5]]).saturating_add(ipv6::LEN as u16);
    packet.l4 = (L3 + ipv6::LEN) as u8;
    packet.proto = header[6];
    martian(packet)
}

/// Next-header number of an IPv6 fragment header.
const IPV6_FRAGMENT: u8 = 44;

/// Offset of the TCP checksum in its header.
pub const TCP_CHECKSUM: usize = 16;
/// Offset of the UDP checksum in its header.
pub const UDP_CHECKSUM: usize = 6;
const TCP_LEN: usize = 20;
const UDP_LEN: usize = 8;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

#[inline(always)]
pub(crate) fn transport<F: Frame + ?Sized>(frame: &F, packet: &mut Packet, payload: usize) -> Option<Reason> {
    // More than the frame holds; less is Ethernet's padding.
    let lies = packet.l4 as usize + payload > frame.length();
    match packet.proto {
        TCP => {
            if payload < TCP_LEN || lies {
                return MALFORMED;
            }
            let Some(header) = frame.read::<[u8; TCP_LEN]>(packet.l4 as usize) else { return MALFORMED };
            ports(|at| header[at], packet);
            let (flags, seq) = told(|at| header[at]);
            packet.transport = Transport::Tcp(segment(flags, seq));
            flawed(flags)
        }
        UDP => {
            if payload < UDP_LEN || lies {
                return MALFORMED;
            }
            let Some(header) = frame.read::<[u8; UDP_LEN]>(packet.l4 as usize) else { return MALFORMED };
            ports(|at| header[at], packet);
            packet.transport = Transport::Udp;
            None
        }
        _ => Some(Reason::PassNotTransport),
    }
}

/// Flags and sequence number (host order), from the bytes of a TCP header.
#[inline(always)]
fn told(byte: impl Fn(usize) -> u8) -> (u8, u32) {
    (byte(13), u32::from_be_bytes([byte(4), byte(5), byte(6), byte(7)]))
}

/// A SYN that also ends or resets is nobody's.
#[inline(always)]
const fn flawed(flags: u8) -> Option<Reason> {
    if flags & SYN != 0 && flags & (FIN | RST) != 0 { Some(Reason::DropSynFin) } else { None }
}

#[inline(always)]
const fn segment(flags: u8, seq: u32) -> Segment {
    Segment { syn: flags & (SYN | ACK) == SYN, fin: flags & FIN != 0, rst: flags & RST != 0, seq }
}

#[inline(always)]
fn ports(byte: impl Fn(usize) -> u8, packet: &mut Packet) {
    packet.src_port = u16::from_ne_bytes([byte(0), byte(1)]);
    packet.dst_port = u16::from_ne_bytes([byte(2), byte(3)]);
}
