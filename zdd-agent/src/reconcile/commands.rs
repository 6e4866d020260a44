//! What people ask for.

use std::net::SocketAddr;
use std::time::Duration;

use super::Reconciler;
use super::drains;
use super::service::Service;
use crate::clock;
use crate::control::{Refused, Request, TrainAct};
use crate::desired::{BackendSpec, BasisPoints, FULL, Vip};
use crate::report::{ChangeReport, ShiftReport, VersionShare};
use crate::text::percent;
use crate::weights;

/// A SYN filter fuller than this takes new SYNs for known ones too often for a share to be right.
const FILTER_FULL: f64 = 0.5;

impl Reconciler {
    pub(super) fn answer(&mut self, request: Request) {
        // A caller that has gone away needs no answer.
        match request {
            Request::Status { reply } => drop(reply.send(Ok(self.status()))),
            Request::Trace { filter, reply } => drop(reply.send(self.trace(filter))),
            Request::Snapshot { reply } => drop(reply.send(Ok(self.snapshot()))),
            Request::Splits { reply } => drop(reply.send(Ok(self.splits()))),
            Request::Troubles { reply } => drop(reply.send(Ok(self.troubles()))),
            Request::Shift { service, weights, force, reply } => {
                drop(reply.send(self.shift(&service, &weights, force)));
            }
            Request::Rollback { service, force, reply } => drop(reply.send(self.rollback(&service, force))),
            Request::BackendAdd { service, version, address, weight, reply } => {
                drop(reply.send(self.backend_add(&service, &version, address, weight)));
            }
            Request::BackendRemove { service, address, deadline, reply } => {
                drop(reply.send(self.backend_remove(&service, address, deadline)));
            }
            Request::Drain { target, deadline, reply } => drop(reply.send(self.drain(&target, deadline))),
            Request::Undrain { target, reply } => drop(reply.send(self.undrain(&target))),
            Request::DrainedWatch { target, reply } => drop(reply.send(self.drained_watch(&target))),
            Request::Apply { desired, dry_run, reply } => drop(reply.send(self.apply(*desired, dry_run))),
            Request::Explain { service, from, port, preview, reply } => {
                drop(reply.send(self.explain(&service, from, port, preview)));
            }
            Request::Rollout { service, ask, reply } => drop(reply.send(self.rollout(&service, ask))),
            Request::RolloutStatus { service, reply } => drop(reply.send(self.rollout_status(&service))),
            Request::RolloutPlan { service, candidate, reply } => {
                drop(reply.send(self.rollout_plan(&service, &candidate)));
            }
            Request::RolloutHistory { service, reply } => drop(reply.send(self.rollout_history(&service))),
            Request::Gate { service, closed, reason, reply } => {
                drop(reply.send(self.gate(&service, closed, &reason)));
            }
            Request::Train { train, act, reply } => drop(reply.send(match act {
                TrainAct::Start { candidates, reason } => self.start_train(&train, &candidates, &reason),
                TrainAct::Abort { reason } => self.abort_train(&train, &reason),
                TrainAct::Status => self.train_status(&train),
            })),
            Request::Line { stopped, reply } => drop(reply.send(self.set_line(stopped))),
            Request::Detach { reply, .. } => {
                drop(reply.send(Err(Refused::internal("detach is handled where the loop ends"))));
            }
            Request::WhoMoves { service, weights, clients, port, reply } => {
                drop(reply.send(self.who_moves(&service, &weights, &clients, port)));
            }
            Request::DrainNode { node, deadline, force, reply } => {
                drop(reply.send(self.drain_node(&node, deadline, force)));
            }
            Request::UndrainNode { node, reply } => drop(reply.send(self.undrain_node(&node))),
            Request::Change { change, then, made } => self.change(*change, *then, made),
        }
    }

    pub(super) fn index_of(&self, name: &str) -> Result<usize, Refused> {
        self.services.iter().position(|service| service.name() == name).ok_or_else(|| {
            let known: Vec<&str> = self.services.iter().map(Service::name).collect();
            Refused::not_found(format!("there is no service `{name}`; there are: {}", known.join(", ")))
        })
    }

