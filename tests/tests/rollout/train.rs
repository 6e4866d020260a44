//! Release trains: services that go up together, or not at all.

use std::time::Duration;

use serde_json::Value;
use zdd_tests::rig::{Result, wait_for};
use zdd_tests::world::status::{number, version};
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World, as_before, unharmed};

use crate::kills::{Dice, number as setting, pass, stillborn};
use crate::page::Page;
use crate::{BAD, GOOD, analyses};

/// The first step waits for people: a test that looks at it may be as slow as the machine. With pauses of milliseconds a busy one misses it.
const STEPS: &str = "{ weight = 10 }, { pause = \"until-promoted\" }, { weight = 50 }, { pause = \"300ms\" }";

/// `web` is judged by the page, `echo` by its own backends' health; both are part of train `spring`.
fn world(steps: &str) -> Result<(World, Page)> {
    let rollout = format!(
        "[service.rollout]\nstrategy = \"canary\"\nsteps = [{steps}]\ntrain = \"spring\"\n{}",
        analyses()
    );
    let setup = Setup { rollout: Some(rollout), ..Setup::default() };
    let mut world = World::new(setup)?;
    let text = std::fs::read_to_string(world.config()).expect("the configuration was written");
    let mine = format!(
        "[service.rollout]\nstrategy = \"canary\"\nsteps = [{steps}]\ntrain = \"spring\"\n\
         [[service.rollout.analysis]]\nname = \"health\"\ninterval = \"200ms\"\ninconclusive_limit = 0\n\
         builtin = {{ metric = \"healthy-share\", success = \">= 1\" }}\n"
    );
    let at = text.find("name = \"echo\"").expect("there is echo");
    let (web, echo) = text.split_at(at);
    let echo = echo.replacen("[[service.version]]", &format!("{mine}[[service.version]]"), 1);
    world.write("zdd.toml", &format!("{web}{echo}"))?;
    world.start_agent()?;
    world.wait_healthy()?;
    let page = Page::start(&world.rig, GOOD)?;
    Ok((world, page))
}

fn shares(world: &World) -> Result<[f64; 2]> {
    let status = world.status()?;
    Ok(["web", "echo"].map(|name| number(version(&status, name, "v2"), "asked")))
}

fn phases(world: &World) -> Result<Vec<String>> {
    let train = world.zdd().json(&["train", "status", "spring"])?;
    let rollouts = train["rollouts"].as_array().cloned().unwrap_or_default();
    Ok(rollouts.iter().filter_map(|r: &Value| r["phase"].as_str().map(str::to_owned)).collect())
}

fn wait_phases(world: &World, phase: &str) -> Result<()> {
    let mut last = Vec::new();
    let found = wait_for(&format!("both to be {phase}"), PATIENCE, LOOK_EVERY, || {
        last = phases(world)?;
        Ok((last == [phase, phase]).then_some(()))
    });
    found.inspect_err(|_| eprintln!("last: {last:?}"))
}

