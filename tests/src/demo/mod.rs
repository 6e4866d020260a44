//! The demo: real traffic moves from v1 to v2 and back while everything that usually breaks it happens.

mod acts;
mod agent_acts;
mod chart;
mod config;
mod observe;
mod options;
mod plan;
mod scene;
mod stage;
mod verdict;
mod view;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

pub use options::{Affinity, Options};

use crate::rig::{self, Rig, RigSpec};
use crate::traffic::{Load, Servers};
use acts::{House, Show};
use plan::Pace;
use scene::Scene;
use stage::Stage;
use verdict::Findings;

/// Plays the demo and says how it went: 0 when nothing broke, 1 when something did.
///
/// # Errors
/// When it cannot begin: no root, a tool is missing, the agent does not start.
pub fn run(options: &Options) -> Result<ExitCode> {
    let pace = Pace::new(options);
    let scene = Scene::new(options)?;
    println!("{}", scene.introduction(options, &pace));
    let spec = RigSpec { forward: options.forward, clients: options.clients, ..RigSpec::default() };
    let rig = Rig::new(spec).context("cannot build the namespaces")?;
    let servers = Servers::start(&rig, &scene.servers).context("cannot start the backends")?;
    let mut show = Show::new(options, &pace, &scene, &rig, &servers)?;
    show.start_agent()?;
    let load = Load::start(&rig, scene.load(options)).context("cannot start the clients")?;
    let stage = Stage::new(load.now_us());
    let view = view::View::new(std::io::stdout().is_terminal(), options);
    let zdd = show.zdd();
    std::thread::scope(|scope| {
        let _end = stage.end_of_show();
        scope.spawn(|| stage.watch(&load, &view));
        if let Some(zdd) = &zdd {
            scope.spawn(|| stage.ask(zdd));
        }
        show.play(&House { load: &load, stage: &stage, view: &view });
    });
    // In order: the clients say goodbye while everything still stands.
    let samples = stage.finish();
    let ledger = load.finish();
    let findings = show.findings(&ledger, samples.peak_entries);
    let code = report(options, &findings, &ledger, &samples)?;
    if code != ExitCode::SUCCESS && !options.direct {
        last_words(&rig);
    }
    Ok(code)
}

/// Shows the end of the agent's log, which goes with the rig.
fn last_words(rig: &Rig) {
    let text = std::fs::read_to_string(rig.scratch().path("agent.log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    eprintln!("\nThe end of the agent's log:");
    for line in &lines[lines.len().saturating_sub(30)..] {
        eprintln!("  {line}");
    }
}

fn report(
    options: &Options,
    findings: &Findings,
    ledger: &crate::traffic::Ledger,
    record: &stage::Record,
) -> Result<ExitCode> {
    let verdict = findings.verdict();
    let title = format!("zdd demo: forward {}, affinity {}", options.forward.name(), options.affinity.name());
    let svg = chart::render(&chart::Chart {
        title: &title,
        subtitle: &verdict.headline,
        versions: ["v1", "v2"],
        samples: &record.samples,
        events: &record.events,
    });
    std::fs::write(&options.svg, svg)
        .with_context(|| format!("cannot write the chart to {}", options.svg.display()))?;
    println!("\n{}", verdict.text);
    let incidents = || ledger.incidents.iter().chain(&findings.incidents);
    if incidents().next().is_some() {
        println!("\nThe first things that went wrong:");
        for incident in incidents().take(20) {
            println!("  {:>7.3} s  {}", Duration::from_micros(incident.at_us).as_secs_f64(), incident.what);
        }
    }
    if !verdict.passed && record.reasons.is_object() {
        println!("\nPackets by reason: {}", record.reasons);
    }
    println!("\nThe chart is in {}.", options.svg.display());
    if options.json {
        println!("{}", findings.json(&verdict));
    }
    Ok(if verdict.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where `zdd` is when `--zdd` does not say so.
fn default_binary() -> Result<std::path::PathBuf> {
    rig::built("zdd").context("there is no `zdd` beside this program; build it (cargo build --release -p zdd-agent) or give --zdd PATH")
}
