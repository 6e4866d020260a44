//! Every short sequence of events, from the start of a rollout: what can never happen does not happen in any of them.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use super::machine::*;
use super::runs::Outcome;
use super::spec::*;
use super::stages::{BatchStep, Stage, stages};
use super::windows::Windows;
use crate::desired::{BasisPoints, FULL};

const SECOND_MS: u64 = 1_000;

fn hook(on: HookKind) -> HookSpec {
    let call = HookCall::Exec { argv: vec!["true".to_owned()] };
    let second = Duration::from_secs(1);
    HookSpec { on, call, timeout: second, retries: 0, interval: second }
}

fn analysis(name: &str, dry_run: bool, when: When) -> AnalysisSpec {
    AnalysisSpec {
        name: name.to_owned(),
        when,
        interval: Duration::from_secs(1),
        initial_delay: None,
        count: 1,
        failure_limit: 0,
        inconclusive_limit: 1,
        consecutive_error_limit: 1,
        min_samples: 0,
        dry_run,
        provider: Provider::Exec { argv: vec!["true".to_owned()], timeout: Duration::from_secs(1) },
    }
}

pub(super) fn plan(strategy: Strategy, on_failure: OnFailure, hooks: &[HookKind]) -> Plan {
    let when = match strategy {
        Strategy::Canary { .. } | Strategy::Rolling { .. } => [When::Always, When::Always],
        Strategy::BlueGreen { .. } => [When::PrePromotion, When::PostPromotion],
    };
    let spec = RolloutSpec {
        strategy,
        on_failure,
        progress_deadline: Duration::from_secs(3),
        drain_deadline: None,
        analyses: vec![analysis("a", false, when[0]), analysis("b", when[1] == When::Always, when[1])],
        hooks: hooks.iter().map(|kind| hook(*kind)).collect(),
        freeze: Windows::default(),
        soak: Duration::from_secs(1),
        train: None,
    };
    Plan { id: 1, spec, stable: "v1".to_owned(), candidate: "v2".to_owned(), train_run: 0 }
}

pub(super) fn canary() -> Strategy {
    let steps = vec![
        Step::Weight(100),
        Step::Pause(Duration::from_secs(1)),
        Step::Weight(1_000),
        Step::PauseUntilPromoted,
    ];
    Strategy::Canary { steps }
}

/// Two cohorts, then everybody.
pub(super) fn cohorts_first() -> Strategy {
    let cohort = |name: &str| Step::Cohort(name.to_owned());
    Strategy::Canary {
        steps: vec![cohort("staff"), cohort("beta"), Step::PauseUntilPromoted, Step::Weight(100)],
    }
}

/// Two backends, one after the other: restarted, or replaced by two others.
pub(super) fn rolling(replace: bool) -> Strategy {
    let address = |port| std::net::SocketAddr::from(([10, 1, 0, 1], port));
    let unit = |port| Unit { old: address(port), new: replace.then(|| address(port + 100)) };
    Strategy::Rolling {
        batch: Count::Number(1),
        max_unavailable: None,
        min_ready: Duration::from_secs(1),
        batches: vec![vec![unit(1)], vec![unit(2)]],
    }
}

/// A rollout and what the agent owes it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    progress: Progress,
    now: u64,
    /// A weight that is being published: nothing else happens until it is, or is refused, or the agent dies.
    publishing: Option<BasisPoints>,
    drain_asked: bool,
}

fn events(plan: &Plan, world: &World) -> Vec<Option<Event>> {
    if let Some(to) = world.publishing {
        return vec![Some(Event::WeightsSet(to)), Some(Event::Refused(to, "no".to_owned())), None];
    }
    let mut all = vec![Some(Event::Tick), None];
    for (token, work) in world.progress.outstanding() {
        match work {
            Work::Measure(_) => {
                for kind in [Outcome::Success, Outcome::Failure, Outcome::Inconclusive, Outcome::Error] {
                    all.push(Some(Event::Measured(token, kind("x".to_owned()))));
                }
            }
            Work::Call(_) => {
                all.push(Some(Event::HookDone(token, Ok(()))));
                all.push(Some(Event::HookDone(token, Err("x".to_owned()))));
            }
        }
    }
    for command in [
        Command::Pause,
        Command::Resume,
        Command::Promote { full: false },
        Command::Promote { full: true },
        Command::Abort,
        Command::Retry,
    ] {
        all.push(Some(Event::Operator(command, String::new())));
    }
    all.push(Some(Event::Operator(Command::BreakGlass, "fire".to_owned())));
    all.push(Some(Event::Gate(!world.progress.gate_closed)));
    let stopped =
        if world.progress.stopped.is_some() { None } else { Some("the line is stopped".to_owned()) };
    all.push(Some(Event::Stopped(stopped)));
    if plan.spec.train.is_some() {
        // The others never come too early: they clear what this one waits for, or that again.
        all.push(Some(Event::Cleared(world.progress.cleared)));
    }
    all.push(Some(Event::Interfered("somebody shifted".to_owned())));
    if let Some(Stage::Batch(step, number)) = stages(&plan.spec).get(world.progress.stage).copied() {
        match step {
            BatchStep::Ready => {
                all.push(Some(Event::Healthy(true)));
                all.push(Some(Event::Healthy(false)));
            }
            step => {
                all.push(Some(Event::Batch(step, number, Ok(()))));
                all.push(Some(Event::Batch(step, number, Err("too few".to_owned()))));
            }
        }
    }
    if world.drain_asked {
        all.push(Some(Event::Drained));
    }
    all
}