#[test]
fn two_services_take_each_step_together_also_over_a_kill() -> Result<()> {
    let (mut world, _page) = world(STEPS)?;
    let load = world.load(10)?;
    world.refused(&["rollout", "start", "web", "v2"])?.says(1, &["part of train spring", "zdd train start"]);
    world.refused(&["train", "start", "spring", "web=v2"])?.says(1, &["has service echo too"]);
    let twice = ["train", "start", "spring", "web=v2", "echo=v2", "web=v1"];
    world.refused(&twice)?.says(1, &["web is named twice", "one version for each service"]);
    world.refused(&["train", "start", "autumn", "web=v2"])?.says(1, &["there is no train `autumn`"]);
    let glass = ["rollout", "start", "web", "v2", "--break-glass", "--reason", "  "];
    world.refused(&glass)?.says(1, &["breaking the glass needs a reason"]);
    world.zdd().run(&["train", "start", "spring", "web=v2", "echo=v2", "--reason", "spring"])?;
    wait_for("the first step", PATIENCE, LOOK_EVERY, || Ok((shares(&world)? == [0.1, 0.1]).then_some(())))?;
    world.kill_agent();
    world.start_agent()?;
    // One that waits holds the other.
    world.zdd().run(&["rollout", "promote", "web"])?;
    wait_for("web to wait for the train", PATIENCE, LOOK_EVERY, || {
        let web = world.zdd().json(&["rollout", "status", "web"])?;
        Ok(web["waits_for"].to_string().contains("train").then_some(()))
    })?;
    assert_eq!(shares(&world)?, [0.1, 0.1]);
    let (waited, _) = world.zdd().json_any(&["train", "status", "spring", "--wait", "--timeout", "300ms"])?;
    assert_eq!(waited.code(), Some(3), "nobody promotes echo");
    world.zdd().run(&["rollout", "promote", "echo"])?;
    let mut apart = Vec::new();
    wait_for("the end", PATIENCE, LOOK_EVERY, || {
        let [web, echo] = shares(&world)?;
        // The status may be asked between the two of one step, but never a step later.
        if web != echo && web.min(echo) != 0.1 && web.min(echo) != 0.5 {
            apart.push((web, echo));
        }
        Ok((phases(&world)? == ["promoted", "promoted"]).then_some(()))
    })?;
    assert_eq!((apart, shares(&world)?), (vec![], [1.0, 1.0]));
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn one_that_fails_takes_all_back() -> Result<()> {
    let (world, page) = world(STEPS)?;
    let load = world.load(10)?;
    world.zdd().run(&["train", "start", "spring", "web=v2", "echo=v2"])?;
    wait_for("the first step", PATIENCE, LOOK_EVERY, || Ok((shares(&world)? == [0.1, 0.1]).then_some(())))?;
    page.says(BAD);
    wait_phases(&world, "rolled-back")?;
    assert_eq!(shares(&world)?, [0.0, 0.0]);
    let echo = world.zdd().json(&["rollout", "status", "echo"])?;
    let why = echo["why"].as_str().unwrap_or_default();
    assert!(why.contains("train spring: web has gone back: analysis errors"), "{why}");
    let (waited, _) = world.zdd().json_any(&["train", "status", "spring", "--wait"])?;
    assert_eq!(waited.code(), Some(5));
    // And by hand.
    page.says(GOOD);
    world.zdd().run(&["train", "start", "spring", "web=v2", "echo=v2"])?;
    wait_for("the first step", PATIENCE, LOOK_EVERY, || Ok((shares(&world)? == [0.1, 0.1]).then_some(())))?;
    world.zdd().run(&["train", "abort", "spring", "--reason", "enough"])?;
    assert_eq!((phases(&world)?, shares(&world)?), (vec!["rolled-back".to_owned(); 2], [0.0, 0.0]));
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

/// `ZDD_KILLS`: how often the agent is killed; `ZDD_SEED`: at which moments.
#[test]
fn killed_at_any_moment_a_train_stays_together_and_never_goes_back() -> Result<()> {
    let (kills, seed) = (setting("ZDD_KILLS", 5), setting("ZDD_SEED", zdd_agent::chance::random() >> 32));
    println!("ZDD_SEED={seed}");
    let mut dice = Dice(seed);
    let weights = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0];
    let steps: Vec<String> =
        (1..5).map(|i| format!("{{ weight = {} }}, {{ pause = \"200ms\" }}", i * 20)).collect();
    let (mut world, _page) = world(&steps.join(", "))?;
    let load = world.load(10)?;
    world.zdd().run(&["train", "start", "spring", "web=v2", "echo=v2"])?;
    let (mut before, mut runs) = ([0, 0], 1);
    for kill in 0..kills {
        pass(Duration::from_millis(dice.below(900)))?;
        world.kill_agent();
        if dice.below(3) == 0 {
            stillborn(&world, Duration::from_millis(dice.below(300)))?;
        }
        world.start_agent()?;
        let shares = shares(&world)?;
        let at = shares.map(|share| weights.iter().position(|weight| *weight == share));
        let [Some(web), Some(echo)] = at else { panic!("{shares:?} are not in the plan") };
        assert!(web.abs_diff(echo) <= 1, "a step apart at the most: {shares:?}");
        assert!(web >= before[0] && echo >= before[1], "{shares:?} after {before:?}");
        before = [web, echo];
        if phases(&world)? == ["promoted", "promoted"] && kill + 1 < kills {
            // The same once more.
            for service in ["web", "echo"] {
                world.zdd().run(&["rollout", "undo", service])?;
            }
            world.zdd().run(&["train", "start", "spring", "web=v2", "echo=v2"])?;
            (before, runs) = ([0, 0], runs + 1);
        }
    }
    let (waited, report) =
        world.zdd().json_any(&["train", "status", "spring", "--wait", "--timeout", "60s"])?;
    assert_eq!((waited.code(), shares(&world)?), (Some(0), [1.0, 1.0]), "{report:#}");
    as_before(&load)?;
    unharmed(&load.finish());
    println!("{kills} kills in {runs} runs of the train");
    Ok(())
}
