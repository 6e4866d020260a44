//! One of our nodes: the kernel's tables, and the agent's rules over them.

use zdd_common::atomic::Host;
use zdd_common::entries::{Affinity, BackendId, Cell, Commit, FlowKey, Service, State};
use zdd_common::flows::{self, Bucket, Place, Recount};
use zdd_common::limits::WAYS;
use zdd_common::model::Model;
use zdd_common::net::Addr;
use zdd_common::rules::{self, Facts, Sweep, Timeouts};
use zdd_common::steer::{self, Segment, Transport};
use zdd_common::syn_filter::{self, Line};
use zdd_common::time;

use super::pool::KEY;
use super::traffic::{Kind, Packet, SECOND, Tuple};

/// The documented defaults.
const IDLE: u64 = 350 * SECOND;
const SYN_MEMORY: u64 = 64 * SECOND;
const GRACE: u64 = SECOND;

/// The number of the one service and of its VIP.
const ID: u16 = 0;
const VIP: u16 = 1;
const PORT: u16 = 80u16.to_be();

/// A node with its service.
#[derive(Debug)]
pub struct Node {
    tables: Model,
    since: Vec<u64>,
    last_wipe: u64,
    /// When cells were last written: a row younger than a grace period is left alone.
    committed: u64,
    times: Timeouts,
    /// The most entries it ever had.
    pub peak: u64,
}

impl Node {
    /// A node whose cells are settled on `row`, with room for `flows` entries and `lines` lines of SYN filter.
    pub fn new(row: &[BackendId], flows: usize, lines: usize) -> Self {
        let mut tables = Model::new(flows, flows as u64 / 4);
        tables.filter = vec![Line::default(); lines.next_power_of_two()];
        tables.epoch_shift = syn_filter::epoch_shift(time::ticks(SYN_MEMORY));
        tables.cells = row.iter().map(|id| Cell::settled(*id)).collect();
        let service = Service {
            commit: Commit::new(0, 1).0,
            key: KEY,
            groups: row.len() as u32,
            per_group: 1,
            affinity: Affinity::Flow as u32,
            udp_idle: 0,
            ..Service::default()
        };
        tables.services.insert(ID, service);
        let half_life = u64::from(syn_filter::memory_max(tables.epoch_shift) + 1) << time::TICK_SHIFT;
        let times = Timeouts {
            idle: IDLE.max(half_life),
            udp_idle: 0,
            half_life,
            grace: GRACE,
            fin_linger: 60 * SECOND,
        };
        Self { tables, since: vec![0; row.len()], last_wipe: 0, committed: 0, times, peak: 0 }
    }

    /// Entries of its flow table.
    pub fn entries(&self) -> u64 {
        self.tables.used.iter().sum()
    }

    /// Where a packet goes.
    pub fn steer(&mut self, packet: &Packet, tuple: Tuple) -> BackendId {
        // Time 0 is "never" to the rules.
        self.tables.now_ns = packet.at + SECOND;
        let key = FlowKey::new(Addr::v4(tuple.client.to_be_bytes()), tuple.port.to_be(), PORT, VIP);
        let segment = Segment {
            syn: packet.kind == Kind::Syn,
            fin: packet.kind == Kind::Fin,
            rst: false,
            seq: packet.seq,
        };
        let backend = steer::steer(&mut self.tables, ID, &key, Transport::Tcp(segment)).backend;
        self.peak = self.peak.max(self.entries());
        backend
    }

    /// New flows follow `row` from now on.
    pub fn change(&mut self, row: &[BackendId], now: u64) {
        let now = now + SECOND;
        for ((cell, since), current) in self.tables.cells.iter_mut().zip(&mut self.since).zip(row) {
            let (changed, starts) = rules::change(*cell, *current);
            *cell = changed;
            if starts {
                *since = now;
            }
        }
        self.committed = now;
    }

    /// All entries are lost; the agent knows.
    pub fn wipe(&mut self, now: u64) {
        self.tables.buckets.fill(Bucket::default());
        self.tables.used = [0; 3];
        self.last_wipe = now + SECOND;
        for cell in &mut self.tables.cells {
            *cell = rules::wiped(*cell);
        }
    }

    /// What the agent does every few seconds.
    pub fn tick(&mut self, now: u64) {
        let now = now + SECOND;
        if now - self.committed < GRACE {
            return;
        }
        let facts = self.tables.facts.get(&ID).copied().unwrap_or_default();
        let facts = Facts { last_fail: facts.last_fail, udp_fail: facts.udp_fail, last_wipe: self.last_wipe };
        for (cell, since) in self.tables.cells.iter_mut().zip(&self.since) {
            let settled = rules::settle(*cell, *since, facts, &self.times, now);
            if settled != *cell {
                *cell = settled;
                self.committed = now;
            }
        }
        if self.committed != now {
            self.sweep(now);
        }
    }

    fn sweep(&mut self, now: u64) {
        let view = self.tables.services[&ID].view();
        let pressure = self.entries() > (self.tables.buckets.len() * WAYS) as u64 / 2;
        let mut kept = vec![false; self.tables.cells.len()];
        let (table, buckets) = (self.tables.buckets.as_mut_ptr(), self.tables.buckets.len() as u32);
        for index in 0..buckets {
            // SAFETY: a bucket of ours, and nobody else runs.
            for way in 0..unsafe { flows::ways::<Host>(table.add(index as usize)) } {
                let place = Place { table, buckets, index, way };
                // SAFETY: as above.
                let word = unsafe { place.word::<Host>() };
                if word.is(State::Free) {
                    continue;
                }
                // SAFETY: as above.
                let at = steer::place(&view, &unsafe { place.key::<Host>() }).cell as usize;
                let cell = self.tables.cells[at];
                let fate = rules::sweep(word, cell, false, pressure, &self.times, now);
                // SAFETY: as above.
                if let Some(Recount { from, to }) = unsafe { flows::apply::<Host>(&place, word, fate) } {
                    self.tables.used[from] -= 1;
                    if let Some(to) = to {
                        self.tables.used[to] += 1;
                    }
                }
                let stays = match fate {
                    Sweep::Keep => word,
                    Sweep::Word(new) | Sweep::Restore(new) => new,
                    Sweep::Free => continue,
                };
                kept[at] |=
                    stays.live() && (!stays.single() || stays.backend() != cell.base() || stays.alt_seen());
            }
        }
        for (cell, kept) in self.tables.cells.iter_mut().zip(kept) {
            if !kept {
                *cell = rules::forget(*cell);
            }
        }
    }
}
