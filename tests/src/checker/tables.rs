//! [`SteerTables`] over a [`State`], for one packet.

use zdd_common::entries::Cell;
use zdd_common::entries::{
    Class, Commit, FlowKey, Positions, Service, ServiceView, State as EntryState, Word,
};
use zdd_common::pace::{Pace, PaceKey};
use zdd_common::tables::{Found, Rule, SteerTables};
use zdd_common::time::Tick;

use super::config::{Config, SERVICES, Without};
use super::packets::{cell_of, service_of};
use super::state::{FAIL, NEVER, State, UDP_FAIL, Way, at};

/// Handle of a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(pub u8);

impl Default for Slot {
    /// None: 0 is the first way.
    fn default() -> Self {
        Self(NEVER)
    }
}

/// What a packet that has been inside for a while has already read.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// Its cell.
    pub cell: Cell,
    /// Whether the filter knew it.
    pub replay: bool,
    /// What its first lookup found, if it has come that far, and the age of its present.
    pub found: Option<(Found<Slot>, u8)>,
    /// Steps since it read its cell.
    pub inside: u8,
    /// Its source may open no more connections.
    pub refused: bool,
    /// A row was committed between the first look at which is the live one, and the one that counts.
    pub stale: bool,
    /// Which of the SYNs that the filter may know it is; none: not asked for any more.
    pub mark: Option<usize>,
}

/// The tables as one packet sees them.
pub struct Packet<'a> {
    /// The world.
    pub config: &'a Config,
    /// Its state.
    pub state: &'a mut State,
    /// The packet's tuple.
    pub tuple: u8,
    /// What it has already read; used up as it reads again.
    pub read: Read,
    /// Entries per class by take and give.
    pub used: [u8; 3],
    /// An entry changed its backends though no rule lets it.
    pub moved: Option<(Word, Word)>,
    /// Whether an insert failed.
    pub failed: bool,
    /// A class was given back more often than taken.
    pub overdrawn: bool,
    /// The limit of new connections was asked.
    pub asked: bool,
    /// How often the live row was asked for.
    looks: u8,
}

impl<'a> Packet<'a> {
    /// The tables for one packet.
    pub fn new(config: &'a Config, state: &'a mut State, tuple: u8, read: Read) -> Self {
        let used = state.used();
        Self {
            config,
            state,
            tuple,
            read,
            used,
            moved: None,
            failed: false,
            overdrawn: false,
            asked: false,
            looks: 0,
        }
    }

    /// Looks the tuple up now.
    pub fn look(&self) -> Found<Slot> {
        for (slot, way) in self.state.ways.iter().enumerate() {
            if way.word.is(EntryState::Free) || way.tuple != self.tuple {
                continue;
            }
            return if way.word.live() {
                Found::Live(Slot(slot as u8), way.word, way.positions)
            } else {
                Found::Dead(Slot(slot as u8), way.word)
            };
        }
        Found::None
    }

    /// The service that the packet is for.
    fn of_service(&self) -> usize {
        service_of(self.config, cell_of(self.config, self.state, self.tuple))
    }

    /// The filter remembers the packet, if it is one that can come again.
    fn remember(&mut self) {
        if let Some(mark) = self.read.mark {
            self.state.marks[mark] = 0;
        }
    }

    fn swap(&mut self, slot: Slot, old: Word, new: Word) -> bool {
        let way = &mut self.state.ways[usize::from(slot.0)];
        if way.word != old {
            return false;
        }
        if old.live() && (old.backend(), old.alt()) != (new.backend(), new.alt()) {
            // Only a second identity beside the first one, or in place of one that is closed or was never heard of.
            let vacant = old.single() || (old.fin_seen() && (!old.alt_seen() || old.alt_fin()));
            let kept = vacant && new.alt() == old.backend() && new.is(EntryState::Half);
            if !kept || !new.alt_seen() {
                self.moved = Some((old, new));
            }
        }
        way.word = new;
        true
    }
}

