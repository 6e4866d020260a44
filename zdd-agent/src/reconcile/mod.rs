//! The one loop that acts: it alone writes maps. Requests, health, next hops, interfaces and time come in; rows, backends
//! and answers go out. Intent is persisted before it is committed, so that a kill at any point is finished by the restart. Nothing here
//! waits for a disk: whoever asked does, see `disk`.

mod admission;
mod apply;
mod change;
mod cohorts;
mod commands;
mod disk;
mod drains;
mod ends;
mod explain;
mod face;
mod grace;
mod guard_capacity;
mod holds;
mod ids;
mod mapped;
mod network;
mod nodes;
mod outage;
mod publish;
mod ramp;
mod restore;
mod rollout_batches;
mod rollout_commands;
mod rollout_signals;
mod rollout_traces;
mod rollout_weights;
mod rollout_work;
mod rollouts;
mod service;
mod sick;
mod signals;
mod status;
mod sweep;
pub mod table;
mod traces;
mod trains;
mod troubles;
mod who_moves;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use crate::clock;
use crate::control::{Refused, Request};
use crate::dataplane::{Dataplane, DataplaneError, FlowTotals, MappingTotals};
use crate::desired::{Desired, ServiceSpec};
use crate::events::{EventKind, EventLog};
use crate::health::{Checker, Health, NetworkProber, Target, Transition};
use crate::links::{LinkEvent, LinkWatcher};
use crate::neighbour::{NextHopChange, NextHopState, Resolver};
use crate::report::DetachReport;
use crate::shutdown::Shutdown;
use crate::state::StateRef;
use crate::store::Store;
use drains::Watcher;
use grace::Epochs;
use ids::Ids;
use network::Interface;
use service::{HealthMap, Orders, Service};

pub use change::KEY_LIFE;
pub use restore::start;

/// What tells port slots apart: interface index, its MAC, and the VLANs there.
type PortKey = (u32, [u8; 6], u32);

/// Everything the loop owns.
pub struct Reconciler {
    desired: Desired,
    key: (u64, u64),
    /// Services as the file last said.
    file: Vec<ServiceSpec>,
    services: Vec<Service>,
    dataplane: Dataplane,
    epochs: Epochs,
    orders: Orders,
    /// Forgotten whenever a backend goes.
    ids: Ids,
    sets: admission::Sets,
    store: Arc<Store>,
    disk: disk::Disk,
    health: HealthMap,
    checker: Checker<NetworkProber>,
    transitions: mpsc::Receiver<Transition>,
    resolver: Resolver,
    hop_changes: mpsc::Receiver<NextHopChange>,
    /// Gateways of this host: clients are behind them, and no packet of theirs makes the kernel resolve them.
    gateways: watch::Receiver<BTreeSet<IpAddr>>,
    /// Clients whose neighbour replies asked for, and until when it is kept warm (ns since boot).
    wanted: HashMap<IpAddr, u64>,
    hops: HashMap<IpAddr, NextHopState>,
    links: LinkWatcher,
    link_events: mpsc::Receiver<LinkEvent>,
    interfaces: HashMap<u32, Interface>,
    /// Port slots given out.
    ports: Vec<PortKey>,
    watchers: Vec<Watcher>,
    rollouts: rollouts::Tasks,
    traces: traces::Traces,
    rollout_traces: rollout_traces::RolloutTraces,
    /// `zdd rollout stop-the-line`, and why.
    line_stopped: Option<String>,
    /// New flows of the services whose backends bear only so many.
    loads: HashMap<String, crate::capacity::Load>,
    /// The same of cohorts, by service and name.
    cohort_loads: HashMap<(String, String), crate::capacity::Load>,
    totals: FlowTotals,
    /// When the flow table was last not empty (ns since boot).
    flows_seen: u64,
    /// Mappings of `snat`, IPv4 and IPv6, of the last sweep.
    mapped: [MappingTotals; 2],
    starved: mapped::Starved,
    quiet: mapped::Quiet,
    /// No other agent writes into the state directory.
    _state_lock: std::fs::File,
    /// Difference between counted and seen entries per class, of the last sweep.
    drift: [i64; 3],
    /// Whether flows were followed at the last look.
    signals_swept: bool,
    events: EventLog,
    spent: change::Spent,
}

/// How often veths are asked whether they take redirected frames.
const RECHECK: Duration = Duration::from_secs(3);

/// Why the loop ended.
pub enum Ended {
    /// It was told to.
    Stopped,
    /// Everything was taken out of the kernel.
    Detached,
}

