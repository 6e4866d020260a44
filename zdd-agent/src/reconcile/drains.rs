//! Drains: no new flows, and the news when the old ones are gone.
//!
//! Drained means: no cell names one of the backends any more, so that every live flow of theirs has an entry, and a sweep
//! begun after that found none. Before, nobody can tell who is left.

use std::time::Duration;

use tokio::sync::watch;
use zdd_common::entries::{BackendId, Cell};
use zdd_common::rules;

use super::Reconciler;
use crate::clock::{Moment, moment};
use crate::control::{Refused, Target};
use crate::desired::FULL;
use crate::events::EventKind;
use crate::report::{ChangeReport, DrainReport};
use crate::signals::Reading;
use crate::state::{Drain, SavedBackend, SavedService, VersionDrain};

/// Somebody who waits for a drain.
pub(super) struct Watcher {
    service: String,
    target: Target,
    tell: watch::Sender<DrainReport>,
}

pub(super) use crate::clock::unix_ms;

/// A drain that begins now.
pub(super) fn begin(deadline: Option<Duration>) -> Drain {
    Drain::begin(deadline, moment())
}

impl Reconciler {
    /// Which service a target means.
    pub(super) fn resolve(&self, target: &Target) -> Result<usize, Refused> {
        let (service, what) = match target {
            Target::Version { service, version } => (service, version.clone()),
            Target::Backend { service, address } => (service, address.to_string()),
        };
        let has = |index: &usize| {
            let saved = &self.services[*index].saved;
            match target {
                // Also one that the file has dropped, while somebody is left on it.
                Target::Version { version, .. } => {
                    saved.spec.versions.iter().any(|v| v.name == *version)
                        || saved.backends.iter().any(|b| b.version == *version)
                }
                Target::Backend { address, .. } => saved.backends.iter().any(|b| b.address == *address),
            }
        };
        if let Some(service) = service {
            let index = self.index_of(service)?;
            return if has(&index) {
                Ok(index)
            } else {
                Err(Refused::not_found(format!(
                    "{service} has no version or backend `{what}`\nhelp: `zdd backend list {service}` shows those that it has"
                )))
            };
        }
        let all: Vec<usize> = (0..self.services.len()).filter(has).collect();
        match all.as_slice() {
            [index] => Ok(*index),
            [] => {
                Err(Refused::not_found(match self.services.iter().find(|service| service.name() == what) {
                    Some(service) => {
                        let versions: Vec<_> = service
                            .saved
                            .spec
                            .versions
                            .iter()
                            .map(|v| format!("{what}/{}", v.name))
                            .collect();
                        format!(
                            "`{what}` is a service, and a drain is of one of its versions or backends\nhelp: write one of {}, or a backend's address",
                            versions.join(", ")
                        )
                    }
                    None => format!(
                        "no service has a version or backend `{what}`\nhelp: `zdd backend list` shows those that there are"
                    ),
                }))
            }
            several => {
                let names: Vec<String> =
                    several.iter().map(|i| format!("{}/{what}", self.services[*i].name())).collect();
                Err(Refused::invalid(format!("`{what}` is not clear; write one of {}", names.join(", "))))
            }
        }
    }

    /// The backends of a target.
    fn members(&self, index: usize, target: &Target) -> Vec<BackendId> {
        let saved = &self.services[index].saved;
        let chosen = saved.backends.iter().filter(|backend| match target {
            Target::Version { version, .. } => backend.version == *version,
            Target::Backend { address, .. } => backend.address == *address,
        });
        chosen.map(|backend| backend.id).collect()
    }

    /// Whether the file has dropped a version that somebody is left on: its backends drain each by itself, and are forgotten then.
    fn dropped(&self, index: usize, version: &str) -> bool {
        let saved = &self.services[index].saved;
        saved.spec.versions.iter().all(|v| v.name != version)
            && saved.backends.iter().any(|b| b.version == version)
    }