    fn shift(
        &mut self,
        name: &str,
        asked: &[(String, BasisPoints)],
        force: bool,
    ) -> Result<ShiftReport, Refused> {
        let index = self.index_of(name)?;
        let spec = &self.services[index].saved.spec;
        let current: Vec<(String, BasisPoints)> =
            spec.versions.iter().map(|v| (v.name.clone(), v.weight)).collect();
        let new = weights::complete(&current, asked)
            .map_err(|error| Refused::invalid(format!("{name}: {error}")))?;
        let mut report = self.set_weights(index, &new, force)?;
        let saved = &self.services[index].saved;
        let names = saved.spec.cohorts.iter().map(|cohort| cohort.name.as_str());
        let led: Vec<&str> = names.filter(|name| saved.rollouts.leads(name).is_some()).collect();
        if !led.is_empty() {
            report.notes.push(format!(
                "clients of cohorts ({}) are not moved by this: their rollout leads them, `zdd rollout abort {name}` takes them back",
                led.join(", ")
            ));
        }
        if let Some(rollout) = self.services[index].saved.rollouts.active() {
            report.notes.push(format!(
                "rollout {} of {} is paused by this: `zdd rollout resume {name}` puts its weights back, `abort` gives it up",
                rollout.plan.id, rollout.plan.candidate
            ));
        }
        Ok(report)
    }

    fn rollback(&mut self, name: &str, force: bool) -> Result<ShiftReport, Refused> {
        let index = self.index_of(name)?;
        if let Some(stable) = self.abort_for_rollback(index)? {
            let versions = &self.services[index].saved.spec.versions;
            let new: Vec<_> = versions.iter().map(|v| if v.name == stable { FULL } else { 0 }).collect();
            let mut report = self.set_weights(index, &new, force)?;
            report.notes.push(format!("the rollout was aborted: {stable} has everything"));
            self.rollout_rolled_back(index);
            return Ok(report);
        }
        let mut new = vec![0; self.services[index].saved.spec.versions.len()];
        new[0] = FULL;
        self.set_weights(index, &new, force)
    }

    /// Puts weights in force: checked, persisted, committed; answered when new flows follow them.
    pub(super) fn set_weights(
        &mut self,
        index: usize,
        new: &[BasisPoints],
        force: bool,
    ) -> Result<ShiftReport, Refused> {
        let mut notes = Vec::new();
        self.guard_health(index, new, force, &mut notes)?;
        self.guard_filter(force)?;
        self.put_weights(index, new, notes)
    }

    /// The same for weights that were found good.
    pub(super) fn put_weights(
        &mut self,
        index: usize,
        new: &[BasisPoints],
        mut notes: Vec<String>,
    ) -> Result<ShiftReport, Refused> {
        let before = self.services[index].saved.clone();
        let moved_groups = self.services[index].give_weights(new, &mut notes);
        if let Err(refused) = self.save() {
            self.services[index].saved = before;
            return Err(refused);
        }
        self.publish(index)?;
        self.services[index].notes.retain(|note| !note.starts_with("weights "));
        notes.extend(self.services[index].alarm());
        Ok(self.shift_report(index, moved_groups, notes))
    }

    /// Refuses what would send new flows where nobody can take them. That a version drains is no obstacle: with weight its
    /// drain is over, see [`Service::give_weights`].
    pub(super) fn guard_health(
        &mut self,
        index: usize,
        new: &[BasisPoints],
        force: bool,
        notes: &mut Vec<String>,
    ) -> Result<(), Refused> {
        let draining = self.services[index].saved.draining.clone();
        drop(self.services[index].end_drains(new));
        let guarded = self.guard_vips(index, new, force, notes);
        self.services[index].saved.draining = draining;
        guarded
    }

    /// The same, and whoever drains goes on draining.
    pub(super) fn guard_vips(
        &self,
        index: usize,
        new: &[BasisPoints],
        force: bool,
        notes: &mut Vec<String>,
    ) -> Result<(), Refused> {
        let leading = self.services[index].led();
        self.guard_with(index, new, &leading, force, notes)
    }

    /// The same when these cohorts lead.
    pub(super) fn guard_with(
        &self,
        index: usize,
        new: &[BasisPoints],
        leading: &[String],
        force: bool,
        notes: &mut Vec<String>,
    ) -> Result<(), Refused> {
        for face in self.services[index].mains() {
            self.guard_vip(index, &face.at.vip, new, force, notes)?;
            self.guard_capacity(index, (&face.at.vip, leading), new, force, notes)?;
        }
        Ok(())
    }

    /// Refuses a change while new connections cannot be told from old ones.
    pub(super) fn guard_filter(&self, force: bool) -> Result<(), Refused> {
        let (_, fill) = self.dataplane.filter_fill();
        if fill > FILTER_FULL && !force {
            return Err(Refused::refused(format!(
                "the SYN filter is {:.0}% full (a SYN flood?): new connections could be taken for old ones, so the shift waits\nhelp: repeat when the flood is over, raise agent.limits.syn_filter, or use --force: some new connections stay on the old version then, none breaks",
                fill * 100.0
            )));
        }
        Ok(())
    }

