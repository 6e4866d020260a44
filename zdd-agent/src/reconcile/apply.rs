//! From the services that are to those that shall be: numbers are given out and taken back here.

use std::collections::HashSet;

use zdd_common::entries::BackendId;
use zdd_common::limits::BACKENDS_PER_SERVICE_MAX;

use super::Reconciler;
use super::face::Face;
use super::service::{self, Service};
use crate::clock;
use crate::control::Refused;
use crate::desired::{Desired, ServiceSpec, Vip};
use crate::plan;
use crate::report::{ApplyReport, Change};
use crate::rows::NoRoom;
use crate::state::{SavedBackend, SavedFace, SavedService};

/// Whose row of cells a VIP gets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of<'a> {
    Everybody,
    Cohort(&'a str),
    Preview,
}

impl Reconciler {
    /// The services in force.
    pub(super) fn specs(&self) -> Vec<ServiceSpec> {
        self.services.iter().map(|service| service.saved.spec.clone()).collect()
    }

    /// Applies a whole configuration, or tells what would change.
    pub(super) fn apply(&mut self, desired: Desired, dry_run: bool) -> Result<ApplyReport, Refused> {
        let from = self.specs();
        let changes: Vec<Change> = plan::changes(&from, &desired.services);
        let mut refusals = plan::refusals(&from, &desired.services);
        let held: Vec<_> = self.services.iter().flat_map(|service| held(&service.saved)).collect();
        refusals.extend(plan::refusal(&plan::taken(&held, &desired.services)));
        if !refusals.is_empty() {
            return Err(Refused::conflict(refusals.join("\n")));
        }
        let mut warnings = Vec::new();
        if desired.agent != self.desired.agent {
            warnings.push(
                "[agent] differs: it is read when the agent starts; restart it (traffic goes on)".to_owned(),
            );
        }
        if !dry_run {
            // It is persisted with what it asks for.
            let file = std::mem::replace(&mut self.file, desired.services);
            let target = self.file.clone();
            if let Err(refused) = adjust(self, &target) {
                self.file = file;
                return Err(refused);
            }
            self.desired.nodes = desired.nodes;
            for service in &mut self.services {
                service.notes.clear();
            }
        }
        Ok(ApplyReport { changes, applied: !dry_run, warnings })
    }

    /// An unused backend id, which is used from now on.
    fn new_backend_id(&mut self) -> Option<BackendId> {
        let known = self.services.iter().flat_map(|service| service.saved.backends.iter().map(|b| b.id));
        self.ids.take(self.desired.agent.limits.backends.min(65_535) as u16, known)
    }

    fn create(&mut self, spec: &ServiceSpec) -> Result<(), Refused> {
        let saved = SavedService {
            spec: ServiceSpec {
                versions: spec
                    .versions
                    .iter()
                    .map(|v| crate::desired::VersionSpec { backends: vec![], ..v.clone() })
                    .collect(),
                ..spec.clone()
            },
            faces: Vec::new(),
            slots: spec.versions.iter().map(|v| v.name.clone()).collect(),
            groups: vec![0; service::groups(spec) as usize],
            backends: Vec::new(),
            draining: Vec::new(),
            retired: Default::default(),
            retired_signals: Default::default(),
            rollouts: Default::default(),
        };
        let shift = self.dataplane.epoch_shift();
        let key = zdd_common::hash::HashKey { k0: self.key.0, k1: self.key.1 };
        let at = (&[][..], clock::now_ns());
        self.services.push(Service::open(saved, key, shift, &mut self.orders, &self.dataplane, at));
        Ok(())
    }

