//! Everything that may happen next.

use zdd_common::snat::mapping::{self, Fate, State as MappingState};

use super::config::{Config, FLIGHT, Without};
use super::ends::{NOTES, Note, Outcome, Violation, arrive, check};
use super::program::{Ran, owner, run, tuple_of};
use super::state::{Kind, Mid, NEVER, Packet, Pending, Phase, Stage, State, at, word};
use crate::checker::search::World;

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time passes.
    Tick,
    /// A packet passes as it is sent.
    Send(Packet),
    /// A packet is sent and stays on the wire.
    Launch(Packet),
    /// It passes.
    Arrive(Packet),
    /// A packet comes into the program.
    Enter(Packet),
    /// A packet inside the program makes its next operation on a mapping.
    Operate(Packet, u8),
    /// A client is gone without a word.
    Leave(u8),
    /// The sweep looks at a port and acts.
    Sweep(u8),
    /// The sweep looks at a port.
    SweepLook(u8),
    /// The sweep acts on what it saw.
    SweepAct(u8),
    /// The table is lost.
    Wipe,
    /// Backend 1 is removed.
    Remove,
    /// Routers bring a connection's next packets to the other node.
    Reroute(u8),
}

/// A possible next state.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What happens.
    pub event: Event,
    /// The state after it.
    pub state: State,
    /// What became of it.
    pub outcome: Outcome,
}

const _: () = assert!(NOTES.len() <= 8);

impl World for Config {
    type State = State;
    type Step = Step;
    type Violation = Violation;

    fn first(&self) -> State {
        State::first(self)
    }

    fn steps(&self, from: &State, out: &mut Vec<Step>) {
        out.clear();
        let mut all = Steps { config: self, from, out };
        all.all();
        for step in out {
            if let Some(violation) = check(self, &step.state) {
                step.outcome.broke(violation);
            }
            step.state.canonical();
        }
    }

    fn fingerprint(state: &State) -> u64 {
        state.fingerprint()
    }

    fn after(step: &Step) -> (&State, Option<Violation>, u8) {
        (&step.state, step.outcome.violation, step.outcome.notes)
    }

    fn never_clean(&self, state: &State) -> Option<Violation> {
        (!becomes_clean(self, state)).then_some(Violation::NeverClean)
    }
}

struct Steps<'a> {
    config: &'a Config,
    from: &'a State,
    out: &'a mut Vec<Step>,
}

