//! ICMP errors go where the packet that they quote came from.
//!
//! Two directions. An error for a VIP quotes what a backend sent to a client, as the VIP: it goes to the flow's backend. Under
//! `nat` an error that comes from a backend or from a router before it, for a client, quotes what we sent to the backend: the
//! client must find the VIP in it. Nothing is remembered or changed: an error is easily forged.

use super::extension::{self, Chain};
use super::{Done, Odd, View, done};
use crate::checksum::Delta;
use crate::encap;
use crate::entries::{EndKind, FlowKey};
use crate::frame::Frame;
use crate::net::{Addr, DirectKey, End, TCP, UDP};
use crate::packet::{L3, Packet, TCP_CHECKSUM, UDP_CHECKSUM, ipv4, ipv6};
use crate::process::{self, Fate, Next};
use crate::reason::Reason;
use crate::snat::Order;
use crate::steer;
use crate::tables::Tables;

/// ICMP's protocol number.
pub(super) const V4: u8 = 1;
/// ICMPv6's next-header number.
pub(super) const V6: u8 = 58;
/// Length of the header before a quoted packet, and where its checksum is (RFC 792, RFC 4443).
const HEADER: u16 = 8;
const CHECKSUM: usize = 2;

/// Whether a message of this type quotes the packet that it is about: destination unreachable, time exceeded, parameter
/// problem (RFC 792), and the four errors of RFC 4443. Source quench (4) is none any more: hosts ignore it (RFC 6633).
#[inline(always)]
pub(super) const fn is_error(v6: bool, kind: u8) -> bool {
    if v6 { kind >= 1 && kind <= 4 } else { kind == 3 || kind == 11 || kind == 12 }
}

/// The quoted packet. Its source is the error's destination.
pub(crate) struct Quote {
    /// Destination address.
    dst: Addr,
    /// Source port, network byte order.
    src_port: u16,
    /// Destination port, network byte order.
    dst_port: u16,
    /// Bytes from the error's network header to the quoted one.
    depth: u16,
    /// Offset at which the quote ends, seen from itself.
    end: u16,
    proto: u8,
    /// Offset of the transport header, seen from itself.
    l4: u8,
    /// Whether all this could be read.
    known: bool,
    /// Whether it is IP in IP instead, read as far as its outer header.
    tunnel: bool,
}

impl Quote {
    #[inline(always)]
    pub(crate) const fn none() -> Self {
        Self {
            dst: Addr { hi: 0, lo: 0 },
            src_port: 0,
            dst_port: 0,
            depth: 0,
            end: 0,
            proto: 0,
            l4: 0,
            known: false,
            tunnel: false,
        }
    }

    /// Whether it is IP in IP.
    #[inline(always)]
    pub(super) const fn tunnel(&self) -> bool {
        self.tunnel
    }

    /// Whether it is IPv6 in IP.
    #[inline(always)]
    pub(super) const fn carries_v6(&self) -> bool {
        self.proto == encap::IPV6
    }

    /// Destination address.
    #[inline(always)]
    pub(super) const fn to(&self) -> Addr {
        self.dst
    }

    /// Offset at which its network header ends.
    #[inline(always)]
    pub(super) const fn outer_end(&self) -> u8 {
        self.l4
    }

    /// Offset at which the quote ends, seen from a packet so many bytes within it.
    #[inline(always)]
    pub(super) const fn end_without(&self, header: usize) -> u16 {
        self.end.saturating_sub(header as u16)
    }

    /// Says where it ends, seen from itself.
    #[inline(always)]
    pub(super) fn ends(&mut self, end: u16) {
        self.end = end;
    }

    /// Whether its ports could be read.
    #[inline(always)]
    pub(super) const fn known(&self) -> bool {
        self.known
    }

    /// Writes what is known of it into a packet, except its source address.
    #[inline(always)]
    pub(super) fn fill(&self, packet: &mut Packet) {
        packet.dst = self.dst;
        packet.src_port = self.src_port;
        packet.dst_port = self.dst_port;
        packet.proto = self.proto;
    }
}

impl Quote {
    /// Writes it into an order.
    #[inline(always)]
    pub(super) fn note(&self, order: &mut Order) {
        order.quote_dst = self.dst;
        order.quote_src_port = self.src_port;
        order.quote_dst_port = self.dst_port;
        order.quote_depth = self.depth;
        order.quote_end = self.end;
        order.quote_proto = self.proto;
        order.quote_l4 = self.l4;
    }

    /// Reads it from one.
    #[inline(always)]
    pub(crate) fn noted(order: &Order) -> Self {
        Self {
            dst: order.quote_dst,
            src_port: order.quote_src_port,
            dst_port: order.quote_dst_port,
            depth: order.quote_depth,
            end: order.quote_end,
            proto: order.quote_proto,
            l4: order.quote_l4,
            known: true,
            tunnel: false,
        }
    }
}

