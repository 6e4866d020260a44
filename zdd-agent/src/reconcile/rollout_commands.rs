//! What operators ask of rollouts.

use std::net::SocketAddr;

use super::Reconciler;
use super::drains::unix_ms;
use crate::control::{Refused, RolloutAct, RolloutAsk};
use crate::desired::{BasisPoints, FULL};
use crate::report::ChangeReport;
use crate::rollout::machine::{Command, Event, Phase, Plan};
use crate::rollout::report::{self, RolloutHistory, RolloutPlan, RolloutReport};
use crate::rollout::saved::{Line, Past};
use crate::rollout::spec::{HookKind, OnFailure, RolloutSpec, Strategy, Unit};

impl Reconciler {
    /// Begins or moves a rollout.
    pub(super) fn rollout(&mut self, name: &str, ask: RolloutAsk) -> Result<RolloutReport, Refused> {
        let index = self.index_of(name)?;
        let RolloutAsk { act, revision, reason, break_glass } = ask;
        if break_glass && reason.trim().is_empty() {
            return Err(Refused::invalid(
                "breaking the glass needs a reason\nhelp: add --reason TEXT; it is kept in the history",
            ));
        }
        let glass = break_glass.then(|| reason.clone());
        self.seen(index, revision)?;
        let active = self.services[index].saved.rollouts.active().is_some();
        match act {
            RolloutAct::Start { version, replace } => {
                self.start_rollout(index, &version, &replace, glass.clone())?;
            }
            RolloutAct::Undo { to: None } if active => self.command(index, Command::Abort, reason)?,
            RolloutAct::Undo { to } => self.undo(index, to, &reason, break_glass)?,
            RolloutAct::Retry if !active => self.retry(index, glass.clone())?,
            RolloutAct::Retry => self.command(index, Command::Retry, reason)?,
            RolloutAct::Pause => self.command(index, Command::Pause, reason)?,
            RolloutAct::Resume => self.command(index, Command::Resume, reason)?,
            RolloutAct::Promote { full } => self.command(index, Command::Promote { full }, reason)?,
            RolloutAct::Abort => self.command(index, Command::Abort, reason)?,
        }
        // What was asked for makes sense, and only now does what holds it let go.
        let goes_on =
            self.services[index].saved.rollouts.active().is_some_and(|r| r.progress.broke_glass != glass);
        if let Some(reason) = glass
            && goes_on
        {
            self.command(index, Command::BreakGlass, reason)?;
        }
        self.rollout_status(name)
    }

    /// Two operators at once: the second one decides by what is not so any more, and is told.
    fn seen(&self, index: usize, revision: Option<u64>) -> Result<(), Refused> {
        let Some(rollout) = &self.services[index].saved.rollouts.current else { return Ok(()) };
        let now = rollout.progress.revision;
        match revision {
            Some(seen) if seen != now => {
                let last = rollout.log.last().map_or("", |line| line.text.as_str());
                Err(Refused::conflict(format!(
                    "the rollout is at revision {now} by now, you have seen {seen}; the last that happened: {last}\nhelp: look at `zdd rollout status {}` and decide again",
                    self.services[index].name()
                )))
            }
            _ => Ok(()),
        }
    }

    fn command(&mut self, index: usize, command: Command, reason: String) -> Result<(), Refused> {
        if self.services[index].saved.rollouts.current.is_none() {
            return Err(self.none(index));
        }
        self.rollout_event(index, Event::Operator(command, reason))
    }

    fn none(&self, index: usize) -> Refused {
        let name = self.services[index].name();
        Refused::not_found(format!(
            "{name} has had no rollout\nhelp: `zdd rollout start {name} VERSION` begins one"
        ))
    }

    fn spec_of(&self, index: usize) -> Result<RolloutSpec, Refused> {
        let spec = &self.services[index].saved.spec;
        spec.rollout.clone().ok_or_else(|| {
            Refused::refused(format!(
                "{} has no [service.rollout]\nhelp: write one into the configuration and `zdd apply` it",
                spec.name
            ))
        })
    }