    /// Gives a VIP of a service, a cohort of it, or a preview VIP its numbers and its row; nobody is steered there yet.
    fn create_face(&mut self, index: usize, vip: Vip, of: Of<'_>) -> Result<(), Refused> {
        let cohort = if let Of::Cohort(name) = of { Some(name) } else { None };
        let limits = &self.desired.agent.limits;
        let spec = &self.services[index].saved.spec;
        let (ids, vip_ids): (HashSet<u16>, HashSet<u16>) = self
            .services
            .iter()
            .flat_map(|s| s.faces.iter().map(|face| (face.at.id, face.at.vip_id)))
            .unzip();
        let id = (0..limits.services as u16).find(|id| !ids.contains(id));
        let shared = self.services[index].mains().find(|face| cohort.is_some() && face.at.vip == vip);
        let vip_id = match shared {
            Some(face) => Some(face.at.vip_id),
            None => (1..u16::MAX).find(|id| !vip_ids.contains(id)),
        };
        let (Some(id), Some(vip_id)) = (id, vip_id) else {
            return Err(Refused::refused(format!(
                "{}: there are {} VIPs already, those of cohorts and previews included: the limit\nhelp: raise agent.limits.services",
                spec.name, limits.services
            )));
        };
        let place = self.services[index].faces.len() as u32 + 1;
        let row = self.epochs.new_row(spec.cells, place).map_err(|NoRoom { used }| {
            Refused::refused(format!(
                "{}: no room for {} cells in one piece, and as many in reserve for each of its VIPs if no other service of its size has them: {used} of {} are in use\nhelp: raise agent.limits.cells, or give the service fewer cells",
                spec.name, spec.cells, limits.cells
            ))
        })?;
        let cells = spec.cells;
        // A number that another VIP had: its generation must not pass for ours.
        self.dataplane.write_service(id, &zdd_common::entries::Service::default());
        // So must its counts not.
        self.dataplane.clear_service_counters(id).map_err(|error| Refused::internal(error.to_string()))?;
        let at = SavedFace { vip, id, vip_id, cohort: cohort.map(str::to_owned), preview: of == Of::Preview };
        let face = Face::open(at.clone(), cells, &self.dataplane, (row, clock::now_ns()));
        let service = &mut self.services[index];
        service.saved.faces.push(at);
        service.faces.push(face);
        Ok(())
    }

    /// Sees that each cohort has a row at each VIP: one that no cohort uses any more, or a new one. Rows stay until the service goes,
    /// because what they have counted must not go back.
    fn give_rows(&mut self, index: usize, spec: &ServiceSpec) -> Result<(), Refused> {
        for vip in &spec.vips {
            for cohort in &spec.cohorts {
                let service = &mut self.services[index];
                let named = |name: &Option<String>| name.as_deref() == Some(cohort.name.as_str());
                if service.faces.iter().any(|face| face.at.vip == *vip && named(&face.at.cohort)) {
                    continue;
                }
                let in_use = |name: &str| {
                    spec.cohorts.iter().any(|cohort| cohort.name == name)
                        || service
                            .saved
                            .rollouts
                            .active()
                            .is_some_and(|r| r.plan.spec.cohorts().any(|n| n == name))
                };
                let members = |id| service.mains().any(|main| main.members.count(id) > 0);
                let free = service.faces.iter().position(|face| {
                    let other = face.at.cohort.as_deref().is_some_and(|name| !in_use(name));
                    face.at.vip == *vip && other && !members(face.at.id)
                });
                match free {
                    Some(free) => {
                        service.faces[free].at.cohort = Some(cohort.name.clone());
                        service.saved.faces[free].cohort = Some(cohort.name.clone());
                    }
                    None => self.create_face(index, *vip, Of::Cohort(&cohort.name))?,
                }
            }
        }
        Ok(())
    }

    /// Takes out the preview VIPs that are not persisted any more: nobody is steered there from now on, and what lives there ends, as
    /// with a service that is removed.
    fn drop_previews(&mut self, index: usize) {
        let kept: HashSet<u16> = self.services[index].saved.faces.iter().map(|at| at.id).collect();
        loop {
            let faces = &mut self.services[index].faces;
            let Some(gone) = faces.iter().position(|face| !kept.contains(&face.at.id)) else { break };
            // Places are counted from the first face on, so the last one is free now.
            let place = faces.len() as u32;
            let face = faces.remove(gone);
            self.forget_ends(vec![face.ends()]);
            let Self { services, dataplane, epochs, .. } = self;
            let service = &services[index];
            let epoch = epochs.commit();
            if face.sources.0 != 0 && epochs.wait_for(epoch).is_ok() {
                dataplane.remove_sources(face.sources.0, &face.sources.1);
            }
            let (start, len) = face.row();
            epochs.rows.remove(start, len, place, epoch);
            let name = service.saved.spec.name.as_str();
            tracing::info!(service = name, vip = %face.at.vip, "the preview VIP is removed");
            // How many of the flows since the last look were testers' is not known any more.
            self.sample_from_now(index);
        }
    }

