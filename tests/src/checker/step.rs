//! Everything that may happen next.

use zdd_common::steer::Segment;

use super::agent;
use super::clean::becomes_clean;
use super::config::{Budget, Config};
use super::event::{Event, How, Step};
use super::inside::{enter, note_found, read_row, recall};
use super::packets::{Note, Outcome, Violation, check, process, read};
use super::search::World;
use super::state::{Kind, Mid, NEVER, Packet, State};
use super::tables::{self, Read};

impl World for Config {
    type State = State;
    type Step = Step;
    type Violation = Violation;

    fn first(&self) -> State {
        let mut first = State::first(self);
        first.canonical();
        first
    }

    fn steps(&self, from: &State, out: &mut Vec<Step>) {
        steps(self, from, out);
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

/// All steps from a state, in an order that depends on the state alone.
fn steps(config: &Config, from: &State, out: &mut Vec<Step>) {
    out.clear();
    for node in 0..config.nodes {
        of_node(config, &from.facing(node), out);
    }
    for step in out {
        for node in 0..config.nodes {
            if step.outcome.violation.is_none()
                && let Some(violation) = check(config, &step.state.facing(node))
            {
                step.outcome.broke(violation);
            }
        }
        step.state.canonical();
    }
}

/// What may happen at the node that `from` faces; time is everybody's.
fn of_node(config: &Config, from: &State, out: &mut Vec<Step>) {
    let mut all = Steps { config, from, out };
    if from.node == 0 {
        all.time();
    }
    all.program();
    all.clients();
    all.attacker();
    // The agent is one task: it does nothing else between looking at an entry and acting on it.
    if from.sweep.what != 0 {
        all.simple(Event::SweepAct(usize::from(from.sweep.slot)), |config, state, outcome| {
            let act = std::mem::take(&mut state.sweep);
            agent::act(config, state, act, outcome);
            true
        });
    } else {
        all.agent();
    }
    all.spend(
        Event::Wipe,
        |left| &mut left.wipes,
        |config, state, outcome| {
            agent::wipe(config, state, outcome);
        },
    );
}

pub(super) struct Steps<'a> {
    pub(super) config: &'a Config,
    pub(super) from: &'a State,
    pub(super) out: &'a mut Vec<Step>,
}

impl Steps<'_> {
    /// A step that only changes the state; `act` says whether it is possible.
    pub(super) fn simple(
        &mut self,
        event: Event,
        act: impl FnOnce(&Config, &mut State, &mut Outcome) -> bool,
    ) {
        let (mut state, mut outcome) = (*self.from, Outcome::default());
        if act(self.config, &mut state, &mut outcome) {
            self.out.push(Step { event, how: How::default(), state, outcome });
        }
    }

    /// A step that costs one of a budget.
    pub(super) fn spend(
        &mut self,
        event: Event,
        budget: impl Fn(&mut Budget) -> &mut u8,
        act: impl FnOnce(&Config, &mut State, &mut Outcome),
    ) {
        self.simple(event, |config, state, outcome| {
            let left = budget(&mut state.left);
            let may = *left > 0;
            if may {
                *left -= 1;
                act(config, state, outcome);
            }
            may
        });
    }

    fn time(&mut self) {
        self.simple(Event::Tick, |config, state, outcome| match state.tick(config) {
            Some(silent) => {
                if silent > 0 {
                    outcome.note(Note::Silent);
                }
                true
            }
            None => false,
        });
    }

    /// A packet reaches the program, in every way that it can be handled. `prepare` is what else changes.
    pub(super) fn packet(&mut self, event: Event, packet: Packet, prepare: impl Fn(&mut State)) {
        let config = self.config;
        let copy = |mid: &Mid| {
            let inside = &mid.packet;
            inside.kind == Kind::Syn && (inside.tuple, inside.seq) == (packet.tuple, packet.seq)
        };
        if packet.kind == Kind::Syn && config.rss && self.from.mids.iter().any(copy) {
            return;
        }
        let gray = packet.kind == Kind::Syn && {
            let mut probe = *self.from;
            tables::filter(config, &mut probe, packet.tuple, packet.seq).is_none()
        };
        let lies = packet.kind == Kind::Syn && packet.flow != NEVER && self.from.left.lies > 0;
        let free = self.from.mids[..usize::from(config.mids)].iter().any(|mid| mid.packet.kind == Kind::None);
        let limited = packet.kind == Kind::Syn && config.limited;
        let remembered = packet.kind == Kind::Syn && config.early;
        for bits in 0..32u8 {
            let [stops, known, lie, refused, early] = [1, 2, 4, 8, 16].map(|bit| bits & bit != 0);
            if early && !(stops && remembered) {
                continue;
            }
            let whole = !stops && !known && !lie;
            if (stops && !free) || (known && !gray) || (lie && !lies) || (refused && !(limited && whole)) {
                continue;
            }
            let how = How { stops, early, known, lie, refused };
            let mut state = *self.from;
            prepare(&mut state);
            let first = self.from.flows.get(usize::from(packet.flow));
            let fresh = first.is_some_and(|flow| flow.answered == 0);
            let marks = state.marks;
            let mut seen = read(config, &mut state, &packet, known, lie);
            if refused {
                // Whether it is remembered is for steering to say; one that is known is not asked for.
                (state.marks, seen.refused) = (marks, true);
                if seen.replay {
                    continue;
                }
            }
            if lie {
                // A false alarm is one for a SYN that the filter does not know; only the first is of interest.
                if !fresh {
                    continue;
                }
                state.left.lies -= 1;
            }
            let outcome = if stops {
                enter(&mut state, packet, seen, early);
                Outcome::default()
            } else {
                process(config, &mut state, &packet, seen, lie)
            };
            self.out.push(Step { event, how, state, outcome });
        }
    }