    /// The version that has everything, and all that keeps `candidate` from being rolled out.
    fn versions_for(
        &mut self,
        index: usize,
        candidate: &str,
        rolling: bool,
    ) -> Result<(String, Vec<Refused>), Refused> {
        let service = &self.services[index];
        let (name, versions) = (service.name(), &service.saved.spec.versions);
        if !versions.iter().any(|version| version.name == candidate) {
            let known: Vec<&str> = versions.iter().map(|version| version.name.as_str()).collect();
            return Err(Refused::not_found(format!(
                "{name} has no version `{candidate}`; it has {}",
                known.join(", ")
            )));
        }
        let mut refusals = Vec::new();
        if let Some(rollout) = service.saved.rollouts.active() {
            refusals.push(Refused::conflict(format!(
                "rollout {} of {} is under way\nhelp: wait for its end, or `zdd rollout abort {name}`",
                rollout.plan.id, rollout.plan.candidate
            )));
        }
        if rolling {
            return Ok((candidate.to_owned(), refusals));
        }
        let whole = versions.iter().find(|version| version.weight == FULL);
        let stable = whole.map_or_else(|| versions[0].name.clone(), |version| version.name.clone());
        if whole.is_none() && refusals.is_empty() {
            refusals.push(Refused::refused(format!(
                "several versions of {name} have weight, so there is no stable one to come back to\nhelp: give one of them everything first, as `zdd shift {name} {stable}=100%`"
            )));
        }
        if stable == candidate {
            refusals.push(Refused::refused(format!("{candidate} has everything already")));
        } else {
            let share = |version: &str| if version == candidate { FULL } else { 0 };
            let new: Vec<BasisPoints> = versions.iter().map(|version| share(&version.name)).collect();
            refusals.extend(self.guard_health(index, &new, false, &mut Vec::new()).err().map(|refused| {
                let first = refused.message.lines().next().unwrap_or_default().to_owned();
                Refused::refused(format!("{first}\nhelp: mend it first"))
            }));
        }
        Ok((stable, refusals))
    }

    fn start_rollout(
        &mut self,
        index: usize,
        candidate: &str,
        replace: &[(SocketAddr, SocketAddr)],
        glass: Option<String>,
    ) -> Result<(), Refused> {
        let mut spec = self.spec_of(index)?;
        let rolling = matches!(spec.strategy, Strategy::Rolling { .. });
        let (stable, refusals) = self.versions_for(index, candidate, rolling)?;
        if rolling && replace.is_empty() && !spec.calls(HookKind::Restart) {
            return Err(Refused::refused(
                "nothing restarts the backends\nhelp: write a [[service.rollout.hook]] with on = \"restart\", or name new addresses with --replace OLD=NEW",
            ));
        }
        spec.strategy = self.batches(index, candidate, &spec.strategy, replace)?;
        if let Some(refused) = refusals.into_iter().next() {
            return Err(refused);
        }
        if let Some(train) = &spec.train {
            let name = self.services[index].name();
            return Err(Refused::refused(format!(
                "{name} is part of train {train}, which moves together\nhelp: `zdd train start {train} {name}={candidate} ...`"
            )));
        }
        let id = self.services[index].saved.rollouts.last_id + 1;
        self.begin_rollout(
            index,
            Plan { id, spec, stable, candidate: candidate.to_owned(), train_run: 0 },
            glass,
        )
    }

    /// What a rollout of this candidate as part of its train would be.
    pub(super) fn plan_of(&mut self, index: usize, candidate: &str) -> Result<Plan, Refused> {
        let spec = self.spec_of(index)?;
        let (stable, refusals) = self.versions_for(index, candidate, false)?;
        if let Some(refused) = refusals.into_iter().next() {
            return Err(refused);
        }
        let id = self.services[index].saved.rollouts.last_id + 1;
        Ok(Plan { id, spec, stable, candidate: candidate.to_owned(), train_run: 0 })
    }

