//! What the agent knows by itself of a candidate: the health of its backends, and how many new flows the kernel has given it.

use std::time::{Duration, Instant};

use super::Reconciler;
use super::rollouts::Begun;
use crate::health::Health;
use crate::rollout::machine::Work;
use crate::rollout::provider;
use crate::rollout::runs::Outcome;
use crate::rollout::spec::{AnalysisSpec, Builtin, Condition, Provider};
use crate::signals::{CompareSpec, metric};

impl Reconciler {
    /// The share of the candidate's backends that are healthy, judged. One that may fail for no fault of its own is given the benefit of
    /// the doubt as far as not failing for it, and no further.
    pub(super) fn healthy_share(&self, index: usize, success: &Condition) -> Outcome {
        let unknown = || Outcome::Inconclusive("not every backend has been asked yet".to_owned());
        let service = &self.services[index];
        let Some(rollout) = &service.saved.rollouts.current else { return unknown() };
        let members =
            service.saved.backends.iter().filter(|b| b.version == rollout.plan.candidate && !b.removed);
        let (mut all, mut healthy, mut excused, mut why) = (0.0, 0.0, 0.0, None);
        for backend in members {
            match self.health.get(&(service.name().to_owned(), backend.address)).map(|(health, _)| *health) {
                Some(Health::Healthy) => healthy += 1.0,
                Some(Health::Unhealthy) => {
                    if let Some(excuse) = service.excuse(backend, &self.health, Instant::now()) {
                        excused += 1.0;
                        why = Some(excuse);
                    }
                }
                _ => return unknown(),
            }
            all += 1.0;
        }
        let judged = |healthy: f64| {
            let share = serde_json::Number::from_f64(healthy / all);
            provider::judge(&share.map_or(serde_json::Value::Null, serde_json::Value::Number), success)
        };
        match (judged(healthy), why) {
            (Outcome::Failure(_), Some(why)) if matches!(judged(healthy + excused), Outcome::Success(_)) => {
                Outcome::Postponed(why)
            }
            (outcome, _) => outcome,
        }
    }

    /// How long every backend takes to be asked for the first time, at the most; nothing where nobody is asked.
    pub(super) fn until_probed(&self, index: usize) -> Duration {
        let health = &self.services[index].saved.spec.health;
        // A first probe comes within a second, whatever the interval.
        health
            .as_ref()
            .map_or(Duration::ZERO, |health| health.interval.min(Duration::from_secs(1)) + health.timeout)
    }

    /// New flows of the candidate, and those of testers.
    fn begun(&self, index: usize) -> Begun {
        let service = &self.services[index];
        let Some(rollout) = &service.saved.rollouts.current else { return Begun::default() };
        let candidate = &rollout.plan.candidate;
        let members = service.saved.backends.iter().filter(|backend| backend.version == *candidate);
        let live = members.map(|backend| self.dataplane.backend_counters(backend.id).new_flows);
        let retired = service.saved.retired.get(candidate).map(|retired| retired.counters().new_flows);
        let all = live.sum::<u64>() + retired.unwrap_or(0);
        // Read after the former: one that begins in between is then no user too many.
        let previews = service.faces.iter().filter(|face| face.at.preview);
        let testers = previews.map(|face| self.dataplane.service_counters(face.at.id).new_flows).sum();
        Begun { all, testers }
    }

    /// What counts for `min_samples` since a look: users. Before any of them meets the candidate there are testers alone, and
    /// whoever measures by them may ask for a number of them.
    fn samples(&self, index: usize, before: Begun, now: Begun) -> u64 {
        let saved = &self.services[index].saved;
        let Some(rollout) = &saved.rollouts.current else { return 0 };
        let candidate = saved.spec.versions.iter().find(|version| version.name == rollout.plan.candidate);
        let exposed = candidate.is_some_and(|version| version.weight > 0) || rollout.leading > 0;
        let all = now.all.saturating_sub(before.all);
        if exposed { all.saturating_sub(now.testers.saturating_sub(before.testers)) } else { all }
    }

    /// What came before says nothing of the weight that is in force now.
    pub(super) fn sample_from_now(&mut self, index: usize) {
        let flows = self.begun(index);
        let service = &self.services[index];
        let Some(rollout) = &service.saved.rollouts.current else { return };
        let (name, id, count) = (service.name(), rollout.plan.id, rollout.plan.spec.analyses.len());
        self.rollouts.samples.retain(|(of, _, _), _| of != name);
        self.rollouts.samples.extend((0..count).map(|at| ((name.to_owned(), id, at), flows)));
        let reading = self.reading(service, &rollout.plan.candidate);
        self.rollouts.readings.retain(|(of, _, _), _| of != name);
        self.rollouts.readings.extend((0..count).map(|at| ((name.to_owned(), id, at), reading.clone())));
    }