    pub(super) fn drain_of(&self, index: usize, target: &Target) -> Option<Drain> {
        let saved = &self.services[index].saved;
        match target {
            Target::Version { version, .. } => {
                let own = saved.draining.iter().find(|d| d.version == *version).map(|d| d.drain);
                let dropped = || {
                    let drains = saved.backends.iter().filter(|b| b.version == *version).map(|b| b.drain);
                    // As long as the deadline of one has not passed, the version's has not.
                    drains.collect::<Option<Vec<Drain>>>()?.into_iter().min_by_key(|drain| drain.passed)
                };
                own.or_else(|| self.dropped(index, version).then(dropped).flatten())
            }
            Target::Backend { address, .. } => {
                saved.backends.iter().find(|b| b.address == *address).and_then(|b| b.drain)
            }
        }
    }

    pub(super) fn drain(
        &mut self,
        target: &Target,
        deadline: Option<Duration>,
    ) -> Result<DrainReport, Refused> {
        let index = self.resolve(target)?;
        let named = deadline.is_some();
        let deadline = deadline.or(self.services[index].saved.spec.drain_timeout);
        let before = self.services[index].saved.clone();
        match target {
            // It drains since the file dropped it; only its deadline can be new.
            Target::Version { version, .. } if self.dropped(index, version) => {
                let own = self.services[index].saved.backends.iter_mut().filter(|b| b.version == *version);
                own.filter(|b| named || b.drain.is_none()).for_each(|b| b.drain = Some(begin(deadline)));
            }
            Target::Version { version, .. } => self.drain_version(index, version, deadline)?,
            Target::Backend { address, .. } => {
                self.others_can_take(index, &[*address])?;
                for backend in &mut self.services[index].saved.backends {
                    if backend.address == *address {
                        backend.drain = Some(begin(deadline));
                    }
                }
            }
        }
        if let Err(refused) = self.save() {
            self.services[index].saved = before;
            return Err(refused);
        }
        self.publish(index)?;
        Ok(self.drain_report(index, target))
    }

    fn drain_version(
        &mut self,
        index: usize,
        version: &str,
        deadline: Option<Duration>,
    ) -> Result<(), Refused> {
        let saved = &self.services[index].saved;
        let leaving: Vec<_> =
            saved.backends.iter().filter(|b| b.version == version).map(|b| b.address).collect();
        self.others_can_take(index, &leaving)?;
        let service = &mut self.services[index];
        let versions = &mut service.saved.spec.versions;
        let Some(at) = versions.iter().position(|v| v.name == version) else {
            return Err(Refused::not_found(format!("no version `{version}`")));
        };
        if versions[at].weight > 0 {
            let current: Vec<(String, u32)> = versions.iter().map(|v| (v.name.clone(), v.weight)).collect();
            // All of it to others; if nobody else has weight, the first other version takes it.
            let asked = [(version.to_owned(), 0)];
            let new =
                crate::weights::complete(&current, &asked).map_err(|e| Refused::invalid(e.to_string()))?;
            debug_assert_eq!(new.iter().sum::<u32>(), FULL);
            for (version, weight) in versions.iter_mut().zip(new) {
                version.weight = weight;
            }
        }
        service.saved.draining.retain(|drain| drain.version != version);
        service.saved.draining.push(VersionDrain { version: version.to_owned(), drain: begin(deadline) });
        service.assign();
        Ok(())
    }