/// Reads the quoted packet as far as its ports.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn read<F: Frame>(frame: &mut View<F>, odd: &mut Odd) -> Done {
    let packet = &odd.work.packet;
    let depth = (packet.l4 as u16).wrapping_sub(L3 as u16).wrapping_add(HEADER);
    let end = (L3 as u16).wrapping_add(packet.ip_length);
    // What the error's own length leaves out is padding. Cut short, it is the stack's to judge.
    if packet.ip_length <= depth || end as usize > frame.length() {
        return done();
    }
    odd.quote.depth = depth;
    odd.quote.end = end.wrapping_sub(depth);
    frame.deeper(depth);
    quoted(frame, odd);
    frame.back(depth);
    done()
}

#[inline(always)]
fn quoted<F: Frame>(frame: &mut View<F>, odd: &mut Odd) {
    let v6 = odd.work.packet.v6;
    let Some(src) = header(frame, v6, &mut odd.chain, &mut odd.quote) else { return };
    let quote = &mut odd.quote;
    if src != odd.work.packet.dst {
        return;
    }
    if quote.proto == encap::IPV4 || quote.proto == encap::IPV6 {
        quote.tunnel = true;
        return;
    }
    ports(frame, quote);
}

/// Reads the network header of a quoted packet, which lies where a frame's own would be. Its source; `None`: it tells no ports.
#[inline(always)]
pub(super) fn header<F: Frame>(
    frame: &mut View<F>,
    v6: bool,
    chain: &mut Chain,
    quote: &mut Quote,
) -> Option<Addr> {
    if v6 {
        let head = frame.read::<[u8; 8]>(L3)?;
        let src = frame.read::<Addr>(L3 + ipv6::SRC)?;
        let dst = frame.read::<Addr>(L3 + ipv6::DST)?;
        *chain = Chain::new(head[6]);
        _ = extension::walk(frame, chain);
        let middle = chain.fragment & !7 != 0;
        if head[0] >> 4 != 6 || dst.is_v4() || chain.end as u8 != extension::End::Header as u8 || middle {
            return None;
        }
        quote.dst = dst;
        quote.proto = chain.next;
        quote.l4 = chain.at;
        return Some(src);
    }
    let header = frame.read::<[u8; ipv4::LEN]>(L3)?;
    let length = (header[0] & 0x0f) * 4;
    let middle = (header[6] & 0x1f) | header[7] != 0;
    if header[0] >> 4 != 4 || length < ipv4::LEN as u8 || middle {
        return None;
    }
    quote.dst = Addr::v4([header[16], header[17], header[18], header[19]]);
    quote.proto = header[9];
    quote.l4 = L3 as u8 + length;
    Some(Addr::v4([header[12], header[13], header[14], header[15]]))
}

/// Reads its ports.
#[inline(always)]
pub(super) fn ports<F: Frame>(frame: &mut View<F>, quote: &mut Quote) {
    let at = quote.l4 as usize;
    if (quote.proto != TCP && quote.proto != UDP) || at + 4 > quote.end as usize {
        return;
    }
    let Some(ports) = frame.read::<[u8; 4]>(at) else { return };
    quote.src_port = u16::from_ne_bytes([ports[0], ports[1]]);
    quote.dst_port = u16::from_ne_bytes([ports[2], ports[3]]);
    quote.known = true;
}

/// Finds out whose flow the quoted packet is of.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn classify<T: Tables>(tables: &mut T, odd: &mut Odd) -> Done {
    let quote = &odd.quote;
    if !quote.known {
        return done();
    }
    let us = odd.work.packet.dst;
    if let Some(mut end) = process::known(tables, &End::new(us, quote.src_port, quote.proto))
        && end.is(EndKind::Vip)
    {
        // Whoever sends the error, it is about this client's flow.
        if end.sources != 0 && !process::admit(tables, &mut end, &quote.dst) {
            odd.work.fate = Fate::drop(Reason::DropDenied);
            tables.count_refused(end.service, Reason::DropDenied);
            return done();
        }
        let key = FlowKey::new(quote.dst, quote.dst_port, quote.src_port, end.id);
        odd.work.steered = steer::peek(tables, end.service, &key);
        odd.work.end = end;
        odd.work.next = Next::Steer;
        return done();
    }
    let backend = End::new(quote.dst, quote.dst_port, quote.proto);
    let Some(end) = process::known(tables, &backend) else { return done() };
    if end.is(EndKind::SnatBackend) {
        odd.work.end = end;
        odd.work.next = Next::MapBack;
    } else if end.is(EndKind::NatBackend) {
        let key = DirectKey { backend, peer: us, peer_port: quote.src_port, zero: [0; 6] };
        if end.mapped != 0 && tables.maps_from(&us, quote.src_port) {
            odd.work.end = end;
            odd.work.next = Next::MapBack;
        } else if tables.is_local(&us) {
            odd.work.fate = Fate::pass(Reason::PassLocal);
        } else if us.is_martian() || tables.is_direct(&key) {
            odd.work.fate = Fate::pass(Reason::PassDirect);
        } else {
            odd.work.end = end;
            odd.work.next = Next::Reply;
        }
    }
    done()
}

