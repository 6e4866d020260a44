//! A whole packet: parse, find out whose it is, steer, forward. The XDP program does this and counts the reason.

mod express;
pub(crate) mod ipip;
pub(crate) mod size;

use crate::entries::{Backend, BackendId, EndEntry, EndKind, FlowKey, Mode, NextHop, Port};
use crate::forward::{self, Side};
use crate::frame::Frame;
use crate::mss;
use crate::net::{Addr, DirectKey, End, TCP};
use crate::odd;
use crate::packet::{self, Outside, Packet};
use crate::reason::Reason;
use crate::signals::{self, Rate};
use crate::snat::{self, Kind, Mappings};
use crate::sources::Source;
use crate::steer::{self, Query, Steered};
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
    /// Not a plain frame: [`odd::process`] decides. If it cannot be had, the frame passes.
    Odd,
    /// To or from a `snat` backend, or a `nat` one by a VIP that maps: [`snat::process`] goes on, with the order that it was handed. If it cannot be had, the frame
    /// is dropped.
    Map,
}

impl Verdict {
    /// The counter.
    #[inline(always)]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Pass(reason) | Self::Drop(reason) | Self::Transmit(reason) | Self::Redirect(_, reason) => {
                reason
            }
            Self::Odd => Reason::PassOdd,
            Self::Map => Reason::DropNoPort,
        }
    }
}

/// Decides about a frame and rewrites it.
pub fn process<F: Frame + ?Sized, T: Tables + Mappings>(frame: &mut F, tables: &mut T) -> Verdict {
    process_by(frame, tables, true)
}

/// [`process`] with or without the express way; both come to the same.
pub fn process_by<F: Frame + ?Sized, T: Tables + Mappings>(
    frame: &mut F,
    tables: &mut T,
    express: bool,
) -> Verdict {
    let mut verdict = plain(frame, tables, &mut Work::default(), express);
    if let Verdict::Odd = verdict {
        verdict = odd::process(&mut *frame, tables, &mut odd::Odd::default());
    }
    if let Verdict::Map = verdict
        && let Some(mut order) = tables.handed().map(core::mem::take)
    {
        verdict = snat::process(frame, tables, &mut order, &mut snat::Job::default());
    }
    verdict
}

/// The first part, for plain frames: untagged, one whole TCP or UDP packet without extension headers. In the kernel the second
/// part, [`odd::process`], is a program of its own with a stack and a verifier budget of its own.
///
/// `work`: room for it; what is in it does not matter. `express`: whether most packets may take the way that leaves nothing in it;
/// where they go and what they count is the same.
#[inline(always)]
pub fn plain<F: Frame + ?Sized, T: Tables>(
    frame: &mut F,
    tables: &mut T,
    work: &mut Work,
    express: bool,
) -> Verdict {
    work.next = Next::Read;
    if express {
        express::express(frame, tables, work);
    }
    if matches!(work.next, Next::Read) {
        read(frame, work);
    }
    if matches!(work.next, Next::Classify) {
        classify(tables, work);
    }
    match work.next {
        Next::Odd => return Verdict::Odd,
        Next::Read | Next::Done | Next::Classify | Next::Encapsulate | Next::MapOut => {}
        Next::MapBack => return hand(tables, work),
        Next::Reply => {
            if work.end.rate() != Rate::OFF {
                follow_reply(frame, tables, work);
            }
            find_route(tables, work);
            reply(frame, tables, work);
        }
        Next::Steer | Next::Decide | Next::Deliver => {
            match work.next {
                Next::Steer => work.steer(tables),
                Next::Decide => {
                    steer::changing(tables, &mut work.query);
                    express::finish(frame, tables, work);
                    if matches!(work.next, Next::Done) {
                        return work.fate.verdict();
                    }
                }
                _ => {}
            }
            work.next = Next::Steer;
            if work.end.rate() != Rate::OFF {
                follow(frame, tables, work);
            }
            deliver(frame, tables, work);
            match work.next {
                // Not by deliver itself: the two together need more than a BPF stack.
                Next::Encapsulate => ipip::deliver(frame, tables, work),
                Next::MapOut => return hand(tables, work),
                _ => {}
            }
        }
    }
    work.fate.verdict()
}

