//! The rollout's state machine: (plan, progress, event, now) to (progress, effects). No I/O, no clock, no chance.
//!
//! Effects are levels, not edges: work that is under way is told by [`Progress::outstanding`], a weight that is being set by
//! [`Progress::setting`]. So an agent that was killed at any point goes on by starting what is outstanding, and sets the
//! weight that it was setting; it never guesses.
//!
//! `now` is milliseconds for which an agent has watched this rollout. Time in which none ran does not count: nobody looked.

use serde::{Deserialize, Serialize};

use super::runs::{Outcome, Run};
use super::spec::{HookKind, RolloutSpec};
use super::stages::{BatchStep, stages};
use super::walk::Walk;
use crate::desired::BasisPoints;

/// What does not change while a rollout goes on: the specification is the one of its start, whatever the file says since.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Number of the rollout in its service, from 1.
    pub id: u64,
    /// What was asked for.
    pub spec: RolloutSpec,
    /// The version that has all new flows at the start.
    pub stable: String,
    /// The version that is to have them.
    pub candidate: String,
    /// Which run of its train it is part of: when that left, in milliseconds since 1970; 0 without a train.
    #[serde(default)]
    pub train_run: u64,
}

/// Where a rollout stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Goes on.
    Running,
    /// The weights stay until somebody decides.
    Frozen(String),
    /// All new flows are being given back.
    RollingBack(String),
    /// Over: the candidate has everything.
    Promoted,
    /// Over: the stable version has everything.
    RolledBack(String),
}

impl Phase {
    /// Nothing comes after it.
    pub fn over(&self) -> bool {
        matches!(self, Phase::Promoted | Phase::RolledBack(_))
    }

    /// For people and programs.
    pub fn name(&self) -> &'static str {
        match self {
            Phase::Running => "running",
            Phase::Frozen(_) => "frozen",
            Phase::RollingBack(_) => "rolling-back",
            Phase::Promoted => "promoted",
            Phase::RolledBack(_) => "rolled-back",
        }
    }

    /// Why, where there is a why.
    pub fn why(&self) -> Option<&str> {
        match self {
            Phase::Frozen(why) | Phase::RollingBack(why) | Phase::RolledBack(why) => Some(why),
            Phase::Running | Phase::Promoted => None,
        }
    }
}

/// A weight that is being set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Setting {
    /// The candidate's share.
    pub to: BasisPoints,
    /// How many of the plan's cohorts get the candidate.
    #[serde(default)]
    pub cohorts: u16,
    /// Not tried again before.
    pub next_ms: u64,
    /// Since when it is tried.
    pub since_ms: u64,
    /// Why it was refused when it was last tried.
    pub refused: Option<String>,
}

/// A hook that is being called.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HookRun {
    /// Which of the specification.
    pub hook: usize,
    /// Attempts that failed.
    pub failed: u32,
    /// The attempt under way.
    pub token: Option<u64>,
    /// The next attempt.
    pub next_ms: u64,
    /// What the last one said.
    pub said: Option<String>,
}

/// Everything about a rollout that changes; it is persisted at every step.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Progress {
    /// Grows whenever something changes that an operator decides by.
    pub revision: u64,
    /// Where it stands.
    pub phase: Phase,
    /// Which of [`stages`].
    pub stage: usize,
    /// When the stage was entered.
    pub entered_ms: u64,
    /// The candidate's share as last set.
    pub weight: BasisPoints,
    /// How many of the plan's cohorts get the candidate, as last set.
    #[serde(default)]
    pub cohorts: u16,
    /// The one being set.
    pub setting: Option<Setting>,
    /// Somebody holds it, and why.
    pub paused: Option<String>,
    /// The weights in force are not ours.
    pub displaced: bool,
    /// `zdd gate close`.
    pub gate_closed: bool,
    /// What else holds all steps up: the line is stopped, or a freeze window.
    #[serde(default)]
    pub stopped: Option<String>,
    /// The glass was broken, and why: what was closed then holds nothing.
    #[serde(default)]
    pub broke_glass: Option<String>,
    /// How often the train has gone on.
    #[serde(default)]
    pub cleared: u16,
    /// The present waiting was cut short.
    pub promoted: bool,
    /// All steps before 100 % are left out.
    pub full: bool,
    /// One for each analysis.
    pub runs: Vec<Run>,
    /// The hook of the present stage.
    pub hook: Option<HookRun>,
    /// The `rollback` hooks.
    pub polls: Vec<HookRun>,
    /// The old version is drained, or its time is up.
    pub drained: bool,
    /// Rolling: what is to be done with the present batch is done.
    #[serde(default)]
    pub batch_done: bool,
    /// Rolling: since when the present batch has been healthy.
    #[serde(default)]
    pub ready_since_ms: Option<u64>,
    /// Rolling: why the present step was refused when it was last tried, and when it is tried again.
    #[serde(default)]
    pub batch_refused: Option<(String, u64)>,
    /// A `contract` hook was called: the old version may not be able to live with the database any more.
    #[serde(default)]
    pub contracted: bool,
    /// The last one given out.
    pub token: u64,
}

/// What people ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Hold the weights.
    Pause,
    /// Go on.
    Resume,
    /// Cut the present waiting short; `full`: leave out all steps before 100 %.
    Promote {
        /// Leave them all out.
        full: bool,
    },
    /// Give everything back. Always wins.
    Abort,
    /// Go on after a freeze.
    Retry,
    /// Pass the gate, the stopped line and the freeze window that hold it now.
    BreakGlass,
}

