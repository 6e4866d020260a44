//! The commands: one question to the agent each, and its answer printed.

use std::path::Path;

use clap::CommandFactory;
use futures::{Stream, StreamExt};
use serde::Serialize;

use super::Outcome;
use super::args::{Args, BackendCommand, Command};
use super::output::{Output, remark};
use super::table;
use super::who_moves;
use crate::api::client::{Client, ClientError};
use crate::config::{Config, ConfigError, ConfigErrors, Warning};
use crate::control::Refused;
use crate::logging;
use crate::report::{BackendStatus, DrainReport, ServiceStatus};

/// Runs the agent in the foreground.
pub fn agent(config: &Path) -> anyhow::Result<Outcome> {
    let (desired, warnings) = Config::load(config)?;
    logging::start(desired.agent.log_json)?;
    crate::agent::run(desired, warnings)?;
    Ok(Outcome::Done)
}

/// Prints a completion script.
pub fn completions(shell: clap_complete::Shell, out: &mut Output) -> anyhow::Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "zdd", &mut script);
    out.write(&script)?;
    Ok(Outcome::Done)
}

/// `zdd check --json`.
#[derive(Debug, Serialize)]
struct CheckReport {
    valid: bool,
    services: usize,
    versions: usize,
    backends: usize,
    errors: Vec<ConfigError>,
    warnings: Vec<Warning>,
}

/// Validates a file.
pub fn check(file: &Path, out: &mut Output) -> anyhow::Result<Outcome> {
    let mut report = CheckReport {
        valid: false,
        services: 0,
        versions: 0,
        backends: 0,
        errors: Vec::new(),
        warnings: Vec::new(),
    };
    let loaded = Config::load(file).and_then(|(mut desired, warnings)| match desired.read_cohorts() {
        Ok(()) => Ok((desired, warnings)),
        Err(failed) => {
            let (what, help) =
                failed.split_once("\nhelp: ").unwrap_or((&failed, "mend the file that it names"));
            Err(ConfigErrors::single(&file.display().to_string(), what.to_owned(), help))
        }
    });
    match loaded {
        Ok((desired, warnings)) => {
            let versions = || desired.services.iter().flat_map(|service| &service.versions);
            report.valid = true;
            report.services = desired.services.len();
            report.versions = versions().count();
            report.backends = versions().map(|version| version.backends.len()).sum();
            report.warnings = warnings;
        }
        Err(errors) if !out.is_json() => return Err(errors.into()),
        Err(errors) => report.errors = errors.errors,
    }
    if !out.is_json() {
        report.warnings.iter().for_each(|warning| remark("warning", &warning.to_string()));
    }
    out.print(&report, |report| {
        let CheckReport { services, versions, backends, .. } = report;
        format!("{}: valid: services {services}, versions {versions}, backends {backends}\n", file.display())
    })?;
    Ok(if report.valid { Outcome::Done } else { Outcome::Failed })
}

