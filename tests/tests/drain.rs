//! Drains, and backends that come and go, under traffic. Needs root.

use std::time::Instant;

use zdd_tests::rig::Result;
use zdd_tests::traffic::Load;
use zdd_tests::world::status::{backend, count, find_backend, number, version};
use zdd_tests::world::{Setup, World, as_before, goes_on, unharmed};

fn even() -> Setup {
    Setup { v2_percent: 50, ..Setup::default() }
}

fn live(load: &Load, version: usize) -> u32 {
    load.ledger().live_long[version]
}

#[test]
fn a_drain_returns_when_the_last_connection_has_gone() -> Result<()> {
    let mut world = World::running(even())?;
    let load = world.load(40)?;
    world.wait_settled("web")?;
    assert!(live(&load, 1) > 5, "v2 has connections, none of which is remembered now");
    let zdd = world.zdd();
    let (status, said) = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| zdd.json_any(&["drain", "web/v2", "--deadline", "10m", "--wait"]));
        // It takes no new ones, and those it has stay until they leave by themselves.
        world
            .wait_status("v2 to drain", |s| (version(s, "web", "v2")["draining"] == true).then_some(()))
            .and_then(|()| world.avoids(&load, &[3, 4]))
            // Settled: from now on only their entries say that they belong to v2.
            .and_then(|()| world.wait_settled("web"))
            .and_then(|()| as_before(&load))
            .expect("a draining version");
        assert!(!waiting.is_finished(), "it returned while {} were alive", live(&load, 1));
        load.hang_up(1);
        waiting.join().expect("no panic")
    })?;
    assert_eq!(status.code(), Some(0), "{said}");
    assert_eq!((&said["drained"], &said["left"]), (&true.into(), &0.into()), "{said}");
    assert_eq!(live(&load, 1), 0, "it returned too soon");
    let status = world.status()?;
    assert_eq!(number(version(&status, "web", "v2"), "share"), 0.0);
    let text = world.zdd().run(&["undrain", "web/v2"])?;
    assert!(text.contains("`zdd shift` gives it some"), "{text}");
    world.zdd().run(&["shift", "web", "v2=50%"])?;
    assert!((number(version(&world.status()?, "web", "v2"), "share") - 0.5).abs() < 0.001);
    world.comes_to(&load, 3)?;
    goes_on(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_drain_that_meets_its_deadline_says_so_and_harms_nobody_else() -> Result<()> {
    let world = World::running(even())?;
    let load = world.load(40)?;
    let before = [live(&load, 0), live(&load, 1)];
    let said = world.refused(&["drain", "web/v2", "--deadline", "1500ms", "--wait"]);
    // What was found goes to standard output; the exit code is for scripts.
    said?.says(3, &[]);
    // Those that stayed on v2 have been given up; nobody else may feel it.
    goes_on(&load)?;
    let ledger = load.finish();
    let counts = ledger.counts;
    assert!(counts.long_broken <= u64::from(before[1]), "{counts:?} {before:?}");
    assert_eq!((counts.long_moved, counts.short_failed, counts.udp_moved, counts.udp_lost), (0, 0, 0, 0));
    for incident in &ledger.incidents {
        assert!(incident.what.contains("version: 1"), "a connection of v1: {incident:?}");
    }
    Ok(())
}

#[test]
fn a_deadline_tells_how_many_were_left() -> Result<()> {
    let world = World::running(even())?;
    let load = world.load(40)?;
    let begun = Instant::now();
    let (status, said) = world.zdd().json_any(&["drain", "web/v2", "--deadline", "1s", "--wait"])?;
    let took = begun.elapsed().as_millis();
    assert_eq!(status.code(), Some(3), "{said}");
    assert_eq!(said["drained"], false, "{said}");
    let left = count(&said, "/left");
    assert!(left >= u64::from(live(&load, 1).min(1)) && left > 0, "{said}");
    assert!((1000..=took).contains(&u128::from(count(&said, "/waited_ms"))), "{said} within {took} ms");
    drop(load);
    Ok(())
}

/// The way back of a blue/green deployment: the old version drains already when somebody wants it again.
#[test]
fn a_version_that_drains_is_given_weight_again_by_rollback_and_shift() -> Result<()> {
    let world = World::running(Setup::default())?;
    let drains_at = |name: &str, share: f64| -> Result<bool> {
        let status = world.status()?;
        let version = version(&status, "web", name);
        assert!((number(version, "share") - share).abs() < 0.001, "{version}");
        Ok(version["draining"] == true)
    };
    world.zdd().run(&["shift", "web", "v2=100%"])?;
    world.zdd().run(&["drain", "web/v1"])?;
    assert!(drains_at("v1", 0.0)?);
    let told = world.zdd().run(&["who-moves", "web", "v1=100%"])?;
    assert!(!told.contains("refused"), "{told}");
    let told = world.zdd().run(&["rollback", "web"])?;
    assert!(told.contains("the drain of v1 is over"), "{told}");
    assert!(!drains_at("v1", 1.0)?, "it has everything");
    world.zdd().run(&["drain", "web/v2"])?;
    assert!(drains_at("v2", 0.0)?);
    world.zdd().run(&["shift", "web", "v2=30%"])?;
    assert!(!drains_at("v2", 0.3)?);
    // A backend that was drained by itself goes on draining, and is the reason if nobody else is left.
    world.zdd().run(&["rollback", "web"])?;
    let alone: Vec<String> = [3, 4].map(|backend| world.address(backend)).to_vec();
    for backend in &alone {
        world.zdd().run(&["drain", backend])?;
    }
    world.refused(&["shift", "web", "v2=30%"])?.says(1, &[&alone[0], "drains", "--force"]);
    assert!(!drains_at("v2", 0.0)?);
    Ok(())
}

#[test]
fn a_backend_can_be_drained_alone() -> Result<()> {
    let mut world = World::running(even())?;
    let load = world.load(40)?;
    let b3 = world.address(3);
    world.refused(&["drain", "web"])?.says(1, &["`web` is a service", "help: write one of web/v1, web/v2"]);
    world.refused(&["drain", "nothing"])?.says(1, &["no service has", "`nothing`", "help: "]);
    let text = world.zdd().run(&["drain", &b3])?;
    assert!(text.contains(&b3) && text.contains("drains"), "{text}");
    let status = world.status()?;
    assert_eq!(backend(&status, "web", &b3)["state"], "draining");
    assert!((number(version(&status, "web", "v2"), "share") - 0.5).abs() < 0.001, "the split stays");
    world.avoids(&load, &[3])?;
    world.zdd().run(&["undrain", &b3])?;
    world.comes_to(&load, 3)?;
    world.wait_status("b3 to be active", |s| (backend(s, "web", &b3)["state"] == "active").then_some(()))?;
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn backends_come_and_go_and_nobody_notices() -> Result<()> {
    let mut world = World::running(Setup { v2: vec![3], ..even() })?;
    let load = world.load(20)?;
    let b4 = world.address(4);
    world.avoids(&load, &[4])?;
    let text = world.zdd().run(&["backend", "add", "web", "v2", &b4])?;
    assert!(text.contains(&b4), "{text}");
    world.refused(&["backend", "add", "web", "v1", &b4])?.says(1, &[&b4, "web/v2", "help: "]);
    world.wait_healthy()?;
    world.comes_to(&load, 4)?;
    assert!(world.zdd().run(&["backend", "list", "web"])?.contains(&b4));
    load.open_long(40);
    as_before(&load)?;
    // Some of them live on b4; removing is draining.
    world.zdd().run(&["backend", "remove", "web", &b4])?;
    world.avoids(&load, &[4])?;
    as_before(&load)?;
    let status = world.status()?;
    assert_ne!(backend(&status, "web", &b4)["state"], "active", "it is there until its connections end");
    unharmed(&load.finish());
    world.wait_status("b4 to be gone", |s| find_backend(s, "web", &b4).is_none().then_some(()))?;
    // Its version has not forgotten what it served; a restart does not either.
    let served = |status: &serde_json::Value| {
        ["packets", "bytes", "new_flows"].map(|key| number(version(status, "web", "v2"), key))
    };
    let before = served(&world.status()?);
    assert!(before[0] > number(backend(&status, "web", &b4), "packets"), "{before:?}");
    world.kill_agent();
    world.start_agent()?;
    assert_eq!(served(&world.status()?), before);
    Ok(())
}

#[test]
fn a_removed_backend_stays_removed_after_a_restart() -> Result<()> {
    let mut world = World::running(even())?;
    let load = world.load(20)?;
    let b4 = world.address(4);
    world.zdd().run(&["backend", "remove", "web", &b4])?;
    world.kill_agent();
    as_before(&load)?;
    world.start_agent()?;
    world.avoids(&load, &[4])?;
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}
