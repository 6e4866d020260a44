//! Something that both versions need fails for both at once: nobody's fault, and nobody is taken back for it.

use std::time::Duration;

use serde_json::Value;
use zdd_tests::rig::{Result, wait_for};
use zdd_tests::world::status::{count, service, told};
use zdd_tests::world::{HEALTH_PORT, LOOK_EVERY, PATIENCE, Setup, World, as_before, unharmed};

const DOWN: &str = "{\"db\": \"down\"}";
const UP: &str = "{\"db\": \"ok\"}";
/// Longer than a look, shorter than a round of probes: one version tells before the other.
const APART: Duration = Duration::from_millis(300);

fn setup() -> Setup {
    let rollout = "[service.rollout]\n\
         strategy = \"canary\"\n\
         steps = [{ weight = 20 }, { pause = \"until-promoted\" }]\n\
         [[service.rollout.analysis]]\n\
         name = \"health\"\n\
         interval = \"200ms\"\n\
         builtin = { metric = \"healthy-share\", success = \">= 1\" }\n";
    let health = format!(
        "{{ http = \"/health\", port = {HEALTH_PORT}, interval = \"500ms\", timeout = \"2s\", rise = 2, fall = 1, \
         json = ['$.db == \"ok\"'], depends = [{{ name = \"db\", path = \"$.db\", shared = true }}] }}"
    );
    Setup { health: Some(health), echo_health: None, rollout: Some(rollout.to_owned()), ..Setup::default() }
}

fn say(world: &World, backends: [u8; 2], page: &str) {
    for i in backends {
        world.servers().set_health_page(&format!("b{i}"), page);
    }
}

fn apart() {
    std::thread::sleep(APART);
}

fn report(world: &World, what: &str, enough: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut last = Value::Null;
    let found = wait_for(what, PATIENCE, LOOK_EVERY, || {
        last = world.zdd().json(&["rollout", "status", "web"])?;
        Ok(enough(&last).then(|| last.clone()))
    });
    found.inspect_err(|_| eprintln!("last: {last:#}"))
}

fn last(report: &Value) -> &str {
    report["analyses"][0]["last"].as_str().unwrap_or_default()
}

/// The rollout is watched for so much longer, and neither goes back nor counts anything against the candidate.
fn endures(world: &World, ms: u64) -> Result<()> {
    let since = count(&report(world, "a report", |_| true)?, "/watched_ms");
    let now =
        report(world, "time to pass", |r| r["phase"] != "running" || count(r, "/watched_ms") > since + ms)?;
    let counted = (count(&now, "/analyses/0/failures"), count(&now, "/analyses/0/inconclusive"));
    assert_eq!((now["phase"].as_str(), counted), (Some("running"), (0, 0)), "{now:#}");
    Ok(())
}

fn successes(world: &World, more_than: u64) -> Result<u64> {
    let now = report(world, "more successes", |r| count(r, "/analyses/0/successes") > more_than)?;
    Ok(count(&now, "/analyses/0/successes"))
}

#[test]
fn a_database_that_fails_for_all_takes_no_candidate_back_and_one_of_its_own_does() -> Result<()> {
    let mut world = World::new(setup())?;
    say(&world, [1, 2], UP);
    say(&world, [3, 4], UP);
    world.start_agent()?;
    let load = world.load(10)?;
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    let before = successes(&world, 0)?;

    // The candidate tells first.
    say(&world, [3, 4], DOWN);
    apart();
    say(&world, [1, 2], DOWN);
    world.wait_status("the alarm", |s| {
        told(service(s, "web")).contains("db fails for every backend").then_some(())
    })?;
    report(&world, "a measurement to be postponed", |r| {
        last(r).contains("postponed: db fails for every backend")
    })?;
    endures(&world, 3_000)?;
    world.kill_agent();
    world.start_agent()?;
    endures(&world, 3_000)?;
    // Everybody is served meanwhile, the candidate's clients by the candidate.
    as_before(&load)?;

    // And it is the last to be well again.
    say(&world, [1, 2], UP);
    apart();
    say(&world, [3, 4], UP);
    world.wait_status("the alarm to end", |s| service(s, "web")["alarm"].is_null().then_some(()))?;
    successes(&world, before)?;
    endures(&world, 5_000)?;

    // What fails for the candidate alone is the candidate's, whatever it is called.
    say(&world, [3, 4], DOWN);
    let over = report(&world, "the way back", |r| r["phase"] == "rolled-back")?;
    assert!(over["why"].as_str().is_some_and(|why| why.contains("1 failures")), "{over:#}");
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}
