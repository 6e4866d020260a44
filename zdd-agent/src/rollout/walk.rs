//! What events do to a rollout.

use super::machine::{Event, HookRun, Phase, Plan, Progress, SET_AGAIN_MS, Setting};
use super::runs::{NOT_OURS, Outcome};
use super::spec::{HookKind, OnFailure, Strategy};
use super::stages::{BatchStep, Stage, cohort_at};
use crate::desired::BasisPoints;
use crate::text::percent;

/// One transition.
pub(super) struct Walk<'a> {
    pub plan: &'a Plan,
    pub stages: Vec<Stage>,
    pub progress: Progress,
    pub said: Vec<String>,
    pub now: u64,
}

impl Walk<'_> {
    pub(super) fn say(&mut self, text: String) {
        self.said.push(text);
    }

    pub(super) fn token(&mut self) -> u64 {
        self.progress.token += 1;
        self.progress.token
    }

    pub(super) fn take(&mut self, event: Event) -> Result<(), String> {
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
                // The glass was broken for what was closed then.
                self.progress.broke_glass.take_if(|_| closed);
                self.say(format!("gate {}", if closed { "closed: no step is taken" } else { "opened" }));
            }
            Event::Batch(step, number, done) => self.batch(step, number, done),
            Event::Healthy(healthy) => {
                let since = self.progress.ready_since_ms.unwrap_or(self.now);
                self.progress.ready_since_ms = healthy.then_some(since);
            }
            Event::Stopped(what) => self.stopped(what),
            Event::Cleared(time) => self.progress.cleared = self.progress.cleared.max(time + 1),
            // A rolling rollout has no weights that somebody could change.
            Event::Interfered(what) if !self.rolling() => self.interfered(what),
            Event::Interfered(_) => {}
        }
        Ok(())
    }

    pub(super) fn rolling(&self) -> bool {
        matches!(self.plan.spec.strategy, Strategy::Rolling { .. })
    }

    fn batch(&mut self, step: BatchStep, number: u16, done: Result<(), String>) {
        let present = self.at() == Some(Stage::Batch(step, number));
        if !present || self.progress.phase != Phase::Running || self.progress.batch_done {
            return;
        }
        let Err(why) = done else {
            self.progress.batch_done = true;
            self.progress.batch_refused = None;
            if step == BatchStep::In {
                // What was seen while the batch took no flows proves nothing of it.
                for (run, spec) in self.progress.runs.iter_mut().zip(&self.plan.spec.analyses) {
                    run.weight_changed(spec, self.now);
                }
                self.say(format!("batch {} takes flows", number + 1));
            }
            return;
        };
        let news = self.progress.batch_refused.as_ref().is_none_or(|(before, _)| *before != why);
        if news {
            self.say(format!("batch {} has to wait: {why}", number + 1));
        }
        self.progress.batch_refused = Some((why, self.now + SET_AGAIN_MS));
    }

    /// A batch that does not get on within the deadline has failed.
    pub(super) fn late_batch(&mut self) {
        let Some(Stage::Batch(step, number)) = self.at() else { return };
        let deadline = self.plan.spec.progress_deadline.as_millis() as u64;
        if self.progress.phase != Phase::Running || self.now < self.progress.entered_ms + deadline {
            return;
        }
        let why = match (step, &self.progress.batch_refused) {
            (BatchStep::Ready, _) if self.progress.ready_since_ms.is_none() => "not healthy",
            (_, Some((why, _))) => why,
            _ => return,
        };
        self.fail(format!("no progress within the deadline: batch {}: {why}", number + 1));
    }

    fn stopped(&mut self, what: Option<String>) {
        if self.progress.stopped == what {
            return;
        }
        let before = std::mem::replace(&mut self.progress.stopped, what);
        match &self.progress.stopped {
            Some(what) => {
                self.say(format!("held, no step up is taken: {what}"));
                self.progress.broke_glass = None;
            }
            None => self.say(format!("not held any more: {} is over", before.unwrap_or_default())),
        }
    }

    /// What holds it from its beginning.
    pub(super) fn say_holds(&mut self) {
        if let Some(what) = self.progress.stopped.clone() {
            self.say(format!("held, no step up is taken: {what}"));
        }
        if let Some(why) = self.progress.broke_glass.clone() {
            self.say(format!("the glass was broken: {why}"));
        }
    }

    pub(super) fn at(&self) -> Option<Stage> {
        self.stages.get(self.progress.stage).copied()
    }

    /// Somebody else's weights are replaced by ours again.
    pub(super) fn put_back(&mut self) {
        if std::mem::take(&mut self.progress.displaced) && self.progress.setting.is_none() {
            self.set(self.progress.weight, self.progress.cohorts);
        }
    }

    /// Before a weight that is not set yet, what was proved has to be proved again. False: there was nothing to prove.
    pub(super) fn back_to_proof(&mut self) -> bool {
        let stage = self.progress.stage.min(self.stages.len() - 1);
        let Some(from) = self.stages[..=stage].iter().rposition(|stage| *stage == Stage::Proof) else {
            return false;
        };
        let passed = self.stages[from..self.progress.stage].iter().any(|stage| stage.raises());
        if !passed {
            self.progress.stage = from;
            self.enter();
        }
        !passed
    }

    pub(super) fn set(&mut self, to: BasisPoints, cohorts: u16) {
        let (next_ms, since_ms) = (self.now, self.now);
        self.progress.setting = Some(Setting { to, cohorts, next_ms, since_ms, refused: None });
    }

    pub(super) fn interfered(&mut self, what: String) {
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

    pub(super) fn weights_set(&mut self, to: BasisPoints) {
        let Some(setting) = self.progress.setting.take_if(|setting| setting.to == to) else { return };
        let before = (self.progress.weight, self.progress.cohorts);
        let put_back = before == (to, setting.cohorts) && self.progress.phase == Phase::Running;
        (self.progress.weight, self.progress.cohorts) = (to, setting.cohorts);
        for (run, spec) in self.progress.runs.iter_mut().zip(&self.plan.spec.analyses) {
            run.weight_changed(spec, self.now);
        }
        if setting.cohorts > before.1 {
            let name = cohort_at(&self.plan.spec, setting.cohorts);
            self.say(format!("new flows of cohort {name} go to {}", self.plan.candidate));
        } else if !self.rolling() {
            self.say(format!("{} has {} of new flows", self.plan.candidate, percent(to)));
        }
        if let Phase::RollingBack(why) = &self.progress.phase {
            let why = why.clone();
            self.say(format!("rolled back: {why}"));
            self.progress.phase = Phase::RolledBack(why);
        }
        let before_weight = match self.at() {
            Some(Stage::Weight(next)) => next != to,
            Some(Stage::Cohort(next)) => next != setting.cohorts,
            _ => false,
        };
        if put_back && !self.back_to_proof() && before_weight {
            self.enter_again();
        }
    }

    pub(super) fn refused(&mut self, to: BasisPoints, why: String) {
        let now = self.now;
        let deadline = self.plan.spec.progress_deadline.as_millis() as u64;
        let Some(setting) = self.progress.setting.as_mut().filter(|setting| setting.to == to) else { return };
        setting.next_ms = now + SET_AGAIN_MS;
        let (news, late) = (setting.refused.as_ref() != Some(&why), now >= setting.since_ms + deadline);
        setting.refused = Some(why.clone());
        let cohorts = setting.cohorts;
        if news {
            let what = match cohorts > self.progress.cohorts {
                true => format!("cohort {}", cohort_at(&self.plan.spec, cohorts)),
                false => percent(to),
            };
            self.say(format!("{what} is refused and tried again: {why}"));
        }
        if late && self.progress.phase == Phase::Running {
            self.fail(format!("no progress within the deadline: {why}"));
        }
    }

    /// The weight and the cohorts under which something is seen; what no plan has while the weights are not ours.
    pub(super) fn seen_under(&self) -> u32 {
        let progress = &self.progress;
        if progress.displaced { NOT_OURS } else { progress.weight | u32::from(progress.cohorts) << 16 }
    }

    pub(super) fn measured(&mut self, token: u64, outcome: Outcome) {
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

    pub(super) fn hook_done(&mut self, token: u64, answer: Result<(), String>) {
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
            let article = if kind == HookKind::Expand { "an" } else { "a" };
            let why = format!("{article} {} hook failed: {why}", kind.name());
            match kind {
                // Nobody knows how far it came, and the old version may not be able to live with it.
                HookKind::Contract => self.freeze(why),
                _ => self.fail(why),
            }
        }
    }

    pub(super) fn next_hook(&self, kind: HookKind, from: usize) -> Option<HookRun> {
        let hook = (from..self.plan.spec.hooks.len()).find(|at| self.plan.spec.hooks[*at].on == kind)?;
        Some(HookRun { hook, failed: 0, token: None, next_ms: self.now, said: None })
    }

    pub(super) fn fail(&mut self, why: String) {
        if self.progress.phase != Phase::Running {
            return;
        }
        match self.plan.spec.on_failure {
            OnFailure::Rollback => self.roll_back(why),
            OnFailure::Freeze => self.freeze(why),
        }
    }

    fn freeze(&mut self, why: String) {
        self.say(format!("frozen: {why}"));
        self.progress.phase = Phase::Frozen(why);
        self.progress.setting = None;
    }

    pub(super) fn roll_back(&mut self, why: String) {
        self.say(format!("rolling back: {why}"));
        self.progress.phase = Phase::RollingBack(why);
        self.progress.paused = None;
        self.progress.displaced = false;
        self.progress.hook = None;
        self.set(0, 0);
    }
}
