//! `zdd-model-check`: visits every state of small worlds around `steer` and the agent's rules, then takes each rule out
//! and shows what breaks.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use zdd_tests::checker::ablation::{SHOWN_BY, ablate, rule};
use zdd_tests::checker::config::{Config, RULES};
use zdd_tests::checker::report;
use zdd_tests::checker::search::{Bounds, Found, search};
use zdd_tests::checker::worlds::{Size, worlds};

/// Model-checks `steer` and the agent's rules. Exit status 1 when an invariant breaks, or a rule that is taken out is
/// not missed; 2 when the command line names what does not exist.
#[derive(Parser)]
#[command(name = "zdd-model-check")]
struct Args {
    /// The small worlds and every ablation in its smallest world: below a minute.
    #[arg(long)]
    short: bool,
    /// The large worlds too: many minutes, up to 6 GB.
    #[arg(long, conflicts_with = "short")]
    long: bool,
    /// This world only.
    #[arg(long)]
    world: Option<String>,
    /// Take this rule out: in the world that shows it, or in the one named by --world. `list` names all.
    #[arg(long)]
    ablate: Option<String>,
    /// Print the shortest trace of every violation, expected ones too.
    #[arg(long)]
    trace: bool,
}

/// 6 GB: a state costs about 30 bytes, one of the two frontiers about 500 in steps of a doubling vector.
const STATES: usize = 60_000_000;

fn main() -> ExitCode {
    let args = Args::parse();
    let minutes = if args.long { 60 } else { 10 };
    let bounds = Bounds { states: STATES, time: Duration::from_secs(60 * minutes), clean_every: 8 };
    if args.ablate.as_deref() == Some("list") {
        RULES.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    if args.ablate.as_ref().is_some_and(|name| rule(name).is_none()) {
        eprintln!("no such rule; --ablate list names all");
        return ExitCode::from(2);
    }
    let chosen: Vec<Config> = worlds()
        .into_iter()
        .filter(|(size, world)| match &args.world {
            Some(name) => name == world.name,
            None => *size <= size_of(&args),
        })
        .map(|(_, world)| world)
        .collect();
    if chosen.is_empty() {
        eprintln!("no such world; there are:");
        worlds().iter().for_each(|(_, world)| eprintln!("  {:<18} {}", world.name, world.about));
        return ExitCode::from(2);
    }
    println!("{}", report::head());
    let good = match (&args.ablate, &args.world) {
        (Some(name), None) => without(&[name], &bounds, args.trace),
        (rule_name, _) => {
            let taken = rule_name.as_deref().and_then(rule);
            let all = chosen.into_iter().map(|world| match taken {
                Some(rule) => world.ablated(rule),
                None => world,
            });
            let mut good = true;
            for world in all {
                good &= check(&world, &bounds, args.trace);
            }
            if args.world.is_none() {
                println!("\nEach rule taken out, in the world that shows it:");
                let names: Vec<&str> = SHOWN_BY.iter().map(|(name, _)| *name).collect();
                good &= without(&names, &bounds, args.trace);
            }
            good
        }
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn size_of(args: &Args) -> Size {
    match (args.short, args.long) {
        (true, _) => Size::Short,
        (_, true) => Size::Long,
        _ => Size::Usual,
    }
}

/// Searches one world; true if it is as it should be.
fn check(world: &Config, bounds: &Bounds, trace: bool) -> bool {
    let found = search(world, bounds);
    let (verdict, good) = match (&found.violation, world.exception) {
        (None, None) if found.complete => ("holds".into(), true),
        (None, None) => ("holds so far (bounded)".into(), true),
        (None, Some(exception)) => (format!("NOT BROKEN by a documented exception: {exception}"), false),
        (Some((broken, _)), None) => (format!("BROKEN: {}", report::violation(broken)), false),
        (Some(_), Some(exception)) => (format!("breaks, as documented: {exception}"), true),
    };
    println!("{}", report::line(world.name, &found, &verdict));
    let notes = report::notes(&found);
    if !notes.is_empty() {
        println!("{:<26} met: {notes}", "");
    }
    show(world, &found, trace || !good);
    good
}

/// Takes rules out; true if each is missed.
fn without(names: &[&str], bounds: &Bounds, trace: bool) -> bool {
    let mut good = true;
    for name in names {
        let Some((world, found)) = ablate(name, bounds) else {
            println!("{name:<26} no world shows it");
            good = false;
            continue;
        };
        let verdict = match &found.violation {
            Some((broken, steps)) => {
                format!(
                    "missed in {:?} after {} steps: {}",
                    world.name,
                    steps.len(),
                    report::violation(broken)
                )
            }
            None => format!("NOT SHOWN in {:?}", world.name),
        };
        good &= found.violation.is_some();
        println!("{}", report::line(&format!("without {name}"), &found, &verdict));
        show(&world, &found, trace);
    }
    good
}

fn show(world: &Config, found: &Found, wanted: bool) {
    if let (Some((_, steps)), true) = (&found.violation, wanted) {
        print!("{}", report::trace(world, steps));
    }
}
