//! Cohorts of a UDP service: flows have no beginning that a packet tells, so the first one after a change waits for the change to settle.

use serde_json::json;
use zdd_tests::rig::{Result, client_address, wait_for};
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World, as_before, unharmed};

/// The first fifteen of a hundred clients.
const STAFF: &str = "[cohort.staff]\ncidrs = [\"10.80.1.0/28\"]\n";
const ROLLOUT: &str = "[service.rollout]\nstrategy = \"canary\"\n\
    steps = [{ cohort = \"staff\" }, { pause = \"until-promoted\" }, { weight = 10 }]\nprogress_deadline = \"5m\"\n";

#[test]
fn udp_flows_of_staff_begin_on_the_candidate_and_all_others_stay_where_they_are() -> Result<()> {
    let mut world = World::new(Setup { api: STAFF.to_owned(), ..Setup::default() })?;
    let text = world.setup.toml(world.rig.scratch().dir());
    let (web, echo) = text.split_at(text.find("name = \"echo\"").expect("there is echo"));
    let echo = echo.replacen("[[service.version]]", &format!("{ROLLOUT}[[service.version]]"), 1);
    world.write("zdd.toml", &format!("{web}{echo}"))?;
    world.start_agent()?;
    world.wait_healthy()?;
    // Ten flows of staff, from its first ten clients.
    let load = world.load(10)?;
    assert_eq!(load.ledger().live_udp[..2], [10, 0]);
    world.zdd().run(&["rollout", "start", "echo", "v2"])?;
    wait_for("staff to lead", PATIENCE, LOOK_EVERY, || {
        let report = world.zdd().json(&["rollout", "status", "echo"])?;
        Ok((report["cohorts"] == json!(["staff"])).then_some(()))
    })?;
    world.wait_settled("echo")?;
    as_before(&load)?;
    assert_eq!(load.ledger().live_udp[..2], [10, 0], "those that live stay");
    // Five of staff, and fifteen of others.
    load.open_udp(20);
    assert_eq!(load.ledger().live_udp[..2], [25, 5]);
    for (client, version) in [(10, "v2"), (20, "v1")] {
        let from = format!("{}:9", client_address(client));
        let said = world.zdd().json(&["explain", "echo", "--from", &from])?;
        assert_eq!(said["version"], version, "{said}");
    }
    world.zdd().run(&["rollout", "abort", "echo", "--reason", "enough"])?;
    world.kill_agent();
    as_before(&load)?;
    world.start_agent()?;
    world.wait_settled("echo")?;
    as_before(&load)?;
    assert_eq!(load.ledger().live_udp[..2], [25, 5]);
    unharmed(&load.finish());
    Ok(())
}
