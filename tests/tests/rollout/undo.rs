//! The way back: from every state, by one commit, also when the old version drains already.

use zdd_tests::rig::Result;
use zdd_tests::world::status::{number, service};
use zdd_tests::world::{Setup, World, as_before, unharmed};

use crate::page::Page;
use crate::{GOOD, WAITS, analyses, asked, canary, rollout, wait_rollout, wait_weight, with};

fn generation(world: &World) -> Result<f64> {
    Ok(number(service(&world.status()?, "web"), "generation"))
}

/// Everything is v1's again.
fn undone(world: &World) -> Result<()> {
    world.zdd().run(&["rollout", "undo", "web", "--reason", "no"])?;
    assert_eq!(asked(world, "v1")?, 1.0, "{:#}", rollout(world)?);
    Ok(())
}

#[test]
fn undo_is_one_commit_from_a_step_a_pause_and_a_gate() -> Result<()> {
    // Nothing settles meanwhile: that would be a commit of its own.
    let setup = Setup { rollout: Some(canary("", WAITS)), idle_ms: 600_000, ..Setup::default() };
    let world = World::running(setup)?;
    let _page = Page::start(&world.rig, GOOD)?;
    let load = world.load(10)?;
    for state in [&[][..], &["rollout", "pause", "web"], &["gate", "close", "web"]] {
        world.zdd().run(&["rollout", "start", "web", "v2"])?;
        wait_weight(&world, 0.1)?;
        if !state.is_empty() {
            world.zdd().run(state)?;
        }
        let before = generation(&world)?;
        undone(&world)?;
        assert_eq!(generation(&world)? - before, 1.0, "commits");
        assert_eq!(rollout(&world)?["phase"], "rolled-back");
        world.zdd().run(&["gate", "open", "web"])?;
    }
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn an_old_version_that_drains_takes_everything_back_at_once() -> Result<()> {
    let text = format!("[service.rollout]\nstrategy = \"blue-green\"\nauto_promote = true\n{}", analyses());
    let (world, _page) = with(text)?;
    let load = world.load(10)?;
    let drains =
        |r: &serde_json::Value| r["waits_for"][0].as_str().is_some_and(|w| w.contains("v1 to be drained"));
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    wait_rollout(&world, "the drain", drains)?;
    undone(&world)?;
    assert_eq!(rollout(&world)?["phase"], "rolled-back");
    world.avoids(&load, &[3, 4])?;
    as_before(&load)?;
    unharmed(&load.finish());
    // With nobody left on v1 it ends, and v1 still drains.
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    wait_rollout(&world, "the end", |r| r["phase"] == "promoted")?;
    undone(&world)?;
    Ok(())
}