/// Everything that needs an agent.
pub async fn ask(command: Command, mut client: Client, out: &mut Output) -> anyhow::Result<Outcome> {
    let colours = out.colours();
    match command {
        Command::Agent { .. }
        | Command::Check { .. }
        | Command::Lint { .. }
        | Command::Completions { .. }
        | Command::Decap(_)
        | Command::Doctor { .. }
        | Command::Man { .. }
        | Command::SupportBundle { .. }
        | Command::Top => {
            unreachable!("these need no agent and were done before")
        }
        Command::Status { watch: false, .. } => {
            out.print(&client.status().await?, |status| table::status(status, colours))?;
        }
        Command::Status { watch: true, interval } => {
            let mut reports = client.watch_status(interval).await?;
            let mut interrupt = super::interrupts()?;
            loop {
                let report = tokio::select! {
                    report = reports.next() => report,
                    _ = interrupt.recv() => return Ok(Outcome::Done),
                };
                let report = report.ok_or_else(|| ClientError::Broke("it stops".to_owned()))?;
                out.redraw(&report?, |status| table::status(status, colours))?;
            }
        }
        Command::Shift { service, weights, force, safely } => {
            let mut client = client.with(safely.into());
            out.print(&client.shift(&service, &weights, force).await?, table::shift)?;
        }
        Command::Rollback { service, force, safely } => {
            let mut client = client.with(safely.into());
            out.print(&client.rollback(&service, force).await?, table::shift)?;
        }
        Command::Rollout(command) => return super::rollout::ask(command, &mut client, out).await,
        Command::Train(command) => return super::rollout::train(command, &mut client, out).await,
        Command::Gate(command) => return super::rollout::gate(command, &mut client, out).await,
        Command::Backend(BackendCommand::Add { service, version, address, weight, safely }) => {
            let report = client.with(safely.into()).backend_add(&service, &version, address, weight).await?;
            out.print(&report, |report| table::changed(report, &format!("{address} added to {version}")))?;
        }
        Command::Backend(BackendCommand::Remove { service, address, deadline, safely }) => {
            let report = client.with(safely.into()).backend_remove(&service, address, deadline).await?;
            out.print(&report, |report| {
                table::changed(report, &format!("{address} drains and is then removed"))
            })?;
        }
        Command::Backend(BackendCommand::List { service }) => {
            let backends = list(client.status().await?.services, service.as_deref())?;
            out.print(&backends, |backends| table::backends(backends, colours))?;
        }
        Command::Drain { if_file: Some(file), .. } if !file.exists() => {
            let note = format!("{} is not there: nothing is drained", file.display());
            match out.is_json() {
                true => out.print(&Skipped { skipped: note }, |_| String::new())?,
                false => remark("note", &note),
            }
        }
        Command::Drain { target: None, node, deadline, wait, force, safely, .. } => {
            let node = node.named().unwrap_or_default();
            return super::node::drain(&node, deadline, wait, force, client.with(safely.into()), out).await;
        }
        Command::Drain { target: Some(target), deadline, wait, safely, .. } => {
            let mut client = client.with(safely.into());
            let report = client.drain(&target, deadline).await?;
            if wait && !report.drained {
                if !out.is_json() {
                    remark("note", &table::waits_for(&report, &target.to_string()));
                }
                return wait_drained(client.wait_drained(&target).await?, &target.to_string(), out).await;
            }
            out.print(&report, |report| table::drain(report, &target.to_string()))?;
        }
        Command::Undrain { target: None, node, safely } => {
            let node = node.named().unwrap_or_default();
            let report = client.with(safely.into()).undrain_node(&node).await?;
            out.print(&report, super::node::undrained)?;
        }
        Command::Undrain { target: Some(target), safely, .. } => {
            let report = client.with(safely.into()).undrain(&target).await?;
            out.print(&report, |report| table::changed(report, &format!("{target} takes new flows again")))?;
        }
        Command::Apply { file, dry_run, safely } => {
            let name = file.display().to_string();
            // The agent validates what it gets by its own rules, and its mistakes come back as this build's would.
            let text = Config::read(&file)?;
            Config::parse(&text, &name)?;
            let report = client.with(safely.into()).apply(text, name, dry_run).await?;
            if !out.is_json() {
                report.warnings.iter().for_each(|warning| remark("warning", warning));
            }
            out.print(&report, |report| table::plan(report, colours))?;
        }
        Command::Events { after, service, follow } => {
            // One that is gone may have left events; one that never was is a mistake that nothing else would show.
            if !service.is_empty()
                && !out.is_json()
                && client.status().await?.services.iter().all(|known| known.name != service)
            {
                remark(
                    "note",
                    &format!("there is no service `{service}` now; what is kept of an earlier one is shown"),
                );
            }
            let mut events = client.watch_events(after, &service, !follow).await?;
            let mut interrupt = super::interrupts()?;
            // The agent tells all that it has to whoever asks for what comes after a number that its log has not come to: the state may
            // have been wiped, and a program that resumes must miss nothing. A person has mistyped.
            let mut beyond = None;
            loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    _ = interrupt.recv() => return Ok(Outcome::Done),
                };
                match event.transpose()? {
                    Some(event) if event.seq <= after && !out.is_json() => beyond = Some(event.seq),
                    Some(event) => out.print(&event, table::event)?,
                    None if follow => return Err(ClientError::Broke("it stops".to_owned()).into()),
                    None => break,
                }
            }
            if let Some(last) = beyond {
                let whose = if service.is_empty() { String::new() } else { format!(" of {service}") };
                remark("note", &format!("there is no event{whose} after {after}: the last one is {last}"));
            }
        }
        Command::Explain { service, from, port, preview } => {
            out.print(&client.explain(&service, from, port, preview).await?, table::explain)?;
        }
        Command::Log { level, reason } => {
            let log = match level {
                Some(level) => {
                    let before = Some(client.set_log_level(&level, reason).await?);
                    LogLevel { level, before }
                }
                None => LogLevel { level: client.log_level().await?, before: None },
            };
            out.print(&log, |log| match &log.before {
                Some(before) => format!("the agent logs {}, before: {before}\n", log.level),
                None => format!("the agent logs {}\n", log.level),
            })?;
        }
        Command::Trace(args) => return super::trace::run(args, client, out).await,
        Command::WhoMoves { service, weights, from, port } => {
            out.print(&client.who_moves(&service, &weights, &from, port).await?, who_moves::text)?;
        }
        Command::Detach { pin_dir, config } => {
            let named = super::detach::named(pin_dir.as_deref(), config.as_deref())?;
            out.print(&client.detach(named.as_deref()).await?, table::detached)?;
        }
    }
    Ok(Outcome::Done)
}

