//! The way back: from every state, by one commit, also when the old version drains already.

use std::time::{Duration, Instant};

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

/// `ZDD_UNDOS`: how often; more of them say more of the 99th percentile, with an agent that was built for release.
#[test]
fn an_abort_is_in_force_as_soon_as_a_shift_is() -> Result<()> {
    use zdd_agent::api::client::Client;
    use zdd_agent::control::{RolloutAct, RolloutAsk};

    let times: usize = std::env::var("ZDD_UNDOS").ok().and_then(|text| text.parse().ok()).unwrap_or(50);
    let (world, _page) = with(canary("", WAITS))?;
    let load = world.load(10)?;
    let socket = world.zdd().socket().to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let ask = |act| RolloutAsk { act, revision: None, reason: String::new(), break_glass: false };
    let (mut took, mut shifts): (Vec<Duration>, Vec<Duration>) = runtime.block_on(async {
        let mut client = Client::connect(&socket).await.expect("the agent answers");
        let mut took = Vec::new();
        for _ in 0..times {
            let start = ask(RolloutAct::Start { version: "v2".to_owned(), replace: Vec::new() });
            let report = client.rollout("web", start).await.expect("started");
            assert_eq!((report.weight, report.phase.as_str()), (0.1, "running"));
            let since = Instant::now();
            let report = client.rollout("web", ask(RolloutAct::Abort)).await.expect("aborted");
            took.push(since.elapsed());
            assert_eq!((report.weight, report.phase.as_str()), (0.0, "rolled-back"));
        }
        let mut shifts = Vec::new();
        for round in 0..times as u32 {
            let since = Instant::now();
            let weights = [("v2".to_owned(), round % 2 * 1_000)];
            client.shift("web", &weights, false).await.expect("shifted");
            shifts.push(since.elapsed());
        }
        client.shift("web", &[("v2".to_owned(), 0)], false).await.expect("shifted");
        (took, shifts)
    });
    shifts.sort_unstable();
    took.sort_unstable();
    let at = |all: &[Duration], percent: usize| all[(all.len() * percent).div_ceil(100) - 1];
    println!(
        "{times} times, from the request to its answer: undo {:?} median, {:?} 99th percentile; shift {:?} median, {:?} 99th percentile",
        at(&took, 50),
        at(&took, 99),
        at(&shifts, 50),
        at(&shifts, 99)
    );
    assert!(at(&took, 50) < 4 * at(&shifts, 50), "{:?} {:?}", at(&took, 50), at(&shifts, 50));
    assert_eq!(asked(&world, "v1")?, 1.0);
    unharmed(&load.finish());
    Ok(())
}
