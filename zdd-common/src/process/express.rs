//! The way that most packets take: for a VIP by itself, of a settled cell, to a backend that they can be sent to as they are.
//!
//! All of it is one function of its own: what is found out about the packet stays in registers, and no helper of the kernel is
//! called but for room in front of the frame and, by a SYN, for the clock. It changes nothing, neither the frame nor a table, before it is sure to finish,
//! but for the SYN filter; then what it knows is left in [`Work`], and the other steps go on from there. It calls what they
//! call: there is one set of rules. A packet of a changing cell is decided here if its entry tells at a glance; others, once decided, come
//! back for the rest: [`finish`].

#[cfg(test)]
mod tests;

use super::{Fate, Next, Work, leave};
use crate::encap;
use crate::entries::{Backend, FlowKey, Mode, NextHop, Port, VipWord};
use crate::forward::{self, Side};
use crate::frame::Frame;
use crate::mss::{self, Start};
use crate::net::{End, TCP};
use crate::packet::{self, ETHERTYPE, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Outside, Packet};
use crate::reason::Reason;
use crate::signals::{self, Rate};
use crate::steer::{self, Query, Segment, Steered, Transport};
use crate::tables::Tables;

/// Goes as far as it is simple. `work`: its `next` says what is left to do, its `fate` what became of the packet if
/// nothing is.
#[inline(always)]
pub(super) fn express<F: Frame + ?Sized, T: Tables>(frame: &mut F, tables: &mut T, work: &mut Work) {
    match frame.read::<u16>(ETHERTYPE) {
        Some(ETHERTYPE_IPV4) => of_family::<F, T, false>(frame, tables, work),
        Some(ETHERTYPE_IPV6) => of_family::<F, T, true>(frame, tables, work),
        _ => 0,
    };
}

/// One source for both families, and code for each: the compiler leaves out what the other one needs.
// Returns a number that nobody needs; see `odd::Done`.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn of_family<F: Frame + ?Sized, T: Tables, const V6: bool>(
    frame: &mut F,
    tables: &mut T,
    work: &mut Work,
) -> u64 {
    let (mut packet, mut outside) = (Packet::default(), Outside::default());
    // What lies in several buffers takes the other steps: only those ask the kernel how long it is.
    let bytes = frame.linear();
    if packet::parse_most::<F, V6>(frame, bytes, &mut packet, &mut outside).is_some() {
        return go_on(work, Next::Read);
    }
    let seen = Seen { packet: &packet, outside: &outside, bytes: bytes as u32 };
    // Code of its own for a SYN too: all else has nothing of what only a SYN does.
    if packet.proto == TCP && outside.segment().syn {
        go::<F, T, true>(frame, tables, work, &seen)
    } else {
        go::<F, T, false>(frame, tables, work, &seen)
    }
}

/// What a look at the frame told.
struct Seen<'a> {
    packet: &'a Packet,
    outside: &'a Outside,
    bytes: u32,
}

#[inline(always)]
fn go<F: Frame + ?Sized, T: Tables, const SYN: bool>(
    frame: &mut F,
    tables: &mut T,
    work: &mut Work,
    seen: &Seen<'_>,
) -> u64 {
    let mut vip = VipWord::default();
    let next = find_way::<F, T, SYN>(frame, tables, work, seen, &mut vip);
    // In one place: what nobody needs to know of most packets is then not computed for them.
    if !matches!(next, Next::Done) {
        work.packet = *seen.packet;
        work.outside = *seen.outside;
        tell(&mut work.packet.transport, seen);
        work.end = vip.entry();
    }
    go_on(work, next)
}

/// What is left to do.
#[inline(always)]
fn find_way<F: Frame + ?Sized, T: Tables, const SYN: bool>(
    frame: &mut F,
    tables: &mut T,
    work: &mut Work,
    seen: &Seen<'_>,
    end: &mut VipWord,
) -> Next {
    let Seen { packet, outside, .. } = seen;
    let to = End::new(packet.dst, packet.dst_port, packet.proto);
    let Some(vip) = tables.vip(&to) else { return stranger(frame, tables, work, packet, &to) };
    if packet::to_group(frame) {
        return Next::Odd;
    }
    *end = vip;
    let Some((service, commit)) = tables.service_now(vip.service()) else { return Next::Steer };
    if SYN && service.pace.limits() {
        return Next::Steer;
    }
    let key = FlowKey::new(packet.src, packet.src_port, packet.dst_port, vip.id());
    let mut query = Query::default();
    // Only of a SYN it is asked so early.
    let transport = if SYN { Transport::Tcp(outside.segment()) } else { Transport::Udp };
    query.ask(vip.service(), &key, transport);
    steer::settle(tables, &mut query, &service, commit);
    let told = if packet.proto == TCP { outside.segment() } else { Segment::default() };
    if query.open() && (SYN || !steer::glance(tables, &mut query, told)) {
        work.query = query;
        tell(work.query.transport(), seen);
        return Next::Decide;
    }
    if let Some(fate) = carry(frame, tables, seen, (vip.service(), vip.rate()), query.answer, SYN) {
        work.fate = fate;
        return Next::Done;
    }
    work.steered = query.answer;
    Next::Deliver
}

/// The rest of it, for a packet of a changing cell that has been decided: sends it, unless that is for the other steps.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn finish<F: Frame + ?Sized, T: Tables>(frame: &mut F, tables: &mut T, work: &mut Work) -> u64 {
    let seen = Seen { packet: &work.packet, outside: &work.outside, bytes: frame.linear() as u32 };
    let syn = matches!(seen.packet.transport, Transport::Tcp(segment) if segment.syn);
    let answer = work.query.answer;
    match carry(frame, tables, &seen, (work.end.service, work.end.rate()), answer, syn) {
        Some(fate) => {
            work.fate = fate;
            go_on(work, Next::Done)
        }
        None => {
            work.steered = answer;
            go_on(work, Next::Deliver)
        }
    }
}

