//! One service as the loop knows it: intent, cells, clocks.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use zdd_common::entries::{Affinity, Backend, BackendId, Cell, EndEntry, EndKind, Mode, Service as Fixed};
use zdd_common::hash::HashKey;
use zdd_common::net::{Addr, End, TCP, UDP};
use zdd_common::rules::Timeouts;
use zdd_common::signals::Rate;
use zdd_common::{maglev, split, time};

use super::face::Face;
use super::outage::Outages;
use super::ramp::Ramp;
use super::rollout_batches::held_back;
use crate::admission::NewPerSource;
use crate::clock;
use crate::dataplane::{Dataplane, DataplaneError, Ends};
use crate::desired::{self, BasisPoints, EncapSources, Forward, Protocol, ServiceSpec, Vip};
use crate::health::{DependencyState, Health};
use crate::plan::{self, Candidate, Usable};
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
    /// One for each VIP and each of its cohorts, in the order of `saved.faces`.
    pub(super) faces: Vec<Face>,
    order: Arc<[u32]>,
    key: HashKey,
    pub(super) times: Timeouts,
    /// Live entries by backend, of the last sweep.
    pub(super) flows: HashMap<BackendId, u64>,
    /// When the last sweep began, ns since boot.
    pub(super) swept: u64,
    /// Since when no cell names a draining backend, ns since boot.
    pub(super) unnamed: HashMap<BackendId, u64>,
    /// Since when UDP backends fail their checks, ns since boot.
    pub(super) failing: HashMap<BackendId, u64>,
    /// Those of them whose flows are let go.
    pub(super) given_up: Vec<BackendId>,
    pub(super) notes: Vec<String>,
    /// What its backends' entries say of how many flows are followed and whether some are mapped, once they were written.
    replies_written: Option<(Rate, u32)>,
    /// Since when backends take flows: those that have just begun take fewer.
    pub(super) ramp: Ramp,
    /// What backends last told of the things that they need.
    pub(super) depends: HashMap<SocketAddr, Vec<DependencyState>>,
    /// What fails, or has failed, for all of them.
    pub(super) outages: Outages,
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Timeouts of a service, with a SYN filter of the given epoch.
fn timeouts(spec: &ServiceSpec, epoch_shift: u32) -> Timeouts {
    let half_life = ns(clock::half_open_life(epoch_shift));
    // A half-open entry must not outlive what settling waits for. Of the other protocol's timeout nothing waits.
    let (idle, udp_idle) = match spec.protocol() {
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

/// IP protocol number of a service.
pub(super) fn proto(spec: &ServiceSpec) -> u8 {
    match spec.protocol() {
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
    let pace = NewPerSource::pace(spec.new_per_source);
    Fixed {
        commit: 0,
        key,
        groups: groups(spec),
        per_group: per_group(spec),
        affinity: affinity as u32,
        udp_idle: time::ticks(udp_idle),
        new_interval: pace.interval,
        new_burst: pace.burst,
        reserved: [0; 2],
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
    /// A service that is in the state. `starts`: for each of its faces the row that it has or will have first, see
    /// [`Face::open`].
    pub(super) fn open(
        saved: SavedService,
        key: HashKey,
        epoch_shift: u32,
        orders: &mut Orders,
        dataplane: &Dataplane,
        (starts, now): (&[u32], u64),
    ) -> Self {
        let times = timeouts(&saved.spec, epoch_shift);
        let order = orders.of(&key, groups(&saved.spec));
        let faces = saved
            .faces
            .iter()
            .zip(starts)
            .map(|(face, start)| Face::open(face.clone(), saved.spec.cells, dataplane, (*start, now)))
            .collect();
        Self {
            faces,
            order,
            key,
            times,
            flows: HashMap::new(),
            swept: 0,
            unnamed: HashMap::new(),
            failing: HashMap::new(),
            given_up: Vec::new(),
            notes: Vec::new(),
            replies_written: None,
            ramp: Ramp::default(),
            depends: HashMap::new(),
            outages: Outages::default(),
            saved,
        }
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.saved.spec.name
    }

    /// Its fixed fields as the maps hold them.
    pub(super) fn fixed(&self) -> Fixed {
        fixed(&self.saved.spec, self.key, self.times.udp_idle)
    }

    /// Its fixed fields as steering sees them.
    pub(super) fn view(&self) -> zdd_common::entries::ServiceView {
        self.fixed().view()
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
        own.is_none_or(|b| self.backend_drains(b)) || self.version_drains(version)
    }

    /// The same for one that is known: asked of each of 10,000 backends, looking them up is what takes the time.
    pub(super) fn backend_drains(&self, backend: &SavedBackend) -> bool {
        backend.drain.is_some()
            || backend.removed
            || self.version_drains(&backend.version)
            || held_back(&self.saved.rollouts, backend.address)
    }

    fn version_drains(&self, version: &str) -> bool {
        self.saved.draining.iter().any(|drain| drain.version == version)
    }

    /// Whether a backend takes what comes to a VIP: see [`ServiceSpec::vip_of`].
    pub(super) fn serves(&self, vip: &Vip, backend: &SocketAddr) -> bool {
        self.mains().count() == 1 || vip.serves(backend)
    }

    /// The backends of each slot that serve a VIP, as planning sees them.
    fn candidates(&self, vip: &Vip, health: &HealthMap, outages: &[&str]) -> Vec<Vec<Candidate>> {
        let mut slots = vec![Vec::new(); self.saved.slots.len()];
        let versions = &self.saved.spec.versions;
        let weights: HashMap<(&str, SocketAddr), u32> = versions
            .iter()
            .flat_map(|v| v.backends.iter().map(|b| ((v.name.as_str(), b.address), b.weight)))
            .collect();
        for backend in self.saved.backends.iter().filter(|b| !b.removed && self.serves(vip, &b.address)) {
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
                weight: self.ramp.weight(backend.id, weight),
                healthy: verdict != Some(Health::Unhealthy) || self.explained(backend, outages),
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

    /// What of it can take new flows that come to a VIP.
    pub(super) fn usable(&self, vip: &Vip, health: &HealthMap) -> Usable {
        self.usable_for(vip, health, None)
    }

    /// The same of a preview VIP, if `only` is the version that it leads to: it stands in for all others, whatever their weights, and
    /// nobody for it, because whoever looks at a version wants to see how ill it is, not another one.
    fn usable_for(&self, vip: &Vip, health: &HealthMap, only: Option<usize>) -> Usable {
        let outages = self.outages();
        let mut candidates = self.candidates(vip, health, &outages);
        if let Some(only) = only {
            let others = candidates.iter_mut().enumerate().filter(|(slot, _)| *slot != only);
            others.for_each(|(_, backends)| backends.clear());
        }
        let threshold = self.saved.spec.health.as_ref().and_then(|health| health.panic_threshold);
        let kept = threshold.map_or_else(Vec::new, |threshold| plan::panic(&mut candidates, threshold));
        let mut usable = plan::usable(&candidates, &self.preference());
        let panics = kept.iter().map(|panic| {
            format!(
                "{} of {} backends of {} fail their health checks, more than panic_threshold allows: all of them take new flows",
                panic.failing, panic.all, self.saved.slots[panic.slot]
            )
        });
        let outages = outages.iter().map(|name| {
            format!("{name} fails for every backend: health checks that fail with it take nobody out")
        });
        let alarms: Vec<String> = usable.alarm.take().into_iter().chain(outages).chain(panics).collect();
        usable.alarm = (!alarms.is_empty()).then(|| alarms.join("; "));
        usable
    }

    /// The version that a preview VIP leads to; `None`: it is none, or no version takes any new flows.
    pub(super) fn preview_slot(&self, face: &Face) -> Option<usize> {
        if !face.at.preview {
            return None;
        }
        let saved = &self.saved;
        let takes = |name: &str| {
            let mut own = saved.backends.iter().filter(|b| b.version == name && !b.removed);
            own.any(|b| self.serves(&face.at.vip, &b.address) && !self.backend_drains(b))
        };
        let version = crate::preview::version(&saved.spec, &saved.rollouts, takes)?;
        saved.slots.iter().position(|name| name == version)
    }

    /// Whether a preview VIP leads to another version than its row was last made for.
    pub(super) fn preview_moved(&self) -> bool {
        self.faces.iter().any(|face| face.at.preview && self.preview_slot(face) != face.shows)
    }

    /// For each face, what can take new flows and the backend of each cell's.
    pub(super) fn rows(&mut self, health: &HealthMap) -> Vec<(Usable, Vec<BackendId>)> {
        let previews: Vec<Option<usize>> = self.faces.iter().map(|face| self.preview_slot(face)).collect();
        let usable: Vec<Usable> = self
            .faces
            .iter()
            .zip(&previews)
            .map(|(face, preview)| self.usable_for(&face.at.vip, health, *preview))
            .collect();
        let per_group = per_group(&self.saved.spec);
        let (saved, key) = (&self.saved, &self.key);
        let row = |((face, usable), preview): ((&mut Face, Usable), Option<usize>)| {
            let groups = Self::groups_of(saved, face);
            face.shows = preview;
            let row = plan::currents(&mut face.cache, &usable, &groups, per_group, key);
            (usable, row)
        };
        self.faces.iter_mut().zip(usable).zip(previews).map(row).collect()
    }

    /// Gives the versions new weights, in their order, and moves groups accordingly; how many moved. A drain of a version that
    /// has weight now is over; `notes` are told.
    pub(super) fn give_weights(&mut self, new: &[BasisPoints], notes: &mut Vec<String>) -> u32 {
        for (version, weight) in self.saved.spec.versions.iter_mut().zip(new) {
            version.weight = *weight;
        }
        let over = self.end_drains(new);
        notes.extend(over.iter().map(|name| format!("the drain of {name} is over: it has weight again")));
        self.assign()
    }

    /// Ends the drains of versions that get weight; which they were.
    pub(super) fn end_drains(&mut self, new: &[BasisPoints]) -> Vec<String> {
        let versions = self.saved.spec.versions.iter().zip(new);
        let weighted: Vec<&str> =
            versions.filter(|(_, weight)| **weight > 0).map(|(version, _)| version.name.as_str()).collect();
        let over = self.saved.draining.extract_if(.., |drain| weighted.contains(&drain.version.as_str()));
        over.map(|drain| drain.version).collect()
    }

    /// Makes one of its backends known to the maps: its slot, and under `nat` and `snat` the way back of its replies.
    pub(super) fn write_backend(
        &self,
        dataplane: &mut Dataplane,
        index: usize,
        hop: zdd_common::entries::NextHop,
        encap: &EncapSources,
    ) -> Result<(), DataplaneError> {
        let source = if self.saved.backends[index].address.is_ipv4() { encap.v4 } else { encap.v6 };
        let backend = &self.saved.backends[index];
        let spec = &self.saved.spec;
        let mode = self.mode_of(backend);
        let (addr, port) = (Addr::from(backend.address.ip()), backend.address.port().to_be());
        // Checked when it came: a backend has a VIP.
        let Some(face) = self.mains().find(|face| self.serves(&face.at.vip, &backend.address)) else {
            return Ok(());
        };
        dataplane.write_backend(
            backend.id,
            &Backend {
                addr,
                next_hop: hop.0,
                port,
                mode: mode as u16,
                service: face.at.id.into(),
                source: source.addr.into(),
                spread: source.free_low_bits(),
                reserved: [0; 3],
            },
        );
        let kind = match mode {
            Mode::Nat => Some(EndKind::NatBackend),
            Mode::Snat => Some(EndKind::SnatBackend),
            Mode::L2 | Mode::Ipip => None,
        };
        if let Some(kind) = kind {
            let entry = EndEntry {
                kind: kind as u16,
                service: face.at.id,
                id: backend.id,
                vip_port: face.at.vip.port.to_be(),
                vip: face.at.vip.addr.into(),
                mapped: self.maps_back(dataplane).into(),
                ..EndEntry::default()
            };
            let entry = entry.with_rate(self.rate());
            dataplane.set_ends(
                self.backend_ends(&backend.address),
                entry,
                &format!("{}/{} {}", spec.name, backend.version, backend.address),
            )?;
        }
        Ok(())
    }

    /// How many of its flows are followed.
    pub(super) fn rate(&self) -> Rate {
        match &self.saved.spec.signals {
            Some(signals) if self.saved.spec.protocol() == Protocol::Tcp => Rate::one_in(signals.shift),
            _ => Rate::OFF,
        }
    }

    /// Whether flows of its preview VIPs are mapped as under `snat`.
    pub(super) fn maps(&self) -> bool {
        let spec = &self.saved.spec;
        let nat = |version: &desired::VersionSpec| version.forward.unwrap_or(spec.forward) == Forward::Nat;
        !spec.preview.is_empty() && spec.versions.iter().any(nat)
    }

    /// Whether what its `nat` backends send to a port of ours is mapped back: flows of preview VIPs, and of backends that are their own clients.
    fn maps_back(&self, dataplane: &Dataplane) -> bool {
        self.maps() || dataplane.gives_ports()
    }

    /// Tells the entries of its backends, under which their replies are known, how many flows are followed, and whether some are mapped.
    pub(super) fn write_replies(&mut self, dataplane: &mut Dataplane) -> Result<(), DataplaneError> {
        let (rate, mapped) = (self.rate(), u32::from(self.maps_back(dataplane)));
        if self.replies_written == Some((rate, mapped)) {
            return Ok(());
        }
        let spec = &self.saved.spec;
        for backend in &self.saved.backends {
            let ends = self.backend_ends(&backend.address);
            let Some(entry) = dataplane.ends_entry(ends).filter(|entry| entry.id == backend.id) else {
                continue;
            };
            let new = EndEntry { mapped, ..entry.with_rate(rate) };
            if new != entry {
                dataplane.set_ends(ends, new, &format!("{} {}", spec.name, backend.address))?;
            }
        }
        self.replies_written = Some((rate, mapped));
        Ok(())
    }

    /// A backend as its replies come: with as many ports as its VIP has.
    pub(super) fn backend_ends(&self, address: &SocketAddr) -> Ends {
        let spec = &self.saved.spec;
        Ends { first: end(address.ip(), address.port(), proto(spec)), more: spec.more_ports(address) }
    }

    /// How packets reach the backends of a version.
    pub(super) fn forward_of(&self, version: &str) -> Forward {
        self.saved.spec.forward_of(version)
    }

    /// How packets reach a backend.
    pub(super) fn mode_of(&self, backend: &SavedBackend) -> Mode {
        match backend.forward.unwrap_or_else(|| self.forward_of(&backend.version)) {
            Forward::L2 => Mode::L2,
            Forward::Nat => Mode::Nat,
            Forward::Ipip => Mode::Ipip,
            Forward::Snat => Mode::Snat,
        }
    }

    /// Whether any cell names one of these backends as base or current.
    pub(super) fn names(&self, ids: &[BackendId]) -> bool {
        let named = |cell: &Cell| ids.contains(&cell.base()) || ids.contains(&cell.current());
        self.faces.iter().any(|face| face.cells.iter().any(named))
    }

    /// The share of cells, of all its VIPs without their cohorts, whose new flows go to a set of backends.
    pub(super) fn share(&self, ids: &[BackendId]) -> f64 {
        let cells: usize = self.mains().map(|face| face.cells.len()).sum();
        if cells == 0 {
            return 0.0;
        }
        let held: u32 = self.mains().flat_map(|face| ids.iter().map(|id| face.held(*id))).sum();
        f64::from(held) / cells as f64
    }

    /// Grows by one with each commit of one of its VIPs.
    pub(super) fn generation(&self) -> u64 {
        self.faces.iter().map(|face| u64::from(face.generation)).sum()
    }

    /// Cells that have not settled since their last change.
    pub(super) fn dirty_cells(&self) -> u32 {
        self.faces.iter().map(|face| face.dirty).sum()
    }

    /// What needs somebody's attention now; with two VIPs it says which.
    pub(super) fn alarm(&self) -> Option<String> {
        let both = self.mains().count() > 1;
        let said: Vec<String> = self
            .mains()
            .filter_map(|face| {
                let alarm = face.alarm.as_ref()?;
                Some(if both { format!("{}: {alarm}", face.at.vip) } else { alarm.clone() })
            })
            .collect();
        (!said.is_empty()).then(|| said.join("; "))
    }

    /// Ids of a version's backends.
    pub(super) fn ids_of(&self, version: &str) -> Vec<BackendId> {
        self.saved.backends.iter().filter(|b| b.version == version).map(|b| b.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use zdd_common::syn_filter;

    use super::*;

    fn of(proto: &str, idle: &str, syn_memory: Duration) -> Timeouts {
        let text = format!(
            "[agent]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"s\"\nvip = \"10.0.0.10:53/{proto}\"\nforward = \"nat\"\n{idle}\n\
             [[service.version]]\nname = \"v1\"\nbackends = [\"10.1.0.1:53\"]\n"
        );
        let (desired, _) =
            crate::config::Config::parse(&text, "zdd.toml").unwrap_or_else(|errors| panic!("{errors}"));
        timeouts(&desired.services[0], syn_filter::epoch_shift(time::ticks(ns(syn_memory))))
    }

    #[test]
    fn an_entry_lives_for_the_idle_timeout_of_its_protocol_and_under_tcp_no_shorter_than_a_handshake() {
        let seconds = |ns: u64| ns / 1_000_000_000;
        let (long, short) = (Duration::from_secs(64), Duration::from_secs(1));
        let tcp = |idle, memory| seconds(of("tcp", idle, memory).idle);
        assert_eq!(tcp("", long), 350);
        assert_eq!(tcp("idle_timeout = \"5s\"", long), 103, "three epochs of a SYN filter of 64 s");
        assert_eq!(tcp("idle_timeout = \"5s\"", short), 5);
        let udp = of("udp", "udp_idle_timeout = \"5s\"", long);
        assert_eq!((seconds(udp.idle), seconds(udp.udp_idle)), (5, 5), "there is no handshake");
    }
}