/// A frame on its way through the steps. In the kernel it lies in a map, and the steps are functions of their own; see `steer`'s
/// query for why.
pub struct Work {
    /// Room for whoever runs the steps: whether somebody is told of the packet.
    pub traced: bool,
    pub(crate) packet: Packet,
    outside: Outside,
    /// What the packet's end is: of a packet to be steered the VIP, of a reply the backend.
    pub(crate) end: EndEntry,
    pub(crate) next: Next,
    query: Query,
    pub(crate) steered: Steered,
    /// Of a reply, if `routed`: no `Option`, for the reason that [`Fate`] tells.
    pub(crate) route: Route,
    pub(crate) routed: bool,
    pub(crate) fate: Fate,
}

/// A [`Verdict`] whose every field is set: the compiler leaves the unused payload of a variant unset, and the verifier lets
/// nothing unset be stored.
#[derive(Clone, Copy)]
pub(crate) struct Fate {
    pub(crate) action: Action,
    reason: Reason,
    ifindex: u32,
}

#[derive(Clone, Copy)]
pub(crate) enum Action {
    Pass,
    Drop,
    Transmit,
    Redirect,
}

impl Fate {
    #[inline(always)]
    pub(crate) const fn verdict(self) -> Verdict {
        match self.action {
            Action::Pass => Verdict::Pass(self.reason),
            Action::Drop => Verdict::Drop(self.reason),
            Action::Transmit => Verdict::Transmit(self.reason),
            Action::Redirect => Verdict::Redirect(self.ifindex, self.reason),
        }
    }

    #[inline(always)]
    pub(crate) const fn goes_as(&self, reason: Reason) -> bool {
        self.reason as u8 == reason as u8 || self.reason as u8 == Reason::StackRouted as u8
    }

    #[inline(always)]
    pub(crate) const fn pass(reason: Reason) -> Self {
        Self { action: Action::Pass, reason, ifindex: 0 }
    }

    #[inline(always)]
    pub(crate) const fn drop(reason: Reason) -> Self {
        Self { action: Action::Drop, reason, ifindex: 0 }
    }

    #[inline(always)]
    pub(crate) const fn transmit(reason: Reason) -> Self {
        Self { action: Action::Transmit, reason, ifindex: 0 }
    }

