//! IP in IP: the outer header of `ipip` (RFC 2003 for IPv4, RFC 2473 for IPv6, RFC 6040 for ECN).
//!
//! The inner packet is forwarded as a router forwards it: it loses a hop (RFC 2003, 3.1; RFC 2473, 3.1), and nothing else
//! of it changes. The outer header is that of a packet of our own: a fresh TTL, DSCP and ECN copied from the inner one
//! (RFC 6040, normal mode; RFC 2983, uniform model on the way in), never fragmented on its way.

use crate::checksum::Delta;
use crate::entries::Backend;
use crate::frame::Frame;
use crate::net::Addr;
use crate::packet::{ETHERTYPE, ETHERTYPE_IPV4, ETHERTYPE_IPV6, L3, Packet, ipv4, ipv6};

/// TTL or hop limit of outer headers: what IANA recommends for packets of one's own. The inner packet keeps its own count.
pub const HOPS: u8 = 64;
/// IP protocol number of IPv4 in IP.
pub const IPV4: u8 = 4;
/// IP protocol number of IPv6 in IP.
pub const IPV6: u8 = 41;

/// Bytes that go in front of a packet for a backend at `addr`.
#[inline(always)]
pub const fn overhead(addr: &Addr) -> usize {
    if addr.is_v4() { ipv4::LEN } else { ipv6::LEN }
}

/// A number of the packet's client and ports. It fills the outer source's varied bits and the IPv6 flow label (RFC 6438), so that NICs
/// and routers which hash outer headers spread flows, and keep each flow's packets in order.
#[inline(always)]
pub const fn variation(packet: &Packet) -> u64 {
    let ports = packet.src_port as u64 | (packet.dst_port as u64) << 16;
    // An IPv4 address lies above the ports and meets none of their bits. One multiplication: the highest bits depend on all, and are
    // taken to where the lowest are.
    let word = packet.src.hi ^ packet.src.lo ^ ports;
    let hash = word.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    hash ^ hash >> 32
}

/// Source of the outer header for a flow of this variation.
#[inline(always)]
pub const fn source(backend: &Backend, variation: u64) -> Addr {
    backend.source.or_low(variation as u32 & backend.spread)
}

/// Puts the outer header in front, with room for the Ethernet header before it and the EtherType written; the MAC addresses
/// are the caller's. False: there is no room in front of the frame, which is as it was.
#[inline(always)]
pub fn encapsulate<F: Frame + ?Sized>(frame: &mut F, packet: &Packet, backend: &Backend) -> bool {
    let class = if packet.v6 {
        let [a, b] = frame.read::<[u8; 2]>(L3).unwrap_or_default();
        a << 4 | b >> 4
    } else {
        frame.read::<u8>(L3 + ipv4::CLASS).unwrap_or_default()
    };
    outer(frame, packet, class, backend, |frame, ethertype| frame.write(ETHERTYPE, ethertype))
}

/// The same of a packet whose DSCP and ECN are known. `before` writes the EtherType and what else is to stand before the outer header,
/// and may spoil the header's first two bytes.
#[inline(always)]
pub(crate) fn outer<F: Frame + ?Sized>(
    frame: &mut F,
    packet: &Packet,
    class: u8,
    backend: &Backend,
    before: impl Fn(&mut F, u16) -> bool,
) -> bool {
    let variation = variation(packet);
    let next = if packet.v6 { IPV6 } else { IPV4 };
    let source = source(backend, variation);
    if backend.addr.is_v4() {
        let header = outer_v4(packet.ip_length, (next, class), source, backend.addr);
        frame.prepend(ipv4::LEN) && before(frame, ETHERTYPE_IPV4) && frame.write(L3, header)
    } else {
        let label = (variation >> 44) as u32;
        let header = outer_v6(packet.ip_length, (next, class, label), source, backend.addr);
        frame.prepend(ipv6::LEN) && before(frame, ETHERTYPE_IPV6) && frame.write(L3, header)
    }
}

/// Don't fragment, offset 0. The tunnel's end takes no fragments, so the path must not make any (RFC 2003 lets the outer bit
/// be set whatever the inner one is); for such a packet the identification means nothing and is 0 (RFC 6864, 4.1).
const ATOMIC: u32 = u32::from_ne_bytes([0, 0, 0x40, 0]);

#[inline(always)]
const fn outer_v4(inner: u16, (next, class): (u8, u8), source: Addr, to: Addr) -> [u32; 5] {
    let [high, low] = inner.wrapping_add(ipv4::LEN as u16).to_be_bytes();
    let first = u32::from_ne_bytes([0x45, class, high, low]);
    let (source, to) = (u32::from_ne_bytes(source.v4_octets()), u32::from_ne_bytes(to.v4_octets()));
    let third = u32::from_ne_bytes([HOPS, next, 0, 0]);
    let sum = Delta::new().more(first).more(ATOMIC).more(third).more(source).more(to).whole();
    let [a, b] = sum.to_ne_bytes();
    let third = u32::from_ne_bytes([HOPS, next, a, b]);
    [first, ATOMIC, third, source, to]
}

/// Two words as they lie one after the other.
#[inline(always)]
const fn both(first: u32, second: u32) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    [a, b, c, d, e, f, g, h]
}

#[inline(always)]
const fn outer_v6(inner: u16, (next, class, label): (u8, u8, u32), source: Addr, to: Addr) -> [u64; 5] {
    let first = (6 << 28 | (class as u32) << 20 | label & 0xf_ffff).to_be();
    let [high, low] = inner.to_be_bytes();
    let second = u32::from_ne_bytes([high, low, next, HOPS]);
    [u64::from_ne_bytes(both(first, second)), source.hi, source.lo, to.hi, to.lo]
}
