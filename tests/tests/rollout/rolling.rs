//! Rolling: backends one after the other, restarted or replaced, and nobody notices.

use serde_json::Value;
use zdd_tests::rig::{Result, wait_for};
use zdd_tests::world::status::version;
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World, as_before, unharmed};

use crate::{lines, rollout, wait_rollout};

const HEALTH: &str = "[[service.rollout.analysis]]\nname = \"health\"\ninterval = \"200ms\"\ninconclusive_limit = 0\n\
                      builtin = { metric = \"healthy-share\", success = \">= 0.5\" }\n";

/// A rolling rollout whose `restart` hook is a shell line.
pub fn rolling(more: &str, restart: &str) -> String {
    format!(
        "[service.rollout]\nstrategy = \"rolling\"\nmin_ready = \"300ms\"\ndrain_deadline = \"10m\"\n{more}\n{HEALTH}\
         [[service.rollout.hook]]\non = \"restart\"\nexec = [\"/bin/sh\", \"-c\", {restart:?}]\ntimeout = \"1m\"\n"
    )
}

/// The file to which `restart` hooks write, and the line that does it.
pub fn notes() -> (std::path::PathBuf, String) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("zdd-{}-restarts-{next}", std::process::id()));
    let line = format!("echo $ZDD_BACKENDS >> {}", path.display());
    (path, line)
}

pub fn addresses(world: &World) -> Result<Vec<String>> {
    let status = world.status()?;
    let backends = version(&status, "web", "v1")["backends"].as_array().cloned().unwrap_or_default();
    let active = backends.iter().filter(|b| b["state"] == "active");
    Ok(active.filter_map(|b| b["address"].as_str().map(str::to_owned)).collect())
}

pub fn promoted(world: &World) -> Result<Value> {
    wait_rollout(world, "the end", |r| r["phase"] == "promoted" || r["phase"] == "rolled-back")
}

