//! Rewriting both ends, and sending.

use super::{Job, Order};
use crate::entries::{NextHop, Port};
use crate::forward::{self, Side};
use crate::frame::Frame;
use crate::mss;
use crate::net::TCP;
use crate::odd::{Change, Done, View, done, rewrite_quote};
use crate::process::{self, Fate, size};
use crate::reason::Reason;
use crate::tables::Tables;

/// Rewrites what an ICMP error quotes, both ends of it, and what of its own addresses its checksum covers. An error about a
/// client's packet comes from the VIP if the backend itself sent it; a router on the way keeps its address, which tells the
/// client where the trouble is. One about a backend's packet comes from our address: the backend may have no way to others.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn quote<F: Frame>(frame: &mut View<F>, order: &Order, job: &mut Job) -> Done {
    let keeps = !order.outward() && order.src != job.backend.addr;
    let (src, dst) = (job.src, job.dst);
    let outer_src = if keeps { order.src } else { src };
    // What the quoted packet's source becomes is what the error's destination becomes, and the other way round.
    let source = Change {
        destination: false,
        old: order.dst,
        new: dst,
        port: job.dst_port,
        outside: (order.dst, dst),
    };
    rewrite_quote(frame, &job.quote, &job.packet, &source);
    let destination = Change {
        destination: true,
        old: order.quote_dst,
        new: src,
        port: job.src_port,
        outside: (order.src, outer_src),
    };
    rewrite_quote(frame, &job.quote, &job.packet, &destination);
    job.src = outer_src;
    done()
}

/// Rewrites both ends. `None`: the frame is too short.
#[inline(always)]
fn translate<F: Frame>(frame: &mut View<F>, job: &Job) -> Option<()> {
    forward::translate(frame, &job.packet, Side::Source, job.src, job.src_port)?;
    forward::translate(frame, &job.packet, Side::Destination, job.dst, job.dst_port)
}

/// Sends a client's packet to its backend.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn to_backend<F: Frame, T: Tables>(
    frame: &mut View<F>,
    tables: &mut T,
    order: &Order,
    job: &mut Job,
) -> Done {
    let bytes = frame.size() as u32;
    let reason = Reason::forwarded_as(order.reason);
    job.fate = out(frame, tables, order, job, reason);
    if job.fate.goes_as(reason) {
        tables.count_flow(order.service, order.backend, bytes, reason, order.new_flow != 0);
    }
    done()
}

#[inline(always)]
fn out<F: Frame, T: Tables>(
    frame: &mut View<F>,
    tables: &mut T,
    order: &Order,
    job: &Job,
    reason: Reason,
) -> Fate {
    let hop = NextHop(job.backend.next_hop);
    let Some(port) = process::port_of(tables, hop).filter(|port| port.tags == frame.tags()) else {
        // The stack takes no packet from outside that has an address of its own as source.
        if tables.is_local(&job.src) {
            return Fate::drop(Reason::DropNoNextHop);
        }
        return match translate(frame, job) {
            Some(()) => Fate::pass(Reason::StackRouted),
            None => Fate::drop(Reason::DropMalformed),
        };
    };
    let fits = port.mtu == 0 || job.packet.ip_length as u32 <= port.mtu;
    if !fits && (!size::may_be_cut(frame, &job.packet) || tables.is_local(&job.src)) {
        return size::too_big(frame, tables, &job.packet, port.mtu);
    }
    clamp(frame, order, job, port.mtu);
    if !fits || port.flags & Port::STACK != 0 {
        return match translate(frame, job) {
            Some(()) => Fate::pass(Reason::StackRouted),
            None => Fate::drop(Reason::DropMalformed),
        };
    }
    if forward::take_hop(frame, &job.packet).is_none() {
        return Fate::drop(Reason::DropTtl);
    }
    if translate(frame, job).is_none() || !forward::ethernet(frame, hop.mac(), port.mac) {
        return Fate::drop(Reason::DropMalformed);
    }
    process::leave(tables, &port, reason)
}

/// Lowers the MSS of a SYN (or SYN and ACK) to what fits the link between us and the backend.
#[inline(always)]
fn clamp<F: Frame>(frame: &mut View<F>, order: &Order, job: &Job, mtu: u32) {
    if mtu != 0 && order.proto == TCP && !frame.headless() {
        mss::fit(frame, &job.packet, mtu);
    }
}

/// Sends a backend's packet to the client.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn to_client<F: Frame, T: Tables>(
    frame: &mut View<F>,
    tables: &mut T,
    order: &Order,
    job: &mut Job,
) -> Done {
    job.fate = home(frame, tables, order, job);
    done()
}

#[inline(always)]
fn home<F: Frame, T: Tables>(frame: &mut View<F>, tables: &mut T, order: &Order, job: &Job) -> Fate {
    // What the client sends must fit the backend's link as well.
    if let Some(port) = process::port_of(tables, NextHop(job.backend.next_hop)) {
        clamp(frame, order, job, port.mtu);
    }
    // The kernel's answer is about the untagged link: what came tagged, the stack routes.
    let route = if frame.tags() == 0 {
        tables.route(&job.src, &job.dst, job.packet.proto, job.packet.ip_length)
    } else {
        None
    };
    if let Some(route) = &route
        && route.fits != 0
        && !size::may_be_cut(frame, &job.packet)
    {
        return size::too_big(frame, tables, &job.packet, route.fits);
    }
    let Some(route) = route.filter(|route| route.fits == 0) else {
        return match translate(frame, job) {
            Some(()) => Fate::pass(Reason::ReplyStackRouted),
            None => Fate::drop(Reason::DropMalformed),
        };
    };
    if forward::take_hop(frame, &job.packet).is_none() {
        return Fate::drop(Reason::DropTtl);
    }
    if translate(frame, job).is_none() || !forward::ethernet(frame, route.dst_mac, route.src_mac) {
        return Fate::drop(Reason::DropMalformed);
    }
    Fate::redirect(route.ifindex, Reason::Reply)
}