    pub(super) fn undrain(&mut self, target: &Target) -> Result<ChangeReport, Refused> {
        let index = self.resolve(target)?;
        if self.drain_of(index, target).is_none() {
            return Err(Refused::conflict(format!(
                "{target} does not drain\nhelp: it may take new flows already; `zdd status` shows its weight, and `zdd shift` sets it"
            )));
        }
        if let Target::Version { version, .. } = target
            && self.dropped(index, version)
        {
            return Err(Refused::conflict(format!(
                "the file has dropped {target}\nhelp: `zdd apply` of a file that has it takes it back"
            )));
        }
        let before = self.services[index].saved.clone();
        let saved = &mut self.services[index].saved;
        let note = match target {
            Target::Version { version, .. } => {
                saved.draining.retain(|drain| drain.version != *version);
                format!(
                    "{version} may take flows again; its weight stays where it is: `zdd shift` gives it some"
                )
            }
            Target::Backend { address, .. } => {
                for backend in saved.backends.iter_mut().filter(|b| b.address == *address) {
                    if backend.removed {
                        return Err(Refused::conflict(format!(
                            "{address} was removed\nhelp: `zdd backend add` takes it back"
                        )));
                    }
                    backend.drain = None;
                }
                format!("{address} takes new flows again")
            }
        };
        if let Err(refused) = self.save() {
            self.services[index].saved = before;
            return Err(refused);
        }
        self.publish(index)?;
        Ok(self.change_report(index, vec![note]))
    }

    pub(super) fn drained_watch(&mut self, target: &Target) -> Result<watch::Receiver<DrainReport>, Refused> {
        let index = self.resolve(target)?;
        if self.drain_of(index, target).is_none() {
            return Err(Refused::conflict(format!(
                "{target} does not drain\nhelp: `zdd drain {target}` begins it"
            )));
        }
        let (tell, hears) = watch::channel(self.drain_report(index, target));
        let service = self.services[index].name().to_owned();
        self.watchers.push(Watcher { service, target: target.clone(), tell });
        Ok(hears)
    }

    /// Where a drain stands.
    pub(super) fn drain_report(&self, index: usize, target: &Target) -> DrainReport {
        let ids = self.members(index, target);
        let service = &self.services[index];
        let drain = self.drain_of(index, target);
        let left: u64 = ids.iter().filter_map(|id| service.flows.get(id)).sum();
        DrainReport {
            drained: drain.is_some() && ids.iter().all(|id| self.drained(index, *id)),
            left,
            waited_ms: drain.map_or(0, |drain| drain.waited_ms(moment())),
            deadline_passed: drain.is_some_and(|d| d.passed),
        }
    }

    /// Whether a backend is drained.
    fn drained(&self, index: usize, id: BackendId) -> bool {
        let service = &self.services[index];
        let Some(unnamed) = service.unnamed.get(&id) else { return false };
        service.swept >= unnamed + service.times.grace && service.flows.get(&id).copied().unwrap_or(0) == 0
    }

    /// Whether a backend's flows are let go: its deadline, or its version's, has passed.
    pub(super) fn let_go(&self, index: usize, backend: &SavedBackend) -> bool {
        let saved = &self.services[index].saved;
        backend.drain.is_some_and(|d| d.passed)
            || saved.draining.iter().any(|d| d.version == backend.version && d.drain.passed)
    }

    /// What time does to drains: deadlines, news, and forgetting what was removed and is drained.
    pub(super) fn advance_drains(&mut self, now: u64) {
        let time = moment();
        let mut changed = false;
        for index in 0..self.services.len() {
            changed |= self.deadlines(index, time);
            self.track_names(index, now);
            changed |= self.forget_removed(index);
        }
        if changed && let Err(refused) = self.save() {
            tracing::error!("{refused}");
        }
        self.tell_watchers();
    }

    fn deadlines(&mut self, index: usize, time: Moment) -> bool {
        let service = &mut self.services[index];
        let mut passed = Vec::new();
        for drain in &mut service.saved.draining {
            if drain.drain.due(time) {
                drain.drain.passed = true;
                passed.extend(
                    service.saved.backends.iter().filter(|b| b.version == drain.version).map(|b| b.id),
                );
            }
        }
        for backend in &mut service.saved.backends {
            if let Some(drain) = &mut backend.drain
                && drain.due(time)
            {
                drain.passed = true;
                passed.push(backend.id);
            }
        }
        if passed.is_empty() {
            return false;
        }
        let without = |cell: &Cell| passed.iter().fold(*cell, |cell, id| rules::remove(cell, *id));
        let rows = service.faces.iter().map(|face| Some(face.cells.iter().map(without).collect())).collect();
        let name = service.name().to_owned();
        tracing::warn!(
            service = name,
            backends = passed.len(),
            "drain deadline: the flows that are left are let go"
        );
        let Self { services, dataplane, epochs, .. } = self;
        if let Err(error) = services[index].publish(dataplane, epochs, rows) {
            tracing::error!(service = name, %error, "the deadline is not published");
        }
        let text =
            format!("a drain's deadline has passed: what is left of {} backends is let go", passed.len());
        self.note_event(EventKind::Drain, index, text);
        true
    }