    fn retry(&mut self, index: usize, glass: Option<String>) -> Result<(), Refused> {
        let current = self.services[index].saved.rollouts.current.as_ref();
        let Some(rollout) = current else { return Err(self.none(index)) };
        if rollout.progress.phase == Phase::Promoted {
            return Err(Refused::refused("the last rollout was promoted: there is nothing to retry"));
        }
        let candidate = rollout.plan.candidate.clone();
        // Of a rolling one what is left to be done.
        let left = |unit: &Unit| {
            let own = self.services[index].saved.spec.versions.iter().find(|v| v.name == candidate);
            own.is_some_and(|v| v.backends.iter().any(|b| b.address == unit.old))
        };
        let replace: Vec<_> = match &rollout.plan.spec.strategy {
            Strategy::Rolling { batches, .. } => batches
                .iter()
                .flatten()
                .filter(|unit| left(unit))
                .filter_map(|unit| Some((unit.old, unit.new?)))
                .collect(),
            Strategy::Canary { .. } | Strategy::BlueGreen { .. } => Vec::new(),
        };
        self.start_rollout(index, &candidate, &replace, glass)
    }

    fn undo(
        &mut self,
        index: usize,
        to: Option<u64>,
        reason: &str,
        break_glass: bool,
    ) -> Result<(), Refused> {
        let name = self.services[index].name().to_owned();
        let rollouts = &self.services[index].saved.rollouts;
        if rollouts.active().is_some() {
            return Err(Refused::conflict(format!(
                "a rollout is under way\nhelp: `zdd rollout abort {name}` first"
            )));
        }
        let versions = &self.services[index].saved.spec.versions;
        let now = versions.iter().find(|v| v.weight == FULL).map(|v| v.name.clone());
        let mut past = rollouts.history.iter().rev();
        let target = match to {
            Some(id) => past.find(|past| past.id == id).map(|past| past.left.clone()),
            None => past.find(|past| past.left != past.stable).map(|past| past.stable.clone()),
        };
        let Some(target) = target else {
            return Err(Refused::not_found(format!(
                "{name} has no such rollout to undo\nhelp: `zdd rollout history {name}` lists them"
            )));
        };
        if now.as_deref() == Some(&target) {
            return Err(Refused::refused(format!("{target} has everything already")));
        }
        let since = rollouts.history.iter().rposition(|past| past.contracted && past.stable == target);
        if let Some(past) = since.map(|at| &rollouts.history[at])
            && !break_glass
        {
            return Err(Refused::refused(format!(
                "rollout {} has called contract: {target} may not be able to live with the database any more\nhelp: go forward to a mended version, or use --break-glass --reason TEXT",
                past.id
            )));
        }
        if !versions.iter().any(|version| version.name == target) {
            return Err(Refused::not_found(format!(
                "{target} is not in the configuration any more\nhelp: add it back with its backends, `zdd apply`, and repeat"
            )));
        }
        let new: Vec<BasisPoints> =
            versions.iter().map(|version| if version.name == target { FULL } else { 0 }).collect();
        let began = unix_ms();
        let before = self.services[index].saved.rollouts.clone();
        let from = now.unwrap_or_else(|| "several versions".to_owned());
        let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        let rollouts = &mut self.services[index].saved.rollouts;
        rollouts.last_id += 1;
        let text = format!("undone: {target} has everything again{because}");
        tracing::info!(service = name, "{text}");
        rollouts.remember(Past {
            id: rollouts.last_id,
            kind: "undo".to_owned(),
            stable: from,
            candidate: target.clone(),
            outcome: "undone".to_owned(),
            why: (!reason.is_empty()).then(|| reason.to_owned()),
            left: target,
            contracted: false,
            started_unix_ms: began,
            ended_unix_ms: began,
            log: vec![Line { unix_ms: began, text: text.clone() }],
        });
        if let Some(rollout) = &mut rollouts.current {
            rollout.note(began, text);
        }
        let given = self.give_back(index, &new);
        if given.is_err() {
            self.services[index].saved.rollouts = before;
        }
        given
    }

