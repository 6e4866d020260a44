//! What several backends need and what fails for all of them at once: nobody's fault, so that health takes nobody out for it and no rollout
//! goes back for it.
//!
//! Backends are asked one after the other, so for a while after such a thing begins, and again after it ends, some say one thing and
//! some the other. What a candidate's health says in that time is not known to be its own.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::service::{HealthMap, Service};
use crate::health::{Health, depends};
use crate::state::SavedBackend;

/// When things began and ended that fail for all.
#[derive(Default)]
pub(super) struct Outages {
    /// Since when somebody tells that a shared dependency fails, by its name.
    failing: HashMap<String, Instant>,
    /// When the last backend failed of which all did.
    over: Option<Instant>,
}

impl Service {
    /// Shared dependencies that fail for all backends at once.
    pub(super) fn outages(&self) -> Vec<&str> {
        if self.depends.is_empty() {
            return Vec::new();
        }
        let active = self.saved.backends.iter().filter(|b| !self.backend_drains(b));
        let told = |b: &SavedBackend| self.depends.get(&b.address).map_or(&[][..], Vec::as_slice);
        depends::outages(&active.map(told).collect::<Vec<_>>())
    }

    /// Whether a backend fails because of something that fails for all.
    pub(super) fn explained(&self, backend: &SavedBackend, outages: &[&str]) -> bool {
        !outages.is_empty()
            && self.depends.get(&backend.address).is_some_and(|told| depends::explains(told, outages))
    }

    /// Whether every backend that takes flows fails its health check.
    fn all_fail(&self, health: &HealthMap) -> bool {
        let mut active = self.saved.backends.iter().filter(|b| !b.removed && !self.backend_drains(b));
        let fails = |b: &SavedBackend| {
            let key = (self.name().to_owned(), b.address);
            health.get(&key).is_some_and(|(health, _)| *health == Health::Unhealthy)
        };
        active.clone().next().is_some() && active.all(fails)
    }

    /// Whether something fails for all. Asked before news of a backend is taken in, for [`Service::note_outages`].
    pub(super) fn fails_for_all(&self, health: &HealthMap) -> bool {
        !self.outages().is_empty() || self.all_fail(health)
    }

    /// Takes down what began and what ended with the news of a backend.
    pub(super) fn note_outages(&mut self, before: bool, now: Instant) {
        if before {
            self.outages.over = Some(now);
        }
        let told = self.depends.values().flatten();
        let failing: BTreeSet<&str> = told
            .filter(|state| state.shared && state.well == Some(false))
            .map(|state| state.name.as_str())
            .collect();
        self.outages.failing.retain(|name, _| failing.contains(name.as_str()));
        for name in failing {
            self.outages.failing.entry(name.to_owned()).or_insert(now);
        }
    }

    /// Why the failure of a backend may be nobody's fault; `None`: it is the backend's own.
    pub(super) fn excuse(&self, backend: &SavedBackend, health: &HealthMap, now: Instant) -> Option<String> {
        let spec = self.saved.spec.health.as_ref()?;
        let outages = self.outages();
        if self.explained(backend, &outages) {
            return Some(format!("{} fails for every backend", outages.join(", ")));
        }
        if self.all_fail(health) {
            return Some("every backend of the service fails its health check".to_owned());
        }
        let shared = spec.depends.iter().any(|dependency| dependency.shared);
        let Some(told) = self.depends.get(&backend.address) else {
            // Known from before the agent was restarted.
            return shared
                .then(|| format!("{} has not been asked since the start why it fails", backend.address));
        };
        let round = spec.interval.mul_f64(1.0 + spec.jitter) + spec.timeout;
        let within = |since: Option<Instant>, time: Duration| {
            since.is_some_and(|since| now.saturating_duration_since(since) < time)
        };
        // It takes so many answers to be healthy again.
        if within(self.outages.over, round * (spec.rise + 1)) {
            return Some("what failed for every backend has only just ended".to_owned());
        }
        let begun = told.iter().filter(|state| state.shared && state.well == Some(false));
        let mut begun = begun.filter(|state| within(self.outages.failing.get(&state.name).copied(), round));
        begun.next().map(|state| {
            format!("{} fails, and not every backend has been asked since whether for it too", state.name)
        })
    }
}