impl Steps<'_> {
    fn simple(&mut self, event: Event, act: impl FnOnce(&mut State, &mut Outcome) -> bool) {
        let (mut state, mut outcome) = (*self.from, Outcome::default());
        if act(&mut state, &mut outcome) {
            self.out.push(Step { event, state, outcome });
        }
    }

    fn all(&mut self) {
        let (config, from) = (self.config, self.from);
        self.simple(Event::Tick, |state, outcome| {
            let silent = if config.still { None } else { state.tick(config) };
            if silent > Some(0) {
                outcome.note(Note::Silent);
            }
            silent.is_some()
        });
        for (index, mid) in from.mids.iter().enumerate().filter(|(_, mid)| mid.packet.kind != Kind::None) {
            self.simple(Event::Operate(mid.packet, mid.len), |state, outcome| {
                operate(config, state, index, outcome);
                true
            });
        }
        for (place, packet) in from.flight.iter().enumerate().filter(|(_, p)| p.kind != Kind::None) {
            self.pass(Event::Arrive(*packet), *packet, |state| state.flight[place] = Packet::default());
        }
        for number in 0..config.conns.len() {
            self.client(number);
        }
        self.backends();
        self.attacker();
        self.agent();
    }

    /// A packet passes at once, or comes into the program and stays there.
    fn pass(&mut self, event: Event, packet: Packet, prepare: impl Fn(&mut State)) {
        let config = self.config;
        // What was on the wire counts from when it passes.
        let packet = Packet { age: 0, ..packet };
        self.simple(event, |state, outcome| {
            prepare(state);
            let ways = &state.ways[..usize::from(config.ports)];
            let free = match config.nodes {
                1 => ways.iter().any(|way| way[0] == 0),
                _ => ways[usize::from(packet.port)][0] == 0,
            };
            let alone = state.quiet();
            forge_reached(config, state, &packet);
            let ran = run(config, &mut state.ways, &packet, None);
            arrive(config, state, &packet, ran, (alone, free), outcome);
            true
        });
        let free = |mid: &Mid| mid.packet.kind == Kind::None;
        if (packet.kind == Kind::Syn || !config.syns_inside)
            && let Some(place) = self.from.mids[..usize::from(config.mids)].iter().position(free)
        {
            self.simple(Event::Enter(packet), |state, outcome| {
                prepare(state);
                state.mids[place] = Mid { packet, ..Mid::default() };
                operate(config, state, place, outcome);
                true
            });
        }
    }

    /// Somebody sends a packet: it passes, or stays on the wire.
    fn send(&mut self, packet: Packet, prepare: impl Fn(&mut State)) {
        self.pass(Event::Send(packet), packet, &prepare);
        if !self.config.late_ends && ends(packet.kind) {
            return;
        }
        let on_wire = |place: &usize| self.from.flight[*place].kind == Kind::None;
        if let Some(place) = (0..FLIGHT.min(self.config.flight.into())).find(on_wire) {
            self.simple(Event::Launch(packet), |state, _| {
                prepare(state);
                state.flight[place] = packet;
                true
            });
        }
    }

    fn client(&mut self, number: usize) {
        let (config, flow, conn) = (self.config, self.from.flows[number], self.config.conns[number]);
        let id = number as u8;
        let packet = |kind, seq| Packet { kind, conn: id, seq, port: flow.node, ..Packet::default() };
        let first = if config.udp { Kind::Ack } else { Kind::Syn };
        let next = conn.isn.wrapping_add(1);
        match flow.phase {
            Phase::Unborn => {
                let earlier = self.from.flows[..number].iter().zip(&config.conns);
                let waits = earlier.into_iter().any(|(f, c)| c.tuple == conn.tuple && f.phase != Phase::Gone);
                if !waits && !(self.from.removed && conn.backend == 1) {
                    self.send(packet(first, conn.isn), |state| {
                        state.flows[number].phase = Phase::Syn;
                        state.flows[number].age = NEVER;
                    });
                }
            }
            Phase::Syn => {
                self.send(packet(first, conn.isn), |_| {});
                self.leave(number);
                self.reroute(number);
            }
            Phase::Est => {
                self.send(packet(Kind::Ack, next), |_| {});
                self.reroute(number);
                if config.fin {
                    self.send(packet(Kind::Fin, next), |_| {});
                    self.closes(number);
                }
                if config.rst {
                    self.send(packet(Kind::Rst, next), |_| {});
                    self.resets(number);
                }
                self.leave(number);
            }
            Phase::Fin => {
                self.send(packet(Kind::Ack, next.wrapping_add(1)), |_| {});
                self.leave(number);
            }
            Phase::Gone => {}
        }
    }

    /// After its FIN is on its way, a connection is half-closed, or over if the backend's has come.
    fn closes(&mut self, number: usize) {
        self.afterwards(number, Kind::Fin, |flow| {
            flow.phase = if flow.got_fin { Phase::Gone } else { Phase::Fin };
        });
    }

    fn resets(&mut self, number: usize) {
        self.afterwards(number, Kind::Rst, |flow| flow.phase = Phase::Gone);
    }

    /// What becomes of a connection that has just sent a packet of this kind: which was checked as one of a live one.
    fn afterwards(&mut self, number: usize, kind: Kind, change: impl Fn(&mut super::state::Flow)) {
        for step in self.out.iter_mut() {
            let sent = match step.event {
                Event::Send(p) | Event::Launch(p) | Event::Enter(p) => p,
                _ => continue,
            };
            if sent.kind == kind && usize::from(sent.conn) == number && step.state.flows[number].promised() {
                change(&mut step.state.flows[number]);
            }
        }
    }

    /// It matters only to who comes later.
    fn leave(&mut self, number: usize) {
        if number + 1 < self.config.conns.len() {
            self.simple(Event::Leave(number as u8), |state, _| {
                state.flows[number].phase = Phase::Gone;
                state.flows[number].released = true;
                true
            });
        }
    }

    fn reroute(&mut self, number: usize) {
        let lost = self.config.moved_is_lost;
        if self.from.left.reroutes > 0 {
            self.simple(Event::Reroute(number as u8), |state, outcome| {
                state.left.reroutes -= 1;
                state.flows[number].node ^= 1;
                state.flows[number].lost |= lost;
                outcome.note(Note::Rerouted);
                true
            });
        }
    }

    fn backends(&mut self) {
        let config = self.config;
        for (number, ports) in self.from.socks.iter().enumerate() {
            for (port, sock) in ports.iter().enumerate() {
                let (conn, port_id) = (sock.conn, port as u8);
                let way = &self.from.ways[port];
                let owned = word(way).is(MappingState::Live)
                    && owner(way) == Some(config.conns[usize::from(conn)].tuple);
                let packet = |kind| Packet { kind, conn, port: port_id, owned, ..Packet::default() };
                let says = |state: &mut State| state.socks[number][port].age = 0;
                match sock.stage {
                    Stage::Received => self.send(packet(Kind::SynAck), says),
                    Stage::Established | Stage::Half => {
                        self.send(packet(Kind::Data), |_| {});
                        if config.fin {
                            let after =
                                if sock.stage == Stage::Half { Stage::LastAck } else { Stage::Closed };
                            self.send(packet(Kind::BackFin), |state| {
                                state.socks[number][port].stage = after;
                                state.socks[number][port].age = 0;
                            });
                        }
                        if config.rst {
                            self.send(packet(Kind::BackRst), |state| {
                                state.socks[number][port] = Default::default();
                            });
                        }
                    }
                    // It says so again until it is answered.
                    Stage::Closed | Stage::LastAck => self.send(packet(Kind::BackFin), says),
                    Stage::None | Stage::TimeWait => {}
                }
            }
        }
    }

    fn attacker(&mut self) {
        if self.from.left.forged == 0 || !self.from.flows[0].promised() {
            return;
        }
        for segment in &self.config.forgeries {
            let kind = match (segment.syn, segment.fin, segment.rst) {
                (true, ..) => Kind::Syn,
                (_, true, _) => Kind::Fin,
                (_, _, true) => Kind::Rst,
                _ => Kind::Ack,
            };
            let packet = Packet { kind, conn: NEVER, seq: segment.seq, ..Packet::default() };
            self.pass(Event::Send(packet), packet, |state| state.left.forged -= 1);
        }
    }

    fn agent(&mut self) {
        let (config, from) = (self.config, self.from);
        if from.sweep.some {
            self.simple(Event::SweepAct(from.sweep.port), |state, _| {
                let act = std::mem::take(&mut state.sweep);
                sweep(config, state, act);
                true
            });
        } else {
            for port in 0..config.ports {
                let Some(act) = look(config, from, port) else { continue };
                self.simple(Event::Sweep(port), |state, _| {
                    sweep(config, state, act);
                    true
                });
                self.simple(Event::SweepLook(port), |state, _| {
                    state.sweep = act;
                    true
                });
            }
        }
        if from.left.removals > 0 && !from.removed {
            self.simple(Event::Remove, |state, outcome| {
                state.left.removals -= 1;
                state.removed = true;
                release(config, state, outcome, Note::Removed, |conn| conn.backend == 1);
                state.socks[0] = Default::default();
                true
            });
        }
        if from.left.wipes > 0 {
            self.simple(Event::Wipe, |state, outcome| {
                state.left.wipes -= 1;
                state.ways = Default::default();
                // Packets inside have the old table in hand, and lose with it.
                state.mids = Default::default();
                state.sweep = Pending::default();
                release(config, state, outcome, Note::Wiped, |_| true);
                true
            });
        }
    }
}