    fn guard_vip(
        &self,
        index: usize,
        vip: &Vip,
        new: &[BasisPoints],
        force: bool,
        notes: &mut Vec<String>,
    ) -> Result<(), Refused> {
        let service = &self.services[index];
        // Of which family is only said where there are two.
        let family = if service.mains().count() > 1 { format!("{} ", vip.family()) } else { String::new() };
        let usable = service.usable(vip, &self.health);
        for (version, weight) in service.saved.spec.versions.iter().zip(new) {
            if *weight <= version.weight {
                continue;
            }
            let slot = service.saved.slots.iter().position(|name| *name == version.name);
            let own = slot.and_then(|slot| usable.backends.get(slot));
            let sick = usable.alarm.is_some() || own.is_none_or(Vec::is_empty);
            if !sick {
                let unasked = |b: &crate::state::SavedBackend| {
                    b.version == version.name
                        && service.serves(vip, &b.address)
                        && !self.health.contains_key(&(service.name().to_owned(), b.address))
                };
                if service.saved.spec.health.is_some() && service.saved.backends.iter().any(unasked) {
                    notes.push(format!(
                        "some {family}backends of {} have not answered a health check yet",
                        version.name
                    ));
                }
                continue;
            }
            let why = self.why_unusable(service, &version.name, vip);
            let stand_in = slot.and_then(|slot| usable.stand_in.get(slot).copied().flatten());
            let instead = stand_in.and_then(|slot| service.saved.slots.get(slot));
            let then = match instead {
                Some(name) => {
                    format!("its {} {family}would go to {name} until it has one", percent(*weight))
                }
                None => format!("its new {family}flows would go to backends that fail their checks"),
            };
            if !force {
                return Err(Refused::refused(format!(
                    "{}/{} has no healthy {family}backend: {why}\nhelp: mend it, or use --force: {then}",
                    service.name(),
                    version.name
                )));
            }
            notes.push(format!("{} has no healthy {family}backend ({why}): {then}", version.name));
        }
        Ok(())
    }

    fn why_unusable(&self, service: &Service, version: &str, vip: &Vip) -> String {
        let all: Vec<_> = service
            .saved
            .backends
            .iter()
            .filter(|b| b.version == version && !b.removed && service.serves(vip, &b.address))
            .collect();
        if all.is_empty() {
            return "it has none at all".to_owned();
        }
        let reasons: Vec<String> = all
            .iter()
            .map(|backend| {
                let known = self.health.get(&(service.name().to_owned(), backend.address));
                let why = if service.drains(version, backend.address) {
                    "drains"
                } else {
                    known.and_then(|(_, reason)| reason.as_deref()).unwrap_or("not usable")
                };
                format!("{} {why}", backend.address)
            })
            .collect();
        reasons.join(", ")
    }

    pub(super) fn publish(&mut self, index: usize) -> Result<(), Refused> {
        let now = clock::now_ns();
        let Self { services, dataplane, epochs, health, .. } = self;
        services[index]
            .refresh(dataplane, epochs, health, now)
            .map_err(|error| Refused::internal(error.to_string()))
    }

    fn shift_report(&self, index: usize, moved_groups: u32, notes: Vec<String>) -> ShiftReport {
        let service = &self.services[index];
        let versions = service
            .saved
            .spec
            .versions
            .iter()
            .map(|version| VersionShare {
                name: version.name.clone(),
                asked: f64::from(version.weight) / f64::from(FULL),
                share: service.share(&service.ids_of(&version.name)),
            })
            .collect();
        ShiftReport {
            service: service.name().to_owned(),
            generation: service.generation(),
            versions,
            moved_groups,
            notes,
        }
    }

    pub(super) fn change_report(&self, index: usize, notes: Vec<String>) -> ChangeReport {
        let service = &self.services[index];
        ChangeReport { service: service.name().to_owned(), generation: service.generation(), notes }
    }

    fn backend_add(
        &mut self,
        name: &str,
        version: &str,
        address: SocketAddr,
        weight: u32,
    ) -> Result<ChangeReport, Refused> {
        let index = self.index_of(name)?;
        let mut spec = self.services[index].saved.spec.clone();
        if !(1..=1000).contains(&weight) {
            return Err(Refused::invalid(format!("weight {weight} is not from 1 to 1000")));
        }
        let own = spec.versions.iter().find(|v| v.name == version).and_then(|v| v.forward);
        let Some(vip) = spec.vip_of(&address) else {
            return Err(Refused::invalid(format!("{name} has no VIP that {address} could serve")));
        };
        if let Err((message, help)) = own.unwrap_or(spec.forward).can_reach(vip, address) {
            return Err(Refused::invalid(format!("{message}\nhelp: {help}")));
        }
        self.address_is_free(index, version, address)?;
        let Some(entry) = spec.versions.iter_mut().find(|v| v.name == version) else {
            let known: Vec<&str> = spec.versions.iter().map(|v| v.name.as_str()).collect();
            return Err(Refused::not_found(format!(
                "{name} has no version `{version}`; it has {}",
                known.join(", ")
            )));
        };
        match entry.backends.iter_mut().find(|b| b.address == address) {
            Some(backend) => backend.weight = weight,
            None => entry.backends.push(BackendSpec { address, weight }),
        }
        self.adjust_one(index, spec)?;
        Ok(self.change_report(index, vec![format!("{address} takes new flows of {version}")]))
    }

