//! Start: what is in the kernel, what was persisted and what the file says are brought together before anything changes.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::mpsc;

use super::Reconciler;
use super::apply::{adjust, held};
use super::disk::Disk;
use super::face::{self, Face};
use super::grace::Epochs;
use super::ids::Ids;
use super::service::{Orders, Service};
use crate::chance::random;
use crate::clock;
use crate::dataplane::{Dataplane, FlowTotals, Opened};
use crate::desired::{AttachMode, Desired, ServiceSpec};
use crate::events::EventLog;
use crate::health::{Checker, CheckerOptions, Health, NetworkProber};
use crate::links::{LinkWatcher, matches, xdp};
use crate::neighbour::{Resolver, ResolverOptions};
use crate::otlp::Tracer;
use crate::plan;
use crate::rows::NoRoom;
use crate::state::State;
use crate::store::Store;
use zdd_common::hash::HashKey;

/// Opens everything and brings it in line; nothing is attached that was not before all rows are committed.
///
/// # Errors
/// Whatever keeps the agent from working; traffic goes on as it was in every case.
pub async fn start(desired: Desired, tracer: Tracer) -> anyhow::Result<Reconciler> {
    let store = Arc::new(Store::open(&desired.agent.state_dir)?);
    let state_lock = store.lock()?;
    let events = EventLog::open(&desired.agent.state_dir).with_context(|| {
        format!(
            "events.jsonl in {} cannot be opened\nhelp: see agent.state_dir",
            desired.agent.state_dir.display()
        )
    })?;
    let mut saved: Option<State> = store.load()?;
    // Refusals that the state alone can tell come before the kernel is touched. Without maps (a reboot, or a detach) nothing lives
    // that could break, and nobody serves until an agent starts.
    if let Some(state) = &mut saved {
        if Dataplane::is_pinned(&desired.agent.pin_dir) {
            let mut refusals = plan::refusals(&in_force(state), &desired.services);
            refusals.extend(plan::refusal(&taken(state, &desired.services)));
            anyhow::ensure!(refusals.is_empty(), "{}", refusals.join("\n"));
        } else {
            begin_anew(state, &desired.services);
        }
    }
    let given = desired.agent.key_file.as_deref().map(crate::state::read_key).transpose()?;
    if let (Some(given), Some(state)) = (given, &saved)
        && given != state.key
        && !state.services.is_empty()
    {
        anyhow::bail!(
            "the key file {} holds another key than {}: every client would be mapped anew and live flows would break\nhelp: leave key_file out to go on with the old key; to change it, `zdd detach` in a quiet moment, move {} away and start again",
            desired.agent.key_file.as_deref().unwrap_or("".as_ref()).display(),
            store.path().display(),
            store.path().display(),
        );
    }
    let fresh_key = given.unwrap_or_else(|| (random(), random()));
    let key = given.or(saved.as_ref().map(|state| state.key)).unwrap_or(fresh_key);
    let (links, link_events) = LinkWatcher::start().await?;
    let jumbo = desired.agent.mode == AttachMode::Native
        && links.links().values().any(|link| {
            link.mtu > xdp::MTU_OF_ONE_PAGE
                && desired.agent.interfaces.iter().any(|pattern| matches(pattern, &link.name))
        });
    let (mut dataplane, opened) = Dataplane::open(&desired.agent, HashKey { k0: key.0, k1: key.1 }, jumbo)?;
    if opened == Opened::Adopted && saved.is_none() {
        anyhow::bail!(
            "maps are pinned in {pins}, but {state} is not there: without it their numbers mean nothing\nhelp: traffic goes on as it is; put state.json back, or `zdd detach --pin-dir {pins}` in a quiet moment and start again",
            pins = desired.agent.pin_dir.display(),
            state = store.path().display(),
        );
    }
    dataplane.read_alarms();
    let now = clock::now_ns();
    let mut state = saved.unwrap_or(State {
        key: fresh_key,
        file: Vec::new(),
        services: Vec::new(),
        keys: Vec::new(),
        line_stopped: None,
    });
    // With services, it is the same.
    state.key = given.unwrap_or(state.key);
    if opened != Opened::Adopted {
        // What they add to begins at 0 again.
        for service in &mut state.services {
            service.retired.clear();
            service.retired_signals.clear();
        }
    }
    let merged = plan::merge(&state.file, &in_force(&state), &desired.services);
    let mut epochs = Epochs::start(dataplane.grace(), dataplane.cell_capacity())?;
    let mut orders = Orders::default();
    let services = open_services(&state, &dataplane, &mut epochs, &mut orders, now)?;
    if opened == Opened::Adopted {
        correct_quotas(&dataplane);
        tracing::info!(services = services.len(), "took over pinned maps: traffic went on meanwhile");
    } else if !services.is_empty() {
        tracing::info!(
            "the maps are new (a reboot, or a detach): the intent of state.json is put in force again"
        );
    }
    let (resolver, hop_changes) = Resolver::start(ResolverOptions::default())?;
    let gateways = crate::neighbour::watch_gateways().await;
    let (transitions_in, transitions) = mpsc::channel(256);
    let options = CheckerOptions { seed: random(), budget: desired.agent.probe_budget };
    let checker = Checker::new(NetworkProber, options, transitions_in);
    let mut reconciler = Reconciler {
        key: state.key,
        file: state.file.clone(),
        services,
        dataplane,
        epochs,
        orders,
        ids: Ids::default(),
        sets: Default::default(),
        disk: Disk::start(Arc::clone(&store))?,
        store,
        health: HashMap::new(),
        checker,
        transitions,
        resolver,
        hop_changes,
        gateways,
        wanted: HashMap::new(),
        hops: HashMap::new(),
        links,
        link_events,
        interfaces: HashMap::new(),
        ports: Vec::new(),
        watchers: Vec::new(),
        rollouts: super::rollouts::Tasks::new(),
        traces: super::traces::Traces::new(),
        rollout_traces: super::rollout_traces::RolloutTraces::new(tracer),
        line_stopped: state.line_stopped.clone(),
        loads: HashMap::new(),
        cohort_loads: HashMap::new(),
        totals: FlowTotals::default(),
        flows_seen: crate::clock::now_ns(),
        mapped: Default::default(),
        starved: Default::default(),
        quiet: Default::default(),
        _state_lock: state_lock,
        drift: [0; 3],
        signals_swept: true,
        events,
        spent: super::change::Spent::recall(std::mem::take(&mut state.keys)),
        desired,
    };
    reconciler.recall_health();
    reconciler.recall_sets()?;
    reconciler.forget_dangling()?;
    for index in 0..reconciler.services.len() {
        reconciler.rewrite(index)?;
    }
    reconciler.file = reconciler.desired.services.clone();
    adjust(&mut reconciler, &merged.services).map_err(|refused| anyhow::anyhow!("{refused}"))?;
    reconciler.disk.follow(false);
    for (name, note) in merged.notes {
        tracing::warn!(service = name, "{note}");
        if let Some(service) = reconciler.services.iter_mut().find(|s| s.name() == name) {
            service.notes.push(note);
        }
    }
    reconciler.attach_present().await?;
    Ok(reconciler)
}

