//! Slow start: a backend that begins to take flows (it was added, put in again, or has become healthy) takes a tenth of its share at
//! first, and more by tenths until `slow_start` has passed.

use std::collections::HashMap;
use std::time::Duration;

use zdd_common::entries::BackendId;

use super::Reconciler;
use super::service::{HealthMap, Service};
use crate::health::Health;

/// Steps of a ramp.
const STEPS: u32 = 10;

/// Which backends of a service ramp.
#[derive(Debug, Default)]
pub(super) struct Ramp {
    /// Backends that can take flows, and since when (ns since boot; 0: they could when the agent started).
    since: HashMap<BackendId, u64>,
    /// Steps of those that are not through, from 1.
    steps: HashMap<BackendId, u32>,
    /// Looked at once: what takes flows at the first look has done so before.
    begun: bool,
}

impl Ramp {
    /// Takes down who can take flows at `now`. True: some weight is another by now.
    pub(super) fn follow(&mut self, able: &[BackendId], slow_start: Duration, now: u64) -> bool {
        let first = if self.begun { now } else { 0 };
        self.begun = true;
        self.since.retain(|id, _| able.contains(id));
        let mut steps = HashMap::new();
        for id in able {
            let since = *self.since.entry(*id).or_insert(first);
            let passed = u128::from(now.saturating_sub(since)) * u128::from(STEPS);
            let step = passed / slow_start.as_nanos().max(1);
            if since > 0 && !slow_start.is_zero() && step < u128::from(STEPS) {
                steps.insert(*id, (step as u32).max(1));
            }
        }
        let changed = steps != self.steps;
        self.steps = steps;
        changed
    }

    /// A backend's weight among those of its version. While any ramps, all are written in tenths.
    pub(super) fn weight(&self, id: BackendId, weight: u32) -> u32 {
        if self.steps.is_empty() { weight } else { weight * self.steps.get(&id).copied().unwrap_or(STEPS) }
    }

    /// Whether time changes anything.
    fn ramps(&self) -> bool {
        !self.steps.is_empty()
    }
}

impl Service {
    /// Looks who can take flows; true: some weight is another by now.
    pub(super) fn follow_ramp(&mut self, health: &HealthMap, now: u64) -> bool {
        let slow_start = self.saved.spec.slow_start;
        if slow_start.is_zero() {
            return self.ramp.follow(&[], slow_start, now);
        }
        let name = &self.saved.spec.name;
        let healthy = |address| {
            health.get(&(name.clone(), address)).map(|(health, _)| *health) != Some(Health::Unhealthy)
        };
        let able: Vec<BackendId> = self
            .saved
            .backends
            .iter()
            .filter(|b| !self.backend_drains(b) && healthy(b.address))
            .map(|b| b.id)
            .collect();
        self.ramp.follow(&able, slow_start, now)
    }
}

impl Reconciler {
    /// Gives backends that ramp what they are due by now.
    pub(super) fn look_at_ramps(&mut self, now: u64) {
        self.each_service("slow start", |service, dataplane, epochs, health| {
            if service.ramp.ramps() && service.follow_ramp(health, now) {
                service.refresh(dataplane, epochs, health, now)
            } else {
                Ok(())
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const SLOW: Duration = Duration::from_secs(10);

    #[test]
    fn who_takes_flows_when_the_agent_starts_does_not_ramp_and_who_comes_later_does() {
        let mut ramp = Ramp::default();
        assert!(!ramp.follow(&[1, 2], SLOW, 100 * SECOND));
        assert_eq!((ramp.weight(1, 5), ramp.weight(2, 1)), (5, 1));
        assert!(ramp.follow(&[1, 2, 3], SLOW, 101 * SECOND));
        assert_eq!((ramp.weight(1, 5), ramp.weight(3, 5)), (50, 5), "a tenth of its share");
        assert!(!ramp.follow(&[1, 2, 3], SLOW, 102 * SECOND + 1), "within the same step");
        assert!(ramp.follow(&[1, 2, 3], SLOW, 106 * SECOND));
        assert_eq!((ramp.weight(1, 5), ramp.weight(3, 5)), (50, 25));
        assert!(ramp.follow(&[1, 2, 3], SLOW, 111 * SECOND));
        assert_eq!(
            (ramp.weight(1, 5), ramp.weight(3, 5)),
            (5, 5),
            "it has its share, and nothing is left of the ramp"
        );
    }

    #[test]
    fn one_that_was_away_begins_anew_and_without_slow_start_nobody_ramps() {
        let mut ramp = Ramp::default();
        ramp.follow(&[1, 2], SLOW, SECOND);
        ramp.follow(&[1], SLOW, 2 * SECOND);
        assert!(ramp.follow(&[1, 2], SLOW, 3 * SECOND));
        assert_eq!((ramp.weight(1, 1), ramp.weight(2, 1)), (10, 1));
        assert!(ramp.follow(&[1, 2], Duration::ZERO, 3 * SECOND), "the file was edited");
        assert_eq!((ramp.weight(1, 1), ramp.weight(2, 1)), (1, 1));
    }
}
