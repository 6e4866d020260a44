//! Who decides where a packet goes: ours, a hash alone, or a connection table in front of the hash.

use zdd_common::entries::BackendId;

use super::lru::Lru;
use super::node::Node;
use super::traffic::{Packet, Tuple};

/// The state of one contender on one node.
#[derive(Debug)]
pub enum Contender {
    /// Ours.
    Ours(Box<Node>),
    /// The row as it is now, for every packet.
    Hash,
    /// A connection table; who is not in it goes by the row as it is now, and is remembered.
    Table(Lru),
}

impl Contender {
    /// Where a packet goes. `picked` is what the row says now; `flow` is the tuple as a number.
    pub fn steer(&mut self, packet: &Packet, tuple: Tuple, flow: u64, picked: BackendId) -> BackendId {
        match self {
            Self::Ours(node) => node.steer(packet, tuple),
            Self::Hash => picked,
            Self::Table(lru) => lru.get(flow).unwrap_or_else(|| {
                lru.put(flow, picked);
                picked
            }),
        }
    }

    /// New flows follow `row` from now on.
    pub fn change(&mut self, row: &[BackendId], now: u64) {
        if let Self::Ours(node) = self {
            node.change(row, now);
        }
    }

    /// All that is remembered is lost.
    pub fn wipe(&mut self, now: u64) {
        match self {
            Self::Ours(node) => node.wipe(now),
            Self::Hash => {}
            Self::Table(lru) => lru.clear(),
        }
    }

    /// Housekeeping.
    pub fn tick(&mut self, now: u64) {
        if let Self::Ours(node) = self {
            node.tick(now);
        }
    }

    /// Flows that it remembers now.
    pub fn entries(&self) -> u64 {
        match self {
            Self::Ours(node) => node.entries(),
            Self::Hash => 0,
            Self::Table(lru) => lru.len() as u64,
        }
    }

    /// The most flows it ever remembered at once.
    pub fn peak(&self) -> u64 {
        match self {
            Self::Ours(node) => node.peak,
            Self::Hash => 0,
            // It never gives room back.
            Self::Table(lru) => lru.len() as u64,
        }
    }
}
