//! The agent's life from start to end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use crate::api::ledger::Ledger;
use crate::api::roles::Policy;
use crate::api::server::{BindError, Serving, Socket, serve};
use crate::api::tls::Remote;
use crate::config::Warning;
use crate::control::{self, Handle};
use crate::desired::Desired;
use crate::doctor;
use crate::events::EventKind;
use crate::metrics::MetricsServer;
use crate::notify::Notify;
use crate::otlp::{self, Tracer};
use crate::page::PageServer;
use crate::privileges;
use crate::reconcile::{self, Ended};
use crate::seccomp;
use crate::shutdown::Shutdown;

/// How long a look at the host may hold up the start. What it finds is told and stops nothing.
const DOCTOR_PATIENCE: Duration = Duration::from_millis(80);

/// Runs the agent until it is told to end. Traffic goes on after it, except after `zdd detach`.
///
/// # Errors
/// When the agent cannot start, or fails while it runs. Traffic goes on as it was.
pub fn run(desired: Desired, warnings: Vec<Warning>) -> anyhow::Result<()> {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(live(desired))
}

async fn live(mut desired: Desired) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_signals()?;
    let (socket_path, metrics_at) = (desired.agent.socket.clone(), desired.agent.metrics);
    let (page_spec, state_dir) = (desired.agent.page, desired.agent.state_dir.clone());
    let alerts = desired.agent.alerts.clone();
    // First, because it touches nothing: a second agent on the same socket must not come as far as the kernel.
    let api = desired.agent.api.clone();
    let policy = Policy::new(&api)?;
    let socket = Socket::bind_when_free(&socket_path, policy.socket_gid()).await;
    // Whoever forgot `sudo` shall hear that, and not which directory they may not write. Another agent is told before anything.
    if !matches!(socket, Err(BindError::InUse(_)))
        && let missing = doctor::lacking_rights()
        && !missing.is_empty()
    {
        anyhow::bail!(
            "this user lacks {}\nhelp: run the agent as root, or with these capabilities; in a container, add them",
            missing.join(", ")
        );
    }
    let socket = socket?;
    let remote = match &api.remote {
        Some(spec) => Some(Remote::bind(spec).await?),
        None => None,
    };
    // As soon as nothing is needed any more that takes more: the socket has its group, low ports are taken.
    privileges::keep_what_is_needed().context("rights that are not needed cannot be given up")?;
    if desired.agent.seccomp {
        if let Err(error) = seccomp::give_up() {
            tracing::warn!("{error}");
        }
    } else {
        tracing::warn!(
            "agent.seccomp is off: the agent, its probes and its hooks may make every system call"
        );
    }
    for finding in doctor::before_start(&desired, DOCTOR_PATIENCE).await {
        let fix = finding.fix.unwrap_or_default();
        tracing::warn!(check = finding.check, fix, "{}", finding.what);
    }
    let (tracer, exporter) = match &desired.agent.otlp {
        Some(url) => {
            let (tracer, exporter) = otlp::start(url, otlp::host(), shutdown.clone());
            (tracer, Some(exporter))
        }
        None => (Tracer::off(), None),
    };
    // Whatever is wrong with a file that an apply would refuse, it is no reason not to start: members stay as they were.
    if let Err(failed) = desired.read_cohorts() {
        failed.lines().for_each(|line| tracing::error!("{line}"));
    }
    let reconciler = reconcile::start(desired, tracer).await?;
    let events = reconciler.events();
    let ledger = Ledger::open(Some(&state_dir), reconciler.spent_keys());
    let ledger = ledger.with_context(|| {
        format!(
            "the records of changes in {} cannot be opened\nhelp: see agent.state_dir",
            state_dir.display()
        )
    })?;
    let (handle, requests) = control::channel(64);
    if let Some(address) = metrics_at {
        serve_metrics(address, handle.clone(), shutdown.clone()).await?;
    }
    if let Some(spec) = page_spec {
        let page = PageServer::bind(&spec, &state_dir, handle.clone(), ledger.audit()).await?;
        tokio::spawn(page.serve(shutdown.clone()));
    }
    tokio::spawn(crate::alert::run(alerts, handle.clone(), state_dir, shutdown.clone()));
    let serving = Serving { handle: handle.clone(), policy, ledger, events: events.clone() };
    let notify = Arc::new(Notify::from_environment());
    let (alive, by) = (notify.clone(), handle.clone());
    let (stop, stopping) = Shutdown::new();
    let stop_api = shutdown.clone();
    let api = tokio::spawn(serve(socket, remote, serving, async move {
        tokio::select! {
            () = stop_api.wait() => {}
            () = stopping.wait() => {}
        }
    }));
    // What loading and the first plans took; from now on it is seldom that much.
    crate::memory::give_back();
    tracing::info!(socket = %socket_path.display(), "ready");
    notify.tell("READY=1\nSTATUS=ready");
    tokio::spawn(async move { alive.stay_alive(by).await });
    events.note(EventKind::Agent, None, format!("agent {} ready", env!("CARGO_PKG_VERSION")), None);
    let ended = reconciler.run(requests, shutdown).await?;
    events.note(EventKind::Agent, None, "agent stops; traffic goes on".to_owned(), None);
    notify.tell("STOPPING=1\nSTATUS=stopping; traffic goes on");
    // Lets answers that are under way reach their callers.
    stop.start();
    api.await.context("the API ended in a panic")??;
    if let Some(exporter) = exporter {
        // Sends what is left, for a second at the most.
        drop(exporter.await);
    }
    match ended {
        Ended::Stopped => tracing::info!("stopped: traffic goes on with the last committed generation"),
        Ended::Detached => tracing::info!("detached: nothing of zdd is left in the kernel"),
    }
    Ok(())
}

async fn serve_metrics(address: SocketAddr, handle: Handle, shutdown: Shutdown) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Handle::current();
    let source = move || runtime.block_on(handle.snapshot()).map_err(|refused| refused.to_string());
    let server = MetricsServer::bind(address, source).await?;
    tokio::spawn(server.serve(shutdown));
    Ok(())
}
