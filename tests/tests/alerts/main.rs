//! Alerts of a running agent: to a webhook, and to a real Alertmanager. Needs root and prometheus-alertmanager.

mod live;
mod receiver;

use std::process::Command;
use std::time::Duration;

use receiver::{ADDRESS, Receiver};
use serde_json::Value;
use zdd_tests::rig::{Error, Result, wait_for};
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World, curl};

/// An alert ends ten seconds after its trouble, and a message that was not taken is tried again after ten.
const LONG: Duration = Duration::from_secs(120);
const SECRET: &str = "T0-B0-secret";

fn world(alerts: &str) -> Result<World> {
    let world = World::new(Setup::default())?;
    let text = world.setup.toml(world.rig.scratch().dir()) + alerts;
    world.write("zdd.toml", &text)?;
    Ok(world)
}

fn webhook() -> String {
    format!(
        "\n[[alert]]\nname = \"ops\"\nwebhook = \"http://{ADDRESS}/{SECRET}\"\nlabels = {{ cluster = \"a\" }}\n"
    )
}

/// Waits until as many lines begin with `start`, and returns them all.
fn told(receiver: &Receiver, start: &str, times: usize) -> Result<Vec<String>> {
    wait_for(&format!("{start:?} to be told {times} times"), LONG, LOOK_EVERY, || {
        let lines = receiver.lines();
        Ok((lines.iter().filter(|line| line.starts_with(start)).count() >= times).then_some(lines))
    })
}

/// Waits until the agent knows that so many messages were taken: killed between a message and its answer it rightly sends it again.
fn taken(world: &World, times: usize) -> Result<()> {
    let dir = world.rig.scratch().path("state");
    wait_for(&format!("{times} alerts to be booked as taken"), LONG, LOOK_EVERY, || {
        let files = std::fs::read_dir(&dir).map_err(Error::io("read the state directory"))?.flatten();
        let books = files.filter(|file| file.file_name().to_string_lossy().starts_with("alerts.json"));
        let taken = |text: String| text.matches("\"taken\":true").count() >= times;
        Ok(books
            .map(|book| std::fs::read_to_string(book.path()).unwrap_or_default())
            .any(taken)
            .then_some(()))
    })
}

fn count(lines: &[String], start: &str) -> usize {
    lines.iter().filter(|line| line.starts_with(start)).count()
}

#[test]
fn what_is_wrong_is_told_once_over_kills_and_its_end_too() -> Result<()> {
    let mut world = world(&webhook())?;
    let receiver = Receiver::start(&world.rig)?;
    world.start_agent()?;
    world.wait_healthy()?;
    assert_eq!(receiver.lines(), [] as [String; 0], "nothing is wrong");

    world.set_health(&[3, 4], false)?;
    let down = "firing backend-down backend=10.81.3.2:8080 cluster=a service=web version=v2";
    let whole = "firing version-unhealthy cluster=a service=web version=v2";
    told(&receiver, down, 1)?;
    told(&receiver, whole, 1)?;
    taken(&world, 6)?;

    // A kill while it lasts: not told again. A kill while it ends: its end is told all the same.
    world.kill_agent();
    world.start_agent()?;
    world.wait_health(&[3, 4])?;
    world.servers().set_healthy("b1", false);
    world.wait_health(&[1, 3, 4])?;
    let lines = told(&receiver, "firing backend-down backend=10.81.1.2:8080", 1)?;
    assert_eq!((count(&lines, down), count(&lines, whole)), (1, 1), "{lines:#?}");
    world.kill_agent();
    world.servers().set_healthy("b3", true);
    world.servers().set_healthy("b4", true);
    world.start_agent()?;
    world.wait_health(&[1])?;
    let lines = told(&receiver, &down.replace("firing", "resolved"), 1)?;
    told(&receiver, &whole.replace("firing", "resolved"), 1)?;
    assert_eq!(count(&lines, down), 1, "{lines:#?}");
    assert_eq!(count(&lines, "resolved backend-down backend=10.81.1.2:8080"), 0, "{lines:#?}");

    // All of them: the service fails open.
    world.set_health(&[1, 2, 3, 4], false)?;
    told(&receiver, "firing service-alarm cluster=a service=web", 1)?;
    let log = std::fs::read_to_string(world.agent_log()).map_err(Error::io("read the log"))?;
    assert!(!log.contains(SECRET), "the address is in the log");
    Ok(())
}

#[test]
fn a_receiver_that_refuses_is_asked_again_and_one_that_hangs_holds_up_nobody() -> Result<()> {
    let hangs = "\n[[alert]]\nname = \"hangs\"\nwebhook = \"http://127.0.0.1:9801/\"\ntimeout = \"5s\"\n";
    let mut world = world(&(webhook() + hangs))?;
    let receiver = Receiver::start(&world.rig)?;
    // It accepts and never answers.
    let _silent = world.rig.in_ns("lb", || std::net::TcpListener::bind("127.0.0.1:9801"))?.expect("free");
    receiver.refuses(true);
    world.start_agent()?;
    world.wait_healthy()?;
    world.set_health(&[3], false)?;
    let log = world.agent_log();
    wait_for("the refusal to be logged", LONG, LOOK_EVERY, || {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        Ok(log.contains("status 500").then_some(()))
    })?;
    receiver.refuses(false);
    told(&receiver, "firing backend-down backend=10.81.3.2:8080", 1)?;
    let log = std::fs::read_to_string(&log).unwrap_or_default();
    assert!(log.contains("no answer within 5s") || log.contains("hangs"), "{log}");
    assert!(!log.contains(SECRET), "the address is in the log");
    Ok(())
}

