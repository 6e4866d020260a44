//! What reaches backends and clients, and what must hold there.

use zdd_common::reason::Reason;
use zdd_common::snat::mapping::State as MappingState;

use super::config::Config;
use super::program::{Ran, backend_of, owner, tuple_of};
use super::state::{Flow, Kind, NEVER, Packet, Phase, Sock, Stage, State, word};

/// What must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A packet of a live connection did not come to its backend from its port.
    Moved(u8, Ran),
    /// What a backend sent to a live connection did not come to its client.
    Lost(u8),
    /// What a backend sent came to another client.
    Misdelivered(u8),
    /// A connection's packet came to another one's socket: one that lives or, if the flag is set, is in TIME_WAIT.
    Shared(u8, bool),
    /// A new connection found no port though there was one.
    Refused(u8),
    /// One flow has two ports.
    Twice,
    /// A mapping in use is nobody's: it was read or left half written.
    Torn,
    /// A port is left behind by somebody who began to give it out.
    Stuck,
    /// Left alone for long, ports do not become free.
    NeverClean,
}

/// What is worth counting though it breaks nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// A connection was silent for too long.
    Silent,
    /// A connection's mapping was lost in a wipe.
    Wiped,
    /// Its backend was removed.
    Removed,
    /// A new connection waits: every port is taken, or another CPU is about to give it one.
    NoPort,
    /// Routers brought a connection to another node.
    Rerouted,
    /// A port was given out whose last owner went without a word: its backend still thinks that it lives.
    Orphan,
}

/// Names of [`Note`]s, by number.
pub const NOTES: [&str; 6] = [
    "silent too long",
    "wiped",
    "backend removed",
    "no port: waits",
    "came to another node",
    "port of one gone silently",
];

/// The outcome of one step.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// What became of a packet.
    pub ran: Option<Ran>,
    /// What it broke.
    pub violation: Option<Violation>,
    /// What is counted: one bit per [`Note`].
    pub notes: u8,
}

impl Outcome {
    /// Counts something.
    pub fn note(&mut self, note: Note) {
        self.notes |= 1 << note as u8;
    }

    /// Keeps the first violation.
    pub fn broke(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }
}

/// A packet has come to its end. `alone`: it saw one moment from begin to end, and `free`: then some port was free.
pub fn arrive(
    config: &Config,
    state: &mut State,
    packet: &Packet,
    ran: Ran,
    (alone, free): (bool, bool),
    outcome: &mut Outcome,
) {
    outcome.ran = Some(ran);
    if packet.kind.is_reply() {
        to_client(config, state, packet, ran, outcome);
        return;
    }
    if packet.conn != NEVER {
        let flow = &mut state.flows[usize::from(packet.conn)];
        let at_home = |port: u8| ran == Ran::Out(backend_of(config, packet), port);
        if flow.promised() {
            // A copy of its SYN, or a datagram, may find another CPU at work on the mapping, and be dropped.
            let may_be_lost = packet.kind == Kind::Syn || config.udp;
            let copy = may_be_lost && ran == Ran::Not(Reason::DropNoPort) && !alone;
            if !at_home(flow.port) && !copy {
                outcome.broke(Violation::Moved(packet.conn, ran));
            }
            flow.confirmed |= packet.kind != Kind::Syn;
        } else if ran == Ran::Not(Reason::DropNoPort) {
            outcome.note(Note::NoPort);
            if (packet.kind == Kind::Syn || config.udp) && alone && free {
                outcome.broke(Violation::Refused(packet.conn));
            }
        }
        if flow.phase != Phase::Unborn && matches!(ran, Ran::Out(..)) {
            flow.age = flow.age.min(packet.age);
        }
    }
    if let Ran::Out(backend, port) = ran {
        to_backend(config, state, packet, (backend, port), outcome);
    }
}

/// Whether a socket's connection is one that somebody still counts on.
fn counts(state: &State, sock: &Sock) -> bool {
    let flow = &state.flows[usize::from(sock.conn)];
    flow.promised() || flow.phase == Phase::Syn && !flow.lost
}