/// What happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// The candidate has this share now.
    WeightsSet(BasisPoints),
    /// It could not be given.
    Refused(BasisPoints, String),
    /// A measurement is there.
    Measured(u64, Outcome),
    /// A hook has answered: with success, or why not.
    HookDone(u64, Result<(), String>),
    /// The old version has nobody left, or its time is up.
    Drained,
    /// Somebody asks.
    Operator(Command, String),
    /// The gate was closed (true) or opened.
    Gate(bool),
    /// What holds all steps up besides the gate; `None`: nothing any more.
    Stopped(Option<String>),
    /// All of the train have met for this time, from 0.
    Cleared(u16),
    /// Rolling: this was done with a batch, or could not be done.
    Batch(BatchStep, u16, Result<(), String>),
    /// Rolling: all of the present batch are healthy, or not any more.
    Healthy(bool),
    /// Somebody else changed the weights.
    Interfered(String),
}

/// Work for the agent, known by its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// One measurement of this analysis.
    Measure(usize),
    /// One call of this hook.
    Call(usize),
}

/// What shall be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Give the candidate this share, and the cohorts of [`Progress::setting`], and the stable version the rest; answered by `WeightsSet` or `Refused`. Rolling: 0, take
    /// the present batch back.
    SetWeights(BasisPoints),
    /// Begin this; answered by `Measured` or `HookDone`.
    Start(u64, Work),
    /// Its answer is of no use any more.
    Stop(u64),
    /// See that this is done with a batch of backends; answered by `Batch`.
    Batch(BatchStep, u16),
    /// See that the stable version drains; answered by `Drained` when it has.
    Drain,
    /// Tell people.
    Announce(String),
}

/// A weight that was refused is tried again after this.
pub(super) const SET_AGAIN_MS: u64 = 1_000;

/// What holds a rollout from its first instant on.
#[derive(Clone, Debug, Default)]
pub struct Holds {
    /// The gate is closed.
    pub gate_closed: bool,
    /// See [`Progress::stopped`].
    pub stopped: Option<String>,
    /// See [`Progress::broke_glass`].
    pub broke_glass: Option<String>,
}

/// A rollout that begins.
pub fn begin(plan: &Plan, holds: Holds, now: u64) -> (Progress, Vec<Effect>) {
    let poll = |hook: usize| HookRun {
        hook,
        failed: 0,
        token: None,
        next_ms: now + plan.spec.hooks[hook].interval.as_millis() as u64,
        said: None,
    };
    let polls = (0..plan.spec.hooks.len()).filter(|at| plan.spec.hooks[*at].on == HookKind::Rollback);
    let progress = Progress {
        revision: 1,
        phase: Phase::Running,
        stage: 0,
        entered_ms: now,
        weight: 0,
        cohorts: 0,
        setting: None,
        paused: None,
        displaced: false,
        gate_closed: holds.gate_closed,
        stopped: holds.stopped,
        broke_glass: holds.broke_glass,
        cleared: 0,
        promoted: false,
        full: false,
        runs: vec![Run::default(); plan.spec.analyses.len()],
        hook: None,
        polls: polls.map(poll).collect(),
        drained: false,
        batch_done: false,
        ready_since_ms: None,
        batch_refused: None,
        contracted: false,
        token: 0,
    };
    let mut walk = Walk { plan, stages: stages(&plan.spec), progress, said: Vec::new(), now };
    walk.say(format!("rollout {} of {} begins ({})", plan.id, plan.candidate, plan.spec.strategy.name()));
    walk.say_holds();
    walk.enter();
    walk.go_on();
    let effects = walk.effects(&[]);
    (walk.progress, effects)
}

/// One event.
///
/// # Errors
/// An operator's command that makes no sense now, with the way out. Nothing has changed then.
pub fn step(
    plan: &Plan,
    before: &Progress,
    event: Event,
    now: u64,
) -> Result<(Progress, Vec<Effect>), String> {
    let mut walk = Walk { plan, stages: stages(&plan.spec), progress: before.clone(), said: Vec::new(), now };
    walk.take(event)?;
    walk.go_on();
    let effects = walk.effects(&before.outstanding());
    let (mut after, key) = (walk.progress, |p: &Progress| {
        (
            p.phase.clone(),
            p.stage,
            p.paused.clone(),
            (p.gate_closed, p.stopped.clone(), p.broke_glass.clone()),
            p.full,
            p.promoted,
        )
    });
    if key(&after) != key(before) {
        after.revision += 1;
    }
    Ok((after, effects))
}

/// What an agent that has just started must do for this progress.
pub fn resume(progress: &Progress) -> Vec<Effect> {
    progress.outstanding().into_iter().map(|(token, work)| Effect::Start(token, work)).collect()
}

impl Progress {
    /// Work under way.
    pub fn outstanding(&self) -> Vec<(u64, Work)> {
        let runs = self
            .runs
            .iter()
            .enumerate()
            .filter_map(|(at, run)| run.under_way.map(|(token, _)| (token, Work::Measure(at))));
        let hooks = self.hook.iter().chain(&self.polls);
        runs.chain(hooks.filter_map(|hook| hook.token.map(|token| (token, Work::Call(hook.hook))))).collect()
    }

    /// Some of the users get the candidate.
    pub fn exposed(&self) -> bool {
        self.weight > 0 || self.cohorts > 0
    }

    /// Steps are not taken.
    pub fn held(&self) -> bool {
        self.paused.is_some() || self.broke_glass.is_none() && (self.gate_closed || self.stopped.is_some())
    }
}
