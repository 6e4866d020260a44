//! Telling two connections of one tuple apart by their sequence numbers.

use crate::entries::{Positions, State, Word};
use crate::limits::{HALF_OPEN_REACH, POSITION_REACH};

/// Distance of two sequence numbers on the circle.
#[inline(always)]
const fn distance(a: u32, b: u32) -> u32 {
    let forth = a.wrapping_sub(b);
    let back = b.wrapping_sub(a);
    if forth < back { forth } else { back }
}

/// Whether a packet belongs to the connection at `backend`, not to the second identity.
///
/// A half-open connection whose tuple has a second identity takes its SYN and a small window ahead of it. Otherwise the
/// nearer position within [`POSITION_REACH`] wins; a tie goes to alt, because the older connection has more to lose.
#[inline(always)]
pub const fn belongs(word: Word, positions: Positions, seq: u32) -> bool {
    if word.single() {
        return true;
    }
    if word.is(State::Half) {
        return seq.wrapping_sub(positions.backend()) <= HALF_OPEN_REACH;
    }
    let here = distance(seq, positions.backend());
    if here > POSITION_REACH {
        return false;
    }
    !word.alt_seen() || here < distance(seq, positions.alt())
}

/// Whether a packet is within [`POSITION_REACH`] of a position.
#[inline(always)]
pub const fn near(position: u32, seq: u32) -> bool {
    distance(position, seq) <= POSITION_REACH
}

/// Whether a SYN is the one that a connection began with: it lies on its position or a little behind.
#[inline(always)]
pub const fn own_syn(position: u32, isn: u32) -> bool {
    position.wrapping_sub(isn) <= HALF_OPEN_REACH
}

/// The position after a packet with `seq`: it advances, never goes back for a retransmission, and jumps when the packet is
/// out of reach (then the position was wrong).
#[inline(always)]
pub const fn follow(position: u32, seq: u32) -> u32 {
    let ahead = seq.wrapping_sub(position);
    if ahead <= u32::MAX / 2 || distance(seq, position) > POSITION_REACH { seq } else { position }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entries::Class;
    use crate::time::Tick;

    fn word(state: State, alt: u16) -> Word {
        Word::new(state, Class::Half, 1, alt, Tick(0))
    }

    #[test]
    fn a_tie_goes_to_the_older_connection() {
        let positions = Positions::new(1000, 3000);
        let word = word(State::Est, 2).with_alt_seen();
        assert!(belongs(word, positions, 1999));
        assert!(!belongs(word, positions, 2000));
        assert!(!belongs(word, positions, 2001));
    }

    #[test]
    fn a_half_open_connection_takes_its_syn_and_a_small_window_only() {
        let positions = Positions::new(u32::MAX, 0);
        let word = word(State::Half, 2);
        assert!(belongs(word, positions, u32::MAX));
        assert!(belongs(word, positions, 0));
        assert!(belongs(word, positions, HALF_OPEN_REACH - 1));
        assert!(!belongs(word, positions, HALF_OPEN_REACH));
        assert!(!belongs(word, positions, u32::MAX - 1));
    }

    #[test]
    fn out_of_reach_is_the_second_identity_even_if_it_was_never_seen() {
        let word = word(State::Est, 2);
        assert!(belongs(word, Positions::new(0, 0), POSITION_REACH));
        assert!(!belongs(word, Positions::new(0, 0), POSITION_REACH + 1));
        assert!(belongs(word, Positions::new(0, 0), 0u32.wrapping_sub(POSITION_REACH)));
    }

    #[test]
    fn a_connections_own_syn_lies_as_far_behind_as_a_small_window_reaches() {
        for position in [0, 1000, u32::MAX] {
            assert!(own_syn(position, position) && own_syn(position, position.wrapping_sub(HALF_OPEN_REACH)));
            assert!(!own_syn(position, position.wrapping_sub(HALF_OPEN_REACH + 1)));
            assert!(!own_syn(position, position.wrapping_add(1)));
        }
    }

    #[test]
    fn a_retransmission_does_not_move_a_position_back() {
        assert_eq!(follow(1000, 900), 1000);
        assert_eq!(follow(u32::MAX, 5), 5);
        assert_eq!(follow(0, u32::MAX / 2 + 2 + POSITION_REACH), u32::MAX / 2 + 2 + POSITION_REACH);
    }
}
