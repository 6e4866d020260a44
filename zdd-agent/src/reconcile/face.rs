//! One VIP of a service as the kernel knows it: an entry, a row of cells and a commit word of its own.
//!
//! A service with a VIP of each family has two faces. They share everything that is decided once: weights, the version of
//! each group, drains, health. Each has its own cells, because its backends are those of its family. A cohort of clients has a face
//! of its own at each VIP, with the VIP's end and number: see `cohorts`.

use std::collections::HashMap;

use zdd_common::entries::{BackendId, Cell, Commit, EndEntry, EndKind, Service as Fixed};
use zdd_common::rules;
use zdd_common::signals::Rate;

use super::grace::Epochs;
use super::service::end;
use crate::cohort::Members;
use crate::dataplane::{Dataplane, DataplaneError, Ends, Row, SourceSet};
use crate::desired::{Protocol, Vip};
use crate::plan::Currents;
use crate::state::SavedFace;

/// What a VIP's entry says of its service.
pub(super) struct Of<'a> {
    /// The service's name.
    pub(super) name: &'a str,
    /// How many of its flows are followed.
    pub(super) rate: Rate,
    /// Flows of its preview VIPs are mapped as under `snat`: see [`EndEntry::mapped`].
    pub(super) maps: bool,
}

/// One VIP with its live row.
pub(super) struct Face {
    /// The VIP and its numbers, which never change while it lives.
    pub(super) at: SavedFace,
    pub(super) generation: u32,
    /// First cell of its live row, or of the one that its first commit takes.
    start: u32,
    /// Size of its rows.
    len: u32,
    /// The live row; empty before the first commit.
    pub(super) cells: Row,
    /// How many cells are dirty, and whether flows of any may have entries: counted when a row is committed, because
    /// looking at every cell of a thousand settled services each second costs more than anything else.
    pub(super) dirty: u32,
    pub(super) lookup: bool,
    /// Cells whose new flows go to a backend.
    held: HashMap<BackendId, u32>,
    /// When each cell became dirty, ns since boot. Empty while all are clean.
    pub(super) since: Vec<u64>,
    pub(super) cache: Currents,
    /// The epoch of the last commit.
    pub(super) committed: u64,
    pub(super) last_wipe: u64,
    /// What its new flows suffer from now, or nothing.
    pub(super) alarm: Option<String>,
    /// What its VIP makes of the sources of its packets, and the number of that set; 0: none.
    pub(super) sources: (u32, SourceSet),
    /// Of a VIP's own face: whose flows another face's row steers.
    pub(super) members: Members,
    /// Why these are not the ones of the configuration.
    pub(super) waits: Option<String>,
    /// Of a preview VIP: the version (its slot) that its row was last made for.
    pub(super) shows: Option<usize>,
}

impl Face {
    /// A face that is in the state. If it is in the maps too, its live row is known to be its own and is taken over as it
    /// stands; else `start` is where its first row will be.
    pub(super) fn open(at: SavedFace, len: u32, dataplane: &Dataplane, (start, now): (u32, u64)) -> Self {
        let live = live(dataplane, at.id);
        let cells = live.map_or_else(Row::default, |commit| dataplane.row(commit.row(), len));
        // Nobody remembers when the dirty ones became so: their clocks start now.
        let since = if cells.iter().any(|cell| cell.dirty()) { vec![now; cells.len()] } else { Vec::new() };
        let mut face = Self {
            generation: live.map_or(0, |commit| commit.generation()),
            start: live.map_or(start, |commit| commit.row()),
            len,
            cells,
            dirty: 0,
            lookup: false,
            held: HashMap::new(),
            since,
            cache: Currents::default(),
            committed: 0,
            last_wipe: 0,
            alarm: None,
            sources: Default::default(),
            members: Members::default(),
            waits: None,
            shows: None,
            at,
        };
        face.count();
        face
    }

    /// Whether it is a VIP's own: neither a cohort's nor a preview VIP's.
    pub(super) fn main(&self) -> bool {
        self.at.cohort.is_none() && !self.at.preview
    }

    /// Counts what its row says.
    fn count(&mut self) {
        let mut held = Vec::new();
        (self.dirty, self.lookup) = (0, false);
        for cell in self.cells.iter() {
            let id = usize::from(cell.current());
            if id >= held.len() {
                held.resize(id + 1, 0);
            }
            held[id] += 1;
            self.dirty += u32::from(cell.dirty());
            self.lookup |= cell.lookup();
        }
        let held = held.into_iter().enumerate().filter(|(_, cells)| *cells > 0);
        self.held = held.map(|(id, cells)| (id as BackendId, cells)).collect();
    }

