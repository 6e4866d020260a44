//! What may happen, by name.

use zdd_common::entries::BackendId;

use super::packets::Outcome;
use super::state::{Packet, State};

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time passes.
    Tick,
    /// A packet arrives as it is sent.
    Send(Packet),
    /// The same, at the other node than its connection's packets before.
    Reroute(Packet),
    /// A packet is sent and stays on the wire.
    Launch(Packet),
    /// A packet arrives from the wire.
    Arrive(Packet),
    /// A copy of a packet arrives from the wire.
    Copy(Packet),
    /// An attacker's packet arrives.
    Forge(Packet),
    /// A packet inside the program reads the row that counts.
    Row(Packet),
    /// A packet inside the program looks its entry up.
    Look(Packet),
    /// A packet inside the program is finished.
    Finish(Packet),
    /// The client takes a backend's answer.
    Complete(u8, BackendId),
    /// The client has had enough; it sends nothing more.
    Leave(u8),
    /// A UDP flow that is over begins anew.
    Again(u8),
    /// The agent changes a cell's current.
    Change(usize, BackendId),
    /// The agent settles or disarms a cell.
    Settle(usize),
    /// The agent clears a cell's LOOKUP.
    Forget(usize),
    /// The agent lets both rows look up what either does, so that a client may change rows.
    Alike,
    /// The clients of a tuple are steered by the other row from now on.
    Join(u8),
    /// The sweep looks at a way and acts.
    Sweep(usize),
    /// The sweep looks at a way.
    SweepLook(usize),
    /// The sweep acts on what it saw.
    SweepAct(usize),
    /// The flow table is lost.
    Wipe,
    /// The agent dies and starts again.
    Restart,
    /// A backend is removed.
    Remove(BackendId),
}

/// How a packet is handled: whole, or only its first reads for now; and how the filter answers where it has a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct How {
    /// It stops after reading its cell.
    pub stops: bool,
    /// It stops before that: it is only remembered.
    pub early: bool,
    /// Where the filter may have forgotten: it has not.
    pub known: bool,
    /// The filter wrongly knows it.
    pub lie: bool,
    /// Its source may open no more connections.
    pub refused: bool,
}

/// A possible next state.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What happens.
    pub event: Event,
    /// How.
    pub how: How,
    /// The state after it.
    pub state: State,
    /// What became of it.
    pub outcome: Outcome,
}
