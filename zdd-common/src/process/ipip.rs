//! `ipip`: an IP header to the backend goes in front of the packet.

use super::{Fate, Work, leave, port_of, size};
use crate::encap;
use crate::entries::{Backend, NextHop, Port};
use crate::forward;
use crate::frame::Frame;
use crate::mss;
use crate::net::TCP;
use crate::reason::Reason;
use crate::steer::Steered;
use crate::tables::Tables;

/// Encapsulates a packet that was steered to a backend which takes it so, and sends it.
// A function of its own: see `steer`'s query.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn deliver<F: Frame + ?Sized, T: Tables>(frame: &mut F, tables: &mut T, work: &mut Work) {
    let Steered { backend: id, reason, new_flow } = work.steered;
    let Some(backend) = tables.backend(id) else { return };
    let bytes = frame.size() as u32;
    work.fate = send(frame, tables, work, &backend);
    if work.fate.reason as u32 == reason as u32 {
        tables.count_flow(work.end.service, id, bytes, reason, new_flow);
    }
}

#[inline(always)]
fn send<F: Frame + ?Sized, T: Tables>(frame: &mut F, tables: &mut T, work: &Work, backend: &Backend) -> Fate {
    let packet = &work.packet;
    let hop = NextHop(backend.next_hop);
    // The stack cannot stand in: it would take the packet for the VIP's own address, or route it as it is.
    // Tags go along to the new front of the frame, so it must leave in the VLANs that it came in.
    let fits = |port: &Port| port.flags & Port::STACK == 0 && port.tags == frame.tags();
    let Some(port) = port_of(tables, hop).filter(fits) else {
        return Fate::drop(Reason::DropNoNextHop);
    };
    let mut room = u32::MAX;
    if port.mtu != 0 {
        room = port.mtu.saturating_sub(encap::overhead(&backend.addr) as u32);
        if packet.ip_length as u32 > room {
            return size::too_big(frame, tables, packet, room);
        }
    }
    if forward::take_hop(frame, packet).is_none() {
        return Fate::drop(Reason::DropTtl);
    }
    // Asked of the frame again: what was parsed and is read here, the verifier keeps apart through all of steering.
    if packet.proto == TCP && !frame.headless() && mss::told_by(frame, packet) {
        mss::clamp(frame, packet, mss::most(packet, room));
    }
    if !encap::encapsulate(frame, packet, backend) {
        return Fate::drop(Reason::DropNoHeadroom);
    }
    if !forward::ethernet(frame, hop.mac(), port.mac) {
        return Fate::drop(Reason::DropMalformed);
    }
    leave(tables, &port, work.steered.reason)
}