    /// Comparisons begin an interval: flows under different weights are not held against each other.
    pub(super) fn compare_from_now(&mut self, index: usize) {
        self.sweep_signals();
        let service = &self.services[index];
        let Some(rollout) = &service.saved.rollouts.current else { return };
        let (stable, candidate) =
            (self.reading(service, &rollout.plan.stable), self.reading(service, &rollout.plan.candidate));
        let compared = |analysis: &&AnalysisSpec| matches!(analysis.provider, Provider::Compare(_));
        let names: Vec<String> = rollout
            .plan
            .spec
            .analyses
            .iter()
            .filter(compared)
            .map(|analysis| analysis.name.clone())
            .collect();
        let Some(rollout) = &mut self.services[index].saved.rollouts.current else { return };
        for name in names {
            rollout.comparisons.entry(name).or_default().begin(stable.clone(), candidate.clone());
        }
    }

    /// The candidate held against the stable version. What the mode of either does not show is left out.
    fn compared(&mut self, index: usize, analysis: &AnalysisSpec, spec: &CompareSpec) -> Outcome {
        let service = &self.services[index];
        let Some(rollout) = &service.saved.rollouts.current else {
            return Outcome::Error("there is no rollout".to_owned());
        };
        let (stable, candidate) = (&rollout.plan.stable, &rollout.plan.candidate);
        let modes = [Self::forward_of(service, stable), Self::forward_of(service, candidate)];
        let mut spec = spec.clone();
        spec.metrics.retain(|metric| modes.iter().all(|mode| metric.seen_under(*mode)));
        let (stable, candidate) = (self.reading(service, stable), self.reading(service, candidate));
        let Some(rollout) = &mut self.services[index].saved.rollouts.current else {
            return Outcome::Error("there is no rollout".to_owned());
        };
        let comparison = rollout.comparisons.entry(analysis.name.clone()).or_default();
        comparison.look(&spec, stable, candidate, analysis.min_samples)
    }

    /// A rate or time of the candidate's flows since the measurement before; null without any, or where the mode does not show it.
    fn signal(&mut self, index: usize, key: (String, u64, usize), metric: Builtin) -> serde_json::Value {
        let service = &self.services[index];
        let Some(rollout) = &service.saved.rollouts.current else { return serde_json::Value::Null };
        let now = self.reading(service, &rollout.plan.candidate);
        let mode = Self::forward_of(service, &rollout.plan.candidate);
        let before = self.rollouts.readings.insert(key, now.clone()).unwrap_or_else(|| now.clone());
        let since = now.since(&before);
        let value = match metric {
            Builtin::Rate(metric) if metric.seen_under(mode) => {
                metric.trials(&since).and_then(|trials| trials.rate())
            }
            Builtin::P99(metric) => {
                metric.histogram(&since).and_then(|times| metric::quantile_seconds(times, 0.99))
            }
            _ => None,
        };
        value
            .and_then(serde_json::Number::from_f64)
            .map_or(serde_json::Value::Null, serde_json::Value::Number)
    }

    /// A success is one only when enough users have met the candidate since the measurement before.
    pub(super) fn weigh(&mut self, index: usize, token: u64, outcome: Outcome) -> Outcome {
        let flows = self.begun(index);
        let service = &self.services[index];
        let Some(rollout) = &service.saved.rollouts.current else { return outcome };
        let under_way = rollout.progress.outstanding();
        let at = under_way.iter().find_map(|(t, work)| match work {
            Work::Measure(at) if *t == token => Some(*at),
            _ => None,
        });
        let Some((at, spec)) = at.and_then(|at| Some((at, rollout.plan.spec.analyses.get(at)?.clone())))
        else {
            return outcome;
        };
        let key = (service.name().to_owned(), rollout.plan.id, at);
        let outcome = match &spec.provider {
            // Judged as late as can be: a probe may have answered meanwhile.
            Provider::Builtin { metric: Builtin::HealthyShare, success } => {
                self.healthy_share(index, success)
            }
            Provider::Builtin { metric, success } => {
                self.sweep_signals();
                provider::judge(&self.signal(index, key.clone(), *metric), success)
            }
            Provider::Compare(compare) => {
                self.sweep_signals();
                self.compared(index, &spec, compare)
            }
            _ => outcome,
        };
        let before = self.rollouts.samples.insert(key, flows).unwrap_or(flows);
        outcome.of_samples(self.samples(index, before, flows), spec.min_samples)
    }
}
