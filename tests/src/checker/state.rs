//! A state of a world. Times are ages, so that states which differ only by the date are one.

use zdd_common::entries::{Cell, Positions, State as EntryState, Word};
use zdd_common::time::{TICK_SHIFT, Tick};

use super::config::{Budget, CELLS, Clock, Config, FLIGHT, FLOWS, MARKS, MIDS, NODES, SERVICES, SLOTS};

/// Ages of last_fail, udp_fail and last_wipe of each service.
pub type AllFacts = [[u8; 3]; SERVICES];

/// The present, in ticks, of every state.
pub const NOW: u32 = 1000;
/// An age: it never happened.
pub const NEVER: u8 = 255;

/// Nanoseconds since boot of something `age` steps ago.
pub fn at(age: u8) -> u64 {
    u64::from(NOW - u32::from(age)) << TICK_SHIFT
}

/// A cell and the agent's clocks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct CellState {
    /// The cell.
    pub cell: Cell,
    /// Age of its dirtiness.
    pub since: u8,
    /// Age of the commit that wrote it.
    pub committed: u8,
}

/// A way of the flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Way {
    /// Tuple, if the word is not free.
    pub tuple: u8,
    /// The word; its seen is [`NOW`] minus its age.
    pub word: Word,
    /// The positions.
    pub positions: Positions,
}

impl Way {
    /// Whether packets of `tuple` are steered by it.
    pub fn is_live_for(&self, tuple: u8) -> bool {
        self.word.live() && self.tuple == tuple
    }

    /// Age of its last packet.
    pub fn age(&self) -> u8 {
        Tick(NOW).since(self.word.seen()) as u8
    }
}

/// How far a connection has come, as its client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Phase {
    /// Not begun.
    #[default]
    Unborn,
    /// SYN sent.
    Syn,
    /// Handshake complete; or a UDP flow.
    Est,
    /// FIN sent: only ACKs follow.
    Fin,
    /// Over, reset, silent for too long, or released from the promise.
    Gone,
}

/// What another balancer node has of its own; see [`State::facing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    /// Its cells.
    pub cells: [CellState; CELLS],
    /// Its flow table.
    pub ways: [Way; SLOTS],
    /// Its SYN filter.
    pub marks: [u8; MARKS],
    /// Its facts.
    pub facts: AllFacts,
}

/// A client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Flow {
    /// How far it has come.
    pub phase: Phase,
    /// Backends that answered its SYN, one bit each.
    pub answered: u8,
    /// The backend whose answer its client took.
    pub uses: u8,
    /// How often its sequence number moved.
    pub moves: u8,
    /// Steps since one of its packets was steered.
    pub age: u8,
    /// Whether a packet other than a SYN was steered.
    pub confirmed: bool,
    /// The node that its packets pass.
    pub node: u8,
}

impl Flow {
    /// Whether the promise holds for it.
    pub fn promised(&self) -> bool {
        matches!(self.phase, Phase::Est | Phase::Fin)
    }
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// No packet: the place is free.
    #[default]
    None,
    /// SYN.
    Syn,
    /// ACK, with or without data.
    Ack,
    /// FIN.
    Fin,
    /// RST.
    Rst,
    /// UDP datagram.
    Udp,
}

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Packet {
    /// What it is.
    pub kind: Kind,
    /// Its connection; [`NEVER`] if it is forged.
    pub flow: u8,
    /// Its tuple.
    pub tuple: u8,
    /// Its sequence number.
    pub seq: u32,
    /// Steps on the wire.
    pub age: u8,
}

/// What a packet inside the program has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Mid {
    /// The packet; none: the place is free. Its age is that of its reading.
    pub packet: Packet,
    /// Whether the filter knew it.
    pub replay: bool,
    /// Its cell.
    pub cell: Cell,
    /// It is a SYN that is remembered and has not read the row that counts.
    pub early: bool,
    /// A row was committed meanwhile.
    pub stale: bool,
    /// Whether it has looked its entry up.
    pub looked: bool,
    /// The way found, or [`NEVER`].
    pub slot: u8,
    /// What it found.
    pub word: Word,
    /// And the positions.
    pub positions: Positions,
    /// Age of the time it took for the present.
    pub clock: u8,
}

/// A sweep that has read an entry and will act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Pending {
    /// 0: none; 1: word; 2: restore; 3: free.
    pub what: u8,
    /// The way.
    pub slot: u8,
    /// The word that was read.
    pub old: Word,
    /// The word to be written.
    pub new: Word,
}

/// The whole state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Cells.
    pub cells: [CellState; CELLS],
    /// Flow table.
    pub ways: [Way; SLOTS],
    /// Ages of the SYNs that the filter knows.
    pub marks: [u8; MARKS],
    /// Connections.
    pub flows: [Flow; FLOWS],
    /// Wire.
    pub flight: [Packet; FLIGHT],
    /// Packets inside the program.
    pub mids: [Mid; MIDS],
    /// The sweep.
    pub sweep: Pending,
    /// What packets and the agent have noted.
    pub facts: AllFacts,
    /// What may still happen.
    pub left: Budget,
    /// Backends removed, one bit each.
    pub removed: u8,
    /// Tuples that the second of two rows steers, one bit each; see [`Budget::joins`].
    pub rows: u8,
    /// The node whose tables the fields above are.
    pub node: u8,
    /// The other one's, if there is one.
    pub other: Option<Side>,
}

/// Index in [`State::facts`].
pub const FAIL: usize = 0;
/// Index in [`State::facts`].
pub const UDP_FAIL: usize = 1;
/// Index in [`State::facts`].
pub const WIPE: usize = 2;

