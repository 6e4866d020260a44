//! A wall clock that somebody sets: no step comes sooner for it, no live connection is let go, and no deadline is put off. Needs libfaketime.

use std::path::PathBuf;

use serde_json::Value;
use zdd_tests::rig::{Result, wait_for};
use zdd_tests::traffic::Load;
use zdd_tests::world::status::count;
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World, as_before, goes_on, unharmed};

use crate::page::Page;
use crate::{GOOD, asked, canary, rollout, wait_rollout};

/// Far longer than any time in these tests.
const FORWARDS: &str = "+30d";
const BACKWARDS: &str = "-30d";

/// Debian's, whatever the machine is.
fn libfaketime() -> PathBuf {
    let dirs = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut found = dirs.map(|dir| dir.path().join("faketime/libfaketime.so.1")).filter(|path| path.exists());
    found.next().expect("no libfaketime is installed: run scripts/setup.sh --tests")
}

/// Sets the clock of the world's agents by so much, from now on.
fn jumps(world: &World, by: &str) -> Result<()> {
    // Read anew at each look at the clock, so it must never be half written.
    let new = world.write("clock.new", by)?;
    std::fs::rename(new, world.rig.scratch().path("clock")).expect("in one directory");
    Ok(())
}

fn world(rollout: String) -> Result<(World, Page)> {
    let mut world = World::new(Setup { rollout: Some(rollout), ..Setup::default() })?;
    jumps(&world, "+0d")?;
    let clock = world.rig.scratch().path("clock").display().to_string();
    let faked = [
        ("LD_PRELOAD", libfaketime().display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", clock),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("FAKETIME_DISABLE_SHM", "1".to_owned()),
        ("NO_FAKE_STAT", "1".to_owned()),
    ];
    world.environment = faked.map(|(name, value)| (name.to_owned(), value)).to_vec();
    world.start_agent()?;
    world.wait_healthy()?;
    let page = Page::start(&world.rig, GOOD)?;
    Ok((world, page))
}

/// The days between the agent's clock and ours.
fn days_off(world: &World) -> Result<i64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    world.zdd().run(&["gate", "close", "echo"])?;
    world.zdd().run(&["gate", "open", "echo"])?;
    let said = world.zdd().run(&["events", "--json"])?;
    let last: Value = serde_json::from_str(said.lines().last().expect("an event")).expect("JSON");
    let off_ms = count(&last, "/unix_ms") as f64 - now.as_millis() as f64;
    Ok((off_ms / 86_400_000.0).round() as i64)
}

/// Lets the agent's loop go round some times.
fn goes_round(load: &Load) -> Result<()> {
    for _ in 0..5 {
        goes_on(load)?;
    }
    Ok(())
}

#[test]
fn a_clock_that_jumps_moves_no_step_and_lets_no_live_connection_go() -> Result<()> {
    let steps = "{ weight = 10 }, { pause = \"1h\" }, { weight = 50 }";
    let (mut world, _page) = world(canary("", steps))?;
    let load = world.load(10)?;
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    wait_rollout(&world, "proof", |r| r["analyses"][0]["proven"] != 0)?;
    for (jump, days) in [(FORWARDS, 30), (BACKWARDS, -30)] {
        jumps(&world, jump)?;
        assert_eq!(days_off(&world)?, days, "the agent's clock has jumped");
        let since = count(&rollout(&world)?, "/watched_ms");
        let report = wait_rollout(&world, "time to pass", |r| count(r, "/watched_ms") > since + 1_000)?;
        assert!(count(&report, "/watched_ms") < 600_000, "only time that was watched counts: {report:#}");
        assert_eq!((report["phase"].as_str(), asked(&world, "v2")?), (Some("running"), 0.1), "{report:#}");
    }
    world.zdd().run(&["rollout", "abort", "web"])?;
    as_before(&load)?;

    // A drain with a deadline that is far away, while the clock jumps over it, with an agent and without.
    jumps(&world, "+0d")?;
    world.zdd().run(&["shift", "web", "v2=100%"])?;
    world.zdd().run(&["drain", "web/v1", "--deadline", "1h"])?;
    jumps(&world, FORWARDS)?;
    goes_round(&load)?;
    world.kill_agent();
    jumps(&world, "+60d")?;
    world.start_agent()?;
    goes_round(&load)?;
    unharmed(&load.ledger());
    // And one whose time comes while the clock is set back.
    world.zdd().run(&["undrain", "web/v1"])?;
    world.zdd().run(&["shift", "web", "v2=100%"])?;
    world.zdd().run(&["drain", "web/v1", "--deadline", "3s"])?;
    jumps(&world, BACKWARDS)?;
    wait_for("the deadline", PATIENCE, LOOK_EVERY, || {
        let said = world.zdd().run(&["events", "--service", "web"])?;
        Ok((said.matches("a drain's deadline has passed").count() > 0).then_some(()))
    })?;
    drop(load);
    Ok(())
}
