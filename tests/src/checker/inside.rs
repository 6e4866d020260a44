//! Packets inside the program: what they have read, kept until they finish.

use zdd_common::entries::Cell;
use zdd_common::tables::Found;

use super::config::Config;
use super::packets::cell_of;
use super::state::{Kind, Mid, NEVER, Packet, State};
use super::tables::{Read, Slot};

/// A packet has read its cell and stays inside; an `early` one is only remembered.
pub fn enter(state: &mut State, packet: Packet, seen: Read, early: bool) {
    if let Some(mid) = state.mids.iter_mut().find(|mid| mid.packet.kind == Kind::None) {
        *mid = Mid {
            packet: Packet { age: 0, ..packet },
            replay: seen.replay,
            cell: if early { Cell::default() } else { seen.cell },
            early,
            slot: NEVER,
            ..Mid::default()
        };
    }
}

/// An early one reads the row that counts.
pub fn read_row(config: &Config, state: &mut State, index: usize) {
    let cell = state.cells[cell_of(config, state, state.mids[index].packet.tuple)].cell;
    let mid = &mut state.mids[index];
    if mid.early {
        (mid.early, mid.cell) = (false, cell);
    }
}

/// It has looked its entry up.
pub fn note_found(mid: &mut Mid, found: Found<Slot>) {
    mid.looked = true;
    (mid.slot, mid.word, mid.positions) = match found {
        Found::Live(slot, word, positions) => (slot.0, word, positions),
        Found::Dead(slot, word) => (slot.0, word, Default::default()),
        _ => (NEVER, Default::default(), Default::default()),
    };
}

/// What a packet inside the program has read.
pub fn recall(mid: &Mid) -> Read {
    let found = match (mid.slot, mid.word.live()) {
        (NEVER, _) => Found::None,
        (slot, true) => Found::Live(Slot(slot), mid.word, mid.positions),
        (slot, false) => Found::Dead(Slot(slot), mid.word),
    };
    Read {
        cell: mid.cell,
        replay: mid.replay,
        found: mid.looked.then_some((found, mid.clock)),
        inside: mid.packet.age,
        refused: false,
        stale: mid.stale,
        mark: None,
    }
}
