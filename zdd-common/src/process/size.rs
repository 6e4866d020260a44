//! Packets that do not fit their way.

use super::Fate;
use crate::frame::Frame;
use crate::packet::{L3, Packet};
use crate::reason::Reason;
use crate::tables::Tables;
use crate::toobig::{self, DF};

/// Whether a router on the way may cut the packet into fragments: IPv4 without don't-fragment. The stack does it.
#[inline(always)]
pub(crate) fn may_be_cut<F: Frame + ?Sized>(frame: &F, packet: &Packet) -> bool {
    !packet.v6 && frame.read::<u8>(L3 + 6).unwrap_or_default() & DF == 0
}

/// Tells the sender how large its packets may be. The stack could not: it would take the packet for its own, or forward it
/// without an outer header, and an XDP program makes no fragments.
#[inline(always)]
pub(crate) fn too_big<F: Frame + ?Sized, T: Tables>(
    frame: &mut F,
    tables: &mut T,
    packet: &Packet,
    room: u32,
) -> Fate {
    // Nor is anybody told about a later fragment or an ICMP error (RFC 1122, 3.2.2).
    if frame.headless() || !toobig::answer(frame, packet, room) {
        return Fate::drop(Reason::DropTooBig);
    }
    let ingress = tables.ingress();
    // A bounced frame vanishes where a veth's other end has no XDP program; a redirected one arrives wherever we send to.
    if tables.takes_redirects(ingress) {
        Fate::redirect(ingress, Reason::TooBig)
    } else {
        Fate::transmit(Reason::TooBig)
    }
}
