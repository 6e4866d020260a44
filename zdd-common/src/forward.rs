//! Rewriting a frame for where it goes.

use crate::checksum::{Delta, after_one_less};
use crate::frame::Frame;
use crate::net::{Addr, TCP};
use crate::packet::{L3, Outside, Packet, TCP_CHECKSUM, UDP_CHECKSUM, ipv4, ipv6};

/// Which end of a packet is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Source address and port.
    Source,
    /// Destination address and port.
    Destination,
}

/// Writes both MAC addresses. False: the frame is too short, which a parsed one never is.
#[inline(always)]
pub fn ethernet<F: Frame + ?Sized>(frame: &mut F, dst: [u8; 6], src: [u8; 6]) -> bool {
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (dst, src);
    let words = [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_ne_bytes);
    // In one go: each write is checked against the frame's end by itself.
    frame.write_link(0, words)
}

/// Writes a whole Ethernet header without tags, and two bytes behind it, which are somebody else's to overwrite.
#[inline(always)]
pub(crate) fn front<F: Frame + ?Sized>(frame: &mut F, dst: [u8; 6], src: [u8; 6], ethertype: u16) -> bool {
    let ([a, b, c, d, e, f], [g, h, i, j, k, l], [m, n]) = (dst, src, ethertype.to_ne_bytes());
    let words = [[a, b, c, d, e, f, g, h], [i, j, k, l, m, n, 0, 0]].map(u64::from_ne_bytes);
    frame.write(0, words)
}

/// Takes one hop off (RFC 1812 5.3.1, RFC 8200 3), as a router does; `None` when none is left.
#[inline(always)]
pub fn take_hop<F: Frame + ?Sized>(frame: &mut F, packet: &Packet) -> Option<()> {
    let mut outside = Outside::default();
    if packet.v6 {
        outside.hops = frame.read(L3 + ipv6::HOP_LIMIT)?;
    } else {
        let [hops, _, a, b] = frame.read::<[u8; 4]>(L3 + ipv4::TTL)?;
        outside.hops = hops;
        outside.checksum = u16::from_ne_bytes([a, b]);
    }
    if outside.hops <= 1 { None } else { lower_hops(frame, packet, outside) }
}

/// The same of a packet of which is known that there are two at the least.
#[inline(always)]
pub(crate) fn lower_hops<F: Frame + ?Sized>(frame: &mut F, packet: &Packet, outside: Outside) -> Option<()> {
    let hops = outside.hops.wrapping_sub(1);
    if packet.v6 {
        return frame.write(L3 + ipv6::HOP_LIMIT, hops).then_some(());
    }
    // TTL, protocol and checksum are one word.
    let [a, b] = after_one_less(outside.checksum).to_ne_bytes();
    frame.write(L3 + ipv4::TTL, [hops, packet.proto, a, b]).then_some(())
}

/// Replaces one end's address and port (network byte order), and corrects the checksums. `None`: the frame is too short.
#[inline(always)]
pub fn translate<F: Frame + ?Sized>(
    frame: &mut F,
    packet: &Packet,
    side: Side,
    addr: Addr,
    port: u16,
) -> Option<()> {
    let (old_addr, old_port, port_at) = match side {
        Side::Source => (packet.src, packet.src_port, packet.l4 as usize),
        Side::Destination => (packet.dst, packet.dst_port, packet.l4 as usize + 2),
    };
    let addresses;
    if packet.v6 {
        let at = L3 + if side == Side::Source { ipv6::SRC } else { ipv6::DST };
        addresses = Delta::default().quad(old_addr.hi, addr.hi).quad(old_addr.lo, addr.lo);
        if !frame.write(at, addr.octets()) {
            return None;
        }
    } else {
        let at = L3 + if side == Side::Source { ipv4::SRC } else { ipv4::DST };
        let (old, new) = (u32::from_ne_bytes(old_addr.v4_octets()), u32::from_ne_bytes(addr.v4_octets()));
        addresses = Delta::default().double(old, new);
        let checksum: u16 = frame.read(L3 + ipv4::CHECKSUM)?;
        if !frame.write(at, addr.v4_octets()) || !frame.write(L3 + ipv4::CHECKSUM, addresses.apply(checksum))
        {
            return None;
        }
    }
    if frame.headless() {
        return Some(());
    }
    if !frame.write(port_at, port) {
        return None;
    }
    let delta = addresses.word(old_port, port);
    let tcp = packet.proto == TCP;
    let at = packet.l4 as usize + if tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
    let checksum: u16 = frame.read(at)?;
    // UDP over IPv4 may carry no checksum (0, RFC 768); one that becomes 0 is sent as all ones.
    if !tcp && checksum == 0 {
        return Some(());
    }
    let new = delta.apply(checksum);
    frame.write(at, if !tcp && new == 0 { 0xffff } else { new }).then_some(())
}
