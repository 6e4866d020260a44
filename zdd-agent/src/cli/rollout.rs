//! `zdd rollout` and `zdd gate`.

use std::fmt::Write;
use std::time::Duration;

use futures::StreamExt;

use super::Outcome;
use super::output::Output;
use super::rollout_args::{GateCommand, Move, RolloutCommand, TrainCommand, Wait};
use super::table;
use crate::api::client::{Client, ClientError};
use crate::api::pb::ChangeOptions;
use crate::control::{RolloutAct, RolloutAsk, TrainAct};
use crate::rollout::report::{
    RolloutHistory, RolloutPlan, RolloutReport, StepReport, StoppedLine, TrainReport,
};

/// How often somebody who waits looks.
const LOOK: Duration = Duration::from_millis(100);

/// Runs one of them.
pub async fn ask(command: RolloutCommand, client: &mut Client, out: &mut Output) -> anyhow::Result<Outcome> {
    match command {
        RolloutCommand::Plan { service, version } => {
            out.print(&client.rollout_plan(&service, &version).await?, plan)?;
        }
        RolloutCommand::History { service } => {
            out.print(&client.rollout_history(&service).await?, history)?;
        }
        RolloutCommand::StopTheLine { reason } => out.print(&client.line(Some(reason)).await?, line)?,
        RolloutCommand::ReleaseTheLine => out.print(&client.line(None).await?, line)?,
        RolloutCommand::Start { service, version, replace, reason, break_glass, wait, idempotency_key } => {
            let mut keyed =
                client.clone().with(ChangeOptions { idempotency_key, ..ChangeOptions::default() });
            let ask = RolloutAsk {
                act: RolloutAct::Start { version, replace },
                revision: None,
                reason,
                break_glass,
            };
            let report = keyed.rollout(&service, ask).await?;
            return shown(report, wait, client, out).await;
        }
        RolloutCommand::Status { service, watch: true, interval, .. } => {
            let mut reports = client.watch_rollout(&service, interval).await?;
            let mut last = None;
            let mut interrupt = super::interrupts()?;
            loop {
                let report = tokio::select! {
                    report = reports.next() => report,
                    _ = interrupt.recv() => return Ok(Outcome::Done),
                };
                let Some(report) = report.transpose()? else {
                    // It ends with the rollout, or with the agent.
                    return last.ok_or_else(|| ClientError::Broke("it stops".to_owned()).into());
                };
                out.redraw(&report, status)?;
                last = report.over().then(|| outcome(&report));
            }
        }
        RolloutCommand::Status { service, wait, .. } => {
            let report = client.rollout_status(&service).await?;
            return shown(report, wait, client, out).await;
        }
        RolloutCommand::Pause(to) => return moved(RolloutAct::Pause, to, client, out).await,
        RolloutCommand::Resume(to) => return moved(RolloutAct::Resume, to, client, out).await,
        RolloutCommand::Promote { to, full } => {
            return moved(RolloutAct::Promote { full }, to, client, out).await;
        }
        RolloutCommand::Abort(to) => return moved(RolloutAct::Abort, to, client, out).await,
        RolloutCommand::Retry(to) => return moved(RolloutAct::Retry, to, client, out).await,
        RolloutCommand::Undo { to, number } => {
            return moved(RolloutAct::Undo { to: number }, to, client, out).await;
        }
    }
    Ok(Outcome::Done)
}

/// Runs one of `zdd train`.
pub async fn train(command: TrainCommand, client: &mut Client, out: &mut Output) -> anyhow::Result<Outcome> {
    let none = Wait { wait: false, timeout: None };
    let (train, act, wait) = match command {
        TrainCommand::Start { train, services, reason, wait } => {
            (train, TrainAct::Start { candidates: services, reason }, wait)
        }
        TrainCommand::Status { train, wait } => (train, TrainAct::Status, wait),
        TrainCommand::Abort { train, reason } => (train, TrainAct::Abort { reason }, none),
    };
    let mut last = client.train(&train, act).await?;
    let mut ended = Outcome::Done;
    if wait.wait {
        let end = async {
            let run = ids(&last);
            while train_outcome(&last).is_none() {
                tokio::time::sleep(LOOK).await;
                last = client.train(&train, TrainAct::Status).await?;
                anyhow::ensure!(
                    ids(&last) == run,
                    "that run of train {train} is over, and another one has begun\nhelp: `zdd rollout history SERVICE` says how it ended"
                );
            }
            Ok(())
        };
        let waited = match wait.timeout {
            Some(timeout) => tokio::time::timeout(timeout, end).await.ok(),
            None => Some(end.await),
        };
        ended = waited.transpose()?.and_then(|()| train_outcome(&last)).unwrap_or(Outcome::DeadlinePassed);
    }
    out.print(&last, |report| report.rollouts.iter().map(status).collect())?;
    Ok(ended)
}

