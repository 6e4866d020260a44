//! The way that most packets take: for a VIP by itself, of a settled cell, to a backend that they can be sent to as they are.
//!
//! All of it is one function of its own: what is found out about the packet stays in registers, and no helper of the kernel is
//! called but for room in front of the frame and, by a SYN, for the clock. It changes nothing, neither the frame nor a table, before it is sure to finish,
//! but for the SYN filter; then what it knows is left in [`Work`], and the other steps go on from there. It calls what they
//! call: there is one set of rules.

use super::{Fate, Next, Work, leave};
use crate::encap;
use crate::entries::{Backend, FlowKey, Mode, NextHop, Port, VipWord};
use crate::forward::{self, Side};
use crate::frame::Frame;
use crate::mss;
use crate::net::{End, TCP};
use crate::packet::{self, Packet};
use crate::reason::Reason;
use crate::signals;
use crate::steer::{self, Query, Steered, Transport};
use crate::tables::Tables;

/// Parses, and goes as far as it is simple. `work`: its `next` says what is left to do, its `fate` what became of the packet if
/// nothing is.
// Returns a number that nobody needs; see `odd::Done`.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn express<F: Frame + ?Sized, T: Tables>(frame: &mut F, tables: &mut T, work: &mut Work) -> u64 {
    let mut packet = Packet::default();
    match packet::parse_into(frame, &mut packet) {
        None => {}
        Some(Reason::PassNotIp) => return pass(work, Reason::PassNotIp),
        Some(_) => return go_on(work, Next::Odd),
    }
    let to = End::new(packet.dst, packet.dst_port, packet.proto);
    let Some(vip) = tables.vip(&to) else { return stranger(tables, work, &packet, &to) };
    let key = FlowKey::new(packet.src, packet.src_port, packet.dst_port, vip.id());
    let mut query = Query::default();
    query.ask(vip.service(), &key, packet.transport);
    let Some(service) = tables.service(vip.service()) else {
        return steered(work, &packet, vip, Next::Steer);
    };
    let syn = matches!(packet.transport, Transport::Tcp(segment) if segment.syn);
    if syn && service.pace.limits() {
        return steered(work, &packet, vip, Next::Steer);
    }
    steer::settle(tables, &mut query, &service);
    if query.open() {
        work.query = query;
        return steered(work, &packet, vip, Next::Decide);
    }
    let answer = query.answer;
    if let Some(backend) = tables.backend(answer.backend)
        && !signals::follows(tables, &packet, answer.backend, vip.rate())
        && let Some(port) = way(frame, tables, &packet, &backend, syn)
    {
        let bytes = frame.size() as u32;
        work.fate = send(frame, tables, &packet, (&backend, &port), answer);
        if work.fate.goes_as(answer.reason) {
            tables.count_flow(vip.service(), answer.backend, bytes, answer.reason, answer.new_flow);
        }
        return go_on(work, Next::Done);
    }
    work.steered = answer;
    steered(work, &packet, vip, Next::Deliver)
}

#[inline(always)]
fn go_on(work: &mut Work, next: Next) -> u64 {
    work.next = next;
    0
}

#[inline(always)]
fn pass(work: &mut Work, reason: Reason) -> u64 {
    work.fate = Fate::pass(reason);
    go_on(work, Next::Done)
}

/// Leaves what is known of a packet for a VIP to the other steps.
#[inline(always)]
fn steered(work: &mut Work, packet: &Packet, vip: VipWord, next: Next) -> u64 {
    work.packet = *packet;
    work.end = vip.entry();
    go_on(work, next)
}

/// A packet for no VIP, unless the VIP is one of those that are not looked up quickly.
#[inline(always)]
fn stranger<T: Tables>(tables: &mut T, work: &mut Work, packet: &Packet, to: &End) -> u64 {
    let from = End::new(packet.src, packet.src_port, packet.proto);
    if !tables.may_end(to)
        && !tables.may_span(&to.addr)
        && !tables.may_reply(&from)
        && !tables.may_span(&from.addr)
    {
        return pass(work, Reason::PassNotVip);
    }
    work.packet = *packet;
    go_on(work, Next::Classify)
}

/// The port by which a packet leaves, if nothing stands in its way: it is to be sent as it is, and fits.
#[inline(always)]
fn way<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    tables: &mut T,
    packet: &Packet,
    backend: &Backend,
    syn: bool,
) -> Option<Port> {
    let port = super::port_of(tables, NextHop(backend.next_hop))?;
    if port.flags & Port::STACK != 0 || port.tags != 0 {
        return None;
    }
    if backend.mode == Mode::L2 as u16 {
        return Some(port);
    }
    // What its options tell may have to be changed; see the steps that send.
    let (header, told) = match backend.mode {
        mode if mode == Mode::Ipip as u16 => (encap::overhead(&backend.addr) as u32, syn),
        mode if mode == Mode::Nat as u16 => (0, packet.proto == TCP && mss::any_syn(frame, packet)),
        _ => return None,
    };
    // A backend that is its own client gets a port of ours; see the steps that send.
    if backend.mode == Mode::Nat as u16 && backend.addr == packet.src {
        return None;
    }
    let fits = port.mtu == 0 || packet.ip_length as u32 + header <= port.mtu;
    let told = told && mss::has_options(frame, packet);
    (fits && !told && forward::has_hop(frame, packet)).then_some(port)
}

/// Sends what [`way`] let through.
#[inline(always)]
fn send<F: Frame + ?Sized, T: Tables>(
    frame: &mut F,
    tables: &mut T,
    packet: &Packet,
    (backend, port): (&Backend, &Port),
    steered: Steered,
) -> Fate {
    if backend.mode != Mode::L2 as u16 && forward::take_hop(frame, packet).is_none() {
        return Fate::drop(Reason::DropTtl);
    }
    if backend.mode == Mode::Nat as u16 {
        if forward::translate(frame, packet, Side::Destination, backend.addr, backend.port).is_none() {
            return Fate::drop(Reason::DropMalformed);
        }
    } else if backend.mode == Mode::Ipip as u16 && !encap::encapsulate(frame, packet, backend) {
        return Fate::drop(Reason::DropNoHeadroom);
    }
    if !forward::ethernet(frame, NextHop(backend.next_hop).mac(), port.mac) {
        return Fate::drop(Reason::DropMalformed);
    }
    leave(tables, port, steered.reason)
}
