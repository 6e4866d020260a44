//! The weights of a rollout put in force, the drain at its end, and the watch for weights that somebody else has set.

use super::Reconciler;
use crate::control::{Refused, Target};
use crate::desired::{BasisPoints, FULL};
use crate::rollout::machine::{Event, Phase};
use crate::rollout::spec::{HookKind, Strategy};
use crate::text::percent;

impl Reconciler {
    /// Puts the candidate's share in force: the same path and the same guards as `zdd shift`. The way back is not kept up by
    /// a SYN flood: some new connections stay on the candidate then, and none breaks.
    pub(super) fn rollout_weights(&mut self, index: usize, to: BasisPoints) -> Result<(), Refused> {
        let saved = &self.services[index].saved;
        let Some(rollout) = &saved.rollouts.current else { return Ok(()) };
        let back = matches!(rollout.progress.phase, Phase::RollingBack(_));
        if matches!(rollout.plan.spec.strategy, Strategy::Rolling { .. }) {
            return self.batch_back(index);
        }
        let (stable, candidate) = (rollout.plan.stable.clone(), rollout.plan.candidate.clone());
        let has = |name: &str| saved.spec.versions.iter().any(|version| version.name == name);
        if !has(&stable) && back {
            tracing::warn!(service = saved.spec.name, stable, "the stable version is gone: the weights stay");
            // Its cohorts go by them from now on.
            return self.publish(index);
        }
        for name in [&stable, &candidate] {
            if !has(name) && !(back && *name == candidate) {
                return Err(Refused::not_found(format!(
                    "version {name} is not in the configuration any more"
                )));
            }
        }
        let weight = |name: &str| match name {
            _ if name == candidate => to,
            _ if name == stable => FULL - to,
            _ => 0,
        };
        let new: Vec<BasisPoints> = saved.spec.versions.iter().map(|version| weight(&version.name)).collect();
        let cohorts = self.cohorts_to_lead(index);
        let done = if back {
            let before = self.lead(index, cohorts);
            self.give_back(index, &new).map_err(|refused| (before, refused))
        } else {
            let mut notes = Vec::new();
            self.guard_cohorts(index, cohorts, &candidate)?;
            self.guard_health(index, &new, false, &mut notes)?;
            self.guard_filter(false)?;
            let before = self.lead(index, cohorts);
            self.put_weights(index, &new, notes).map(drop).map_err(|refused| (before, refused))
        };
        done.map_err(|(before, refused)| {
            self.lead(index, before);
            refused
        })
    }

    /// Gives weights back, also during a SYN flood.
    pub(super) fn give_back(&mut self, index: usize, new: &[BasisPoints]) -> Result<(), Refused> {
        let mut notes = Vec::new();
        self.guard_health(index, new, false, &mut notes)?;
        self.put_weights(index, new, notes).map(drop)
    }

    /// Begins the drain of the old version if it does not drain, and tells the machine when it is over.
    pub(super) fn see_to_drain(&mut self, index: usize) {
        let service = &self.services[index];
        let Some(rollout) = &service.saved.rollouts.current else { return };
        let target = Target::Version {
            service: Some(service.name().to_owned()),
            version: rollout.plan.stable.clone(),
        };
        if service.saved.spec.versions.iter().all(|version| version.name != rollout.plan.stable) {
            // Whatever is left of it is on its way out with its configuration.
            return self.rollout_goes_on(index, Event::Drained);
        }
        if self.drain_of(index, &target).is_none() {
            let deadline = rollout.plan.spec.drain_deadline;
            if let Err(refused) = self.drain(&target, deadline) {
                tracing::debug!(
                    service = self.services[index].name(),
                    "the old version is not drained yet: {refused}"
                );
            }
            return;
        }
        let contracts = rollout.plan.spec.calls(HookKind::Contract);
        let report = self.drain_report(index, &target);
        // Past the deadline flows are let go, and with the last of them it is drained; `contract` waits for that.
        if report.drained || report.deadline_passed && !contracts {
            self.rollout_goes_on(index, Event::Drained);
        }
    }

    /// Weights that are not the plan's were set by somebody else: the rollout is paused, and says so.
    pub(super) fn watch_weights(&mut self) {
        for index in 0..self.services.len() {
            let saved = &self.services[index].saved;
            let Some(rollout) = saved.rollouts.active() else { continue };
            let (plan, progress) = (&rollout.plan, &rollout.progress);
            // A rolling rollout sets no weights.
            if matches!(plan.spec.strategy, Strategy::Rolling { .. }) {
                continue;
            }
            let watched = matches!(progress.phase, Phase::Running | Phase::Frozen(_)) && !progress.displaced;
            let weight = |name: &str| saved.spec.versions.iter().find(|v| v.name == name).map(|v| v.weight);
            let (candidate, stable) = (weight(&plan.candidate), weight(&plan.stable));
            let is = |ours: BasisPoints| candidate == Some(ours) && stable == Some(FULL - ours);
            // A weight that was in force before its arrival was persisted: a kill came between.
            let ours = is(progress.weight) || progress.setting.as_ref().is_some_and(|setting| is(setting.to));
            if !watched || ours {
                continue;
            }
            let said = |name: &str, weight: Option<BasisPoints>| match weight {
                Some(weight) => format!("{name} has {}", percent(weight)),
                None => format!("{name} is gone"),
            };
            let what = format!(
                "the weights are not the plan's: {}, {}",
                said(&plan.stable, stable),
                said(&plan.candidate, candidate)
            );
            self.rollout_goes_on(index, Event::Interfered(what));
        }
    }
}
