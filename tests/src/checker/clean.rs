//! Progress: whatever happened, the world becomes clean when it is left alone.

use super::agent;
use super::config::Config;
use super::inside::{read_row, recall};
use super::packets::{Outcome, process};
use super::state::{CellState, Kind, State};

/// Left alone, with an agent that does its work, the world becomes clean: no dirty cell, no LOOKUP, no entry.
pub fn becomes_clean(config: &Config, from: &State) -> bool {
    let mut state = *from;
    let mut outcome = Outcome::default();
    state.flight = Default::default();
    let act = std::mem::take(&mut state.sweep);
    if act.what != 0 {
        agent::act(config, &mut state, act, &mut outcome);
    }
    for index in 0..state.mids.len() {
        read_row(config, &mut state, index);
    }
    for mid in std::mem::take(&mut state.mids) {
        if mid.packet.kind != Kind::None {
            process(config, &mut state, &mid.packet, recall(&mid), true);
        }
    }
    for _ in 0..6 * config.clock.forever() {
        state.tick(config);
        let mut clean = true;
        for node in 0..config.nodes {
            state = state.facing(node);
            clean &= tend(config, &mut state, &mut outcome);
        }
        if clean {
            return true;
        }
    }
    false
}

/// A node's agent does all it can now. True: nothing is left of any change.
fn tend(config: &Config, state: &mut State, outcome: &mut Outcome) -> bool {
    for slot in 0..state.ways.len() {
        if let Some(pending) = agent::look(config, state, slot) {
            agent::act(config, state, pending, outcome);
        }
    }
    for index in 0..usize::from(config.cells) {
        agent::settle(config, state, index);
        agent::forget(config, state, index);
    }
    let clean = |cell: &CellState| !cell.cell.dirty() && !cell.cell.lookup();
    state.cells[..usize::from(config.cells)].iter().all(clean) && state.ways.iter().all(|way| way.word.0 == 0)
}
