//! A rollout as a straight line of stages: what the strategies differ in is decided here, once, and the machine only walks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::spec::{HookKind, RolloutSpec, Step, Strategy};
use crate::desired::{BasisPoints, FULL};
use crate::text::percent;

/// One thing after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// The hooks of this kind, one after the other.
    Hooks(HookKind),
    /// The candidate gets this share of new flows.
    Weight(BasisPoints),
    /// The first so many of the plan's cohorts get the candidate.
    Cohort(u16),
    /// This long.
    Pause(Duration),
    /// Until somebody promotes.
    Await,
    /// Until every analysis has succeeded at the present weight.
    Proof,
    /// Until the old version is drained, or the deadline has passed.
    Drain,
    /// Rolling: this is done with the batch of this number.
    Batch(BatchStep, u16),
    /// Until the others of the train are as far: which time this is, from 0.
    Together(u16),
}

/// What is done with a batch of backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BatchStep {
    /// The new addresses are made known; they take no flows yet.
    Enter,
    /// The backends take no new flows, until they are drained or the deadline has passed.
    Out,
    /// Until they have been healthy for `min_ready`.
    Ready,
    /// They take flows; where they replace others, those take none any more.
    In,
}

impl Stage {
    /// Whether the candidate gets more of the new flows by it.
    pub fn raises(self) -> bool {
        matches!(self, Stage::Weight(_) | Stage::Cohort(_))
    }
}

/// The batch that a stage of a rolling rollout belongs to: the latest that was begun.
pub fn batch_at(stages: &[Stage], stage: usize) -> Option<u16> {
    let begun = stages.iter().take(stage + 1).rev();
    let batch = |stage: &Stage| if let Stage::Batch(_, number) = stage { Some(*number) } else { None };
    begun.filter_map(batch).next()
}

/// The stages of a rollout.
pub fn stages(spec: &RolloutSpec) -> Vec<Stage> {
    let mut all =
        [HookKind::ConfirmRollout, HookKind::PreRollout, HookKind::Expand].map(Stage::Hooks).to_vec();
    match &spec.strategy {
        Strategy::Canary { steps } => canary(steps, &mut all),
        Strategy::BlueGreen { auto_promote, bake } => {
            all.push(Stage::Proof);
            if !auto_promote {
                all.push(Stage::Await);
            }
            promotion(&mut all);
            all.extend([Stage::Pause(*bake), Stage::Proof]);
        }
        Strategy::Rolling { batches, .. } => {
            for (number, batch) in (0..).zip(batches) {
                let step = |step| Stage::Batch(step, number);
                let [enter, out, ready, enters] =
                    [BatchStep::Enter, BatchStep::Out, BatchStep::Ready, BatchStep::In].map(step);
                if batch.iter().any(|unit| unit.new.is_some()) {
                    all.extend([enter, ready, enters, out]);
                } else {
                    all.extend([out, Stage::Hooks(HookKind::Restart), ready, enters]);
                }
                all.push(Stage::Proof);
            }
        }
    }
    all.push(Stage::Hooks(HookKind::PostRollout));
    let contracts = spec.calls(HookKind::Contract);
    let rolling = matches!(spec.strategy, Strategy::Rolling { .. });
    if contracts
        || spec.drain_deadline.is_some() && !rolling
        || matches!(spec.strategy, Strategy::BlueGreen { .. })
    {
        all.push(Stage::Drain);
    }
    if contracts {
        all.extend([Stage::Pause(spec.soak), Stage::Hooks(HookKind::Contract)]);
    }
    // A stage without hooks would only be a name.
    all.retain(|stage| !matches!(stage, Stage::Hooks(kind) if !spec.calls(*kind)));
    if spec.train.is_some() { together(all) } else { all }
}

/// The same line with a meeting of the train before each weight and each cohort, and one before what cannot be taken back.
fn together(line: Vec<Stage>) -> Vec<Stage> {
    let last = line.iter().rposition(|stage| stage.raises() || *stage == Stage::Proof);
    let (mut all, mut times) = (Vec::new(), 0);
    for (at, stage) in line.into_iter().enumerate() {
        if stage.raises() {
            all.push(Stage::Together(times));
            times += 1;
        }
        all.push(stage);
        if Some(at) == last {
            all.push(Stage::Together(times));
        }
    }
    all
}

