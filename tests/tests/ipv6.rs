//! IPv6 end to end: the same promises as over IPv4, and one rollout over both families. Needs root.

use zdd_tests::rig::{Families, Forward, Result, VIP6, backend_address6, client_address, client_address6};
use zdd_tests::world::status::{Kept, backend, count, number, service, version};
use zdd_tests::world::{Setup, World, as_before, ask_from, goes_on, talk, unharmed};

fn setup(forward: Forward, families: Families) -> Setup {
    Setup { forward, families, ..Setup::default() }
}

/// Shift, roll back, shift, kill, restart, drain: under traffic that must not notice.
fn a_rollout(forward: Forward, families: Families) -> Result<()> {
    let mut world = World::running(setup(forward, families))?;
    let load = world.load(40)?;
    let zdd = world.zdd();
    for weight in ["v2=30%", "v2=100%"] {
        zdd.run(&["shift", "web", weight])?;
        zdd.run(&["shift", "echo", weight])?;
        as_before(&load)?;
        world.comes_to(&load, 3)?;
    }
    world.avoids(&load, &[1, 2])?;
    zdd.run(&["rollback", "web"])?;
    world.avoids(&load, &[3, 4])?;
    zdd.run(&["shift", "web", "v2=50%"])?;
    let explained = world.explained("web", 20)?;
    let before = Kept::of(&world.status()?);
    world.kill_agent();
    as_before(&load)?;
    world.start_agent()?;
    let after = Kept::of(&world.status()?);
    assert_eq!(before.intent, after.intent, "weights and drains are kept");
    assert_eq!(world.explained("web", 20)?, explained);
    world.wait_healthy()?;
    as_before(&load)?;
    load.open_long(20);
    let text = zdd.run(&["drain", "web/v2", "--deadline", "10m"])?;
    assert!(text.contains("drain"), "{text}");
    world.avoids(&load, &[3, 4])?;
    as_before(&load)?;
    load.hang_up(1);
    world
        .wait_status("v2 to be drained", |s| (count(version(s, "web", "v2"), "/flows") == 0).then_some(()))?;
    let ledger = load.finish();
    unharmed(&ledger);
    assert!(ledger.counts.short_total > 100 && ledger.counts.udp_answered == 10, "{:?}", ledger.counts);
    Ok(())
}

#[test]
fn a_rollout_over_ipv6_breaks_nothing_under_nat() -> Result<()> {
    a_rollout(Forward::Nat, Families::V6)
}

#[test]
fn a_rollout_over_ipv6_breaks_nothing_under_l2() -> Result<()> {
    a_rollout(Forward::L2, Families::V6)
}

#[test]
fn one_rollout_over_both_families_breaks_nothing_under_nat() -> Result<()> {
    a_rollout(Forward::Nat, Families::Both)
}

#[test]
fn one_rollout_over_both_families_breaks_nothing_under_l2() -> Result<()> {
    a_rollout(Forward::L2, Families::Both)
}

#[test]
fn one_shift_moves_both_families_at_once() -> Result<()> {
    let world = World::running(setup(Forward::Nat, Families::Both))?;
    let six = std::net::SocketAddr::new(VIP6.into(), 80);
    let zdd = world.zdd();
    let share = |weight: &str| -> Result<f64> {
        zdd.run(&["shift", "web", weight])?;
        Ok(number(version(&world.status()?, "web", "v2"), "share"))
    };
    assert_eq!(share("v2=25%")?, 0.25, "exact to one group, over the cells of both VIPs");
    assert_eq!(share("v2=100%")?, 1.0);
    assert_eq!(world.commits("shift web")?, [2, 2], "one for each VIP");
    // Answered means: the very next connection of either family follows.
    for i in 0..10 {
        let met = ask_from(world.rig.ns("c"), client_address(i), 0, world.web())?;
        assert_eq!(met.version, "v2");
        let from = std::net::SocketAddr::new(client_address6(i).into(), 0);
        let met = talk(world.rig.ns("c"), from, six, 3)?;
        assert_eq!(met.version, "v2");
        let seen: std::net::SocketAddr = met.source.parse().expect("an address");
        assert_eq!(seen.ip(), client_address6(i), "the backend sees the client itself");
    }
    let text = zdd.run(&["status"])?;
    assert!(text.contains("10.80.255.10:80/tcp, [fd80:0:0:ff::10]:80/tcp"), "{text}");
    let metrics = world.rig.ns("lb").run(&["curl", "--silent", "http://127.0.0.1:9177/metrics"])?;
    assert!(metrics.contains(&format!("backend=\"{}\"", world.address6(3))), "{metrics}");
    Ok(())
}