/// The backends that the file gives to somebody else than who has them.
fn taken(state: &State, file: &[ServiceSpec]) -> Vec<plan::Taken> {
    plan::taken(&state.services.iter().flat_map(held).collect::<Vec<_>>(), file)
}

/// Takes out of the state what stands for flows, when there are none: services that the file would have moved, backends that it
/// gives to somebody else, and those that only drained.
fn begin_anew(state: &mut State, file: &[ServiceSpec]) {
    state.services.retain(|service| {
        let refusals = plan::refusals(std::slice::from_ref(&service.spec), file);
        if let Some(why) = refusals.first().and_then(|why| why.lines().next()) {
            tracing::warn!(
                service = service.spec.name,
                "no flow lives, so it begins anew as the file says: {why}"
            );
        }
        refusals.is_empty()
    });
    let taken = taken(state, file);
    for service in &mut state.services {
        let goes = |address: &std::net::SocketAddr| {
            taken.iter().any(|taken| taken.service == service.spec.name && taken.address == *address)
        };
        for version in &mut service.spec.versions {
            version.backends.retain(|backend| !goes(&backend.address));
        }
        service.backends.retain(|backend| !backend.removed && !goes(&backend.address));
    }
}

/// The services that the state has in force.
fn in_force(state: &State) -> Vec<ServiceSpec> {
    state.services.iter().map(|service| service.spec.clone()).collect()
}

/// The services of the state, each VIP with its row: those in the maps keep theirs, the others are given one.
fn open_services(
    state: &State,
    dataplane: &Dataplane,
    epochs: &mut Epochs,
    orders: &mut Orders,
    now: u64,
) -> anyhow::Result<Vec<Service>> {
    for saved in &state.services {
        for (place, at) in (1..).zip(&saved.faces) {
            if let Some(commit) = face::live(dataplane, at.id) {
                epochs.rows.adopt(commit.row(), saved.spec.cells, place);
            }
        }
    }
    let no_room = |NoRoom { used }: NoRoom| {
        anyhow::anyhow!(
            "{used} cells are in use, and there is no room for spare rows of each size besides\nhelp: raise agent.limits.cells (after `zdd detach` in a quiet moment)"
        )
    };
    epochs.rows.reserve().map_err(no_room)?;
    let mut services = Vec::with_capacity(state.services.len());
    for saved in &state.services {
        let mut starts = Vec::with_capacity(saved.faces.len());
        for (place, at) in (1..).zip(&saved.faces) {
            starts.push(match face::live(dataplane, at.id) {
                Some(commit) => commit.row(),
                None => epochs.new_row(saved.spec.cells, place).map_err(no_room)?,
            });
        }
        let (key, shift) = (state.hash_key(), dataplane.epoch_shift());
        services.push(Service::open(saved.clone(), key, shift, orders, dataplane, (&starts, now)));
    }
    Ok(services)
}

