//! When a backend counts as healthy: a pure machine over the results of probes.

use serde::{Deserialize, Serialize};

/// What is known about a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Not probed long enough to say.
    Unknown,
    /// Answers as expected.
    Healthy,
    /// Does not.
    Unhealthy,
}

impl std::fmt::Display for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Health::Unknown => "unknown",
            Health::Healthy => "healthy",
            Health::Unhealthy => "unhealthy",
        })
    }
}

/// The state of one backend.
///
/// ```text
/// Unknown   -- 1 success ---------------> Healthy      a start takes one probe, not `rise` of them
/// Unknown   -- `fall` failures in a row -> Unhealthy   one lost packet at start condemns nobody
/// Healthy   -- `fall` failures in a row -> Unhealthy
/// Unhealthy -- `rise` successes in a row -> Healthy
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    rise: u32,
    fall: u32,
    health: Health,
    successes: u32,
    failures: u32,
    reason: Option<String>,
}

impl Machine {
    /// Starts as [`Health::Unknown`]. A `rise` or `fall` of 0 counts as 1: no result would ever decide otherwise.
    pub fn new(rise: u32, fall: u32) -> Machine {
        Machine {
            rise: rise.max(1),
            fall: fall.max(1),
            health: Health::Unknown,
            successes: 0,
            failures: 0,
            reason: None,
        }
    }

    /// Takes the result of one probe; a failure says why. Returns the new health when this result changed it.
    pub fn observe(&mut self, result: Result<(), String>) -> Option<Health> {
        match result {
            Ok(()) => {
                self.successes = self.successes.saturating_add(1);
                self.failures = 0;
            }
            Err(reason) => {
                self.failures = self.failures.saturating_add(1);
                self.successes = 0;
                self.reason = Some(reason);
            }
        }
        let next = match self.health {
            Health::Unknown if self.successes > 0 => Health::Healthy,
            Health::Unhealthy if self.successes >= self.rise => Health::Healthy,
            Health::Unknown | Health::Healthy if self.failures >= self.fall => Health::Unhealthy,
            same => same,
        };
        if next == self.health {
            return None;
        }
        self.health = next;
        if next == Health::Healthy {
            self.reason = None;
        }
        Some(next)
    }

    /// Takes other thresholds and keeps health, streaks and reason: what is known does not become untrue because
    /// somebody edits a number.
    pub fn retune(&mut self, rise: u32, fall: u32) {
        self.rise = rise.max(1);
        self.fall = fall.max(1);
    }

    /// Healthy, and its last result says the same.
    pub fn steady(&self) -> bool {
        self.health == Health::Healthy && self.failures == 0
    }

    /// What is known now.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Successes in a row, 0 after a failure.
    pub fn successes(&self) -> u32 {
        self.successes
    }

    /// Failures in a row, 0 after a success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Why the last failed probe failed. Forgotten when the backend becomes healthy.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn failed() -> Result<(), String> {
        Err("connection refused".into())
    }

    #[test]
    fn one_success_makes_an_unknown_backend_healthy() {
        let mut machine = Machine::new(3, 3);
        assert_eq!(machine.observe(Ok(())), Some(Health::Healthy));
        assert_eq!(machine.observe(Ok(())), None);
    }

    #[test]
    fn an_unknown_backend_becomes_unhealthy_only_after_fall_failures() {
        let mut machine = Machine::new(2, 3);
        assert_eq!(machine.observe(failed()), None);
        assert_eq!(machine.health(), Health::Unknown);
        assert_eq!(machine.observe(failed()), None);
        assert_eq!(machine.observe(failed()), Some(Health::Unhealthy));
        assert_eq!(machine.reason(), Some("connection refused"));
    }

    #[test]
    fn an_unknown_backend_that_failed_once_is_healthy_after_one_success() {
        let mut machine = Machine::new(2, 3);
        assert_eq!(machine.observe(failed()), None);
        assert_eq!(machine.observe(Ok(())), Some(Health::Healthy));
        assert_eq!(machine.reason(), None);
    }

    #[test]
    fn a_success_ends_a_streak_of_failures() {
        let mut machine = Machine::new(1, 2);
        machine.observe(Ok(()));
        for _ in 0..10 {
            assert_eq!(machine.observe(failed()), None);
            assert_eq!(machine.observe(Ok(())), None);
        }
        assert_eq!(machine.health(), Health::Healthy);
    }

    #[test]
    fn an_unhealthy_backend_needs_rise_successes_in_a_row() {
        let mut machine = Machine::new(2, 1);
        assert_eq!(machine.observe(failed()), Some(Health::Unhealthy));
        assert_eq!(machine.observe(Ok(())), None);
        assert_eq!(machine.observe(failed()), None);
        assert_eq!(machine.observe(Ok(())), None);
        assert_eq!(machine.observe(Ok(())), Some(Health::Healthy));
    }

    #[test]
    fn other_thresholds_keep_what_is_known() {
        let mut machine = Machine::new(2, 3);
        machine.observe(Ok(()));
        machine.observe(failed());
        machine.retune(5, 2);
        assert_eq!(machine.health(), Health::Healthy);
        assert_eq!(machine.observe(failed()), Some(Health::Unhealthy));
    }

    proptest! {
        /// The machine equals its definition read off the whole history.
        #[test]
        fn health_is_what_the_last_streaks_say(rise in 1u32..5, fall in 1u32..5,
                                               results in proptest::collection::vec(any::<bool>(), 0..64)) {
            let mut machine = Machine::new(rise, fall);
            let mut health = Health::Unknown;
            for end in 1..=results.len() {
                let seen = &results[..end];
                let streak = |of: bool| seen.iter().rev().take_while(|r| **r == of).count() as u32;
                let before = health;
                health = match before {
                    Health::Unknown if streak(true) >= 1 => Health::Healthy,
                    Health::Unhealthy if streak(true) >= rise => Health::Healthy,
                    Health::Healthy | Health::Unknown if streak(false) >= fall => Health::Unhealthy,
                    other => other,
                };
                let result = if seen[end - 1] { Ok(()) } else { failed() };
                prop_assert_eq!(machine.observe(result), (health != before).then_some(health));
                prop_assert_eq!(machine.health(), health);
            }
        }
    }
}
