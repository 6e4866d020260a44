//! The agent's side of the algorithm, one cell and one entry at a time: pure, so that the model checker drives these very
//! functions together with [`crate::steer`].
//!
//! Times are nanoseconds since boot ([`crate::tables::SteerTables::now_ns`]'s clock); those in entries are ticks of it.

use crate::entries::{BackendId, Cell, Class, State, Word};
use crate::time::Tick;

/// Timeouts of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A TCP flow silent for longer counts as gone, ns. Longer than [`Timeouts::half_life`].
    pub idle: u64,
    /// The same for UDP, ns.
    pub udp_idle: u64,
    /// Life of a half-open entry, ns: at least as long as the SYN filter may remember a SYN, else a late copy of the SYN
    /// that made the entry would be taken for one from before the change.
    pub half_life: u64,
    /// After this no packet can still be working with what it read before, ns.
    pub grace: u64,
    /// Under pressure, an entry with fin_seen may be reclaimed when silent for this long, ns.
    pub fin_linger: u64,
}

/// What restarts a service's settle clocks; ns, 0: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Facts {
    /// An entry could not be made.
    pub last_fail: u64,
    /// A UDP entry could not be made.
    pub udp_fail: u64,
    /// The flow table was emptied.
    pub last_wipe: u64,
}

/// A new flow of this cell shall go to `current`. Returns the cell, and whether its clock starts: `since` becomes now.
///
/// A clean cell becomes dirty, and UDP armed. A dirty one only gets the new current: its `since` stays, and a rollback
/// does not make it clean, because the flows that began meanwhile have entries.
pub fn change(cell: Cell, current: BackendId) -> (Cell, bool) {
    if cell.current() == current {
        return (cell, false);
    }
    if cell.dirty() {
        return (Cell::new(cell.base(), current, cell.flags()), false);
    }
    (Cell::new(cell.base(), current, Cell::DIRTY | Cell::LOOKUP | Cell::ARMED), true)
}

/// A dirty cell some time after its change: no longer armed, then base becomes current, then clean. Otherwise unchanged.
///
/// `cell` stands in a row that has been committed for at least a grace period. Base moves one step before DIRTY goes, so
/// that whoever still works with the row before meets the entries of whoever works with the new one: else a late packet
/// could make an entry that names the old base beside a connection that has just begun at the new one without an entry.
/// LOOKUP stays until [`forget`].
pub fn settle(cell: Cell, since: u64, facts: Facts, times: &Timeouts, now: u64) -> Cell {
    if !cell.dirty() {
        return cell;
    }
    let mut cell = cell;
    let quiet = |from: u64, for_ns: u64| now.saturating_sub(from) >= for_ns + times.grace;
    if cell.armed() && quiet(since.max(facts.udp_fail).max(facts.last_wipe), times.udp_idle) {
        cell = Cell(cell.0 & !Cell::ARMED);
    }
    let failed = facts.last_fail.max(facts.udp_fail).max(facts.last_wipe);
    if !cell.armed() && quiet(since.max(failed), times.idle.max(times.udp_idle)) {
        let dirty = if cell.base() == cell.current() { 0 } else { Cell::DIRTY };
        cell = Cell::new(cell.current(), cell.current(), Cell::LOOKUP | dirty);
    }
    cell
}

/// A clean cell for which a scan, begun a grace period after it settled, found no entry that differs from its base.
pub fn forget(cell: Cell) -> Cell {
    if cell.dirty() { cell } else { Cell(cell.0 & !Cell::LOOKUP) }
}

/// After the flow table was emptied, flows of dirty cells have lost their entries: those that had diverged are at base
/// now. UDP must be armed again.
pub fn wiped(cell: Cell) -> Cell {
    if cell.dirty() { Cell(cell.0 | Cell::ARMED) } else { cell }
}

/// A backend is removed at its deadline: flows that would still go to it by base go to `current` from now on.
pub fn remove(cell: Cell, removed: BackendId) -> Cell {
    if cell.base() == removed && cell.current() != removed {
        Cell::new(cell.current(), cell.current(), cell.flags())
    } else {
        cell
    }
}

