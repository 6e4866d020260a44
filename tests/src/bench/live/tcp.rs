//! Real TCP: iperf3 for much data, wrk for requests, with the CPU time that each took.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::rows::{Report, Series, Unit};
use super::scene::{BULK_PORT, Scene, WEB_PORT, Way, Work};
use crate::bench::options::Options;
use crate::rig::line_of;

/// What clients do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Load {
    Bulk,
    Requests,
    Connections,
}

const LOADS: [(Load, &str, &str, Unit); 3] = [
    (Load::Bulk, "TCP, one connection (iperf3)", "1", Unit::Gigabyte),
    (Load::Requests, "HTTP, kept alive (wrk)", "32", Unit::Request),
    (Load::Connections, "HTTP, one connection each (wrk)", "new", Unit::Connection),
];

/// Connections of wrk's at a time.
const AT_A_TIME: &str = "32";
/// A client that takes longer hangs.
const HANGS: Duration = Duration::from_secs(30);

/// Measures every way under every load.
pub(super) fn measure(
    scenes: &mut [Scene],
    options: &Options,
    report: &mut Report,
    say: &dyn Fn(&str),
) -> Result<()> {
    let rounds = options.rounds.unwrap_or(if options.quick { 2 } else { 5 });
    for (load, case, flows, unit) in LOADS {
        let mut all: Vec<Series> = scenes.iter().map(|scene| Series::new(scene.way.name())).collect();
        for round in 0..rounds {
            for n in 0..scenes.len() {
                let at = (n + round) % scenes.len();
                let scene = &scenes[at];
                if options.quick && scene.way == Way::Routed {
                    continue;
                }
                say(&format!("{case}, round {} of {rounds}: {}", round + 1, scene.way.name()));
                let measured = run(scene, load, options.quick);
                all[at].push(measured.with_context(|| format!("{case}: {}", scene.way.name()))?);
            }
        }
        all.retain(|series| !series.is_empty());
        report.add(case, flows, unit, all, Way::Direct.name(), None);
    }
    Ok(())
}

/// Seconds, how many, and the work.
fn run(scene: &Scene, load: Load, quick: bool) -> Result<(f64, u64, Work)> {
    let before = scene.work()?;
    let (seconds, count, client) = match load {
        Load::Bulk => iperf3(scene, quick)?,
        Load::Requests => wrk(scene, &[])?,
        Load::Connections => wrk(scene, &["-H", "Connection: close"])?,
    };
    let after = scene.work()?;
    let balancer = if scene.balances() { after.balancer - before.balancer } else { 0 };
    Ok((seconds, count, Work { balancer, all: after.all - before.all + client }))
}

/// Seconds, bytes, and the client's CPU time.
fn iperf3(scene: &Scene, quick: bool) -> Result<(f64, u64, u64)> {
    let amount = if quick { ["-n", "200M"] } else { ["-t", "1"] };
    let begin = Instant::now();
    loop {
        let mut command = Command::new("iperf3");
        command.args(["-J", "-c", &scene.way.dialled().to_string(), "-p", &BULK_PORT.to_string()]);
        command.args(["--connect-timeout", "3000"]).args(amount);
        let (text, client, success) = client(scene, command)?;
        let answer: serde_json::Value =
            serde_json::from_str(&text).with_context(|| format!("iperf3 printed {text:?}"))?;
        if let Some(error) = answer["error"].as_str() {
            // It serves one at a time, and takes a moment to see that the last one has gone.
            ensure!(error.contains("busy") && begin.elapsed() < HANGS, "iperf3: {error}");
            std::thread::sleep(Duration::from_millis(50));
            continue;
        }
        ensure!(success, "iperf3 failed: {text}");
        let sum = &answer["end"]["sum_received"];
        let number = |name: &str| sum[name].as_f64().with_context(|| format!("iperf3 told no {name}"));
        return Ok((number("seconds")?, number("bytes")? as u64, client));
    }
}

