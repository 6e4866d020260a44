//! Rollouts put into practice: the machine's effects become weights, measurements, calls and drains, and their answers its events.
//!
//! A weight is persisted together with the progress that asked for it, so a kill between the two is no state that exists.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::Reconciler;
use super::drains::unix_ms;
use crate::control::{Refused, Target};
use crate::desired::{BasisPoints, FULL};
use crate::events::EventKind;
use crate::rollout::machine::{self, Effect, Event, Phase, Work};
use crate::rollout::provider::{self, About};
use crate::rollout::runs::Outcome;
use crate::rollout::saved::{Past, SavedRollout};
use crate::rollout::spec::{HookKind, Provider};
use crate::text::percent;

/// How often time is looked at while a rollout is under way.
pub(super) const LOOK: Duration = Duration::from_millis(50);

/// The clock of a rollout is persisted at least this often: a kill makes a wait this much longer at the most.
const SAVE_EVERY_MS: u64 = 5_000;

/// Calls of `event` hooks at the same time; beyond it they are left out and told.
const EVENT_CALLS: usize = 16;

/// What a task found out.
pub(super) struct Answer {
    service: String,
    id: u64,
    event: Event,
}

/// Measurements and calls under way.
pub(super) struct Tasks {
    /// By service, number of the rollout, and token.
    running: HashMap<(String, u64, u64), AbortHandle>,
    give: mpsc::Sender<Answer>,
    /// Where their answers come in.
    pub(super) answers: mpsc::Receiver<Answer>,
    /// When each rollout's clock was last read.
    clocks: HashMap<String, Instant>,
    /// New flows of the candidate when each analysis was last judged: by service, rollout and analysis.
    pub(super) samples: HashMap<(String, u64, usize), u64>,
    events: std::sync::Arc<tokio::sync::Semaphore>,
}

impl Tasks {
    pub(super) fn new() -> Self {
        let (give, answers) = mpsc::channel(64);
        let events = std::sync::Arc::new(tokio::sync::Semaphore::new(EVENT_CALLS));
        Tasks {
            running: HashMap::new(),
            give,
            answers,
            clocks: HashMap::new(),
            samples: HashMap::new(),
            events,
        }
    }
}

impl Reconciler {
    /// An agent that has just started goes on with what was under way.
    pub(super) fn resume_rollouts(&mut self) {
        for index in 0..self.services.len() {
            let Some(saved) = self.services[index].saved.rollouts.active() else { continue };
            let (service, effects) =
                (self.services[index].name().to_owned(), machine::resume(&saved.progress));
            tracing::info!(service, rollout = saved.plan.id, "the rollout goes on");
            self.sample_from_now(index);
            for effect in effects {
                self.start_work(index, &effect);
            }
        }
        self.watch_weights();
    }

    /// The clock of a rollout: time for which an agent has watched it. A wall clock that jumps changes nothing.
    fn rollout_clock(&mut self, index: usize) -> u64 {
        let service = &mut self.services[index];
        let now = Instant::now();
        let read = self.rollouts.clocks.entry(service.name().to_owned()).or_insert(now);
        // Whole milliseconds; what is left over is there at the next look.
        let passed = now.duration_since(*read).as_millis() as u64;
        *read += Duration::from_millis(passed);
        let Some(rollout) = &mut service.saved.rollouts.current else { return 0 };
        rollout.clock_ms += passed;
        rollout.clock_ms
    }

    /// Begins a rollout whose plan is in order.
    pub(super) fn begin_rollout(&mut self, index: usize, plan: machine::Plan) -> Result<(), Refused> {
        let before = self.services[index].saved.rollouts.clone();
        let (progress, effects) = machine::begin(&plan, before.gate.is_some(), 0);
        let rollouts = &mut self.services[index].saved.rollouts;
        rollouts.last_id = plan.id;
        let (clock_ms, started_unix_ms) = (0, unix_ms());
        rollouts.current = Some(SavedRollout { plan, progress, clock_ms, started_unix_ms, log: Vec::new() });
        let name = self.services[index].name().to_owned();
        self.rollouts.clocks.insert(name, Instant::now());
        self.write_announcements(index, &effects);
        if let Err(refused) = self.save() {
            self.services[index].saved.rollouts = before;
            return Err(refused);
        }
        self.carry_out(index, effects);
        Ok(())
    }

