//! One VIP of a service as the kernel knows it: an entry, two rows of cells and a commit word of its own.
//!
//! A service with a VIP of each family has two faces. They share everything that is decided once: weights, the version of
//! each group, drains, health. Each has its own cells, because its backends are those of its family.

use zdd_common::entries::{Cell, Commit, EndEntry, EndKind, Service as Fixed};
use zdd_common::net::End;
use zdd_common::rules;

use super::service::end;
use crate::dataplane::{Dataplane, DataplaneError};
use crate::desired::{Protocol, Vip};
use crate::plan::Currents;
use crate::state::SavedFace;

/// One VIP with its rows.
pub(super) struct Face {
    /// The VIP and its numbers, which never change while it lives.
    pub(super) at: SavedFace,
    pub(super) generation: u32,
    /// Which of its two rows is live.
    second_row: bool,
    pub(super) cells: Vec<Cell>,
    /// When each cell became dirty, ns since boot.
    pub(super) since: Vec<u64>,
    pub(super) cache: Currents,
    /// The epoch of the last commit.
    pub(super) committed: u64,
    pub(super) last_wipe: u64,
    /// What its new flows suffer from now, or nothing.
    pub(super) alarm: Option<String>,
}

impl Face {
    /// A face that is in the state; its cells come from the maps if they are there.
    pub(super) fn open(at: SavedFace, cells: u32, dataplane: &Dataplane, now: u64) -> Self {
        let commit = Commit(dataplane.service(at.id).commit);
        let fresh = commit.generation() == 0;
        Self {
            generation: commit.generation(),
            second_row: !fresh && commit.row() != at.row,
            cells: if fresh { Vec::new() } else { dataplane.read_row(commit.row(), cells) },
            // Nobody remembers when the dirty ones became so: their clocks start now.
            since: vec![now; cells as usize],
            cache: Currents::default(),
            committed: 0,
            last_wipe: 0,
            alarm: None,
            at,
        }
    }

    /// Nothing of it was ever committed.
    pub(super) fn fresh(&self) -> bool {
        self.generation == 0
    }

    /// Whether a row would change anything.
    pub(super) fn differs(&self, cells: &[Cell]) -> bool {
        self.fresh() || self.cells != cells
    }

    /// The row with these currents; clocks of cells that become dirty start.
    pub(super) fn change(&mut self, currents: Vec<u16>, now: u64) -> Vec<Cell> {
        if self.fresh() {
            return currents.into_iter().map(Cell::settled).collect();
        }
        let mut cells = self.cells.clone();
        for (index, current) in currents.into_iter().enumerate() {
            let (cell, starts) = rules::change(cells[index], current);
            cells[index] = cell;
            if starts {
                self.since[index] = now;
            }
        }
        cells
    }

    /// Writes a row into the spare one, which no packet may be reading any more: the commit that makes it live.
    pub(super) fn stage(&self, dataplane: &Dataplane, fixed: &Fixed, cells: &[Cell]) -> Commit {
        let second = self.spare_is_second();
        let row = self.at.row + if second { cells.len() as u32 } else { 0 };
        dataplane.write_row(row, cells);
        if self.fresh() {
            dataplane.write_service(self.at.id, fixed);
        }
        Commit::new(row, self.generation + 1)
    }

    /// Makes a staged row live: one aligned word.
    pub(super) fn commit(&mut self, dataplane: &Dataplane, commit: Commit, cells: Vec<Cell>, epoch: u64) {
        dataplane.commit(self.at.id, commit);
        self.second_row = self.spare_is_second();
        self.generation += 1;
        self.cells = cells;
        self.committed = epoch;
    }

    fn spare_is_second(&self) -> bool {
        !self.fresh() && !self.second_row
    }

    /// Its VIP as packets name it.
    pub(super) fn end(&self) -> End {
        vip_end(&self.at.vip)
    }

    /// Makes its VIP known: from now on its packets are steered.
    pub(super) fn write_vip(&self, dataplane: &mut Dataplane, service: &str) -> Result<(), DataplaneError> {
        let entry = EndEntry {
            kind: EndKind::Vip as u16,
            service: self.at.id,
            id: self.at.vip_id,
            ..EndEntry::default()
        };
        dataplane.set_end(self.end(), entry, &format!("the VIP {} of {service}", self.at.vip))
    }
}

/// A VIP as packets name it.
fn vip_end(vip: &Vip) -> End {
    let proto = match vip.protocol {
        Protocol::Tcp => zdd_common::net::TCP,
        Protocol::Udp => zdd_common::net::UDP,
    };
    end(vip.addr, vip.port, proto)
}