/// Seconds, requests, and the client's CPU time.
fn wrk(scene: &Scene, headers: &[&str]) -> Result<(f64, u64, u64)> {
    let mut command = Command::new("wrk");
    command.args(["-t", "1", "-c", AT_A_TIME, "-d", "1s"]).args(headers);
    command.arg(format!("http://{}:{WEB_PORT}/", scene.way.dialled()));
    let (text, client, success) = client(scene, command)?;
    ensure!(success, "wrk failed: {text}");
    let (seconds, requests) = parse(&text)?;
    Ok((seconds, requests, client))
}

/// Seconds and requests of wrk's report; errors among more than one in a hundred are an error.
fn parse(text: &str) -> Result<(f64, u64)> {
    let line = text.lines().find(|line| line.contains(" requests in "));
    let mut words = line.with_context(|| format!("wrk printed {text:?}"))?.split_whitespace();
    let requests: u64 =
        words.next().and_then(|word| word.parse().ok()).context("wrk's number of requests")?;
    let rate = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
    let rate: f64 = rate.and_then(|rate| rate.trim().parse().ok()).context("wrk's rate")?;
    let bad = text.lines().filter(|line| line.contains("Socket errors") || line.contains("Non-2xx"));
    let errors: u64 = bad
        .flat_map(|line| line.split(|c: char| !c.is_ascii_digit()))
        .filter_map(|word| word.parse::<u64>().ok())
        .sum();
    ensure!(
        requests > 0 && rate > 0.0 && errors * 100 <= requests,
        "wrk: {errors} errors, {requests} requests: {text}"
    );
    Ok((requests as f64 / rate, requests))
}

/// Runs a program inside the clients' namespace. Returns what it printed, its CPU time, and whether it succeeded.
fn client(scene: &Scene, command: Command) -> Result<(String, u64, bool)> {
    let file = scene.rig.scratch().path("client");
    let line = line_of(&command);
    let mut inside = scene.rig.ns("c").command(command.get_program());
    inside.args(command.get_args()).process_group(0).stdin(Stdio::null());
    let out = std::fs::File::create(&file)?;
    inside.stdout(out.try_clone()?).stderr(out);
    let child = inside.spawn().with_context(|| line.clone())?;
    let (status, ns) = reap(child.id().cast_signed(), &line)?;
    Ok((read(&file)?, ns, libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0))
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| file.display().to_string())
}

/// Waits for a child, and kills one that hangs. Its status and the CPU time of all its threads.
fn reap(pid: i32, line: &str) -> Result<(i32, u64)> {
    let begin = Instant::now();
    loop {
        let mut status = 0;
        // SAFETY: all zero is a valid rusage.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: valid places for the answers; the child is ours, and nobody else waits for it.
        match unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG, &raw mut usage) } {
            0 if begin.elapsed() > HANGS => {
                // SAFETY: not waited for yet, so the id is the child's.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                // SAFETY: as above.
                unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
                bail!("`{line}` hung for {} s", HANGS.as_secs());
            }
            0 => std::thread::sleep(Duration::from_millis(5)),
            done if done == pid => {
                let ns =
                    |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000;
                return Ok((status, ns(usage.ru_utime) + ns(usage.ru_stime)));
            }
            _ => return Err(std::io::Error::last_os_error()).context(line.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Running 1s test\n  30000 requests in 1.10s, 4.2MB read\nRequests/sec:  27272.73\n";

    #[test]
    fn wrks_report_is_read() {
        let (seconds, requests) = parse(GOOD).expect("a report");
        assert!((seconds - 1.1).abs() < 0.001 && requests == 30_000);
    }

    #[test]
    fn a_run_with_errors_is_no_figure() {
        let line = "  Socket errors: connect 0, read 400, write 0, timeout 0\n";
        assert!(parse(&format!("{GOOD}{line}")).is_err());
        assert!(parse("unable to connect").is_err());
    }
}
