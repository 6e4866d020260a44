//! One service as the loop knows it: intent, cells, clocks; and how a new row of cells gets published.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use zdd_common::entries::{
    Affinity, Backend, BackendId, Cell, Commit, EndEntry, EndKind, Facts, Mode, Service as Fixed,
};
use zdd_common::hash::HashKey;
use zdd_common::maps::Counters;
use zdd_common::net::{Addr, End, TCP, UDP};
use zdd_common::rules::{self, Timeouts};
use zdd_common::{maglev, split, syn_filter, time};

use super::grace::Epochs;
use crate::dataplane::{Dataplane, DataplaneError};
use crate::desired::{self, BasisPoints, Forward, Protocol, ServiceSpec};
use crate::health::Health;
use crate::plan::{self, Candidate, Currents};
use crate::state::SavedService;

/// After this, surely no packet is still working with what it read before, ns. (The true bound is an RCU grace period,
/// which publishing waits for by itself; this one is for entries, which nobody waits for.)
const GRACE: Duration = Duration::from_secs(1);
/// The least time before a closed flow's entry is reclaimed from a table that is more than half full.
const FIN_LINGER: Duration = Duration::from_secs(60);
/// Cells of a group under `client-version` affinity.
const SPREAD: u32 = 16;

/// What the health checks say of a backend.
pub(super) type HealthMap = HashMap<(String, SocketAddr), (Health, Option<String>)>;

/// One service.
pub(super) struct Service {
    pub(super) saved: SavedService,
    pub(super) generation: u32,
    /// Which of its two rows is live.
    second_row: bool,
    pub(super) cells: Vec<Cell>,
    /// When each cell became dirty, ns since boot.
    pub(super) since: Vec<u64>,
    order: Vec<u32>,
    key: HashKey,
    cache: Currents,
    /// The epoch of the last commit.
    pub(super) committed: u64,
    pub(super) times: Timeouts,
    pub(super) last_wipe: u64,
    /// Live entries by backend, of the last sweep.
    pub(super) flows: HashMap<BackendId, u64>,
    /// When the last sweep began, ns since boot.
    pub(super) swept: u64,
    /// Since when no cell names a draining backend, ns since boot.
    pub(super) unnamed: HashMap<BackendId, u64>,
    pub(super) alarm: Option<String>,
    pub(super) notes: Vec<String>,
    /// Counters of backends that are gone, by version.
    pub(super) retired: HashMap<String, Counters>,
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Timeouts of a service, with a SYN filter of the given epoch.
fn timeouts(spec: &ServiceSpec, epoch_shift: u32) -> Timeouts {
    let half_life = u64::from(syn_filter::memory_max(epoch_shift) + 1) << time::TICK_SHIFT;
    // A half-open entry must not outlive what settling waits for. Of the other protocol's timeout nothing waits.
    let (idle, udp_idle) = match spec.vip.protocol {
        Protocol::Tcp => (ns(spec.idle_timeout).max(half_life), 0),
        Protocol::Udp => (ns(spec.udp_idle_timeout), ns(spec.udp_idle_timeout)),
    };
    Timeouts {
        idle,
        udp_idle,
        half_life,
        grace: ns(GRACE),
        fin_linger: ns(FIN_LINGER.min(spec.idle_timeout)),
    }
}

/// Cells per group.
fn per_group(spec: &ServiceSpec) -> u32 {
    if spec.affinity == desired::Affinity::ClientVersion { SPREAD.min(spec.cells) } else { 1 }
}

/// Groups of a service.
pub(super) fn groups(spec: &ServiceSpec) -> u32 {
    spec.cells / per_group(spec)
}

/// IP protocol number of a VIP.
pub(super) fn proto(spec: &ServiceSpec) -> u8 {
    match spec.vip.protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    }
}

/// An end from an address, and a port in host order.
pub(super) fn end(addr: IpAddr, port: u16, proto: u8) -> End {
    End::new(Addr::from(addr), port.to_be(), proto)
}

