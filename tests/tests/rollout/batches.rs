//! Rolling, at the edges of what may be missing at once, and how a batch comes back.

use serde_json::Value;
use zdd_tests::rig::{Error, Result, wait_for};
use zdd_tests::world::status::version;
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World, unharmed};

use crate::rolling::{addresses, notes, promoted, rolling};
use crate::wait_rollout;

fn of_three(more: &str, line: &str) -> Setup {
    Setup { v1: vec![1, 2, 3], v2: vec![4], rollout: Some(rolling(more, line)), ..Setup::default() }
}

/// Who may be missing is a bound, and `batch` says how many leave at once: a bound that nothing can reach takes nobody out.
#[test]
fn a_max_unavailable_above_the_number_of_backends_takes_no_more_out_than_a_batch() -> Result<()> {
    let (path, line) = notes();
    let mut world = World::running(of_three("max_unavailable = 9", &line))?;
    let load = world.load(0)?;
    world.zdd().run(&["rollout", "start", "web", "v1"])?;
    let fewest = std::cell::Cell::new(3);
    let report = wait_for("the end", 5 * PATIENCE, LOOK_EVERY, || {
        fewest.set(fewest.get().min(addresses(&world)?.len()));
        let report = crate::rollout(&world)?;
        Ok::<_, Error>((report["phase"] != "running").then_some(report))
    })?;
    assert_eq!((report["phase"].as_str(), fewest.get()), (Some("promoted"), 2), "{report:#}");
    let restarted = std::fs::read_to_string(&path).unwrap_or_default();
    drop(std::fs::remove_file(&path));
    assert_eq!(restarted.lines().count(), 3, "{restarted}");
    world.wait_healthy()?;
    unharmed(&load.finish());
    Ok(())
}

/// A batch of all of them at once, and `max_unavailable` at their number: the other version has everybody meanwhile.
#[test]
fn a_whole_version_may_leave_at_once_while_another_takes_its_flows() -> Result<()> {
    let (path, line) = notes();
    let world = World::running(of_three("batch = 3\nmax_unavailable = \"100%\"", &line))?;
    let load = world.load(0)?;
    world.zdd().run(&["rollout", "start", "web", "v1"])?;
    wait_rollout(&world, "a drain", |r| r["waits_for"][0].as_str().is_some_and(|w| w.starts_with("drain ")))?;
    assert_eq!(addresses(&world)?, [] as [String; 0]);
    world.comes_to(&load, 4)?;
    world.avoids(&load, &[1, 2, 3])?;
    let report = promoted(&world)?;
    assert_eq!(report["phase"], "promoted", "{report:#}");
    let restarted = std::fs::read_to_string(&path).unwrap_or_default();
    drop(std::fs::remove_file(&path));
    assert_eq!(restarted.split_whitespace().count(), 3, "in one go: {restarted}");
    assert_eq!(addresses(&world)?.len(), 3);
    world.comes_to(&load, 1)?;
    unharmed(&load.finish());
    Ok(())
}

/// When something was noted last, ms.
fn when(world: &World, text: &str) -> Result<Option<u64>> {
    let events = world.zdd().run(&["events", "--json"])?;
    let events = events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut found = events.filter(|event| event["text"].as_str().is_some_and(|told| told.contains(text)));
    Ok(found.next_back().and_then(|event| event["unix_ms"].as_u64()))
}

#[test]
fn a_restarted_backend_gets_nothing_before_it_was_healthy_for_min_ready() -> Result<()> {
    let (path, line) = notes();
    let mut setup = of_three("batch = 1", &line);
    setup.rollout = setup.rollout.map(|text| text.replace("min_ready = \"300ms\"", "min_ready = \"2s\""));
    let world = World::running(setup)?;
    let load = world.load(0)?;
    world.zdd().run(&["rollout", "start", "web", "v1"])?;
    wait_rollout(&world, "a drain", |r| r["waits_for"][0].as_str().is_some_and(|w| w.starts_with("drain ")))?;
    world.servers().set_healthy("b1", false);
    let report = wait_rollout(&world, "the gate", |r| {
        r["waits_for"][0].as_str().is_some_and(|w| w.contains("healthy for"))
    })?;
    assert!(report["waits_for"][0].as_str().is_some_and(|w| w.contains("2s")), "{report:#}");
    assert!(path.exists(), "it was restarted");
    world.avoids(&load, &[1])?;
    assert_eq!(addresses(&world)?.len(), 2);
    world.servers().set_healthy("b1", true);
    let own = format!("{} is healthy", world.address(1));
    let (well, back) = wait_for("it to be back", PATIENCE, LOOK_EVERY, || {
        let back = when(&world, "batch 1 takes flows")?;
        Ok::<_, Error>(when(&world, &own)?.zip(back))
    })?;
    assert!(back >= well + 2_000, "healthy at {well}, flows at {back}");
    drop(std::fs::remove_file(&path));
    let status = world.status()?;
    assert!(version(&status, "web", "v1")["backends"].as_array().is_some_and(|all| all.len() == 3));
    // UDP flows leave a sick backend.
    let counts = load.finish().counts;
    assert_eq!((counts.short_failed, counts.wrong_source), (0, 0), "{counts:?}");
    Ok(())
}
