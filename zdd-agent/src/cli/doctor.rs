//! `zdd doctor`: all findings, one line each, and the way out below those that need one.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::Path;

use serde::Serialize;

use super::Outcome;
use super::output::Output;
use crate::api::client::{Client, ClientError};
use crate::config::Config;
use crate::doctor::{self, Finding, Level};
use crate::report::{Health, Status};

/// `zdd doctor --json`.
#[derive(Debug, Serialize)]
struct Report {
    /// The worst level among them.
    level: Level,
    findings: Vec<Finding>,
}

/// Looks, prints, and says by the outcome how bad it is: 0 nothing to do, 1 warnings only, 2 at least one problem.
pub async fn run(config: Option<&Path>, socket: &Path, out: &mut Output) -> anyhow::Result<Outcome> {
    let mut findings = doctor::machine();
    let mut socket = socket.to_owned();
    match config.map(Config::load) {
        None => findings.push(Finding::ok(
            "config",
            "none is named: interfaces, settings, pins and backends were not looked at (--config FILE)",
        )),
        Some(Err(errors)) => findings.extend(errors.errors.iter().map(|error| {
            let what = format!("{}: {}", errors.place(error), error.message);
            Finding::problem("config", what, &*error.help)
        })),
        Some(Ok((desired, warnings))) => {
            if warnings.is_empty() {
                findings.push(Finding::ok("config", format!("valid: services {}", desired.services.len())));
            }
            findings.extend(warnings.iter().map(|warning| {
                Finding::warning("config", warning.to_string(), "change it, or leave it if it is meant so")
            }));
            findings.extend(doctor::configured(&desired).await);
            // The file says where its agent listens; a socket that was named by hand counts more.
            if socket == Path::new(super::args::SOCKET) {
                socket = desired.agent.socket;
            }
        }
    }
    findings.extend(agent(&socket).await);
    let level = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    out.print(&Report { level, findings }, |report| text(&report.findings))?;
    Ok(match level {
        Level::Ok => Outcome::Done,
        Level::Warning => Outcome::Failed,
        Level::Problem => Outcome::Usage,
    })
}

async fn agent(socket: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(pid) = serving(socket).await {
        findings.push(doctor::sandbox(pid));
    }
    findings.extend(answers(socket).await);
    findings
}

/// The process behind a socket, as the kernel knows it; `None`: nobody is, or it is not one of this PID namespace.
async fn serving(socket: &Path) -> Option<i32> {
    let stream = tokio::net::UnixStream::connect(socket).await.ok()?;
    stream.peer_cred().ok()?.pid().filter(|pid| *pid > 0)
}

async fn answers(socket: &Path) -> Vec<Finding> {
    let status = match Client::connect(socket).await {
        Ok(mut client) => client.status().await,
        Err(error) => Err(error),
    };
    match status {
        Ok(status) => healthy(&status),
        Err(ClientError::Unreachable { source, .. }) if source.kind() == ErrorKind::PermissionDenied => {
            vec![Finding::warning(
                "agent",
                format!("{} is not this user's to use: whether one answers is not known", socket.display()),
                "run it as root, as the agent's own user, or as a member of agent.api.socket_group",
            )]
        }
        // Whether one should is what `pins` says.
        Err(ClientError::Unreachable { .. }) => {
            vec![Finding::ok("agent", format!("none answers on {}", socket.display()))]
        }
        Err(error) => {
            let what = error.to_string();
            let what = what.lines().next().unwrap_or_default().to_owned();
            vec![Finding::problem(
                "agent",
                what,
                "look at its log; start it again: traffic goes on meanwhile",
            )]
        }
    }
}

/// What a running agent says of itself.
fn healthy(status: &Status) -> Vec<Finding> {
    let mut findings = Vec::new();
    let own = env!("CARGO_PKG_VERSION");
    if status.build != own {
        findings.push(Finding::warning(
            "agent",
            format!("process {} is zdd {}, this is {own}", status.pid, status.build),
            "restart the agent with this build (traffic goes on), or use its own",
        ));
    }
    for interface in status.interfaces.iter().filter(|interface| !interface.attached) {
        let note = interface.note.as_deref().unwrap_or("no reason told");
        findings.push(Finding::warning(
            "agent",
            format!("not attached to {}: {note}", interface.name),
            "mend what it says; the agent tries again when the interface changes or at its next start",
        ));
    }
    for service in &status.services {
        if let Some(alarm) = &service.alarm {
            findings.push(Finding::problem(
                "agent",
                format!("{}: {alarm}", service.name),
                "mend the backends",
            ));
        }
        for (version, backend) in service.versions.iter().flat_map(|v| v.backends.iter().map(move |b| (v, b)))
        {
            let name = format!("{}/{} {}", service.name, version.name, backend.address);
            if backend.health == Health::Unhealthy {
                let why = backend.reason.as_deref().unwrap_or("no reason told");
                let fix = format!("mend it, or `zdd backend remove {} {}`", service.name, backend.address);
                findings.push(Finding::warning("agent", format!("{name} is unhealthy: {why}"), fix));
            }
        }
    }
    let table = &status.flow_table;
    if table.entries.saturating_mul(10) >= table.capacity.saturating_mul(9) {
        findings.push(Finding::problem(
            "agent",
            format!(
                "the flow table has {} of {} entries: flows can no longer be remembered, and changes wait",
                table.entries, table.capacity
            ),
            "let it settle before the next shift; raise agent.limits.flows (needs `zdd detach`, flows break)",
        ));
    }
    if status.syn_filter.fill > 0.5 {
        findings.push(Finding::warning(
            "agent",
            format!(
                "the SYN filter is {:.0}% full (a SYN flood?): shifts are refused",
                status.syn_filter.fill * 100.0
            ),
            "wait until the flood is over, or raise agent.limits.syn_filter",
        ));
    }
    if findings.is_empty() {
        let what = format!("zdd {} answers as process {}, and all is well with it", status.build, status.pid);
        findings.push(Finding::ok("agent", what));
    }
    findings
}

fn text(findings: &[Finding]) -> String {
    let mut out = String::new();
    for Finding { check, level, what, fix } in findings {
        let level = match level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Problem => "PROBLEM",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{level:<8} {check:<12} {what}");
        if let Some(fix) = fix {
            let _ = writeln!(out, "{:22}fix: {fix}", "");
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (warnings, problems) = (count(Level::Warning), count(Level::Problem));
    let _ = writeln!(out, "findings: {}, problems: {problems}, warnings: {warnings}", findings.len());
    out
}