    /// How many of its cells give their new flows to a backend.
    pub(super) fn held(&self, id: BackendId) -> u32 {
        self.held.get(&id).copied().unwrap_or(0)
    }

    /// Its row, for whoever takes it out: first cell and size.
    pub(super) fn row(&self) -> (u32, u32) {
        (self.start, self.len)
    }

    /// Nothing of it was ever committed.
    pub(super) fn fresh(&self) -> bool {
        self.generation == 0
    }

    /// Whether a row would change anything.
    pub(super) fn differs(&self, cells: &[Cell]) -> bool {
        self.fresh() || *self.cells != *cells
    }

    /// The row with these currents; clocks of cells that become dirty start.
    pub(super) fn change(&mut self, currents: Vec<u16>, now: u64) -> Vec<Cell> {
        if self.fresh() {
            return currents.into_iter().map(Cell::settled).collect();
        }
        let mut cells = self.cells.to_vec();
        for (index, (cell, current)) in cells.iter_mut().zip(currents).enumerate() {
            let (changed, starts) = rules::change(*cell, current);
            *cell = changed;
            if starts {
                if self.since.is_empty() {
                    self.since = vec![now; self.cells.len()];
                }
                self.since[index] = now;
            }
        }
        cells
    }

    /// When each cell became dirty; `now` for one of which that is not known.
    pub(super) fn clocks(&self, now: u64) -> impl Iterator<Item = u64> + '_ {
        self.since.iter().copied().chain(std::iter::repeat(now))
    }

    /// A row to write the next cells to, which no packet is reading.
    pub(super) fn spare_row(&self, epochs: &mut Epochs) -> Result<u32, DataplaneError> {
        if self.fresh() { Ok(self.start) } else { epochs.spare_row(self.len) }
    }

    /// Gives a row of [`Face::spare_row`] back unused.
    pub(super) fn give_back(&self, epochs: &mut Epochs, row: u32) {
        if !self.fresh() {
            epochs.rows.give_back(row, self.len);
        }
    }

    /// Writes a row of [`Face::spare_row`]: the commit that makes it live.
    pub(super) fn stage(&self, dataplane: &Dataplane, fixed: &Fixed, row: u32, cells: &[Cell]) -> Commit {
        dataplane.write_row(row, cells);
        if self.fresh() {
            dataplane.write_service(self.at.id, fixed);
        }
        Commit::new(row, self.generation + 1)
    }

    /// Makes a staged row live: one aligned word.
    pub(super) fn commit(&mut self, dataplane: &Dataplane, commit: Commit, epochs: &mut Epochs) {
        dataplane.commit(self.at.id, commit);
        self.committed = epochs.commit();
        self.cells = dataplane.row(commit.row(), self.len);
        if !self.fresh() {
            epochs.rows.retire(self.start, self.len, self.committed);
        }
        self.start = commit.row();
        self.generation = commit.generation();
    }

    /// Takes in what its new row says: after the commits, so that those follow each other at once.
    pub(super) fn committed_row(&mut self) {
        self.count();
        if self.dirty == 0 {
            // A thousand settled services must not hold what only a change needs.
            self.since = Vec::new();
            self.cache.clear();
        }
    }

    /// Its VIP as packets name it.
    pub(super) fn ends(&self) -> Ends {
        vip_ends(&self.at.vip)
    }

    /// Makes its VIP known: from now on its packets are steered.
    pub(super) fn write_vip(
        &self,
        dataplane: &mut Dataplane,
        service: &Of<'_>,
    ) -> Result<(), DataplaneError> {
        let mapped = self.at.preview && service.maps;
        let entry = EndEntry {
            kind: EndKind::Vip as u16,
            service: self.at.id,
            id: self.at.vip_id,
            sources: self.sources.0,
            mapped: mapped.into(),
            ..EndEntry::default()
        };
        // Signals are of users: a probe that fails on purpose must not look like one of them, nor a thousand that succeed hide one.
        let entry = entry.with_rate(if self.at.preview { Rate::OFF } else { service.rate });
        let service = service.name;
        dataplane.set_ends(self.ends(), entry, &format!("the VIP {} of {service}", self.at.vip))
    }
}

/// What makes the row of a VIP live that is in the maps: `None` before its first commit.
pub(super) fn live(dataplane: &Dataplane, id: u16) -> Option<Commit> {
    Some(Commit(dataplane.service(id).commit)).filter(|commit| commit.generation() != 0)
}

/// A VIP as packets name it.
fn vip_ends(vip: &Vip) -> Ends {
    let proto = match vip.protocol {
        Protocol::Tcp => zdd_common::net::TCP,
        Protocol::Udp => zdd_common::net::UDP,
    };
    Ends { first: end(vip.addr, vip.port, proto), more: vip.more }
}
