//! Fragments: where the first one of a datagram went, the others follow.
//!
//! Only the first fragment has ports. It is steered as the packet that it begins, and leaves a trail in a small LRU map; a later
//! one is sent after it, with its address rewritten and nothing else (the checksum of the transport header, which is in the
//! first, covers all of them). A later fragment that comes first finds no trail. For a VIP it is dropped then: what it belongs
//! to can no longer be put together, since its first fragment goes to a backend, and the stack would hold it in memory until
//! its timer runs out.

use super::{Odd, is_vip_address};
use crate::entries::{BackendId, EndKind};
use crate::limits::FRAGMENT_LIFE_NS;
use crate::net::{Addr, End, TCP, UDP};
use crate::packet::L3;
use crate::process::{self, Action, Fate, Next};
use crate::reason::Reason;
use crate::steer::Steered;
use crate::tables::Tables;
use crate::time::{Tick, ticks};

/// What numbers a datagram: RFC 791 (with the protocol), RFC 8200 4.5 (without).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct DatagramKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Identification, as it stands in the frame.
    pub id: u32,
    /// IPv4: protocol. IPv6: 0.
    pub proto: u8,
    /// Always 0: keys are compared as bytes.
    pub zero: [u8; 3],
}
wire!(DatagramKey, 40, { src: Addr, dst: Addr, id: u32, proto: u8, zero: [u8; 3] });

/// Where a datagram's first fragment went.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Trail {
    /// [`Trail::BACKEND`] and so on.
    pub to: u16,
    /// The service.
    pub service: u16,
    /// The backend that it was sent to.
    pub backend: BackendId,
    /// Of a reply: the backend's port, of one to a port of ours: that; network byte order.
    pub port: u16,
    /// When, as a [`Tick`].
    pub made: u32,
    /// Bytes of the datagram that the first fragment held.
    pub covered: u16,
    /// IP protocol number.
    pub proto: u8,
    /// `snat`: 1 + the number of our address.
    pub source: u8,
}
wire!(Trail, 16, {
    to: u16, service: u16, backend: u16, port: u16, made: u32, covered: u16, proto: u8, source: u8,
});

impl Trail {
    /// To a backend.
    pub const BACKEND: u16 = 1;
    /// From a `nat` backend to a client.
    pub const REPLY: u16 = 2;
    /// Up the stack, though the address is a VIP's: another port of the host.
    pub const PASSED: u16 = 3;
    /// From a `snat` backend to a port of ours.
    pub const MAPPED: u16 = 4;
    /// To a backend that needs a port of ours, and got none: as good as no trail. The program that maps writes another over it.
    pub const UNMAPPED: u16 = 5;
}

/// No trail.
const NOWHERE: u16 = 0;

#[inline(always)]
fn key(odd: &Odd) -> DatagramKey {
    let packet = &odd.work.packet;
    let proto = if packet.v6 { 0 } else { packet.proto };
    DatagramKey { src: packet.src, dst: packet.dst, id: odd.id, proto, zero: [0; 3] }
}

/// Bytes of the datagram that the fragment holds.
#[inline(always)]
pub(super) fn covered(odd: &Odd) -> u16 {
    let packet = &odd.work.packet;
    (L3 as u16).wrapping_add(packet.ip_length).wrapping_sub(packet.l4 as u16)
}

/// Leaves the trail of a first fragment. Of one that leads nowhere, an older datagram's of the same number must not stay.
// A function of its own: see `steer`'s query.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn lead<T: Tables>(tables: &mut T, odd: &mut Odd) -> super::Done {
    // A service that was never committed has no backend to follow to: the first fragment passes.
    let passes = odd.work.steered.reason as u32 == Reason::PassNoService as u32;
    let (to, port) = match odd.work.next {
        _ if matches!(odd.work.fate.action, Action::Drop) => (NOWHERE, 0),
        Next::Steer if !passes => (to_backend(tables, odd), 0),
        Next::Reply => (Trail::REPLY, odd.work.packet.src_port),
        _ if is_vip_address(tables, odd.work.packet.dst) => (Trail::PASSED, 0),
        _ => (NOWHERE, 0),
    };
    if to == NOWHERE {
        tables.forget_trail(&key(odd));
        return super::done();
    }
    let trail = Trail {
        to,
        service: odd.work.end.service,
        backend: if to == Trail::BACKEND { odd.work.steered.backend } else { 0 },
        port,
        made: Tick::from_ns(tables.now_ns()).0,
        covered: covered(odd),
        proto: odd.work.packet.proto,
        source: 0,
    };
    leave(tables, &key(odd), &trail);
    super::done()
}

/// Leaves a trail. Without room for it an older datagram's of the same number must not stay: it would lead the later fragments astray.
#[inline(always)]
pub(crate) fn leave<T: Tables>(tables: &mut T, key: &DatagramKey, trail: &Trail) {
    if !tables.leave_trail(key, trail) {
        tables.forget_trail(key);
    }
}

/// What a first fragment for a VIP leaves for now.
#[inline(always)]
fn to_backend<T: Tables>(tables: &mut T, odd: &Odd) -> u16 {
    match tables.backend(odd.work.steered.backend) {
        Some(backend) if process::maps(&backend, &odd.work.end, &odd.work.packet.src) => Trail::UNMAPPED,
        _ => Trail::BACKEND,
    }
}

/// Finds out where a later fragment goes.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn follow<T: Tables>(tables: &mut T, odd: &mut Odd) -> super::Done {
    let now = Tick::from_ns(tables.now_ns());
    let mut trail = tables.trail(&key(odd)).unwrap_or_default();
    if now.since(Tick(trail.made)) > ticks(FRAGMENT_LIFE_NS) {
        trail.to = 0;
    }
    let packet = &odd.work.packet;
    let mut next = Next::Done;
    if trail.to == Trail::BACKEND {
        odd.work.end.service = trail.service;
        odd.work.steered = Steered { backend: trail.backend, reason: Reason::Fragment, new_flow: false };
        odd.source = (trail.source, 0);
        // Only what was mapped left an address of ours.
        odd.work.end.mapped = (trail.source != 0) as u32;
        next = Next::Steer;
    } else if trail.to == Trail::MAPPED {
        odd.work.end.service = trail.service;
        odd.work.end.id = trail.backend;
        odd.source = (trail.source, trail.port);
        next = Next::MapBack;
    } else if trail.to == Trail::REPLY {
        if let Some(end) = process::known(tables, &End::new(packet.src, trail.port, trail.proto))
            && end.is(EndKind::NatBackend)
        {
            odd.work.end = end;
            next = Next::Reply;
        }
    } else if trail.to != Trail::PASSED
        && (packet.proto == TCP || packet.proto == UDP)
        && is_vip_address(tables, packet.dst)
    {
        odd.work.fate = Fate::drop(if odd.sound() { Reason::DropFragmentEarly } else { odd.flaw });
    }
    if matches!(next, Next::Steer | Next::Reply | Next::MapBack) {
        if !odd.sound() {
            odd.work.fate = Fate::drop(odd.flaw);
            next = Next::Done;
        } else if odd.offset() < trail.covered {
            odd.work.fate = Fate::drop(Reason::DropFragment);
            next = Next::Done;
        }
    }
    odd.work.next = next;
    super::done()
}

#[cfg(test)]
mod tests;