/// Which rollouts a run of a train is made of.
fn ids(report: &TrainReport) -> Vec<(String, u64)> {
    report.rollouts.iter().map(|rollout| (rollout.service.clone(), rollout.id)).collect()
}

/// How a train has ended; `None`: it goes on. One that is frozen holds all, and people decide; one that has gone back takes all back.
fn train_outcome(report: &TrainReport) -> Option<Outcome> {
    let all = |enough: fn(&RolloutReport) -> bool| report.rollouts.iter().all(enough);
    let any = |phase: &str| report.rollouts.iter().any(|rollout| rollout.phase == phase);
    if all(RolloutReport::over) {
        Some(if any("rolled-back") { Outcome::RolledBack } else { Outcome::Done })
    } else {
        (any("frozen") && !any("rolling-back") && !any("rolled-back")).then_some(Outcome::Frozen)
    }
}

/// Runs one of `zdd gate`.
pub async fn gate(command: GateCommand, client: &mut Client, out: &mut Output) -> anyhow::Result<Outcome> {
    let (service, closed, reason) = match command {
        GateCommand::Open { service } => (service, false, String::new()),
        GateCommand::Close { service, reason } => (service, true, reason),
    };
    let report = client.gate(&service, closed, &reason).await?;
    out.print(&report, |report| table::changed(report, if closed { "gate closed" } else { "gate opened" }))?;
    Ok(Outcome::Done)
}

async fn moved(act: RolloutAct, to: Move, client: &mut Client, out: &mut Output) -> anyhow::Result<Outcome> {
    let Move { service, reason, revision, break_glass, wait } = to;
    let revision = match &act {
        // What goes back is right whatever has happened meanwhile; what goes on is meant for what the caller has seen.
        RolloutAct::Abort | RolloutAct::Undo { .. } => revision,
        _ if revision.is_some() => revision,
        _ => Some(client.rollout_status(&service).await?.revision),
    };
    let report = client.rollout(&service, RolloutAsk { act, revision, reason, break_glass }).await?;
    shown(report, wait, client, out).await
}

/// Prints a report, after its end if that is waited for.
async fn shown(
    report: RolloutReport,
    wait: Wait,
    client: &mut Client,
    out: &mut Output,
) -> anyhow::Result<Outcome> {
    if !wait.wait {
        out.print(&report, status)?;
        return Ok(Outcome::Done);
    }
    let (service, id) = (report.service.clone(), report.id);
    let mut last = report;
    let end = async {
        let mut reports = client.watch_rollout(&service, LOOK).await?;
        while let Some(report) = reports.next().await.transpose()? {
            anyhow::ensure!(
                report.id == id,
                "rollout {id} is over, and another one has begun\nhelp: `zdd rollout history {service}` says how it ended"
            );
            last = report;
            if last.over() || last.phase == "frozen" {
                return Ok(());
            }
        }
        Err(ClientError::Broke("it stops".to_owned()).into())
    };
    let waited = match wait.timeout {
        Some(timeout) => tokio::time::timeout(timeout, end).await.ok(),
        None => Some(end.await),
    };
    let outcome = match waited {
        Some(done) => {
            done?;
            outcome(&last)
        }
        None => Outcome::DeadlinePassed,
    };
    out.print(&last, status)?;
    Ok(outcome)
}

fn outcome(report: &RolloutReport) -> Outcome {
    match report.phase.as_str() {
        "rolled-back" => Outcome::RolledBack,
        "frozen" => Outcome::Frozen,
        _ => Outcome::Done,
    }
}