impl State {
    /// Everything settled on backend 1.
    pub fn first(config: &Config) -> Self {
        let forever = config.clock.forever();
        let cell = CellState { cell: Cell::settled(1), since: forever, committed: forever };
        let mut cells = [cell; CELLS];
        if config.preview {
            cells[1].cell = Cell::settled(2);
        }
        Self {
            cells,
            ways: [Way::default(); SLOTS],
            marks: [NEVER; MARKS],
            flows: [Flow::default(); FLOWS],
            flight: [Packet::default(); FLIGHT],
            mids: [Mid::default(); MIDS],
            sweep: Pending::default(),
            facts: [[forever; 3]; SERVICES],
            left: config.budget,
            removed: 0,
            rows: 0,
            node: 0,
            other: (usize::from(config.nodes) == NODES).then_some(Side {
                cells,
                ways: [Way::default(); SLOTS],
                marks: [NEVER; MARKS],
                facts: [[forever; 3]; SERVICES],
            }),
        }
    }

    /// The same state, seen from the given node: cells, ways, marks and facts are that node's.
    pub fn facing(mut self, node: u8) -> Self {
        if node != self.node
            && let Some(other) = &mut self.other
        {
            std::mem::swap(&mut self.cells, &mut other.cells);
            std::mem::swap(&mut self.ways, &mut other.ways);
            std::mem::swap(&mut self.marks, &mut other.marks);
            std::mem::swap(&mut self.facts, &mut other.facts);
            self.node = node;
        }
        self
    }

    /// The live entry of a tuple.
    pub fn entry(&self, tuple: u8) -> Option<&Way> {
        self.ways.iter().find(|way| way.is_live_for(tuple))
    }

    /// Entries per class, dead ones included.
    pub fn used(&self) -> [u8; 3] {
        let mut used = [0; 3];
        for way in self.ways.iter().filter(|way| !way.word.is(EntryState::Free)) {
            used[way.word.class_bits()] += 1;
        }
        used
    }

    /// Brings states together that nothing can tell apart.
    pub fn canonical(&mut self) {
        *self = self.facing(0);
        for way in self.ways.iter_mut().chain(self.other.iter_mut().flat_map(|side| &mut side.ways)) {
            if way.word.is(EntryState::Free) {
                *way = Way::default();
            } else if !way.word.live() {
                way.positions = Positions::default();
            } else if !way.word.alt_seen() {
                way.positions = Positions::new(way.positions.backend(), 0);
            }
        }
        for mid in &mut self.mids {
            if mid.packet.kind == Kind::None {
                *mid = Mid::default();
            }
        }
        if self.mids[0].packet.kind == Kind::None {
            self.mids.swap(0, 1);
        }
        for flow in &mut self.flows {
            if flow.phase == Phase::Gone {
                *flow = Flow { phase: Phase::Gone, ..Flow::default() };
            }
        }
        for packet in &mut self.flight {
            if packet.kind == Kind::None {
                *packet = Packet::default();
            }
        }
        self.flight.sort_unstable();
        if self.sweep.what == 0 {
            self.sweep = Pending::default();
        }
    }

    /// One step of time: everything ages, what is too old vanishes. False if packets inside the program cannot wait.
    /// Returns how many connections were given up for their silence.
    pub fn tick(&mut self, config: &Config) -> Option<u32> {
        let clock: &Clock = &config.clock;
        let waits = |mid: &Mid| mid.packet.kind == Kind::None || mid.packet.age < clock.inside;
        if self.sweep.what != 0 || !self.mids.iter().all(waits) {
            return None;
        }
        let forever = clock.forever();
        let older = |age: u8| (age + 1).min(forever);
        self.tables_age(clock);
        if self.other.is_some() {
            let here = self.node;
            *self = self.facing(1 - here);
            self.tables_age(clock);
            *self = self.facing(here);
        }
        let mut silent = 0;
        for flow in &mut self.flows {
            if matches!(flow.phase, Phase::Unborn | Phase::Gone) || flow.age == NEVER {
                continue;
            }
            flow.age = older(flow.age);
            let bound = match (config.udp, flow.confirmed) {
                (true, _) => clock.udp_idle,
                (false, true) => clock.idle,
                (false, false) => clock.handshake,
            };
            if flow.age > bound {
                flow.phase = Phase::Gone;
                silent += 1;
            }
        }
        for packet in self.flight.iter_mut().filter(|packet| packet.kind != Kind::None) {
            packet.age += 1;
            if packet.age > clock.flight {
                *packet = Packet::default();
            }
        }
        for mid in self.mids.iter_mut().filter(|mid| mid.packet.kind != Kind::None) {
            mid.packet.age += 1;
            mid.clock += u8::from(mid.looked);
            // What it read was written with the old present.
            if mid.looked && mid.slot != NEVER {
                let age = older(Tick(NOW).since(mid.word.seen()) as u8);
                mid.word = mid.word.with_seen(Tick(NOW - u32::from(age)));
            }
        }
        Some(silent)
    }

    fn tables_age(&mut self, clock: &Clock) {
        let forever = clock.forever();
        let older = |age: u8| (age + 1).min(forever);
        for cell in &mut self.cells {
            cell.since = older(cell.since);
            cell.committed = older(cell.committed);
        }
        for way in self.ways.iter_mut().filter(|way| !way.word.is(EntryState::Free)) {
            way.word = way.word.with_seen(Tick(NOW - u32::from(older(way.age()))));
        }
        for mark in self.marks.iter_mut().filter(|mark| **mark != NEVER) {
            *mark = if *mark >= clock.filter_max { NEVER } else { *mark + 1 };
        }
        for fact in self.facts.as_flattened_mut() {
            *fact = older(*fact);
        }
    }
}
