//! What the kernel tells of versions behind a running agent: kept, shown, and no reason to take a healthy canary back. Needs root. What is
//! done about broken ones is in `faults`.

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
const ROLLED_BACK: Duration = Duration::from_secs(180);

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

#[test]
fn what_was_counted_outlives_the_agent() -> Result<()> {
    let (mut world, load) = world(Forward::Nat, rollout("{ weight = 50 }", INTERVAL))?;
    for backend in ["b3", "b4"] {
        world.servers().set_fault(backend, Fault::Mute);
    }
    world.zdd().run(&["shift", "web", "v2=50%"])?;
    let unanswered = |world: &World| -> Result<u64> {
        let status = world.status()?;
        let count = version(&status, "web", "v2").pointer("/signals/counts/unanswered");
        Ok(count.and_then(Value::as_u64).unwrap_or(0))
    };
    wait_for("unanswered connections of v2", PATIENCE, LOOK_EVERY, || {
        Ok((unanswered(&world)? >= 3).then_some(()))
    })?;
    world.zdd().run(&["rollback", "web"])?;
    let before = unanswered(&world)?;
    world.kill_agent();
    world.start_agent()?;
    assert!(unanswered(&world)? >= before, "{before}");
    assert_eq!(load.finish().counts.broken(), 0);
    Ok(())
}

/// Replies pass us under `snat` too: the backend's part of the handshake, the first byte, and who it was that reset.
#[test]
fn what_backends_do_is_seen_under_snat() -> Result<()> {
    let (world, load) = world(Forward::Snat, rollout("{ weight = 50 }", INTERVAL))?;
    for backend in ["b3", "b4"] {
        world.servers().set_fault(backend, Fault::Resets(1));
    }
    world.zdd().run(&["shift", "web", "v2=50%"])?;
    let mut last = Value::Null;
    let seen = wait_for("resets of v2, and times of v1", PATIENCE, LOOK_EVERY, || {
        last = world.status()?;
        let of = |name: &str, what: &str| count(version(&last, "web", name), &format!("/signals/{what}"));
        let resets = of("v2", "counts/backend_reset_early") + of("v2", "counts/backend_reset_late");
        let times = [of("v1", "handshake/count"), of("v1", "first_byte/count")];
        Ok((resets >= 3 && times.iter().all(|count| *count >= 3)).then_some(()))
    });
    seen.inspect_err(|_| eprintln!("last: {last:#}"))?;
    world.zdd().run(&["rollback", "web"])?;
    load.finish();
    Ok(())
}

/// `ZDD_ROLLOUTS`: how many in a row.
fn promoted(forward: Forward) -> Result<()> {
    let in_a_row: usize = std::env::var("ZDD_ROLLOUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let steps = "{ weight = 10 }, { weight = 50 }";
    let (world, load) = world(forward, rollout(steps, "1s"))?;
    let mut looks = 0;
    for round in 0..in_a_row {
        world.zdd().run(&["rollout", "start", "web", "v2"])?;
        let report = ended(&world)?;
        assert_eq!(report["phase"], "promoted", "round {round}: {report:#}");
        looks += count(&report, "/analyses/0/successes") + count(&report, "/analyses/0/inconclusive");
        world.zdd().run(&["rollout", "undo", "web"])?;
    }
    println!("{in_a_row} rollouts under {}: all promoted, {looks} looks", forward.name());
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
