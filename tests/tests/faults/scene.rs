//! One row from beginning to end.

use std::time::{Duration, Instant};

use serde_json::Value;
use zdd_tests::rig::{Forward, Result, wait_for};
use zdd_tests::traffic::Load;
use zdd_tests::world::status::{count, number, version};
use zdd_tests::world::{HEALTH_PORT, LOOK_EVERY, PATIENCE, Setup, World, goes_on};

use crate::candidate::{BACKENDS, Candidate};
use crate::clients::{CLIENTS, affected, who_gets};
use crate::{Broken, Policy, Row};

/// Connections per second of both versions together.
const RATE: u32 = 300;
/// Of all their time: comparisons that find nothing yet go on for long on a busy machine.
const ENDS_WITHIN: Duration = Duration::from_secs(180);
/// Python starts slowly when two of them and a database do.
const READY_WITHIN: Duration = Duration::from_secs(180);
/// The looks within which a fault must be found.
const LOOKS: u64 = 3;

fn setup(row: Row) -> Setup {
    let on_failure = match row.policy {
        Policy::Rollback => "rollback",
        Policy::Freeze => "freeze",
    };
    let rollout = format!(
        "signals = {{ sample = 1, handshake_timeout = \"1s\", answer_timeout = \"1s\" }}\n\
         [service.rollout]\n\
         strategy = \"canary\"\n\
         steps = [{{ weight = {} }}, {{ pause = \"until-promoted\" }}]\n\
         on_failure = \"{on_failure}\"\n\
         [[service.rollout.analysis]]\n\
         name = \"signals\"\n\
         interval = \"3s\"\n\
         inconclusive_limit = 10\n\
         compare = {{}}\n\
         [[service.rollout.analysis]]\n\
         name = \"health\"\n\
         interval = \"1s\"\n\
         builtin = {{ metric = \"healthy-share\", success = \">= 1\" }}\n",
        row.broken.weight()
    );
    let asks = |expects: &str| {
        format!(
            "{{ http = \"/health\", port = {HEALTH_PORT}, interval = \"200ms\", timeout = \"2s\", rise = 2, fall = 2{expects} }}"
        )
    };
    let health = match row.broken {
        Broken::HealthPage | Broken::Dies | Broken::Database => {
            asks(", json = ['$.db == \"ok\"'], depends = [{ name = \"db\", path = \"$.db\" }]")
        }
        _ => asks(""),
    };
    Setup {
        forward: row.forward,
        health: Some(health),
        echo_health: Some(asks("")),
        rollout: Some(rollout),
        ..Setup::default()
    }
}

/// Measurements of all analyses that were made.
fn looks(report: &Value, analysis: &str) -> u64 {
    let all = report["analyses"].as_array().into_iter().flatten();
    let of_it = all.filter(|one| one["name"] == analysis);
    of_it.map(|one| count(one, "/successes") + count(one, "/failures") + count(one, "/inconclusive")).sum()
}

/// The first report of which `enough` is true.
fn report(world: &World, what: &str, enough: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut last = Value::Null;
    let found = wait_for(what, ENDS_WITHIN, LOOK_EVERY, || {
        last = world.zdd().json(&["rollout", "status", "web"])?;
        Ok(enough(&last).then(|| last.clone()))
    });
    found.inspect_err(|_| eprintln!("last: {last:#}"))
}

fn all_healthy(world: &World) -> Result<()> {
    wait_for("everything to be healthy", READY_WITHIN, LOOK_EVERY, || {
        let status = world.status()?;
        let versions = ["v1", "v2"].map(|name| version(&status, "web", name)["backends"].clone());
        let mut backends = versions.iter().filter_map(Value::as_array).flatten();
        Ok(backends.all(|backend| backend["health"] == "healthy").then_some(()))
    })
}

