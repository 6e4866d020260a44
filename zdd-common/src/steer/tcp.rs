//! The TCP rows of the decision table.

use super::{Query, Segment, Steered, TRIES, Vacancy, Wanted, belongs, follow, make, near, own_syn};
use crate::entries::{BackendId, Class, Positions, State, Word};
use crate::reason::Reason;
use crate::tables::{Found, Rule, SteerTables};
use crate::time::Tick;

/// A packet of a cell that is changing, or has changed lately.
// See [`Query`] for why it is a function of its own.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn changing<T: SteerTables>(tables: &mut T, query: &mut Query, segment: Segment) {
    query.answer = steer(tables, query, segment);
}

#[inline(always)]
fn steer<T: SteerTables>(tables: &mut T, query: &Query, segment: Segment) -> Steered {
    let now_ns = tables.now_ns();
    let now = Tick::from_ns(now_ns);
    let base = query.cell.base();
    let new_flow = segment.syn && !query.replay;
    let mut contended = None;
    let mut lost = false;
    for _ in 0..TRIES {
        let place = match tables.find(&query.key, query.hash) {
            Found::Live(slot, word, positions) => {
                match live(tables, slot, (word, positions), query, segment, now) {
                    Ok(steered) => return steered,
                    Err(steered) => contended = Some(steered),
                }
                continue;
            }
            Found::Dead(slot, word) => Vacancy::dead(slot, word),
            Found::None => Vacancy::free(!lost),
            Found::Busy => Vacancy::free(false),
        };
        contended = None;
        if !query.cell.dirty() || (segment.rst && !segment.syn) || ablated(tables, query, segment) {
            return Steered::to(base, Reason::Base).new_flow(new_flow);
        }
        let (wanted, reason) = first(query, segment, now);
        if place.room && make(tables, query, place, &wanted) {
            return Steered::to(wanted.word.backend(), reason).new_flow(new_flow);
        }
        // Another packet of the tuple may have been quicker: then its entry decides, else copies of one SYN would part.
        // One more look tells; a table that is full now is not tried again.
        if !place.dead {
            if !place.room {
                break;
            }
            lost = true;
        }
    }
    if let Some(steered) = contended {
        return steered;
    }
    tables.note_failure(query.id, now_ns, false);
    if segment.syn && tables.without(Rule::Fallback) {
        return Steered::to(query.cell.current(), Reason::New);
    }
    Steered::to(base, Reason::Fallback).new_flow(new_flow)
}

/// Whether a rule that the model checker took out is all that gives this packet an entry.
#[inline(always)]
fn ablated<T: SteerTables>(tables: &T, query: &Query, segment: Segment) -> bool {
    (tables.without(Rule::FinLearned) && segment.fin && !segment.syn)
        || (tables.without(Rule::InsertAtBase) && segment.syn && query.cell.current() == query.cell.base())
}

/// The entry that a packet without one gets on a dirty cell, and the reason to count.
#[inline(always)]
fn first(query: &Query, segment: Segment, now: Tick) -> (Wanted, Reason) {
    let base = query.cell.base();
    let positions = Positions::new(segment.seq, segment.seq);
    if !segment.syn {
        let word = Word::new(State::Est, Class::Learned, base, base, now);
        let word = if segment.fin { word.with_fin() } else { word };
        return (Wanted { word, class: Class::Learned, positions }, Reason::Learned);
    }
    let (backend, reason) =
        if query.replay { (base, Reason::Replayed) } else { (query.cell.current(), Reason::New) };
    let word = Word::new(State::Half, Class::Half, backend, base, now);
    (Wanted { word, class: Class::Half, positions }, reason)
}

