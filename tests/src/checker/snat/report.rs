//! Worlds, events and traces in words.

use std::fmt::Write as _;

use zdd_common::snat::mapping::State as MappingState;
use zdd_common::time::Tick;

use super::config::Config;
use super::ends::Violation;
use super::program::owner;
use super::state::{NOW, Packet, Phase, Sock, Stage, State, Way, word};
use super::step::{Event, Step, who};

fn packet(config: &Config, packet: &Packet) -> String {
    let port = if packet.kind.is_reply() { format!(" to port {}", packet.port) } else { String::new() };
    format!("{} {:?}{port}", who(config, packet), packet.kind)
}

fn event(config: &Config, event: &Event) -> String {
    let packet = |p: &Packet| packet(config, p);
    match event {
        Event::Tick => "time passes".into(),
        Event::Send(p) => format!("{} passes", packet(p)),
        Event::Launch(p) => format!("{} is sent", packet(p)),
        Event::Arrive(p) => format!("{} passes late", packet(p)),
        Event::Enter(p) => format!("{} comes in", packet(p)),
        Event::Operate(p, at) => format!("{}: operation {at}", packet(p)),
        Event::Leave(conn) => format!("c{} is gone without a word", conn + 1),
        Event::Sweep(port) => format!("sweep: port {port}"),
        Event::SweepLook(port) => format!("sweep looks: port {port}"),
        Event::SweepAct(port) => format!("sweep acts: port {port}"),
        Event::Wipe => "the table is lost".into(),
        Event::Remove => "backend 1 is removed".into(),
        Event::Reroute(conn) => format!("routers bring c{} to the other node", conn + 1),
    }
}

fn way(way: &Way) -> String {
    let of = word(way);
    let state = match of {
        w if w.is(MappingState::Free) => return "-".into(),
        w if w.is(MappingState::Busy) => "BUSY",
        w if w.is(MappingState::Dead) => "DEAD",
        w if w.finished() => "ended",
        w if w.established() => "est",
        _ => "half",
    };
    let whose = owner(way).map_or("?".into(), |client| client.to_string());
    format!("{state} client {whose} b{} age {}", of.backend(), Tick(NOW).since(of.seen()))
}

fn sock(sock: &Sock) -> String {
    if sock.stage == Stage::None { "-".into() } else { format!("c{} {:?}", sock.conn + 1, sock.stage) }
}

/// A violation in words.
pub fn violation(violation: &Violation) -> String {
    let name =
        |conn: u8| if conn == super::state::NEVER { "forged".into() } else { format!("c{}", conn + 1) };
    match *violation {
        Violation::Moved(conn, ran) => format!("a packet of the live {} went {ran:?}", name(conn)),
        Violation::Lost(conn) => format!("what its backend sent to {} did not come", name(conn)),
        Violation::Misdelivered(conn) => format!("what was for {} came to another client", name(conn)),
        Violation::Shared(conn, false) => format!("a packet of {} came to another's socket", name(conn)),
        Violation::Shared(conn, true) => format!("{} got a port that is in TIME_WAIT", name(conn)),
        Violation::Refused(conn) => format!("no port for {}, though one is free", name(conn)),
        Violation::Twice => "one flow has two ports".into(),
        Violation::Torn => "a mapping in use is nobody's".into(),
        Violation::Stuck => "a port was left half given".into(),
        Violation::NeverClean => "left alone for long, ports do not become free".into(),
    }
}

/// A trace as a table.
pub fn trace(config: &Config, steps: &[Step]) -> String {
    let mut text = format!(
        "  {:>3}  {:<44} {:<20} {:<52} {:<34} {}\n",
        "", "event", "went", "ports", "sockets", "clients"
    );
    for (number, step) in steps.iter().enumerate() {
        let state: &State = &step.state;
        let ran = step.outcome.ran.map_or(String::new(), |ran| format!("{ran:?}"));
        let ways: Vec<String> = state.ways[..usize::from(config.ports)].iter().map(way).collect();
        let socks: Vec<String> = state.socks.iter().flatten().map(sock).collect();
        let flow = |flow: &super::state::Flow| match flow.phase {
            Phase::Gone if flow.released => "released".into(),
            phase => format!("{phase:?} {}", flow.age),
        };
        let flows: Vec<String> = state.flows[..config.conns.len()].iter().map(flow).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  {:>3}  {:<44} {:<20} {:<52} {:<34} {}",
            number + 1,
            event(config, &step.event),
            ran,
            ways.join(" | "),
            socks.join(" | "),
            flows.join(" | ")
        );
    }
    text
}
