//! A packet's way through the program, and what it must not do there.

use zdd_common::entries::{BackendId, Cell, FlowKey, State as EntryState};
use zdd_common::net::Addr;
use zdd_common::reason::Reason;
use zdd_common::steer::{Segment, Steered, Transport, steer};
use zdd_common::tables::Found;

use super::config::Config;
use super::state::{Kind, NEVER, Packet, Phase, State, Way};
use super::tables::{self, Read};

/// What must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A live connection's packet went elsewhere.
    Moved {
        /// Its connection.
        flow: u8,
        /// Where it belongs.
        from: BackendId,
        /// Where it went.
        to: BackendId,
    },
    /// A live connection without an entry is not at base, or its entry names its backend nowhere.
    Lost {
        /// The connection.
        flow: u8,
    },
    /// An entry's backends changed.
    EntryMoved,
    /// A new connection with room for an entry did not go to current.
    NotCurrent {
        /// Where it went.
        to: BackendId,
    },
    /// A packet went to a removed backend.
    Removed {
        /// The backend.
        to: BackendId,
    },
    /// The counts of entries per class do not agree with the entries.
    Quota,
    /// A SYN that was refused left a trace, or another packet was refused, or one that had passed before was asked again.
    Refused,
    /// Left alone for long, the world does not become clean.
    NeverClean,
}

/// What is worth counting though it breaks nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// A connection was silent for too long (exception e).
    Silent,
    /// A connection's backend was removed at its deadline.
    Removed,
    /// A wipe took the entry of a connection that is not at base.
    Wiped,
    /// A half-closed connection was reclaimed under pressure.
    Reclaimed,
    /// A new connection went to base for want of room (exception b, if base drains).
    NoRoom,
    /// A new connection on an entry with a second identity went there (port reuse within idle).
    ReusedAtAlt,
    /// A new UDP flow went to base because the cell is armed (exception c).
    Armed,
    /// The filter took a new connection's SYN for an old one.
    Lied,
}

/// Names of [`Note`]s, by number.
pub const NOTES: [&str; 8] = [
    "silent too long",
    "backend removed",
    "wiped",
    "half-closed, reclaimed",
    "no room: to base",
    "port reuse: to alt",
    "UDP armed: to base",
    "filter false alarm: to base",
];

/// The outcome of one step.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Where a packet went and why.
    pub steered: Option<(BackendId, Reason)>,
    /// What it broke.
    pub violation: Option<Violation>,
    /// What is counted: one bit per [`Note`].
    pub notes: u8,
}

impl Outcome {
    /// Counts something.
    pub fn note(&mut self, note: Note) {
        self.notes |= 1 << note as u8;
    }

    /// Keeps the first violation.
    pub fn broke(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }
}

/// The cell of a tuple.
pub fn cell_of(config: &Config, state: &State, tuple: u8) -> usize {
    match config.budget.joins {
        0 => usize::from(tuple % config.cells),
        _ => usize::from(state.rows >> tuple & 1),
    }
}

/// The service of a cell.
pub fn service_of(config: &Config, cell: usize) -> usize {
    if config.services { cell } else { 0 }
}

/// Reads what a packet reads first: filter, then cell. `known` decides where the filter may answer either way.
pub fn read(config: &Config, state: &mut State, packet: &Packet, known: bool, lie: bool) -> Read {
    let (mut replay, mut mark) = (false, None);
    if packet.kind == Kind::Syn {
        mark = config.mark(packet.tuple, packet.seq);
        replay = tables::filter(config, state, packet.tuple, packet.seq).unwrap_or(known);
        if lie && !replay {
            replay = true;
        }
    }
    Read {
        cell: state.cells[cell_of(config, state, packet.tuple)].cell,
        replay,
        found: None,
        inside: 0,
        refused: false,
        stale: false,
        mark,
    }
}

/// Steers a packet by the real `steer` and checks where it goes.
pub fn process(config: &Config, state: &mut State, packet: &Packet, read: Read, lied: bool) -> Outcome {
    let key = FlowKey::new(Addr::default(), u16::from(packet.tuple), 0, 0);
    let transport = match packet.kind {
        Kind::Udp => Transport::Udp,
        kind => Transport::Tcp(Segment {
            syn: kind == Kind::Syn,
            fin: kind == Kind::Fin,
            rst: kind == Kind::Rst,
            seq: packet.seq,
        }),
    };
    let before = state.entry(packet.tuple).copied();
    let untouched = *state;
    let straight = read.found.is_none() && config.mids == 0;
    let mut seen = tables::Packet::new(config, state, packet.tuple, read);
    let room = has_room(&seen);
    let half_room = seen.used[0] < config.quota[0];
    let steered = steer(&mut seen, 0, &key, transport);
    let (used, failed, asked) = (seen.used, seen.failed, seen.asked);
    let mut outcome = Outcome { steered: Some((steered.backend, steered.reason)), ..Outcome::default() };
    if seen.moved.is_some() {
        outcome.broke(Violation::EntryMoved);
    }
    if seen.overdrawn || used != state.used() {
        outcome.broke(Violation::Quota);
    }
    let refused = steered.reason == Reason::DropRate;
    if (asked && read.replay) || (refused && (packet.kind != Kind::Syn || *state != untouched)) {
        outcome.broke(Violation::Refused);
    }
    if refused {
        return outcome;
    }
    if failed && packet.kind == Kind::Syn {
        outcome.note(Note::NoRoom);
    }
    if packet.flow != NEVER {
        let facts = Facts {
            straight,
            room,
            half_room,
            replay: read.replay,
            lied,
            cell: read.cell,
            before,
            inside: read.inside,
        };
        arrive(config, state, packet, steered, &facts, &mut outcome);
    }
    outcome
}