fn fixed(spec: &ServiceSpec, key: HashKey, udp_idle: u64) -> Fixed {
    let affinity = match spec.affinity {
        desired::Affinity::Flow => Affinity::Flow,
        desired::Affinity::Client => Affinity::Client,
        desired::Affinity::ClientVersion => Affinity::ClientVersion,
    };
    Fixed {
        commit: 0,
        key,
        groups: groups(spec),
        per_group: per_group(spec),
        affinity: affinity as u32,
        udp_idle: time::ticks(udp_idle),
        reserved: [0; 3],
    }
}

impl Service {
    /// A service that is in the state; its cells come from the maps if they are there (`adopt`), else they are made.
    pub(super) fn open(
        saved: SavedService,
        key: HashKey,
        epoch_shift: u32,
        dataplane: &Dataplane,
        now: u64,
    ) -> Self {
        let times = timeouts(&saved.spec, epoch_shift);
        let order = split::order(&key, groups(&saved.spec));
        let commit = Commit(dataplane.service(saved.id).commit);
        let cells = if commit.generation() == 0 {
            Vec::new()
        } else {
            dataplane.read_row(commit.row(), saved.spec.cells)
        };
        // Nobody remembers when the dirty ones became so: their clocks start now.
        let since = vec![now; saved.spec.cells as usize];
        Self {
            generation: commit.generation(),
            second_row: commit.generation() != 0 && commit.row() != saved.row,
            cells,
            since,
            order,
            key,
            cache: Currents::default(),
            committed: 0,
            times,
            last_wipe: 0,
            flows: HashMap::new(),
            swept: 0,
            unnamed: HashMap::new(),
            alarm: None,
            notes: Vec::new(),
            retired: HashMap::new(),
            saved,
        }
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.saved.spec.name
    }

    /// Its fixed fields as steering sees them.
    pub(super) fn view(&self) -> zdd_common::entries::ServiceView {
        fixed(&self.saved.spec, self.key, self.times.udp_idle).view()
    }

    /// Takes over changed timeouts.
    pub(super) fn retime(&mut self, epoch_shift: u32) {
        self.times = timeouts(&self.saved.spec, epoch_shift);
    }

    /// The slot of a version, made if it is new. A slot is free when no group and no backend names it.
    pub(super) fn slot(&mut self, version: &str) -> Option<usize> {
        let saved = &mut self.saved;
        if let Some(slot) = saved.slots.iter().position(|name| name == version) {
            return Some(slot);
        }
        let lives = |name: &str| {
            saved.spec.versions.iter().any(|v| v.name == name)
                || saved.backends.iter().any(|b| b.version == name)
        };
        let free = (0..saved.slots.len())
            .find(|slot| !lives(&saved.slots[*slot]) && !saved.groups.contains(&(*slot as u8)));
        if let Some(slot) = free {
            saved.slots[slot] = version.to_owned();
            return Some(slot);
        }
        if saved.slots.len() == crate::state::SLOTS_MAX {
            return None;
        }
        saved.slots.push(version.to_owned());
        Some(saved.slots.len() - 1)
    }

    /// Moves groups between versions until they hold the weights in the spec; how many moved.
    pub(super) fn assign(&mut self) -> u32 {
        let mut weights = vec![0; self.saved.slots.len()];
        for version in &self.saved.spec.versions {
            if let Some(slot) = self.saved.slots.iter().position(|name| *name == version.name) {
                weights[slot] = version.weight;
            }
        }
        split::reassign(&mut self.saved.groups, &self.order, &weights)
    }

    /// Whether a backend takes no new flows because it, or its version, drains.
    pub(super) fn drains(&self, version: &str, address: SocketAddr) -> bool {
        let own = self.saved.backends.iter().find(|b| b.address == address && b.version == version);
        own.is_none_or(|b| b.drain.is_some() || b.removed)
            || self.saved.draining.iter().any(|drain| drain.version == version)
    }

