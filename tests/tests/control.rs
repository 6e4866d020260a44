//! Shifts, health and what is told about them, under traffic. Needs root.

use serde_json::Value;
use zdd_tests::rig::{self, Families, Result, VIP, v4, wait_for};
use zdd_tests::world::status::{Kept, count, number, service, told, version};
use zdd_tests::world::{
    ECHO_PORT, LOOK_EVERY, PATIENCE, Setup, WEB_PORT, World, as_before, ask_from, curl, goes_on, unharmed,
};

fn share(world: &World, name: &str) -> Result<f64> {
    Ok(number(version(&world.status()?, "web", name), "share"))
}

fn even() -> Setup {
    Setup { v2_percent: 50, ..Setup::default() }
}

#[test]
fn a_share_is_reached_to_one_group() -> Result<()> {
    let world = World::running(Setup::default())?;
    let mut last = 0.0;
    let load = world.load(20)?;
    for percent in ["0.01", "0.1", "1", "10", "33.33", "50", "99.99", "100", "7", "0"] {
        let said = world.zdd().json(&["shift", "web", &format!("v2={percent}%")])?;
        let asked = percent.parse::<f64>().expect("a number") / 100.0;
        let status = world.status()?;
        let group = 1.0 / number(service(&status, "web"), "groups");
        for versions in [&said["versions"], &service(&status, "web")["versions"]] {
            let v2 = versions.as_array().and_then(|all| all.iter().find(|v| v["name"] == "v2")).expect("v2");
            assert!((number(v2, "asked") - asked).abs() < 1e-9, "{percent} %: {v2}");
            assert!((number(v2, "share") - asked).abs() <= group, "{percent} %: {v2}");
        }
        // A change of less than half a group commits nothing. And what is asked for a moment later may have seen a commit that came by
        // itself, for cells that need less by then.
        let generations = (number(&said, "generation"), number(service(&status, "web"), "generation"));
        assert!(last <= generations.0 && generations.0 <= generations.1, "after {last}: {generations:?}");
        last = generations.0;
    }
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn explain_says_where_connections_really_go() -> Result<()> {
    for affinity in ["flow", "client", "client-version"] {
        let world = World::running(Setup { affinity, v2_percent: 40, ..Setup::default() })?;
        let c = world.rig.ns("c");
        let mut versions = std::collections::BTreeSet::new();
        for i in 0..50u16 {
            let (client, port) = (rig::client_address(i.into()), 20_000 + i);
            let said = world.zdd().json(&["explain", "web", "--from", &format!("{client}:{port}")])?;
            let met = ask_from(c, client, port, world.web())?;
            let number: u8 = met.backend[1..].parse().expect("b<i>");
            assert_eq!(
                (said["version"].as_str(), said["backend"].as_str()),
                (Some(met.version.as_str()), Some(world.address(number).as_str())),
                "{affinity}: {said}"
            );
            assert_eq!(met.source, format!("{client}:{port}"), "the client's address reaches the backend");
            versions.insert(met.version);
        }
        assert_eq!(versions.len(), 2, "{affinity}: both versions were met");
    }
    Ok(())
}

#[test]
fn explain_names_the_entry_of_a_flow_that_a_shift_would_have_moved() -> Result<()> {
    let world = World::running(Setup::default())?;
    let load = world.load(5)?;
    world.zdd().run(&["shift", "web", "v2=100%"])?;
    as_before(&load)?;
    // Learned: their packets went on after the shift.
    let flows = |status: &Value| count(version(status, "web", "v1"), "/flows");
    let status = world.status()?;
    assert!(flows(&status) >= 5, "{status}");
    let fresh = world.zdd().json(&["explain", "web", "--from", "10.80.1.1:9"])?;
    assert_eq!(fresh["version"], "v2", "{fresh}");
    assert!(fresh["entry"].is_null() && fresh["dirty"] == true, "{fresh}");
    assert!(fresh["why"].as_str().is_some_and(|why| !why.is_empty()), "{fresh}");
    world.refused(&["explain", "nope", "--from", "10.80.1.1:9"])?.says(1, &["nope"]);
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_shift_to_a_version_without_a_healthy_backend_is_refused() -> Result<()> {
    let mut world = World::running(Setup::default())?;
    let load = world.load(20)?;
    world.set_health(&[3, 4], false)?;
    let before = (Kept::of(&world.status()?).intent, world.changes()?);
    world.refused(&["shift", "web", "v2=50%"])?.says(1, &["v2", "no healthy backend", "help: ", "--force"]);
    assert_eq!((Kept::of(&world.status()?).intent, world.changes()?), before, "nothing was changed");
    world.avoids(&load, &[3, 4])?;
    // Forced, it is remembered, and its share waits at the stable version.
    let said = world.zdd().json(&["shift", "web", "v2=50%", "--force"])?;
    assert!(told(&said).contains("v2"), "{said}");
    let status = world.status()?;
    let v2 = version(&status, "web", "v2");
    assert_eq!((number(v2, "asked"), number(v2, "share")), (0.5, 0.0), "{v2}");
    world.avoids(&load, &[3, 4])?;
    world.set_health(&[3, 4], true)?;
    assert!((share(&world, "v2")? - 0.5).abs() < 0.001);
    world.comes_to(&load, 3)?;
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn an_unhealthy_backend_gets_no_new_connections_and_keeps_the_live_ones() -> Result<()> {
    let mut world = World::running(even())?;
    let load = world.load(40)?;
    let live = load.ledger().live_long;
    world.set_health(&[1], false)?;
    let status = world.status()?;
    let sick = zdd_tests::world::status::backend(&status, "web", &world.address(1));
    assert!(sick["reason"].as_str().is_some_and(|why| why.contains("503")), "{sick}");
    assert!((share(&world, "v1")? - 0.5).abs() < 0.001, "its version's share stays");
    world.avoids(&load, &[1])?;
    assert_eq!(load.ledger().live_long, live);
    world.set_health(&[1], true)?;
    world.comes_to(&load, 1)?;
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn an_unhealthy_canarys_share_goes_to_stable_and_comes_back() -> Result<()> {
    let mut world = World::running(even())?;
    let load = world.load(40)?;
    world.set_health(&[3, 4], false)?;
    let status = world.status()?;
    let v2 = version(&status, "web", "v2");
    assert_eq!((number(v2, "asked"), number(v2, "share")), (0.5, 0.0), "{v2}");
    assert!(told(service(&status, "web")).contains("v2"), "it is told: {status}");
    world.avoids(&load, &[3, 4])?;
    world.set_health(&[3, 4], true)?;
    assert!((share(&world, "v2")? - 0.5).abs() < 0.001);
    world.comes_to(&load, 4)?;
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn when_all_fail_their_checks_at_once_traffic_goes_on_and_an_alarm_is_raised() -> Result<()> {
    let mut world = World::running(even())?;
    let load = world.load(20)?;
    assert!(service(&world.status()?, "web")["alarm"].is_null());
    world.set_health(&[1, 2, 3, 4], false)?;
    let alarm = world
        .wait_status("an alarm", |status| service(status, "web")["alarm"].as_str().map(str::to_owned))?;
    assert!(alarm.contains("fail their health checks"), "{alarm}");
    assert!(world.zdd().run(&["status"])?.contains("ALARM"));
    as_before(&load)?;
    world.set_health(&[1, 2, 3, 4], true)?;
    world
        .wait_status("the alarm to end", |status| service(status, "web")["alarm"].is_null().then_some(()))?;
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_rollback_never_moves_a_live_connection() -> Result<()> {
    let world = World::running(Setup::default())?;
    let load = world.load(20)?;
    for percent in [10, 60, 100] {
        world.zdd().run(&["shift", "web", &format!("v2={percent}%")])?;
        world.zdd().run(&["shift", "echo", &format!("v2={percent}%")])?;
        load.open_long(10);
        as_before(&load)?;
        assert!(world.zdd().run(&["rollback", "web"])?.contains("v2"));
        world.zdd().run(&["rollback", "echo"])?;
        world.avoids(&load, &[3, 4])?;
        as_before(&load)?;
    }
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() -> Result<()> {
    let world = World::running(even())?;
    let load = world.load(10)?;
    let before = (Kept::of(&world.status()?).intent, world.changes()?);
    world.refused(&["shift", "web", "v2=101%"])?.says(2, &["101%"]);
    world.refused(&["shift", "web", "v2=1.234%"])?.says(2, &["1.234%"]);
    world.refused(&["shift", "web", "v9=10%"])?.says(1, &["v9", "web"]);
    world.refused(&["shift", "nope", "v2=10%"])?.says(1, &["nope"]);
    world.refused(&["shift", "web", "v1=10%", "v2=20%"])?.says(1, &["30", "100"]);
    world.refused(&["shift", "web", "v2=10%", "v2=20%"])?.says(1, &["v2", "twice"]);
    world.refused(&["rollback", "nope"])?.says(1, &["nope"]);
    world.refused(&["drain", "web/v9"])?.says(1, &["v9"]);
    world.refused(&["drain", "v2"])?.says(1, &["v2", "web", "echo"]);
    world.refused(&["backend", "remove", "web", "10.81.9.9:1"])?.says(1, &["10.81.9.9:1"]);
    world.refused(&["backend", "add", "web", "v2", &world.address(1)])?.says(1, &[&world.address(1)]);
    world
        .refused(&["backend", "add", "web", "v2", "[2001:db8::1]:80"])?
        .says(1, &["is IPv6, the VIP", "help: "]);
    // What a backend gets would come back and be steered again, whichever service's VIP it is.
    for (port, owner) in [(WEB_PORT, "`web`"), (ECHO_PORT, "`echo`")] {
        let address = v4(VIP, port).to_string();
        world
            .refused(&["backend", "add", "web", "v2", &address])?
            .says(1, &["is the VIP of service", owner, "round in circles", "help: "]);
    }
    assert_eq!((Kept::of(&world.status()?).intent, world.changes()?), before, "nothing was changed");
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

/// The number of the sample that begins with `name` and has all of `labels`.
fn sample(page: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let line = page.lines().find(|l| {
        l.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')) && labels.iter().all(|x| l.contains(x))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn metrics_agree_with_status() -> Result<()> {
    let world = World::running(even())?;
    let load = world.load(20)?;
    world.zdd().run(&["shift", "web", "v2=30%"])?;
    goes_on(&load)?;
    unharmed(&load.finish());
    // Both are a moment of a world that stands still now; the page may be as old as its last collection.
    wait_for("metrics and status to agree", PATIENCE, LOOK_EVERY, || {
        let page = curl(world.rig.ns("lb"), None, "http://127.0.0.1:9177/metrics")?;
        let status = world.status()?;
        let web = service(&status, "web");
        let of = |name: &str, labels: &[&str]| {
            sample(&page, name, labels).unwrap_or_else(|| panic!("no {name} with {labels:?} in\n{page}"))
        };
        #[expect(clippy::cast_precision_loss, reason = "counts of one run are far below 2^52")]
        let counted = |pointer: &str| count(web, pointer) as f64;
        let web_label = "service=\"web\"";
        let pairs = [
            (of("zdd_service_packets_total", &[web_label]), counted("/counters/packets")),
            (of("zdd_new_flows_total", &[web_label]), counted("/counters/new_flows")),
            (of("zdd_version_asked_ratio", &[web_label, "version=\"v2\""]), 0.3),
            (
                of("zdd_version_share_ratio", &[web_label, "version=\"v2\""]),
                number(version(&status, "web", "v2"), "share"),
            ),
            (
                of("zdd_backend_packets_total", &[web_label, &world.address(1)]),
                counted("/versions/0/backends/0/packets"),
            ),
            (of("zdd_interface_attached", &["interface=\"zlc\""]), 1.0),
        ];
        assert!(pairs[0].0 > 200.0, "{pairs:?}");
        Ok(pairs.iter().all(|(a, b)| (a - b).abs() < 1e-9).then_some(()))
    })
}

#[test]
fn changes_follow_each_other_at_once_though_there_is_hardly_a_spare_row() -> Result<()> {
    // Two services, their rows and one reserve in a map of four rows.
    changes_follow_each_other(Setup { cells: 32_768, ..Setup::default() })
}

#[test]
fn changes_of_two_families_follow_each_other_with_two_spare_rows() -> Result<()> {
    // Two services with two VIPs, their rows and the reserve of two in a map of six rows.
    changes_follow_each_other(Setup {
        cells: 16_384,
        all_cells: 98_304,
        families: Families::Both,
        ..Setup::default()
    })
}

fn changes_follow_each_other(setup: Setup) -> Result<()> {
    let world = World::running(setup)?;
    let load = world.load(20)?;
    for percent in [10, 20, 30, 20, 10, 0] {
        for name in ["web", "echo"] {
            world.zdd().run(&["shift", name, &format!("v2={percent}%")])?;
            let v2 = number(version(&world.status()?, name, "v2"), "share");
            assert!((v2 - f64::from(percent) / 100.0).abs() < 0.001, "{name}: {v2}");
        }
    }
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn explain_tells_a_new_udp_flow_that_it_may_be_taken_for_an_old_one() -> Result<()> {
    let world = World::running(Setup::default())?;
    let explain = || world.zdd().json(&["explain", "echo", "--from", "10.80.1.1:9"]);
    assert_eq!(explain()?["version"], "v1");
    world.zdd().run(&["shift", "echo", "v2=100%"])?;
    let said = explain()?;
    assert_eq!(said["version"], "v1", "{said}");
    assert!(said["why"].as_str().is_some_and(|why| why.contains("udp_idle_timeout")), "{said}");
    Ok(())
}

#[test]
fn explain_sends_nobody_on_whose_packets_are_dropped_for_their_address() -> Result<()> {
    let world = World::running_unchecked(Setup::default())?;
    for nobody in ["0.0.0.1:9", "127.0.0.1:9", "224.0.0.1:9", "255.255.255.255:9"] {
        let said = world.zdd().json(&["explain", "web", "--from", nobody])?;
        assert!(said["version"].is_null() && said["backend"].is_null(), "{said}");
        assert!(said["why"].as_str().is_some_and(|why| why.contains("drop_martian")), "{said}");
    }
    assert_eq!(world.zdd().json(&["explain", "web", "--from", "10.80.1.1:9"])?["version"], "v1");
    // A name that was mistyped is told, too, where an empty answer would say nothing.
    let said = world.zdd().output(&["events", "--service", "wbe"])?;
    let told = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.status.success() && told.contains("there is no service `wbe` now"), "{told}");
    Ok(())
}
