//! The agent's acts, by the functions of `zdd_common::rules`.

use zdd_common::entries::{BackendId, Cell, Class, Positions, State as EntryState, Word};
use zdd_common::rules::{self, Sweep};
use zdd_common::time::Tick;

use super::config::{Config, Without};
use super::packets::{Note, Outcome, cell_of, service_of};
use super::state::{Flow, NOW, Pending, Phase, State, WIPE, Way, at};

fn facts(config: &Config, state: &State, cell: usize) -> rules::Facts {
    let forever = config.clock.forever();
    let when = |age: u8| if age >= forever { 0 } else { at(age) };
    let [fail, udp, wipe] = state.facts[service_of(config, cell)];
    rules::Facts { last_fail: when(fail), udp_fail: when(udp), last_wipe: when(wipe) }
}

fn commit(state: &mut State, index: usize, cell: Cell) {
    state.cells[index].cell = cell;
    state.cells[index].committed = 0;
    for mid in state.mids.iter_mut().filter(|mid| mid.early) {
        mid.stale = true;
    }
}

/// New flows of a cell go to `current`.
pub fn change(config: &Config, state: &mut State, index: usize, current: BackendId) {
    let old = state.cells[index].cell;
    let (mut cell, starts) = rules::change(old, current);
    if config.is_without(Without::StickyDirty) && old.dirty() && current == old.base() {
        cell = Cell::settled(current);
    }
    if starts && config.is_without(Without::UdpArm) {
        cell = Cell(cell.0 & !Cell::ARMED);
    }
    commit(state, index, cell);
    if starts {
        state.cells[index].since = 0;
    }
}

/// Settles a cell if it is time. False: not yet.
pub fn settle(config: &Config, state: &mut State, index: usize) -> bool {
    let CellState { cell, since, committed } = state.cells[index];
    if committed < config.clock.grace {
        return false;
    }
    let settled =
        rules::settle(cell, at(since), facts(config, state, index), &config.clock.timeouts(), at(0));
    if settled != cell {
        commit(state, index, settled);
    }
    settled != cell
}

use super::state::CellState;

/// Clears LOOKUP of a clean cell after a scan. False: not yet.
pub fn forget(config: &Config, state: &mut State, index: usize) -> bool {
    let CellState { cell, committed, .. } = state.cells[index];
    if cell.dirty() || !cell.lookup() || committed < config.clock.grace {
        return false;
    }
    let differs = |way: &Way| {
        way.word.live()
            && cell_of(config, state, way.tuple) == index
            && (way.word.backend() != cell.base() || way.word.alt() != cell.base())
    };
    if !config.is_without(Without::ForgetScan) && state.ways.iter().any(differs) {
        return false;
    }
    commit(state, index, rules::forget(cell));
    true
}

/// Whether no packet works with a row from before the last commit or the last change of rows.
pub fn steady(config: &Config, state: &State) -> bool {
    state.cells[..usize::from(config.cells)].iter().all(|cell| cell.committed >= config.clock.grace)
}

/// Whether a client may change rows, as far as the cells' flags and bases say.
fn agree(config: &Config, state: &State) -> bool {
    let [one, other] = state.cells.map(|cell| cell.cell);
    let clean = !one.dirty() && !other.dirty() && one.base() == other.base();
    steady(config, state) && (clean || config.is_without(Without::JoinClean))
}

/// Both rows look up what either does. False: not yet, or they do.
pub fn alike(config: &Config, state: &mut State) -> bool {
    let lookup = |state: &State, index: usize| state.cells[index].cell.lookup();
    if !agree(config, state) || lookup(state, 0) == lookup(state, 1) {
        return false;
    }
    for index in 0..2 {
        commit(state, index, Cell(state.cells[index].cell.0 | Cell::LOOKUP));
    }
    true
}

/// The other row steers a tuple's packets from now on. False: not yet.
pub fn join(config: &Config, state: &mut State, tuple: u8) -> bool {
    let [one, other] = state.cells.map(|cell| cell.cell.lookup());
    let alike = one == other || config.is_without(Without::JoinLookup);
    if state.left.joins == 0 || !agree(config, state) || !alike {
        return false;
    }
    state.left.joins -= 1;
    state.rows ^= 1 << tuple;
    // No row changes before a grace period has passed.
    state.cells.iter_mut().for_each(|cell| cell.committed = 0);
    true
}

/// What the sweep would do with a way now; `None`: nothing.
pub fn look(config: &Config, state: &State, slot: usize) -> Option<Pending> {
    let way = state.ways[slot];
    if way.word.is(EntryState::Free) {
        return None;
    }
    let cell = &state.cells[cell_of(config, state, way.tuple)];
    if cell.committed < config.clock.grace {
        return None;
    }
    let live = state.ways.iter().filter(|way| way.word.live()).count() as u8;
    let pressure = config.pressure && live * 2 > config.capacity;
    let redundant_goes = config.is_without(Without::KeepRedundant);
    let base = cell.cell.base();
    let judged = if redundant_goes { Cell::new(base, base, Cell::LOOKUP) } else { cell.cell };
    let times = config.clock.timeouts();
    let verdict = (1..=config.backends)
        .filter(|backend| state.removed & 1 << backend != 0)
        .find_map(|backend| rules::purge(way.word, backend.into(), at(0)))
        .unwrap_or_else(|| rules::sweep(way.word, judged, config.udp, pressure, &times, at(0)));
    pending(config, slot, way.word, verdict)
}