    /// The backends of each slot, as planning sees them.
    pub(super) fn candidates(&self, health: &HealthMap) -> Vec<Vec<Candidate>> {
        let mut slots = vec![Vec::new(); self.saved.slots.len()];
        for backend in self.saved.backends.iter().filter(|b| !b.removed) {
            let Some(slot) = self.saved.slots.iter().position(|name| *name == backend.version) else {
                continue;
            };
            let Some(spec) = self
                .saved
                .spec
                .versions
                .iter()
                .filter(|v| v.name == backend.version)
                .find_map(|v| v.backends.iter().find(|b| b.address == backend.address))
            else {
                continue;
            };
            let verdict =
                health.get(&(self.saved.spec.name.clone(), backend.address)).map(|(health, _)| *health);
            slots[slot].push(Candidate {
                id: backend.id,
                identity: maglev::identity(backend.address.ip().into(), backend.address.port().to_be()),
                weight: spec.weight,
                healthy: verdict != Some(Health::Unhealthy),
                draining: self.drains(&backend.version, backend.address),
            });
        }
        slots
    }

    /// Slots in the order in which they stand in for others: the file's.
    pub(super) fn preference(&self) -> Vec<usize> {
        let slots = &self.saved.slots;
        self.saved
            .spec
            .versions
            .iter()
            .filter_map(|v| slots.iter().position(|name| *name == v.name))
            .collect()
    }

    /// The backend of each cell's new flows, given which backends can take some.
    pub(super) fn row(&mut self, usable: &plan::Usable) -> Vec<BackendId> {
        let per_group = per_group(&self.saved.spec);
        plan::currents(&mut self.cache, usable, &self.saved.groups, per_group, &self.key)
    }

    /// Gives the versions new weights, in their order, and moves groups accordingly; how many moved. A drain of a version that
    /// has weight now is over; `notes` are told.
    pub(super) fn give_weights(&mut self, new: &[BasisPoints], notes: &mut Vec<String>) -> u32 {
        for (version, weight) in self.saved.spec.versions.iter_mut().zip(new) {
            version.weight = *weight;
        }
        let versions = &self.saved.spec.versions;
        self.saved.draining.retain(|drain| {
            let ends = versions.iter().any(|v| v.name == drain.version && v.weight > 0);
            if ends {
                notes.push(format!("the drain of {} is over: it has weight again", drain.version));
            }
            !ends
        });
        self.assign()
    }

    /// Brings the cells' currents in line with intent and health, and publishes.
    pub(super) fn refresh(
        &mut self,
        dataplane: &Dataplane,
        epochs: &mut Epochs,
        health: &HealthMap,
        now: u64,
    ) -> Result<(), DataplaneError> {
        let usable = plan::usable(&self.candidates(health), &self.preference());
        if self.alarm != usable.alarm {
            match &usable.alarm {
                Some(alarm) => tracing::error!(service = self.name(), "{alarm}"),
                None => tracing::info!(service = self.name(), "the alarm is over"),
            }
            self.alarm.clone_from(&usable.alarm);
        }
        let row = self.row(&usable);
        if self.generation == 0 {
            let cells = row.into_iter().map(Cell::settled).collect();
            return self.publish(dataplane, epochs, cells);
        }
        let mut cells = self.cells.clone();
        for (index, current) in row.into_iter().enumerate() {
            let (cell, starts) = rules::change(cells[index], current);
            cells[index] = cell;
            if starts {
                self.since[index] = now;
            }
        }
        self.publish(dataplane, epochs, cells)
    }

    /// What time does to the cells: disarming and settling. Publishes if anything changed.
    pub(super) fn settle(
        &mut self,
        dataplane: &Dataplane,
        epochs: &mut Epochs,
        now: u64,
    ) -> Result<(), DataplaneError> {
        // A row so young that a packet may still be working with the one before is left alone: see rules::settle.
        if !epochs.over(self.committed) || !self.cells.iter().any(|cell| cell.dirty()) {
            return Ok(());
        }
        let Facts { last_fail, udp_fail, .. } = dataplane.facts(self.saved.id);
        let facts = rules::Facts { last_fail, udp_fail, last_wipe: self.last_wipe };
        let cells = self
            .cells
            .iter()
            .zip(&self.since)
            .map(|(cell, since)| rules::settle(*cell, *since, facts, &self.times, now))
            .collect();
        self.publish(dataplane, epochs, cells)
    }

