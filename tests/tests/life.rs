//! The agent dies and comes back, under traffic that must not notice. Needs root.

use std::time::{Duration, Instant};

use zdd_tests::rig::{Forward, Result, wait_for};
use zdd_tests::traffic::Load;
use zdd_tests::world::status::{Kept, number, service, told, version};
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World, as_before, unharmed};

/// 40 long-lived connections, a shift in progress, a backend that drains.
fn in_the_middle() -> Result<(World, Load)> {
    in_the_middle_of(Setup::default())
}

fn in_the_middle_of(setup: Setup) -> Result<(World, Load)> {
    let world = World::running(setup)?;
    let load = world.load(40)?;
    let zdd = world.zdd();
    zdd.run(&["shift", "web", "v2=30%"])?;
    zdd.run(&["shift", "echo", "v2=25%"])?;
    zdd.run(&["drain", &format!("web/{}", world.address(4))])?;
    as_before(&load)?;
    Ok((world, load))
}

/// The same, and nothing is committed any more that nobody asks for: nothing settles, and what a change does a second later is done.
fn in_a_quiet_middle(forward: Forward) -> Result<(World, Load)> {
    let (world, load) = in_the_middle_of(Setup { forward, idle_ms: 600_000, ..Setup::default() })?;
    let (mut last, mut since) = (Vec::new(), Instant::now());
    wait_for("generations that stay", PATIENCE, LOOK_EVERY, || {
        let status = world.status()?;
        let now: Vec<f64> =
            ["web", "echo"].iter().map(|name| number(service(&status, name), "generation")).collect();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        Ok((since.elapsed() > Duration::from_secs(3)).then_some(()))
    })?;
    Ok((world, load))
}

#[test]
fn a_killed_agent_is_not_missed_and_comes_back_as_it_was() -> Result<()> {
    killed_and_restarted(Forward::Nat)
}

#[test]
fn a_killed_agent_is_not_missed_under_l2_either() -> Result<()> {
    killed_and_restarted(Forward::L2)
}

fn killed_and_restarted(forward: Forward) -> Result<()> {
    let (mut world, load) = in_a_quiet_middle(forward)?;
    let explained = world.explained("web", 50)?;
    let (before, repeated) = (Kept::of(&world.status()?), world.syns_repeated()?);
    world.kill_agent();
    world.refused(&["status"])?.says(4, &["error: no agent answers on", "help: start one with `zdd agent"]);
    as_before(&load)?;
    world.start_agent()?;
    let after = Kept::of(&world.status()?);
    assert_eq!(before.intent, after.intent, "weights and drains are kept");
    assert_eq!(before.generations, after.generations, "nothing is committed again");
    for (was, is) in before.counters.iter().zip(&after.counters) {
        assert!(was <= is, "a counter went back: {:?} to {:?}", before.counters, after.counters);
    }
    assert_eq!(world.explained("web", 50)?, explained);
    world.wait_healthy()?;
    as_before(&load)?;
    assert_eq!(world.explained("web", 50)?, explained, "the first probes move nobody");
    unharmed(&load.finish());
    assert_eq!(world.syns_repeated()?, repeated, "not even a SYN was lost");
    Ok(())
}

