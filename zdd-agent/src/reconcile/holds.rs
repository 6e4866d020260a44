//! What holds all steps up: a stopped line, and freeze windows.

use super::Reconciler;
use crate::control::Refused;
use crate::rollout::machine::{Event, Holds};
use crate::rollout::report::StoppedLine;
use crate::rollout::spec::RolloutSpec;

impl Reconciler {
    /// What holds a rollout of this specification now, besides its gate.
    fn stopped_by(&self, spec: &RolloutSpec) -> Option<String> {
        let line = self.line_stopped.as_ref().map(|why| format!("the line is stopped ({why})"));
        line.or_else(|| spec.freeze.inside(jiff::Timestamp::now()))
    }

    /// What holds a rollout that begins now.
    pub(super) fn holds(&self, index: usize, spec: &RolloutSpec, broke_glass: Option<String>) -> Holds {
        Holds {
            gate_closed: self.services[index].saved.rollouts.gate.is_some(),
            stopped: self.stopped_by(spec),
            broke_glass,
        }
    }

    /// Tells a rollout under way when what holds it begins, changes or ends.
    pub(super) fn look_at_holds(&mut self, index: usize) {
        let Some(rollout) = self.services[index].saved.rollouts.active() else { return };
        let stopped = self.stopped_by(&rollout.plan.spec);
        if stopped != rollout.progress.stopped {
            self.rollout_goes_on(index, Event::Stopped(stopped));
        }
    }

    /// Stops the line, or lets it go on with `None`. Persisted before any rollout hears of it.
    pub(super) fn set_line(&mut self, stopped: Option<String>) -> Result<StoppedLine, Refused> {
        let reason = stopped.map(|why| if why.is_empty() { "by command".to_owned() } else { why });
        let before = std::mem::replace(&mut self.line_stopped, reason);
        if let Err(refused) = self.save() {
            self.line_stopped = before;
            return Err(refused);
        }
        match &self.line_stopped {
            Some(why) => tracing::warn!(why, "the line is stopped: no rollout takes a step up"),
            None => tracing::info!("the line is released"),
        }
        (0..self.services.len()).for_each(|index| self.look_at_holds(index));
        let held = self.services.iter().filter(|service| service.saved.rollouts.active().is_some());
        Ok(StoppedLine {
            stopped: self.line_stopped.clone(),
            rollouts: held.map(|service| service.name().to_owned()).collect(),
        })
    }
}
