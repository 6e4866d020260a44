//! `snat`: backends that have no way to the clients, only to one address of the balancer's. Needs root.

#[path = "encap/echo.rs"]
mod echo;

use std::time::Duration;

use echo::{Server, Talk};
use zdd_tests::rig::{self, Families, Forward, Result, client_address, wait_for};
use zdd_tests::traffic::Load;
use zdd_tests::world::status::count;
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World, as_before, unharmed};

fn setup(families: Families) -> Setup {
    Setup { forward: Forward::Snat, families, ..Setup::default() }
}

/// Shift, rollback, drain, and an agent that is killed, under connections that must not notice.
fn a_rollout(families: Families) -> Result<()> {
    // Our addresses of each family are shown apart.
    let live = if families == Families::V6 { "/snat/1/live" } else { "/snat/0/live" };
    let mut world = World::running(setup(families))?;
    for b in ["b1", "b2", "b3", "b4"] {
        let way = world.rig.ns(b).run(&["ip", "route", "get", &client_address(0).to_string()]);
        assert!(way.is_err(), "{b} knows a way to the clients, so nothing would be shown: {way:?}");
    }
    let load: Load = world.load(40)?;
    as_before(&load)?;
    let zdd = world.zdd();
    zdd.run(&["shift", "web", "v2=50%"])?;
    zdd.run(&["shift", "echo", "v2=50%"])?;
    as_before(&load)?;
    zdd.run(&["rollback", "web"])?;
    zdd.run(&["rollback", "echo"])?;
    as_before(&load)?;
    zdd.run(&["shift", "web", "v2=30%"])?;
    zdd.run(&["drain", &format!("web/{}", world.address(2))])?;
    as_before(&load)?;
    let status = world.status()?;
    assert!(count(&status, live) >= 40, "{}", status["snat"]);
    world.kill_agent();
    as_before(&load)?;
    world.start_agent()?;
    world.wait_healthy()?;
    as_before(&load)?;
    let status = world.status()?;
    assert!(count(&status, live) >= 40, "{}", status["snat"]);
    for reason in ["drop_no_port", "stack_routed", "pass_no_mapping"] {
        assert_eq!(count(&status, &format!("/reasons/{reason}")), 0, "{reason}: {}", status["reasons"]);
    }
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_rollout_harms_nobody_whose_backends_have_no_way_back() -> Result<()> {
    a_rollout(Families::V4)
}

#[test]
fn nor_over_ipv6() -> Result<()> {
    a_rollout(Families::V6)
}

#[test]
fn when_the_ports_run_out_new_connections_wait_and_live_ones_go_on() -> Result<()> {
    let mut world = World::without_servers(Setup {
        v1: vec![1],
        v2: vec![2],
        snat_ports: "20000-20007",
        health: None,
        echo_health: None,
        ..setup(Families::V4)
    })?;
    let _server = Server::start(world.rig.ns("b1"), world.setup.backend_port(), 1)?;
    world.start_agent()?;
    wait_for("the way to the backend", PATIENCE, LOOK_EVERY, || {
        let status = world.status()?;
        let backends = &status["services"][0]["versions"][0]["backends"];
        let hop = backends[0]["next_hop"].as_str().unwrap_or_default().to_owned();
        Ok((!hop.is_empty() && !hop.starts_with("unresolved")).then_some(()))
    })?;
    let mut talks = Vec::new();
    for _ in 0..8 {
        let mut talk = Talk::open(world.rig.ns("c"), world.web())?;
        assert_eq!(talk.who()?, 1);
        assert_eq!(talk.seen_from()?, rig::SNAT_SOURCE.to_string(), "the backend sees our address");
        talks.push(talk);
    }
    let status = world.status()?;
    assert_eq!(count(&status, "/reasons/drop_no_port"), 0, "{}", status["reasons"]);
    assert_eq!(count(&status, "/snat/0/per_backend"), 8);
    let more = Talk::open_within(world.rig.ns("c"), world.web(), Duration::from_secs(2));
    assert!(more.is_err(), "a ninth connection over eight ports");
    assert!(count(&world.status()?, "/reasons/drop_no_port") > 0);
    for talk in &mut talks {
        assert_eq!(talk.who()?, 1, "live ones go on");
    }
    // A connection that is reset gives its port back only after TIME_WAIT, one that is none of ours at once.
    world.kill_agent();
    for talk in &mut talks {
        assert_eq!(talk.who()?, 1, "also without an agent");
    }
    // Another range would give the ports of live connections another meaning.
    world.setup.snat_ports = "30000-30015";
    world.write_config()?;
    let said = world.refused_start(&world.config())?;
    said.says(1, &["flows are mapped there", "help: put the old values back"]);
    for talk in &mut talks {
        assert_eq!(talk.who()?, 1, "a refused start changes nothing");
    }
    world.setup.snat_ports = "20000-20007";
    world.write_config()?;
    world.start_agent()?;
    for talk in &mut talks {
        assert_eq!(talk.who()?, 1, "nor does a restart");
    }
    Ok(())
}
