//! Parsing of a frame that is not plain: tags, extension headers, fragments, ICMP, and what contradicts itself.

use super::extension::{self, Chain};
use super::{Done, Odd, Shape, View, done, icmp};
use crate::frame::Frame;
use crate::net::{Addr, TCP, UDP};
use crate::packet::{self, ETHERTYPE, ETHERTYPE_IPV4, ETHERTYPE_IPV6, L3, ipv4, ipv6};
use crate::reason::Reason;

/// Finds out what a frame is, and fills in what is known of its packet.
// A function of its own: see `steer`'s query.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn survey<F: Frame>(frame: &mut View<F>, odd: &mut Odd) -> Done {
    match frame.read::<u16>(ETHERTYPE) {
        Some(ETHERTYPE_IPV4) => v4(frame, odd),
        Some(ETHERTYPE_IPV6) => v6(frame, odd),
        _ => {}
    }
    done()
}

#[inline(always)]
fn v4<F: Frame>(frame: &mut View<F>, odd: &mut Odd) {
    let Some(header) = frame.read::<[u8; ipv4::LEN]>(L3) else { return };
    let length = ((header[0] & 0x0f) as u16) * 4;
    if header[0] >> 4 != 4 || length < ipv4::LEN as u16 {
        return;
    }
    let packet = &mut odd.work.packet;
    packet.src = Addr::v4([header[12], header[13], header[14], header[15]]);
    packet.dst = Addr::v4([header[16], header[17], header[18], header[19]]);
    packet.v6 = false;
    packet.proto = header[9];
    packet.l4 = L3 as u8 + length as u8;
    packet.ip_length = u16::from_be_bytes([header[2], header[3]]);
    odd.id = u16::from_be_bytes([header[4], header[5]]) as u32;
    let field = u16::from_be_bytes([header[6], header[7]]);
    odd.fragment = (field & 0x1fff) << 3 | field >> 13 & 1;
    if packet.ip_length < length {
        odd.flawed(Reason::DropMalformed);
        return;
    }
    transport(frame, odd, icmp::V4);
    ends(frame, odd);
}

#[inline(always)]
fn v6<F: Frame>(frame: &mut View<F>, odd: &mut Odd) {
    let Some(head) = frame.read::<[u8; 8]>(L3) else { return };
    let Some(src) = frame.read::<Addr>(L3 + ipv6::SRC) else { return };
    let Some(dst) = frame.read::<Addr>(L3 + ipv6::DST) else { return };
    if head[0] >> 4 != 6 {
        return;
    }
    // Mapped addresses are how the tables write IPv4; in a frame they would stand for an IPv4 VIP or backend.
    odd.foreign(Reason::PassNotVip);
    if src.is_v4() || dst.is_v4() {
        return;
    }
    let packet = &mut odd.work.packet;
    packet.src = src;
    packet.dst = dst;
    packet.v6 = true;
    packet.ip_length = u16::from_be_bytes([head[4], head[5]]).saturating_add(ipv6::LEN as u16);
    odd.chain = Chain::new(head[6]);
    _ = extension::walk(frame, &mut odd.chain);
    let chain = &odd.chain;
    packet.proto = chain.next;
    packet.l4 = chain.at;
    odd.id = chain.id;
    odd.fragment = chain.fragment;
    match chain.end {
        extension::End::Header => {}
        extension::End::Elsewhere => {
            odd.foreign(Reason::PassNotTransport);
            return;
        }
        extension::End::TooLong => {
            odd.flawed(Reason::DropHeaders);
            return;
        }
        extension::End::Cut => {
            odd.flawed(Reason::DropMalformed);
            return;
        }
    }
    if packet.ip_length as usize + L3 < packet.l4 as usize {
        odd.flawed(Reason::DropMalformed);
        return;
    }
    transport(frame, odd, icmp::V6);
    ends(frame, odd);
}

/// What is behind the network header and its extensions; `icmp` is the family's ICMP.
#[inline(always)]
fn transport<F: Frame>(frame: &mut View<F>, odd: &mut Odd, icmp: u8) {
    let (offset, more) = (odd.offset(), odd.more());
    let (at, length) = (odd.work.packet.l4 as usize, odd.work.packet.ip_length as usize);
    let payload = (L3 + length).wrapping_sub(at) as u16;
    if offset != 0 {
        odd.shape = Shape::Later;
        odd.foreign(Reason::PassFragment);
        if L3 + length > frame.length() || offset as u32 + payload as u32 > 0xffff {
            odd.flawed(Reason::DropMalformed);
        }
        return;
    }
    odd.foreign(if more { Reason::PassFragment } else { Reason::PassNotTransport });
    let packet = &mut odd.work.packet;
    if packet.proto == icmp && !more {
        // Only errors speak of somebody's flow. Echo and all else is the stack's.
        let kind = frame.read::<u8>(at).unwrap_or(0);
        if icmp::is_error(packet.v6, kind) {
            odd.shape = Shape::Icmp;
        }
        return;
    }
    if packet.proto != TCP && packet.proto != UDP {
        return;
    }
    // Whose a packet is may be told before anything else is right about it.
    let ports = if payload >= 4 { frame.read::<[u8; 4]>(at) } else { None };
    if let Some(ports) = ports {
        packet.src_port = u16::from_ne_bytes([ports[0], ports[1]]);
        packet.dst_port = u16::from_ne_bytes([ports[2], ports[3]]);
    }
    let named = ports.is_some();
    match packet::transport(frame, packet, payload as usize) {
        None => {}
        // A first fragment must hold the whole transport header (RFC 1858, RFC 7112): nobody else could judge the rest.
        Some(Reason::DropMalformed) if more => odd.flawed(Reason::DropFragment),
        Some(flaw) => odd.flawed(flaw),
    }
    odd.shape = if !named {
        Shape::Nameless
    } else if more {
        Shape::First
    } else {
        Shape::Whole
    };
}

/// Where it says that it comes from, and to whom it was sent on the link. Of what is not a flow's (a neighbour's question before it has an
/// address, for one) nobody asks.
#[inline(always)]
fn ends<F: Frame>(frame: &View<F>, odd: &mut Odd) {
    if !odd.sound() || odd.shape as u8 == Shape::Foreign as u8 {
        return;
    }
    if odd.work.packet.src.is_martian() {
        odd.flaw = Reason::DropMartian;
    } else if packet::to_group(frame) {
        odd.flaw = Reason::DropLinkGroup;
    }
}