fn to_backend(
    config: &Config,
    state: &mut State,
    packet: &Packet,
    (backend, port): (u8, u8),
    outcome: &mut Outcome,
) {
    let sock = state.socks[usize::from(backend) - 1][usize::from(port)];
    let other = sock.stage != Stage::None && sock.conn != packet.conn;
    let stranger = other && config.conns[usize::from(sock.conn)].tuple != tuple_of(config, packet);
    if stranger {
        let released = state.flows[usize::from(sock.conn)].released;
        if counts(state, &sock) {
            outcome.broke(Violation::Shared(packet.conn, false));
        } else if !released && sock.stage == Stage::TimeWait {
            outcome.broke(Violation::Shared(packet.conn, true));
        } else {
            outcome.note(Note::Orphan);
        }
    }
    if packet.conn == NEVER {
        // Out of window: the backend does not care.
        return;
    }
    let sock = &mut state.socks[usize::from(backend) - 1][usize::from(port)];
    if config.udp {
        *sock = Sock { stage: Stage::Established, conn: packet.conn, age: 0 };
        return;
    }
    if packet.kind == Kind::Syn {
        if sock.stage == Stage::None || other {
            *sock = Sock { stage: Stage::Received, conn: packet.conn, age: 0 };
        } else if sock.stage == Stage::Received {
            sock.age = 0;
        }
        return;
    }
    if sock.stage == Stage::None {
        // The backend answers with a RST.
        let flow = &mut state.flows[usize::from(packet.conn)];
        if flow.phase != Phase::Unborn {
            flow.phase = Phase::Gone;
            flow.released = true;
        }
        return;
    }
    if other {
        return;
    }
    sock.age = 0;
    sock.stage = match (packet.kind, sock.stage) {
        (Kind::Rst, _) => Stage::None,
        (Kind::Fin, Stage::Received | Stage::Established) => Stage::Half,
        (Kind::Fin, Stage::Closed) => Stage::TimeWait,
        (Kind::Ack, Stage::Received) => Stage::Established,
        (Kind::Ack, Stage::LastAck) => Stage::None,
        (_, stage) => stage,
    };
    if sock.stage == Stage::None {
        *sock = Sock::default();
    }
}

fn to_client(config: &Config, state: &mut State, packet: &Packet, ran: Ran, outcome: &mut Outcome) {
    let id = packet.conn;
    let flow = &mut state.flows[usize::from(id)];
    let home = config.conns[usize::from(id)].tuple;
    match ran {
        Ran::Back(tuple) if tuple == home => take(config, flow, packet),
        // It goes on speaking to a port that was taken from it: its peer has long been silent, or does not answer its FIN.
        Ran::Back(_) if !flow.promised() && (flow.released || !packet.owned) => outcome.note(Note::Orphan),
        Ran::Back(_) => outcome.broke(Violation::Misdelivered(id)),
        _ => {
            // Its handshake has come as far as the backend, which answers within its time.
            let begins = flow.phase == Phase::Syn
                && !flow.lost
                && flow.age <= config.clock.handshake
                && (packet.kind == Kind::SynAck || config.udp)
                && packet.age == 0;
            if flow.promised() || begins {
                outcome.broke(Violation::Lost(id));
            }
        }
    }
}

/// The client takes what its backend sent.
fn take(config: &Config, flow: &mut Flow, packet: &Packet) {
    flow.age = flow.age.min(packet.age);
    match (packet.kind, flow.phase) {
        (Kind::SynAck, Phase::Syn) => {
            flow.phase = Phase::Est;
            flow.port = packet.port;
        }
        (Kind::Data, Phase::Syn) if config.udp => {
            flow.phase = Phase::Est;
            flow.port = packet.port;
            flow.confirmed = true;
        }
        (Kind::BackRst, Phase::Syn | Phase::Est | Phase::Fin) => flow.phase = Phase::Gone,
        (Kind::BackFin, Phase::Fin) => flow.phase = Phase::Gone,
        (Kind::BackFin, Phase::Est) => flow.got_fin = true,
        _ => {}
    }
}

/// What holds in every state in which no packet is inside the program.
pub fn check(config: &Config, state: &State) -> Option<Violation> {
    if !state.quiet() {
        return None;
    }
    let ways = &state.ways[..usize::from(config.ports)];
    for (number, way) in ways.iter().enumerate() {
        let of = word(way);
        if of.is(MappingState::Free) {
            continue;
        }
        if of.is(MappingState::Busy) {
            return Some(Violation::Stuck);
        }
        if owner(way).is_none() {
            return Some(Violation::Torn);
        }
        let same = |other: &[u64; 7]| {
            other[0] != 0 && other[1..2] == way[1..2] && word(other).backend() == of.backend()
        };
        // Of two nodes, either may have given it one.
        if config.nodes == 1 && ways[..number].iter().any(same) {
            return Some(Violation::Twice);
        }
    }
    None
}
