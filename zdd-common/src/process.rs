//! A whole packet: parse, find out whose it is, steer, forward. The XDP program does this and counts the reason.

mod ipip;

use crate::entries::{Backend, EndEntry, EndKind, FlowKey, Mode, NextHop, Port};
use crate::forward::{self, Side};
use crate::frame::Frame;
use crate::net::{DirectKey, End};
use crate::packet::{self, Packet};
use crate::reason::Reason;
use crate::steer::{self, Steered};
use crate::tables::{Route, Tables};

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Goes up the stack, rewritten or not.
    Pass(Reason),
    /// Dropped.
    Drop(Reason),
    /// Bounced out of the interface on which it came in.
    Transmit(Reason),
    /// Sent out of another interface (its index).
    Redirect(u32, Reason),
}

impl Verdict {
    /// The counter.
    #[inline(always)]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Pass(reason) | Self::Drop(reason) | Self::Transmit(reason) | Self::Redirect(_, reason) => {
                reason
            }
        }
    }
}

/// Decides about a frame and rewrites it.
#[inline(always)]
pub fn process<F: Frame + ?Sized, T: Tables>(frame: &mut F, tables: &mut T) -> Verdict {
    let mut work = Work::default();
    read(frame, &mut work);
    if matches!(work.next, Next::Classify) {
        classify(tables, &mut work);
    }
    match work.next {
        Next::Done | Next::Classify | Next::Encapsulate => {}
        Next::Reply => {
            find_route(tables, &mut work);
            reply(frame, &mut work);
        }
        Next::Steer => {
            let packet = &work.packet;
            let key = FlowKey::new(packet.src, packet.src_port, packet.dst_port, work.end.id);
            work.steered = steer::steer(tables, work.end.service, &key, packet.transport);
            deliver(frame, tables, &mut work);
            // Not by deliver itself: the two together need more than a BPF stack.
            if matches!(work.next, Next::Encapsulate) {
                ipip::deliver(frame, tables, &mut work);
            }
        }
    }
    match work.fate.action {
        Action::Pass => Verdict::Pass(work.fate.reason),
        Action::Drop => Verdict::Drop(work.fate.reason),
        Action::Transmit => Verdict::Transmit(work.fate.reason),
        Action::Redirect => Verdict::Redirect(work.fate.ifindex, work.fate.reason),
    }
}

/// A frame on its way through the steps. For why they are functions of their own in the kernel, see `steer`'s query.
struct Work {
    packet: Packet,
    /// What the packet's end is: of a packet to be steered the VIP, of a reply the backend.
    end: EndEntry,
    next: Next,
    steered: Steered,
    route: Option<Route>,
    fate: Fate,
}

/// A [`Verdict`] whose every field is set: the compiler leaves the unused payload of a variant unset, and the verifier lets
/// nothing unset be stored.
#[derive(Clone, Copy)]
struct Fate {
    action: Action,
    reason: Reason,
    ifindex: u32,
}

#[derive(Clone, Copy)]
enum Action {
    Pass,
    Drop,
    Transmit,
    Redirect,
}

impl Fate {
    #[inline(always)]
    const fn pass(reason: Reason) -> Self {
        Self { action: Action::Pass, reason, ifindex: 0 }
    }

    #[inline(always)]
    const fn drop(reason: Reason) -> Self {
        Self { action: Action::Drop, reason, ifindex: 0 }
    }

    #[inline(always)]
    const fn transmit(reason: Reason) -> Self {
        Self { action: Action::Transmit, reason, ifindex: 0 }
    }

    #[inline(always)]
    const fn redirect(ifindex: u32, reason: Reason) -> Self {
        Self { action: Action::Redirect, reason, ifindex }
    }
}

#[derive(Clone, Copy)]
enum Next {
    Done,
    Classify,
    Steer,
    Encapsulate,
    Reply,
}

impl Default for Work {
    #[inline(always)]
    fn default() -> Self {
        Self {
            packet: Packet::default(),
            end: EndEntry::default(),
            next: Next::Done,
            steered: Steered { backend: 0, reason: Reason::PassNotIp, new_flow: false },
            route: None,
            fate: Fate::pass(Reason::PassNotIp),
        }
    }
}

/// Parses the frame.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn read<F: Frame + ?Sized>(frame: &mut F, work: &mut Work) {
    work.next = Next::Done;
    match packet::parse_into(frame, &mut work.packet) {
        None => work.next = Next::Classify,
        Some(reason @ (Reason::DropMalformed | Reason::DropSynFin)) => work.fate = Fate::drop(reason),
        Some(reason) => work.fate = Fate::pass(reason),
    }
}