impl Reconciler {
    /// Runs until told to stop. Traffic goes on afterwards.
    pub async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        shutdown: Shutdown,
    ) -> anyhow::Result<Ended> {
        let mut locals = self.links.locals();
        self.write_locals(&locals.borrow_and_update().clone());
        let mut tick = tokio::time::interval_at(Instant::now(), self.period());
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut recheck = tokio::time::interval_at(Instant::now() + RECHECK, RECHECK);
        recheck.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rollout_tick = tokio::time::interval(rollouts::LOOK);
        rollout_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.resume_rollouts();
        loop {
            tokio::select! {
                biased;
                () = shutdown.wait() => return Ok(Ended::Stopped),
                Some(request) = requests.recv() => {
                    if let Some(reply) = self.take(request) {
                        return self.detach(reply);
                    }
                    self.watch_weights();
                }
                Some(answer) = self.rollouts.answers.recv() => self.rollout_answer(answer),
                _ = rollout_tick.tick(), if self.rollouts_go_on() => self.tick_rollouts(),
                Some(transition) = self.transitions.recv() => self.on_health(transition),
                Some(change) = self.hop_changes.recv() => self.on_next_hop(change),
                Some(event) = self.link_events.recv() => self.on_link(event).await,
                Ok(()) = locals.changed() => {
                    let addrs = Arc::clone(&locals.borrow_and_update());
                    self.write_locals(&addrs);
                }
                Ok(()) = self.gateways.changed() => self.follow_addresses(),
                _ = recheck.tick() => self.recheck_ports(),
                _ = tick.tick() => self.on_tick(),
                Some(packet) = self.traces.packets.recv() => self.on_traced(packet),
            }
            self.disk.follow(false);
        }
    }

    /// How often time is looked at: often enough for the shortest timeout.
    fn period(&self) -> Duration {
        let shortest =
            self.services.iter().map(|s| s.saved.spec.idle_timeout.min(s.saved.spec.udp_idle_timeout)).min();
        shortest
            .unwrap_or(Duration::from_secs(8))
            .div_f64(8.0)
            .clamp(Duration::from_millis(200), Duration::from_secs(1))
    }

    fn on_tick(&mut self) {
        let now = clock::now_ns();
        if self.traces.any() {
            self.prolong_traces();
        }
        if self.store.failing().is_some() && self.store.stage(&self.state()).is_ok() {
            self.disk.follow(true);
        }
        self.each_service("settling", |service, dataplane, epochs, _| service.settle(dataplane, epochs, now));
        self.give_up_udp(now);
        self.sweep(now);
        self.follow_members();
        self.sweep_signals();
        self.sweep_mappings(now);
        self.advance_drains(now);
        self.follow_wanted(now);
        self.look_at_load();
        self.look_at_ramps(now);
        self.follow_previews();
    }

    /// Preview VIPs lead to the candidate as soon as there is one.
    fn follow_previews(&mut self) {
        for index in 0..self.services.len() {
            if self.services[index].preview_moved()
                && let Err(refused) = self.publish(index)
            {
                let service = &mut self.services[index];
                tracing::error!(service = service.name(), "the preview VIP stays: {refused}");
                // At the next look again.
                service.faces.iter_mut().for_each(|face| face.shows = None);
            }
        }
    }

    /// Does something with every service; an error is told, and the others go on.
    fn each_service(
        &mut self,
        doing: &str,
        mut act: impl FnMut(&mut Service, &mut Dataplane, &mut Epochs, &HealthMap) -> Result<(), DataplaneError>,
    ) {
        let Self { services, dataplane, epochs, health, .. } = self;
        for service in services {
            if let Err(error) = act(service, dataplane, epochs, health) {
                tracing::error!(service = service.name(), %error, "{doing} failed: the last generation stays");
            }
        }
    }

    /// A transition, and whatever others have come since: after a start thousands come at once, and each alone would be
    /// saved and planned for.
    fn on_health(&mut self, first: Transition) {
        let mut touched = BTreeSet::new();
        let mut news = false;
        let mut next = Some(first);
        while let Some(transition) = next {
            if let Some((index, saved)) = self.note_health(transition) {
                touched.insert(index);
                news |= saved;
            }
            next = self.transitions.try_recv().ok();
        }
        if news && let Err(refused) = self.save() {
            tracing::error!("{refused}");
        }
        let now = clock::now_ns();
        let Self { services, dataplane, epochs, health, .. } = self;
        let mut names = Vec::with_capacity(touched.len());
        for index in touched {
            let done = services[index].refresh(dataplane, epochs, health, now);
            let service = services[index].name();
            if let Err(error) = done {
                tracing::error!(service, %error, "the change is not published: the last generation stays");
            }
            names.push(service.to_owned());
        }
        for name in names {
            self.health_is_known(&name);
        }
    }

    /// Takes one transition down: the service it is about, and whether what is persisted changes. `None`: it is about
    /// nobody who is known.
    fn note_health(&mut self, transition: Transition) -> Option<(usize, bool)> {
        let Transition { service: name, backend, health, reason, depends } = transition;
        let index = self.services.iter().position(|s| s.name() == name)?;
        let generation = self.services[index].generation();
        let service = &mut self.services[index];
        let known = service.saved.backends.iter().position(|b| b.address == backend)?;
        let key = (name.clone(), backend);
        if self.health.get(&key).is_none_or(|(before, _)| *before != health) {
            match &reason {
                Some(reason) => tracing::warn!(service = name, %backend, %health, reason, "health"),
                None => tracing::info!(service = name, %backend, %health, "health"),
            }
            let because = reason.as_deref().map_or(String::new(), |reason| format!(": {reason}"));
            let text = format!("{backend} is {health}{because}");
            self.events.note(EventKind::Health, Some((&name, generation)), text, None);
        }
        let failed_for_all = service.fails_for_all(&self.health);
        let before = service.depends.get(&backend).map_or(&[][..], Vec::as_slice);
        for state in depends.iter().filter(|state| state.well == Some(false)) {
            if !before.iter().any(|known| known.name == state.name && known.well == Some(false)) {
                tracing::warn!(service = name, %backend, dependency = state.name, said = state.said, "a dependency fails");
            }
        }
        service.depends.insert(backend, depends);
        service.note_outages(failed_for_all, std::time::Instant::now());
        let unhealthy = (health == Health::Unhealthy).then(|| reason.clone().unwrap_or_default());
        let saved = &mut service.saved.backends[known];
        let news = saved.unhealthy != unhealthy;
        saved.unhealthy = unhealthy;
        self.health.insert((name, backend), (health, reason));
        Some((index, news))
    }

    /// Tells checker and resolver which backends there are.
    fn follow_backends(&mut self) {
        let mut targets = Vec::new();
        for service in &self.services {
            let Some(spec) = &service.saved.spec.health else { continue };
            for backend in service.saved.backends.iter().filter(|b| !b.removed) {
                targets.push(Target {
                    service: service.name().to_owned(),
                    version: backend.version.clone(),
                    backend: backend.address,
                    spec: spec.clone(),
                });
            }
        }
        let known: HashSet<(&str, SocketAddr)> =
            targets.iter().map(|t| (t.service.as_str(), t.backend)).collect();
        self.health.retain(|(name, address), _| known.contains(&(name.as_str(), *address)));
        for service in &mut self.services {
            let name = service.saved.spec.name.as_str();
            service.depends.retain(|address, _| known.contains(&(name, *address)));
        }
        self.checker.set_targets(targets);
        self.follow_addresses();
    }

    /// What is persisted.
    fn state(&self) -> StateRef<'_> {
        StateRef {
            key: self.key,
            file: &self.file,
            services: self.services.iter().map(|service| &service.saved).collect(),
            keys: self.spent.keys(),
            line_stopped: self.line_stopped.as_deref(),
        }
    }

    /// Writes the intent down. Called before it is committed: what a kill interrupts is finished by the restart. The disk is
    /// waited for afterwards and elsewhere, see [`disk::Disk`].
    fn save(&self) -> Result<(), Refused> {
        self.store.stage(&self.state()).map_err(|error| {
            Refused::internal(format!(
                "{error}\nhelp: nothing was changed; make room or permissions for it and repeat"
            ))
        })?;
        self.spent.saved();
        Ok(())
    }

    fn detach(mut self, reply: crate::control::Reply<DetachReport>) -> anyhow::Result<Ended> {
        let dir = self.desired.agent.pin_dir.clone();
        let mut removed: Vec<String> = self
            .interfaces
            .values()
            .filter(|i| i.attached)
            .map(|i| format!("XDP program on {}", i.name))
            .collect();
        for index in self.interfaces.keys().copied().collect::<Vec<_>>() {
            if let Err(error) = self.dataplane.detach_interface(index) {
                tracing::error!(%error, "detaching");
            }
        }
        drop(self.dataplane);
        let done = crate::dataplane::detach(&dir);
        removed.push(format!("maps in {}", dir.display()));
        let answer = match &done {
            Ok(_) => Ok(DetachReport { removed }),
            Err(error) => Err(Refused::internal(error.to_string())),
        };
        drop(reply.send(answer));
        done?;
        Ok(Ended::Detached)
    }
}
