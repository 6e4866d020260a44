//! Many services and backends around a real agent: one namespace holds all backends' addresses, the balancer's has one
//! address with as many VIPs as there are ports.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::rig::{Forward, LB_INTERFACES, Proc, Rig, RigSpec, VIP, backend_address, built};

/// Port of all backends.
const BACKEND_PORT: u16 = 8080;
/// Port of the first VIP; the others follow.
pub(super) const FIRST_PORT: u16 = 10_000;

/// What to make.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fleet {
    pub(super) services: u16,
    /// Of each service; half of them v1's, half v2's.
    pub(super) backends: u16,
    pub(super) cells: u32,
    /// `health = ...`, or nothing.
    pub(super) health: Option<&'static str>,
}

/// Backend `n` of all: 10.200.0.1 and so on.
fn backend(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 200, 0, 0)) + n + 1)
}

impl Fleet {
    fn toml(&self, dir: &Path) -> String {
        let shown = dir.display();
        let (services, backends) = (u32::from(self.services), u32::from(self.backends));
        // One row for each service, and 64 spare ones: fewer than services, more than one.
        let cells = (services + 64) * self.cells;
        let mut text = format!(
            "[agent]\ninterfaces = [\"{LB_INTERFACES}\"]\npin_dir = \"{shown}/bpf/zdd\"\nstate_dir = \"{shown}/state\"\n\
             socket = \"{shown}/zdd.sock\"\nmetrics = \"off\"\n[agent.limits]\nservices = {services}\nbackends = {}\ncells = {cells}\n",
            services * backends
        );
        // Writing to a String cannot fail.
        for service in 0..services {
            let _ = write!(
                text,
                "\n[[service]]\nname = \"s{service}\"\nvip = \"{VIP}:{}/tcp\"\nforward = \"nat\"\ncells = {}\n",
                u32::from(FIRST_PORT) + service,
                self.cells
            );
            if let Some(health) = self.health {
                let _ = writeln!(text, "health = {health}");
            }
            let half = backends.div_ceil(2);
            for (name, weight, members) in [("v1", 90, 0..half), ("v2", 10, half..backends)] {
                let members: Vec<String> = members
                    .map(|i| format!("\"{}:{BACKEND_PORT}\"", backend(service * backends + i)))
                    .collect();
                let _ = write!(
                    text,
                    "[[service.version]]\nname = \"{name}\"\nweight = {weight}\nbackends = [{}]\n",
                    members.join(", ")
                );
            }
        }
        text
    }

    /// Builds it, without an agent.
    pub(super) fn build(self) -> Result<World> {
        let rig =
            Rig::new(RigSpec { forward: Forward::Nat, backends: 1, clients: 1, vips: vec![VIP], v6: false })?;
        // Every address of the block is the backends' namespace's own.
        rig.ns("b1").run(&["ip", "route", "add", "local", "10.200.0.0/15", "dev", "lo"])?;
        let gateway = backend_address(1).to_string();
        rig.ns("lb").run(&["ip", "route", "add", "10.200.0.0/15", "via", &gateway])?;
        let config = rig.scratch().path("fleet.toml");
        std::fs::write(&config, self.toml(&rig.scratch().path("")))
            .with_context(|| format!("cannot write {}", config.display()))?;
        let answered = serve(&rig)?;
        Ok(World { rig, config, answered })
    }
}

/// A fleet with backends that answer.
pub(super) struct World {
    pub(super) rig: Rig,
    config: std::path::PathBuf,
    /// Connections that backends took.
    pub(super) answered: Arc<AtomicU64>,
}

impl World {
    /// Starts an agent and does not wait for it.
    pub(super) fn start(&self) -> Result<Proc> {
        let zdd = built("zdd")
            .context("there is no zdd beside this binary: build zdd-agent in the same profile")?;
        let mut command = std::process::Command::new(zdd);
        command.arg("agent").arg("--config").arg(&self.config);
        Ok(self.rig.ns("lb").spawn_logged(command, &self.rig.scratch().path("agent.log"))?)
    }

    /// The end of the agent's log.
    pub(super) fn log(&self) -> String {
        let text = std::fs::read_to_string(self.rig.scratch().path("agent.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

/// Backends that answer anybody with an empty page, on two threads for as long as the process lives.
fn serve(rig: &Rig) -> Result<Arc<AtomicU64>> {
    let answered = Arc::new(AtomicU64::new(0));
    let listener =
        rig.in_ns("b1", || TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, BACKEND_PORT))))??;
    for name in ["bench-server-1", "bench-server-2"] {
        let (listener, answered) = (listener.try_clone()?, Arc::clone(&answered));
        std::thread::Builder::new().name(name.into()).spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                answered.fetch_add(1, Ordering::Relaxed);
                // A client that only connects sends nothing and goes: that is an answer too.
                let _ = stream.set_read_timeout(Some(Duration::from_millis(100)));
                let mut request = [0u8; 1024];
                if stream.read(&mut request).is_ok_and(|bytes| bytes > 0) {
                    let _ = stream
                        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                }
            }
        })?;
    }
    Ok(answered)
}

/// Bytes of a line of /proc/PID/status, such as `VmRSS`.
pub(super) fn status(pid: u32, line: &str) -> Result<f64> {
    Ok(number(pid, line)? * 1024.0)
}

/// The number in a line of /proc/PID/status, such as `voluntary_ctxt_switches`.
pub(super) fn number(pid: u32, line: &str) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = text.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
    let number = value.and_then(|value| value.split_whitespace().next()?.parse::<f64>().ok());
    number.with_context(|| format!("/proc/{pid}/status has no {line}"))
}

/// Seconds of CPU time that a process has used, user and system.
pub(super) fn cpu(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum();
    // SAFETY: plain call.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok(ticks as f64 / per_second as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backend_of_a_fleet_has_an_address_of_its_own() {
        let fleet = Fleet { services: 3, backends: 5, cells: 1024, health: None };
        let text = fleet.toml(Path::new("/d"));
        let mut all: Vec<&str> = text.split('"').filter(|word| word.starts_with("10.200.")).collect();
        assert_eq!(all.len(), 15);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 15);
    }
}