impl SteerTables for Packet<'_> {
    type Slot = Slot;

    fn now_ns(&mut self) -> u64 {
        at(self.read.found.map_or(0, |(_, age)| age))
    }

    fn service(&mut self, _id: u16) -> Option<ServiceView> {
        let udp_idle = u32::from(self.config.clock.udp_idle);
        let mut view = Service { groups: 1, per_group: 1, udp_idle, ..Service::default() }.view();
        if self.config.limited {
            view.pace = Pace::new(1, 1);
        }
        Some(view)
    }

    fn commit(&mut self, _id: u16) -> Commit {
        let again = self.looks > 0;
        self.looks += 1;
        Commit::new(0, if again && self.read.stale { 2 } else { 1 })
    }

    fn cell(&mut self, _index: u32) -> Option<Cell> {
        Some(self.read.cell)
    }

    fn syn_seen(&mut self, _hash: u64, _now: Tick) -> bool {
        self.remember();
        self.read.replay
    }

    fn syn_known(&mut self, _hash: u64, _now: Tick) -> bool {
        if self.config.is_without(Without::AskFirst) {
            self.remember();
        }
        self.read.replay
    }

    fn may_begin(&mut self, _key: &PaceKey, _pace: Pace, _now_ns: u64) -> bool {
        self.asked = true;
        !self.read.refused
    }

    fn udp_fail(&mut self, _service: u16) -> u64 {
        let age = self.state.facts[self.of_service()][UDP_FAIL];
        if age >= self.config.clock.forever() { 0 } else { at(age) }
    }

    fn note_failure(&mut self, _service: u16, _now_ns: u64, udp: bool) {
        self.failed = true;
        let service = self.of_service();
        let told = if self.config.is_without(Without::OwnFacts) { SERVICES - 1 - service } else { service };
        if !self.config.is_without(Without::FailClock) {
            self.state.facts[told][FAIL] = 0;
        }
        if udp && !self.config.is_without(Without::UdpRearm) {
            self.state.facts[told][UDP_FAIL] = 0;
        }
    }

    fn find(&mut self, _key: &FlowKey, _hash: u64) -> Found<Slot> {
        match self.read.found.as_mut() {
            // The first lookup only: a second try sees what there is.
            Some((found, _)) if *found != Found::Busy => std::mem::replace(found, Found::Busy),
            _ => self.look(),
        }
    }

    fn insert(&mut self, _key: &FlowKey, _hash: u64, word: Word, positions: Positions) -> bool {
        if self.look() != Found::None {
            return false;
        }
        let capacity = usize::from(self.config.capacity);
        let Some(way) = self.state.ways[..capacity].iter_mut().find(|way| way.word.is(EntryState::Free))
        else {
            return false;
        };
        *way = Way { tuple: self.tuple, word, positions };
        true
    }

    fn update(&mut self, slot: Slot, old: Word, new: Word) -> bool {
        self.swap(slot, old, new)
    }

    fn advance(&mut self, slot: Slot, old: Positions, new: Positions) {
        let way = &mut self.state.ways[usize::from(slot.0)];
        if way.positions == old {
            way.positions = new;
        }
    }

    fn replace(&mut self, slot: Slot, old: Word, new: Word, positions: Positions) -> bool {
        let done = self.swap(slot, old, new);
        if done {
            self.state.ways[usize::from(slot.0)].positions = positions;
        }
        done
    }

    fn take(&mut self, class: Class) -> bool {
        let class = class as usize;
        let room = self.used[class] < self.config.quota[class];
        self.used[class] += u8::from(room);
        room
    }

    fn give(&mut self, class: usize) {
        self.overdrawn |= self.used[class] == 0;
        self.used[class] = self.used[class].saturating_sub(1);
    }

    fn without(&self, rule: Rule) -> bool {
        self.config.is_without(Without::Steer(rule))
    }
}

/// Whether the filter knows a SYN, and remembers it. `None`: it may or may not.
pub fn filter(config: &Config, state: &mut State, tuple: u8, seq: u32) -> Option<bool> {
    let mark = config.mark(tuple, seq)?;
    let age = std::mem::replace(&mut state.marks[mark], 0);
    if config.is_without(Without::Filter) || age == NEVER {
        Some(false)
    } else if age <= config.clock.filter_min {
        Some(true)
    } else {
        None
    }
}