/// What the sweep does with an entry. Every change is a compare-and-swap against the word it saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// Nothing.
    Keep,
    /// The word becomes this one: dead, or no longer pending.
    Word(Word),
    /// Word and positions become those of the second identity ([`crate::tables::SteerTables::replace`]), with alt's
    /// position for both.
    Restore(Word),
    /// Free: nobody can still be looking at it.
    Free,
}

/// The sweep's rule for one entry.
///
/// `cell` is the entry's cell in a row that has been committed for at least a grace period; `udp`: the VIP's protocol;
/// `pressure`: the table is more than half full.
pub fn sweep(word: Word, cell: Cell, udp: bool, pressure: bool, times: &Timeouts, now: u64) -> Sweep {
    let tick = Tick::from_ns(now);
    let old = |ns: u64| tick.since(word.seen()) > crate::time::ticks(ns);
    let dead = Word::new(State::Dead, class(word), word.backend(), word.alt(), tick);
    if word.is(State::Free) {
        return Sweep::Keep;
    }
    if word.is(State::Busy) || word.is(State::Dead) {
        return if old(times.grace) { Sweep::Free } else { Sweep::Keep };
    }
    if word.is(State::Pending) {
        // Whoever rewrote it died in between; with one identity the positions do not steer.
        return if old(times.grace) {
            Sweep::Word(word.with_state(State::Est).with_seen(tick))
        } else {
            Sweep::Keep
        };
    }
    let idle = if udp { times.udp_idle } else { times.idle };
    let expired = if word.is(State::Half) {
        old(times.half_life)
    } else {
        old(idle) || (pressure && word.fin_seen() && old(times.fin_linger))
    };
    if expired {
        return if word.alt_seen() { Sweep::Restore(restored(word, tick)) } else { Sweep::Word(dead) };
    }
    // Says what the cell says anyway. On a dirty cell it would have to be learned again.
    if word.is(State::Est)
        && word.single()
        && word.backend() == cell.base()
        && !cell.dirty()
        && !word.alt_seen()
    {
        return Sweep::Word(dead);
    }
    Sweep::Keep
}

/// The sweep's rule for an entry that names a removed backend; `None`: it does not.
pub fn purge(word: Word, removed: BackendId, now: u64) -> Option<Sweep> {
    if !word.live() || (word.backend() != removed && word.alt() != removed) {
        return None;
    }
    let tick = Tick::from_ns(now);
    Some(if word.backend() != removed {
        Sweep::Word(Word::new(state(word), class(word), word.backend(), word.backend(), word.seen()))
    } else if word.alt() != removed && word.alt_seen() {
        Sweep::Restore(restored(word, tick))
    } else {
        Sweep::Word(Word::new(State::Dead, class(word), word.backend(), word.alt(), tick))
    })
}

/// The entry of its second identity alone.
fn restored(word: Word, tick: Tick) -> Word {
    let alone = Word::new(State::Est, Class::Promoted, word.alt(), word.alt(), tick);
    if word.alt_fin() { alone.with_fin() } else { alone }
}

fn class(word: Word) -> Class {
    match word.class_bits() {
        0 => Class::Half,
        1 => Class::Learned,
        _ => Class::Promoted,
    }
}