/// Ends the promise for some connections, if it held.
fn release(
    config: &Config,
    state: &mut State,
    outcome: &mut Outcome,
    note: Note,
    which: impl Fn(&super::config::Conn) -> bool,
) {
    for (flow, _) in state.flows.iter_mut().zip(&config.conns).filter(|(_, conn)| which(conn)) {
        if !matches!(flow.phase, Phase::Unborn | Phase::Gone) {
            flow.phase = Phase::Gone;
            outcome.note(note);
        }
        // Its socket may stay behind, whatever became of it.
        flow.released |= flow.phase == Phase::Gone;
    }
}

/// Without the rule that a FIN or RST must be near: as if the mapping had come as far as it says.
fn forge_reached(config: &Config, state: &mut State, packet: &Packet) {
    if config.is_without(Without::Near) && packet.conn == NEVER {
        for way in &mut state.ways {
            way[2] = way[2] & !0xffff_ffff | u64::from(packet.seq);
        }
    }
}

/// A packet inside the program makes one operation more, or comes to its end.
fn operate(config: &Config, state: &mut State, index: usize, outcome: &mut Outcome) {
    let mut mid = state.mids[index];
    let packet = mid.packet;
    let ran = run(config, &mut state.ways, &packet, Some(&mut mid));
    state.mids[index] = mid;
    if ran != Ran::Inside {
        state.mids[index] = Mid::default();
        arrive(config, state, &packet, ran, (false, false), outcome);
    }
}

