//! From the start of an agent with many services to the first connection through it, and its memory then.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::fleet::{FIRST_PORT, Fleet, World, cpu, status};
use super::report::{Report, Unit};
use super::sorted;
use crate::rig::{Proc, VIP};

const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn measure(report: &mut Report) -> Result<()> {
    let (mut times, mut memory) = (Vec::new(), Vec::new());
    for services in [10u16, 100, 1_000] {
        let rounds = if report.quick { 1 } else { 3 };
        let (mut first, mut used, mut rss, mut peak, mut again) = (vec![], vec![], vec![], vec![], vec![]);
        for _ in 0..rounds {
            let world = Fleet { services, backends: 20, cells: 16_384, health: None }.build()?;
            let begin = Instant::now();
            let agent = world.start()?;
            first.push(connected(&world, &agent, services, begin)?);
            used.push(cpu(agent.pid())?);
            rss.push(status(agent.pid(), "VmRSS")?);
            peak.push(status(agent.pid(), "VmHWM")?);
            if services == 1_000 {
                agent.kill();
                again.push(ready_again(&world)?);
            }
        }
        let big = services == 1_000;
        let size = format!("{services} services x 20 backends");
        for values in [&mut used, &mut rss, &mut peak] {
            values.sort_by(f64::total_cmp);
        }
        times.push((
            f64::from(services),
            report.row(
                "agent start to first connection",
                &*size,
                Unit::Seconds,
                &sorted(first),
                big.then_some(3.0),
            ),
        ));
        report.row("its CPU time until then", &*size, Unit::Seconds, &used, None);
        let limit = big.then_some(256.0 * 1024.0 * 1024.0);
        memory.push((
            f64::from(services),
            report.row("its memory then (VmRSS)", &*size, Unit::Bytes, &rss, limit),
        ));
        report.row("the most it had (VmHWM)", &*size, Unit::Bytes, &peak, None);
        if big {
            report.row("killed and started again: until ready", &*size, Unit::Seconds, &sorted(again), None);
        }
    }
    report.growth("agent start to first connection", "services", Unit::Seconds, times);
    report.growth("its memory then (VmRSS)", "services", Unit::Bytes, memory);
    Ok(())
}

/// How long until a client gets through to the last service.
fn connected(world: &World, agent: &Proc, services: u16, begin: Instant) -> Result<Duration> {
    let last = SocketAddr::from((VIP, FIRST_PORT + services - 1));
    world.rig.in_ns("c", || {
        loop {
            // Refused at once while the VIP is the stack's own.
            if TcpStream::connect_timeout(&last, Duration::from_millis(200)).is_ok() {
                return Ok(begin.elapsed());
            }
            if begin.elapsed() > PATIENCE || !alive(agent) {
                bail!(
                    "no connection to {last} after {:?}; the agent's log ends:\n{}",
                    begin.elapsed(),
                    world.log()
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    })?
}

fn alive(agent: &Proc) -> bool {
    status(agent.pid(), "VmRSS").is_ok()
}

/// How long a second agent takes to say that it is ready: it finds everything in the maps.
fn ready_again(world: &World) -> Result<Duration> {
    let log = world.rig.scratch().path("agent.log");
    std::fs::remove_file(&log)?;
    let begin = Instant::now();
    let agent = world.start()?;
    while !std::fs::read_to_string(&log).unwrap_or_default().contains("ready") {
        if begin.elapsed() > PATIENCE || !alive(&agent) {
            bail!("the agent did not come back; its log ends:\n{}", world.log());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(begin.elapsed())
}
