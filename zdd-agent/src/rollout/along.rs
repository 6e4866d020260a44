//! The walk along the stages: what entering one does, when one is done, and what is due meanwhile.

use super::machine::{Effect, Phase, SET_AGAIN_MS, Work};
use super::spec::{HookKind, Strategy, When};
use super::stages::{BatchStep, Stage, batch_at};
use super::walk::Walk;
use crate::desired::FULL;

impl Walk<'_> {
    /// The stage that was entered does what it is for.
    pub(super) fn enter(&mut self) {
        self.progress.entered_ms = self.now;
        self.progress.promoted = false;
        self.progress.batch_done = false;
        self.progress.ready_since_ms = None;
        self.progress.batch_refused = None;
        self.enter_again();
    }

    pub(super) fn enter_again(&mut self) {
        self.progress.hook = None;
        if self.left_out() {
            return;
        }
        match self.at() {
            Some(Stage::Hooks(kind)) => {
                self.progress.hook = self.next_hook(kind, 0);
                self.progress.contracted |= kind == HookKind::Contract;
            }
            Some(Stage::Weight(to)) => self.set(to, self.progress.cohorts),
            Some(Stage::Cohort(number)) => self.set(self.progress.weight, number),
            _ => {}
        }
    }

    /// The present stage belongs to a step that `promote --full` leaves out.
    pub(super) fn left_out(&self) -> bool {
        let step = |stage: Option<&Stage>| match stage {
            Some(Stage::Weight(to)) => *to != FULL,
            stage => matches!(stage, Some(Stage::Cohort(_))),
        };
        let next = self.stages.get(self.progress.stage + 1);
        self.progress.full
            && match self.at() {
                Some(Stage::Weight(_) | Stage::Cohort(_)) => step(self.stages.get(self.progress.stage)),
                Some(Stage::Hooks(HookKind::Rollout)) => step(next),
                // What comes after 100 % is not left out: it is the look at the whole.
                Some(Stage::Pause(_) | Stage::Await) => self.progress.weight != FULL,
                _ => false,
            }
    }

    pub(super) fn done(&self) -> bool {
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
            Some(Stage::Cohort(number)) => progress.cohorts == number,
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
            Some(Stage::Batch(BatchStep::Ready, _)) => {
                let Strategy::Rolling { min_ready, .. } = &self.plan.spec.strategy else { return true };
                let since = progress.ready_since_ms;
                since.is_some_and(|since| self.now >= since + min_ready.as_millis() as u64)
            }
            Some(Stage::Batch(..)) => progress.batch_done,
            Some(Stage::Together(time)) => progress.cleared > time,
        }
    }

    /// Takes every step that can be taken, and sees to what is due.
    pub(super) fn go_on(&mut self) {
        // Each turn goes one stage on, so it ends.
        while self.progress.phase == Phase::Running && !self.progress.held() && self.done() {
            if self.at().is_none() {
                self.progress.phase = Phase::Promoted;
                self.say(match self.rolling() {
                    true => format!("promoted: all batches of {} are done", self.plan.candidate),
                    false => format!("promoted: {} has everything", self.plan.candidate),
                });
                break;
            }
            self.progress.stage += 1;
            self.enter();
        }
        self.due();
    }

    /// Whether an analysis has something to measure.
    pub(super) fn active(&self, when: When) -> bool {
        let progress = &self.progress;
        let looks = match self.plan.spec.strategy {
            Strategy::Canary { .. } => progress.exposed(),
            Strategy::Rolling { .. } => batch_at(&self.stages, progress.stage).is_some(),
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

    pub(super) fn due(&mut self) {
        self.late_batch();
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

    pub(super) fn effects(&mut self, before: &[(u64, Work)]) -> Vec<Effect> {
        let mut effects: Vec<Effect> = self.said.drain(..).map(Effect::Announce).collect();
        let after = self.progress.outstanding();
        let missing = |all: &[(u64, Work)], token: u64| all.iter().all(|(other, _)| *other != token);
        effects.extend(before.iter().filter(|(t, _)| missing(&after, *t)).map(|(t, _)| Effect::Stop(*t)));
        effects.extend(after.iter().filter(|(t, _)| missing(before, *t)).map(|(t, w)| Effect::Start(*t, *w)));
        let (now, held) = (self.now, self.progress.held());
        let (weight, cohorts) = (self.progress.weight, self.progress.cohorts);
        if let Some(setting) = &mut self.progress.setting {
            // Nothing holds a way back; and what was refused before a pause is not taken within it.
            let waits = held && (setting.to > weight || setting.cohorts > cohorts);
            if now >= setting.next_ms && !waits {
                setting.next_ms = now + SET_AGAIN_MS;
                effects.push(Effect::SetWeights(setting.to));
            }
        }
        if self.progress.phase == Phase::Running && self.at() == Some(Stage::Drain) && !self.progress.drained
        {
            effects.push(Effect::Drain);
        }
        let waits = self.progress.batch_refused.as_ref().is_some_and(|(_, next_ms)| now < *next_ms);
        if let Some(Stage::Batch(step, number)) = self.at()
            && self.progress.phase == Phase::Running
            && step != BatchStep::Ready
            && !self.progress.batch_done
            && !waits
        {
            effects.push(Effect::Batch(step, number));
        }
        effects
    }
}
