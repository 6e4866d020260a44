//! What is told of rollouts: the serde types behind `--json`, and what the API carries. Names are a promise: add, never rename.

use serde::{Deserialize, Serialize};

use super::machine::Work;
use super::saved::{Past, SavedRollout};
use super::spec::{Provider, RolloutSpec};
use super::stages::{Stage, stages, told};
use crate::desired::FULL;

/// `zdd rollout status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutReport {
    /// Service.
    pub service: String,
    /// Number of the rollout in its service.
    pub id: u64,
    /// Grows whenever something changes that an operator decides by.
    pub revision: u64,
    /// `canary` or `blue-green`.
    pub strategy: String,
    /// The version that had everything at the start.
    pub stable: String,
    /// The version that is to have it.
    pub candidate: String,
    /// `running`, `frozen`, `rolling-back`, `promoted` or `rolled-back`.
    pub phase: String,
    /// Why, where there is a why.
    pub why: Option<String>,
    /// The candidate's share of new flows as last set, 0 to 1.
    pub weight: f64,
    /// The cohorts whose new flows go to the candidate, whatever its share.
    #[serde(default)]
    pub cohorts: Vec<String>,
    /// Who holds it, when somebody does.
    pub paused: Option<String>,
    /// `zdd gate close`.
    pub gate_closed: bool,
    /// What else holds all steps up: the line is stopped, or a freeze window.
    pub stopped: Option<String>,
    /// Why the glass was broken: what was closed then holds nothing.
    pub broke_glass: Option<String>,
    /// The release train that it is part of.
    pub train: Option<String>,
    /// What it waits for, in words; empty when it is over.
    pub waits_for: Vec<String>,
    /// All of the plan.
    pub steps: Vec<StepReport>,
    /// What is measured.
    pub analyses: Vec<AnalysisReport>,
    /// When it began, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// For how long an agent has watched it.
    pub watched_ms: u64,
    /// What has happened, the last thing last.
    pub log: Vec<LineReport>,
}

impl RolloutReport {
    /// Nothing comes any more.
    pub fn over(&self) -> bool {
        matches!(self.phase.as_str(), "promoted" | "rolled-back")
    }
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// What it does.
    pub what: String,
    /// What takes it back.
    pub rollback: String,
    /// `done`, `now` or `next`.
    pub state: String,
}

/// One analysis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnalysisReport {
    /// Name.
    pub name: String,
    /// `web`, `prometheus`, `exec` or `builtin`.
    pub provider: String,
    /// Measured and shown, but nothing follows.
    pub dry_run: bool,
    /// Successes at the present weight.
    pub proven: u32,
    /// Successes needed at each weight.
    pub count: u32,
    /// Successes in all.
    pub successes: u32,
    /// Failures.
    pub failures: u32,
    /// Failures that are tolerated.
    pub failure_limit: u32,
    /// Inconclusive ones.
    pub inconclusive: u32,
    /// Inconclusive ones that are tolerated.
    pub inconclusive_limit: u32,
    /// Errors in a row.
    pub errors_in_row: u32,
    /// Errors in a row that are tolerated.
    pub consecutive_error_limit: u32,
    /// A measurement is under way.
    pub measuring: bool,
    /// What the last one said.
    pub last: Option<String>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineReport {
    /// In milliseconds since 1970.
    pub unix_ms: u64,
    /// What.
    pub text: String,
}

/// `zdd rollout plan`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutPlan {
    /// Service.
    pub service: String,
    /// `canary` or `blue-green`.
    pub strategy: String,
    /// The version that has everything now.
    pub stable: String,
    /// The version that would have it.
    pub candidate: String,
    /// Its steps, all `next`.
    pub steps: Vec<StepReport>,
    /// `rollback` or `freeze`.
    pub on_failure: String,
    /// What keeps it from being started now.
    pub refusals: Vec<String>,
    /// The preview VIPs whose new flows go to the candidate from its start on, whatever its weight.
    #[serde(default)]
    pub preview: Vec<String>,
}

/// `zdd train`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainReport {
    /// Its name.
    pub train: String,
    /// The rollouts of its last run.
    pub rollouts: Vec<RolloutReport>,
}

/// `zdd rollout stop-the-line` and `release-the-line`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoppedLine {
    /// Why no rollout takes a step up; `None`: they do.
    pub stopped: Option<String>,
    /// Services with a rollout under way.
    pub rollouts: Vec<String>,
}

/// `zdd rollout history`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutHistory {
    /// Service.
    pub service: String,
    /// The oldest first.
    pub rollouts: Vec<PastRollout>,
}

/// A rollout that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastRollout {
    /// Number.
    pub id: u64,
    /// `canary`, `blue-green` or `undo`.
    pub kind: String,
    /// The version that had everything before.
    pub stable: String,
    /// The version that was to have it.
    pub candidate: String,
    /// `promoted`, `rolled-back` or `undone`.
    pub outcome: String,
    /// Why, where there is a why.
    pub why: Option<String>,
    /// The version that had everything afterwards.
    pub left: String,
    /// In milliseconds since 1970.
    pub started_unix_ms: u64,
    /// In milliseconds since 1970.
    pub ended_unix_ms: u64,
    /// What happened.
    pub log: Vec<LineReport>,
}

/// The steps of a plan; `at`: how far it is (`None`: not begun).
pub fn steps(spec: &RolloutSpec, stable: &str, candidate: &str, at: Option<usize>) -> Vec<StepReport> {
    let state = |place: usize| match at {
        Some(at) if place < at => "done",
        Some(at) if place == at => "now",
        _ => "next",
    };
    stages(spec)
        .into_iter()
        .enumerate()
        .map(|(place, stage)| {
            let (what, rollback) = told(stage, spec, stable, candidate);
            StepReport { what, rollback, state: state(place).to_owned() }
        })
        .collect()
}