/// What the sweep would do with a port now.
fn look(config: &Config, state: &State, port: u8) -> Option<Pending> {
    let of = word(&state.ways[usize::from(port)]);
    let used = state.ways[..usize::from(config.ports)].iter().filter(|way| way[0] != 0).count();
    let scarce = config.pressure && used * 2 > config.ports.into();
    let gone = state.removed && of.backend() == 1 && of.is(MappingState::Live);
    let mut timeouts = config.clock.timeouts();
    if config.is_without(Without::UdpIdle) {
        timeouts.udp_idle = 0;
    }
    let fate = if gone { mapping::over(of, at(0)) } else { mapping::sweep(of, &timeouts, scarce, at(0)) };
    let new = match fate {
        Fate::Keep => return None,
        Fate::Over(new) => new.0,
        Fate::Free => 0,
    };
    Some(Pending { some: true, port, old: of.0, new })
}

/// The sweep acts on what it saw, if it is still so.
fn sweep(config: &Config, state: &mut State, act: Pending) {
    let way = &mut state.ways[usize::from(act.port)];
    if way[0] == act.old || config.is_without(Without::ConditionalSweep) {
        way[0] = act.new;
    }
}

/// Left alone, with a sweep that does its work, every port becomes free.
fn becomes_clean(config: &Config, from: &State) -> bool {
    let (mut state, mut outcome) = (*from, Outcome::default());
    state.flight = Default::default();
    let act = std::mem::take(&mut state.sweep);
    if act.some {
        sweep(config, &mut state, act);
    }
    for index in 0..state.mids.len() {
        while state.mids[index].packet.kind != Kind::None {
            operate(config, &mut state, index, &mut outcome);
        }
    }
    for _ in 0..4 * config.clock.forever() {
        if state.ways.iter().all(|way| way[0] == 0) {
            return true;
        }
        state.tick(config);
        for port in 0..config.ports {
            if let Some(act) = look(config, &state, port) {
                sweep(config, &mut state, act);
            }
        }
    }
    false
}

/// Whose packet it is, for people.
pub fn who(config: &Config, packet: &Packet) -> String {
    match packet.conn {
        NEVER => "forged".into(),
        conn => format!("c{} (client {})", conn + 1, tuple_of(config, packet)),
    }
}

/// Whether a packet ends its connection, or its sender's half of it.
fn ends(kind: Kind) -> bool {
    matches!(kind, Kind::Fin | Kind::Rst | Kind::BackFin | Kind::BackRst)
}
