//! Path MTU under `ipip`: a router on the way to a backend says that a packet of ours is too big, outer header and all.
//!
//! Its error is for the outer source, and the client is who has to know (RFC 2003, 4.1 and 5.1; RFC 2473, 8.2 to 8.4; RFC 4459, 3.2).
//! So it becomes an error about the inner packet: the same frame with the outer header left out of the quote, and out of the MTU. It
//! comes from the VIP, as an error about a link of our own does ([`crate::toobig`]). Nothing is remembered: the flow that is quoted tells which backend
//! and which outer source it would have now, and an error about any other is not believed.

use super::icmp::{self, V4, V6};
use super::{Done, Odd, View, done};
use crate::checksum::Delta;
use crate::encap;
use crate::entries::{EndKind, FlowKey, Mode};
use crate::forward;
use crate::frame::Frame;
use crate::net::{Addr, End};
use crate::packet::{ETHERTYPE, ETHERTYPE_IPV4, ETHERTYPE_IPV6, L3, ipv4, ipv6};
use crate::process::{self, Fate};
use crate::reason::Reason;
use crate::steer;
use crate::tables::Tables;
use crate::toobig::{self, ICMP, MTU_MIN_V6, QUOTED_V4};

/// The least MTU of IPv4 (RFC 791): no host goes below.
const MTU_MIN_V4: u32 = 68;

/// What the router says.
pub(super) struct PathError {
    /// Source of the quoted outer header.
    source: Addr,
    /// MTU of the router's next link, host order; 0: it does not say (RFC 1191, 5).
    mtu: u32,
    /// Bytes that are quoted of the inner packet.
    quoted: u16,
    /// Whether the outer header is IPv6.
    v6: bool,
    /// Whether the inner packet's sender may be told: a single host that lets nobody cut its packets.
    may_tell: bool,
    /// Whether it shall be told.
    pub(super) tell: bool,
}

impl PathError {
    #[inline(always)]
    pub(super) const fn none() -> Self {
        Self { source: Addr { hi: 0, lo: 0 }, mtu: 0, quoted: 0, v6: false, may_tell: false, tell: false }
    }

    /// Length of the outer header, and of the error's own: neither has options.
    #[inline(always)]
    const fn header(&self) -> usize {
        if self.v6 { ipv6::LEN } else { ipv4::LEN }
    }

    /// Bytes of the largest inner packet that fits, of the family; `None`: fewer than anybody sends.
    #[inline(always)]
    const fn room(&self, v6: bool) -> Option<u32> {
        let least = if v6 { MTU_MIN_V6 } else { MTU_MIN_V4 };
        let room = self.mtu.saturating_sub(self.header() as u32);
        match self.mtu {
            0 if !v6 => Some(0),
            _ if room < least => None,
            _ => Some(room),
        }
    }

    /// Bytes that the client's error quotes.
    #[inline(always)]
    const fn kept(&self, v6: bool) -> usize {
        let quoted = self.quoted as usize;
        if !v6 && quoted > QUOTED_V4 { QUOTED_V4 } else { quoted }
    }
}

/// Reads an error about IP in IP, as far as the ports of the inner packet, which is the packet at hand from then on.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn read<F: Frame>(frame: &mut View<F>, odd: &mut Odd) -> Done {
    let path = &mut odd.path;
    path.v6 = odd.work.packet.v6;
    path.source = odd.work.packet.dst;
    let at = L3 + path.header();
    if odd.work.packet.l4 as usize != at || odd.quote.outer_end() as usize != at {
        return done();
    }
    let Some([kind, code, _, _, a, b, c, d]) = frame.read::<[u8; 8]>(at) else { return done() };
    let too_big = if path.v6 { kind == 2 } else { kind == 3 && code == 4 };
    if !too_big {
        return done();
    }
    path.mtu = if path.v6 { u32::from_be_bytes([a, b, c, d]) } else { u32::from_be_bytes([0, 0, c, d]) };
    odd.work.fate = Fate::pass(Reason::PassTooBig);
    let depth = (2 * path.header() + ICMP) as u16;
    frame.deeper(depth);
    inner(frame, odd);
    frame.back(depth);
    done()
}

#[inline(always)]
fn inner<F: Frame>(frame: &mut View<F>, odd: &mut Odd) {
    let v6 = odd.quote.carries_v6();
    let end = odd.quote.end_without(odd.path.header());
    odd.inner.ends(end);
    let Some(src) = icmp::header(frame, v6, &mut odd.chain, &mut odd.inner) else { return };
    icmp::ports(frame, &mut odd.inner);
    if v6 && src.is_v4() {
        return;
    }
    odd.path.quoted = end.saturating_sub(L3 as u16);
    odd.path.may_tell = toobig::may_tell(frame, v6);
    let packet = &mut odd.work.packet;
    packet.src = src;
    packet.v6 = v6;
    odd.inner.fill(packet);
}

