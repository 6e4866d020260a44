//! A rolling rollout put into practice: backends taken out, restarted or replaced, and put in again, a batch at a time.

use std::net::SocketAddr;
use std::time::Duration;

use super::Reconciler;
use super::drains;
use crate::control::{Refused, Target};
use crate::desired::BackendSpec;
use crate::health::Health;
use crate::rollout::machine::{Event, Phase};
use crate::rollout::saved::SavedRollouts;
use crate::rollout::spec::{Strategy, Unit};
use crate::rollout::stages::{BatchStep, Stage, batch_at, stages};

/// Whether a rolling rollout keeps a new backend from taking flows: it is known, and not in yet.
pub(super) fn held_back(rollouts: &SavedRollouts, address: SocketAddr) -> bool {
    let Some(rollout) = rollouts.active() else { return false };
    let Strategy::Rolling { batches, .. } = &rollout.plan.spec.strategy else { return false };
    let of = |batch: &Vec<Unit>| batch.iter().any(|unit| unit.new == Some(address));
    let Some(number) = batches.iter().position(of) else { return false };
    let enters = Stage::Batch(BatchStep::In, number as u16);
    let line = stages(&rollout.plan.spec);
    line.iter().position(|stage| *stage == enters).is_some_and(|at| rollout.progress.stage < at)
}

impl Reconciler {
    /// The batch that a rolling rollout is at.
    pub(super) fn present_batch(&self, index: usize) -> Vec<Unit> {
        let Some(rollout) = &self.services[index].saved.rollouts.current else { return Vec::new() };
        let spec = &rollout.plan.spec;
        batch_at(&stages(spec), rollout.progress.stage)
            .map_or(Vec::new(), |number| spec.batch(number).to_vec())
    }

    /// Does a step with a batch, or looks whether it is done.
    pub(super) fn see_to_batch(&mut self, index: usize, step: BatchStep, number: u16) {
        let Some(rollout) = &self.services[index].saved.rollouts.current else { return };
        let batch = rollout.plan.spec.batch(number).to_vec();
        let version = rollout.plan.candidate.clone();
        let done = match step {
            BatchStep::Enter => self.known(index, &version, &batch).map(|()| true),
            BatchStep::Out => self.taken_out(index, &version, &batch),
            BatchStep::Ready => return,
            BatchStep::In => self.put_in(index, &version, &batch).map(|()| true),
        };
        let answer = match done {
            Ok(false) => return,
            Ok(true) => Ok(()),
            Err(refused) => Err(refused.message.replace('\n', "; ")),
        };
        self.rollout_goes_on(index, Event::Batch(step, number, answer));
    }

    /// The new addresses become backends; [`held_back`] keeps them from taking flows.
    fn known(&mut self, index: usize, version: &str, batch: &[Unit]) -> Result<(), Refused> {
        let mut spec = self.services[index].saved.spec.clone();
        let Some(own) = spec.versions.iter_mut().find(|v| v.name == version) else {
            return Err(gone(version));
        };
        for unit in batch {
            let Some(new) = unit.new.filter(|new| own.backends.iter().all(|b| b.address != *new)) else {
                continue;
            };
            let weight = own.backends.iter().find(|b| b.address == unit.old).map_or(1, |b| b.weight);
            self.address_is_free(index, version, new)?;
            own.backends.push(BackendSpec { address: new, weight });
        }
        if spec != self.services[index].saved.spec { self.adjust_one(index, spec) } else { Ok(()) }
    }