fn canary(steps: &[Step], all: &mut Vec<Stage>) {
    let (mut weight, mut cohorts) = (0, 0);
    let whole = [Step::Weight(FULL)];
    let ends_full = steps.contains(&Step::Weight(FULL));
    for step in steps.iter().chain(whole.iter().take(usize::from(!ends_full))) {
        match step {
            Step::Weight(next) => {
                if weight > 0 || cohorts > 0 {
                    all.push(Stage::Proof);
                }
                if *next == FULL {
                    promotion(all);
                } else {
                    all.extend([Stage::Hooks(HookKind::Rollout), Stage::Weight(*next)]);
                }
                weight = *next;
            }
            Step::Cohort(_) => {
                if cohorts > 0 {
                    all.push(Stage::Proof);
                }
                cohorts += 1;
                all.extend([Stage::Hooks(HookKind::Rollout), Stage::Cohort(cohorts)]);
            }
            Step::Pause(time) => all.push(Stage::Pause(*time)),
            Step::PauseUntilPromoted => all.push(Stage::Await),
        }
    }
    if ends_full {
        all.push(Stage::Proof);
    }
}

fn promotion(all: &mut Vec<Stage>) {
    all.extend([
        Stage::Hooks(HookKind::ConfirmPromotion),
        Stage::Hooks(HookKind::Rollout),
        Stage::Weight(FULL),
    ]);
}

/// The name of the cohort that a stage is about.
pub fn cohort_at(spec: &RolloutSpec, number: u16) -> &str {
    spec.cohorts().nth(usize::from(number).saturating_sub(1)).unwrap_or_default()
}

fn told_batch(step: BatchStep, spec: &RolloutSpec, number: u16) -> (String, String) {
    let batch = spec.batch(number);
    let replaced = batch.iter().any(|unit| unit.new.is_some());
    let olds = batch.iter().map(|unit| unit.old.to_string()).collect::<Vec<_>>().join(", ");
    let news: Vec<String> = batch.iter().map(|unit| unit.new.unwrap_or(unit.old).to_string()).collect();
    let news = news.join(", ");
    let back = if replaced {
        format!("{olds} take flows, {news} drain and go")
    } else {
        format!("{olds} take flows again")
    };
    let ready = match &spec.strategy {
        Strategy::Rolling { min_ready, .. } => humantime::format_duration(*min_ready).to_string(),
        Strategy::Canary { .. } | Strategy::BlueGreen { .. } => String::new(),
    };
    let what = match step {
        BatchStep::Enter => format!("make {news} known, without flows"),
        BatchStep::Out => format!("drain {olds}"),
        BatchStep::Ready => format!("{news} healthy for {ready}"),
        BatchStep::In if replaced => format!("{news} take the flows of {olds}"),
        BatchStep::In => format!("{olds} take flows again"),
    };
    (what, back)
}

/// A stage in words, and what takes it back.
pub fn told(stage: Stage, spec: &RolloutSpec, stable: &str, candidate: &str) -> (String, String) {
    let back = |text: &str| text.to_owned();
    let all_back = match spec.strategy {
        Strategy::Rolling { .. } => "the present batch is taken back; those before it stay done".to_owned(),
        Strategy::Canary { .. } | Strategy::BlueGreen { .. } => {
            format!("all new flows to {stable}; live ones stay where they are")
        }
    };
    match stage {
        Stage::Hooks(kind) if kind.confirms() => {
            (format!("ask {} until it agrees", kind.name()), back("nothing to take back"))
        }
        Stage::Hooks(HookKind::Expand) => (
            back("call expand: the database takes in what the new version needs"),
            back("nothing: both versions can live with it"),
        ),
        Stage::Hooks(HookKind::Contract) => (
            format!("call contract: the database lets go of what only {stable} needs"),
            back("none: it cannot be taken back"),
        ),
        Stage::Batch(step, number) => told_batch(step, spec, number),
        Stage::Together(_) => {
            let train = spec.train.as_deref().unwrap_or_default();
            (format!("wait for all of train {train}"), all_back)
        }
        Stage::Hooks(kind) => (format!("call {}", kind.name()), back("nothing to take back")),
        Stage::Weight(weight) => (format!("{} of new flows to {candidate}", percent(weight)), all_back),
        Stage::Cohort(number) => {
            let name = cohort_at(spec, number);
            let back = format!("new flows of cohort {name} to {stable}; live ones stay where they are");
            (format!("new flows of cohort {name} to {candidate}, whatever its weight"), back)
        }
        Stage::Pause(time) => (format!("wait {}", humantime::format_duration(time)), all_back),
        Stage::Await => (back("wait for `zdd rollout promote`"), all_back),
        Stage::Proof => {
            let needed: Vec<String> = spec
                .analyses
                .iter()
                .filter(|analysis| !analysis.dry_run)
                .map(|analysis| format!("{} x{}", analysis.name, analysis.count))
                .collect();
            let what = if needed.is_empty() { "none".to_owned() } else { needed.join(", ") };
            (format!("analyses succeed: {what}"), all_back)
        }
        Stage::Drain => {
            let deadline = spec
                .drain_deadline
                .map_or(String::new(), |d| format!(", for {} at the most", humantime::format_duration(d)));
            (format!("drain {stable}{deadline}"), format!("end the drain and give {stable} all new flows"))
        }
    }
}