/// A packet that finds a live entry. `Err`: another packet changed the entry meanwhile; try again, or, having tried often
/// enough, go there.
#[inline(always)]
fn live<T: SteerTables>(
    tables: &mut T,
    slot: T::Slot,
    (word, positions): (Word, Positions),
    query: &Query,
    segment: Segment,
    now: Tick,
) -> Result<Steered, Steered> {
    if word.is(State::Pending) {
        return Ok(Steered::to(word.backend(), Reason::Entry));
    }
    // A copy of the connection's own SYN, delayed on its way through us until others had moved the position, is no second
    // identity: taken for one, it would draw the connection away from its backend.
    if segment.syn && word.single() && !own_syn(positions.backend(), segment.seq) && !query.replay {
        return second_identity(tables, slot, (word, positions), query.cell.current(), segment.seq, now);
    }
    let seen = if tables.without(Rule::NearestWins) { word.without_alt_seen() } else { word };
    let here = belongs(seen, positions, segment.seq) || tables.without(Rule::Positions);
    let steered =
        if here { Steered::to(word.backend(), Reason::Entry) } else { Steered::to(word.alt(), Reason::Alt) };
    let mut new = if here { word.refreshed(now) } else { word.with_alt_seen() };
    let mut promoted = false;
    if here && !segment.syn {
        if word.is(State::Half) {
            new = new.with_state(State::Est);
            // Without room among the confirmed it stays counted as half-open: it lives on, and new ones wait.
            promoted = word.class_bits() == Class::Half as usize && tables.take(Class::Promoted);
            if promoted {
                new = new.with_class(Class::Promoted);
            }
        }
        // fin_seen lets the sweep reclaim the entry early, so one blind guess must not set it. Nor may it outlive the
        // position that it was believed at.
        if !near(positions.backend(), segment.seq) {
            new = new.without_fin();
        } else if segment.fin || segment.rst {
            new = new.with_fin();
        }
    }
    if new != word {
        let done = tables.update(slot, word, new);
        if promoted {
            tables.give(if done { Class::Half } else { Class::Promoted } as usize);
        }
        if !done {
            return Err(steered);
        }
    }
    let moved = moved(word, positions, segment, here, query.replay);
    if moved != positions {
        tables.advance(slot, positions, moved);
    }
    Ok(steered)
}

/// The positions after a packet.
#[inline(always)]
fn moved(word: Word, positions: Positions, segment: Segment, here: bool, replay: bool) -> Positions {
    if segment.syn && replay {
        return positions;
    }
    let seq = segment.seq;
    if here {
        let blind = (segment.fin || segment.rst) && !near(positions.backend(), seq);
        let to = match segment.syn {
            true => seq,
            false if blind => positions.backend(),
            false => follow(positions.backend(), seq),
        };
        Positions::new(to, positions.alt())
    } else {
        let to = if segment.syn || !word.alt_seen() { seq } else { follow(positions.alt(), seq) };
        Positions::new(positions.backend(), to)
    }
}

/// A SYN that is not the entry's own: the client may have reused its port, or somebody forged it. The new connection
/// goes to `current`; the old one, should it live, keeps its backend as the tuple's second identity.
#[inline(always)]
fn second_identity<T: SteerTables>(
    tables: &mut T,
    slot: T::Slot,
    (word, positions): (Word, Positions),
    current: BackendId,
    isn: u32,
    now: Tick,
) -> Result<Steered, Steered> {
    let unchanged = Steered::to(word.backend(), Reason::Entry);
    let full = if tables.without(Rule::Fallback) { Steered::to(current, Reason::New) } else { unchanged };
    let counted = word.class_bits() == Class::Half as usize;
    if !counted && !tables.take(Class::Half) {
        // The new connection goes where the old entry says and depends on it: were the entry left as old as it is, it
        // could expire, and the cell settle, before the handshake completes.
        let fresh = word.refreshed(now);
        return if fresh == word || tables.update(slot, word, fresh) { Ok(full) } else { Err(full) };
    }
    let new = Word::new(State::Half, Class::Half, current, word.backend(), now).with_alt_seen();
    if tables.replace(slot, word, new, Positions::new(isn, positions.backend())) {
        if !counted {
            tables.give(word.class_bits());
        }
        return Ok(Steered::to(current, Reason::New).new_flow(true));
    }
    if !counted {
        tables.give(Class::Half as usize);
    }
    Err(unchanged)
}
