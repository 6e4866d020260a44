//! `zdd top` on a real terminal: a pseudo-terminal, and an emulator that reads what is drawn. Needs root.

use std::num::NonZero;

use zdd_tests::rig::{Error, Result, wait_for};
use zdd_tests::terminal::{COLUMNS, ROWS, Top};
use zdd_tests::world::status::{number, version};
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World, as_before, unharmed};

fn share(world: &World, name: &str) -> Result<f64> {
    Ok(number(version(&world.status()?, "web", name), "share"))
}

#[test]
fn a_shift_and_a_rollback_are_made_on_the_screen_and_seen_there() -> Result<()> {
    let world = World::running(Setup { idle_ms: 60_000, ..Setup::default() })?;
    let load = world.load(10)?;
    let mut top = Top::start(&world);
    let first = top.shows("the first screen", &["web", "echo", "v2", "2/2", "connected", "q quit"])?;
    assert!(first.contains("100.00%") && top.screen.screen().alternate_screen(), "{first}");
    // Down twice: web, v1, v2. Letters, as a terminal sends arrows in two dialects.
    top.press("jjs25\r");
    top.shows("the question", &["zdd shift web v2=25%", "25.00% of new clients", "y does it"])?;
    assert_eq!(share(&world, "v2")?, 0.0, "not before it is confirmed");
    top.press("y");
    top.shows("the shift", &["done: zdd shift web v2=25%", "75.00%", "25.00%", "cells not settled"])?;
    assert!((share(&world, "v2")? - 0.25).abs() < 0.001);
    top.press("r");
    top.shows("the question", &["zdd rollback web", "25.00% of new clients"])?;
    top.press("n");
    top.shows("the refusal", &["not done: zdd rollback web"])?;
    assert!((share(&world, "v2")? - 0.25).abs() < 0.001, "n does nothing");
    top.press("r");
    top.shows("the question again", &["25.00% of new clients", "y does it"])?;
    top.press("y");
    top.shows("the rollback", &["done: zdd rollback web"])?;
    assert_eq!(share(&world, "v2")?, 0.0);
    as_before(&load)?;
    unharmed(&load.finish());
    top.press("q");
    assert!(top.ends()?.success());
    Ok(())
}

#[test]
fn an_agent_that_restarts_is_found_again_and_failures_are_told() -> Result<()> {
    let mut world = World::running(Setup::default())?;
    let mut top = Top::start(&world);
    top.shows("the first screen", &["connected"])?;
    world.set_health(&[4], false)?;
    top.shows("the failed backend", &["1/2 10.81.4.2:8080: "])?;
    world.kill_agent();
    top.shows("the loss", &["NO AGENT, reconnecting"])?;
    world.start_agent()?;
    top.shows("the agent", &["connected"])?;
    top.signal(libc::SIGTERM);
    assert!(top.ends()?.success());
    Ok(())
}

#[test]
fn without_a_terminal_or_an_agent_it_says_so() -> Result<()> {
    let mut world = World::running(Setup::default())?;
    world.refused(&["top"])?.says(1, &["needs a terminal", "help: use `zdd status --watch`"]);
    world.kill_agent();
    let mut top = Top::start(&world);
    top.shows("the complaint", &["no agent answers on", "help: start one"])?;
    assert_eq!(top.ends()?.code(), Some(4));
    Ok(())
}

const fn size(rows: u16, columns: u16) -> (NonZero<u16>, NonZero<u16>) {
    (NonZero::new(rows).expect("not 0"), NonZero::new(columns).expect("not 0"))
}

#[test]
fn any_size_of_the_terminal_will_do_and_it_may_change_at_any_time() -> Result<()> {
    let mut world = World::running(Setup::default())?;
    let mut top = Top::start_as(&world, "xterm-256color", size(5, 20));
    top.shows("the smallest screen", &["> web", "v1", "100.00%"])?;
    for (rows, columns) in [size(60, 300), size(1, 1), size(300, 20), size(2, 400)] {
        top.resize(rows, columns);
        // In a single cell there is nothing to be seen.
        wait_for("it to draw", PATIENCE, LOOK_EVERY, || {
            assert!(top.child.try_wait().expect("a child").is_none(), "it ended: {}", top.shown());
            Ok::<_, Error>((columns.get() == 1 || !top.shown().trim().is_empty()).then_some(()))
        })?;
    }
    // While there is no agent, too.
    world.kill_agent();
    let (rows, columns) = size(30, 130);
    top.resize(rows, columns);
    top.shows("the loss", &["NO AGENT, reconnecting", "OBSERVED", "q quit"])?;
    let (rows, columns) = size(14, 90);
    top.resize(rows, columns);
    world.start_agent()?;
    top.shows("the agent", &["connected", "> web", "q quit"])?;
    top.press("q");
    assert!(top.ends()?.success());
    Ok(())
}

#[test]
fn the_rollout_of_the_chosen_service_is_shown_with_its_handshakes() -> Result<()> {
    let rollout = "[service.rollout]\nstrategy = \"canary\"\nsteps = [{ weight = 25 }, { pause = \"until-promoted\" }]\n";
    let world = World::running(Setup {
        rollout: Some(rollout.to_owned()),
        idle_ms: 60_000,
        affinity: "flow",
        ..Setup::default()
    })?;
    let load = world.load(10)?;
    let mut top = Top::start(&world);
    top.shows("handshakes of both versions", &["web/v1  handshake", "web/v2  handshake", " ms "])?;
    assert!(!top.shown().contains("ROLLOUT"), "there is none yet");
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    top.shows(
        "the rollout",
        &["ROLLOUT 1 of web: v1 -> v2, canary, running at 25.00%", "done", "NOW", "waits for", "next"],
    )?;
    // It is the chosen service's: echo has none.
    top.press("jjj");
    let gone = wait_for("it to go", PATIENCE, LOOK_EVERY, || {
        let shown = top.shown();
        Ok::<_, Error>((shown.contains("> echo") && !shown.contains("ROLLOUT")).then_some(shown))
    })?;
    assert!(!gone.contains("handshake"), "{gone}");
    top.press("k");
    top.shows("it to come back", &["ROLLOUT 1 of web"])?;
    world.zdd().run(&["rollout", "abort", "web"])?;
    top.shows("the end", &["rolled-back at 0.00%"])?;
    unharmed(&load.finish());
    top.press("q");
    assert!(top.ends()?.success());
    Ok(())
}

#[test]
fn a_terminal_that_cannot_draw_is_told_what_to_use() -> Result<()> {
    let world = World::running_unchecked(Setup::default())?;
    let mut top = Top::start_as(&world, "dumb", (ROWS, COLUMNS));
    let said = top.shows("the complaint", &["type dumb", "help: use `zdd status --watch`"])?;
    assert!(!top.screen.screen().alternate_screen(), "{said}");
    assert_eq!(top.ends()?.code(), Some(1));
    Ok(())
}