    /// Whether nobody is left on the old backends of a batch; the drain of those that do not drain yet is begun.
    fn taken_out(&mut self, index: usize, version: &str, batch: &[Unit]) -> Result<bool, Refused> {
        let name = self.services[index].name().to_owned();
        let deadline = self.services[index].saved.rollouts.current.as_ref();
        let deadline = deadline.and_then(|rollout| rollout.plan.spec.drain_deadline);
        let target = |address| Target::Backend { service: Some(name.clone()), address };
        let known = |this: &Self, unit: &Unit| {
            this.services[index].saved.backends.iter().any(|b| b.address == unit.old && b.version == version)
        };
        let begins =
            |this: &Self, unit: &Unit| known(this, unit) && this.drain_of(index, &target(unit.old)).is_none();
        if batch.iter().any(|unit| begins(self, unit)) {
            self.enough_stay(index, version, batch)?;
        }
        let mut done = true;
        for unit in batch {
            if begins(self, unit) {
                self.drain(&target(unit.old), deadline)?;
            }
            if known(self, unit) {
                let report = self.drain_report(index, &target(unit.old));
                done &= report.drained || report.deadline_passed;
            }
        }
        Ok(done)
    }

    /// Refuses to take a batch out while too many others take no flows.
    fn enough_stay(&self, index: usize, version: &str, batch: &[Unit]) -> Result<(), Refused> {
        let service = &self.services[index];
        let Some(rollout) = &service.saved.rollouts.current else { return Ok(()) };
        let Strategy::Rolling { max_unavailable, .. } = &rollout.plan.spec.strategy else { return Ok(()) };
        let own: Vec<_> =
            service.saved.backends.iter().filter(|b| b.version == version && !b.removed).collect();
        let most = max_unavailable.map_or(batch.len(), |count| count.of(own.len()));
        let leaves = |address: SocketAddr| batch.iter().any(|unit| unit.old == address);
        let missing = own.iter().filter(|b| {
            let known = self.health.get(&(service.name().to_owned(), b.address)).map(|(health, _)| *health);
            !leaves(b.address)
                && (service.backend_drains(b)
                    || service.saved.spec.health.is_some() && known != Some(Health::Healthy))
        });
        let missing = missing.count();
        if missing + batch.len() > most {
            return Err(Refused::refused(format!(
                "{missing} other backends of {version} take no flows now, and max_unavailable allows {most} with the {} of this batch",
                batch.len()
            )));
        }
        Ok(())
    }

    /// The batch takes flows: restarted ones again, new ones in the place of old ones.
    fn put_in(&mut self, index: usize, version: &str, batch: &[Unit]) -> Result<(), Refused> {
        let name = self.services[index].name().to_owned();
        for unit in batch.iter().filter(|unit| unit.new.is_none()) {
            let target = Target::Backend { service: Some(name.clone()), address: unit.old };
            if self.drain_of(index, &target).is_some() {
                self.undrain(&target)?;
            }
        }
        let replaced =
            |address: SocketAddr| batch.iter().any(|unit| unit.old == address && unit.new.is_some());
        let mut spec = self.services[index].saved.spec.clone();
        let Some(own) = spec.versions.iter_mut().find(|v| v.name == version) else {
            return Err(gone(version));
        };
        own.backends.retain(|backend| !replaced(backend.address));
        if spec == self.services[index].saved.spec {
            return Ok(());
        }
        self.adjust_one(index, spec)?;
        let deadline = self.services[index].saved.rollouts.current.as_ref();
        if let Some(deadline) = deadline.and_then(|rollout| rollout.plan.spec.drain_deadline) {
            for backend in &mut self.services[index].saved.backends {
                if replaced(backend.address) {
                    backend.drain = Some(drains::begin(Some(deadline)));
                }
            }
            self.save()?;
        }
        Ok(())
    }