#[test]
fn a_rollout_that_goes_back_and_a_state_that_cannot_be_written_are_told() -> Result<()> {
    let mut world = World::new(Setup {
        rollout: Some(
            "[service.rollout]\nstrategy = \"canary\"\nsteps = [{ weight = 20 }, { pause = \"until-promoted\" }]\n\
             [[service.rollout.analysis]]\nname = \"health\"\ninterval = \"200ms\"\n\
             builtin = { metric = \"healthy-share\", success = \">= 1\" }\n"
                .to_owned(),
        ),
        ..Setup::default()
    })?;
    let text = world.setup.toml(world.rig.scratch().dir()) + &webhook();
    world.write("zdd.toml", &text)?;
    let receiver = Receiver::start(&world.rig)?;
    world.start_agent()?;
    world.wait_healthy()?;
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    wait_for("v2 to have its share", PATIENCE, LOOK_EVERY, || {
        let report: Value = world.zdd().json(&["rollout", "status", "web"])?;
        Ok((report["weight"] == 0.2).then_some(()))
    })?;
    world.set_health(&[3, 4], false)?;
    told(&receiver, "firing rollout-rolled-back cluster=a rollout=1 service=web version=v2", 1)?;

    // Nobody can write there any more: a file is where the directory was.
    let dir = world.rig.scratch().path(world.setup.state_dir);
    let away = world.rig.scratch().path("state-away");
    std::fs::rename(&dir, &away).map_err(Error::io("move the state away"))?;
    std::fs::write(&dir, "").map_err(Error::io("make a file"))?;
    world.set_health(&[3, 4], true)?;
    told(&receiver, "firing state-not-written", 1)?;
    std::fs::remove_file(&dir).map_err(Error::io("remove the file"))?;
    std::fs::rename(&away, &dir).map_err(Error::io("move the state back"))?;
    told(&receiver, "resolved state-not-written", 1)?;
    told(&receiver, "resolved backend-down", 2)?;
    Ok(())
}

#[test]
fn a_real_alertmanager_takes_alerts_and_their_end() -> Result<()> {
    const SERVER: &str = "http://127.0.0.1:9093";
    let mut world =
        world(&format!("\n[[alert]]\nname = \"am\"\nalertmanager = \"{SERVER}\"\nrepeat = \"2s\"\n"))?;
    let config =
        world.write("alertmanager.yml", "route: { receiver: nobody }\nreceivers: [{ name: nobody }]\n")?;
    let mut command = Command::new("prometheus-alertmanager");
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.path={}", world.rig.scratch().path("alertmanager").display()));
    command.args(["--web.listen-address=127.0.0.1:9093", "--cluster.listen-address="]);
    let _server = world.rig.ns("lb").spawn_logged(command, &world.rig.scratch().path("alertmanager.log"))?;
    wait_for("the Alertmanager to be ready", LONG, LOOK_EVERY, || {
        Ok::<_, Error>(curl(world.rig.ns("lb"), None, &format!("{SERVER}/-/ready")).ok())
    })?;
    world.start_agent()?;
    world.wait_healthy()?;
    world.set_health(&[3], false)?;
    let active = |world: &World| -> Result<Vec<Value>> {
        let said = curl(world.rig.ns("lb"), None, &format!("{SERVER}/api/v2/alerts?active=true"))?;
        Ok(serde_json::from_str(&said).expect("JSON"))
    };
    let alert = wait_for("the alert to be active", LONG, LOOK_EVERY, || {
        let all = active(&world)?;
        Ok(all.into_iter().find(|a| a["labels"]["service"] == "web"))
    })?;
    assert_eq!(alert["labels"]["alertname"], "ZddBackendDown");
    assert_eq!(alert["labels"]["backend"], "10.81.3.2:8080");
    assert!(alert["annotations"]["summary"].as_str().is_some_and(|s| s.contains("status 503")), "{alert}");
    // Told again and again it is one alert, with one beginning.
    let ends = alert["endsAt"].clone();
    wait_for("it to be told again", LONG, LOOK_EVERY, || {
        let all = active(&world)?;
        let again = all.iter().find(|a| a["fingerprint"] == alert["fingerprint"] && a["endsAt"] != ends);
        Ok(again.map(|again| assert_eq!(again["startsAt"], alert["startsAt"])))
    })?;
    world.set_health(&[3], true)?;
    wait_for("it to be over", LONG, LOOK_EVERY, || Ok(active(&world)?.is_empty().then_some(())))
}
