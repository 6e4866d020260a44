//! Faults that no health page shows, in servers behind a running agent: seen in the signals, and a canary is taken back for them.
//! Needs root.

use std::time::Duration;

use serde_json::Value;
use zdd_tests::rig::{Forward, Result, wait_for};
use zdd_tests::traffic::{Fault, Load};
use zdd_tests::world::status::{count, version};
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World, goes_on};

/// Connections per second of all versions together.
const RATE: u32 = 300;
/// Between two looks. Long enough for a busy machine to make enough connections.
const INTERVAL: &str = "3s";
const ROLLED_BACK: Duration = Duration::from_secs(60);

fn rollout(steps: &str, interval: &str) -> String {
    format!(
        "signals = {{ sample = 1, handshake_timeout = \"1s\", answer_timeout = \"1s\" }}\n\
         [service.rollout]\n\
         strategy = \"canary\"\n\
         steps = [{steps}]\n\
         [[service.rollout.analysis]]\n\
         name = \"compare\"\n\
         interval = \"{interval}\"\n\
         inconclusive_limit = 10\n\
         compare = {{}}\n"
    )
}

fn world(forward: Forward, rollout: String) -> Result<(World, Load)> {
    let world =
        World::running(Setup { forward, affinity: "flow", rollout: Some(rollout), ..Setup::default() })?;
    let load = world.load(20)?;
    load.set_rate(RATE);
    goes_on(&load)?;
    Ok((world, load))
}

fn ended(world: &World) -> Result<Value> {
    let mut last = Value::Null;
    let over = wait_for("the rollout's end", ROLLED_BACK, LOOK_EVERY, || {
        last = world.zdd().json(&["rollout", "status", "web"])?;
        Ok(matches!(last["phase"].as_str(), Some("promoted" | "rolled-back")).then(|| last.clone()))
    });
    over.inspect_err(|_| eprintln!("last: {last:#}"))
}

/// A fault of v2 that is there from the first weight on: the rollout goes back by itself, for one of `reasons`, by its third look.
fn taken_back(world: &World, load: &Load, fault: Fault, reasons: &[&str]) -> Result<()> {
    for backend in ["b3", "b4"] {
        world.servers().set_fault(backend, fault);
    }
    let before = load.ledger().counts;
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    let report = ended(world)?;
    assert_eq!(report["phase"], "rolled-back", "{fault:?}: {report:#}");
    let why = report["why"].as_str().unwrap_or_default();
    assert!(reasons.iter().any(|reason| why.contains(reason)), "{fault:?}: {why}");
    let looks = count(&report, "/analyses/0/successes") + count(&report, "/analyses/0/failures");
    println!("{fault:?}: taken back at look {looks}: {why}");
    assert!(looks <= 3, "{fault:?}: {report:#}");
    let broken = load.ledger().counts.since(&before).broken();
    assert_eq!(broken, 0, "{fault:?}: {:?}", load.ledger().incidents);
    // From now on nobody meets v2.
    world.avoids(load, &[3, 4])
}

fn counted(world: &World, of: &str, name: &str) -> Result<Option<u64>> {
    let status = world.status()?;
    Ok(version(&status, "web", of).pointer(&format!("/signals/counts/{name}")).and_then(Value::as_u64))
}

/// Waits until a count of v2 has grown to at least `least`.
fn seen(world: &World, name: &str, least: u64) -> Result<()> {
    wait_for(&format!("{name} of v2"), PATIENCE, LOOK_EVERY, || {
        Ok(counted(world, "v2", name)?.is_some_and(|n| n >= least).then_some(()))
    })
}

fn faults(forward: Forward) -> Result<()> {
    let nat = forward == Forward::Nat;
    let (mut world, load) =
        world(forward, rollout("{ weight = 50 }, { pause = \"until-promoted\" }", INTERVAL))?;
    let (resets, refused) = match nat {
        true => (["reset-rate", "unanswered-rate"], ["handshake-failure-rate"; 2]),
        // Where replies go around us a reset is a silence.
        false => (["unanswered-rate"; 2], ["handshake-failure-rate", "unanswered-rate"]),
    };
    taken_back(&world, &load, Fault::Resets(20), &resets)?;
    seen(&world, if nat { "backend_reset_early" } else { "unanswered" }, 3)?;
    if !nat {
        assert_eq!(counted(&world, "v2", "backend_reset_early")?, None, "not seen is not 0");
    }
    taken_back(&world, &load, Fault::Later(50), &["first-byte-time"])?;
    taken_back(&world, &load, Fault::Mute, &["unanswered-rate"])?;
    seen(&world, "unanswered", 3)?;
    // The agent's death loses nothing of what was counted.
    let before = counted(&world, "v2", "new")?;
    world.kill_agent();
    world.start_agent()?;
    assert!(before > Some(0) && counted(&world, "v2", "new")? >= before, "{before:?}");
    taken_back(&world, &load, Fault::Refuses, &refused)?;
    seen(&world, if nat { "backend_reset_handshake" } else { "half_open" }, 3)?;
    // Those that live on v1 have not noticed anything of all this.
    let counts = load.finish().counts;
    assert_eq!((counts.broken(), counts.udp_lost), (0, 0), "{counts:?}");
    Ok(())
}

#[test]
fn faults_that_no_health_page_shows_are_seen_and_a_canary_goes_back_for_them() -> Result<()> {
    faults(Forward::Nat)
}

#[test]
fn where_replies_go_around_us_the_client_s_packets_show_them() -> Result<()> {
    faults(Forward::L2)
}

fn promoted(forward: Forward) -> Result<()> {
    let steps = "{ weight = 10 }, { weight = 50 }";
    let (world, load) = world(forward, rollout(steps, "1s"))?;
    for round in 0..5 {
        world.zdd().run(&["rollout", "start", "web", "v2"])?;
        let report = ended(&world)?;
        assert_eq!(report["phase"], "promoted", "round {round}: {report:#}");
        world.zdd().run(&["rollout", "undo", "web"])?;
    }
    zdd_tests::world::unharmed(&load.finish());
    // What was measured is there for people and for Prometheus.
    let text = zdd_tests::world::curl(world.rig.ns("lb"), None, "http://127.0.0.1:9177/metrics")?;
    for line in [
        "zdd_version_signal_flows_total{service=\"web\",version=\"v2\",event=\"established\"} ",
        "zdd_version_handshake_seconds_bucket{le=\"+Inf\",service=\"web\",version=\"v1\"} ",
        "zdd_version_first_byte_seconds_count{service=\"web\",version=\"v2\"} ",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    let resets = text.contains(
        "zdd_version_resets_total{service=\"web\",version=\"v1\",side=\"backend\",phase=\"before_reply\"}",
    );
    assert_eq!(resets, forward == Forward::Nat, "{text}");
    let shown = world.zdd().run(&["status"])?;
    assert!(shown.contains("v2 signals 1/1: "), "{shown}");
    Ok(())
}

#[test]
fn healthy_candidates_are_promoted_one_after_the_other() -> Result<()> {
    promoted(Forward::Nat)
}

#[test]
fn healthy_candidates_are_promoted_where_replies_go_around_us() -> Result<()> {
    promoted(Forward::L2)
}
