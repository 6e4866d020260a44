//! What people ask for.

use std::net::SocketAddr;
use std::time::Duration;

use super::Reconciler;
use super::drains;
use super::service::Service;
use crate::clock;
use crate::control::{Refused, Request};
use crate::desired::{BackendSpec, BasisPoints, FULL};
use crate::plan;
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
            Request::Explain { service, from, reply } => drop(reply.send(self.explain(&service, from))),
            Request::Detach { reply } => {
                drop(reply.send(Err(Refused::internal("detach is handled where the loop ends"))));
            }
            Request::WhoMoves { service, weights, clients, reply } => {
                drop(reply.send(self.who_moves(&service, &weights, &clients)));
            }
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
        self.set_weights(index, &new, force)
    }

    fn rollback(&mut self, name: &str, force: bool) -> Result<ShiftReport, Refused> {
        let index = self.index_of(name)?;
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
        self.guard(index, new, force, &mut notes)?;
        let before = self.services[index].saved.clone();
        let moved_groups = self.services[index].give_weights(new, &mut notes);
        if let Err(refused) = self.save() {
            self.services[index].saved = before;
            return Err(refused);
        }
        self.publish(index)?;
        self.services[index].notes.retain(|note| !note.starts_with("weights "));
        if let Some(alarm) = &self.services[index].alarm {
            notes.push(alarm.clone());
        }
        Ok(self.shift_report(index, moved_groups, notes))
    }

    /// Refuses what would send new flows where nobody can take them.
    pub(super) fn guard(
        &self,
        index: usize,
        new: &[BasisPoints],
        force: bool,
        notes: &mut Vec<String>,
    ) -> Result<(), Refused> {
        let service = &self.services[index];
        let usable = plan::usable(&service.candidates(&self.health), &service.preference());
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
                        && !self.health.contains_key(&(service.name().to_owned(), b.address))
                };
                if service.saved.spec.health.is_some() && service.saved.backends.iter().any(unasked) {
                    notes.push(format!(
                        "some backends of {} have not answered a health check yet",
                        version.name
                    ));
                }
                continue;
            }
            let why = self.why_unusable(service, &version.name);
            let stand_in = slot.and_then(|slot| usable.stand_in.get(slot).copied().flatten());
            let instead = stand_in.and_then(|slot| service.saved.slots.get(slot));
            let then = match instead {
                Some(name) => format!("its {} would go to {name} until it has one", percent(*weight)),
                None => "its new flows would go to backends that fail their checks".to_owned(),
            };
            if !force {
                return Err(Refused::refused(format!(
                    "{}/{} has no healthy backend: {why}\nhelp: mend it, or use --force: {then}",
                    service.name(),
                    version.name
                )));
            }
            notes.push(format!("{} has no healthy backend ({why}): {then}", version.name));
        }
        let (_, fill) = self.dataplane.filter_fill();
        if fill > FILTER_FULL && !force {
            return Err(Refused::refused(format!(
                "the SYN filter is {:.0}% full (a SYN flood?): new connections could be taken for old ones, so the shift waits\nhelp: repeat when the flood is over, raise agent.limits.syn_filter, or use --force: some new connections stay on the old version then, none breaks",
                fill * 100.0
            )));
        }
        Ok(())
    }

    fn why_unusable(&self, service: &Service, version: &str) -> String {
        let all: Vec<_> =
            service.saved.backends.iter().filter(|b| b.version == version && !b.removed).collect();
        if all.is_empty() {
            return "it has no backend at all".to_owned();
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
            generation: service.generation.into(),
            versions,
            moved_groups,
            notes,
        }
    }

    pub(super) fn change_report(&self, index: usize, notes: Vec<String>) -> ChangeReport {
        let service = &self.services[index];
        ChangeReport { service: service.name().to_owned(), generation: service.generation.into(), notes }
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
        if address.is_ipv4() != spec.vip.addr.is_ipv4() {
            return Err(Refused::invalid(format!(
                "{address} is not of the address family of {name}'s VIP {}\nhelp: a service has one address family; make a second service for the other one",
                spec.vip
            )));
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
    fn address_is_free(&self, index: usize, version: &str, address: SocketAddr) -> Result<(), Refused> {
        let own = &self.services[index];
        if own.saved.spec.vip.socket() == address {
            return Err(Refused::invalid(format!("{address} is the service's own VIP")));
        }
        for service in &self.services {
            if super::service::proto(&service.saved.spec) != super::service::proto(&own.saved.spec) {
                continue;
            }
            for other in &service.saved.backends {
                let same = service.name() == own.name() && other.version == version;
                if other.address == address && !same {
                    return Err(Refused::conflict(format!(
                        "{address} is a backend of {}/{}{}\nhelp: an address and port belong to one version of one service",
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
            return Err(Refused::not_found(format!("{name} has no backend {address}")));
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
        let left = service.saved.backends.iter().any(|backend| {
            let health =
                self.health.get(&(service.name().to_owned(), backend.address)).map(|(health, _)| *health);
            !leaving.contains(&backend.address)
                && !service.drains(&backend.version, backend.address)
                && health != Some(crate::health::Health::Unhealthy)
        });
        if left {
            return Ok(());
        }
        Err(Refused::refused(format!(
            "{}: no other healthy backend would be left to take its new flows\nhelp: add or mend one first",
            service.name()
        )))
    }

    /// Puts one changed service in force.
    fn adjust_one(&mut self, index: usize, spec: crate::desired::ServiceSpec) -> Result<(), Refused> {
        let mut target = self.specs();
        target[index] = spec;
        super::apply::adjust(self, &target)
    }
}
