//! The rollout's state machine: (plan, progress, event, now) to (progress, effects). No I/O, no clock, no chance.
//!
//! Effects are levels, not edges: work that is under way is told by [`Progress::outstanding`], a weight that is being set by
//! [`Progress::setting`]. So an agent that was killed at any point goes on by starting what is outstanding, and sets the
//! weight that it was setting; it never guesses.
//!
//! `now` is milliseconds for which an agent has watched this rollout. Time in which none ran does not count: nobody looked.

use serde::{Deserialize, Serialize};

use super::runs::{Outcome, Run};
use super::spec::{HookKind, OnFailure, RolloutSpec, Strategy};
use super::stages::{Stage, stages};
use crate::desired::{BasisPoints, FULL};
use crate::text::percent;

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
    /// The one being set.
    pub setting: Option<Setting>,
    /// Somebody holds it, and why.
    pub paused: Option<String>,
    /// The weights in force are not ours.
    pub displaced: bool,
    /// `zdd gate close`.
    pub gate_closed: bool,
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
    /// Give the candidate this share and the stable version the rest; answered by `WeightsSet` or `Refused`.
    SetWeights(BasisPoints),
    /// Begin this; answered by `Measured` or `HookDone`.
    Start(u64, Work),
    /// Its answer is of no use any more.
    Stop(u64),
    /// See that the stable version drains; answered by `Drained` when it has.
    Drain,
    /// Tell people.
    Announce(String),
}

/// A weight that was refused is tried again after this.
const SET_AGAIN_MS: u64 = 1_000;

/// A rollout that begins.
pub fn begin(plan: &Plan, gate_closed: bool, now: u64) -> (Progress, Vec<Effect>) {
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
        setting: None,
        paused: None,
        displaced: false,
        gate_closed,
        promoted: false,
        full: false,
        runs: vec![Run::default(); plan.spec.analyses.len()],
        hook: None,
        polls: polls.map(poll).collect(),
        drained: false,
        token: 0,
    };
    let mut walk = Walk { plan, stages: stages(&plan.spec), progress, said: Vec::new(), now };
    walk.say(format!("rollout {} of {} begins ({})", plan.id, plan.candidate, plan.spec.strategy.name()));
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
        (p.phase.clone(), p.stage, p.paused.clone(), p.gate_closed, p.full, p.promoted)
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

    /// Steps are not taken.
    pub fn held(&self) -> bool {
        self.paused.is_some() || self.gate_closed
    }
}

/// One transition.
struct Walk<'a> {
    plan: &'a Plan,
    stages: Vec<Stage>,
    progress: Progress,
    said: Vec<String>,
    now: u64,
}

