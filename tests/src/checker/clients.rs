//! What clients do.

use super::config::FLIGHT;
use super::event::Event;
use super::packets::lost;
use super::state::{Kind, Mid, NEVER, Packet, Phase, State};
use super::step::Steps;

impl Steps<'_> {
    pub(super) fn clients(&mut self) {
        let from = self.from;
        for (index, packet) in from.flight.iter().enumerate() {
            if packet.kind == Kind::None || from.flight[..index].contains(packet) {
                continue;
            }
            if from.flows.get(usize::from(packet.flow)).is_some_and(|flow| flow.node != from.node) {
                continue;
            }
            self.packet(Event::Arrive(*packet), *packet, |state| state.flight[index] = Packet::default());
            if from.left.copies > 0 {
                self.packet(Event::Copy(*packet), *packet, |state| state.left.copies -= 1);
            }
        }
        for number in 0..self.config.flows.len() {
            self.client(number);
        }
    }

    fn client(&mut self, number: usize) {
        let (config, flow, spec) = (self.config, self.from.flows[number], self.config.flows[number]);
        let id = number as u8;
        let packet = |kind, seq| Packet { kind, flow: id, tuple: spec.tuple, seq, age: 0 };
        let seq = spec.isn.wrapping_add(1).wrapping_add(u32::from(flow.moves) * config.moves.1);
        let begun = !matches!(flow.phase, Phase::Unborn | Phase::Gone);
        if begun && flow.node != self.from.node {
            if flow.promised() {
                self.reroute(
                    number,
                    packet(Kind::Ack, seq.wrapping_add(u32::from(flow.phase == Phase::Fin))),
                );
            }
            return;
        }
        match flow.phase {
            Phase::Unborn => {
                let before = self.from.flows[..number].iter().zip(&config.flows);
                if before.into_iter().any(|(f, s)| s.tuple == spec.tuple && f.phase != Phase::Gone) {
                    return;
                }
                let kind = if config.udp { Kind::Udp } else { Kind::Syn };
                let seq = if config.udp { 0 } else { spec.isn };
                self.send(packet(kind, seq), |state| {
                    state.flows[number].phase = Phase::Syn;
                    state.flows[number].age = NEVER;
                    state.flows[number].node = state.node;
                });
            }
            Phase::Syn if !config.udp => {
                // A client tries again before the filter forgets; what is on the wire counts as under way.
                let late = config.clock.filter_min.saturating_sub(config.clock.flight);
                let inside =
                    |m: &Mid| m.packet.kind != Kind::None && m.packet.flow == id && m.packet.age > late;
                if (flow.age == NEVER || flow.age <= late) && !self.from.mids.iter().any(inside) {
                    self.send(packet(Kind::Syn, spec.isn), |_| {});
                }
                for backend in (1..=u16::from(config.backends)).filter(|b| flow.answered & 1 << b != 0) {
                    self.simple(Event::Complete(id, backend), |_, state, _| {
                        state.flows[number].phase = Phase::Est;
                        state.flows[number].uses = backend as u8;
                        true
                    });
                }
                self.leave(number);
            }
            Phase::Est if config.udp => self.send(packet(Kind::Udp, 0), |_| {}),
            Phase::Est => {
                self.send(packet(Kind::Ack, seq), |_| {});
                if flow.moves < config.moves.0 {
                    let next = seq.wrapping_add(config.moves.1);
                    self.send(packet(Kind::Ack, next), |state| state.flows[number].moves += 1);
                }
                if config.fin {
                    self.send(packet(Kind::Fin, seq), |state| state.flows[number].phase = Phase::Fin);
                }
                if config.rst {
                    self.send(packet(Kind::Rst, seq), |_| {});
                }
                self.leave(number);
            }
            Phase::Fin => {
                self.send(packet(Kind::Ack, seq.wrapping_add(1)), |_| {});
                self.leave(number);
            }
            // Nothing tells its old packets from its new ones.
            Phase::Gone if config.udp && self.from.left.again > 0 && !self.is_under_way(id) => {
                self.spend(
                    Event::Again(id),
                    |left| &mut left.again,
                    |_, state, _| {
                        state.flows[number] = Default::default();
                    },
                );
            }
            _ => {}
        }
    }

    /// Routers choose another node for a connection: its next packet passes there. Before, nobody can tell.
    fn reroute(&mut self, number: usize, packet: Packet) {
        let (config, from) = (self.config, self.from);
        let uses = from.flows[number].uses.into();
        if from.left.reroutes == 0 || (config.moves_safely && lost(config, from, packet.tuple, uses)) {
            return;
        }
        self.packet(Event::Reroute(packet), packet, |state| {
            state.left.reroutes -= 1;
            state.flows[number].node = state.node;
        });
    }

    fn is_under_way(&self, flow: u8) -> bool {
        let inside = self.from.mids.iter().map(|mid| &mid.packet);
        self.from.flight.iter().chain(inside).any(|p| p.kind != Kind::None && p.flow == flow)
    }

    /// The client is gone: crashed, finished, or it has received a FIN or RST. Only of interest if its port is used again.
    fn leave(&mut self, number: usize) {
        let tuple = self.config.flows[number].tuple;
        if self.config.flows[number + 1..].iter().any(|later| later.tuple == tuple) {
            self.simple(Event::Leave(number as u8), |_, state, _| {
                state.flows[number].phase = Phase::Gone;
                true
            });
        }
    }

    /// A client sends a packet: it arrives at once, or stays on the wire.
    fn send(&mut self, packet: Packet, prepare: impl Fn(&mut State)) {
        self.packet(Event::Send(packet), packet, |state| {
            prepare(state);
        });
        let after_rst = packet.kind == Kind::Rst;
        if after_rst {
            // A reset ends the connection; its packet is checked like any other.
            for step in self.out.iter_mut().filter(|step| step.event == Event::Send(packet)) {
                if !step.how.stops {
                    step.state.flows[usize::from(packet.flow)].phase = Phase::Gone;
                }
            }
        }
        let room = (0..FLIGHT.min(usize::from(self.config.flight)))
            .find(|place| self.from.flight[FLIGHT - 1 - place].kind == Kind::None)
            .map(|place| FLIGHT - 1 - place);
        let on_wire = self.from.flight.iter().filter(|p| p.kind != Kind::None).count();
        if (packet.kind == Kind::Syn || self.config.late)
            && !after_rst
            && on_wire < usize::from(self.config.flight)
            && let Some(place) = room
        {
            self.simple(Event::Launch(packet), |_, state, _| {
                prepare(state);
                state.flight[place] = packet;
                true
            });
        }
    }
}
