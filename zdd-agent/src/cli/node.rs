//! `zdd drain --node`: all backends on a machine, waited for together.

use std::time::Duration;

use futures::{StreamExt, stream};

use super::Outcome;
use super::output::Output;
use crate::api::client::{Client, ClientError};
use crate::control::Target;
use crate::report::{NodeBackend, NodeReport};

/// Drains a node, and with `wait` returns when all of it is drained or the deadline has passed.
///
/// # Errors
/// A refusal; a drain that was undone meanwhile.
pub async fn drain(
    node: &str,
    deadline: Option<Duration>,
    wait: bool,
    force: bool,
    mut client: Client,
    out: &mut Output,
) -> anyhow::Result<Outcome> {
    let mut report = client.drain_node(node, deadline, force).await?;
    if wait {
        let mut waits = Vec::new();
        for (n, backend) in report.backends.iter().enumerate().filter(|(_, backend)| !backend.drain.drained) {
            let reports = client.wait_drained(&target(backend)).await?;
            // Each ends with a report that is the last, or without one.
            let ended = stream::once(async move { (n, None) });
            waits.push(reports.map(move |report| (n, Some(report))).chain(ended).boxed());
        }
        let mut news = stream::select_all(waits);
        while let Some((n, news)) = news.next().await {
            let over = |backend: &NodeBackend| backend.drain.drained || backend.drain.deadline_passed;
            match news {
                Some(drain) => report.backends[n].drain = drain?,
                None if over(&report.backends[n]) => {}
                None => {
                    let left = &report.backends[n];
                    return Err(ClientError::Broke(format!(
                        "the drain of {} was undone, or it stops",
                        left.address
                    ))
                    .into());
                }
            }
        }
        report.drained = report.backends.iter().all(|backend| backend.drain.drained);
        report.left = report.backends.iter().map(|backend| backend.drain.left).sum();
    }
    let passed =
        report.backends.iter().any(|backend| backend.drain.deadline_passed && !backend.drain.drained);
    out.print(&report, drained)?;
    Ok(if wait && passed { Outcome::DeadlinePassed } else { Outcome::Done })
}

fn target(backend: &NodeBackend) -> Target {
    Target::Backend { service: Some(backend.service.clone()), address: backend.address }
}

fn lines(report: &NodeReport, say: impl Fn(&NodeBackend) -> String) -> String {
    let backends = report.backends.iter();
    let backends = backends
        .map(|b| format!("  {}/{} {}: {}\n", b.service, b.version, b.address, say(b)))
        .collect::<String>();
    let notes = report.notes.iter().map(|note| format!("  note: {note}\n")).collect::<String>();
    backends + &notes
}

fn drained(report: &NodeReport) -> String {
    let head =
        if report.drained { "drained".to_owned() } else { format!("drains, {} flows left", report.left) };
    let say = |backend: &NodeBackend| match (backend.drain.drained, backend.drain.deadline_passed) {
        (true, _) => "drained".to_owned(),
        (false, true) => format!("the deadline has passed, {} flows were left", backend.drain.left),
        (false, false) => format!("{} flows left", backend.drain.left),
    };
    format!("node {}: {head}\n{}", report.node, lines(report, say))
}

/// What an undrain says.
pub fn undrained(report: &NodeReport) -> String {
    let say = |_: &NodeBackend| "takes new flows again".to_owned();
    format!("node {}: {} backends\n{}", report.node, report.backends.len(), lines(report, say))
}
