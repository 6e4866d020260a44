//! What an agent costs that has nothing to do: ten services, default limits, without health checks and with the default ones.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::fleet::{Fleet, cpu, number, status};
use super::report::{Report, Unit};
use crate::rig::{Agent, Forward, LB_INTERFACES, Rig, RigSpec, VIP, backend_address, built};

const SERVICES: u16 = 10;
/// Of each service.
const BACKENDS: u16 = 3;
const MIB: f64 = 1024.0 * 1024.0;

fn config(dir: &std::path::Path) -> String {
    let dir = dir.display();
    let mut text = format!(
        "[agent]\ninterfaces = [\"{LB_INTERFACES}\"]\npin_dir = \"{dir}/bpf/zdd\"\nstate_dir = \"{dir}/state\"\nsocket = \"{dir}/zdd.sock\"\n"
    );
    let backend = backend_address(1);
    for n in 0..SERVICES {
        let (port, one, two) = (9000 + n, 8000 + 2 * n, 8001 + 2 * n);
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "[[service]]\nname = \"s{n}\"\nvip = \"{VIP}:{port}/tcp\"\nforward = \"nat\"\n\
             [[service.version]]\nname = \"v1\"\nweight = 90\nbackends = [\"{backend}:{one}\"]\n\
             [[service.version]]\nname = \"v2\"\nweight = 10\nbackends = [\"{backend}:{two}\"]\n"
        );
    }
    text
}

/// Bytes of the process's resident memory that are the kernel's maps, which exist without it, too.
fn mapped(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let (mut of_map, mut kib) = (false, 0.0);
    for line in text.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if first.contains('-') {
            of_map = line.contains("bpf-map");
        } else if of_map && first == "Rss:" {
            kib += line.split_whitespace().nth(1).and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
        }
    }
    Ok(kib * 1024.0)
}

pub(super) fn measure(report: &mut Report) -> Result<()> {
    let rig =
        Rig::new(RigSpec { forward: Forward::Nat, backends: 1, clients: 1, vips: vec![VIP], v6: false })?;
    let file = rig.scratch().path("idle.toml");
    std::fs::write(&file, config(rig.scratch().dir()))?;
    let zdd =
        built("zdd").context("there is no zdd beside this binary: build zdd-agent in the same profile")?;
    let agent = Agent::start(&rig, &zdd, &file, Duration::from_secs(60))?;
    // What the start has begun is over.
    std::thread::sleep(Duration::from_secs(3));
    let wakes = || number(agent.pid(), "voluntary_ctxt_switches");
    let (begin, used, before) = (Instant::now(), cpu(agent.pid())?, wakes()?);
    let seconds = if report.quick { 5 } else { 60 };
    std::thread::sleep(Duration::from_secs(seconds));
    let share = (cpu(agent.pid())? - used) / begin.elapsed().as_secs_f64();
    let woken = (wakes()? - before) / begin.elapsed().as_secs_f64();
    let size = format!("{SERVICES} services, {seconds} s");
    report.row("an idle agent", size, Unit::Cores, &[share], Some(0.005));
    let memory = status(agent.pid(), "VmRSS")?;
    report.row("its memory (VmRSS)", "", Unit::Bytes, &[memory], Some(50.0 * MIB));
    report.row("of that, mapped kernel tables", "", Unit::Bytes, &[mapped(agent.pid())?], None);
    // Not the program's text, which the page cache has anyway.
    report.row("of that, its own data", "", Unit::Bytes, &[status(agent.pid(), "RssAnon")?], Some(8.0 * MIB));
    report.row("times that it woke in a second", "", Unit::Count, &[woken], Some(8.0));
    drop((agent, rig));
    probing(report, seconds)
}

/// The same while it asks 30 backends for their health, each once a second. The kernel's way to them and back, over veths, is on the
/// agent's account.
fn probing(report: &mut Report, seconds: u64) -> Result<()> {
    let health = Some("{ http = \"/health\" }");
    let world = Fleet { services: SERVICES, backends: BACKENDS, cells: 16_384, health }.build()?;
    let agent = world.start()?;
    let all = u64::from(SERVICES * BACKENDS);
    let begin = Instant::now();
    while world.answered.load(Ordering::Relaxed) < 3 * all {
        ensure!(
            begin.elapsed() < Duration::from_secs(60),
            "no probes; the agent's log ends:\n{}",
            world.log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let wakes = || number(agent.pid(), "voluntary_ctxt_switches");
    let (begin, used, woken) = (Instant::now(), cpu(agent.pid())?, wakes()?);
    let probed = world.answered.load(Ordering::Relaxed);
    std::thread::sleep(Duration::from_secs(seconds));
    let share = (cpu(agent.pid())? - used) / begin.elapsed().as_secs_f64();
    let probes = (world.answered.load(Ordering::Relaxed) - probed) as f64;
    ensure!(probes >= 0.5 * all as f64 * seconds as f64, "only {probes} probes in {seconds} s");
    let size = format!("{all} backends, {probes} probes, {seconds} s");
    report.row("an idle agent with health checks", &*size, Unit::Cores, &[share], Some(0.005));
    report.row(
        "a probe, times that the agent woke",
        &*size,
        Unit::Count,
        &[(wakes()? - woken) / probes],
        Some(0.9),
    );
    let memory = status(agent.pid(), "VmRSS")?;
    report.row("its memory then (VmRSS)", size, Unit::Bytes, &[memory], Some(50.0 * MIB));
    Ok(())
}
