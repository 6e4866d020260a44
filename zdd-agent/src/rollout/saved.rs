//! What of rollouts outlives the agent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::machine::{Phase, Plan, Progress};
use crate::signals::Comparison;

/// Lines of a rollout that are kept; the first ones go when there are more.
pub const LINES_MAX: usize = 100;

/// Past rollouts of a service that are kept.
pub const HISTORY_MAX: usize = 20;

/// A rollout, under way or the last one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedRollout {
    /// What was asked for.
    pub plan: Plan,
    /// Where it stands.
    pub progress: Progress,
    /// Milliseconds for which an agent has watched it.
    pub clock_ms: u64,
    /// When it began, since 1970.
    pub started_unix_ms: u64,
    /// What was announced.
    pub log: Vec<Line>,
    /// How many of the plan's cohorts get the candidate: in force, as the weights of the service are.
    #[serde(default)]
    pub leading: u16,
    /// How the comparisons of its versions stand, by analysis.
    #[serde(default)]
    pub comparisons: BTreeMap<String, Comparison>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When, in milliseconds since 1970 by the clock of this machine.
    pub unix_ms: u64,
    /// What.
    pub text: String,
}

/// A rollout that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// Its number.
    pub id: u64,
    /// `canary`, `blue-green` or `undo`.
    pub kind: String,
    /// The version that had everything before.
    pub stable: String,
    /// The version that was to have it.
    pub candidate: String,
    /// `promoted`, `rolled-back` or `undone`.
    pub outcome: String,
    /// Why, where there is a why.
    pub why: Option<String>,
    /// The version that had everything afterwards.
    pub left: String,
    /// The `contract` hooks were called: the version before may not be able to live with the database any more.
    #[serde(default)]
    pub contracted: bool,
    /// Since 1970.
    pub started_unix_ms: u64,
    /// Since 1970.
    pub ended_unix_ms: u64,
    /// What was announced.
    pub log: Vec<Line>,
}

/// Rollouts of one service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedRollouts {
    /// The one under way, or the last one.
    pub current: Option<SavedRollout>,
    /// The oldest first.
    pub history: Vec<Past>,
    /// The last number given out.
    pub last_id: u64,
    /// Why the gate is closed; `None`: it is open.
    pub gate: Option<String>,
}

impl SavedRollouts {
    /// The one under way.
    pub fn active(&self) -> Option<&SavedRollout> {
        self.current.as_ref().filter(|rollout| !rollout.progress.phase.over())
    }

    /// The version that all new flows of a cohort go to now; `None`: they go by the weights. Follows from what is persisted alone.
    pub fn leads(&self, cohort: &str) -> Option<&str> {
        let rollout = self.active()?;
        let goes = matches!(rollout.progress.phase, Phase::Running | Phase::Frozen(_));
        let mut leading = rollout.plan.spec.cohorts().take(rollout.leading.into());
        (goes && leading.any(|name| name == cohort)).then_some(rollout.plan.candidate.as_str())
    }

    /// Keeps what is over, as far as there is room.
    pub fn remember(&mut self, past: Past) {
        self.history.push(past);
        let over = self.history.len().saturating_sub(HISTORY_MAX);
        self.history.drain(..over);
    }
}

impl SavedRollout {
    /// Writes a line down.
    pub fn note(&mut self, unix_ms: u64, text: String) {
        self.log.push(Line { unix_ms, text });
        let over = self.log.len().saturating_sub(LINES_MAX);
        self.log.drain(..over);
    }
}
