//! What operators may ask of a rollout, and when it makes no sense.

use super::machine::{Command, Phase};
use super::runs::Run;
use super::spec::Strategy;
use super::stages::Stage;
use super::walk::Walk;

impl Walk<'_> {
    pub(super) fn command(&mut self, command: Command, reason: &str) -> Result<(), String> {
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
            Command::BreakGlass if reason.is_empty() => {
                return Err(
                    "breaking the glass needs a reason\nhelp: add --reason TEXT; it is kept in the history"
                        .to_owned(),
                );
            }
            Command::BreakGlass => {
                self.progress.broke_glass = Some(reason.to_owned());
                self.say(format!("the glass was broken{because}: what holds it now holds it no more"));
            }
        }
        Ok(())
    }

    /// What stands in the way of a `promote` is a proof, a step or a drain: it passes none of them.
    fn nothing_to_promote(&self) -> String {
        let what = match self.at() {
            Some(Stage::Proof) => {
                let lacking = self.plan.spec.analyses.iter().zip(&self.progress.runs);
                let lacking = lacking.filter(|(spec, run)| !spec.dry_run && run.proven < spec.count);
                let lacking: Vec<String> = lacking
                    .map(|(spec, run)| format!("{} {} of {}", spec.name, run.proven, spec.count))
                    .collect();
                format!("its analyses prove the present weight first ({})", lacking.join(", "))
            }
            Some(Stage::Hooks(kind)) => format!("its {} hook is under way", kind.name()),
            Some(Stage::Drain) => format!("{} drains, which is its last step", self.plan.stable),
            _ => "a step is under way".to_owned(),
        };
        format!(
            "there is no waiting to end: {what}\nhelp: ask again when `zdd rollout status` says that it waits for `zdd rollout promote`"
        )
    }

    pub(super) fn promote(&mut self, full: bool, because: &str) -> Result<(), String> {
        if full && !self.progress.exposed() && matches!(self.plan.spec.strategy, Strategy::Canary { .. }) {
            return Err(format!(
                "{} has no new flows yet, so nothing is known of it\nhelp: wait for the first weight; `zdd shift` sets weights without a rollout",
                self.plan.candidate
            ));
        }
        if full && self.rolling() {
            return Err(
                "a rolling rollout has no steps to leave out\nhelp: `promote` without --full ends a waiting"
                    .to_owned(),
            );
        }
        if full && let Some(train) = &self.plan.spec.train {
            return Err(format!(
                "it is part of train {train}, which moves together\nhelp: promote its waiting without --full"
            ));
        }
        let waits = matches!(self.at(), Some(Stage::Pause(_) | Stage::Await));
        if !waits && !full && self.progress.paused.is_none() {
            return Err(self.nothing_to_promote());
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
}