pub fn plays(row: Row) -> Result<()> {
    let begun = Instant::now();
    let broken = row.broken;
    let usual: &[u8] = if broken.application() { &[1, 2] } else { &[1, 2, 3, 4] };
    let mut world = World::with_servers_on(setup(row), usual)?;
    for i in usual {
        world.servers().set_health_page(&format!("b{i}"), "{\"db\": \"ok\"}");
    }
    let mut candidate = Candidate::start(&world, broken)?;
    world.start_agent()?;
    all_healthy(&world)?;
    let theirs = who_gets(&world, broken.weight())?;
    // All long-lived connections are v1's.
    let load = world.load(20)?;
    load.set_rate(RATE);
    goes_on(&load)?;

    if broken.at_once() {
        candidate.breaks(&world);
    }
    let from_us = load.now_us();
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    let weight = f64::from(broken.weight()) / 100.0;
    let mut before = report(&world, "the candidate's weight", |r| r["weight"] == weight)?;
    if !broken.at_once() {
        before = report(&world, "a success", |r| looks(r, "health") > 0)?;
        assert_eq!(before["phase"], "running", "{before:#}");
        // It serves its share before it breaks.
        serves(&world, &load, from_us)?;
        candidate.breaks(&world);
    }
    let ended = report(&world, "the end", |r| {
        matches!(r["phase"].as_str(), Some("rolled-back" | "frozen" | "promoted"))
    })?;
    let phase = match row.policy {
        Policy::Rollback => "rolled-back",
        Policy::Freeze => "frozen",
    };
    let (reasons, counter) = broken.shows(row.forward);
    let why = ended["why"].as_str().unwrap_or_default();
    assert_eq!(ended["phase"], phase, "{ended:#}");
    assert!(reasons.iter().any(|reason| why.contains(reason)), "{why}");
    let by = if broken.at_once() { "signals" } else { "health" };
    let taken = looks(&ended, by) - if broken.at_once() { 0 } else { looks(&before, by) };
    assert!(taken <= LOOKS, "{taken} looks: {ended:#}");
    left_with(&world, &load, row, weight)?;
    if let Some(counter) = counter {
        counted(&world, counter)?;
    }
    if row.forward == Forward::L2 {
        let status = world.status()?;
        let seen = version(&status, "web", "v2").pointer("/signals/counts/backend_reset_early");
        assert_eq!(seen, None, "not seen is not 0");
    }

    // Everything is v1's; whoever waits for an answer of v2's waits for as long as 10 s.
    let ledger = load.finish();
    let counts = ledger.counts;
    assert_eq!(counts.long_opened, 20, "{counts:?}");
    let harm = (counts.broken(), counts.udp_lost, counts.wrong_source);
    assert_eq!(harm, (0, 0, 0), "{counts:?}\n{:#?}", ledger.incidents);
    let affected = affected(&ledger, world.fleet(), from_us);
    let others: Vec<_> = affected.difference(&theirs).collect();
    assert!(others.is_empty(), "not of v2's share: {others:?}\n{:#?}", ledger.incidents);
    assert!(!affected.is_empty(), "nobody has met v2: this proves nothing");
    println!(
        "{broken:?} under {}: {phase} at look {taken} ({why}); {} of {CLIENTS} clients met v2, {} are its share at {} %; \
         20 connections of v1: {} lines, 0 broken; {:.0?} in all",
        row.forward.name(),
        affected.len(),
        theirs.len(),
        broken.weight(),
        counts.long_lines,
        begun.elapsed()
    );
    Ok(())
}

/// Waits until v2 has answered somebody.
fn serves(world: &World, load: &Load, from_us: u64) -> Result<()> {
    wait_for("v2 to serve", PATIENCE, LOOK_EVERY, || {
        Ok(BACKENDS.iter().any(|i| world.begun_on(load, *i, from_us) > 0).then_some(()))
    })
}

/// The weights are what the policy says, and in the end nobody meets v2 any more.
fn left_with(world: &World, load: &Load, row: Row, weight: f64) -> Result<()> {
    let asked =
        |name| Ok::<_, zdd_tests::rig::Error>(number(version(&world.status()?, "web", name), "asked"));
    if row.policy == Policy::Freeze {
        assert_eq!(asked("v2")?, weight, "a freeze moves no weight");
        if !row.broken.at_once() {
            // Wholly unhealthy, it has nobody all the same.
            world.avoids(load, &BACKENDS)?;
        }
        world.zdd().run(&["rollout", "abort", "web", "--reason", "seen"])?;
    }
    assert_eq!((asked("v1")?, asked("v2")?), (1.0, 0.0));
    world.avoids(load, &BACKENDS)
}

/// Waits until the kernel's count of v2 shows it.
fn counted(world: &World, name: &str) -> Result<()> {
    wait_for(&format!("{name} of v2"), PATIENCE, LOOK_EVERY, || {
        let status = world.status()?;
        let count = version(&status, "web", "v2").pointer(&format!("/signals/counts/{name}"));
        Ok(count.and_then(Value::as_u64).is_some_and(|n| n >= 3).then_some(()))
    })
}
