//! The agent is killed at any moment of a rollout.

use std::time::{Duration, Instant};

use serde_json::Value;
use zdd_tests::rig::{Result, wait_for};
use zdd_tests::world::{PATIENCE, as_before, unharmed};

use crate::{asked, canary, lines, rollout, wait_rollout, with};

/// Every weight of the plan is in what was announced, in its order.
fn whole(report: &Value) {
    assert_eq!(report["phase"], "promoted", "{report:#}");
    let mut weights: Vec<String> =
        lines(report).into_iter().filter(|line| line.starts_with("v2 has")).collect();
    weights.dedup();
    let all: Vec<String> = (1..=10).map(|i| format!("v2 has {}% of new flows", i * 10)).collect();
    assert_eq!(weights, all);
}

/// `ZDD_KILLS`: how often it is killed.
#[test]
fn killed_at_any_moment_it_goes_on_and_the_weights_never_jump() -> Result<()> {
    let kills: u64 = std::env::var("ZDD_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    let steps: Vec<String> =
        (1..10).map(|i| format!("{{ weight = {} }}, {{ pause = \"200ms\" }}", i * 10)).collect();
    let (mut world, _page) = with(canary("", &steps.join(", ")))?;
    let load = world.load(20)?;
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    let (mut seen, mut ended) = (0.0, 0);
    // Delays that are no multiples of anything in the plan, so that the kills fall on different stages.
    for kill in 0..kills {
        let until = Instant::now() + Duration::from_millis(37 + 173 * kill % 700);
        wait_for("the moment", PATIENCE, Duration::from_millis(1), || {
            Ok((Instant::now() >= until).then_some(()))
        })?;
        world.kill_agent();
        world.start_agent()?;
        let weight = asked(&world, "v2")?;
        let tenths = weight * 10.0;
        assert!((tenths - tenths.round()).abs() < 1e-9, "{weight} is not in the plan");
        assert!(weight >= seen, "from {seen} back to {weight}");
        seen = weight;
        let report = rollout(&world)?;
        assert!(report["paused"].is_null(), "{report:#}");
        if report["phase"] == "promoted" && kill + 1 < kills {
            // The same once more.
            whole(&report);
            ended += 2;
            world.zdd().run(&["rollout", "undo", "web"])?;
            world.zdd().run(&["rollout", "start", "web", "v2"])?;
            seen = 0.0;
        }
    }
    let report =
        wait_rollout(&world, "the end", |r| r["phase"] == "promoted" || r["phase"] == "rolled-back")?;
    whole(&report);
    let history = world.zdd().json(&["rollout", "history", "web"])?;
    assert_eq!(history["rollouts"].as_array().map(Vec::len), Some((ended + 1).min(20)));
    println!("{kills} kills in {} rollouts", ended / 2 + 1);
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}