#[test]
fn an_ipv6_backend_that_fails_its_check_takes_nothing_new_and_keeps_what_it_has() -> Result<()> {
    let mut world = World::running(setup(Forward::Nat, Families::V6))?;
    let load = world.load(40)?;
    world.set_health(&[1], false)?;
    let status = world.status()?;
    let sick = backend(&status, "web", &world.address6(1));
    assert!(sick["reason"].as_str().is_some_and(|r| r.contains("503")), "{sick}");
    world.avoids(&load, &[1])?;
    as_before(&load)?;
    world.set_health(&[1], true)?;
    world.comes_to(&load, 1)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_family_without_a_healthy_backend_is_named_when_a_shift_would_send_it_there() -> Result<()> {
    let mut setup = setup(Forward::Nat, Families::Both);
    setup.v2 = vec![3];
    let mut world = World::new(setup)?;
    let text = std::fs::read_to_string(world.config()).expect("written");
    // An IPv6 backend that is not there at all.
    let gone = text.replace(&world.address6(3), "[fd81:0:0:3::99]:8080");
    std::fs::write(world.config(), gone).expect("written");
    world.start_agent()?;
    world.wait_status("the IPv6 backend of v2 to fail", |s| {
        (backend(s, "web", "[fd81:0:0:3::99]:8080")["health"] == "unhealthy").then_some(())
    })?;
    world.refused(&["shift", "web", "v2=50%"])?.says(
        1,
        &["web/v2 has no healthy IPv6 backend", "[fd81:0:0:3::99]:8080", "help: ", "IPv6 would go to v1"],
    );
    world.zdd().run(&["shift", "web", "v2=50%", "--force"])?;
    let status = world.status()?;
    // IPv4 follows; the share of IPv6 stays where it can be served.
    assert_eq!(number(version(&status, "web", "v2"), "share"), 0.25);
    let notes = zdd_tests::world::status::told(service(&status, "web"));
    assert!(notes.contains("v2 has no healthy IPv6 backend that takes new flows"), "{notes}");
    let load = world.load(10)?;
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_second_vip_comes_under_traffic() -> Result<()> {
    let mut world = World::new(setup(Forward::Nat, Families::Both))?;
    world.setup.families = Families::V4;
    world.write_config()?;
    world.start_agent()?;
    world.wait_healthy()?;
    let load = world.load(20)?;
    world.zdd().run(&["shift", "web", "v2=50%"])?;
    world.setup.families = Families::Both;
    world.setup.v2_percent = 50;
    world.write_config()?;
    let text = world.zdd().run(&["apply", &world.config().display().to_string()])?;
    assert!(text.contains("[fd80:0:0:ff::10]:80/tcp"), "{text}");
    world.wait_healthy()?;
    let six = std::net::SocketAddr::new(VIP6.into(), 80);
    let mut versions = Vec::new();
    for i in 0..40 {
        let from = std::net::SocketAddr::new(client_address6(i).into(), 0);
        versions.push(talk(world.rig.ns("c"), from, six, 1)?.version);
    }
    assert!(versions.contains(&"v1".to_owned()) && versions.contains(&"v2".to_owned()), "{versions:?}");
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_next_hop_is_found_by_neighbour_discovery_again_after_it_was_forgotten() -> Result<()> {
    let mut world = World::running(setup(Forward::L2, Families::V6))?;
    let load = world.load(20)?;
    let b1 = backend_address6(1).to_string();
    let hop = backend(&world.status()?, "web", &world.address6(1))["next_hop"].clone();
    let lb = world.rig.ns("lb");
    for _ in 0..3 {
        lb.run(&["ip", "-6", "neigh", "del", &b1, "dev", "zlb1"])?;
        goes_on(&load)?;
    }
    zdd_tests::rig::wait_for(
        "the neighbour to come back",
        zdd_tests::world::PATIENCE,
        zdd_tests::world::LOOK_EVERY,
        || {
            Ok::<_, zdd_tests::rig::Error>(
                lb.run(&["ip", "-6", "neigh", "show", &b1])?.contains("lladdr").then_some(()),
            )
        },
    )?;
    let address = world.address6(1);
    world.wait_status("its next hop to be what it was", |status| {
        (backend(status, "web", &address)["next_hop"] == hop).then_some(())
    })?;
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}
