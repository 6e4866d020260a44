//! One analysis in the course of a rollout: measurements in, limits out.

use serde::{Deserialize, Serialize};

use super::spec::AnalysisSpec;
use crate::desired::FULL;

/// Seen under weights that somebody else has set.
pub const NOT_OURS: u32 = u32::MAX;

// A weight leaves the upper half to the number of cohorts.
const _: () = assert!(FULL < 1 << 16);

/// What one measurement says, with its value or reason for people.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// Good.
    Success(String),
    /// Not good.
    Failure(String),
    /// No data, or a value that says nothing: never a success.
    Inconclusive(String),
    /// It could not be made: nobody answers, the query is refused.
    Error(String),
    /// What it would say is nobody's doing, such as a trouble that all versions share: it counts nowhere, and is made again later.
    Postponed(String),
}

impl Outcome {
    /// For people: what kind, and what it said.
    pub fn told(&self) -> String {
        let (kind, said) = match self {
            Outcome::Success(said) => ("success", said),
            Outcome::Failure(said) => ("failure", said),
            Outcome::Inconclusive(said) => ("inconclusive", said),
            Outcome::Error(said) => ("error", said),
            Outcome::Postponed(said) => ("postponed", said),
        };
        format!("{kind}: {said}")
    }
}

/// How an analysis stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Run {
    /// When the next measurement is due; `None`: there is nothing to measure.
    pub next_ms: Option<u64>,
    /// Token of the one under way, and what it is seen under: the weight in the low 16 bits, the number of cohorts above.
    pub under_way: Option<(u64, u32)>,
    /// Successes at the present weight.
    pub proven: u32,
    /// Successes.
    pub successes: u32,
    /// Failures.
    pub failures: u32,
    /// Inconclusive ones.
    pub inconclusive: u32,
    /// Errors in a row.
    pub errors_in_row: u32,
    /// The last one.
    pub last: Option<Outcome>,
}

impl Outcome {
    /// What few flows say is no success.
    pub fn of_samples(self, flows: u64, needed: u32) -> Outcome {
        match self {
            Outcome::Success(said) if flows < u64::from(needed) => {
                Outcome::Inconclusive(format!("{said}, but of {flows} new flows, {needed} are needed"))
            }
            other => other,
        }
    }
}

impl Run {
    fn interval(spec: &AnalysisSpec) -> u64 {
        spec.interval.as_millis() as u64
    }

    /// What was seen under another weight proves nothing of this one.
    pub(super) fn weight_changed(&mut self, spec: &AnalysisSpec, now: u64) {
        self.proven = 0;
        if self.next_ms.is_some() {
            self.next_ms = Some(now + Self::interval(spec));
        }
    }

    /// Whether a measurement shall begin now.
    pub(super) fn due(&mut self, spec: &AnalysisSpec, active: bool, now: u64) -> bool {
        if !active {
            self.next_ms = None;
            self.under_way = None;
            return false;
        }
        let first = spec.initial_delay.map_or_else(|| Self::interval(spec), |delay| delay.as_millis() as u64);
        let next = *self.next_ms.get_or_insert(now + first);
        self.under_way.is_none() && now >= next
    }

    /// Counts the measurement under way; what it means for the rollout if a limit is passed.
    pub(super) fn take(
        &mut self,
        spec: &AnalysisSpec,
        outcome: Outcome,
        under: u32,
        now: u64,
    ) -> Option<String> {
        let same = self.under_way.take().is_some_and(|(_, began)| began == under && under != NOT_OURS);
        self.next_ms = Some(now + Self::interval(spec));
        if matches!(outcome, Outcome::Postponed(_)) {
            self.last = Some(outcome);
            return None;
        }
        let error = matches!(outcome, Outcome::Error(_));
        self.errors_in_row = if error { self.errors_in_row.saturating_add(1) } else { 0 };
        match &outcome {
            Outcome::Success(_) => {
                self.successes = self.successes.saturating_add(1);
                self.proven = self.proven.saturating_add(u32::from(same));
            }
            Outcome::Failure(_) => self.failures = self.failures.saturating_add(1),
            Outcome::Inconclusive(_) => self.inconclusive = self.inconclusive.saturating_add(1),
            Outcome::Error(_) | Outcome::Postponed(_) => {}
        }
        let told = outcome.told();
        self.last = Some(outcome);
        if spec.dry_run {
            return None;
        }
        let passed = |what: &str, count: u32, limit: u32| {
            (count > limit).then(|| format!("{count} {what}, {limit} are tolerated; the last: {told}"))
        };
        passed("failures", self.failures, spec.failure_limit)
            .or_else(|| passed("inconclusive", self.inconclusive, spec.inconclusive_limit))
            .or_else(|| passed("errors in a row", self.errors_in_row, spec.consecutive_error_limit))
    }

    /// Begins anew after a freeze.
    pub(super) fn forgive(&mut self) {
        *self = Run { next_ms: self.next_ms, last: self.last.take(), ..Run::default() };
    }
}