/// Finds out whether the inner packet is one that we would send there now.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn classify<T: Tables>(tables: &mut T, odd: &mut Odd) -> Done {
    if !odd.inner.known() {
        return done();
    }
    let packet = &odd.work.packet;
    let vip = process::known(tables, &End::new(packet.dst, packet.dst_port, packet.proto));
    let Some(mut end) = vip.filter(|end| end.is(EndKind::Vip)) else {
        // Somebody else's tunnel.
        odd.work.fate = Fate::pass(Reason::PassNotTransport);
        return done();
    };
    if end.sources != 0 && !process::admit(tables, &mut end, &packet.src) {
        odd.work.fate = Fate::drop(Reason::DropDenied);
        tables.count_refused(end.service, Reason::DropDenied);
        return done();
    }
    let key = FlowKey::new(packet.src, packet.src_port, packet.dst_port, end.id);
    let steered = steer::peek(tables, end.service, &key);
    let Some(backend) = tables.backend(steered.backend) else { return done() };
    if backend.mode != Mode::Ipip as u16
        || backend.addr != odd.quote.to()
        || encap::source(&backend, encap::variation(packet)) != odd.path.source
    {
        return done();
    }
    odd.path.tell = odd.path.may_tell && odd.path.room(packet.v6).is_some();
    odd.work.fate = Fate::drop(Reason::DropTooBig);
    done()
}

/// The kernel's route to the client.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn find_route<T: Tables>(tables: &mut T, odd: &mut Odd) -> Done {
    let packet = &odd.work.packet;
    let (proto, header) = if packet.v6 { (V6, ipv6::LEN) } else { (V4, ipv4::LEN) };
    let length = (header + ICMP + odd.path.kept(packet.v6)) as u16;
    if let Some(route) = tables.route(&packet.dst, &packet.src, proto, length)
        && route.fits == 0
    {
        odd.work.route = route;
        odd.work.routed = true;
    }
    done()
}

/// Makes the error one for the client, and sends it; the stack routes it if there is no complete route.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn tell<F: Frame>(frame: &mut View<F>, odd: &mut Odd) -> Done {
    let told = rewrite(frame, odd);
    let route = &odd.work.route;
    odd.work.fate = match (told, odd.work.routed) {
        (true, false) => Fate::pass(Reason::PassTooBig),
        (true, true) if forward::ethernet(frame, route.dst_mac, route.src_mac) => {
            Fate::redirect(route.ifindex, Reason::TooBigPath)
        }
        _ => Fate::drop(Reason::DropMalformed),
    };
    done()
}

#[inline(always)]
fn rewrite<F: Frame>(frame: &mut View<F>, odd: &Odd) -> bool {
    let (path, packet) = (&odd.path, &odd.work.packet);
    let v6 = packet.v6;
    let room = path.room(v6).unwrap_or(0);
    let kept = path.kept(v6);
    let Some(dst) = frame.read_link::<[u8; 6]>(0) else { return false };
    let Some(src) = frame.read_link::<[u8; 6]>(6) else { return false };
    // By the router's own checksum: what came damaged stays so.
    let Some(left) = left_out(frame, path.v6) else { return false };
    let Some(checksum) = frame.read::<u16>(L3 + path.header() + 2) else { return false };
    let (header, ether_type) = if v6 { (ipv6::LEN, ETHERTYPE_IPV6) } else { (ipv4::LEN, ETHERTYPE_IPV4) };
    let moved = match (path.v6, v6) {
        (false, false) => frame.strip(ipv4::LEN),
        (true, true) => frame.strip(ipv6::LEN),
        (true, false) => frame.strip(2 * ipv6::LEN - ipv4::LEN),
        (false, true) => true,
    };
    if !moved || !frame.write_link(0, dst) || !frame.write_link(6, src) || !frame.write(ETHERTYPE, ether_type)
    {
        return false;
    }
    let length = (header + ICMP + kept) as u16;
    if v6 {
        let sum = toobig::start_v6(left, packet, room, length).apply(checksum);
        return toobig::head_v6(frame, packet, room, length, sum);
    }
    let sum = if path.quoted as usize > QUOTED_V4 {
        if !frame.truncate(L3 + length as usize) {
            return false;
        }
        let Some(sum) = toobig::sum_v4(frame, room) else { return false };
        sum
    } else {
        toobig::start_v4(left, room).apply(checksum)
    };
    toobig::head_v4(frame, packet, room, length, sum)
}

/// What the checksum covers before the inner packet, taken away: pseudo-header, ICMP header, outer header.
#[inline(always)]
fn left_out<F: Frame>(frame: &View<F>, v6: bool) -> Option<Delta> {
    let mut delta = Delta::default();
    if !v6 {
        let at = L3 + ipv4::LEN;
        let kind = frame.read::<u16>(at)?;
        delta = delta.word(kind, 0).double(frame.read::<u32>(at + 4)?, 0);
        for word in 0..ipv4::LEN / 4 {
            delta = delta.double(frame.read::<u32>(at + ICMP + 4 * word)?, 0);
        }
        return Some(delta);
    }
    let at = L3 + ipv6::LEN;
    for word in 0..4 {
        delta = delta.quad(frame.read::<u64>(L3 + ipv6::SRC + 8 * word)?, 0);
    }
    let length = frame.read::<u16>(L3 + 4)?;
    let kind = frame.read::<u16>(at)?;
    delta = delta.word(length, 0).word(u16::from(V6).to_be(), 0);
    delta = delta.word(kind, 0).double(frame.read::<u32>(at + 4)?, 0);
    for word in 0..ipv6::LEN / 8 {
        delta = delta.quad(frame.read::<u64>(at + ICMP + 8 * word)?, 0);
    }
    Some(delta)
}