fn lines(log: &[super::saved::Line]) -> Vec<LineReport> {
    log.iter().map(|line| LineReport { unix_ms: line.unix_ms, text: line.text.clone() }).collect()
}

/// Everything of a rollout.
pub fn report(service: &str, saved: &SavedRollout) -> RolloutReport {
    let (plan, progress) = (&saved.plan, &saved.progress);
    let measuring = |at: usize| progress.outstanding().iter().any(|(_, work)| *work == Work::Measure(at));
    let analyses = plan.spec.analyses.iter().zip(&progress.runs).enumerate().map(|(at, (spec, run))| {
        let provider = match &spec.provider {
            Provider::Web { .. } => "web",
            Provider::Prometheus { .. } => "prometheus",
            Provider::Exec { .. } => "exec",
            Provider::Builtin { .. } => "builtin",
            Provider::Compare(_) => "compare",
        };
        AnalysisReport {
            name: spec.name.clone(),
            provider: provider.to_owned(),
            dry_run: spec.dry_run,
            proven: run.proven,
            count: spec.count,
            successes: run.successes,
            failures: run.failures,
            failure_limit: spec.failure_limit,
            inconclusive: run.inconclusive,
            inconclusive_limit: spec.inconclusive_limit,
            errors_in_row: run.errors_in_row,
            consecutive_error_limit: spec.consecutive_error_limit,
            measuring: measuring(at),
            last: run.last.as_ref().map(super::runs::Outcome::told),
        }
    });
    RolloutReport {
        service: service.to_owned(),
        id: plan.id,
        revision: progress.revision,
        strategy: plan.spec.strategy.name().to_owned(),
        stable: plan.stable.clone(),
        candidate: plan.candidate.clone(),
        phase: progress.phase.name().to_owned(),
        why: progress.phase.why().map(str::to_owned),
        weight: f64::from(progress.weight) / f64::from(FULL),
        cohorts: plan.spec.cohorts().take(progress.cohorts.into()).map(str::to_owned).collect(),
        paused: progress.paused.clone(),
        gate_closed: progress.gate_closed,
        stopped: progress.stopped.clone(),
        broke_glass: progress.broke_glass.clone(),
        train: plan.spec.train.clone(),
        waits_for: waits_for(saved),
        steps: steps(&plan.spec, &plan.stable, &plan.candidate, Some(progress.stage)),
        analyses: analyses.collect(),
        started_unix_ms: saved.started_unix_ms,
        watched_ms: saved.clock_ms,
        log: lines(&saved.log),
    }
}

fn waits_for(saved: &SavedRollout) -> Vec<String> {
    let (plan, progress) = (&saved.plan, &saved.progress);
    let mut all = Vec::new();
    if progress.phase.over() {
        return all;
    }
    if let Some(paused) = &progress.paused {
        all.push(format!("`zdd rollout resume`: paused {paused}"));
    }
    if progress.broke_glass.is_none() {
        if progress.gate_closed {
            all.push("`zdd gate open`".to_owned());
        }
        all.extend(progress.stopped.iter().map(|what| format!("the end of what holds it: {what}")));
    }
    if let super::machine::Phase::Frozen(_) = progress.phase {
        all.push("`zdd rollout retry` or `abort`".to_owned());
        return all;
    }
    if let Some(why) = progress.setting.as_ref().and_then(|setting| setting.refused.as_ref()) {
        all.push(format!("its step to be possible: {why}"));
    }
    match stages(&plan.spec).get(progress.stage).copied() {
        Some(Stage::Hooks(kind)) => {
            let said = progress.hook.as_ref().and_then(|hook| hook.said.as_deref());
            all.push(format!(
                "hook {}{}",
                kind.name(),
                said.map_or(String::new(), |said| format!(" ({said})"))
            ));
        }
        Some(Stage::Pause(time)) => {
            let end = progress.entered_ms + time.as_millis() as u64;
            let left = std::time::Duration::from_secs(end.saturating_sub(saved.clock_ms).div_ceil(1_000));
            all.push(format!("{} to pass", humantime::format_duration(left)));
        }
        Some(Stage::Await) => all.push("`zdd rollout promote`".to_owned()),
        Some(Stage::Proof) => {
            let lacking = plan.spec.analyses.iter().zip(&progress.runs);
            let lacking = lacking.filter(|(spec, run)| !spec.dry_run && run.proven < spec.count);
            all.extend(lacking.map(|(spec, run)| {
                format!("analysis {}: {} of {} successes at this weight", spec.name, run.proven, spec.count)
            }));
        }
        Some(Stage::Drain) => all.push(format!("{} to be drained", plan.stable)),
        Some(stage @ Stage::Batch(..)) => {
            let (what, _) = told(stage, &plan.spec, &plan.stable, &plan.candidate);
            let refused =
                progress.batch_refused.as_ref().map_or(String::new(), |(why, _)| format!(" ({why})"));
            all.push(format!("{what}{refused}"));
        }
        Some(Stage::Together(_)) => {
            all.push(format!("the others of train {}", plan.spec.train.as_deref().unwrap_or_default()));
        }
        Some(Stage::Weight(_) | Stage::Cohort(_)) | None => {}
    }
    all
}

impl From<&Past> for PastRollout {
    fn from(past: &Past) -> Self {
        PastRollout {
            id: past.id,
            kind: past.kind.clone(),
            stable: past.stable.clone(),
            candidate: past.candidate.clone(),
            outcome: past.outcome.clone(),
            why: past.why.clone(),
            left: past.left.clone(),
            started_unix_ms: past.started_unix_ms,
            ended_unix_ms: past.ended_unix_ms,
            log: lines(&past.log),
        }
    }
}
