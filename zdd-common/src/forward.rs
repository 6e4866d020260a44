//! Rewriting a frame for where it goes.

use crate::checksum::Delta;
use crate::frame::Frame;
use crate::net::{Addr, TCP};
use crate::packet::{L3, Packet, TCP_CHECKSUM, UDP_CHECKSUM, ipv4, ipv6};

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
    frame.write_link(0, dst) && frame.write_link(6, src)
}

/// Takes one hop off (RFC 1812 5.3.1, RFC 8200 3), as a router does; `None` when none is left.
#[inline(always)]
pub fn take_hop<F: Frame + ?Sized>(frame: &mut F, packet: &Packet) -> Option<()> {
    if packet.v6 {
        let hops: u8 = frame.read(L3 + ipv6::HOP_LIMIT)?;
        if hops <= 1 {
            return None;
        }
        return frame.write(L3 + ipv6::HOP_LIMIT, hops - 1).then_some(());
    }
    // TTL, protocol and checksum are one word.
    let [hops, proto, a, b] = frame.read::<[u8; 4]>(L3 + ipv4::TTL)?;
    if hops <= 1 {
        return None;
    }
    let (old, new) = (u16::from_ne_bytes([hops, proto]), u16::from_ne_bytes([hops - 1, proto]));
    let [a, b] = Delta::default().word(old, new).apply(u16::from_ne_bytes([a, b])).to_ne_bytes();
    frame.write(L3 + ipv4::TTL, [hops - 1, proto, a, b]).then_some(())
}

/// Whether [`take_hop`] finds one.
#[inline(always)]
pub fn has_hop<F: Frame + ?Sized>(frame: &F, packet: &Packet) -> bool {
    let at = L3 + if packet.v6 { ipv6::HOP_LIMIT } else { ipv4::TTL };
    frame.read::<u8>(at).unwrap_or_default() > 1
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
