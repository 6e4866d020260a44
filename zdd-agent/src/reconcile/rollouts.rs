//! Rollouts put into practice: the machine's effects become weights, measurements, calls and drains, and their answers its events.
//!
//! A weight is persisted together with the progress that asked for it, so a kill between the two is no state that exists.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::Reconciler;
use super::drains::unix_ms;
use crate::control::Refused;
use crate::events::EventKind;
use crate::rollout::machine::{self, Effect, Event, Phase};
use crate::rollout::saved::{Past, SavedRollout};
use crate::signals::Reading;

/// How often time is looked at while a rollout is under way.
pub(super) const LOOK: Duration = Duration::from_millis(50);

/// The clock of a rollout is persisted at least this often: a kill makes a wait this much longer at the most.
const SAVE_EVERY_MS: u64 = 5_000;

/// Calls of `event` hooks at the same time; beyond it they are left out and told.
const EVENT_CALLS: usize = 16;

/// What a task found out.
pub(super) struct Answer {
    pub(super) service: String,
    pub(super) id: u64,
    pub(super) event: Event,
}

/// New flows since counters began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Begun {
    /// Of the candidate.
    pub(super) all: u64,
    /// Of the preview VIPs.
    pub(super) testers: u64,
}

/// Measurements and calls under way.
pub(super) struct Tasks {
    /// By service, number of the rollout, and token.
    pub(super) running: HashMap<(String, u64, u64), AbortHandle>,
    /// Where tasks put them.
    pub(super) give: mpsc::Sender<Answer>,
    /// Where their answers come in.
    pub(super) answers: mpsc::Receiver<Answer>,
    /// When each rollout's clock was last read.
    clocks: HashMap<String, Instant>,
    /// New flows when each analysis was last judged: by service, rollout and analysis.
    pub(super) samples: HashMap<(String, u64, usize), Begun>,
    /// Its signals then.
    pub(super) readings: HashMap<(String, u64, usize), Reading>,
    /// Calls of `event` hooks.
    pub(super) events: std::sync::Arc<tokio::sync::Semaphore>,
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
            readings: HashMap::new(),
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
        self.conduct_trains();
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
    pub(super) fn begin_rollout(
        &mut self,
        index: usize,
        plan: machine::Plan,
        broke_glass: Option<String>,
    ) -> Result<(), Refused> {
        let before = self.services[index].saved.rollouts.clone();
        let effects = self.put_rollout(index, plan, broke_glass);
        if let Err(refused) = self.save() {
            self.services[index].saved.rollouts = before;
            return Err(refused);
        }
        self.trace_rollout(index, &before);
        self.follow_previews();
        self.carry_out(index, effects);
        Ok(())
    }

    /// The same, neither persisted nor carried out.
    pub(super) fn put_rollout(
        &mut self,
        index: usize,
        plan: machine::Plan,
        broke_glass: Option<String>,
    ) -> Vec<Effect> {
        let (progress, effects) = machine::begin(&plan, self.holds(index, &plan.spec, broke_glass), 0);
        let rollouts = &mut self.services[index].saved.rollouts;
        rollouts.last_id = plan.id;
        let (clock_ms, started_unix_ms) = (0, unix_ms());
        rollouts.current = Some(SavedRollout {
            plan,
            progress,
            clock_ms,
            started_unix_ms,
            log: Vec::new(),
            leading: 0,
            comparisons: Default::default(),
        });
        let name = self.services[index].name().to_owned();
        self.rollouts.clocks.insert(name, Instant::now());
        // A measurement may come before any weight.
        self.sample_from_now(index);
        self.write_announcements(index, &effects);
        effects
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
        self.trace_rollout(index, &before);
        self.carry_out(index, effects);
        Ok(())
    }

    /// The same where nobody waits for the answer.
    pub(super) fn rollout_goes_on(&mut self, index: usize, event: Event) {
        if let Err(refused) = self.rollout_event(index, event) {
            tracing::error!(service = self.services[index].name(), "rollout: {refused}");
        }
    }

    pub(super) fn carry_out(&mut self, index: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::SetWeights(to) => {
                    let done = self.rollout_weights(index, to);
                    self.sample_from_now(index);
                    self.compare_from_now(index);
                    let event = match done {
                        Ok(()) => Event::WeightsSet(to),
                        Err(refused) => Event::Refused(to, refused.message.replace('\n', "; ")),
                    };
                    self.rollout_goes_on(index, event);
                }
                Effect::Start(..) => self.start_work(index, &effect),
                Effect::Stop(token) => self.stop_work(index, token),
                Effect::Batch(step, number) => self.see_to_batch(index, step, number),
                Effect::Drain => self.see_to_drain(index),
                Effect::Announce(text) => {
                    self.note_event(EventKind::Rollout, index, text.clone());
                    self.tell_hooks(index, &text);
                }
            }
        }
    }

    fn write_announcements(&mut self, index: usize, effects: &[Effect]) {
        let trace_id = self.rollout_trace_id(index);
        let service = &mut self.services[index];
        let (name, generation) = (service.name().to_owned(), service.generation());
        let Some(rollout) = &mut service.saved.rollouts.current else { return };
        for effect in effects {
            if let Effect::Announce(text) = effect {
                let (id, version) = (rollout.plan.id, &rollout.plan.candidate);
                tracing::info!(service = name, version, generation, rollout = id, trace_id, "{text}");
                rollout.note(unix_ms(), text.clone());
            }
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
            contracted: rollout.progress.contracted,
            started_unix_ms: rollout.started_unix_ms,
            ended_unix_ms: unix_ms(),
            log: rollout.log.clone(),
        };
        rollouts.remember(past);
    }

    /// Whether time matters to any of them.
    pub(super) fn rollouts_go_on(&self) -> bool {
        self.services.iter().any(|service| service.saved.rollouts.active().is_some())
    }

    pub(super) fn tick_rollouts(&mut self) {
        for index in 0..self.services.len() {
            let Some(rollout) = self.services[index].saved.rollouts.active() else { continue };
            let saved_before = rollout.clock_ms / SAVE_EVERY_MS;
            self.look_at_holds(index);
            self.look_at_batch(index);
            self.rollout_goes_on(index, Event::Tick);
            let clock = self.services[index].saved.rollouts.active().map(|rollout| rollout.clock_ms);
            if clock.is_some_and(|clock| clock / SAVE_EVERY_MS != saved_before)
                && let Err(refused) = self.save()
            {
                tracing::error!("{refused}");
            }
        }
        self.conduct_trains();
    }
}