    /// One event of the rollout under way, and all that follows from it.
    ///
    /// # Errors
    /// A command that makes no sense now, or a state that cannot be saved: nothing has changed then.
    pub(super) fn rollout_event(&mut self, index: usize, event: Event) -> Result<(), Refused> {
        let now = self.rollout_clock(index);
        let Some(rollout) = &mut self.services[index].saved.rollouts.current else { return Ok(()) };
        let (progress, effects) =
            machine::step(&rollout.plan, &rollout.progress, event, now).map_err(Refused::refused)?;
        let changed = progress != rollout.progress;
        if !changed && effects.is_empty() {
            return Ok(());
        }
        let before = self.services[index].saved.rollouts.clone();
        if let Some(rollout) = &mut self.services[index].saved.rollouts.current {
            rollout.progress = progress;
        }
        self.write_announcements(index, &effects);
        self.remember_end(index, before.active().is_some());
        // What sets weights saves everything with them.
        let sets = effects.iter().any(|effect| matches!(effect, Effect::SetWeights(_)));
        if changed
            && !sets
            && let Err(refused) = self.save()
        {
            self.services[index].saved.rollouts = before;
            return Err(refused);
        }
        self.carry_out(index, effects);
        Ok(())
    }

    /// The same where nobody waits for the answer.
    fn rollout_goes_on(&mut self, index: usize, event: Event) {
        if let Err(refused) = self.rollout_event(index, event) {
            tracing::error!(service = self.services[index].name(), "rollout: {refused}");
        }
    }