    /// Packets inside the program go on.
    fn program(&mut self) {
        for (index, mid) in self.from.mids.iter().enumerate() {
            if mid.packet.kind == Kind::None {
                continue;
            }
            if mid.early {
                self.simple(Event::Row(mid.packet), |config, state, _| {
                    read_row(config, state, index);
                    true
                });
                continue;
            }
            if !mid.looked {
                self.simple(Event::Look(mid.packet), |config, state, _| {
                    let seen = Read { found: None, inside: 0, ..recall(mid) };
                    let found = tables::Packet::new(config, state, mid.packet.tuple, seen).look();
                    note_found(&mut state.mids[index], found);
                    true
                });
            }
            self.simple(Event::Finish(mid.packet), |config, state, outcome| {
                state.mids[index] = Mid::default();
                *outcome = process(config, state, &mid.packet, recall(mid), true);
                true
            });
        }
    }

    fn attacker(&mut self) {
        if self.from.left.forged == 0 {
            return;
        }
        for forgery in &self.config.forgeries {
            if self.config.forges_on_entry && self.from.entry(forgery.tuple).is_none() {
                continue;
            }
            let Segment { syn, fin, rst, seq } = forgery.segment;
            let kind = match (syn, fin, rst) {
                (true, ..) => Kind::Syn,
                (_, true, _) => Kind::Fin,
                (_, _, true) => Kind::Rst,
                _ => Kind::Ack,
            };
            let packet = Packet { kind, flow: NEVER, tuple: forgery.tuple, seq, age: 0 };
            self.packet(Event::Forge(packet), packet, |state| state.left.forged -= 1);
        }
    }

    fn agent(&mut self) {
        let (config, from) = (self.config, self.from);
        for index in 0..usize::from(config.cells) {
            let cell = from.cells[index].cell;
            for to in 1..=u16::from(config.backends) {
                // After a client has changed rows the agent waits before it changes one.
                let waits = config.budget.joins > 0 && !agent::steady(config, from);
                if to != cell.current() && from.removed & 1 << to == 0 && !waits {
                    self.spend(
                        Event::Change(index, to),
                        |left| &mut left.changes,
                        |config, state, _| {
                            agent::change(config, state, index, to);
                        },
                    );
                }
            }
            self.simple(Event::Settle(index), |config, state, _| agent::settle(config, state, index));
            self.simple(Event::Forget(index), |config, state, _| agent::forget(config, state, index));
        }
        if config.budget.joins > 0 {
            self.simple(Event::Alike, |config, state, _| agent::alike(config, state));
            let tuples = config.flows.iter().map(|flow| flow.tuple).max().unwrap_or(0);
            for tuple in 0..=tuples {
                self.simple(Event::Join(tuple), |config, state, _| agent::join(config, state, tuple));
            }
        }
        for slot in 0..usize::from(config.capacity) {
            let Some(pending) = agent::look(config, from, slot) else { continue };
            self.simple(Event::Sweep(slot), |config, state, outcome| {
                agent::act(config, state, pending, outcome);
                true
            });
            if config.mids > 0 {
                self.simple(Event::SweepLook(slot), |_, state, _| {
                    state.sweep = pending;
                    true
                });
            }
        }
        if from.cells.iter().any(|cell| cell.cell.lookup()) {
            self.spend(
                Event::Restart,
                |left| &mut left.restarts,
                |config, state, _| {
                    agent::restart(config, state);
                },
            );
        }
        for backend in 1..=u16::from(config.backends) {
            let used = from.cells[..usize::from(config.cells)].iter().any(|c| c.cell.current() == backend);
            if !used && from.removed & 1 << backend == 0 {
                self.spend(
                    Event::Remove(backend),
                    |left| &mut left.removals,
                    |config, state, outcome| {
                        agent::remove(config, state, backend, outcome);
                    },
                );
            }
        }
    }
}
