//! One service as the loop knows it: intent, cells, clocks; and how a new row of cells gets published.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
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
use crate::dataplane::{Dataplane, DataplaneError, Row};
use crate::desired::{self, Forward, Protocol, ServiceSpec};
use crate::health::Health;
use crate::plan::{self, Candidate, Currents};
use crate::state::{SavedBackend, SavedService};

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
    /// First cell of its live row, or of the one that its first publishing takes.
    start: u32,
    /// The live row; empty before the first publishing.
    pub(super) cells: Row,
    /// How many cells are dirty, and whether flows of any may have entries: counted when a row is published, because
    /// looking at every cell of a thousand settled services each second costs more than anything else.
    pub(super) dirty: u32,
    pub(super) lookup: bool,
    /// Cells whose new flows go to a backend.
    held: HashMap<BackendId, u32>,
    /// When each cell became dirty, ns since boot. Empty while all are clean.
    since: Vec<u64>,
    order: Arc<[u32]>,
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

/// The groups in the order of their ranks, by their number: the same for all services of a size, because the key is.
#[derive(Default)]
pub(super) struct Orders(HashMap<u32, Arc<[u32]>>);

impl Orders {
    fn of(&mut self, key: &HashKey, groups: u32) -> Arc<[u32]> {
        Arc::clone(self.0.entry(groups).or_insert_with(|| split::order(key, groups).into()))
    }
}

impl Service {
    /// A service that is in the state. If it is in the maps too, its live row is known to be its own and is taken over
    /// as it stands; else `start` is where its first row will be.
    pub(super) fn open(
        saved: SavedService,
        key: HashKey,
        epoch_shift: u32,
        orders: &mut Orders,
        dataplane: &Dataplane,
        (start, now): (u32, u64),
    ) -> Self {
        let times = timeouts(&saved.spec, epoch_shift);
        let order = orders.of(&key, groups(&saved.spec));
        let commit = Commit(dataplane.service(saved.id).commit);
        let lives = commit.generation() != 0;
        let cells = if lives { dataplane.row(commit.row(), saved.spec.cells) } else { Row::default() };
        // Nobody remembers when the dirty ones became so: their clocks start now.
        let since = if cells.iter().any(|cell| cell.dirty()) { vec![now; cells.len()] } else { Vec::new() };
        let mut service = Self {
            generation: commit.generation(),
            start: if lives { commit.row() } else { start },
            dirty: 0,
            lookup: false,
            held: HashMap::new(),
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
        };
        service.count();
        service
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

    /// Its row, for whoever takes it out: first cell and size.
    pub(super) fn row(&self) -> (u32, u32) {
        (self.start, self.saved.spec.cells)
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
        own.is_none_or(|b| b.drain.is_some() || b.removed) || self.version_drains(version)
    }

    /// The same for one that is known: asked of each of 10,000 backends, looking them up is what takes the time.
    pub(super) fn backend_drains(&self, backend: &SavedBackend) -> bool {
        backend.drain.is_some() || backend.removed || self.version_drains(&backend.version)
    }

    fn version_drains(&self, version: &str) -> bool {
        self.saved.draining.iter().any(|drain| drain.version == version)
    }

    /// The backends of each slot, as planning sees them.
    pub(super) fn candidates(&self, health: &HealthMap) -> Vec<Vec<Candidate>> {
        let mut slots = vec![Vec::new(); self.saved.slots.len()];
        let versions = &self.saved.spec.versions;
        let weights: HashMap<(&str, SocketAddr), u32> = versions
            .iter()
            .flat_map(|v| v.backends.iter().map(|b| ((v.name.as_str(), b.address), b.weight)))
            .collect();
        for backend in self.saved.backends.iter().filter(|b| !b.removed) {
            let Some(slot) = self.saved.slots.iter().position(|name| *name == backend.version) else {
                continue;
            };
            let Some(weight) = weights.get(&(backend.version.as_str(), backend.address)).copied() else {
                continue;
            };
            let verdict =
                health.get(&(self.saved.spec.name.clone(), backend.address)).map(|(health, _)| *health);
            slots[slot].push(Candidate {
                id: backend.id,
                identity: maglev::identity(backend.address.ip().into(), backend.address.port().to_be()),
                weight,
                healthy: verdict != Some(Health::Unhealthy),
                draining: self.backend_drains(backend),
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
        let row = plan::currents(
            &mut self.cache,
            &usable,
            &self.saved.groups,
            per_group(&self.saved.spec),
            &self.key,
        );
        if self.generation == 0 {
            let cells = row.into_iter().map(Cell::settled).collect();
            return self.publish(dataplane, epochs, cells);
        }
        let mut cells = self.cells.to_vec();
        for (index, (cell, current)) in cells.iter_mut().zip(row).enumerate() {
            let (changed, starts) = rules::change(*cell, current);
            *cell = changed;
            if starts {
                if self.since.is_empty() {
                    self.since = vec![now; self.cells.len()];
                }
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
        if self.dirty == 0 || !epochs.over(self.committed) {
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

    /// Publishes a row: into a spare one, which no packet can be reading, then the commit.
    pub(super) fn publish(
        &mut self,
        dataplane: &Dataplane,
        epochs: &mut Epochs,
        cells: Vec<Cell>,
    ) -> Result<(), DataplaneError> {
        if self.generation != 0 && cells == *self.cells {
            return Ok(());
        }
        let fresh = self.generation == 0;
        if !fresh {
            // So that no packet works with anything older than the row before this one: see rules::settle.
            epochs.wait_for(self.committed)?;
        }
        let len = self.saved.spec.cells;
        let row = if fresh { self.start } else { epochs.spare_row(len)? };
        dataplane.write_row(row, &cells);
        self.generation += 1;
        if fresh {
            dataplane.write_service(self.saved.id, &fixed(&self.saved.spec, self.key, self.times.udp_idle));
        }
        dataplane.commit(self.saved.id, Commit::new(row, self.generation));
        self.cells = dataplane.row(row, len);
        self.committed = epochs.commit();
        if !fresh {
            epochs.rows.retire(self.start, len, self.committed);
        }
        self.start = row;
        self.count();
        if self.dirty == 0 {
            // A thousand settled services must not hold what only a change needs.
            self.since = Vec::new();
            self.cache.clear();
        }
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
        let held: u32 = ids.iter().filter_map(|id| self.held.get(id)).sum();
        f64::from(held) / self.cells.len() as f64
    }

    /// Ids of a version's backends.
    pub(super) fn ids_of(&self, version: &str) -> Vec<BackendId> {
        self.saved.backends.iter().filter(|b| b.version == version).map(|b| b.id).collect()
    }
}