/// A kill between freeing an entry and counting it left one too many.
fn correct_quotas(dataplane: &Dataplane) {
    let before = dataplane.quotas().used;
    let mut seen = [0i64; 3];
    dataplane.sweep(|scan| {
        if !scan.word.is(zdd_common::entries::State::Busy) {
            seen[scan.word.class_bits().min(2)] += 1;
        }
        zdd_common::rules::Sweep::Keep
    });
    for (class, seen) in seen.into_iter().enumerate() {
        let difference = seen - before[class] as i64;
        if difference != 0 {
            dataplane.correct_quota(class, difference);
        }
    }
}

impl Reconciler {
    /// A backend that failed its checks when the agent ended counts as failing until it passes one.
    fn recall_health(&mut self) {
        for service in self.services.iter().filter(|service| service.saved.spec.health.is_some()) {
            for backend in &service.saved.backends {
                if let Some(reason) = &backend.unhealthy {
                    let key = (service.name().to_owned(), backend.address);
                    let reason = format!("{reason} (before the agent was restarted; not asked yet)");
                    self.health.insert(key, (Health::Unhealthy, Some(reason)));
                }
            }
        }
    }

    /// Removes ends that no service has: a kill came between removing a service and forgetting its ends.
    fn forget_dangling(&mut self) -> anyhow::Result<()> {
        let mut known = Vec::new();
        for service in &self.services {
            known.extend(service.faces.iter().map(Face::ends));
            known.extend(service.saved.backends.iter().map(|backend| service.backend_ends(&backend.address)));
        }
        let single: std::collections::HashSet<_> =
            known.iter().filter(|ends| ends.more == 0).map(|ends| ends.first).collect();
        let dangling: Vec<_> =
            self.dataplane.ends().into_iter().filter(|end| !single.contains(end)).collect();
        for end in &dangling {
            self.dataplane.remove_end(*end);
        }
        let spans = self.dataplane.keep_spans(&known);
        if !dangling.is_empty() || spans > 0 {
            // What their service had counts as free: no packet may be reading it any more when it is written.
            let epoch = self.epochs.commit();
            self.epochs.wait_for(epoch)?;
        }
        Ok(())
    }

    /// Writes what the maps must hold for a saved service, wherever a kill may have come between.
    fn rewrite(&mut self, index: usize) -> anyhow::Result<()> {
        for backend in 0..self.services[index].saved.backends.len() {
            let service = &self.services[index];
            let address = service.saved.backends[backend].address;
            let fresh =
                service.faces.iter().all(|face| face.fresh() || !service.serves(&face.at.vip, &address));
            // Of an adopted backend the next hop stays until the resolver knows better.
            let id = self.services[index].saved.backends[backend].id;
            let hop = if fresh { Default::default() } else { self.dataplane.next_hop(id) };
            let hop = self.keep_port(hop);
            self.services[index].write_backend(
                &mut self.dataplane,
                backend,
                hop,
                &self.desired.agent.encap,
            )?;
        }
        Ok(())
    }

    /// A next hop of an earlier run names that run's port slots: they are taken over as they stand.
    fn keep_port(&mut self, hop: zdd_common::entries::NextHop) -> zdd_common::entries::NextHop {
        if hop.0 == 0 {
            return hop;
        }
        let slot = usize::from(hop.port());
        while self.ports.len() < slot {
            let index = self.ports.len() as u16 + 1;
            let port = self.dataplane.port(index);
            self.ports.push((port.ifindex, port.mac, port.tags));
        }
        hop
    }

    /// Attaches to what is there now. An interface that is named outright must be there and must work; of those that match
    /// a pattern, one that fails is told and left out.
    async fn attach_present(&mut self) -> anyhow::Result<()> {
        let links = self.links.links();
        for name in self.desired.agent.interfaces.clone() {
            let plain = !name.contains(['*', '?']);
            if plain && !links.values().any(|link| link.name == name) {
                let there: Vec<&str> = links.values().map(|link| link.name.as_str()).collect();
                anyhow::bail!(
                    "interface {name} is not there (there are: {})\nhelp: correct agent.interfaces, or write a pattern (`{name}*`) for one that appears later",
                    there.join(", ")
                );
            }
        }
        for link in links.values() {
            let named = self.desired.agent.interfaces.contains(&link.name);
            if let Err(error) = self.attach(link).await {
                if named {
                    return Err(error.into());
                }
                tracing::error!("{error}");
            }
        }
        if self.interfaces.values().all(|i| !i.attached) {
            tracing::warn!(patterns = ?self.desired.agent.interfaces, "no interface matches yet: waiting for one to appear");
        }
        Ok(())
    }
}