    /// One address belongs to one version of one service: under `nat` a reply is told by where it comes from.
    pub(super) fn address_is_free(
        &self,
        index: usize,
        version: &str,
        address: SocketAddr,
    ) -> Result<(), Refused> {
        let own = &self.services[index];
        let more = own.saved.spec.more_ports(&address);
        // Ports that two would have.
        let meet =
            |first: u16, last: u16| first <= address.port().saturating_add(more) && address.port() <= last;
        // Whichever service's: what goes there would come back, and be steered again.
        for service in &self.services {
            let mut vips = service.saved.spec.all_vips();
            if vips.any(|vip| vip.addr == address.ip() && meet(vip.port, vip.ports().1)) {
                return Err(Refused::invalid(format!(
                    "backend {address} is the VIP of service `{}`\nhelp: a packet would go round in circles: name the backend's own address",
                    service.name()
                )));
            }
        }
        for service in &self.services {
            if super::service::proto(&service.saved.spec) != super::service::proto(&own.saved.spec) {
                continue;
            }
            for other in &service.saved.backends {
                let same =
                    service.name() == own.name() && other.version == version && other.address == address;
                let (at, more) = (other.address, service.saved.spec.more_ports(&other.address));
                if at.ip() == address.ip() && meet(at.port(), at.port().saturating_add(more)) && !same {
                    return Err(Refused::conflict(format!(
                        "{address} is taken: {at} is a backend of {}/{}{}\nhelp: an address and port belong to one version of one service",
                        service.name(),
                        other.version,
                        if other.removed { ", and still drains there" } else { "" }
                    )));
                }
            }
        }
        Ok(())
    }

    fn backend_remove(
        &mut self,
        name: &str,
        address: SocketAddr,
        deadline: Option<Duration>,
    ) -> Result<ChangeReport, Refused> {
        let index = self.index_of(name)?;
        let mut spec = self.services[index].saved.spec.clone();
        let before: usize = spec.versions.iter().map(|v| v.backends.len()).sum();
        for version in &mut spec.versions {
            version.backends.retain(|b| b.address != address);
        }
        if before == spec.versions.iter().map(|v| v.backends.len()).sum::<usize>() {
            return Err(Refused::not_found(format!(
                "{name} has no backend {address}\nhelp: `zdd backend list {name}` shows those that it has"
            )));
        }
        self.others_can_take(index, &[address])?;
        self.adjust_one(index, spec)?;
        if deadline.is_some()
            && let Some(backend) =
                self.services[index].saved.backends.iter_mut().find(|b| b.address == address)
        {
            backend.drain = Some(drains::begin(deadline));
            self.save()?;
        }
        Ok(self.change_report(
            index,
            vec![format!("{address} takes no new flows; it is forgotten when it is drained")],
        ))
    }

    /// Refuses to take the last usable backends away.
    pub(super) fn others_can_take(&self, index: usize, leaving: &[SocketAddr]) -> Result<(), Refused> {
        let service = &self.services[index];
        for face in service.mains() {
            let vip = &face.at.vip;
            let mut own = service.saved.backends.iter().filter(|b| service.serves(vip, &b.address));
            let touched = own.clone().any(|b| leaving.contains(&b.address));
            let left = own.any(|backend| {
                let known = self.health.get(&(service.name().to_owned(), backend.address));
                !leaving.contains(&backend.address)
                    && !service.drains(&backend.version, backend.address)
                    && known.map(|(health, _)| *health) != Some(crate::health::Health::Unhealthy)
            });
            if touched && !left {
                return Err(Refused::refused(format!(
                    "{}: no other healthy backend would be left to take the new flows of {vip}\nhelp: add or mend one first",
                    service.name()
                )));
            }
        }
        Ok(())
    }

    /// Puts one changed service in force.
    pub(super) fn adjust_one(
        &mut self,
        index: usize,
        spec: crate::desired::ServiceSpec,
    ) -> Result<(), Refused> {
        let mut target = self.specs();
        target[index] = spec;
        super::apply::adjust(self, &target)
    }
}
