//! `l2`: the MAC addresses change and nothing else.

use zdd_common::entries::{Cell, Commit, NextHop};
use zdd_common::reason::Reason;

use super::Row;
use super::actions::{ABORTED, REDIRECT, TX};
use super::scene::{self, L2, L2_UDP, L2_V6, OTHER, cell, hop, mac, to_vip};
use crate::rig::{BACKENDS, CELLS, Link, MAC_A, MAC_B};

pub(super) fn rows() -> Vec<Row> {
    let mut rows = vec![];
    for (family, n) in [("IPv4", L2), ("IPv6", L2_V6), ("UDP", L2_UDP)] {
        let row = |what: &str| Row::new(format!("l2 {family}: {what}"), to_vip(n).bytes());
        let sent = |src| to_vip(n).macs(mac(n), src).bytes();
        rows.extend([
            row("redirected").out(REDIRECT, sent(MAC_B), Reason::Settled).counts(n, n, false),
            row("next hop unresolved")
                .with(move |rig| rig.plane.set_next_hop(n, NextHop(0)))
                .drop(Reason::DropNoNextHop),
            row("a port for the stack, which would answer for the VIP")
                .with(move |rig| hop(rig, n, scene::STACK))
                .drop(Reason::DropNoNextHop),
            row("a port beyond the map").with(move |rig| hop(rig, n, 60_000)).drop(Reason::DropNoNextHop),
            row("bounced where it came in")
                .with(move |rig| hop(rig, n, scene::BOUNCE))
                .out(TX, sent(MAC_A), Reason::Settled)
                .counts(n, n, false),
            row("redirected where it came in, when the device cannot bounce")
                .with(move |rig| hop(rig, n, scene::SAME))
                .out(REDIRECT, sent(MAC_A), Reason::Settled)
                .counts(n, n, false),
            row("a port that could bounce, but the frame came in elsewhere")
                .from(Link::B)
                .with(move |rig| hop(rig, n, scene::BOUNCE))
                .out(REDIRECT, sent(MAC_A), Reason::Settled)
                .counts(n, n, false),
            row("the port's interface is gone: counted, and not sent")
                .with(move |rig| hop(rig, n, scene::GONE))
                .out(ABORTED, sent(MAC_B), Reason::Settled)
                .counts(n, n, false),
            row("the port's interface takes no redirects any more")
                .with(|rig| rig.plane.set_redirect(rig.b, false).expect("known"))
                .out(ABORTED, sent(MAC_B), Reason::Settled)
                .counts(n, n, false),
            row("a hop limit of 1 reaches a neighbour").hops_one(n, MAC_B),
            row("no backend in the cell")
                .with(move |rig| cell(rig, n, Cell::settled(0)))
                .drop(Reason::DropNoBackend),
            row("a backend beyond the map")
                .with(move |rig| cell(rig, n, Cell::settled(BACKENDS as u16)))
                .drop(Reason::DropNoBackend),
            row("a row beyond the map")
                .with(move |rig| rig.plane.commit(n, Commit::new(CELLS as u32, 1)))
                .drop(Reason::DropNoBackend),
        ]);
    }
    let other = to_vip(L2).macs(mac(OTHER), MAC_B).bytes();
    rows.push(
        Row::new("a change of the cell is a change of the backend", to_vip(L2).bytes())
            .with(|rig| cell(rig, L2, Cell::settled(OTHER)))
            .out(REDIRECT, other, Reason::Settled)
            .counts(L2, OTHER, false),
    );
    rows
}

impl Row {
    /// A packet with its last hop: `l2` routes nothing, so it takes none.
    fn hops_one(self, n: u16, src: [u8; 6]) -> Self {
        let pkt = to_vip(n).hops(1);
        Self { frame: pkt.bytes(), ..self }
            .out(REDIRECT, pkt.macs(mac(n), src).bytes(), Reason::Settled)
            .counts(n, n, false)
    }
}
