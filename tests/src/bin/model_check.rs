//! `zdd-model-check`: visits every state of small worlds around `steer` and the agent's rules, then takes each rule out
//! and shows what breaks.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use zdd_tests::checker::ablation::{ablated, rule};
use zdd_tests::checker::config::{Config, RULES};
use zdd_tests::checker::packets::NOTES;
use zdd_tests::checker::search::{Bounds, Found, World, search};
use zdd_tests::checker::worlds::{Size, worlds};
use zdd_tests::checker::{report, snat};

/// Model-checks `steer`, the ports of `snat` and the agent's rules. Exit status 1 when an invariant breaks, or a rule that is taken out is
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

/// What a search may take, all in all.
const MEMORY: usize = 6 << 30;

fn main() -> ExitCode {
    let args = Args::parse();
    let minutes = if args.long { 60 } else { 10 };
    let bounds = Bounds { memory: MEMORY, time: Duration::from_secs(60 * minutes), clean_every: 8 };
    let names: Vec<&str> = (RULES.iter().map(|(name, _)| *name))
        .chain(snat::config::RULES.iter().map(|(name, ..)| *name))
        .collect();
    if args.ablate.as_deref() == Some("list") {
        names.iter().for_each(|name| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    if args.ablate.as_deref().is_some_and(|name| !names.contains(&name)) {
        eprintln!("no such rule; --ablate list names all");
        return ExitCode::from(2);
    }
    let wanted = |size: Size, name: &str| match &args.world {
        Some(world) => world == name,
        None => size <= size_of(&args),
    };
    let steering: Vec<Config> =
        worlds().into_iter().filter(|(size, w)| wanted(*size, w.name)).map(|(_, w)| w).collect();
    let ports: Vec<snat::config::Config> = snat::worlds::worlds()
        .into_iter()
        .filter(|(size, w)| wanted(*size, w.name))
        .map(|(_, w)| w)
        .collect();
    if steering.is_empty() && ports.is_empty() {
        eprintln!("no such world; there are:");
        worlds().iter().for_each(|(_, world)| eprintln!("  {:<18} {}", world.name, world.about));
        snat::worlds::worlds().iter().for_each(|(_, w)| eprintln!("  {:<18} {}", w.name, w.about));
        return ExitCode::from(2);
    }
    println!("{}", report::head());
    let mut good = true;
    if args.ablate.is_none() || args.world.is_some() {
        let taken = args.ablate.as_deref().and_then(rule);
        for world in steering {
            good &= check(&taken.map_or(world.clone(), |rule| world.ablated(rule)), &bounds, args.trace);
        }
        let taken = args.ablate.as_deref().and_then(snat::config::rule);
        for world in ports {
            good &= check(&taken.map_or(world.clone(), |rule| world.ablated(rule)), &bounds, args.trace);
        }
    }
    if args.world.is_none() {
        println!("\nEach rule taken out, in the world that shows it:");
        for name in names.iter().filter(|name| args.ablate.as_deref().is_none_or(|only| only == **name)) {
            good &= match (ablated(name), snat::worlds::ablated(name)) {
                (Some(world), _) => without(name, &world, &bounds, args.trace),
                (_, Some(world)) => without(name, &world, &bounds, args.trace),
                _ => {
                    println!("{name:<26} no world shows it");
                    false
                }
            };
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn size_of(args: &Args) -> Size {
    match (args.short, args.long) {
        (true, _) => Size::Short,
        (_, true) => Size::Long,
        _ => Size::Usual,
    }
}

/// A world with a name, and its findings in words.
trait Told: World {
    const NOTES: &'static [&'static str];
    fn name(&self) -> &'static str;
    fn exception(&self) -> Option<&'static str>;
    fn words(violation: &Self::Violation) -> String;
    fn trace(&self, steps: &[Self::Step]) -> String;
}

impl Told for Config {
    const NOTES: &'static [&'static str] = &NOTES;

    fn name(&self) -> &'static str {
        self.name
    }

    fn exception(&self) -> Option<&'static str> {
        self.exception
    }

    fn words(violation: &Self::Violation) -> String {
        report::violation(violation)
    }

    fn trace(&self, steps: &[Self::Step]) -> String {
        report::trace(self, steps)
    }
}

impl Told for snat::config::Config {
    const NOTES: &'static [&'static str] = &snat::ends::NOTES;

    fn name(&self) -> &'static str {
        self.name
    }

    fn exception(&self) -> Option<&'static str> {
        self.exception
    }

    fn words(violation: &Self::Violation) -> String {
        snat::report::violation(violation)
    }

    fn trace(&self, steps: &[Self::Step]) -> String {
        snat::report::trace(self, steps)
    }
}

/// Searches one world; true if it is as it should be.
fn check<W: Told>(world: &W, bounds: &Bounds, trace: bool) -> bool {
    let found = search(world, bounds);
    let (verdict, good) = match (&found.violation, world.exception()) {
        (None, None) if found.complete => ("holds".into(), true),
        (None, None) => ("holds so far (bounded)".into(), true),
        (None, Some(exception)) => (format!("NOT BROKEN by a documented exception: {exception}"), false),
        (Some((broken, _)), None) => (format!("BROKEN: {}", W::words(broken)), false),
        (Some(_), Some(exception)) => (format!("breaks, as documented: {exception}"), true),
    };
    println!("{}", report::line(world.name(), &found, &verdict));
    let notes = report::notes(W::NOTES, &found);
    if !notes.is_empty() {
        println!("{:<26} met: {notes}", "");
    }
    show(world, &found, trace || !good);
    good
}

/// Searches a world from which a rule is taken out; true if it is missed.
fn without<W: Told>(name: &str, world: &W, bounds: &Bounds, trace: bool) -> bool {
    let found = search(world, bounds);
    let verdict = match &found.violation {
        Some((broken, steps)) => {
            format!("missed in {:?} after {} steps: {}", world.name(), steps.len(), W::words(broken))
        }
        None => format!("NOT SHOWN in {:?}", world.name()),
    };
    println!("{}", report::line(&format!("without {name}"), &found, &verdict));
    show(world, &found, trace);
    found.violation.is_some()
}

fn show<W: Told>(world: &W, found: &Found<W::Violation, W::Step>, wanted: bool) {
    if let (Some((_, steps)), true) = (&found.violation, wanted) {
        print!("{}", world.trace(steps));
    }
}