    /// Takes the present batch back: what was taken out takes flows again, what was to replace it goes.
    pub(super) fn batch_back(&mut self, index: usize) -> Result<(), Refused> {
        let batch = self.present_batch(index);
        let name = self.services[index].name().to_owned();
        let Some(rollout) = &self.services[index].saved.rollouts.current else { return Ok(()) };
        let version = rollout.plan.candidate.clone();
        let mut spec = self.services[index].saved.spec.clone();
        if let Some(own) = spec.versions.iter_mut().find(|v| v.name == version) {
            for unit in &batch {
                let Some(new) = unit.new else { continue };
                let weight = own.backends.iter().find(|b| b.address == new).map_or(1, |b| b.weight);
                own.backends.retain(|b| b.address != new);
                if own.backends.iter().all(|b| b.address != unit.old) {
                    own.backends.push(BackendSpec { address: unit.old, weight });
                }
            }
        }
        if spec != self.services[index].saved.spec {
            self.adjust_one(index, spec)?;
        }
        for unit in &batch {
            let target = Target::Backend { service: Some(name.clone()), address: unit.old };
            if self.drain_of(index, &target).is_some() {
                self.undrain(&target)?;
            }
        }
        Ok(())
    }

    /// Tells a rolling rollout when all of a batch that it waits for are healthy, or not any more.
    pub(super) fn look_at_batch(&mut self, index: usize) {
        let service = &self.services[index];
        let Some(rollout) = service.saved.rollouts.active() else { return };
        let (spec, progress) = (&rollout.plan.spec, &rollout.progress);
        let Some(Stage::Batch(BatchStep::Ready, number)) = stages(spec).get(progress.stage).copied() else {
            return;
        };
        if progress.phase != Phase::Running {
            return;
        }
        // A verdict from before the restart says nothing: every backend is asked once more first.
        let asked = Duration::from_millis(rollout.clock_ms.saturating_sub(progress.entered_ms));
        let healthy = |unit: &Unit| {
            let key = (service.name().to_owned(), unit.new.unwrap_or(unit.old));
            service.saved.spec.health.is_none()
                || self.health.get(&key).is_some_and(|(health, _)| *health == Health::Healthy)
        };
        let ready = asked >= self.until_probed(index) && spec.batch(number).iter().all(healthy);
        if ready != progress.ready_since_ms.is_some() {
            self.rollout_goes_on(index, Event::Healthy(ready));
        }
    }

    /// The batches of a rolling rollout of `version`: of the pairs that replace, or of all its backends.
    pub(super) fn batches(
        &self,
        index: usize,
        version: &str,
        strategy: &Strategy,
        replace: &[(SocketAddr, SocketAddr)],
    ) -> Result<Strategy, Refused> {
        let Strategy::Rolling { batch, .. } = strategy else {
            if replace.is_empty() {
                return Ok(strategy.clone());
            }
            return Err(Refused::invalid(format!(
                "--replace means nothing to {}\nhelp: it is for strategy = \"rolling\"",
                strategy.name()
            )));
        };
        let service = &self.services[index];
        let own = service.saved.spec.versions.iter().find(|v| v.name == version);
        let own: Vec<SocketAddr> = own.map_or(Vec::new(), |v| v.backends.iter().map(|b| b.address).collect());
        for (old, new) in replace {
            if !own.contains(old) {
                return Err(Refused::not_found(format!("{old} is no backend of {version}")));
            }
            if replace.iter().filter(|(other, with)| other == old || with == new).count() > 1 {
                return Err(Refused::invalid(format!("{old}={new}: each address is named once")));
            }
            if own.contains(new) {
                return Err(Refused::conflict(format!("{new} is a backend of {version} already")));
            }
            self.address_is_free(index, version, *new)?;
        }
        let units: Vec<Unit> = if replace.is_empty() {
            own.iter().map(|old| Unit { old: *old, new: None }).collect()
        } else {
            replace.iter().map(|(old, new)| Unit { old: *old, new: Some(*new) }).collect()
        };
        let size = batch.of(own.len()).max(1);
        let mut whole = strategy.clone();
        if let Strategy::Rolling { batches, .. } = &mut whole {
            *batches = units.chunks(size).map(<[Unit]>::to_vec).collect();
        }
        Ok(whole)
    }
}

fn gone(version: &str) -> Refused {
    Refused::not_found(format!("version {version} is not in the configuration any more"))
}