fn state(word: Word) -> State {
    if word.is(State::Half) {
        State::Half
    } else if word.is(State::Pending) {
        State::Pending
    } else {
        State::Est
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const TIMES: Timeouts =
        Timeouts { idle: 350 * S, udp_idle: 60 * S, half_life: 104 * S, grace: 2 * S, fin_linger: 60 * S };

    fn at(seconds: u64) -> u64 {
        seconds * S
    }

    fn est(backend: u16, alt: u16, seen: u64) -> Word {
        Word::new(State::Est, Class::Promoted, backend, alt, Tick::from_ns(seen))
    }

    #[test]
    fn a_rollback_keeps_the_cell_dirty_and_its_clock() {
        let (cell, starts) = change(Cell::settled(1), 2);
        assert!(
            starts
                && cell.dirty()
                && cell.lookup()
                && cell.armed()
                && cell.base() == 1
                && cell.current() == 2
        );
        let (back, starts) = change(cell, 1);
        assert!(!starts && back.dirty() && back.current() == 1);
    }

    #[test]
    fn a_cell_settles_when_every_live_flow_must_have_its_entry() {
        let (cell, _) = change(Cell::settled(1), 2);
        let now = at(1000);
        let none = Facts::default();
        assert!(settle(cell, now, none, &TIMES, now + 61 * S).armed());
        let disarmed = settle(cell, now, none, &TIMES, now + 62 * S);
        assert!(!disarmed.armed() && disarmed.dirty());
        assert!(settle(disarmed, now, none, &TIMES, now + 351 * S).dirty());
        let moved = settle(disarmed, now, none, &TIMES, now + 352 * S);
        assert_eq!(moved, Cell::new(2, 2, Cell::DIRTY | Cell::LOOKUP));
        assert_eq!(settle(moved, now, none, &TIMES, now + 354 * S), Cell::new(2, 2, Cell::LOOKUP));
        // Whatever went wrong last, its time begins there.
        let late = now + 10 * S;
        for facts in [
            Facts { last_fail: late, ..none },
            Facts { udp_fail: late, ..none },
            Facts { last_wipe: late, ..none },
        ] {
            assert_eq!(settle(disarmed, now, facts, &TIMES, now + 361 * S), disarmed, "{facts:?}");
            assert_eq!(settle(disarmed, now, facts, &TIMES, now + 362 * S), moved, "{facts:?}");
        }
        for facts in [Facts { udp_fail: late, ..none }, Facts { last_wipe: late, ..none }] {
            assert!(settle(cell, now, facts, &TIMES, now + 71 * S).armed(), "{facts:?}");
            assert!(!settle(cell, now, facts, &TIMES, now + 72 * S).armed(), "{facts:?}");
        }
    }

    #[test]
    fn an_entry_whose_second_identity_was_seen_is_restored_to_it() {
        let cell = Cell::new(1, 2, Cell::DIRTY | Cell::LOOKUP);
        let word = est(2, 1, at(1)).with_alt_seen();
        assert_eq!(sweep(word, cell, false, false, &TIMES, at(300)), Sweep::Keep);
        let Sweep::Restore(restored) = sweep(word, cell, false, false, &TIMES, at(400)) else {
            panic!("not restored")
        };
        assert!(
            restored.single() && restored.backend() == 1 && restored.is(State::Est) && !restored.alt_seen()
        );
    }

    #[test]
    fn a_redundant_entry_goes_only_on_a_clean_cell() {
        let dirty = Cell::new(1, 2, Cell::DIRTY | Cell::LOOKUP);
        let clean = Cell::new(1, 1, Cell::LOOKUP);
        let word = est(1, 1, at(1000));
        assert_eq!(sweep(word, dirty, false, true, &TIMES, at(1001)), Sweep::Keep);
        assert!(
            matches!(sweep(word, clean, false, false, &TIMES, at(1001)), Sweep::Word(w) if w.is(State::Dead))
        );
        assert_eq!(sweep(est(2, 2, at(1000)), clean, false, false, &TIMES, at(1001)), Sweep::Keep);
    }

    #[test]
    fn a_closed_flow_is_reclaimed_early_only_under_pressure_and_never_before_its_linger() {
        let cell = Cell::new(1, 2, Cell::DIRTY | Cell::LOOKUP);
        let word = est(2, 2, at(1000)).with_fin();
        assert_eq!(sweep(word, cell, false, false, &TIMES, at(1100)), Sweep::Keep);
        assert_eq!(sweep(word, cell, false, true, &TIMES, at(1059)), Sweep::Keep);
        assert!(
            matches!(sweep(word, cell, false, true, &TIMES, at(1062)), Sweep::Word(w) if w.is(State::Dead))
        );
    }

    #[test]
    fn purging_keeps_the_identity_that_is_not_removed() {
        let word = est(2, 1, at(5)).with_alt_seen();
        assert_eq!(purge(word, 3, at(9)), None);
        assert!(
            matches!(purge(word, 1, at(9)), Some(Sweep::Word(w)) if w.live() && w.single() && w.backend() == 2)
        );
        assert!(matches!(purge(word, 2, at(9)), Some(Sweep::Restore(w)) if w.backend() == 1));
        assert!(matches!(purge(est(2, 2, at(5)), 2, at(9)), Some(Sweep::Word(w)) if w.is(State::Dead)));
    }
}
