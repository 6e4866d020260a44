//! What health checks cost the agent.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::fleet::{Fleet, cpu};
use super::report::{Report, Unit};

/// 1,000 backends each.
const HTTP: &str = "{ http = \"/health\", interval = \"5s\", timeout = \"2s\" }";
const TCP: &str = "{ tcp = true, interval = \"5s\", timeout = \"2s\" }";

pub(super) fn measure(report: &mut Report) -> Result<()> {
    let mut points = Vec::new();
    for (services, backends) in [(1u16, 100u16), (1, 1_000), (10, 1_000)] {
        let all = u32::from(services) * u32::from(backends);
        let (share, rate) =
            probe(report.quick, Fleet { services, backends, cells: 131_072, health: Some(HTTP) })?;
        let target = (all == 10_000).then_some(0.3);
        let size = format!("{all} backends, {rate:.0} a second");
        points
            .push((f64::from(all), report.row("HTTP probes every 5 s", size, Unit::Cores, &[share], target)));
    }
    report.growth("HTTP probes every 5 s", "backends", Unit::Cores, points);
    if !report.quick {
        let fleet = Fleet { services: 10, backends: 1_000, cells: 131_072, health: Some(TCP) };
        let (share, rate) = probe(false, fleet)?;
        let size = format!("10000 backends, {rate:.0} a second");
        report.row("TCP probes every 5 s", size, Unit::Cores, &[share], Some(0.3));
    }
    Ok(())
}

/// The agent's share of a core while it probes, and probes per second that backends saw.
fn probe(quick: bool, fleet: Fleet) -> Result<(f64, f64)> {
    let world = fleet.build()?;
    let all = u64::from(fleet.services) * u64::from(fleet.backends);
    let agent = world.start()?;
    let begin = Instant::now();
    // All have been asked once: the start is over.
    while world.answered.load(Ordering::Relaxed) < all {
        ensure!(
            begin.elapsed() < Duration::from_secs(60),
            "only {} of {all} backends were probed; the agent's log ends:\n{}",
            world.answered.load(Ordering::Relaxed),
            world.log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_secs(1));
    let (used, answered, begin) = (cpu(agent.pid())?, world.answered.load(Ordering::Relaxed), Instant::now());
    std::thread::sleep(Duration::from_secs(if quick { 5 } else { 20 }));
    let seconds = begin.elapsed().as_secs_f64();
    let share = (cpu(agent.pid())? - used) / seconds;
    let rate = (world.answered.load(Ordering::Relaxed) - answered) as f64 / seconds;
    // With a jitter of 20 % and what a probe itself takes, a little below one in 5 s.
    ensure!(rate > 0.8 * all as f64 / 5.0, "only {rate:.0} probes a second of {all} backends");
    Ok((share, rate))
}