    /// Publishes a row: into the spare one, once no packet can be reading that, then the commit.
    pub(super) fn publish(
        &mut self,
        dataplane: &Dataplane,
        epochs: &mut Epochs,
        cells: Vec<Cell>,
    ) -> Result<(), DataplaneError> {
        if self.generation != 0 && cells == self.cells {
            return Ok(());
        }
        let fresh = self.generation == 0;
        if !fresh {
            epochs.wait_for(self.committed)?;
        }
        let second_row = !fresh && !self.second_row;
        let row = self.saved.row + if second_row { self.saved.spec.cells } else { 0 };
        dataplane.write_row(row, &cells);
        self.generation += 1;
        if fresh {
            dataplane.write_service(self.saved.id, &fixed(&self.saved.spec, self.key, self.times.udp_idle));
        }
        dataplane.commit(self.saved.id, Commit::new(row, self.generation));
        self.second_row = second_row;
        self.cells = cells;
        self.committed = epochs.commit();
        Ok(())
    }

    /// Makes one of its backends known to the maps: its slot, and the way back of its replies under `nat`.
    pub(super) fn write_backend(
        &self,
        dataplane: &mut Dataplane,
        index: usize,
        hop: zdd_common::entries::NextHop,
    ) -> Result<(), DataplaneError> {
        let backend = &self.saved.backends[index];
        let spec = &self.saved.spec;
        let mode = self.mode_of(&backend.version);
        let (addr, port) = (Addr::from(backend.address.ip()), backend.address.port().to_be());
        dataplane.write_backend(
            backend.id,
            &Backend {
                addr,
                next_hop: hop.0,
                port,
                mode: mode as u16,
                service: self.saved.id.into(),
                reserved: [0; 4],
            },
        );
        if mode == Mode::Nat {
            let entry = EndEntry {
                kind: EndKind::NatBackend as u16,
                service: self.saved.id,
                id: backend.id,
                vip_port: spec.vip.port.to_be(),
                vip: spec.vip.addr.into(),
            };
            let key = end(backend.address.ip(), backend.address.port(), proto(spec));
            dataplane.set_end(
                key,
                entry,
                &format!("{}/{} {}", spec.name, backend.version, backend.address),
            )?;
        }
        Ok(())
    }

    /// Forwarding mode of a version.
    pub(super) fn mode_of(&self, version: &str) -> Mode {
        let spec = &self.saved.spec;
        let own = spec.versions.iter().find(|v| v.name == version).and_then(|v| v.forward);
        match own.unwrap_or(spec.forward) {
            Forward::L2 => Mode::L2,
            Forward::Nat => Mode::Nat,
        }
    }

    /// Makes its VIP known: from now on its packets are steered.
    pub(super) fn write_vip(&self, dataplane: &mut Dataplane) -> Result<(), DataplaneError> {
        let spec = &self.saved.spec;
        let entry = EndEntry {
            kind: EndKind::Vip as u16,
            service: self.saved.id,
            id: self.saved.vip_id,
            ..EndEntry::default()
        };
        let key = end(spec.vip.addr, spec.vip.port, proto(spec));
        dataplane.set_end(key, entry, &format!("the VIP of {}", spec.name))
    }

    /// How many cells name a backend as base or current.
    pub(super) fn named(&self, ids: &[BackendId]) -> usize {
        self.cells.iter().filter(|cell| ids.contains(&cell.base()) || ids.contains(&cell.current())).count()
    }

    /// The share of cells whose new flows go to a set of backends.
    pub(super) fn share(&self, ids: &[BackendId]) -> f64 {
        if self.cells.is_empty() {
            return 0.0;
        }
        let held = self.cells.iter().filter(|cell| ids.contains(&cell.current())).count();
        held as f64 / self.cells.len() as f64
    }

    /// Ids of a version's backends.
    pub(super) fn ids_of(&self, version: &str) -> Vec<BackendId> {
        self.saved.backends.iter().filter(|b| b.version == version).map(|b| b.id).collect()
    }
}
