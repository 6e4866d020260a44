//! The UDP rows of the decision table. UDP has no SYN: for one idle timeout after a cell's change ("armed"), a flow
//! without an entry may be an old one and stays at base; after that every old flow has an entry.

use super::{Query, Steered, TRIES, Vacancy, Wanted, make};
use crate::entries::{Class, Positions, State, Word};
use crate::reason::Reason;
use crate::tables::{Found, SteerTables};
use crate::time::Tick;

/// A packet of a cell that is changing, or has changed lately.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn changing<T: SteerTables>(tables: &mut T, query: &mut Query) {
    query.answer = steer(tables, query);
}

#[inline(always)]
fn steer<T: SteerTables>(tables: &mut T, query: &Query) -> Steered {
    let now_ns = tables.now_ns();
    let now = Tick::from_ns(now_ns);
    let cell = query.cell;
    let mut lost = false;
    let mut contended = None;
    for _ in 0..TRIES {
        let place = match tables.find(&query.key, query.hash) {
            Found::Live(slot, word, _) => {
                let steered = Steered::to(word.backend(), Reason::Entry);
                let fresh = word.refreshed(now);
                if word.is(State::Pending) || fresh == word || tables.update(slot, word, fresh) {
                    return steered;
                }
                // Another packet has refreshed the entry, or the sweep has ended it: then it decides nothing.
                contended = Some(steered);
                continue;
            }
            Found::Dead(slot, word) => Vacancy::dead(slot, word),
            Found::None => Vacancy::free(!lost),
            Found::Busy => Vacancy::free(false),
        };
        contended = None;
        if !cell.dirty() {
            return Steered::to(cell.base(), Reason::Base);
        }
        let failed = tables.udp_fail(query.id);
        let armed = cell.armed() || (failed != 0 && now.since(Tick::from_ns(failed)) <= query.udp_idle);
        let backend = if armed { cell.base() } else { cell.current() };
        let word = Word::new(State::Est, Class::Learned, backend, backend, now);
        let wanted = Wanted { word, class: Class::Learned, positions: Positions::default() };
        if place.room && make(tables, query, &place, &wanted) {
            let reason = if armed { Reason::Learned } else { Reason::New };
            return Steered::to(backend, reason).new_flow(!armed);
        }
        // Another packet of the flow may have been quicker: look once more.
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
    // The flow's next packet must find base again, for one udp_idle from now, also if the cell is armed already: that may
    // end a moment later.
    tables.note_failure(query.id, now_ns, true);
    Steered::to(cell.base(), Reason::Fallback)
}