fn pending(config: &Config, slot: usize, old: Word, verdict: Sweep) -> Option<Pending> {
    let dead = |word: Word| {
        let class = match word.class_bits() {
            0 => Class::Half,
            1 => Class::Learned,
            _ => Class::Promoted,
        };
        Word::new(EntryState::Dead, class, word.backend(), word.alt(), Tick(NOW))
    };
    let (what, new) = match verdict {
        Sweep::Keep => return None,
        Sweep::Word(word) => (1, word),
        Sweep::Restore(_) if config.is_without(Without::AltRestore) => (1, dead(old)),
        Sweep::Restore(word) => (2, word),
        Sweep::Free => (3, Word::default()),
    };
    Some(Pending { what, slot: slot as u8, old, new })
}

/// The sweep acts on what it saw, if it is still so.
pub fn act(config: &Config, state: &mut State, act: Pending, outcome: &mut Outcome) {
    let way = &mut state.ways[usize::from(act.slot)];
    if way.word != act.old && !config.is_without(Without::ConditionalDelete) {
        return;
    }
    let tuple = way.tuple;
    let times = &config.clock;
    // Reclaimed early, at the price that steering.md names.
    let early = config.pressure
        && act.what != 3
        && act.old.is(EntryState::Est)
        && act.old.fin_seen()
        && way.age() <= times.idle;
    way.word = act.new;
    match act.what {
        2 => way.positions = Positions::new(way.positions.alt(), way.positions.alt()),
        3 => *way = Way::default(),
        _ => {}
    }
    if early {
        release(config, state, outcome, Note::Reclaimed, |flow, of| {
            of == tuple && flow.phase == Phase::Fin && u16::from(flow.uses) == act.old.backend()
        });
    }
}

/// Ends the promise for some connections.
fn release(
    config: &Config,
    state: &mut State,
    outcome: &mut Outcome,
    note: Note,
    which: impl Fn(&Flow, u8) -> bool,
) {
    for (flow, spec) in state.flows.iter_mut().zip(&config.flows) {
        let live = matches!(flow.phase, Phase::Syn | Phase::Est | Phase::Fin);
        if live && which(flow, spec.tuple) {
            flow.phase = Phase::Gone;
            outcome.note(note);
        }
    }
}

/// Backends that a connection depends on, one bit each.
fn depends(flow: &Flow) -> u8 {
    if flow.promised() { 1 << flow.uses } else { flow.answered }
}

/// The flow table is lost.
pub fn wipe(config: &Config, state: &mut State, outcome: &mut Outcome) {
    let before = *state;
    release(config, state, outcome, Note::Wiped, |flow, tuple| {
        depends(flow) & !(1 << before.cells[cell_of(config, &before, tuple)].cell.base()) != 0
    });
    state.ways = Default::default();
    if !config.is_without(Without::WipeClock) {
        state.facts.iter_mut().for_each(|facts| facts[WIPE] = 0);
    }
    if !config.is_without(Without::WipeArm) {
        for index in 0..usize::from(config.cells) {
            let wiped = rules::wiped(state.cells[index].cell);
            if wiped != state.cells[index].cell {
                commit(state, index, wiped);
            }
        }
    }
}

/// The agent died and starts again: it does not know since when cells are dirty.
pub fn restart(config: &Config, state: &mut State) {
    let unknown = if config.is_without(Without::SinceRestart) { config.clock.forever() } else { 0 };
    for index in 0..usize::from(config.cells) {
        if state.cells[index].cell.dirty() {
            state.cells[index].since = unknown;
        }
        state.cells[index].committed = unknown;
    }
    state.facts.iter_mut().for_each(|facts| facts[WIPE] = config.clock.forever());
    state.sweep = Pending::default();
}

/// A backend is removed at its deadline. Its cells must have another current.
pub fn remove(config: &Config, state: &mut State, backend: BackendId, outcome: &mut Outcome) {
    state.removed |= 1 << backend;
    release(config, state, outcome, Note::Removed, |flow, _| depends(flow) & 1 << backend != 0);
    for index in 0..usize::from(config.cells) {
        let cell = rules::remove(state.cells[index].cell, backend);
        if cell != state.cells[index].cell {
            commit(state, index, cell);
        }
    }
    for slot in 0..state.ways.len() {
        let old = state.ways[slot].word;
        if let Some(verdict) = rules::purge(old, backend, at(0))
            && let Some(pending) = pending(config, slot, old, verdict)
        {
            act(config, state, pending, outcome);
        }
    }
}