    /// Gives a backend its number and makes it known; no cell names it yet.
    fn add_backend(
        &mut self,
        index: usize,
        version: &str,
        address: std::net::SocketAddr,
    ) -> Result<(), Refused> {
        let existing = self.services[index].saved.backends.iter().position(|b| b.address == address);
        let forward = self.services[index].forward_of(version);
        if let Some(position) = existing {
            let backend = &mut self.services[index].saved.backends[position];
            if backend.version != version {
                return Err(Refused::internal(format!(
                    "backend {address} is of version {}, not of {version}",
                    backend.version
                )));
            }
            if let Some(kept) = backend.forward {
                if forward != kept {
                    return Err(Refused::conflict(format!(
                        "backend {address} still drains from {version} under {kept}, and {version} is {forward} now\nhelp: wait until `zdd backend list` does not show it any more, or put {kept} back"
                    )));
                }
                backend.forward = None;
            }
            // Still on its way out: it simply stays. One that only drains was told so by command, and goes on draining: a
            // file that names it, read again, does not say otherwise.
            if backend.removed {
                backend.removed = false;
                backend.drain = None;
            }
            return Ok(());
        }
        let Some(id) = self.new_backend_id() else {
            return Err(Refused::refused(format!(
                "no number is left for backend {address}: there are {} backends, those that drain included\nhelp: raise agent.limits.backends, or let drains end",
                self.desired.agent.limits.backends
            )));
        };
        let internal = |error: crate::dataplane::DataplaneError| Refused::internal(error.to_string());
        self.dataplane.clear_backend_counters(id).map_err(internal)?;
        self.dataplane.clear_signals(id).map_err(internal)?;
        let service = &mut self.services[index];
        service.saved.backends.push(SavedBackend {
            id,
            address,
            version: version.to_owned(),
            drain: None,
            removed: false,
            unhealthy: None,
            forward: None,
        });
        let last = service.saved.backends.len() - 1;
        self.write_known_backend(index, last).map_err(internal)
    }

    /// Brings one service in line with its spec: versions, backends, weights, timeouts.
    fn adjust_service(&mut self, index: usize, spec: &ServiceSpec) -> Result<(), Refused> {
        let backends: usize = spec.versions.iter().map(|version| version.backends.len()).sum();
        if backends > BACKENDS_PER_SERVICE_MAX as usize {
            return Err(Refused::refused(format!(
                "{}: {backends} backends are more than {BACKENDS_PER_SERVICE_MAX}, the most of one service\nhelp: divide it into several services",
                spec.name
            )));
        }
        let service = &mut self.services[index];
        for version in &spec.versions {
            if service.slot(&version.name).is_none() {
                return Err(Refused::refused(format!(
                    "{}: {} versions are the most, those that drain included\nhelp: wait until old ones are drained",
                    spec.name,
                    crate::state::SLOTS_MAX
                )));
            }
        }
        for vip in &spec.vips {
            if !self.services[index].mains().any(|face| face.at.vip == *vip) {
                self.create_face(index, *vip, Of::Everybody)?;
            }
        }
        self.give_rows(index, spec)?;
        for vip in &spec.preview {
            if !self.services[index].faces.iter().any(|face| face.at.preview && face.at.vip == *vip) {
                self.create_face(index, *vip, Of::Preview)?;
            }
        }
        // Those that are not named any more: out of what is persisted first, see `drop_previews`.
        let stays = |at: &SavedFace| !at.preview || spec.preview.contains(&at.vip);
        self.services[index].saved.faces.retain(stays);
        let service = &mut self.services[index];
        for place in 0..service.saved.backends.len() {
            let backend = &service.saved.backends[place];
            if backend.forward.is_none() && spec.versions.iter().all(|v| v.name != backend.version) {
                service.saved.backends[place].forward = Some(service.forward_of(&backend.version));
            }
        }
        // Names first: a new backend's mode is its version's.
        service.saved.spec = ServiceSpec { versions: spec.versions.clone(), ..spec.clone() };
        for version in &spec.versions {
            for backend in &version.backends {
                self.add_backend(index, &version.name, backend.address)?;
            }
        }
        let drain_timeout = spec.drain_timeout;
        let service = &mut self.services[index];
        let named: HashSet<(&str, std::net::SocketAddr)> = spec
            .versions
            .iter()
            .flat_map(|v| v.backends.iter().map(|b| (v.name.as_str(), b.address)))
            .collect();
        for backend in &mut service.saved.backends {
            let stays = named.contains(&(backend.version.as_str(), backend.address));
            if !stays && !backend.removed {
                backend.removed = true;
                backend.drain.get_or_insert(super::drains::begin(drain_timeout));
            }
        }
        service.saved.draining.retain(|drain| spec.versions.iter().any(|v| v.name == drain.version));
        // A version that drains and is given weight again does not drain.
        let weighted = |name: &str| spec.versions.iter().any(|v| v.name == name && v.weight > 0);
        service.saved.draining.retain(|drain| !weighted(&drain.version));
        service.retime(self.dataplane.epoch_shift());
        service.assign();
        Ok(())
    }
}