/// Sends a packet where it was steered and counts it. `None`: it is for the steps that send, and nothing was changed. `rate`: of the service's
/// flows, how many are followed.
#[inline(always)]
fn carry<F: Frame + ?Sized, T: Tables>(
    frame: &mut F,
    tables: &mut T,
    seen: &Seen<'_>,
    (service, rate): (u16, Rate),
    answer: Steered,
    syn: bool,
) -> Option<Fate> {
    let backend = tables.backend(answer.backend)?;
    if signals::follows(tables, seen.packet, answer.backend, rate) {
        return None;
    }
    // What its options tell may have to be changed.
    let start =
        if syn && backend.mode != Mode::L2 as u16 { Start::of(frame, seen.packet) } else { Start::default() };
    let port = way(frame, tables, seen, &backend, (syn, start))?;
    let fate = send(frame, tables, seen, (&backend, &port), answer, start);
    if fate.goes_as(answer.reason) {
        tables.count_flow(service, answer.backend, seen.bytes, answer.reason, answer.new_flow);
    }
    Some(fate)
}

/// Writes down a packet's transport header.
#[inline(always)]
fn tell(transport: &mut Transport, seen: &Seen<'_>) {
    // Not a choice between the two: the compiler leaves the unused payload of a variant unset, and the verifier lets nothing
    // unset be stored.
    *transport = Transport::Tcp(seen.outside.segment());
    if seen.packet.proto != TCP {
        *transport = Transport::Udp;
    }
}

#[inline(always)]
fn go_on(work: &mut Work, next: Next) -> u64 {
    work.next = next;
    0
}

/// A packet for no VIP, unless the VIP is one of those that are not looked up quickly.
#[inline(always)]
fn stranger<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    tables: &mut T,
    work: &mut Work,
    packet: &Packet,
    to: &End,
) -> Next {
    let from = End::new(packet.src, packet.src_port, packet.proto);
    if tables.may_end(to)
        || tables.may_span(&to.addr)
        || tables.may_reply(&from)
        || tables.may_span(&from.addr)
    {
        return if packet::to_group(frame) { Next::Odd } else { Next::Classify };
    }
    work.fate = Fate::pass(Reason::PassNotVip);
    Next::Done
}

/// The port by which a packet leaves, if nothing stands in its way: it is to be sent as it is, and fits.
#[inline(always)]
fn way<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    tables: &mut T,
    Seen { packet, outside, .. }: &Seen<'_>,
    backend: &Backend,
    (syn, start): (bool, Start),
) -> Option<Port> {
    let port = super::port_of(tables, NextHop(backend.next_hop))?;
    if port.flags & Port::STACK != 0 || port.tags != 0 {
        return None;
    }
    if backend.mode == Mode::L2 as u16 {
        return (port.mtu == 0 || packet.ip_length as u32 <= port.mtu).then_some(port);
    }
    // Unless what may have to be changed stands first, as most systems send it, see the steps that send.
    let (header, simple) = match backend.mode {
        mode if mode == Mode::Ipip as u16 => (encap::overhead(&backend.addr) as u32, true),
        mode if mode == Mode::Nat as u16 => {
            let answers = !syn && packet.proto == TCP && mss::any_syn(frame, packet);
            (0, !(answers && mss::has_options(frame, packet)))
        }
        _ => return None,
    };
    let simple = simple && (!start.has_options() || start.leads(packet));
    // A backend that is its own client gets a port of ours; see the steps that send.
    if backend.mode == Mode::Nat as u16 && backend.addr == packet.src {
        return None;
    }
    let fits = port.mtu == 0 || packet.ip_length as u32 + header <= port.mtu;
    (fits && simple && outside.hops > 1).then_some(port)
}

/// Sends what [`way`] let through.
#[inline(always)]
fn send<F: Frame + ?Sized, T: Tables>(
    frame: &mut F,
    tables: &mut T,
    Seen { packet, outside, .. }: &Seen<'_>,
    (backend, port): (&Backend, &Port),
    steered: Steered,
    start: Start,
) -> Fate {
    let (dst, src) = (NextHop(backend.next_hop).mac(), port.mac);
    if start.has_options() && port.mtu != 0 {
        let header =
            if backend.mode == Mode::Ipip as u16 { encap::overhead(&backend.addr) as u32 } else { 0 };
        start.clamp(frame, packet, mss::most(packet, port.mtu.saturating_sub(header)));
    }
    if backend.mode != Mode::L2 as u16 && forward::lower_hops(frame, packet, **outside).is_none() {
        return Fate::drop(Reason::DropMalformed);
    }
    if backend.mode == Mode::Ipip as u16 {
        let front = |frame: &mut F, ethertype| forward::front(frame, dst, src, ethertype);
        if !encap::outer(frame, packet, outside.class, backend, front) {
            return Fate::drop(Reason::DropNoHeadroom);
        }
        return leave(tables, port, steered.reason);
    }
    if backend.mode == Mode::Nat as u16
        && forward::translate(frame, packet, Side::Destination, backend.addr, backend.port).is_none()
        || !forward::ethernet(frame, dst, src)
    {
        return Fate::drop(Reason::DropMalformed);
    }
    leave(tables, port, steered.reason)
}
