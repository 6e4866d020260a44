//! No change waits for the disk, for another one's disk, or for packets: seen in the agent's system calls, under a disk that is slow.

use std::fs;
use std::process::Command;
use std::time::Instant;

use zdd_agent::control::RolloutAct;
use zdd_tests::rig::{Proc, Result, wait_for};
use zdd_tests::world::status::count;
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World, as_before, unharmed};

use crate::undo::{Asked, Commits};

/// What each fsync(2) takes longer.
const DELAY: &str = "delay_enter=400000";

/// Threads of a process with their names.
fn threads(pid: u64) -> Vec<(u64, String)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    let tid = |task: fs::DirEntry| task.file_name().to_string_lossy().parse().expect("a number");
    let all = tasks.map(|task| tid(task.expect("a thread")));
    all.map(|tid| (tid, fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm")).unwrap_or_default()))
        .collect()
}

/// strace(1) on every thread of the agent.
fn traced(pid: u64, to: &std::path::Path) -> Result<Proc> {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "trace=fsync,fdatasync,bpf", "-e"]);
    strace.arg(format!("inject=fsync,fdatasync:{DELAY}"));
    strace.arg("-o").arg(to).args(["-p", &pid.to_string()]);
    let strace = Proc::start_logged(strace, &to.with_extension("log"))?;
    let traced = |tid: u64| {
        let status = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).unwrap_or_default();
        status.lines().any(|line| line == format!("TracerPid:\t{}", strace.pid()))
    };
    wait_for("strace", PATIENCE, LOOK_EVERY, || {
        Ok(threads(pid).iter().all(|(tid, _)| traced(*tid)).then_some(()))
    })?;
    Ok(strace)
}

#[test]
fn no_change_waits_for_a_disk_or_for_packets_before_it_is_in_force() -> Result<()> {
    let rollout = "[service.rollout]\nstrategy = \"canary\"\nsteps = [{ weight = 10 }, { pause = \"until-promoted\" }]\n\
                   [[service.rollout.analysis]]\nname = \"exec\"\ninterval = \"1d\"\ndry_run = true\nexec = { argv = [\"/bin/true\"] }\n";
    // Nothing settles and no backend fails meanwhile: those would be commits of their own.
    let setup =
        Setup { rollout: Some(rollout.to_owned()), idle_ms: 600_000, health: None, ..Setup::default() };
    let world = World::running_unchecked(setup)?;
    let load = world.load(10)?;
    let seen = Commits::of(&world);
    let pid = count(&world.status()?, "/pid");
    let file = world.rig.scratch().path("strace.txt");
    let strace = traced(pid, &file)?;
    let mut waited = Vec::new();
    for _ in 0..3 {
        let mut first = Asked::of(&world);
        let mut second = Asked::of(&world);
        // One operator's change is in force and not on the disk yet: he waits. The other takes it back.
        let began = Instant::now();
        let start = std::thread::scope(|scope| {
            let start = scope.spawn(|| {
                first.act(RolloutAct::Start { version: "v2".to_owned(), replace: Vec::new() });
                began.elapsed()
            });
            seen.after(began);
            let since = Instant::now();
            let report = second.act(RolloutAct::Undo { to: None });
            let (answered, committed) = (since.elapsed(), seen.after(since));
            assert_eq!((report.weight, report.phase.as_str()), (0.0, "rolled-back"));
            waited.push((committed, answered));
            start.join().expect("answered")
        });
        assert!(start.as_millis() >= 800, "the disk is not slow: {start:?}");
    }
    // The disk takes at least three times its delay from the commit to the answer. A commit that waits for it does so each time; one that
    // was seen late on a busy machine is one of several.
    assert!(
        waited.iter().any(|(committed, answered)| *committed * 3 < *answered),
        "in force and answered after: {waited:?}"
    );
    let named = threads(pid);
    strace.terminate(PATIENCE)?;
    let text = fs::read_to_string(file).expect("what strace has seen");
    let of = |tid: u64| {
        let own = move |line: &&str| line.split_whitespace().next() == Some(&tid.to_string());
        text.lines().filter(own).collect::<Vec<_>>()
    };
    let grace = named
        .iter()
        .find(|(_, name)| name.trim() == "zdd-grace")
        .expect("the thread that waits for packets")
        .0;
    // The map whose update waits for all packets that are under way.
    let waits = of(grace).into_iter().find_map(|line| {
        let from = line.split("BPF_MAP_UPDATE_ELEM, {").nth(1)?;
        Some(format!("BPF_MAP_UPDATE_ELEM, {{{},", from.split(',').next()?))
    });
    let waits = waits.expect("commits were followed by a grace period");
    let held: Vec<&str> =
        of(pid).into_iter().filter(|line| line.contains("sync(") || line.contains(&waits)).collect();
    assert!(held.is_empty(), "the loop that acts has waited: {held:#?}");
    assert!(text.matches("sync(").count() >= 12, "{text}");
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}