#[test]
fn an_agent_that_ends_in_order_is_not_missed_either() -> Result<()> {
    let (mut world, load) = in_a_quiet_middle(Forward::Nat)?;
    let before = Kept::of(&world.status()?);
    world.stop_agent()?;
    assert!(!world.zdd().socket().exists(), "the socket goes with the agent");
    as_before(&load)?;
    world.start_agent()?;
    let after = Kept::of(&world.status()?);
    assert_eq!((before.intent, before.generations), (after.intent, after.generations));
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_file_that_was_edited_meanwhile_is_held_against_the_intent_and_told() -> Result<()> {
    let (mut world, load) = in_the_middle()?;
    world.kill_agent();
    world.setup.v2_percent = 10;
    world.write_config()?;
    world.start_agent()?;
    let status = world.status()?;
    let asked = number(version(&status, "web", "v2"), "asked");
    let notes = told(service(&status, "web"));
    // Whichever of the two won, the other one must be named.
    let lost = if (asked - 0.3).abs() < 1e-9 {
        "10"
    } else {
        assert!((asked - 0.1).abs() < 1e-9, "neither the intent nor the file: {asked}");
        "30"
    };
    assert!(notes.contains("v2") && notes.contains(lost), "what differs is not told: {notes:?}");
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn an_unchanged_file_does_not_undo_what_was_asked_by_command() -> Result<()> {
    let (mut world, load) = in_the_middle()?;
    world.kill_agent();
    world.start_agent()?;
    let status = world.status()?;
    assert!((number(version(&status, "web", "v2"), "asked") - 0.3).abs() < 1e-9, "{status}");
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_truncated_state_is_refused_and_its_backup_heals() -> Result<()> {
    let (mut world, load) = in_the_middle()?;
    world.kill_agent();
    let state = world.rig.scratch().path("state").join("state.json");
    let whole = std::fs::read(&state).expect("the agent has saved its state");
    std::fs::write(&state, &whole[..whole.len() / 2]).expect("truncated");
    let said = world.refused_start(&world.config())?;
    let shown = state.display().to_string();
    said.says(1, &["error: ", &shown, "cannot be used", "help: restore the state before it with `cp"]);
    as_before(&load)?;
    // The way out that the message names.
    std::fs::copy(state.with_extension("json.bak"), &state).expect("there is a backup");
    world.start_agent()?;
    world.wait_healthy()?;
    as_before(&load)?;
    world.zdd().run(&["shift", "web", "v2=50%"])?;
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_state_that_has_vanished_beside_live_maps_is_no_fresh_start() -> Result<()> {
    let (mut world, load) = in_the_middle()?;
    world.kill_agent();
    std::fs::remove_dir_all(world.rig.scratch().path("state")).expect("removed");
    let said = world.refused_start(&world.config())?;
    said.says(1, &["error: ", "help: "]);
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

/// Two agents that write into one state directory would each lose what the other has promised.
#[test]
fn two_agents_do_not_share_a_state_directory() -> Result<()> {
    let world = World::running(Setup::default())?;
    let text = std::fs::read_to_string(world.config()).expect("the configuration");
    let text = text.replace("bpf/zdd\"", "bpf/zdd-2\"").replace("zdd.sock\"", "zdd-2.sock\"");
    let second = world.write("second.toml", &text)?;
    let before = std::fs::read(world.rig.scratch().path("state/state.json")).expect("the state");
    let said = world.refused_start(&second)?;
    said.says(1, &["another zdd agent uses", "/state", "help: stop it first", "agent.state_dir"]);
    assert_eq!(std::fs::read(world.rig.scratch().path("state/state.json")).expect("it"), before);
    assert!(world.status().is_ok());
    Ok(())
}

/// Whoever clears up what another agent has left does not take this one's program away.
#[test]
fn a_detach_that_names_other_pins_leaves_a_running_agent_alone() -> Result<()> {
    let mut world = World::running(Setup::default())?;
    let other = world.write(
        "other.toml",
        &std::fs::read_to_string(world.config()).expect("it").replace("/zdd\"", "/zdd-2\""),
    )?;
    let other_dir = world.pin_dir().with_file_name("zdd-2");
    let said = world.refused(&["detach", "--pin-dir", &other_dir.display().to_string()])?;
    said.says(1, &["has its maps in", "zdd-2", "nothing was detached", "--socket"]);
    world.refused(&["detach", "--config", &other.display().to_string()])?.says(1, &["nothing was detached"]);
    assert!(world.status()?["interfaces"][0]["attached"].as_bool().unwrap_or(false), "{}", world.status()?);
    // Its own, by another name for it.
    let own = world.pin_dir().join("..").join("zdd");
    world.zdd().run(&["detach", "--pin-dir", &own.display().to_string()])?;
    world.agent_ends()
}

/// What cannot change under traffic can when there is none: after a reboot somebody must serve.
#[test]
fn without_maps_a_file_is_taken_that_would_have_moved_live_connections() -> Result<()> {
    let mut world = World::running(Setup { v2_percent: 10, ..Setup::default() })?;
    world.zdd().run(&["shift", "web", "v2=30%"])?;
    world.zdd().run(&["detach"])?;
    world.agent_ends()?;
    // A backend that changed its version.
    (world.setup.v1, world.setup.v2) = (vec![1, 2, 3], vec![4]);
    world.write_config()?;
    world.start_agent()?;
    let status = world.status()?;
    let list = world.zdd().run(&["backend", "list", "web"])?;
    let moved = world.address(3);
    assert!(list.lines().any(|line| line.contains("v1 ") && line.contains(&moved)), "{list}");
    assert!(
        (number(version(&status, "web", "v2"), "asked") - 0.3).abs() < 1e-9,
        "the intent stays: {status}"
    );
    world.zdd().run(&["detach"])?;
    world.agent_ends()?;
    (world.setup.affinity, world.setup.cells) = ("flow", 8192);
    world.write_config()?;
    world.start_agent()?;
    world.wait_healthy()?;
    let status = world.status()?;
    assert_eq!(service(&status, "web")["affinity"], "flow", "{status}");
    assert!((number(version(&status, "web", "v2"), "asked") - 0.1).abs() < 1e-9, "begun anew: {status}");
    unharmed(&world.load(20)?.finish());
    Ok(())
}

/// KiB of kernel tables in the memory of a process.
fn tables(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps")).expect("a living agent");
    let (mut of_map, mut kib) = (false, 0);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Rss:") if of_map => kib += words.next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0),
            Some(first) if first.contains('-') => of_map = line.contains("bpf-map"),
            _ => {}
        }
    }
    kib
}

#[test]
fn a_flow_table_that_is_empty_again_is_not_kept_in_the_agents_memory() -> Result<()> {
    let mut world = World::running(Setup { idle_ms: 2_000, flows: 262_144, ..Setup::default() })?;
    let pid = world.status()?["pid"].as_u64().expect("a process") as u32;
    let shifted = |world: &mut World| -> Result<u64> {
        let load = world.load(10)?;
        world.zdd().run(&["shift", "web", "v2=50%"])?;
        let mapped = world.wait_status("entries", |status| {
            (number(&status["flow_table"], "established") > 0.0).then(|| tables(pid))
        })?;
        as_before(&load)?;
        unharmed(&load.finish());
        world.zdd().run(&["rollback", "web"])?;
        Ok(mapped)
    };
    let full = shifted(&mut world)?;
    world.wait_status("no entry to be left", |status| {
        (number(&status["flow_table"], "entries") == 0.0).then_some(())
    })?;
    let table = number(&world.status()?["flow_table"], "capacity") as u64 * 48 / 1024;
    wait_for("the table to be let go", PATIENCE, LOOK_EVERY, || {
        Ok::<_, zdd_tests::rig::Error>((tables(pid) + table / 2 < full).then_some(()))
    })?;
    // It comes back when it is needed, and nobody notices.
    let again = shifted(&mut world)?;
    assert!(again + table / 4 > full, "{again} KiB of {full}");
    Ok(())
}
