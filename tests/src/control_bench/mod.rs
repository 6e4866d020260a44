//! `cargo xtask bench-control`: what the control path costs, how it grows, and what the kernel accounts for its maps.
//!
//! Every figure is measured on the code that runs in the agent: `zdd_agent::plan`, `zdd_agent::reconcile::table`, the mapped
//! rows, and the `zdd` binary itself. Planning, publishing and sweeping are CPU time of their thread, which on a quiet machine
//! is the time they take; visibility, packets and starts are time on the clock, probes CPU time of the agent. Medians of many
//! rounds, with the best beside them: on a machine that does other things too, it is the nearest to what the code costs.

mod chart;
mod fleet;
mod idle;
mod kernel;
mod memory;
mod plane;
mod probes;
mod publish;
mod rebuild;
mod report;
mod start;
mod sweep;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
pub use report::{Growth, Report, Row, Unit};

/// Measures the control path (needs root)
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "cargo xtask bench-control", version)]
pub struct Options {
    /// Fewer rounds and smaller fleets; ends within a minute
    #[arg(long)]
    quick: bool,
    /// One JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// Draws how everything grows into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Exit status 1 when a target is missed
    #[arg(long)]
    strict: bool,
}

/// A part of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Planning a service's cells anew
    Rebuild,
    /// Writing a row, and commit to visible
    Publish,
    /// The flow table's sweep, and packets during it
    Sweep,
    /// What the kernel accounts for maps
    Memory,
    /// Agent start to first connection
    Start,
    /// Health checks
    Probes,
    /// An agent that has nothing to do
    Idle,
}

const ALL: [Part; 7] =
    [Part::Rebuild, Part::Publish, Part::Sweep, Part::Memory, Part::Start, Part::Probes, Part::Idle];

/// Runs it and prints what it found.
///
/// # Errors
/// When something cannot be set up or measured.
pub fn run(options: &Options) -> Result<ExitCode> {
    let parts = if options.only.is_empty() { ALL.to_vec() } else { options.only.clone() };
    let mut report = Report::begin(options.quick);
    let begin = Instant::now();
    let say = |what: &str| eprintln!("{:5.1} s  {what}", begin.elapsed().as_secs_f64());
    let has = |part: Part| parts.contains(&part);
    if has(Part::Rebuild) {
        say("planning rows");
        rebuild::measure(&mut report);
    }
    if has(Part::Publish) || has(Part::Sweep) || has(Part::Memory) {
        say("loading the program");
        // On a thread of its own, which alone moves into new namespaces: nothing of them is left when it ends.
        let (parts, seen) = (parts.clone(), &mut report);
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || -> Result<()> {
                let mut plane = plane::Plane::new()?;
                if parts.contains(&Part::Publish) {
                    say("publishing rows");
                    publish::measure(&mut plane, seen)?;
                }
                if parts.contains(&Part::Memory) {
                    say("reading the kernel's accounts");
                    memory::measure(&mut plane, seen)?;
                }
                if parts.contains(&Part::Sweep) {
                    say("sweeping the flow table");
                    sweep::measure(&mut plane, seen)?;
                }
                Ok(())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
    }
    if has(Part::Start) {
        say("starting agents");
        start::measure(&mut report)?;
    }
    if has(Part::Probes) {
        say("probing backends");
        probes::measure(&mut report)?;
    }
    if has(Part::Idle) {
        say("watching an idle agent");
        idle::measure(&mut report)?;
    }
    if let Some(path) = &options.svg {
        std::fs::write(path, chart::draw(&report.growth))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.text());
    }
    let failed = options.strict && report.rows.iter().any(|row| row.holds == Some(false));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// CPU time of the calling thread since its start: what others do with the CPU meanwhile is not in it.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place for the answer; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// CPU seconds of each of `rounds` runs, in order.
fn rounds(rounds: usize, mut run: impl FnMut()) -> Vec<f64> {
    let times = (0..rounds).map(|_| {
        let begin = cpu_time();
        run();
        cpu_time() - begin
    });
    sorted(times.collect())
}

/// As seconds, in order.
fn sorted(times: Vec<Duration>) -> Vec<f64> {
    let mut seconds: Vec<f64> = times.into_iter().map(|time| time.as_secs_f64()).collect();
    seconds.sort_by(f64::total_cmp);
    seconds
}

/// The value below which a fraction of the sorted values lies.
fn quantile(sorted: &[f64], fraction: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * fraction).round() as usize).copied().unwrap_or(f64::NAN)
}
