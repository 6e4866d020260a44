//! Rollouts with a running agent, under traffic that must not notice. Needs root.

mod answers;
mod batches;
mod clock;
mod cohorts;
mod cohorts_udp;
mod database;
mod disk;
mod holds;
mod kills;
mod page;
mod preview;
mod rolling;
mod testers;
mod train;
mod undo;

use std::time::Duration;

use page::{PAGE, Page};
use serde_json::Value;
use zdd_tests::rig::{Result, wait_for};
use zdd_tests::world::status::{number, service, told, version};
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World, as_before, unharmed};

const INTERVAL: Duration = Duration::from_millis(400);

/// Error rate as a web page tells it, and the agent's own health checks.
fn analyses() -> String {
    format!(
        "[[service.rollout.analysis]]\n\
         name = \"errors\"\n\
         interval = \"{}ms\"\n\
         inconclusive_limit = 2\n\
         consecutive_error_limit = 2\n\
         web = {{ url = \"http://{PAGE}/stats\", json = \"$.errors\", success = \"<= 0.01\", timeout = \"20s\" }}\n\
         [[service.rollout.analysis]]\n\
         name = \"health\"\n\
         interval = \"200ms\"\n\
         inconclusive_limit = 0\n\
         builtin = {{ metric = \"healthy-share\", success = \">= 1\" }}\n",
        INTERVAL.as_millis()
    )
}

fn canary(more: &str, steps: &str) -> String {
    format!("[service.rollout]\nstrategy = \"canary\"\nsteps = [{steps}]\n{more}\n{}", analyses())
}

const STEPS: &str = "{ weight = 10 }, { pause = \"300ms\" }, { weight = 50 }, { pause = \"300ms\" }";
const WAITS: &str =
    "{ weight = 10 }, { pause = \"until-promoted\" }, { weight = 50 }, { pause = \"until-promoted\" }";
const GOOD: &str = "{\"errors\": 0.001}";
const BAD: &str = "{\"errors\": 0.5}";

/// A world whose `web` has this rollout, and the page that its analysis reads.
fn with(rollout: String) -> Result<(World, Page)> {
    let world = World::running(Setup { rollout: Some(rollout), ..Setup::default() })?;
    let page = Page::start(&world.rig, GOOD)?;
    Ok((world, page))
}

fn rollout(world: &World) -> Result<Value> {
    world.zdd().json(&["rollout", "status", "web"])
}

fn asked(world: &World, name: &str) -> Result<f64> {
    Ok(number(version(&world.status()?, "web", name), "asked"))
}

fn wait_rollout(world: &World, what: &str, enough: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut last = Value::Null;
    let found = wait_for(what, PATIENCE, LOOK_EVERY, || {
        last = rollout(world)?;
        Ok(enough(&last).then(|| last.clone()))
    });
    found.inspect_err(|_| eprintln!("last: {last:#}"))
}

fn wait_weight(world: &World, weight: f64) -> Result<Value> {
    wait_rollout(world, &format!("a weight of {weight}"), |r| r["weight"] == weight)
}