fn proven(plan: &Plan, progress: &Progress) -> bool {
    let from = progress.weight;
    let blue_green = matches!(plan.spec.strategy, Strategy::BlueGreen { .. });
    plan.spec.analyses.iter().zip(&progress.runs).all(|(spec, run)| {
        let matters = match spec.when {
            When::Always => progress.exposed(),
            When::PrePromotion => blue_green && from == 0,
            When::PostPromotion => blue_green && from > 0,
        };
        spec.dry_run || !matters || run.proven >= spec.count
    })
}

/// Panics when an effect is one that must not be.
fn judge(plan: &Plan, before: &Progress, after: &Progress, effects: &[Effect]) {
    let weights: Vec<BasisPoints> = stages(&plan.spec)
        .into_iter()
        .filter_map(|stage| if let Stage::Weight(weight) = stage { Some(weight) } else { None })
        .collect();
    let rolling = matches!(plan.spec.strategy, Strategy::Rolling { .. });
    for effect in effects {
        if let Effect::Batch(step, number) = effect {
            assert_eq!(after.phase, Phase::Running, "{effect:?}");
            let begins = before.stage != after.stage && *step == BatchStep::Out && *number > 0;
            let proved =
                plan.spec.analyses.iter().zip(&after.runs).all(|(s, run)| s.dry_run || run.proven >= s.count);
            assert!(!begins || proved, "batch {number} before the one before it was proved: {after:?}");
            assert!(!begins || after.paused.is_none(), "batch {number} while it is held: {after:?}");
        }
        assert!(!before.phase.over(), "{effect:?} after the end");
        let Effect::SetWeights(to) = effect else { continue };
        let cohorts = after.setting.as_ref().map_or(0, |setting| setting.cohorts);
        if matches!(after.phase, Phase::RollingBack(_)) {
            assert_eq!((*to, cohorts), (0, 0), "{after:?}");
            continue;
        }
        if (*to, cohorts) == (after.weight, after.cohorts) {
            continue;
        }
        assert_eq!(after.phase, Phase::Running, "{to} while {:?}", after.phase);
        let closed = after.broke_glass.is_none() && (after.gate_closed || after.stopped.is_some());
        assert!(after.paused.is_none() && !closed, "{to} while it is held: {after:?}");
        assert!(!after.displaced, "{to} while the weights are not ours: {after:?}");
        let raised =
            weights.iter().filter(|weight| **weight <= after.weight).count() + usize::from(after.cohorts);
        let met = plan.spec.train.is_none() || usize::from(after.cleared) > raised;
        assert!(met, "{to} before the train has met: {after:?}");
        assert!(proven(plan, after), "{to} and {cohorts} cohorts without proof: {after:?}");
        if cohorts != after.cohorts {
            assert_eq!(
                (*to, cohorts),
                (0, after.cohorts + 1),
                "one cohort after the other, before any weight: {after:?}"
            );
            continue;
        }
        let all = plan.spec.cohorts().count();
        assert!(after.full || usize::from(cohorts) == all, "{to} before the cohorts: {after:?}");
        let next = weights.iter().find(|weight| **weight > after.weight);
        assert!(next == Some(to) || (after.full && *to == FULL), "a jump from {} to {to}", after.weight);
    }
    if after.contracted && !before.contracted {
        assert!(
            after.drained && after.weight == FULL,
            "contract before the old version is drained: {after:?}"
        );
    }
    if after.phase == Phase::Promoted {
        let all = if rolling { 0 } else { FULL };
        assert_eq!((after.weight, after.displaced), (all, false), "{after:?}");
        assert_eq!(after.stage, stages(&plan.spec).len(), "{after:?}");
    }
    if matches!(after.phase, Phase::RolledBack(_)) {
        assert_eq!((after.weight, after.cohorts), (0, 0), "{after:?}");
    }
}