fn step_lines(steps: &[StepReport], rollbacks: bool) -> String {
    let width = steps.iter().map(|step| step.what.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for step in steps {
        let sign = match step.state.as_str() {
            "done" => "✔",
            "now" => "▶",
            _ => "·",
        };
        let fill = " ".repeat(width - step.what.chars().count());
        let line = if rollbacks {
            format!("  {sign} {}{fill}  rollback: {}", step.what, step.rollback)
        } else {
            format!("  {sign} {}", step.what)
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// `zdd rollout stop-the-line` and `release-the-line`.
fn line(report: &StoppedLine) -> String {
    let under_way = match report.rollouts.as_slice() {
        [] => "no rollout is under way".to_owned(),
        some => format!("rollouts under way: {}", some.join(", ")),
    };
    match &report.stopped {
        Some(why) => format!("the line is stopped ({why}): no rollout takes a step up; {under_way}\n"),
        None => format!("the line is released; {under_way}\n"),
    }
}

/// `zdd rollout plan`.
fn plan(plan: &RolloutPlan) -> String {
    let mut text = format!(
        "{}: {} from {} to {}, on failure {}\n",
        plan.service, plan.strategy, plan.stable, plan.candidate, plan.on_failure
    );
    for preview in &plan.preview {
        let _ = writeln!(text, "  preview {preview}: new flows go to {} from the start on", plan.candidate);
    }
    text.push_str(&step_lines(&plan.steps, true));
    for refusal in &plan.refusals {
        let _ = writeln!(text, "  cannot start now: {}", refusal.replace('\n', "; "));
    }
    text
}

/// `zdd rollout status`.
fn status(report: &RolloutReport) -> String {
    let why = report.why.as_ref().map_or(String::new(), |why| format!(" ({why})"));
    let mut text = format!(
        "{}: rollout {} ({}) from {} to {}: {}{why}\n",
        report.service, report.id, report.strategy, report.stable, report.candidate, report.phase
    );
    let _ = writeln!(text, "  weight {:.2}%, revision {}", report.weight * 100.0, report.revision);
    if !report.cohorts.is_empty() {
        let _ = writeln!(text, "  cohorts on {}: {}", report.candidate, report.cohorts.join(", "));
    }
    for waits in &report.waits_for {
        let _ = writeln!(text, "  waits for {waits}");
    }
    let mut steps = report.steps.clone();
    if report.phase == "rolled-back" {
        // Nothing of it is in force, and nothing follows.
        steps.retain(|step| step.state != "next");
    }
    text.push_str(&step_lines(&steps, false));
    for analysis in &report.analyses {
        let dry = if analysis.dry_run { ", dry run" } else { "" };
        let _ = writeln!(
            text,
            "  analysis {} ({}{dry}): {}/{} here; failures {}/{}, inconclusive {}/{}, errors in a row {}/{}; last: {}",
            analysis.name,
            analysis.provider,
            analysis.proven,
            analysis.count,
            analysis.failures,
            analysis.failure_limit,
            analysis.inconclusive,
            analysis.inconclusive_limit,
            analysis.errors_in_row,
            analysis.consecutive_error_limit,
            analysis.last.as_deref().unwrap_or("none yet")
        );
    }
    for line in report.log.iter().rev().take(8).rev() {
        let _ = writeln!(text, "  {} {}", time(line.unix_ms), line.text);
    }
    text
}

/// `zdd rollout history`.
fn history(history: &RolloutHistory) -> String {
    if history.rollouts.is_empty() {
        return format!("{}: no rollout is over yet\n", history.service);
    }
    let mut text = String::new();
    for past in &history.rollouts {
        let why = past.why.as_ref().map_or(String::new(), |why| format!(" ({why})"));
        let _ = writeln!(
            text,
            "{:>4}  {}  {} {} -> {}: {}{why}; {} had everything afterwards",
            past.id,
            time(past.ended_unix_ms),
            past.kind,
            past.stable,
            past.candidate,
            past.outcome,
            past.left
        );
    }
    text
}

fn time(unix_ms: u64) -> String {
    let at = std::time::UNIX_EPOCH + Duration::from_millis(unix_ms);
    humantime::format_rfc3339_seconds(at).to_string()
}