impl Walk<'_> {
    fn say(&mut self, text: String) {
        self.said.push(text);
    }

    fn token(&mut self) -> u64 {
        self.progress.token += 1;
        self.progress.token
    }

    fn take(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Tick => {}
            Event::Operator(command, reason) => self.command(command, &reason)?,
            // What is over stays over, whatever still comes in.
            _ if self.progress.phase.over() => {}
            Event::WeightsSet(to) => self.weights_set(to),
            Event::Refused(to, why) => self.refused(to, why),
            Event::Measured(token, outcome) => self.measured(token, outcome),
            Event::HookDone(token, answer) => self.hook_done(token, answer),
            Event::Drained => {
                let drains = self.progress.phase == Phase::Running && self.at() == Some(Stage::Drain);
                self.progress.drained |= drains;
            }
            Event::Gate(closed) => {
                self.progress.gate_closed = closed;
                self.say(format!("gate {}", if closed { "closed: no step is taken" } else { "opened" }));
            }
            Event::Interfered(what) => self.interfered(what),
        }
        Ok(())
    }

    fn at(&self) -> Option<Stage> {
        self.stages.get(self.progress.stage).copied()
    }

    fn command(&mut self, command: Command, reason: &str) -> Result<(), String> {
        let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        let phase = self.progress.phase.clone();
        if phase.over() {
            return Err(format!(
                "it is over ({})\nhelp: `zdd rollout start` begins another one",
                phase.name()
            ));
        }
        if matches!(phase, Phase::RollingBack(_)) {
            // Asking again is no mistake, and asking for anything else comes too late.
            return match command {
                Command::Abort => Ok(()),
                _ => {
                    Err("it is being rolled back\nhelp: wait for its end, then `zdd rollout retry`"
                        .to_owned())
                }
            };
        }
        let frozen = matches!(phase, Phase::Frozen(_));
        match command {
            Command::Abort => self.roll_back(format!("aborted{because}")),
            Command::Pause if self.progress.paused.is_some() => {
                return Err("it is paused already".to_owned());
            }
            Command::Pause => {
                self.progress.paused = Some(format!("by command{because}"));
                self.say(format!("paused{because}"));
            }
            Command::Retry if frozen => {
                self.progress.phase = Phase::Running;
                self.progress.paused = None;
                self.progress.runs.iter_mut().for_each(Run::forgive);
                self.put_back();
                if !self.back_to_proof() {
                    self.enter_again();
                }
                self.say(format!("tried again after the freeze{because}"));
            }
            Command::Retry => {
                return Err(
                    "it has not failed\nhelp: `zdd rollout resume` ends a pause, `promote` a waiting"
                        .to_owned(),
                );
            }
            Command::Resume | Command::Promote { .. } if frozen => {
                return Err("it is frozen\nhelp: `zdd rollout retry` goes on, `abort` gives everything back"
                    .to_owned());
            }
            Command::Resume if self.progress.paused.is_none() => {
                return Err(
                    "it is not paused\nhelp: `zdd rollout promote` ends a waiting of the plan".to_owned()
                );
            }
            Command::Resume => {
                self.progress.paused = None;
                self.put_back();
                self.say(format!("resumed{because}"));
            }
            Command::Promote { full } => self.promote(full, &because)?,
        }
        Ok(())
    }

    fn promote(&mut self, full: bool, because: &str) -> Result<(), String> {
        if full && self.progress.weight == 0 && matches!(self.plan.spec.strategy, Strategy::Canary { .. }) {
            return Err(format!(
                "{} has no new flows yet, so nothing is known of it\nhelp: wait for the first weight; `zdd shift` sets weights without a rollout",
                self.plan.candidate
            ));
        }
        let waits = matches!(self.at(), Some(Stage::Pause(_) | Stage::Await));
        if !waits && !full && self.progress.paused.is_none() {
            return Err("no waiting of the plan is left to cut short here\nhelp: `zdd rollout status` says what it waits for".to_owned());
        }
        self.progress.paused = None;
        self.put_back();
        self.progress.promoted |= waits;
        self.progress.full |= full;
        self.say(format!(
            "promoted{}{because}",
            if full { " to the end: the steps between are left out" } else { "" }
        ));
        Ok(())
    }

    /// Somebody else's weights are replaced by ours again.
    fn put_back(&mut self) {
        if std::mem::take(&mut self.progress.displaced) && self.progress.setting.is_none() {
            self.set(self.progress.weight);
        }
    }

    /// Before a weight that is not set yet, what was proved has to be proved again. False: there was nothing to prove.
    fn back_to_proof(&mut self) -> bool {
        let stage = self.progress.stage.min(self.stages.len() - 1);
        let Some(from) = self.stages[..=stage].iter().rposition(|stage| *stage == Stage::Proof) else {
            return false;
        };
        let passed = self.stages[from..self.progress.stage].iter().any(|s| matches!(s, Stage::Weight(_)));
        if !passed {
            self.progress.stage = from;
            self.enter();
        }
        !passed
    }

    fn set(&mut self, to: BasisPoints) {
        self.progress.setting = Some(Setting { to, next_ms: self.now, since_ms: self.now, refused: None });
    }

    fn interfered(&mut self, what: String) {
        if matches!(self.progress.phase, Phase::RollingBack(_)) {
            return;
        }
        self.progress.displaced = true;
        // What is seen from now on is not seen under a weight of the plan.
        self.progress.setting = None;
        self.progress.runs.iter_mut().for_each(|run| run.proven = 0);
        if self.progress.paused.is_none() {
            self.say(format!("paused: {what}; `zdd rollout resume` puts the plan's weights back"));
            self.progress.paused = Some(what);
        }
    }

    fn weights_set(&mut self, to: BasisPoints) {
        if self.progress.setting.as_ref().is_none_or(|setting| setting.to != to) {
            return;
        }
        self.progress.setting = None;
        let put_back = self.progress.weight == to && self.progress.phase == Phase::Running;
        self.progress.weight = to;
        for (run, spec) in self.progress.runs.iter_mut().zip(&self.plan.spec.analyses) {
            run.weight_changed(spec, self.now);
        }
        self.say(format!("{} has {} of new flows", self.plan.candidate, percent(to)));
        if let Phase::RollingBack(why) = &self.progress.phase {
            let why = why.clone();
            self.say(format!("rolled back: {why}"));
            self.progress.phase = Phase::RolledBack(why);
        }
        let before_weight = matches!(self.at(), Some(Stage::Weight(next)) if next != to);
        if put_back && !self.back_to_proof() && before_weight {
            self.enter_again();
        }
    }

    fn refused(&mut self, to: BasisPoints, why: String) {
        let now = self.now;
        let deadline = self.plan.spec.progress_deadline.as_millis() as u64;
        let Some(setting) = self.progress.setting.as_mut().filter(|setting| setting.to == to) else { return };
        setting.next_ms = now + SET_AGAIN_MS;
        let (news, late) = (setting.refused.as_ref() != Some(&why), now >= setting.since_ms + deadline);
        setting.refused = Some(why.clone());
        if news {
            self.say(format!("{} is refused and tried again: {why}", percent(to)));
        }
        if late && self.progress.phase == Phase::Running {
            self.fail(format!("no progress within the deadline: {why}"));
        }
    }

    /// The weight under which something is seen; one that no plan has while the weights are not ours.
    fn seen_under(&self) -> BasisPoints {
        if self.progress.displaced { BasisPoints::MAX } else { self.progress.weight }
    }

    fn measured(&mut self, token: u64, outcome: Outcome) {
        let Some(at) =
            self.progress.runs.iter().position(|run| run.under_way.is_some_and(|(t, _)| t == token))
        else {
            return;
        };
        let spec = &self.plan.spec.analyses[at];
        let weight = self.seen_under();
        let verdict = self.progress.runs[at].take(spec, outcome, weight, self.now);
        if let Some(why) = verdict {
            self.fail(format!("analysis {}: {why}", spec.name));
        }
    }

    fn hook_done(&mut self, token: u64, answer: Result<(), String>) {
        let (now, specs) = (self.now, &self.plan.spec.hooks);
        let again = |hook: usize| now + specs[hook].interval.as_millis() as u64;
        if let Some(poll) = self.progress.polls.iter_mut().find(|poll| poll.token == Some(token)) {
            poll.token = None;
            poll.next_ms = again(poll.hook);
            poll.said = answer.as_ref().err().cloned();
            if answer.is_ok() {
                self.fail("a rollback hook says so".to_owned());
            }
            return;
        }
        let Some(run) = self.progress.hook.as_mut().filter(|run| run.token == Some(token)) else { return };
        run.token = None;
        let (hook, kind) = (run.hook, specs[run.hook].on);
        let Err(why) = answer else {
            self.progress.hook = self.next_hook(kind, hook + 1);
            return;
        };
        run.next_ms = again(hook);
        run.said = Some(why.clone());
        if kind.confirms() {
            return;
        }
        run.failed += 1;
        if run.failed <= specs[hook].retries {
            return;
        }
        if kind == HookKind::PostRollout {
            self.progress.hook = self.next_hook(kind, hook + 1);
            self.say(format!("a {} hook failed: {why}", kind.name()));
        } else {
            // Left where it is, so that a retry after a freeze calls it again.
            run.failed = 0;
            self.fail(format!("a {} hook failed: {why}", kind.name()));
        }
    }

    fn next_hook(&self, kind: HookKind, from: usize) -> Option<HookRun> {
        let hook = (from..self.plan.spec.hooks.len()).find(|at| self.plan.spec.hooks[*at].on == kind)?;
        Some(HookRun { hook, failed: 0, token: None, next_ms: self.now, said: None })
    }

    fn fail(&mut self, why: String) {
        if self.progress.phase != Phase::Running {
            return;
        }
        match self.plan.spec.on_failure {
            OnFailure::Rollback => self.roll_back(why),
            OnFailure::Freeze => {
                self.say(format!("frozen: {why}"));
                self.progress.phase = Phase::Frozen(why);
                self.progress.setting = None;
            }
        }
    }

    fn roll_back(&mut self, why: String) {
        self.say(format!("rolling back: {why}"));
        self.progress.phase = Phase::RollingBack(why);
        self.progress.paused = None;
        self.progress.displaced = false;
        self.progress.hook = None;
        self.set(0);
    }

    /// The stage that was entered does what it is for.
    fn enter(&mut self) {
        self.progress.entered_ms = self.now;
        self.progress.promoted = false;
        self.enter_again();
    }

    fn enter_again(&mut self) {
        self.progress.hook = None;
        if self.left_out() {
            return;
        }
        match self.at() {
            Some(Stage::Hooks(kind)) => self.progress.hook = self.next_hook(kind, 0),
            Some(Stage::Weight(to)) => self.set(to),
            _ => {}
        }
    }

    /// The present stage belongs to a step that `promote --full` leaves out.
    fn left_out(&self) -> bool {
        let step = |stage: Option<&Stage>| matches!(stage, Some(Stage::Weight(to)) if *to != FULL);
        let next = self.stages.get(self.progress.stage + 1);
        self.progress.full
            && match self.at() {
                Some(Stage::Weight(_)) => step(self.stages.get(self.progress.stage)),
                Some(Stage::Hooks(HookKind::Rollout)) => step(next),
                // What comes after 100 % is not left out: it is the look at the whole.
                Some(Stage::Pause(_) | Stage::Await) => self.progress.weight != FULL,
                _ => false,
            }
    }

    fn done(&self) -> bool {
        let progress = &self.progress;
        if progress.setting.is_some() || progress.displaced {
            return false;
        }
        if self.left_out() {
            return progress.hook.is_none();
        }
        match self.at() {
            None => true,
            Some(Stage::Hooks(_)) => progress.hook.is_none(),
            Some(Stage::Weight(to)) => progress.weight == to,
            Some(Stage::Pause(time)) => {
                progress.promoted || self.now >= progress.entered_ms + time.as_millis() as u64
            }
            Some(Stage::Await) => progress.promoted,
            Some(Stage::Proof) => self
                .plan
                .spec
                .analyses
                .iter()
                .zip(&progress.runs)
                .all(|(spec, run)| spec.dry_run || !self.active(spec.when) || run.proven >= spec.count),
            Some(Stage::Drain) => progress.drained,
        }
    }

    /// Takes every step that can be taken, and sees to what is due.
    fn go_on(&mut self) {
        // Each turn goes one stage on, so it ends.
        while self.progress.phase == Phase::Running && !self.progress.held() && self.done() {
            if self.at().is_none() {
                self.progress.phase = Phase::Promoted;
                self.say(format!("promoted: {} has everything", self.plan.candidate));
                break;
            }
            self.progress.stage += 1;
            self.enter();
        }
        self.due();
    }

    /// Whether an analysis has something to measure.
    fn active(&self, when: super::spec::When) -> bool {
        use super::spec::When;
        let progress = &self.progress;
        let looks = match self.plan.spec.strategy {
            Strategy::Canary { .. } => progress.weight > 0,
            Strategy::BlueGreen { .. } => self
                .stages
                .iter()
                .position(|stage| *stage == Stage::Proof)
                .is_some_and(|at| progress.stage >= at),
        };
        looks
            && matches!(progress.phase, Phase::Running | Phase::Frozen(_))
            && match when {
                When::Always => true,
                When::PrePromotion => progress.weight == 0,
                When::PostPromotion => progress.weight > 0,
            }
    }

    fn due(&mut self) {
        let now = self.now;
        for at in 0..self.progress.runs.len() {
            let spec = &self.plan.spec.analyses[at];
            let active = self.active(spec.when);
            if self.progress.runs[at].due(spec, active, now) {
                let token = self.token();
                self.progress.runs[at].under_way = Some((token, self.seen_under()));
            }
        }
        let live = self.progress.phase == Phase::Running;
        if !live {
            self.progress.hook = None;
        }
        if self.progress.hook.as_ref().is_some_and(|run| run.token.is_none() && now >= run.next_ms) {
            let token = self.token();
            self.progress.hook.iter_mut().for_each(|run| run.token = Some(token));
        }
        for at in 0..self.progress.polls.len() {
            let poll = &self.progress.polls[at];
            if !live {
                self.progress.polls[at].token = None;
            } else if poll.token.is_none() && now >= poll.next_ms {
                self.progress.polls[at].token = Some(self.token());
            }
        }
    }

    fn effects(&mut self, before: &[(u64, Work)]) -> Vec<Effect> {
        let mut effects: Vec<Effect> = self.said.drain(..).map(Effect::Announce).collect();
        let after = self.progress.outstanding();
        let missing = |all: &[(u64, Work)], token: u64| all.iter().all(|(other, _)| *other != token);
        effects.extend(before.iter().filter(|(t, _)| missing(&after, *t)).map(|(t, _)| Effect::Stop(*t)));
        effects.extend(after.iter().filter(|(t, _)| missing(before, *t)).map(|(t, w)| Effect::Start(*t, *w)));
        let (now, held, weight) = (self.now, self.progress.held(), self.progress.weight);
        if let Some(setting) = &mut self.progress.setting {
            // Nothing holds a way back; and what was refused before a pause is not taken within it.
            let waits = held && setting.to > weight;
            if now >= setting.next_ms && !waits {
                setting.next_ms = now + SET_AGAIN_MS;
                effects.push(Effect::SetWeights(setting.to));
            }
        }
        if self.progress.phase == Phase::Running && self.at() == Some(Stage::Drain) && !self.progress.drained
        {
            effects.push(Effect::Drain);
        }
        effects
    }
}