/// Abort, whatever else is the case, ends with everything at the stable version.
fn abort_wins(plan: &Plan, world: &World) {
    let now = world.now;
    let (progress, effects) =
        step(plan, &world.progress, Event::Operator(Command::Abort, String::new()), now).unwrap();
    // A way back that was refused comes again with the next second.
    let (progress, effects) = if effects.contains(&Effect::SetWeights(0)) {
        (progress, effects)
    } else {
        step(plan, &progress, Event::Tick, now + SECOND_MS).unwrap()
    };
    assert!(effects.contains(&Effect::SetWeights(0)), "{:?} -> {effects:?}", world.progress);
    let (progress, _) = step(plan, &progress, Event::WeightsSet(0), now).unwrap();
    assert!(matches!(progress.phase, Phase::RolledBack(_)), "{progress:?}");
}

fn search(plan: &Plan, depth: u32) -> (usize, usize, usize) {
    let apply = |progress: Progress, effects: &[Effect], now: u64, drain_asked: bool| {
        let publishing =
            effects.iter().find_map(|e| if let Effect::SetWeights(to) = e { Some(*to) } else { None });
        let drain_asked = drain_asked || effects.contains(&Effect::Drain);
        World { progress, now, publishing, drain_asked }
    };
    let (progress, effects) = begin(plan, Holds::default(), 0);
    judge(plan, &progress, &progress, &effects);
    let first = apply(progress, &effects, 0, false);
    let (mut seen, mut queue) = (HashSet::from([first.clone()]), VecDeque::from([(first, 0)]));
    let (mut promoted, mut back) = (0, 0);
    while let Some((world, deep)) = queue.pop_front() {
        promoted += usize::from(world.progress.phase == Phase::Promoted);
        back += usize::from(matches!(world.progress.phase, Phase::RolledBack(_)));
        if !world.progress.phase.over() {
            abort_wins(plan, &world);
        }
        if deep == depth {
            continue;
        }
        for event in events(plan, &world) {
            let Some(event) = event else {
                // The agent dies: a publication is done or not, answers are lost, and what was persisted is read again.
                let text = serde_json::to_string(&world.progress).unwrap();
                let progress: Progress = serde_json::from_str(&text).unwrap();
                assert_eq!(progress, world.progress);
                assert_eq!(resume(&progress).len(), progress.outstanding().len());
                let next = World { publishing: None, progress, ..world.clone() };
                if seen.insert(next.clone()) {
                    queue.push_back((next, deep + 1));
                }
                continue;
            };
            let now = world.now + if event == Event::Tick { SECOND_MS } else { 0 };
            let Ok((progress, effects)) = step(plan, &world.progress, event, now) else { continue };
            judge(plan, &world.progress, &progress, &effects);
            let next = apply(progress, &effects, now, world.drain_asked);
            if seen.insert(next.clone()) {
                queue.push_back((next, deep + 1));
            }
        }
    }
    (seen.len(), promoted, back)
}

#[test]
fn no_sequence_of_events_jumps_promotes_unproven_or_survives_an_abort() {
    let few = [HookKind::Rollout];
    let blue_green = Strategy::BlueGreen { auto_promote: true, bake: Duration::from_secs(1) };
    for (strategy, on_failure, hooks, depth) in [
        (canary(), OnFailure::Rollback, &[][..], 7),
        (canary(), OnFailure::Freeze, &few[..], 6),
        (cohorts_first(), OnFailure::Rollback, &[][..], 7),
        (cohorts_first(), OnFailure::Freeze, &[][..], 6),
        (canary(), OnFailure::Rollback, &[HookKind::ConfirmRollout, HookKind::Rollback][..], 6),
        (blue_green.clone(), OnFailure::Rollback, &[][..], 7),
        (blue_green.clone(), OnFailure::Freeze, &[HookKind::ConfirmPromotion, HookKind::PostRollout][..], 7),
        (blue_green, OnFailure::Rollback, &[HookKind::Contract][..], 7),
        (rolling(false), OnFailure::Rollback, &[HookKind::Restart][..], 7),
        (rolling(false), OnFailure::Freeze, &[][..], 7),
        (rolling(true), OnFailure::Rollback, &[][..], 7),
    ] {
        let mut plan = plan(strategy, on_failure, hooks);
        // Every other one is part of a train.
        plan.spec.train = (depth == 6).then(|| "spring".to_owned());
        let (states, promoted, back) = search(&plan, depth);
        println!(
            "{} {on_failure:?}: {states} states, {promoted} promoted, {back} rolled back",
            plan.spec.strategy.name()
        );
        assert!(states > 1_000 && back > 0, "{states} {back}");
    }
}