/// Finds out whose the packet is.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn classify<T: Tables>(tables: &mut T, work: &mut Work) {
    work.next = Next::Done;
    let packet = &work.packet;
    let to = End::new(packet.dst, packet.dst_port, packet.proto);
    if let Some(end) = tables.end(&to) {
        if end.kind == EndKind::Vip as u16 {
            work.end = end;
            work.next = Next::Steer;
        } else {
            let (peer, peer_port) = (packet.src, packet.src_port);
            tables.remember_direct(&DirectKey { backend: to, peer, peer_port, zero: [0; 6] });
            work.fate = Fate::pass(Reason::PassDirect);
        }
        return;
    }
    let from = End::new(packet.src, packet.src_port, packet.proto);
    work.fate = match tables.end(&from) {
        Some(end) if end.kind == EndKind::NatBackend as u16 => {
            let (peer, peer_port) = (packet.dst, packet.dst_port);
            // The agent's probes and whatever else this host asks a backend: XDP never saw the question leave.
            if tables.is_local(&peer) {
                Fate::pass(Reason::PassLocal)
            } else if tables.is_direct(&DirectKey { backend: from, peer, peer_port, zero: [0; 6] }) {
                Fate::pass(Reason::PassDirect)
            } else {
                work.end = end;
                work.next = Next::Reply;
                return;
            }
        }
        _ => Fate::pass(Reason::PassNotVip),
    };
}

/// The kernel's route for what a reply becomes.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn find_route<T: Tables>(tables: &mut T, work: &mut Work) {
    let packet = &work.packet;
    work.route = tables.route(&work.end.vip, &packet.dst, packet.proto, packet.ip_length);
}

/// Rewrites a `nat` backend's reply and sends it; the stack is asked only when there is no complete route.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn reply<F: Frame + ?Sized>(frame: &mut F, work: &mut Work) {
    let packet = &work.packet;
    let hop = if work.route.is_some() { forward::take_hop(frame, packet) } else { Some(()) };
    if hop.is_none() {
        work.fate = Fate::drop(Reason::DropTtl);
        return;
    }
    let done = forward::translate(frame, packet, Side::Source, work.end.vip, work.end.vip_port);
    work.fate = match (done, &work.route) {
        (Some(()), None) => Fate::pass(Reason::ReplyStackRouted),
        (Some(()), Some(route)) if forward::ethernet(frame, route.dst_mac, route.src_mac) => {
            Fate::redirect(route.ifindex, Reason::Reply)
        }
        _ => Fate::drop(Reason::DropMalformed),
    };
}

/// Rewrites a steered packet and sends it.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn deliver<F: Frame + ?Sized, T: Tables>(frame: &mut F, tables: &mut T, work: &mut Work) {
    let steered = work.steered;
    if steered.reason as u32 == Reason::PassNoService as u32 {
        work.fate = Fate::pass(Reason::PassNoService);
        return;
    }
    work.fate = Fate::drop(Reason::DropNoBackend);
    if steered.backend == 0 {
        return;
    }
    let Some(backend) = tables.backend(steered.backend) else { return };
    let bytes = frame.length() as u32;
    if backend.mode == Mode::Ipip as u16 {
        work.next = Next::Encapsulate;
        return;
    }
    work.fate = if backend.mode == Mode::Nat as u16 {
        nat(frame, tables, &work.packet, &backend, steered.reason)
    } else {
        l2(frame, tables, &backend, steered.reason)
    };
    if !matches!(work.fate.action, Action::Drop) {
        tables.count_flow(work.end.service, steered.backend, bytes, steered.reason, steered.new_flow);
    }
}

#[inline(always)]
fn l2<F: Frame + ?Sized, T: Tables>(
    frame: &mut F,
    tables: &mut T,
    backend: &Backend,
    reason: Reason,
) -> Fate {
    let hop = NextHop(backend.next_hop);
    match port_of(tables, hop) {
        Some(port) if port.flags & Port::STACK == 0 => {
            if forward::ethernet(frame, hop.mac(), port.mac) {
                leave(tables, &port, reason)
            } else {
                Fate::drop(Reason::DropMalformed)
            }
        }
        _ => Fate::drop(Reason::DropNoNextHop),
    }
}

#[inline(always)]
fn nat<F: Frame + ?Sized, T: Tables>(
    frame: &mut F,
    tables: &mut T,
    packet: &Packet,
    backend: &Backend,
    reason: Reason,
) -> Fate {
    let hop = NextHop(backend.next_hop);
    let port = port_of(tables, hop).filter(|port| port.flags & Port::STACK == 0);
    if let Some(port) = port {
        if forward::take_hop(frame, packet).is_none() {
            return Fate::drop(Reason::DropTtl);
        }
        if forward::translate(frame, packet, Side::Destination, backend.addr, backend.port).is_none()
            || !forward::ethernet(frame, hop.mac(), port.mac)
        {
            return Fate::drop(Reason::DropMalformed);
        }
        return leave(tables, &port, reason);
    }
    // The stack takes the hop off itself, resolves the neighbour and sends.
    if forward::translate(frame, packet, Side::Destination, backend.addr, backend.port).is_none() {
        return Fate::drop(Reason::DropMalformed);
    }
    Fate::pass(Reason::StackRouted)
}

#[inline(always)]
fn port_of<T: Tables>(tables: &mut T, hop: NextHop) -> Option<Port> {
    if hop.0 == 0 { None } else { tables.port(hop.port()) }
}

#[inline(always)]
fn leave<T: Tables>(tables: &mut T, port: &Port, reason: Reason) -> Fate {
    if port.flags & Port::TX != 0 && port.ifindex == tables.ingress() {
        Fate::transmit(reason)
    } else {
        Fate::redirect(port.ifindex, reason)
    }
}