    #[inline(always)]
    pub(crate) const fn redirect(ifindex: u32, reason: Reason) -> Self {
        Self { action: Action::Redirect, reason, ifindex }
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Next {
    /// Nothing is known.
    Read,
    Done,
    Odd,
    Classify,
    Steer,
    /// Steered as far as the cell, which is changing.
    Decide,
    /// Steered, not yet sent.
    Deliver,
    Encapsulate,
    Reply,
    MapOut,
    MapBack,
}

impl Default for Work {
    #[inline(always)]
    fn default() -> Self {
        Self {
            traced: false,
            packet: Packet::default(),
            outside: Outside::default(),
            end: EndEntry::default(),
            next: Next::Done,
            query: Query::default(),
            steered: Steered { backend: 0, reason: Reason::PassNotIp, new_flow: false },
            route: Route { ifindex: 0, src_mac: [0; 6], dst_mac: [0; 6], fits: 0 },
            routed: false,
            fate: Fate::pass(Reason::PassNotIp),
        }
    }
}

impl Work {
    /// Decides where the packet goes.
    #[inline(always)]
    pub(crate) fn steer<T: Tables>(&mut self, tables: &mut T) {
        let packet = &self.packet;
        let key = FlowKey::new(packet.src, packet.src_port, packet.dst_port, self.end.id);
        self.query.ask(self.end.service, &key, packet.transport);
        steer::decide(tables, &mut self.query);
        self.steered = self.query.answer;
    }
}

/// Parses the frame.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn read<F: Frame + ?Sized>(frame: &mut F, work: &mut Work) {
    work.next = Next::Done;
    match packet::parse_into(frame, &mut work.packet) {
        // Few are, and most of these are nobody's of ours.
        None if packet::to_group(frame) => work.next = Next::Odd,
        None => work.next = Next::Classify,
        Some(Reason::PassNotIp) => work.fate = Fate::pass(Reason::PassNotIp),
        Some(_) => work.next = Next::Odd,
    }
}

/// Finds out whose the packet is.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn classify<T: Tables>(tables: &mut T, work: &mut Work) {
    work.next = Next::Done;
    let packet = &work.packet;
    let to = End::new(packet.dst, packet.dst_port, packet.proto);
    if let Some(end) = known(tables, &to) {
        if end.is(EndKind::Vip) {
            work.end = end;
            work.next = Next::Steer;
            if end.sources != 0 && !admit(tables, &mut work.end, &packet.src) {
                work.next = Next::Done;
                work.fate = Fate::drop(Reason::DropDenied);
                tables.count_refused(work.end.service, Reason::DropDenied);
            }
        } else if end.is(EndKind::SnatBackend) {
            // What it answers is not for one of our ports: nothing to remember.
            work.fate = Fate::pass(Reason::PassDirect);
        } else {
            let (peer, peer_port) = (packet.src, packet.src_port);
            tables.remember_direct(&DirectKey { backend: to, peer, peer_port, zero: [0; 6] });
            work.fate = Fate::pass(Reason::PassDirect);
        }
        return;
    }
    let from = End::new(packet.src, packet.src_port, packet.proto);
    if !tables.may_reply(&from) && !tables.may_span(&from.addr) {
        work.fate = Fate::pass(Reason::PassNotVip);
        return;
    }
    work.fate = match known(tables, &from) {
        Some(end) if end.is(EndKind::NatBackend) => {
            let (peer, peer_port) = (packet.dst, packet.dst_port);
            if end.mapped != 0 && tables.maps_from(&peer, peer_port) {
                work.end = end;
                work.next = Next::MapBack;
                return;
            }
            // The agent's probes and whatever else this host asks a backend: XDP never saw the question leave.
            if tables.is_local(&peer) {
                Fate::pass(Reason::PassLocal)
            } else if peer.is_martian()
                || tables.is_direct(&DirectKey { backend: from, peer, peer_port, zero: [0; 6] })
            {
                // What goes to a group or stays on its link answers no client: none such is let in.
                Fate::pass(Reason::PassDirect)
            } else {
                work.end = end;
                work.next = Next::Reply;
                return;
            }
        }
        Some(end) if end.is(EndKind::SnatBackend) => {
            work.end = end;
            work.next = Next::MapBack;
            return;
        }
        _ => Fate::pass(Reason::PassNotVip),
    };
}

/// What an end is to us: by itself, else as one of many ports.
#[inline(always)]
pub(crate) fn known<T: Tables>(tables: &mut T, end: &End) -> Option<EndEntry> {
    let exact = tables.end(end);
    if exact.is_some() || !tables.may_span(&end.addr) {
        return exact;
    }
    tables.span(end).map(|span| span.at(end.port))
}

/// What a VIP's set of sources says of a client: false if it is denied; else the VIP's service is the one whose cells steer it.
#[inline(always)]
pub(crate) fn admit<T: Tables>(tables: &mut T, vip: &mut EndEntry, client: &Addr) -> bool {
    let Some(source) = tables.source(vip.sources, client) else { return true };
    vip.service = source.service;
    source.flags & Source::DENIED == 0
}

/// Leaves the order for the program that maps.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn order<T: Tables>(tables: &mut T, work: &Work) -> u64 {
    if let Some(order) = tables.handed() {
        let outward = matches!(work.next, Next::MapOut);
        order.about(&work.packet, if outward { Kind::Out } else { Kind::Back });
        order.service = work.end.service;
        if outward {
            order.vip_id = work.end.id;
            order.backend = work.steered.backend;
            order.reason = work.steered.reason as u8;
            order.new_flow = work.steered.new_flow as u8;
        } else {
            order.backend = work.end.id;
            order.rate = work.end.rate().0;
        }
    }
    core::hint::black_box(0)
}

