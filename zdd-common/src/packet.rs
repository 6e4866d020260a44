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

/// Parses a frame.
///
/// `Err` tells the counter: what is not ours to look at passes, what contradicts itself is dropped.
pub fn parse<F: Frame + ?Sized>(frame: &F) -> Result<Packet, Reason> {
    let mut packet = Packet::default();
    match parse_into(frame, &mut packet) {
        Some(reason) => Err(reason),
        None => Ok(packet),
    }
}

/// [`parse`], field by field into a packet that is there: on a BPF stack there is room for one. `None`: all went well.
#[inline(always)]
pub fn parse_into<F: Frame + ?Sized>(frame: &F, packet: &mut Packet) -> Option<Reason> {
    match frame.read::<u16>(ETHERTYPE) {
        Some(ETHERTYPE_IPV4) => v4(frame, packet),
        Some(ETHERTYPE_IPV6) => v6(frame, packet),
        _ => Some(Reason::PassNotIp),
    }
}

/// Byte offsets within an IPv4 header (RFC 791).
pub mod ipv4 {
    use super::Ipv4Hdr;
    use core::mem::offset_of;
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

#[inline(always)]
fn v4<F: Frame + ?Sized>(frame: &F, packet: &mut Packet) -> Option<Reason> {
    let Some(header) = frame.read::<[u8; ipv4::LEN]>(L3) else { return MALFORMED };
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
    transport(frame, packet, total as usize - words * 4)
}

#[inline(always)]
fn v6<F: Frame + ?Sized>(frame: &F, packet: &mut Packet) -> Option<Reason> {
    let Some(head) = frame.read::<[u8; 8]>(L3) else { return MALFORMED };
    let Some(src) = frame.read::<Addr>(L3 + ipv6::SRC) else { return MALFORMED };
    let Some(dst) = frame.read::<Addr>(L3 + ipv6::DST) else { return MALFORMED };
    if head[0] >> 4 != 6 {
        return MALFORMED;
    }
    if head[6] == IPV6_FRAGMENT {
        return Some(Reason::PassFragment);
    }
    // Mapped addresses are how the tables write IPv4; in a frame they would stand for an IPv4 VIP or backend.
    if src.is_v4() || dst.is_v4() {
        return Some(Reason::PassNotVip);
    }
    let payload = u16::from_be_bytes([head[4], head[5]]);
    packet.src = src;
    packet.dst = dst;
    packet.v6 = true;
    packet.ip_length = payload.saturating_add(ipv6::LEN as u16);
    packet.l4 = (L3 + ipv6::LEN) as u8;
    packet.proto = head[6];
    transport(frame, packet, payload as usize)
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
fn transport<F: Frame + ?Sized>(frame: &F, packet: &mut Packet, payload: usize) -> Option<Reason> {
    // More than the frame holds; less is Ethernet's padding.
    let lies = packet.l4 as usize + payload > frame.length();
    match packet.proto {
        TCP => {
            if payload < TCP_LEN || lies {
                return MALFORMED;
            }
            let Some(tcp) = frame.read::<[u8; TCP_LEN]>(packet.l4 as usize) else { return MALFORMED };
            let flags = tcp[13];
            let syn = flags & SYN != 0;
            if syn && flags & (FIN | RST) != 0 {
                return Some(Reason::DropSynFin);
            }
            packet.src_port = u16::from_ne_bytes([tcp[0], tcp[1]]);
            packet.dst_port = u16::from_ne_bytes([tcp[2], tcp[3]]);
            packet.transport = Transport::Tcp(Segment {
                syn: syn && flags & ACK == 0,
                fin: flags & FIN != 0,
                rst: flags & RST != 0,
                seq: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
            });
            None
        }
        UDP => {
            if payload < UDP_LEN || lies {
                return MALFORMED;
            }
            let Some(udp) = frame.read::<[u8; UDP_LEN]>(packet.l4 as usize) else { return MALFORMED };
            packet.src_port = u16::from_ne_bytes([udp[0], udp[1]]);
            packet.dst_port = u16::from_ne_bytes([udp[2], udp[3]]);
            packet.transport = Transport::Udp;
            None
        }
        _ => Some(Reason::PassNotTransport),
    }
}
