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
    /// This long.
    Pause(Duration),
    /// Until somebody promotes.
    Await,
    /// Until every analysis has succeeded at the present weight.
    Proof,
    /// Until the old version is drained, or the deadline has passed.
    Drain,
    /// Until the others of the train are as far: which time this is, from 0.
    Together(u16),
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
    }
    all.push(Stage::Hooks(HookKind::PostRollout));
    let contracts = spec.calls(HookKind::Contract);
    if contracts || spec.drain_deadline.is_some() || matches!(spec.strategy, Strategy::BlueGreen { .. }) {
        all.push(Stage::Drain);
    }
    if contracts {
        all.extend([Stage::Pause(spec.soak), Stage::Hooks(HookKind::Contract)]);
    }
    // A stage without hooks would only be a name.
    all.retain(|stage| !matches!(stage, Stage::Hooks(kind) if !spec.calls(*kind)));
    if spec.train.is_some() { together(all) } else { all }
}

/// The same line with a meeting of the train before each weight, and one before what cannot be taken back.
fn together(line: Vec<Stage>) -> Vec<Stage> {
    let last = line.iter().rposition(|stage| matches!(stage, Stage::Weight(_) | Stage::Proof));
    let (mut all, mut times) = (Vec::new(), 0);
    for (at, stage) in line.into_iter().enumerate() {
        if matches!(stage, Stage::Weight(_)) {
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
    let mut weight = 0;
    let whole = [Step::Weight(FULL)];
    let ends_full = steps.contains(&Step::Weight(FULL));
    for step in steps.iter().chain(whole.iter().take(usize::from(!ends_full))) {
        match step {
            Step::Weight(next) => {
                if weight > 0 {
                    all.push(Stage::Proof);
                }
                if *next == FULL {
                    promotion(all);
                } else {
                    all.extend([Stage::Hooks(HookKind::Rollout), Stage::Weight(*next)]);
                }
                weight = *next;
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

/// A stage in words, and what takes it back.
pub fn told(stage: Stage, spec: &RolloutSpec, stable: &str, candidate: &str) -> (String, String) {
    let back = |text: &str| text.to_owned();
    let all_back = format!("all new flows to {stable}; live ones stay where they are");
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
        Stage::Together(_) => {
            let train = spec.train.as_deref().unwrap_or_default();
            (format!("wait for all of train {train}"), all_back)
        }
        Stage::Hooks(kind) => (format!("call {}", kind.name()), back("nothing to take back")),
        Stage::Weight(weight) => (format!("{} of new flows to {candidate}", percent(weight)), all_back),
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