    /// Since when no cell names the backends that drain.
    fn track_names(&mut self, index: usize, now: u64) {
        let service = &self.services[index];
        let draining: Vec<BackendId> =
            service.saved.backends.iter().filter(|b| service.backend_drains(b)).map(|b| b.id).collect();
        let named: Vec<bool> = draining.iter().map(|id| service.names(&[*id])).collect();
        let unnamed = &mut self.services[index].unnamed;
        unnamed.retain(|id, _| draining.contains(id));
        for (id, named) in draining.into_iter().zip(named) {
            if named {
                unnamed.remove(&id);
            } else {
                unnamed.entry(id).or_insert(now);
            }
        }
    }

    fn forget_removed(&mut self, index: usize) -> bool {
        let gone: Vec<BackendId> = self.services[index]
            .saved
            .backends
            .iter()
            .filter(|b| b.removed && self.drained(index, b.id))
            .map(|b| b.id)
            .collect();
        let mut ends = Vec::with_capacity(gone.len());
        for id in &gone {
            let service = &mut self.services[index];
            let Some(at) = service.saved.backends.iter().position(|b| b.id == *id) else { continue };
            let backend = service.saved.backends.remove(at);
            let counters = self.dataplane.backend_counters(*id);
            service.saved.retired.entry(backend.version.clone()).or_default().add(&counters);
            let signals = Reading::of_backend(&self.dataplane.signals(*id));
            if !signals.is_empty() {
                service.saved.retired_signals.entry(backend.version.clone()).or_default().add(&signals);
            }
            ends.push(service.backend_ends(&backend.address));
            tracing::info!(service = service.saved.spec.name, backend = %backend.address, "drained and forgotten");
            let (name, generation) = (service.name().to_owned(), service.generation());
            let text = format!("{} is drained and forgotten", backend.address);
            self.events.note(EventKind::Drain, Some((&name, generation)), text, None);
        }
        if !gone.is_empty() {
            self.forget_ends(ends);
            self.ids.forget();
            let SavedService { retired, retired_signals, backends, spec, .. } =
                &mut self.services[index].saved;
            let lives = |version: &String| {
                spec.versions.iter().any(|v| v.name == *version)
                    || backends.iter().any(|b| b.version == *version)
            };
            retired.retain(|version, _| lives(version));
            retired_signals.retain(|version, _| lives(version));
            self.follow_backends();
        }
        !gone.is_empty()
    }

    fn tell_watchers(&mut self) {
        let watchers = std::mem::take(&mut self.watchers);
        for watcher in watchers {
            let Some(index) = self.services.iter().position(|s| s.name() == watcher.service) else {
                continue;
            };
            let gone = self.members(index, &watcher.target).is_empty();
            if self.drain_of(index, &watcher.target).is_none() && !gone {
                // Undone: dropping the sender tells.
                continue;
            }
            let mut report = self.drain_report(index, &watcher.target);
            if gone {
                // Removed, drained and forgotten within one tick.
                let waited_ms = watcher.tell.borrow().waited_ms;
                report = DrainReport { drained: true, left: 0, waited_ms, deadline_passed: false };
            }
            let last = report.drained || report.deadline_passed;
            watcher.tell.send_replace(report);
            if !last && !watcher.tell.is_closed() {
                self.watchers.push(watcher);
            }
        }
    }
}