#[inline(always)]
fn hand<T: Tables>(tables: &mut T, work: &Work) -> Verdict {
    core::hint::black_box(order(tables, work));
    Verdict::Map
}

/// The kernel's route for what a reply becomes.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn find_route<T: Tables>(tables: &mut T, work: &mut Work) {
    let packet = &work.packet;
    work.routed = false;
    if let Some(route) = tables.route(&work.end.vip, &packet.dst, packet.proto, packet.ip_length) {
        work.route = route;
        work.routed = true;
    }
}

/// Notes what a steered packet tells of its flow. Before it is rewritten.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn follow<F: Frame + ?Sized, T: Tables>(frame: &mut F, tables: &mut T, work: &mut Work) -> u64 {
    signals::from_client(frame, tables, &work.packet, work.steered.backend, work.end.rate())
}

/// The same of a reply.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn follow_reply<F: Frame + ?Sized, T: Tables>(
    frame: &mut F,
    tables: &mut T,
    work: &mut Work,
) -> u64 {
    let from = (work.end.id, work.end.vip_port);
    signals::from_backend(frame, tables, &work.packet, from, work.end.rate())
}

/// Rewrites a `nat` backend's reply and sends it; the stack is asked only when there is no complete route.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn reply<F: Frame + ?Sized, T: Tables>(frame: &mut F, tables: &mut T, work: &mut Work) {
    send_reply(frame, tables, work);
}

/// [`reply`], within a function of the caller's.
#[inline(always)]
pub(crate) fn send_reply<F: Frame + ?Sized, T: Tables>(frame: &mut F, tables: &mut T, work: &mut Work) {
    let packet = &work.packet;
    if work.routed && work.route.fits != 0 {
        if !size::may_be_cut(frame, packet) {
            work.fate = size::too_big(frame, tables, packet, work.route.fits);
            return;
        }
        work.routed = false;
    }
    fit_answer(frame, tables, packet, work.end.id);
    let hop = if work.routed { forward::take_hop(frame, packet) } else { Some(()) };
    if hop.is_none() {
        work.fate = Fate::drop(Reason::DropTtl);
        return;
    }
    let done = forward::translate(frame, packet, Side::Source, work.end.vip, work.end.vip_port);
    let route = &work.route;
    work.fate = match (done, work.routed) {
        (Some(()), false) => Fate::pass(Reason::ReplyStackRouted),
        (Some(()), true) if forward::ethernet(frame, route.dst_mac, route.src_mac) => {
            Fate::redirect(route.ifindex, Reason::Reply)
        }
        _ => Fate::drop(Reason::DropMalformed),
    };
}

/// Rewrites a steered packet and sends it.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn deliver<F: Frame + ?Sized, T: Tables>(frame: &mut F, tables: &mut T, work: &mut Work) {
    send(frame, tables, work);
}

/// [`deliver`], within a function of the caller's.
#[inline(always)]
pub(crate) fn send<F: Frame + ?Sized, T: Tables>(frame: &mut F, tables: &mut T, work: &mut Work) {
    let steered = work.steered;
    work.fate = Fate::drop(Reason::DropNoBackend);
    if steered.backend == 0 {
        if steered.reason as u32 == Reason::PassNoService as u32 {
            work.fate = Fate::pass(Reason::PassNoService);
            return;
        }
        if steered.reason as u32 == Reason::DropRate as u32 {
            work.fate = Fate::drop(Reason::DropRate);
        }
        tables.count_refused(work.end.service, work.fate.reason);
        return;
    }
    let Some(backend) = tables.backend(steered.backend) else {
        tables.count_refused(work.end.service, Reason::DropNoBackend);
        return;
    };
    if backend.mode == Mode::Ipip as u16 {
        work.next = Next::Encapsulate;
        return;
    }
    if maps(&backend, &work.end, &work.packet.src) {
        work.next = Next::MapOut;
        return;
    }
    work.fate = if backend.mode == Mode::Nat as u16 {
        // The same port of the backend's range as the packet's is of the VIP's.
        let backend = Backend { port: behind(backend.port, work.end.vip_port), ..backend };
        nat(frame, tables, &work.packet, &backend, steered.reason)
    } else {
        l2(frame, tables, &work.packet, &backend, steered.reason)
    };
    if work.fate.goes_as(steered.reason) {
        let bytes = frame.size() as u32;
        tables.count_flow(work.end.service, steered.backend, bytes, steered.reason, steered.new_flow);
    }
}