/// Makes the services those of `target`: numbers first, then the state is written down, then rows and VIPs.
///
/// # Errors
/// Nothing is published then, except what the caller had published before.
pub(super) fn adjust(reconciler: &mut Reconciler, target: &[ServiceSpec]) -> Result<(), Refused> {
    let before: Vec<SavedService> = reconciler.services.iter().map(|s| s.saved.clone()).collect();
    for spec in target {
        let index = match reconciler.services.iter().position(|s| s.name() == spec.name) {
            Some(index) => Ok(index),
            None => reconciler.create(spec).map(|()| reconciler.services.len() - 1),
        };
        if let Err(refused) = index.and_then(|index| reconciler.adjust_service(index, spec)) {
            roll_back(reconciler, before);
            return Err(refused);
        }
    }
    let gone = |service: &Service| !target.iter().any(|spec| spec.name == service.name());
    let leaving: Vec<String> =
        reconciler.services.iter().filter(|s| gone(s)).map(|s| s.name().to_owned()).collect();
    let mut state = reconciler.state();
    state.services.retain(|saved| !leaving.contains(&saved.spec.name));
    let saved = reconciler.store.stage(&state);
    if let Err(error) = saved {
        roll_back(reconciler, before);
        return Err(Refused::internal(format!(
            "{error}\nhelp: nothing was changed; make room or permissions and repeat"
        )));
    }
    for index in 0..reconciler.services.len() {
        reconciler.drop_previews(index);
    }
    let gone: Vec<Service> = reconciler
        .services
        .extract_if(.., |service| leaving.iter().any(|name| name == service.name()))
        .collect();
    // First who stays, so that a VIP that another service has from now on is served throughout.
    let published = publish_all(reconciler);
    for service in gone {
        reconciler.bury(service);
    }
    published
}

/// The backends of a service that have a number.
pub(super) fn held(saved: &SavedService) -> impl Iterator<Item = plan::Held<'_>> {
    saved.backends.iter().map(|backend| plan::Held {
        service: &saved.spec,
        version: &backend.version,
        address: backend.address,
        forward: backend.forward.unwrap_or_else(|| saved.spec.forward_of(&backend.version)),
        removed: backend.removed,
    })
}

/// Publishes every service whose row or VIP is not what it should be.
pub(super) fn publish_all(reconciler: &mut Reconciler) -> Result<(), Refused> {
    let now = clock::now_ns();
    let Reconciler { services, dataplane, epochs, health, sets, .. } = reconciler;
    for service in services.iter_mut() {
        let done = service.refresh(dataplane, epochs, health, now).and_then(|()| {
            for face in &service.faces {
                dataplane.set_udp_idle(face.at.id, service.view().udp_idle);
            }
            // Before the VIPs: what a mapped flow's backend answers must find back.
            service.write_replies(dataplane)?;
            service.write_vips(dataplane, epochs, sets)
        });
        done.map_err(|error| Refused::internal(format!("{}: {error}", service.name())))?;
    }
    reconciler.follow_backends();
    // Flows that are not in the sample any more are not followed: what is left of them would look like silence.
    reconciler.sweep_signals();
    Ok(())
}

/// Takes back numbers that were given out for a change that is refused.
fn roll_back(reconciler: &mut Reconciler, before: Vec<SavedService>) {
    let known = |service: &mut Service| before.iter().any(|saved| saved.spec.name == service.name());
    let new: Vec<Service> = reconciler.services.extract_if(.., |service| !known(service)).collect();
    for service in new {
        reconciler.bury(service);
    }
    for saved in before {
        let Some(service) = reconciler.services.iter_mut().find(|s| s.name() == saved.spec.name) else {
            continue;
        };
        let added: Vec<_> = service
            .saved
            .backends
            .iter()
            .filter(|b| !saved.backends.iter().any(|old| old.id == b.id))
            .map(|b| service.backend_ends(&b.address))
            .collect();
        // Of a VIP that is taken back nothing was published.
        for (place, face) in (1..).zip(&service.faces).skip(saved.faces.len()) {
            let (start, len) = face.row();
            let epoch = reconciler.epochs.commit();
            reconciler.epochs.rows.remove(start, len, place, epoch);
        }
        service.faces.truncate(saved.faces.len());
        for (face, at) in service.faces.iter_mut().zip(&saved.faces) {
            face.at.clone_from(at);
        }
        service.saved = saved;
        reconciler.ids.forget();
        service.retime(reconciler.dataplane.epoch_shift());
        reconciler.forget_ends(added);
    }
}