/// Waits until the drain ends, and says how.
async fn wait_drained(
    mut reports: impl Stream<Item = Result<DrainReport, ClientError>> + Unpin,
    target: &str,
    out: &mut Output,
) -> anyhow::Result<Outcome> {
    while let Some(report) = reports.next().await {
        let report = report?;
        if report.drained || report.deadline_passed {
            out.print(&report, |report| table::drain(report, target))?;
            return Ok(if report.drained { Outcome::Done } else { Outcome::DeadlinePassed });
        }
    }
    anyhow::bail!(
        "the drain of {target} was undone, or the agent stops\nhelp: look at `zdd status`, then drain again"
    )
}

/// `zdd drain --node --if-file FILE --json` without the file.
#[derive(Debug, Serialize)]
struct Skipped {
    skipped: String,
}

/// `zdd log --json`.
#[derive(Debug, Serialize)]
struct LogLevel {
    level: String,
    /// Only where it was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<String>,
}

/// One backend with where it belongs: `zdd backend list --json`.
#[derive(Debug, Serialize)]
pub struct Listed {
    /// Service.
    pub service: String,
    /// Version.
    pub version: String,
    /// The backend as in `zdd status`.
    #[serde(flatten)]
    pub backend: BackendStatus,
}

fn list(services: Vec<ServiceStatus>, only: Option<&str>) -> Result<Vec<Listed>, Refused> {
    if let Some(only) = only.filter(|only| services.iter().all(|service| service.name != **only)) {
        let known: Vec<_> = services.iter().map(|service| service.name.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(Refused::not_found(format!("there is no service `{only}`\nhelp: the agent has {known}")));
    }
    let mut backends = Vec::new();
    for service in services.into_iter().filter(|service| only.is_none_or(|only| service.name == only)) {
        for version in service.versions {
            backends.extend(version.backends.into_iter().map(|backend| Listed {
                service: service.name.clone(),
                version: version.name.clone(),
                backend,
            }));
        }
    }
    Ok(backends)
}