/// A port (network byte order) so many behind another.
#[inline(always)]
pub(crate) const fn behind(port: u16, more: u16) -> u16 {
    u16::from_be(port).wrapping_add(more).to_be()
}

#[inline(always)]
fn l2<F: Frame + ?Sized, T: Tables>(
    frame: &mut F,
    tables: &mut T,
    packet: &Packet,
    backend: &Backend,
    reason: Reason,
) -> Fate {
    let hop = NextHop(backend.next_hop);
    match port_of(tables, hop) {
        Some(port) if port.flags & Port::STACK == 0 && port.tags == frame.tags() => {
            // The kernel drops a redirected frame that is too large and tells nobody. What bounces came by that very link.
            if port.mtu != 0 && packet.ip_length as u32 > port.mtu && !bounces(tables, &port) {
                return size::too_big(frame, tables, packet, port.mtu);
            }
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
    let port = port_of(tables, hop).filter(|port| port.tags == frame.tags());
    let mut fits = true;
    if let Some(port) = &port
        && port.mtu != 0
    {
        fits = packet.ip_length as u32 <= port.mtu;
        if !fits && !size::may_be_cut(frame, packet) {
            return size::too_big(frame, tables, packet, port.mtu);
        }
        if packet.proto == TCP && !frame.headless() {
            mss::fit(frame, packet, port.mtu);
        }
    }
    if let Some(port) = port.filter(|port| fits && port.flags & Port::STACK == 0) {
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

/// Makes a backend's SYN and ACK tell the client to send only what fits the link between us and the backend.
#[inline(always)]
fn fit_answer<F: Frame + ?Sized, T: Tables>(frame: &mut F, tables: &mut T, packet: &Packet, id: BackendId) {
    if packet.proto == TCP
        && !frame.headless()
        && mss::any_syn(frame, packet)
        && let Some(backend) = tables.backend(id)
        && let Some(port) = port_of(tables, NextHop(backend.next_hop))
        && port.mtu != 0
    {
        mss::fit(frame, packet, port.mtu);
    }
}

/// Whether what comes from a client for a backend by a VIP gets a port of ours.
#[inline(always)]
pub(crate) fn maps(backend: &Backend, vip: &EndEntry, client: &Addr) -> bool {
    backend.mode == Mode::Snat as u16
        || backend.mode == Mode::Nat as u16 && (vip.mapped != 0 || is_own(backend, vip, client))
}

/// Whether a backend is its own client: under `nat` it would see a packet from itself, and answer by itself. A mapping knows one port
/// of a backend, so not by the further ports of a range.
#[inline(always)]
pub(crate) fn is_own(backend: &Backend, vip: &EndEntry, client: &Addr) -> bool {
    backend.addr == *client && vip.vip_port == 0
}

#[inline(always)]
pub(crate) fn port_of<T: Tables>(tables: &mut T, hop: NextHop) -> Option<Port> {
    if hop.0 == 0 { None } else { tables.port(hop.port()) }
}

/// Whether what leaves by a port is bounced where it came in.
#[inline(always)]
fn bounces<T: Tables>(tables: &mut T, port: &Port) -> bool {
    port.flags & Port::TX != 0 && port.ifindex == tables.ingress()
}

#[inline(always)]
pub(crate) fn leave<T: Tables>(tables: &mut T, port: &Port, reason: Reason) -> Fate {
    if bounces(tables, port) { Fate::transmit(reason) } else { Fate::redirect(port.ifindex, reason) }
}
