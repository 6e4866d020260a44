//! `zdd decap`: the backend's end of `ipip`.

use std::ffi::CString;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;
use zdd_common::decap::OUTCOMES;

use super::Outcome;
use super::args::DecapArgs;
use super::output::Output;
use crate::dataplane::{Attached, Decap, DecapCounts, DecapSpec, decap_counts, decap_detach, decap_runs};
use crate::desired::AttachMode;
use crate::links::xdp;
use crate::prefix::ENCAP_SOURCES;
use crate::shutdown::Shutdown;

/// How often it is looked whether the interface is still there.
const LOOK: Duration = Duration::from_secs(1);

/// What `--status` prints, and what is printed at the end.
#[derive(Debug, Serialize)]
struct DecapReport {
    interface: String,
    /// Whether a process keeps it; a program without one goes on working.
    running: bool,
    packets: Vec<Counted>,
}

#[derive(Debug, Serialize)]
struct Counted {
    outcome: &'static str,
    packets: u64,
}

pub fn run(args: DecapArgs, out: &mut Output) -> anyhow::Result<Outcome> {
    let dir = args.pin_dir.join(&args.interface);
    if args.status {
        let Some(counts) = decap_counts(&dir)? else {
            bail!(
                "nothing is unwrapped on {}\nhelp: start `zdd decap --interface {0} --vip ADDR`, or name its --pin-dir",
                args.interface
            );
        };
        let running = decap_runs(&dir);
        out.print(&report(&args.interface, running, &counts), text)?;
        return Ok(Outcome::Done);
    }
    if args.detach {
        let was = decap_detach(&dir)?;
        out.write(
            if was { "- XDP program and maps\n" } else { "nothing was attached or pinned\n" }.as_bytes(),
        )?;
        return Ok(Outcome::Done);
    }
    crate::logging::start(false)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (running, report) = runtime.block_on(serve(&args))?;
    out.print(&report, text)?;
    if !running {
        bail!("interface {} is gone\nhelp: start `zdd decap` again when it is back", args.interface);
    }
    Ok(Outcome::Done)
}

/// Attaches, and detaches when told to end. False: the interface went away before.
async fn serve(args: &DecapArgs) -> anyhow::Result<(bool, DecapReport)> {
    let shutdown = Shutdown::on_signals()?;
    let index = index_of(&args.interface).with_context(|| {
        format!("interface {} is not there\nhelp: `ip link` shows those that are", args.interface)
    })?;
    let from = if args.from.is_empty() { ENCAP_SOURCES.to_vec() } else { args.from.clone() };
    let spec = DecapSpec { from, vips: args.vip.clone() };
    let mut decap = Decap::open(&args.pin_dir.join(&args.interface), &spec)?;
    let present = xdp::attached(index).await.unwrap_or(None);
    let mode = if args.generic { AttachMode::Generic } else { AttachMode::Native };
    let attached = match decap.attach((index, &args.interface), mode, present.map(|x| x.program)) {
        Ok(attached) => attached,
        Err(error) => {
            // Nothing may stay that a later look takes for a program at work.
            if let Err(error) = decap.detach() {
                tracing::warn!("{error}");
            }
            return Err(error.into());
        }
    };
    let how = match attached {
        Attached::New => "attached",
        Attached::Replaced => "attached already: program replaced without a gap",
    };
    tracing::info!(interface = args.interface, ?mode, "{how}");
    let list = |all: Vec<String>| all.join(", ");
    tracing::info!(
        from = list(spec.from.iter().map(ToString::to_string).collect()),
        vips = list(spec.vips.iter().map(ToString::to_string).collect()),
        "ready"
    );
    let mut there = true;
    while there {
        tokio::select! {
            () = shutdown.wait() => break,
            () = tokio::time::sleep(LOOK) => there = index_of(&args.interface) == Some(index),
        }
    }
    let counts = decap.counts();
    decap.detach()?;
    tracing::info!(interface = args.interface, "detached");
    Ok((there, report(&args.interface, false, &counts)))
}

fn index_of(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: a C string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

fn report(interface: &str, running: bool, counts: &DecapCounts) -> DecapReport {
    let packets = OUTCOMES
        .iter()
        .zip(counts)
        .map(|(outcome, packets)| Counted { outcome: outcome.name(), packets: *packets })
        .collect();
    DecapReport { interface: interface.to_owned(), running, packets }
}

fn text(report: &DecapReport) -> String {
    let state = if report.running { "a process keeps it" } else { "no process keeps it" };
    let mut text = format!("{}: {state}\n", report.interface);
    for Counted { outcome, packets } in &report.packets {
        text += &format!("  {outcome:<15} {packets:>12}\n");
    }
    text
}