#[test]
fn each_backend_is_drained_restarted_and_put_in_again_and_never_two_at_a_time() -> Result<()> {
    let (path, line) = notes();
    let setup =
        Setup { v1: vec![1, 2, 3], v2: vec![4], rollout: Some(rolling("", &line)), ..Setup::default() };
    let mut world = World::running(setup)?;
    let load = world.load(0)?;
    let plan = world.zdd().run(&["rollout", "plan", "web", "v1"])?;
    assert!(plan.contains(&format!("drain {}", world.address(1))), "{plan}");
    world.zdd().run(&["rollout", "start", "web", "v1", "--reason", "new kernel"])?;
    // Killed while the first one drains, it goes on.
    wait_rollout(&world, "a drain", |r| r["waits_for"][0].as_str().is_some_and(|w| w.starts_with("drain ")))?;
    world.kill_agent();
    world.start_agent()?;
    let fewest = std::cell::Cell::new(3);
    // Three drains, one after the other.
    let report = wait_for("the end", 5 * PATIENCE, LOOK_EVERY, || {
        fewest.set(fewest.get().min(addresses(&world)?.len()));
        let report = rollout(&world)?;
        Ok((report["phase"] != "running").then_some(report))
    })?;
    assert_eq!(report["phase"], "promoted", "{report:#}");
    assert_eq!(fewest.get(), 2, "one at a time");
    let restarted = std::fs::read_to_string(&path).unwrap_or_default();
    drop(std::fs::remove_file(&path));
    let mut restarted: Vec<&str> = restarted.lines().collect();
    // A kill may call a hook once more.
    restarted.dedup();
    let whole: Vec<String> = (1..=3).map(|i| world.address(i)).collect();
    assert_eq!(restarted, whole, "{report:#}");
    assert_eq!(addresses(&world)?.len(), 3, "all of them take flows again");
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_backend_is_replaced_by_another_one_which_is_healthy_before_the_old_one_drains() -> Result<()> {
    let (_, line) = notes();
    let setup = Setup { v2: vec![4], rollout: Some(rolling("", &line)), ..Setup::default() };
    let mut world = World::running(setup)?;
    let load = world.load(10)?;
    let pair = format!("{}={}", world.address(1), world.address(3));
    // As long as the new one is sick it gets nothing, and the old one stays.
    world.servers().set_healthy("b3", false);
    world.zdd().run(&["rollout", "start", "web", "v1", "--replace", &pair])?;
    let report = wait_rollout(&world, "time to pass", |r| r["watched_ms"].as_u64() > Some(2_500))?;
    assert!(report["waits_for"][0].as_str().is_some_and(|w| w.contains("healthy for")), "{report:#}");
    world.avoids(&load, &[3])?;
    world.servers().set_healthy("b3", true);
    world.comes_to(&load, 3)?;
    as_before(&load)?;
    world.avoids(&load, &[1])?;
    // Its last connections hold the old one.
    unharmed(&load.finish());
    let report = promoted(&world)?;
    assert_eq!(report["phase"], "promoted", "{report:#}");
    let mut left = addresses(&world)?;
    left.sort();
    assert_eq!(left, [world.address(2), world.address(3)]);
    world.wait_healthy()?;
    Ok(())
}

#[test]
fn a_batch_that_does_not_come_back_is_the_last_and_is_taken_back() -> Result<()> {
    let (path, line) = notes();
    let more = "progress_deadline = \"6s\"\nmax_unavailable = 1";
    let setup = Setup {
        v1: vec![1, 2, 3],
        v2: vec![4],
        rollout: Some(rolling(more, &format!("{line}; exit 3"))),
        ..Setup::default()
    };
    let mut world = World::running(setup)?;
    world.zdd().run(&["rollout", "start", "web", "v1"])?;
    let report = promoted(&world)?;
    assert_eq!(report["phase"], "rolled-back", "{report:#}");
    assert!(
        report["why"].as_str().is_some_and(|why| why.contains("restart hook failed: exit 3")),
        "{report:#}"
    );
    assert_eq!(addresses(&world)?.len(), 3, "it takes flows again");
    let tried = std::fs::read_to_string(&path).unwrap_or_default();
    drop(std::fs::remove_file(&path));
    assert_eq!(tried.lines().count(), 1, "no other one was touched: {tried}");
    // With another one sick none may be taken out, and after the deadline that is a failure.
    world.set_health(&[2], false)?;
    world.zdd().run(&["rollout", "retry", "web"])?;
    let report = wait_rollout(&world, "the end", |r| r["phase"] == "rolled-back" && r["id"] == 2)?;
    assert!(lines(&report).iter().any(|line| line.contains("max_unavailable allows 1")), "{report:#}");
    assert!(!path.exists(), "nothing was restarted");
    assert_eq!(rollout(&world)?["phase"], "rolled-back");
    Ok(())
}

#[test]
fn a_backend_that_comes_back_gets_its_share_step_by_step() -> Result<()> {
    let share = |world: &World| -> Result<f64> {
        let mut met = world.explained("web", 100)?;
        met.retain(|met| met.contains(&world.address(1)));
        Ok(met.len() as f64 / 100.0)
    };
    let slow = "slow_start = \"20s\"\n[service.rollout]\nstrategy = \"canary\"\nsteps = [{ weight = 1 }]\n";
    let setup = Setup { rollout: Some(slow.to_owned()), ..Setup::default() };
    let mut world = World::running(setup)?;
    let before = share(&world)?;
    world.set_health(&[1], false)?;
    assert_eq!(share(&world)?, 0.0);
    world.set_health(&[1], true)?;
    let first = share(&world)?;
    assert!(first > 0.0 && first < before * 0.8, "{first} of {before} at once");
    let again = || Ok((share(&world)? == before).then_some(()));
    wait_for("its whole share", 3 * PATIENCE, LOOK_EVERY, again)
}
