//! `zdd-sim`: connections that break with our steering, a hash alone and an LRU table; see [`zdd_tests::sim`].

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use zdd_tests::sim::{Report, SCENARIOS, Size, simulate};

/// Simulates whole balancers under change. Exit status 1 when our steering breaks a connection although no state was lost.
#[derive(Parser)]
#[command(name = "zdd-sim")]
struct Args {
    /// A tenth of the flows
    #[arg(long)]
    quick: bool,
    /// Flows of each scenario
    #[arg(long, default_value_t = 1_000_000)]
    flows: u32,
    /// Seed of the traffic
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One scenario only
    #[arg(long)]
    scenario: Option<String>,
    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,
    /// Write a chart to this file
    #[arg(long)]
    svg: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let flows = if args.quick { args.flows / 10 } else { args.flows };
    let size = Size { flows, seconds: 1200, cells: 16_384, seed: args.seed };
    let chosen: Vec<_> =
        SCENARIOS.iter().filter(|s| args.scenario.as_deref().is_none_or(|name| name == s.name)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = SCENARIOS.iter().map(|s| s.name).collect();
        eprintln!("no such scenario; there are: {}", names.join(", "));
        return ExitCode::from(2);
    }
    let mut rows = Vec::new();
    for scenario in chosen {
        if !args.json {
            eprintln!("{}: {}", scenario.name, scenario.what);
        }
        rows.push(simulate(scenario, size));
    }
    let report = Report::new(args.seed, rows);
    if let Some(path) = &args.svg
        && let Err(e) = std::fs::write(path, report.svg())
    {
        eprintln!("zdd-sim: cannot write {}: {e}", path.display());
        return ExitCode::FAILURE;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report).expect("plain data"));
    } else {
        print!("{}", report.table());
    }
    if report.violations.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("zdd-sim: connections broke although no state was lost: {}", report.violations.join(", "));
    ExitCode::FAILURE
}
