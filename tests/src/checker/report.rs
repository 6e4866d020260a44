//! States and traces for people.

use std::fmt::Write as _;

use zdd_common::entries::{Cell, State as EntryState, Word};

use super::config::Config;
use super::event::{Event, Step};
use super::packets::Violation;
use super::search::Found;
use super::state::{Flow, Kind, NEVER, Packet, Phase, State, Way};

fn packet(p: &Packet) -> String {
    let kind = match p.kind {
        Kind::None => "nothing",
        Kind::Syn => "SYN",
        Kind::Ack => "ACK",
        Kind::Fin => "FIN",
        Kind::Rst => "RST",
        Kind::Udp => "UDP",
    };
    let who = if p.flow == NEVER { "forged".to_string() } else { format!("c{}", p.flow + 1) };
    format!("{who} {kind} {}", p.seq)
}

/// An event in words.
pub fn event(step: &Step) -> String {
    let mut text = match step.event {
        Event::Tick => "time passes".into(),
        Event::Send(p) => format!("{} arrives", packet(&p)),
        Event::Reroute(p) => format!("{} arrives at the other node", packet(&p)),
        Event::Launch(p) => format!("{} is sent", packet(&p)),
        Event::Arrive(p) => format!("{} arrives late", packet(&p)),
        Event::Copy(p) => format!("{}: a copy arrives", packet(&p)),
        Event::Forge(p) => format!("{} arrives", packet(&p)),
        Event::Row(p) => format!("{} reads the row", packet(&p)),
        Event::Look(p) => format!("{} looks up", packet(&p)),
        Event::Finish(p) => format!("{} finishes", packet(&p)),
        Event::Complete(f, b) => format!("c{} takes the answer of b{b}", f + 1),
        Event::Leave(f) => format!("c{} is gone", f + 1),
        Event::Again(f) => format!("c{} begins again", f + 1),
        Event::Change(c, b) => format!("agent: cell {c} -> b{b}"),
        Event::Settle(c) => format!("agent: cell {c} settles/disarms"),
        Event::Forget(c) => format!("agent: cell {c} loses LOOKUP"),
        Event::Sweep(w) => format!("sweep: way {w}"),
        Event::SweepLook(w) => format!("sweep looks: way {w}"),
        Event::SweepAct(w) => format!("sweep acts: way {w}"),
        Event::Wipe => "the flow table is lost".into(),
        Event::Restart => "agent dies, starts again".into(),
        Event::Alike => "agent: both rows look up".into(),
        Event::Join(t) => format!("agent: tuple {t} changes rows"),
        Event::Remove(b) => format!("agent: b{b} is removed"),
    };
    if step.how.early {
        text += ", is remembered";
    } else if step.how.stops {
        text += ", reads its cell";
    }
    if step.how.known {
        text += ", filter remembers";
    }
    if step.how.refused {
        text += ", refused";
    }
    if step.how.lie {
        text += ", filter lies";
    }
    text
}

fn cell(cell: Cell) -> String {
    let flag = |yes: bool, name: &'static str| if yes { name } else { "" };
    format!(
        "b{}>b{}{}{}{}",
        cell.base(),
        cell.current(),
        flag(cell.dirty(), " D"),
        flag(cell.lookup(), "L"),
        flag(cell.armed(), "A")
    )
}

fn word(word: Word) -> String {
    let state = match word {
        w if w.is(EntryState::Half) => "HALF",
        w if w.is(EntryState::Est) => "EST",
        w if w.is(EntryState::Dead) => return "DEAD".into(),
        w if w.is(EntryState::Free) => return String::new(),
        _ => "?",
    };
    let mut text = format!("{state} b{}/b{}", word.backend(), word.alt());
    if word.fin_seen() {
        text += " fin";
    }
    if word.alt_seen() {
        text += " alt";
    }
    text
}

fn way(way: &Way) -> String {
    if way.word.is(EntryState::Free) {
        return "-".into();
    }
    format!("{} @{} age{}", word(way.word), way.positions.backend(), way.age())
}

fn flow(flow: &Flow) -> String {
    match flow.phase {
        Phase::Unborn => "-".into(),
        Phase::Syn => format!("syn({:b})", flow.answered >> 1),
        Phase::Est => format!("b{} age{}", flow.uses, flow.age),
        Phase::Fin => format!("b{} fin", flow.uses),
        Phase::Gone => "gone".into(),
    }
}

/// A violation in words.
pub fn violation(violation: &Violation) -> String {
    match violation {
        Violation::Moved { flow, from, to } => {
            format!("a packet of the live connection c{} of b{from} went to b{to}", flow + 1)
        }
        Violation::Lost { flow } => {
            format!("the live connection c{} is neither at base nor in an entry of its backend", flow + 1)
        }
        Violation::EntryMoved => "an entry changed its backends".into(),
        Violation::NotCurrent { to } => format!("a new connection with room went to b{to}, not to current"),
        Violation::Removed { to } => format!("a packet went to b{to}, which is removed"),
        Violation::Quota => "the counts per class do not agree with the entries".into(),
        Violation::Refused => "a refused SYN left a trace, or what must not be refused was".into(),
        Violation::NeverClean => "left alone for long, the world does not become clean".into(),
    }
}

/// A trace as a table.
pub fn trace(config: &Config, steps: &[Step]) -> String {
    let mut text = format!(
        "  {:>3}  {:<44} {:<14} {:<24} {:<46} {}\n",
        "", "event", "went to", "cell", "entry", "connections"
    );
    for (number, step) in steps.iter().enumerate() {
        let state: &State = &step.state;
        let to = step.outcome.steered.map_or(String::new(), |(b, why)| format!("b{b} {}", why.name()));
        let sides: Vec<State> = (0..config.nodes).map(|node| state.facing(node)).collect();
        let cells: Vec<String> = sides
            .iter()
            .flat_map(|side| &side.cells[..usize::from(config.cells)])
            .map(|c| format!("{} {}", cell(c.cell), c.since))
            .collect();
        let ways: Vec<String> =
            sides.iter().flat_map(|side| &side.ways[..usize::from(config.capacity)]).map(way).collect();
        let flows: Vec<String> = state.flows[..config.flows.len()].iter().map(flow).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  {:>3}  {:<44} {:<14} {:<24} {:<46} {}",
            number + 1,
            event(step),
            to,
            cells.join(" | "),
            ways.join(" | "),
            flows.join(" | ")
        );
    }
    text
}

/// One line about a search.
pub fn line<V, S>(name: &str, found: &Found<V, S>, verdict: &str) -> String {
    format!(
        "{name:<26} {:>10} {:>12} {:>6} {:>8.1}s  {verdict}",
        found.states,
        found.transitions,
        found.depth,
        found.time.as_secs_f64()
    )
}

/// The head of [`line`]s.
pub fn head() -> String {
    format!("{:<26} {:>10} {:>12} {:>6} {:>9}  verdict", "world", "states", "transitions", "depth", "time")
}

/// Which documented exceptions were met, and how often.
pub fn notes<V, S>(names: &[&str], found: &Found<V, S>) -> String {
    let met: Vec<String> = names
        .iter()
        .zip(found.notes)
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    met.join(", ")
}
