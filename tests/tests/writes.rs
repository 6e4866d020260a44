//! The agent dies before any one of its writes into the kernel's tables, whatever it was about to do, and comes back: traffic does not
//! notice, and what was asked for is done. Needs root, and an agent of a debug build: only that one can be made to die so.
//!
//! `ZDD_WRITES=all cargo test -p zdd-tests --test writes` dies before every write; without it before every fifth, and of those of a start before every 29th.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;
use zdd_tests::rig::{Forward, Result, VIP, wait_for};
use zdd_tests::traffic::Load;
use zdd_tests::world::status::{number, version};
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World, as_before, unharmed};

/// More writes than any act takes; an act that takes more has lost its end.
const MANY: u32 = 400;

/// Lets agents of a world die: the file tells them how many writes they have left, and they what they died before.
struct Deaths {
    file: PathBuf,
    step: u32,
    met: BTreeMap<String, u32>,
}

impl Deaths {
    fn of(world: &mut World) -> Self {
        let file = world.rig.scratch().path("writes");
        world.environment.push(("ZDD_DIE_BEFORE_WRITE".to_owned(), file.display().to_string()));
        let all = std::env::var("ZDD_WRITES").is_ok_and(|asked| asked == "all");
        Self { file, step: if all { 1 } else { 5 }, met: BTreeMap::new() }
    }

    fn arm(&self, writes: u32) {
        std::fs::write(&self.file, writes.to_string()).expect("written");
    }

    /// What the agent died before, if it did; from now on it lives.
    fn disarm(&mut self) -> Option<String> {
        let left = std::fs::read_to_string(&self.file).expect("armed before");
        std::fs::remove_file(&self.file).expect("removed");
        let write = left.strip_prefix("died before ")?.to_owned();
        *self.met.entry(write.clone()).or_default() += 1;
        Some(write)
    }

    /// Does something again and again, with an agent that dies one write later each time, until it lives through it. A turn may have
    /// two parts, of which the second undoes the first; each is died in by itself.
    fn each(
        &mut self,
        world: &mut World,
        load: &Load,
        parts: u32,
        mut act: impl FnMut(&mut World, u32, u32) -> Result<()>,
        done: impl Fn(&Value, u32, u32) -> bool,
    ) -> Result<u32> {
        let mut deaths = 0;
        for (turn, writes) in (0u32..).zip((0..MANY).step_by(self.step as usize)) {
            let mut lived = true;
            for part in 0..parts {
                self.arm(writes);
                // An agent that dies answers nobody.
                let said = act(world, turn, part);
                let died = self.disarm();
                if died.is_some() {
                    (deaths, lived) = (deaths + 1, false);
                    world.agent_ends()?;
                    world.start_agent()?;
                } else {
                    said?;
                }
                let status = world.status()?;
                assert!(done(&status, turn, part), "turn {turn}, died before {died:?}: {status}");
                unharmed(&load.ledger());
            }
            if lived {
                return Ok(deaths);
            }
        }
        panic!("{MANY} writes are not all that one act takes");
    }
}

/// A weight that is never that of the turn before.
fn share(turn: u32) -> f64 {
    f64::from(20 + turn * 37 % 60) / 100.0
}

fn named(status: &Value) -> usize {
    status["services"].as_array().expect("a list").len()
}

/// The file, with or without a third service.
fn file(world: &World, more: bool) -> Result<()> {
    let mut text = world.setup.toml(world.rig.scratch().dir());
    if more {
        text += &world.setup.service("more", &format!("{VIP}:9000/tcp"), 9000);
    }
    world.write("zdd.toml", &text).map(drop)
}

#[test]
fn an_agent_that_dies_between_any_two_writes_is_not_missed_and_what_was_asked_is_done() -> Result<()> {
    let mut world = World::new(Setup { cells: 1024, forward: Forward::Nat, ..Setup::default() })?;
    let mut deaths = Deaths::of(&mut world);
    world.start_agent()?;
    world.wait_healthy()?;
    let load = world.load(30)?;
    let shifts = deaths.each(
        &mut world,
        &load,
        1,
        |world, turn, _| {
            let weight = format!("v2={:.0}%", share(turn) * 100.0);
            world.zdd().run(&["shift", "web", &weight]).map(drop)
        },
        |status, turn, _| (number(version(status, "web", "v2"), "asked") - share(turn)).abs() < 1e-9,
    )?;
    // A service comes and goes.
    let applied = deaths.each(
        &mut world,
        &load,
        2,
        |world, _, part| {
            file(world, part == 0)?;
            let config = world.config();
            world.zdd().run(&["apply", &config.display().to_string()]).map(drop)
        },
        |status, _, part| named(status) == if part == 0 { 3 } else { 2 },
    )?;
    // Coming back itself: that takes many writes, each sweep's among them.
    let step = deaths.step;
    deaths.step = if step == 1 { 1 } else { 29 };
    let started = deaths.each(
        &mut world,
        &load,
        1,
        |world, _, _| {
            world.kill_agent();
            world.start_agent()
        },
        |status, _, _| named(status) == 2,
    )?;
    deaths.step = step;
    // Whatever it does next by itself: settling, sweeping.
    let mut alone = 0;
    for turn in 0..3 {
        world.zdd().run(&["shift", "web", &format!("v2={}%", 5 + turn)])?;
        deaths.arm(1 + turn);
        wait_for("the agent to write something", PATIENCE, LOOK_EVERY, || {
            let left = std::fs::read_to_string(&deaths.file).expect("armed");
            Ok(left.starts_with("died").then_some(()))
        })?;
        alone += u32::from(deaths.disarm().is_some());
        world.agent_ends()?;
        world.start_agent()?;
        unharmed(&load.ledger());
    }
    as_before(&load)?;
    unharmed(&load.finish());
    let met = &deaths.met;
    println!(
        "died {shifts} times in shifts, {applied} in applies, {started} starting, {alone} by itself: {met:?}"
    );
    assert!(shifts > 0 && applied > 0 && started > 0, "{met:?}");
    for write in ["a row", "a commit", "a service", "a backend", "an end", "an end's end"] {
        assert!(deaths.step > 1 || met.contains_key(write), "never before {write}: {met:?}");
    }
    Ok(())
}