fn has_room(tables: &tables::Packet<'_>) -> bool {
    let class = if tables.config.udp { 1 } else { 0 };
    let quota = tables.used[class] < tables.config.quota[class];
    let free = |way: &Way| way.word.0 == 0;
    let capacity = usize::from(tables.config.capacity);
    let ways = tables.state.ways[..capacity].iter().any(free);
    quota && (ways || matches!(tables.look(), Found::Dead(..)))
}

struct Facts {
    /// It saw one moment from begin to end.
    straight: bool,
    room: bool,
    half_room: bool,
    replay: bool,
    lied: bool,
    cell: Cell,
    before: Option<Way>,
    inside: u8,
}

/// A connection's packet has reached a backend.
fn arrive(
    config: &Config,
    state: &mut State,
    packet: &Packet,
    steered: Steered,
    facts: &Facts,
    outcome: &mut Outcome,
) {
    let to = steered.backend;
    let flow = &mut state.flows[usize::from(packet.flow)];
    if facts.straight && state.removed & 1 << to != 0 && flow.phase != Phase::Gone {
        outcome.broke(Violation::Removed { to });
    }
    let first = match packet.kind {
        Kind::Syn => flow.phase == Phase::Syn && flow.answered == 0,
        Kind::Udp => flow.phase == Phase::Syn,
        _ => false,
    };
    if first && facts.straight {
        if facts.lied {
            outcome.note(Note::Lied);
        } else if config.limited && facts.replay {
            // The filter knows a connection of which nothing has passed: its copies are not asked for.
            outcome.broke(Violation::Refused);
        } else if let Some(entry) = facts.before {
            let word = entry.word;
            let closed = word.is(EntryState::Est) && word.fin_seen() && (!word.alt_seen() || word.alt_fin());
            if closed && facts.half_room && !facts.replay && to != facts.cell.current() {
                outcome.broke(Violation::NotCurrent { to });
            } else if !word.single() && steered.reason == Reason::Alt {
                outcome.note(Note::ReusedAtAlt);
            }
        } else if config.udp && steered.reason == Reason::Learned {
            outcome.note(Note::Armed);
        } else if (facts.room || !facts.cell.dirty()) && !facts.replay && to != facts.cell.current() {
            outcome.broke(Violation::NotCurrent { to });
        }
    }
    match packet.kind {
        Kind::Syn => {
            if flow.phase == Phase::Syn {
                flow.answered |= 1 << to;
                // A copy that comes later is no sign of life.
                flow.age = facts.inside;
            }
        }
        Kind::Udp if flow.phase == Phase::Syn => {
            flow.phase = Phase::Est;
            flow.uses = to as u8;
            flow.confirmed = true;
            flow.age = facts.inside;
        }
        _ if flow.promised() => {
            if to != u16::from(flow.uses) {
                outcome.broke(Violation::Moved { flow: packet.flow, from: flow.uses.into(), to });
            }
            flow.confirmed = true;
            flow.age = facts.inside;
        }
        _ => {}
    }
}

/// Whether a connection of `tuple` and a backend is neither at base nor named by an entry, at the node that the state faces.
pub fn lost(config: &Config, state: &State, tuple: u8, uses: BackendId) -> bool {
    match state.entry(tuple) {
        Some(entry) => entry.word.backend() != uses && entry.word.alt() != uses,
        None => state.cells[cell_of(config, state, tuple)].cell.base() != uses,
    }
}

/// What holds in every state: a live connection without an entry is at base, one with an entry is named by it; at the node that
/// its packets pass.
pub fn check(config: &Config, state: &State) -> Option<Violation> {
    for (number, (flow, spec)) in state.flows.iter().zip(&config.flows).enumerate() {
        let lost = |uses: u16| lost(config, state, spec.tuple, uses);
        let broken = match flow.phase {
            _ if flow.node != state.node => false,
            Phase::Est | Phase::Fin => lost(flow.uses.into()),
            Phase::Syn if flow.answered.count_ones() == 1 => lost(flow.answered.trailing_zeros() as u16),
            _ => false,
        };
        if broken {
            return Some(Violation::Lost { flow: number as u8 });
        }
    }
    None
}