    /// `zdd rollback` during a rollout is an abort. Gives the version that gets everything, if there is a rollout.
    pub(super) fn abort_for_rollback(&mut self, index: usize) -> Result<Option<String>, Refused> {
        let Some(rollout) = self.services[index].saved.rollouts.active() else { return Ok(None) };
        let stable = rollout.plan.stable.clone();
        let has = self.services[index].saved.spec.versions.iter().any(|version| version.name == stable);
        self.command(index, Command::Abort, "zdd rollback".to_owned())?;
        Ok(has.then_some(stable))
    }

    /// The weights were given back by force, where the rollout itself was refused.
    pub(super) fn rollout_rolled_back(&mut self, index: usize) {
        if self.services[index].saved.rollouts.active().is_some()
            && let Err(refused) = self.rollout_event(index, Event::WeightsSet(0))
        {
            tracing::error!("{refused}");
        }
    }

    pub(super) fn rollout_status(&self, name: &str) -> Result<RolloutReport, Refused> {
        let index = self.index_of(name)?;
        let rollouts = &self.services[index].saved.rollouts;
        rollouts.current.as_ref().map(|rollout| report::report(name, rollout)).ok_or_else(|| self.none(index))
    }

    pub(super) fn rollout_plan(&mut self, name: &str, candidate: &str) -> Result<RolloutPlan, Refused> {
        let index = self.index_of(name)?;
        let mut spec = self.spec_of(index)?;
        spec.strategy = self.batches(index, candidate, &spec.strategy, &[])?;
        let rolling = matches!(spec.strategy, Strategy::Rolling { .. });
        let (stable, refusals) = self.versions_for(index, candidate, rolling)?;
        let on_failure = match spec.on_failure {
            OnFailure::Rollback => "rollback",
            OnFailure::Freeze => "freeze",
        };
        let preview = &self.services[index].saved.spec.preview;
        Ok(RolloutPlan {
            preview: preview.iter().map(ToString::to_string).collect(),
            service: name.to_owned(),
            strategy: spec.strategy.name().to_owned(),
            steps: report::steps(&spec, &stable, candidate, None),
            stable,
            candidate: candidate.to_owned(),
            on_failure: on_failure.to_owned(),
            refusals: refusals.into_iter().map(|refused| refused.message).collect(),
        })
    }

    pub(super) fn rollout_history(&self, name: &str) -> Result<RolloutHistory, Refused> {
        let index = self.index_of(name)?;
        let history = &self.services[index].saved.rollouts.history;
        Ok(RolloutHistory { service: name.to_owned(), rollouts: history.iter().map(Into::into).collect() })
    }

    pub(super) fn gate(&mut self, name: &str, closed: bool, reason: &str) -> Result<ChangeReport, Refused> {
        let index = self.index_of(name)?;
        let before = self.services[index].saved.rollouts.gate.clone();
        let reason = if reason.is_empty() { "by command" } else { reason };
        self.services[index].saved.rollouts.gate = closed.then(|| reason.to_owned());
        let done = if self.services[index].saved.rollouts.active().is_some() {
            self.rollout_event(index, Event::Gate(closed))
        } else {
            self.save()
        };
        if let Err(refused) = done {
            self.services[index].saved.rollouts.gate = before;
            return Err(refused);
        }
        let note = if closed {
            format!("the gate is closed ({reason}): no rollout takes a step up")
        } else {
            "the gate is open".to_owned()
        };
        Ok(self.change_report(index, vec![note]))
    }
}