/// What was announced, in order.
fn lines(report: &Value) -> Vec<String> {
    let lines = report["log"].as_array().into_iter().flatten();
    lines.map(|line| line["text"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_good_candidate_goes_to_all_of_the_traffic_and_nobody_notices() -> Result<()> {
    let (world, _page) = with(canary("", STEPS))?;
    let load = world.load(20)?;
    let plan = world.zdd().run(&["rollout", "plan", "web", "v2"])?;
    assert!(
        plan.contains("10% of new flows to v2") && plan.contains("rollback: all new flows to v1"),
        "{plan}"
    );
    let (status, report) = world.zdd().json_any(&[
        "rollout",
        "start",
        "web",
        "v2",
        "--reason",
        "1.2.3",
        "--wait",
        "--timeout",
        "5m",
    ])?;
    assert_eq!((status.code(), report["phase"].as_str()), (Some(0), Some("promoted")), "{report:#}");
    assert_eq!((asked(&world, "v1")?, asked(&world, "v2")?), (0.0, 1.0));
    let weights: Vec<String> = lines(&report).into_iter().filter(|line| line.starts_with("v2 has")).collect();
    assert_eq!(weights, ["v2 has 10% of new flows", "v2 has 50% of new flows", "v2 has 100% of new flows"]);
    world.avoids(&load, &[1, 2])?;
    as_before(&load)?;
    // Back, and forth again, at once.
    world.zdd().run(&["rollout", "undo", "web", "--reason", "second thoughts"])?;
    assert_eq!(asked(&world, "v1")?, 1.0);
    world.avoids(&load, &[3, 4])?;
    world.zdd().run(&["rollout", "undo", "web", "--to", "1"])?;
    assert_eq!(asked(&world, "v2")?, 1.0);
    world.refused(&["rollout", "undo", "web", "--to", "77"])?.says(1, &["no such rollout", "history"]);
    let history = world.zdd().json(&["rollout", "history", "web"])?;
    let outcomes: Vec<&str> = history["rollouts"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|r| r["outcome"].as_str())
        .collect();
    assert_eq!(outcomes, ["promoted", "undone", "undone"]);
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_bad_candidate_is_taken_back_within_three_looks_and_nobody_is_harmed() -> Result<()> {
    let (world, page) = with(canary("", WAITS))?;
    let load = world.load(20)?;
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    wait_rollout(&world, "a success at 10 %", |r| r["weight"] == 0.1 && r["analyses"][0]["proven"] != 0)?;
    page.says(BAD);
    let (status, report) =
        world.zdd().json_any(&["rollout", "status", "web", "--wait", "--timeout", "5m"])?;
    // The page is read once an interval: how often the bad one was says how many went by, however long the machine took for each.
    let looks = page.told();
    assert_eq!((status.code(), report["phase"].as_str()), (Some(5), Some("rolled-back")), "{report:#}");
    assert!((1..=3).contains(&looks), "taken back after {looks} looks");
    assert!(
        report["why"].as_str().is_some_and(|why| why.contains("errors") && why.contains("0.5")),
        "{report:#}"
    );
    assert_eq!(asked(&world, "v1")?, 1.0);
    world.avoids(&load, &[3, 4])?;
    as_before(&load)?;
    // Mended, and tried again.
    page.says(GOOD);
    world.zdd().run(&["rollout", "retry", "web"])?;
    let report = wait_weight(&world, 0.1)?;
    assert_eq!(report["id"], 2);
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_candidate_that_gets_sick_is_taken_back_by_the_agents_own_checks() -> Result<()> {
    let (mut world, _page) = with(canary("", WAITS))?;
    let load = world.load(20)?;
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    wait_weight(&world, 0.1)?;
    world.set_health(&[3], false)?;
    let report = wait_rollout(&world, "the rollback", |r| r["phase"] == "rolled-back")?;
    assert!(report["why"].as_str().is_some_and(|why| why.contains("health")), "{report:#}");
    // Wholly sick, it is not even begun.
    world.set_health(&[3, 4], false)?;
    world.refused(&["rollout", "start", "web", "v2"])?.says(1, &["v2 has no healthy backend", "help: "]);
    let plan = world.zdd().json(&["rollout", "plan", "web", "v2"])?;
    assert!(plan["refusals"][0].as_str().is_some_and(|why| why.contains("no healthy backend")), "{plan}");
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_freeze_keeps_the_weights_until_somebody_decides() -> Result<()> {
    let (mut world, page) = with(canary("on_failure = \"freeze\"", WAITS))?;
    let load = world.load(10)?;
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    wait_weight(&world, 0.1)?;
    page.says(BAD);
    let (status, report) = world.zdd().json_any(&["rollout", "status", "web", "--wait"])?;
    assert_eq!((status.code(), report["phase"].as_str()), (Some(6), Some("frozen")), "{report:#}");
    assert_eq!(asked(&world, "v2")?, 0.1);
    world.kill_agent();
    world.start_agent()?;
    assert_eq!((rollout(&world)?["phase"].as_str(), asked(&world, "v2")?), (Some("frozen"), 0.1));
    world.refused(&["rollout", "promote", "web"])?.says(1, &["frozen", "retry"]);
    page.says(GOOD);
    world.zdd().run(&["rollout", "retry", "web"])?;
    wait_rollout(&world, "a success", |r| r["phase"] == "running" && r["analyses"][0]["proven"] != 0)?;
    world.zdd().run(&["rollout", "promote", "web"])?;
    wait_weight(&world, 0.5)?;
    world.zdd().run(&["rollout", "abort", "web", "--reason", "enough"])?;
    let report = rollout(&world)?;
    assert_eq!((report["phase"].as_str(), asked(&world, "v1")?), (Some("rolled-back"), 1.0), "{report:#}");
    assert_eq!(report["why"], "aborted: enough");
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn of_two_operators_one_wins_and_the_other_is_told() -> Result<()> {
    let (world, _page) = with(canary("", WAITS))?;
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    world.refused(&["rollout", "start", "web", "v2"])?.says(1, &["rollout 1 of v2 is under way", "abort"]);
    let report = wait_rollout(&world, "a waiting", |r| {
        r["weight"] == 0.1 && r["waits_for"][0].as_str().is_some_and(|w| w.contains("promote"))
    })?;
    let seen = report["revision"].to_string();
    world.zdd().run(&["rollout", "promote", "web", "--revision", &seen])?;
    let said = world.refused(&["rollout", "promote", "web", "--revision", &seen])?;
    // What happened last is the promotion, or already the step after it.
    let seen = format!("you have seen {seen}; the last that happened: ");
    said.says(1, &[&seen, "help: look at `zdd rollout status web`"]);
    assert!(["promote", "v2 has 50%"].iter().any(|last| said.stderr.contains(last)), "{}", said.stderr);
    // Both at the same instant, many times: each pause of the plan is ended once.
    wait_rollout(&world, "the next waiting", |r| {
        r["weight"] == 0.5 && r["waits_for"][0].as_str().is_some_and(|w| w.contains("promote"))
    })?;
    let seen = rollout(&world)?["revision"].to_string();
    let race = || {
        let zdd = world.zdd();
        let seen = seen.clone();
        std::thread::spawn(move || {
            let said = zdd.output(&["rollout", "pause", "web", "--revision", &seen]);
            said.is_ok_and(|said| said.status.success())
        })
    };
    let racers: Vec<_> = (0..4).map(|_| race()).collect();
    let won = racers.into_iter().filter_map(|racer| racer.join().ok()).filter(|won| *won).count();
    assert_eq!(won, 1, "exactly one wins");
    Ok(())
}

#[test]
fn a_shift_by_hand_pauses_the_rollout_and_says_so_and_a_rollback_ends_it() -> Result<()> {
    let (world, _page) = with(canary("", WAITS))?;
    let load = world.load(10)?;
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    wait_weight(&world, 0.1)?;
    let said = world.zdd().run(&["shift", "web", "v2=33%"])?;
    assert!(said.contains("rollout 1 of v2 is paused by this"), "{said}");
    let report = rollout(&world)?;
    assert!(report["paused"].as_str().is_some_and(|who| who.contains("v2 has 33%")), "{report:#}");
    assert!(told(service(&world.status()?, "web")).contains("rollout 1 of v2 is held"), "{report:#}");
    world.zdd().run(&["rollout", "resume", "web"])?;
    assert_eq!(asked(&world, "v2")?, 0.1, "the plan's weight is back");
    world.zdd().run(&["gate", "close", "web", "--reason", "holidays"])?;
    world.zdd().run(&["rollout", "promote", "web"])?;
    wait_rollout(&world, "proof", |r| r["analyses"][0]["proven"].as_u64() > Some(1))?;
    assert_eq!(asked(&world, "v2")?, 0.1, "the gate is closed");
    world.zdd().run(&["gate", "open", "web"])?;
    wait_weight(&world, 0.5)?;
    let said = world.zdd().run(&["rollback", "web"])?;
    assert!(said.contains("the rollout was aborted"), "{said}");
    assert_eq!((rollout(&world)?["phase"].as_str(), asked(&world, "v1")?), (Some("rolled-back"), 1.0));
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn blue_green_switches_at_once_and_ends_when_the_old_version_is_drained() -> Result<()> {
    let rollout_text = format!(
        "[service.rollout]\nstrategy = \"blue-green\"\nbake = \"300ms\"\ndrain_deadline = \"10m\"\n{}",
        analyses()
    );
    let (world, _page) = with(rollout_text)?;
    let load = world.load(10)?;
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    wait_rollout(&world, "a waiting", |r| r["waits_for"][0].as_str().is_some_and(|w| w.contains("promote")))?;
    assert_eq!(asked(&world, "v2")?, 0.0, "before the switch it was only looked at");
    world.zdd().run(&["rollout", "promote", "web"])?;
    wait_rollout(&world, "the drain", |r| {
        r["waits_for"][0].as_str().is_some_and(|w| w.contains("v1 to be drained"))
    })?;
    assert_eq!(asked(&world, "v2")?, 1.0);
    as_before(&load)?;
    // Live connections of the old version hold it open; when they end by themselves, it is over.
    unharmed(&load.finish());
    let report = wait_rollout(&world, "the end", |r| r["phase"] == "promoted")?;
    assert!(lines(&report).iter().any(|line| line.contains("promoted: v2 has everything")), "{report:#}");
    Ok(())
}

#[test]
fn a_state_from_before_there_were_rollouts_loads() -> Result<()> {
    let (mut world, _page) = with(canary("", STEPS))?;
    world.zdd().run(&["shift", "web", "v2=25%"])?;
    world.kill_agent();
    let path = world.rig.scratch().path("state").join("state.json");
    let text = std::fs::read_to_string(&path).expect("the agent has saved its state");
    let (_, body) = text.split_once('\n').expect("a header and a body");
    let mut state: Value = serde_json::from_str(body).expect("JSON");
    for saved in state["services"].as_array_mut().expect("services") {
        let saved = saved.as_object_mut().expect("a service");
        assert!(saved.remove("rollouts").is_some());
        assert!(saved["spec"].as_object_mut().expect("a spec").remove("rollout").is_some());
    }
    for spec in state["file"].as_array_mut().expect("specs") {
        spec.as_object_mut().expect("a spec").remove("rollout");
    }
    // The writer of that time, and its header.
    let store = zdd_agent::store::Store::open(path.parent().expect("a directory")).expect("opened");
    store.save(&state).expect("saved");
    world.start_agent()?;
    assert_eq!(asked(&world, "v2")?, 0.25, "the intent is what it was");
    world.zdd().run(&["shift", "web", "v2=0%"])?;
    let (status, report) = world.zdd().json_any(&["rollout", "start", "web", "v2", "--wait"])?;
    assert_eq!(status.code(), Some(0), "{report:#}");
    Ok(())
}

/// `ZDD_ROLLOUTS`: rollouts in a row; each takes the place of the one before.
#[test]
fn healthy_rollouts_in_a_row_raise_no_false_alarm_and_their_events_are_told() -> Result<()> {
    let in_a_row: usize = std::env::var("ZDD_ROLLOUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    // One write each, so that events at the same time do not run into each other.
    let events = "[[service.rollout.hook]]\non = \"event\"\nexec = [\"/bin/sh\", \"-c\", \"printf '%s\\\\n' \\\"$(cat)\\\" >> EVENTS\"]\n";
    let steps = "{ weight = 20 }, { weight = 60 }";
    let mut world = World::new(Setup::default())?;
    let told_at = world.rig.scratch().path("events");
    let events = events.replace("EVENTS", &told_at.display().to_string());
    world.setup.rollout = Some(canary("", steps) + &events);
    world.write_config()?;
    world.start_agent()?;
    world.wait_healthy()?;
    let _page = Page::start(&world.rig, GOOD)?;
    let load = world.load(20)?;
    for round in 0..in_a_row {
        let candidate = if round % 2 == 0 { "v2" } else { "v1" };
        let (status, report) =
            world.zdd().json_any(&["rollout", "start", "web", candidate, "--wait", "--timeout", "5m"])?;
        assert_eq!((status.code(), report["phase"].as_str()), (Some(0), Some("promoted")), "{report:#}");
        assert_eq!(asked(&world, candidate)?, 1.0);
    }
    wait_for("the last event to be told", PATIENCE, LOOK_EVERY, || {
        let told = std::fs::read_to_string(&told_at).unwrap_or_default();
        let read = told.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let ends =
            read.filter(|event| event["what"].as_str().is_some_and(|what| what.starts_with("promoted: ")));
        Ok((ends.count() == in_a_row).then_some(()))
    })?;
    let history = world.zdd().json(&["rollout", "history", "web"])?;
    assert_eq!(history["rollouts"].as_array().map(Vec::len), Some(in_a_row.min(20)));
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}
