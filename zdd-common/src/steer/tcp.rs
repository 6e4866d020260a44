//! The TCP rows of the decision table.

use super::{
    Query, Segment, Steered, TRIES, Transport, Vacancy, Wanted, belongs, follow, make, near, own_syn,
};
use crate::entries::{Class, Positions, State, Word};
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
fn steer<T: SteerTables>(tables: &mut T, query: &mut Query, segment: Segment) -> Steered {
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
        if place.room && make(tables, query, &place, &wanted) {
            return Steered::to(wanted.word.backend(), reason).new_flow(new_flow);
        }
        // Another packet of the tuple may have been quicker: then its entry decides, else copies of one SYN would part.
        // One more look tells; a table that is full now is not tried again.
        if !place.is_dead() {
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
    query: &mut Query,
    segment: Segment,
    now: Tick,
) -> Result<Steered, Steered> {
    if word.is(State::Pending) {
        return Ok(Steered::to(word.backend(), Reason::Entry));
    }
    // A copy of the connection's own SYN, delayed on its way through us until others had moved the position, is no second
    // identity: taken for one, it would draw the connection away from its backend.
    if segment.syn && !query.replay && !own_syn(positions.backend(), segment.seq) {
        let counted = word.class_bits() == Class::Half as usize;
        if (word.single() || closed(word, positions, segment.seq)) && (counted || tables.take(Class::Half)) {
            let done = second_identity(tables, slot, &(word, positions), query);
            return if done { Ok(query.answer) } else { Err(query.answer) };
        }
        if word.single() {
            // The new connection goes where the old entry says and depends on it: were the entry left as old as it is, it
            // could expire, and the cell settle, before the handshake completes.
            let to = if tables.without(Rule::Fallback) {
                Steered::to(query.cell.current(), Reason::New)
            } else {
                Steered::to(word.backend(), Reason::Entry)
            };
            let fresh = word.refreshed(now);
            return if fresh == word || tables.update(slot, word, fresh) { Ok(to) } else { Err(to) };
        }
    }
    let seen = if tables.without(Rule::NearestWins) { word.without_alt_seen() } else { word };
    let here = belongs(seen, positions, segment.seq) || tables.without(Rule::Positions);
    let steered =
        if here { Steered::to(word.backend(), Reason::Entry) } else { Steered::to(word.alt(), Reason::Alt) };
    let mut new = if here { word.refreshed(now) } else { alt_met(word, positions, segment) };
    let mut promoted = false;
    if here && !segment.syn {
        let confirms = word.is(State::Half);
        if confirms {
            new = new.with_state(State::Est);
            // Without room among the confirmed it stays counted as half-open: it lives on, and new ones wait.
            promoted = word.class_bits() == Class::Half as usize && tables.take(Class::Promoted);
            if promoted {
                new = new.with_class(Class::Promoted);
            }
        }
        // fin_seen lets the sweep reclaim the entry early and the next connection of the tuple take it over, so one blind
        // guess must not set it, nor a forged SYN with a forged FIN after it. Nor may it outlive the position that it was
        // believed at.
        if !near(positions.backend(), segment.seq) {
            new = new.without_fin();
        } else if (segment.fin || segment.rst) && (!confirms || tables.without(Rule::FinAfterSyn)) {
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

/// Whether a SYN that is not the own one of an entry with two identities begins a new connection which may take the place
/// of the second one: the client has closed the connection at `backend`, so it uses its port again; and the second identity
/// is closed as well, or has not been heard of since `backend`'s connection began.
#[inline(always)]
fn closed(word: Word, positions: Positions, isn: u32) -> bool {
    word.is(State::Est)
        && word.fin_seen()
        && (!word.alt_seen() || (word.alt_fin() && !own_syn(positions.alt(), isn)))
}

/// The word after a packet of the second identity. It stays closed only if the packet is near its position: another would
/// be of a connection that nobody has seen closed. A FIN sets nothing here: this identity may be the newer of the two, and a
/// half-closed connection must not give way to a forged SYN.
#[inline(always)]
fn alt_met(word: Word, positions: Positions, segment: Segment) -> Word {
    let same = !segment.syn && near(positions.alt(), segment.seq);
    word.with_alt_seen().with_alt_fin(word.alt_fin() && same)
}

/// A SYN that is not the entry's own: the client uses its port again, or somebody forged it. Room among the half-open is
/// taken. The new connection goes to `current`; the old one, should it live, keeps its backend as the tuple's second
/// identity.
///
/// Sets the answer; false: another packet changed the entry meanwhile, and the answer is where the old word sends it.
// See [`Query`] for why it is a function of its own.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn second_identity<T: SteerTables>(
    tables: &mut T,
    slot: T::Slot,
    found: &(Word, Positions),
    query: &mut Query,
) -> bool {
    let (word, positions) = *found;
    let Transport::Tcp(Segment { seq: isn, .. }) = query.transport else { return false };
    let current = query.cell.current();
    let counted = word.class_bits() == Class::Half as usize;
    let new = Word::new(State::Half, Class::Half, current, word.backend(), Tick::from_ns(tables.now_ns()))
        .with_alt_seen()
        .with_alt_fin(word.fin_seen());
    let done = tables.replace(slot, word, new, Positions::new(isn, positions.backend()));
    if !counted {
        tables.give(if done { word.class_bits() } else { Class::Half as usize });
    }
    query.answer = if done {
        Steered::to(current, Reason::New).new_flow(true)
    } else if belongs(word, positions, isn) {
        Steered::to(word.backend(), Reason::Entry)
    } else {
        Steered::to(word.alt(), Reason::Alt)
    };
    done
}
