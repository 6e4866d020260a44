//! Most packets of a changing cell are of established connections that have an entry: they go where it says, and change no more than when it
//! was last seen, and its position.

use super::{Query, Segment, Steered, follow};
use crate::entries::{Positions, State};
use crate::reason::Reason;
use crate::tables::SteerTables;
use crate::time::Tick;

/// Decides about such a packet, just as [`super::changing`] would. False: that has to, and nothing was changed. `segment`: of a datagram the
/// default.
#[inline(always)]
pub(crate) fn glance<T: SteerTables>(tables: &mut T, query: &mut Query, segment: Segment) -> bool {
    if segment.syn || segment.fin || segment.rst {
        return false;
    }
    let now = Tick::from_ns(tables.now_ns());
    let (slot, word, positions) = tables.glance(&query.key, query.hash);
    // With one identity, and not closing.
    if !word.is(State::Est) || !word.single() || word.fin_seen() {
        return false;
    }
    let fresh = word.refreshed(now);
    if fresh != word && !tables.update(slot, word, fresh) {
        return false;
    }
    let moved = Positions::new(follow(positions.backend(), segment.seq), positions.alt());
    if moved != positions {
        tables.advance(slot, positions, moved);
    }
    query.answer = Steered::to(word.backend(), Reason::Entry);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entries::{CLASSES, Cell, Class, Commit, FlowKey, Service, Word};
    use crate::limits::POSITION_REACH;
    use crate::model::Model;
    use crate::net::Addr;
    use crate::steer::{Transport, changing, settle};
    use crate::time::TICK_SHIFT;

    const KEY: FlowKey = FlowKey::new(Addr::v4([192, 0, 2, 1]), 4000, 80, 1);
    const NOW: u32 = 1000;
    const AT: u32 = 5;

    /// A flow of a changing cell whose entry is this one, and its question.
    fn known(word: Word, positions: Positions, transport: Transport) -> (Model, Query) {
        let mut model = Model::new(8, 8);
        let commit = Commit::new(0, 1);
        let service =
            Service { commit: commit.0, groups: 1, per_group: 1, udp_idle: 10, ..Service::default() };
        let view = service.view();
        model.services.insert(0, service);
        model.cells.push(Cell::new(1, 2, Cell::DIRTY | Cell::LOOKUP));
        model.now_ns = u64::from(NOW) << TICK_SHIFT;
        let mut query = Query::default();
        query.ask(0, &KEY, transport);
        settle(&mut model, &mut query, &view, commit);
        assert!(model.insert(&KEY, query.hash, word, positions));
        model.used = [1; 3];
        (model, query)
    }

    /// Decides in both ways; whether a glance was enough.
    fn check(word: Word, positions: Positions, transport: Transport) -> bool {
        let told = format!("{word:?} {positions:?} {transport:?}");
        let (mut model, mut query) = known(word, positions, transport);
        let before = model.clone();
        let segment = match transport {
            Transport::Tcp(segment) => segment,
            Transport::Udp => Segment::default(),
        };
        let enough = glance(&mut model, &mut query, segment);
        if enough {
            let (mut long, mut asked) = (before, known(word, positions, transport).1);
            changing(&mut long, &mut asked);
            assert_eq!(query.answer, asked.answer, "{told}");
            assert!(model == long, "{told}: tables");
        } else {
            assert!(model == before, "{told}: nothing was changed");
        }
        enough
    }

    #[test]
    fn a_glance_decides_as_a_longer_look_would_or_changes_nothing() {
        let ages = [NOW - 1, NOW, NOW + 1, NOW - 300];
        let distances =
            [0, 1, POSITION_REACH, POSITION_REACH + 1, 1 << 31, u32::MAX, POSITION_REACH.wrapping_neg()];
        let states = [State::Half, State::Est, State::Dead, State::Pending, State::Busy];
        let (mut quick, mut all) = (0, 0);
        for number in 0..states.len() * CLASSES.len() * ages.len() * distances.len() * 8 * 16 * 2 {
            let mut rest = number;
            let mut digit = |size: usize| {
                let digit = rest % size;
                rest /= size;
                digit
            };
            let (state, class) = (states[digit(states.len())], CLASSES[digit(CLASSES.len())]);
            let (seen, ahead) = (Tick(ages[digit(ages.len())]), distances[digit(distances.len())]);
            let (word_is, segment_is, alt) = (digit(8), digit(16), digit(2) as u16);
            let mut word = Word::new(state, class, AT as u16, AT as u16 + alt, seen);
            word = if word_is & 1 != 0 { word.with_fin() } else { word };
            word = if word_is & 2 != 0 { word.with_alt_seen() } else { word };
            word = word.with_alt_fin(word_is & 4 != 0);
            let seq = AT.wrapping_add(ahead);
            let is = |bit: usize| segment_is & bit != 0;
            let segment = Segment { syn: is(1), fin: is(2), rst: is(4), seq };
            // A SYN with FIN or RST never comes so far; see `steer`. A datagram's entry has no positions, flags or half-open state.
            if is(8) && (segment_is != 8 || ahead != 0 || alt != 0 || word_is != 0 || state == State::Half)
                || segment.syn && (segment.fin || segment.rst)
            {
                continue;
            }
            all += 1;
            quick += u32::from(if is(8) {
                check(word, Positions::default(), Transport::Udp)
            } else {
                check(word, Positions::new(AT, 77), Transport::Tcp(segment))
            });
        }
        assert!(quick > 100 && quick < all / 4, "{quick} of {all} were decided at a glance");
    }

    #[test]
    fn a_glance_is_enough_for_what_most_packets_are() {
        let word = Word::new(State::Est, Class::Promoted, AT as u16, AT as u16, Tick(NOW - 9));
        for ahead in [0, 1448, 1448u32.wrapping_neg()] {
            let segment = Segment { seq: AT.wrapping_add(ahead), ..Segment::default() };
            assert!(check(word, Positions::new(AT, AT), Transport::Tcp(segment)));
        }
        assert!(check(word.with_class(Class::Learned), Positions::default(), Transport::Udp));
    }
}
