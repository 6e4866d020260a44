//! The agent under a service manager: what it tells it, and that the unit's capabilities are enough. Needs root.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use zdd_tests::rig::{Error, Proc, Result, wait_for};
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World, as_before, unharmed};

const UNIT: &str = include_str!("../../scripts/zdd.service");

/// Starts `command` with the agent's arguments in the balancer's namespace, and waits until it answers.
fn start(world: &World, mut command: Command) -> Result<Proc> {
    command.arg("--socket").arg(world.zdd().socket()).args(["agent", "--config"]).arg(world.config());
    let mut agent = world.rig.ns("lb").spawn_logged(command, &world.rig.scratch().path("agent.log"))?;
    wait_for("the agent to answer", PATIENCE, LOOK_EVERY, || {
        agent.must_run()?;
        Ok::<_, Error>(world.status().ok().map(drop))
    })?;
    Ok(agent)
}

fn heard(manager: &UnixDatagram) -> String {
    let mut bytes = [0; 256];
    let n = manager.recv(&mut bytes).expect("a word in time");
    String::from_utf8_lossy(&bytes[..n]).into_owned()
}

#[test]
fn the_manager_is_told_ready_alive_and_stopping() -> Result<()> {
    let world = World::new(Setup::default())?;
    let path = world.rig.scratch().path("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    let mut command = Command::new(world.binary());
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "3000000");
    let agent = start(&world, command)?;
    assert_eq!(heard(&manager), "READY=1\nSTATUS=ready");
    // Signs of life come again and again, as often as asked for: one may be late because the machine is, an agent that is late by itself
    // is so each time.
    let mut apart = Vec::new();
    for _ in 0..3 {
        let begin = std::time::Instant::now();
        assert_eq!(heard(&manager), "WATCHDOG=1");
        apart.push(begin.elapsed());
    }
    assert!(apart.iter().min() < Some(&Duration::from_secs(3)), "{apart:?}");
    // A manager takes an end by SIGHUP for one in order and starts nobody: it must not be one.
    agent.signal(libc::SIGHUP);
    wait_for("a word about it", PATIENCE, LOOK_EVERY, || {
        let log = std::fs::read_to_string(world.rig.scratch().path("agent.log")).unwrap_or_default();
        Ok::<_, Error>(log.contains("SIGHUP reads no file").then_some(()))
    })?;
    world.status()?;
    agent.signal(libc::SIGTERM);
    let last = std::iter::repeat_with(|| heard(&manager)).take(10).find(|word| word != "WATCHDOG=1");
    assert!(last.as_deref().is_some_and(|word| word.starts_with("STOPPING=1\n")), "{last:?}");
    assert!(agent.terminate(PATIENCE)?.success());
    Ok(())
}

#[test]
fn the_watchdog_of_another_process_is_not_fed() -> Result<()> {
    let world = World::new(Setup::default())?;
    let path = world.rig.scratch().path("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    let mut command = Command::new(world.binary());
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "600000").env("WATCHDOG_PID", "1");
    let _agent = start(&world, command)?;
    manager.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    assert_eq!(heard(&manager), "READY=1\nSTATUS=ready");
    // The watchdog of another process is not ours to feed.
    manager.set_read_timeout(Some(Duration::from_millis(900))).expect("a deadline");
    assert!(manager.recv(&mut [0; 64]).is_err(), "nothing is told");
    Ok(())
}

#[test]
fn the_capabilities_of_the_unit_are_enough() -> Result<()> {
    let mut world = World::new(Setup::default())?;
    let line =
        UNIT.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("it names them");
    let names: Vec<String> =
        line.split(' ').map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase())).collect();
    let mut command = Command::new("setpriv");
    command.args([
        "--bounding-set",
        &format!("-all,{}", names.join(",")),
        "--inh-caps",
        "-all",
        "--no-new-privs",
        "--",
    ]);
    command.arg(world.binary());
    let agent = start(&world, command)?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("a process");
    let set = status.lines().find_map(|l| l.strip_prefix("CapEff:")).expect("a set").trim().to_owned();
    let set = u64::from_str_radix(&set, 16).expect("a number");
    assert_eq!(set.count_ones() as usize, names.len(), "{status}");
    world.wait_healthy()?;
    let load = world.load(10)?;
    world.zdd().run(&["shift", "web", "v2=50%"])?;
    as_before(&load)?;
    // Next hops and interfaces that come later need the same rights again.
    world.rig.wire(("lb", "zlnew"), ("b1", "bnew"))?;
    world.wait_status("zlnew to be attached", |status| {
        let interface = zdd_tests::world::status::interface(status, "zlnew")?;
        (interface["attached"] == true).then_some(())
    })?;
    world.zdd().run(&["rollback", "web"])?;
    as_before(&load)?;
    unharmed(&load.finish());
    assert!(agent.terminate(PATIENCE)?.success());
    Ok(())
}
