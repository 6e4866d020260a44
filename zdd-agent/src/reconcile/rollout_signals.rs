//! What the agent knows by itself of a candidate: the health of its backends, and how many new flows the kernel has given it.

use std::time::Duration;

use super::Reconciler;
use crate::health::Health;
use crate::rollout::machine::Work;
use crate::rollout::provider;
use crate::rollout::runs::Outcome;
use crate::rollout::spec::{Builtin, Provider};

impl Reconciler {
    /// A metric that the agent knows; null when it does not know.
    pub(super) fn builtin(&self, index: usize, metric: Builtin) -> serde_json::Value {
        let Builtin::HealthyShare = metric;
        let service = &self.services[index];
        let Some(rollout) = &service.saved.rollouts.current else { return serde_json::Value::Null };
        let members =
            service.saved.backends.iter().filter(|b| b.version == rollout.plan.candidate && !b.removed);
        let (mut all, mut healthy) = (0.0, 0.0);
        for backend in members {
            match self.health.get(&(service.name().to_owned(), backend.address)).map(|(health, _)| *health) {
                Some(Health::Healthy) => healthy += 1.0,
                Some(Health::Unhealthy) => {}
                _ => return serde_json::Value::Null,
            }
            all += 1.0;
        }
        serde_json::Number::from_f64(healthy / all).map_or(serde_json::Value::Null, serde_json::Value::Number)
    }

    /// How long every backend takes to be asked for the first time, at the most; nothing where nobody is asked.
    pub(super) fn until_probed(&self, index: usize) -> Duration {
        let health = &self.services[index].saved.spec.health;
        // A first probe comes within a second, whatever the interval.
        health
            .as_ref()
            .map_or(Duration::ZERO, |health| health.interval.min(Duration::from_secs(1)) + health.timeout)
    }

    /// New flows of the candidate since its counters began.
    pub(super) fn candidate_flows(&self, index: usize) -> u64 {
        let service = &self.services[index];
        let Some(rollout) = &service.saved.rollouts.current else { return 0 };
        let candidate = &rollout.plan.candidate;
        let members = service.saved.backends.iter().filter(|backend| backend.version == *candidate);
        let live = members.map(|backend| self.dataplane.backend_counters(backend.id).new_flows);
        live.sum::<u64>()
            + service.saved.retired.get(candidate).map_or(0, |retired| retired.counters().new_flows)
    }

    /// What came before says nothing of the weight that is in force now.
    pub(super) fn sample_from_now(&mut self, index: usize) {
        let flows = self.candidate_flows(index);
        let service = &self.services[index];
        let Some(rollout) = &service.saved.rollouts.current else { return };
        let (name, id, count) = (service.name(), rollout.plan.id, rollout.plan.spec.analyses.len());
        self.rollouts.samples.retain(|(of, _, _), _| of != name);
        self.rollouts.samples.extend((0..count).map(|at| ((name.to_owned(), id, at), flows)));
    }

    /// A success is one only when enough users have met the candidate since the measurement before.
    pub(super) fn weigh(&mut self, index: usize, token: u64, outcome: Outcome) -> Outcome {
        let flows = self.candidate_flows(index);
        let service = &self.services[index];
        let Some(rollout) = &service.saved.rollouts.current else { return outcome };
        let under_way = rollout.progress.outstanding();
        let at = under_way.iter().find_map(|(t, work)| match work {
            Work::Measure(at) if *t == token => Some(*at),
            _ => None,
        });
        let Some((at, spec)) = at.and_then(|at| Some((at, rollout.plan.spec.analyses.get(at)?))) else {
            return outcome;
        };
        let outcome = match &spec.provider {
            // Judged as late as can be: a probe may have answered meanwhile.
            Provider::Builtin { metric, success } => provider::judge(&self.builtin(index, *metric), success),
            _ => outcome,
        };
        let key = (service.name().to_owned(), rollout.plan.id, at);
        let before = self.rollouts.samples.insert(key, flows).unwrap_or(flows);
        outcome.of_samples(flows.saturating_sub(before), spec.min_samples)
    }
}
