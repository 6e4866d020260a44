//! The agent is killed at any moment of a rollout.

use std::time::{Duration, Instant};

use serde_json::Value;
use zdd_tests::rig::{Result, wait_for};
use zdd_tests::traffic::{Slope, flipped_back};
use zdd_tests::world::{PATIENCE, World, as_before, unharmed};

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

/// splitmix64.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

pub fn number(name: &str, without: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(without)
}

pub fn pass(time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    wait_for("the moment", PATIENCE, Duration::from_millis(1), || Ok((Instant::now() >= until).then_some(())))
}

/// An agent that does not live to be ready.
pub fn stillborn(world: &World, after: Duration) -> Result<()> {
    let mut command = world.zdd().command(&["agent", "--config"]);
    command.arg(world.config());
    let agent = world.rig.ns("lb").spawn_logged(command, &world.agent_log())?;
    pass(after)?;
    agent.kill();
    Ok(())
}

/// `ZDD_KILLS`: how often it is killed; `ZDD_SEED`: at which moments.
#[test]
fn killed_at_any_moment_it_goes_on_and_the_weights_never_jump() -> Result<()> {
    let kills = number("ZDD_KILLS", 12);
    let seed = number("ZDD_SEED", zdd_agent::chance::random() >> 32);
    println!("ZDD_SEED={seed}");
    let mut dice = Dice(seed);
    let steps: Vec<String> =
        (1..10).map(|i| format!("{{ weight = {} }}, {{ pause = \"200ms\" }}", i * 10)).collect();
    let (mut world, _page) = with(canary("", &steps.join(", ")))?;
    let load = world.load(20)?;
    let mut began_us = load.now_us();
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    let (mut seen, mut ended, mut early) = (0.0, 0, 0);
    let mut slopes = Vec::new();
    let mut kill = 0;
    while kill < kills {
        pass(Duration::from_millis(dice.below(700)))?;
        world.kill_agent();
        kill += 1;
        // Every fourth of them is not even ready.
        if kill < kills && dice.below(4) == 0 {
            stillborn(&world, Duration::from_millis(dice.below(300)))?;
            kill += 1;
            early += 1;
        }
        world.start_agent()?;
        let weight = asked(&world, "v2")?;
        let tenths = weight * 10.0;
        assert!((tenths - tenths.round()).abs() < 1e-9, "{weight} is not in the plan");
        assert!(weight >= seen, "from {seen} back to {weight}");
        seen = weight;
        let report = rollout(&world)?;
        assert!(report["paused"].is_null(), "{report:#}");
        if report["phase"] == "promoted" && kill < kills {
            // The same once more.
            whole(&report);
            ended += 2;
            slopes.push(Slope { from_us: began_us, to_us: load.now_us(), falling: 0 });
            world.zdd().run(&["rollout", "undo", "web"])?;
            began_us = load.now_us();
            world.zdd().run(&["rollout", "start", "web", "v2"])?;
            seen = 0.0;
        }
    }
    let report =
        wait_rollout(&world, "the end", |r| r["phase"] == "promoted" || r["phase"] == "rolled-back")?;
    whole(&report);
    slopes.push(Slope { from_us: began_us, to_us: load.now_us(), falling: 0 });
    let history = world.zdd().json(&["rollout", "history", "web"])?;
    assert_eq!(history["rollouts"].as_array().map(Vec::len), Some((ended + 1).min(20)));
    as_before(&load)?;
    let ledger = load.finish();
    unharmed(&ledger);
    // Nor do the clients see a weight that jumps: while it only rises, nobody who has met v2 meets v1 again.
    let back: usize = slopes.iter().map(|slope| flipped_back(&ledger.shorts, *slope).len()).sum();
    assert_eq!(back, 0, "connections that fell back to v1");
    println!(
        "{kills} kills, {early} of them before it was ready, in {} rollouts; {} connections, {back} of them back on v1",
        slopes.len(),
        ledger.counts.short_total
    );
    Ok(())
}
