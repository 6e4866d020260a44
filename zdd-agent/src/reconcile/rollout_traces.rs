//! Rollouts as traces: the outermost span is the rollout; below it are its steps, closed gates, calls and measurements.

use std::collections::HashMap;

use super::Reconciler;
use crate::otlp::{self, Span, SpanContext, Tracer};
use crate::rollout::machine::Phase;
use crate::rollout::report::steps;
use crate::rollout::saved::{SavedRollout, SavedRollouts};

/// What traces of rollouts need: where spans go, and since when what is under way lasts.
pub(super) struct RolloutTraces {
    pub(super) tracer: Tracer,
    host: String,
    /// Since when the present step, and the closed gate, of each service last; ns since 1970.
    steps: HashMap<String, u64>,
    gates: HashMap<String, u64>,
}

impl RolloutTraces {
    pub(super) fn new(tracer: Tracer) -> Self {
        Self { tracer, host: otlp::host(), steps: HashMap::new(), gates: HashMap::new() }
    }

    fn root(&self, service: &str, rollout: &SavedRollout) -> SpanContext {
        SpanContext::of_rollout(&self.host, service, rollout.plan.id, rollout.started_unix_ms)
    }
}

/// A call or measurement under way.
pub(super) struct TracedWork {
    tracer: Tracer,
    /// Its own span, and the step that it belongs to. `None`: nobody wants to know.
    contexts: Option<(SpanContext, SpanContext)>,
    began: u64,
}

impl TracedWork {
    /// What the other side is told, so that what it does belongs to the same trace.
    pub(super) fn traceparent(&self) -> Option<String> {
        self.contexts.map(|(own, _)| own.traceparent())
    }

    /// It has ended, with these words.
    pub(super) fn ended(self, name: String, said: &str, good: bool) {
        let Some((own, step)) = self.contexts else { return };
        let mut span = Span::ended(own, step, name, self.began).with("zdd.said", said);
        span.error = (!good).then(|| said.to_owned());
        self.tracer.emit(span);
    }
}

/// The present step: its place and when it was entered, because a rollout may come to a place again.
fn step_of(root: SpanContext, rollout: &SavedRollout) -> SpanContext {
    let progress = &rollout.progress;
    root.child("step", (progress.stage as u64) << 48 ^ progress.entered_ms)
}

/// When the present step began, as far as the rollout's own clock says: it stands while no agent runs.
fn entered_ns(rollout: &SavedRollout) -> u64 {
    let ago_ms = rollout.clock_ms.saturating_sub(rollout.progress.entered_ms);
    otlp::now_ns().saturating_sub(ago_ms * 1_000_000)
}

impl Reconciler {
    /// Where calls and measurements of the rollout belong: its trace and its present step.
    pub(super) fn step_context(&self, index: usize) -> Option<SpanContext> {
        let service = &self.services[index];
        let rollout = service.saved.rollouts.current.as_ref()?;
        Some(step_of(self.rollout_traces.root(service.name(), rollout), rollout))
    }

    /// A call or measurement that begins now; `token`: its number within the rollout.
    pub(super) fn traced_work(&self, index: usize, token: u64) -> TracedWork {
        let tracer = self.rollout_traces.tracer.clone();
        let step = self.step_context(index).filter(|_| tracer.on());
        // A restart begins outstanding work anew, under the same token: another span, because the first one may have been told.
        let began = otlp::now_ns();
        TracedWork { tracer, contexts: step.map(|step| (step.child("work", token ^ began), step)), began }
    }

    /// What is told to calls that nobody waits for.
    pub(super) fn traceparent(&self, index: usize) -> Option<String> {
        self.step_context(index).filter(|_| self.rollout_traces.tracer.on()).map(|step| step.traceparent())
    }

    /// The id of the rollout's trace, for the log.
    pub(super) fn rollout_trace_id(&self, index: usize) -> Option<String> {
        self.step_context(index).filter(|_| self.rollout_traces.tracer.on()).map(|context| context.trace_id())
    }

    /// Tells what has ended since `before`.
    pub(super) fn trace_rollout(&mut self, index: usize, before: &SavedRollouts) {
        let traces = &mut self.rollout_traces;
        if !traces.tracer.on() {
            return;
        }
        let service = &self.services[index];
        let name = service.name().to_owned();
        let Some(now) = &service.saved.rollouts.current else { return };
        let root = traces.root(&name, now);
        let same = before.current.as_ref().filter(|was| was.plan.id == now.plan.id);
        let Some(was) = same else {
            traces.steps.insert(name, otlp::now_ns());
            return;
        };
        let about = |span: Span| {
            let plan = &now.plan;
            span.with("zdd.service", &*name)
                .with("zdd.rollout", plan.id.to_string())
                .with("zdd.stable", &*plan.stable)
                .with("zdd.candidate", &*plan.candidate)
                .with("zdd.generation", service.generation().to_string())
        };
        let ends = now.progress.phase.over() && !was.progress.phase.over();
        if was.progress.stage != now.progress.stage || ends {
            let began = traces.steps.insert(name.clone(), otlp::now_ns()).unwrap_or_else(|| entered_ns(was));
            let all = steps(&was.plan.spec, &was.plan.stable, &was.plan.candidate, None);
            let what = all.get(was.progress.stage).map_or("the end", |step| &step.what);
            traces.tracer.emit(about(Span::ended(step_of(root, was), root, format!("step: {what}"), began)));
        }
        match (was.progress.gate_closed, now.progress.gate_closed && !ends) {
            (false, true) => drop(traces.gates.insert(name.clone(), otlp::now_ns())),
            (true, false) => {
                let began = traces.gates.remove(&name).unwrap_or_else(otlp::now_ns);
                let gate = root.child("gate", began);
                traces.tracer.emit(about(Span::ended(gate, root, "gate closed", began)));
            }
            _ => {}
        }
        if ends {
            traces.steps.remove(&name);
            let began = now.started_unix_ms * 1_000_000;
            let title = format!("rollout {name} {} to {}", now.plan.stable, now.plan.candidate);
            let mut span = about(Span::ended(root, root, title, began));
            span.parent = None;
            span.events = now.log.iter().map(|line| (line.unix_ms * 1_000_000, line.text.clone())).collect();
            if let Phase::RolledBack(why) = &now.progress.phase {
                span.error = Some(why.clone());
            }
            let outcome = now.progress.phase.name();
            traces
                .tracer
                .emit(span.with("zdd.outcome", outcome).with("zdd.strategy", now.plan.spec.strategy.name()));
        }
    }
}