    fn carry_out(&mut self, index: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::SetWeights(to) => {
                    let done = self.rollout_weights(index, to);
                    self.sample_from_now(index);
                    let event = match done {
                        Ok(()) => Event::WeightsSet(to),
                        Err(refused) => Event::Refused(to, refused.message.replace('\n', "; ")),
                    };
                    self.rollout_goes_on(index, event);
                }
                Effect::Start(..) => self.start_work(index, &effect),
                Effect::Stop(token) => self.stop_work(index, token),
                Effect::Drain => self.see_to_drain(index),
                Effect::Announce(text) => {
                    self.note_event(EventKind::Rollout, index, text.clone());
                    self.tell_hooks(index, &text);
                }
            }
        }
    }

    /// Puts the candidate's share in force: the same path and the same guards as `zdd shift`. The way back is not kept up by
    /// a SYN flood: some new connections stay on the candidate then, and none breaks.
    fn rollout_weights(&mut self, index: usize, to: BasisPoints) -> Result<(), Refused> {
        let saved = &self.services[index].saved;
        let Some(rollout) = &saved.rollouts.current else { return Ok(()) };
        let back = matches!(rollout.progress.phase, Phase::RollingBack(_));
        let (stable, candidate) = (rollout.plan.stable.clone(), rollout.plan.candidate.clone());
        let has = |name: &str| saved.spec.versions.iter().any(|version| version.name == name);
        if !has(&stable) && back {
            tracing::warn!(service = saved.spec.name, stable, "the stable version is gone: the weights stay");
            return Ok(());
        }
        for name in [&stable, &candidate] {
            if !has(name) && !(back && *name == candidate) {
                return Err(Refused::not_found(format!(
                    "version {name} is not in the configuration any more"
                )));
            }
        }
        let weight = |name: &str| match name {
            _ if name == candidate => to,
            _ if name == stable => FULL - to,
            _ => 0,
        };
        let new: Vec<BasisPoints> = saved.spec.versions.iter().map(|version| weight(&version.name)).collect();
        let mut notes = Vec::new();
        self.guard_health(index, &new, false, &mut notes)?;
        if !back {
            self.guard_filter(false)?;
        }
        self.put_weights(index, &new, notes).map(drop)
    }

    fn about(&self, index: usize, what: &str) -> Option<About> {
        let service = &self.services[index];
        let rollout = service.saved.rollouts.current.as_ref()?;
        Some(About {
            service: service.name().to_owned(),
            stable: rollout.plan.stable.clone(),
            candidate: rollout.plan.candidate.clone(),
            weight: percent(rollout.progress.weight),
            phase: rollout.progress.phase.name().to_owned(),
            what: what.to_owned(),
        })
    }

    fn start_work(&mut self, index: usize, effect: &Effect) {
        let Effect::Start(token, work) = *effect else { return };
        let service = &self.services[index];
        let Some(rollout) = &service.saved.rollouts.current else { return };
        let (name, id) = (service.name().to_owned(), rollout.plan.id);
        let spec = &rollout.plan.spec;
        let give = self.rollouts.give.clone();
        let answer = move |event| Answer { service: name, id, event };
        let task = match work {
            Work::Measure(at) => {
                let (Some(analysis), Some(about)) = (spec.analyses.get(at), self.about(index, "analysis"))
                else {
                    return;
                };
                if let Provider::Builtin { metric, success } = &analysis.provider {
                    let outcome = provider::judge(&self.builtin(index, *metric), success);
                    // An agent that has just started knows of nobody's health, and that is not the candidate's fault.
                    let patience = match outcome {
                        Outcome::Inconclusive(_) => self.until_probed(index),
                        _ => Duration::ZERO,
                    };
                    tokio::spawn(async move {
                        tokio::time::sleep(patience).await;
                        drop(give.send(answer(Event::Measured(token, outcome))).await);
                    })
                } else {
                    let provider = analysis.provider.clone();
                    tokio::spawn(async move {
                        let outcome = provider::measure(&provider, &about).await;
                        drop(give.send(answer(Event::Measured(token, outcome))).await);
                    })
                }
            }
            Work::Call(at) => {
                let Some(hook) = spec.hooks.get(at).cloned() else { return };
                let Some(about) = self.about(index, hook.on.name()) else { return };
                tokio::spawn(async move {
                    let answered = provider::call(&hook, &about).await;
                    drop(give.send(answer(Event::HookDone(token, answered))).await);
                })
            }
        };
        let key = (self.services[index].name().to_owned(), id, token);
        self.rollouts.running.insert(key, task.abort_handle());
    }

    fn stop_work(&mut self, index: usize, token: u64) {
        let service = &self.services[index];
        let Some(rollout) = &service.saved.rollouts.current else { return };
        let key = (service.name().to_owned(), rollout.plan.id, token);
        if let Some(task) = self.rollouts.running.remove(&key) {
            task.abort();
        }
    }

    /// Begins the drain of the old version if it does not drain, and tells the machine when it is over.
    fn see_to_drain(&mut self, index: usize) {
        let service = &self.services[index];
        let Some(rollout) = &service.saved.rollouts.current else { return };
        let target = Target::Version {
            service: Some(service.name().to_owned()),
            version: rollout.plan.stable.clone(),
        };
        if service.saved.spec.versions.iter().all(|version| version.name != rollout.plan.stable) {
            // Whatever is left of it is on its way out with its configuration.
            return self.rollout_goes_on(index, Event::Drained);
        }
        if self.drain_of(index, &target).is_none() {
            let deadline = rollout.plan.spec.drain_deadline;
            if let Err(refused) = self.drain(&target, deadline) {
                tracing::debug!(
                    service = self.services[index].name(),
                    "the old version is not drained yet: {refused}"
                );
            }
            return;
        }
        let report = self.drain_report(index, &target);
        if report.drained || report.deadline_passed {
            self.rollout_goes_on(index, Event::Drained);
        }
    }

    fn write_announcements(&mut self, index: usize, effects: &[Effect]) {
        let service = &mut self.services[index];
        let name = service.name().to_owned();
        let Some(rollout) = &mut service.saved.rollouts.current else { return };
        for effect in effects {
            if let Effect::Announce(text) = effect {
                tracing::info!(service = name, rollout = rollout.plan.id, "{text}");
                rollout.note(unix_ms(), text.clone());
            }
        }
    }

    /// `event` hooks hear of everything; nobody waits for them.
    fn tell_hooks(&mut self, index: usize, text: &str) {
        let service = &self.services[index];
        let Some(rollout) = &service.saved.rollouts.current else { return };
        let hooks: Vec<_> =
            rollout.plan.spec.hooks.iter().filter(|hook| hook.on == HookKind::Event).cloned().collect();
        for hook in hooks {
            let Some(about) = self.about(index, text) else { return };
            let Ok(permit) = self.rollouts.events.clone().try_acquire_owned() else {
                tracing::warn!(service = about.service, "an event hook is left out: too many are under way");
                continue;
            };
            tokio::spawn(async move {
                if let Err(why) = provider::call(&hook, &about).await {
                    tracing::warn!(service = about.service, "an event hook failed: {why}");
                }
                drop(permit);
            });
        }
    }

    /// A rollout that has just ended goes into the history.
    fn remember_end(&mut self, index: usize, was_active: bool) {
        let rollouts = &mut self.services[index].saved.rollouts;
        let Some(rollout) = rollouts.current.as_ref().filter(|_| was_active && rollouts.active().is_none())
        else {
            return;
        };
        let phase = &rollout.progress.phase;
        let plan = &rollout.plan;
        let left = if *phase == Phase::Promoted { &plan.candidate } else { &plan.stable };
        let past = Past {
            id: plan.id,
            kind: plan.spec.strategy.name().to_owned(),
            stable: plan.stable.clone(),
            candidate: plan.candidate.clone(),
            outcome: phase.name().to_owned(),
            why: phase.why().map(str::to_owned),
            left: left.clone(),
            started_unix_ms: rollout.started_unix_ms,
            ended_unix_ms: unix_ms(),
            log: rollout.log.clone(),
        };
        rollouts.remember(past);
    }

    /// A measurement that waits for health to be known is judged as soon as it is.
    pub(super) fn health_is_known(&mut self, service: &str) {
        let Some(index) = self.services.iter().position(|other| other.name() == service) else { return };
        let Some(rollout) = self.services[index].saved.rollouts.active() else { return };
        let (id, mut ready) = (rollout.plan.id, Vec::new());
        for (token, work) in rollout.progress.outstanding() {
            let Work::Measure(at) = work else { continue };
            if let Some(Provider::Builtin { metric, success }) =
                rollout.plan.spec.analyses.get(at).map(|analysis| &analysis.provider)
            {
                let outcome = provider::judge(&self.builtin(index, *metric), success);
                if !matches!(outcome, Outcome::Inconclusive(_)) {
                    ready.push((token, outcome));
                }
            }
        }
        for (token, outcome) in ready {
            self.stop_work(index, token);
            let event = Event::Measured(token, outcome);
            self.rollout_answer(Answer { service: service.to_owned(), id, event });
        }
    }

    pub(super) fn rollout_answer(&mut self, answer: Answer) {
        let Answer { service, id, event } = answer;
        if let Event::Measured(token, _) | Event::HookDone(token, _) = &event {
            self.rollouts.running.remove(&(service.clone(), id, *token));
        }
        let of_it = |index: &usize| {
            let service_of = &self.services[*index];
            let current = service_of.saved.rollouts.current.as_ref();
            service_of.name() == service && current.is_some_and(|rollout| rollout.plan.id == id)
        };
        if let Some(index) = (0..self.services.len()).find(of_it) {
            let event = match event {
                Event::Measured(token, outcome) => Event::Measured(token, self.weigh(index, token, outcome)),
                other => other,
            };
            self.rollout_goes_on(index, event);
        }
    }

    /// Whether time matters to any of them.
    pub(super) fn rollouts_go_on(&self) -> bool {
        self.services.iter().any(|service| service.saved.rollouts.active().is_some())
    }

    pub(super) fn tick_rollouts(&mut self) {
        for index in 0..self.services.len() {
            let Some(rollout) = self.services[index].saved.rollouts.active() else { continue };
            let saved_before = rollout.clock_ms / SAVE_EVERY_MS;
            self.rollout_goes_on(index, Event::Tick);
            let clock = self.services[index].saved.rollouts.active().map(|rollout| rollout.clock_ms);
            if clock.is_some_and(|clock| clock / SAVE_EVERY_MS != saved_before)
                && let Err(refused) = self.save()
            {
                tracing::error!("{refused}");
            }
        }
    }

    /// Weights that are not the plan's were set by somebody else: the rollout is paused, and says so.
    pub(super) fn watch_weights(&mut self) {
        for index in 0..self.services.len() {
            let saved = &self.services[index].saved;
            let Some(rollout) = saved.rollouts.active() else { continue };
            let (plan, progress) = (&rollout.plan, &rollout.progress);
            let watched = matches!(progress.phase, Phase::Running | Phase::Frozen(_)) && !progress.displaced;
            let weight = |name: &str| saved.spec.versions.iter().find(|v| v.name == name).map(|v| v.weight);
            let (candidate, stable) = (weight(&plan.candidate), weight(&plan.stable));
            let is = |ours: BasisPoints| candidate == Some(ours) && stable == Some(FULL - ours);
            // A weight that was in force before its arrival was persisted: a kill came between.
            let ours = is(progress.weight) || progress.setting.as_ref().is_some_and(|setting| is(setting.to));
            if !watched || ours {
                continue;
            }
            let said = |name: &str, weight: Option<BasisPoints>| match weight {
                Some(weight) => format!("{name} has {}", percent(weight)),
                None => format!("{name} is gone"),
            };
            let what = format!(
                "the weights are not the plan's: {}, {}",
                said(&plan.stable, stable),
                said(&plan.candidate, candidate)
            );
            self.rollout_goes_on(index, Event::Interfered(what));
        }
    }
}
