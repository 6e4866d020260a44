//! `ipip`: an IP header to the backend goes in front of the packet.

use super::{Action, Fate, Work, leave, port_of};
use crate::encap;
use crate::entries::{Backend, NextHop, Port};
use crate::forward;
use crate::frame::Frame;
use crate::reason::Reason;
use crate::steer::Steered;
use crate::tables::Tables;

/// Encapsulates a packet that was steered to a backend which takes it so, and sends it.
// A function of its own: see `steer`'s query.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn deliver<F: Frame + ?Sized, T: Tables>(frame: &mut F, tables: &mut T, work: &mut Work) {
    let Steered { backend: id, reason, new_flow } = work.steered;
    let Some(backend) = tables.backend(id) else { return };
    let bytes = frame.length() as u32;
    work.fate = send(frame, tables, work, &backend);
    if !matches!(work.fate.action, Action::Drop) {
        tables.count_flow(work.end.service, id, bytes, reason, new_flow);
    }
}

#[inline(always)]
fn send<F: Frame + ?Sized, T: Tables>(frame: &mut F, tables: &mut T, work: &Work, backend: &Backend) -> Fate {
    let packet = &work.packet;
    let hop = NextHop(backend.next_hop);
    // The stack cannot stand in: it would take the packet for the VIP's own address, or route it as it is.
    let Some(port) = port_of(tables, hop).filter(|port| port.flags & Port::STACK == 0) else {
        return Fate::drop(Reason::DropNoNextHop);
    };
    if forward::take_hop(frame, packet).is_none() {
        return Fate::drop(Reason::DropTtl);
    }
    if !encap::encapsulate(frame, packet, backend) {
        return Fate::drop(Reason::DropNoHeadroom);
    }
    if !forward::ethernet(frame, hop.mac(), port.mac) {
        return Fate::drop(Reason::DropMalformed);
    }
    leave(tables, &port, work.steered.reason)
}