/// Which end of the quoted packet becomes what.
pub(crate) struct Change {
    /// The destination, not the source.
    pub(crate) destination: bool,
    /// Its address.
    pub(crate) old: Addr,
    /// The address that it becomes.
    pub(crate) new: Addr,
    /// The port that it becomes, network byte order.
    pub(crate) port: u16,
    /// What of the error's own addresses becomes what: part of an ICMPv6 checksum.
    pub(crate) outside: (Addr, Addr),
}

/// Under `nat`, before the packet itself is rewritten: makes the quote of an error for a VIP one of what the backend sent.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn to_backend<F: Frame, T: Tables>(frame: &mut View<F>, tables: &mut T, odd: &mut Odd) -> Done {
    if let Some(backend) = tables.backend(odd.work.steered.backend)
        && backend.mode == crate::entries::Mode::Nat as u16
        && odd.work.end.mapped == 0
    {
        // Of a flow that is mapped for this reason, the mapping tells what its backend knows.
        if process::is_own(&backend, &odd.work.end, &odd.quote.dst) {
            odd.work.end.mapped = 1;
            return done();
        }
        let old = odd.work.packet.dst;
        let port = process::behind(backend.port, odd.work.end.vip_port);
        let outside = (old, backend.addr);
        let change = Change { destination: false, old, new: backend.addr, port, outside };
        rewrite(frame, &odd.quote, &odd.work.packet, &change);
    }
    done()
}

/// Makes the quote of an error for a client one of what the client sent. The error comes from the VIP if the backend itself
/// sent it; a router on the way keeps its own address, which tells the client where the trouble is.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn to_client<F: Frame>(frame: &mut View<F>, odd: &mut Odd) -> Done {
    let (vip, port) = (odd.work.end.vip, odd.work.end.vip_port);
    let from = odd.work.packet.src;
    let becomes = if from == odd.quote.dst { vip } else { from };
    let change = Change { destination: true, old: odd.quote.dst, new: vip, port, outside: (from, becomes) };
    rewrite(frame, &odd.quote, &odd.work.packet, &change);
    odd.work.end.vip = becomes;
    done()
}

/// Replaces an end of the quoted packet and corrects its checksums, then the error's.
#[inline(always)]
pub(crate) fn rewrite<F: Frame>(frame: &mut View<F>, quote: &Quote, packet: &Packet, change: &Change) {
    let v6 = packet.v6;
    frame.deeper(quote.depth);
    let delta = inside(frame, quote, v6, change);
    frame.back(quote.depth);
    let (old, new) = change.outside;
    let delta = if v6 { delta.quad(old.hi, new.hi).quad(old.lo, new.lo) } else { delta };
    let at = packet.l4 as usize + CHECKSUM;
    if let Some(checksum) = frame.read::<u16>(at) {
        frame.write(at, delta.apply(checksum));
    }
}

/// The quoted packet's part. Returns what changed of the bytes that the error's checksum covers.
#[inline(always)]
fn inside<F: Frame>(frame: &mut View<F>, quote: &Quote, v6: bool, change: &Change) -> Delta {
    let (old, new) = (change.old, change.new);
    let addresses;
    let mut all;
    if v6 {
        let at = L3 + if change.destination { ipv6::DST } else { ipv6::SRC };
        frame.write(at, new.octets());
        addresses = Delta::default().quad(old.hi, new.hi).quad(old.lo, new.lo);
        all = addresses;
    } else {
        let at = L3 + if change.destination { ipv4::DST } else { ipv4::SRC };
        frame.write(at, new.v4_octets());
        let (old, new) = (u32::from_ne_bytes(old.v4_octets()), u32::from_ne_bytes(new.v4_octets()));
        addresses = Delta::default().double(old, new);
        let was = frame.read::<u16>(L3 + ipv4::CHECKSUM).unwrap_or(0);
        let is = addresses.apply(was);
        frame.write(L3 + ipv4::CHECKSUM, is);
        all = addresses.word(was, is);
    }
    let (at, old_port) = if change.destination { (2, quote.dst_port) } else { (0, quote.src_port) };
    frame.write(quote.l4 as usize + at, change.port);
    all = all.word(old_port, change.port);
    let tcp = quote.proto == TCP;
    let at = quote.l4 as usize + if tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
    // A quote may end before it: only 8 bytes of the transport header must be there.
    if at + 2 <= quote.end as usize
        && let Some(was) = frame.read::<u16>(at)
        && (tcp || was != 0)
    {
        let is = addresses.word(old_port, change.port).apply(was);
        let is = if !tcp && is == 0 { 0xffff } else { is };
        frame.write(at, is);
        all = all.word(was, is);
    }
    all
}
