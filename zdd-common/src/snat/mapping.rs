//! One mapping: a client's flow to a backend, and the port of ours that stands for it there.

use crate::entries::BackendId;
use crate::limits::{BACKENDS_MAX, SNAT_WAYS};
use crate::net::Addr;
use crate::steer::{Segment, near, own_syn};
use crate::time::{Tick, ticks};

/// Eight mappings, of eight ports in a row; laid out by field: the words fill the first cache line, and a look for a flow
/// touches no other line of a bucket that does not have it.
///
/// Which port (and address) of ours a way stands for is told by its place alone, so one entry serves both directions: found
/// by the client's flow on the way out, by our port on the way back. There is no second entry that could be missing.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Bucket {
    /// [`Mapping`] of each way.
    pub words: [u64; SNAT_WAYS],
    /// [`crate::entries::FlowKey::ports`] of each way.
    pub ports: [u64; SNAT_WAYS],
    /// The sequence numbers that both ends have reached: the client's in bits 0-31, the backend's in 32-63.
    pub reached: [u64; SNAT_WAYS],
    /// The client's address of each way.
    pub clients: [Addr; SNAT_WAYS],
    /// The address that the client dialled.
    pub vips: [Addr; SNAT_WAYS],
}
wire!(Bucket, 448, {
    words: [u64; SNAT_WAYS], ports: [u64; SNAT_WAYS], reached: [u64; SNAT_WAYS], clients: [Addr; SNAT_WAYS],
    vips: [Addr; SNAT_WAYS],
});

/// States of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Nobody's.
    Free = 0,
    /// Being written.
    Busy = 1,
    /// In use.
    Live = 2,
    /// Over; the port rests until no packet can still be looking at it.
    Dead = 3,
}

/// The word of a mapping, changed only by compare-and-swap: 0 is free.
///
/// Bits 0-1 [`State`], 2 client's FIN seen, 3 backend's FIN seen, 4 RST seen, 5 the backend has answered, 6 the client has
/// answered that, 7 UDP, 8-22 backend, 23-38 tag of the flow's hash, 39-63 when a packet of it was last seen ([`Tick`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Mapping(pub u64);

const CLIENT_FIN: u64 = 1 << 2;
const BACKEND_FIN: u64 = 1 << 3;
const RESET: u64 = 1 << 4;
const ANSWERED: u64 = 1 << 5;
const CONFIRMED: u64 = 1 << 6;
const UDP: u64 = 1 << 7;
const BACKEND_SHIFT: u32 = 8;
const BACKEND_MASK: u64 = BACKENDS_MAX as u64;
const TAG_SHIFT: u32 = 23;
const SEEN_SHIFT: u32 = 39;
const STATE: u64 = 3;
/// What tells flows apart: protocol, backend and tag.
const SAME: u64 = ((1 << SEEN_SHIFT) - 1) & !0x7f;
const _: () = assert!(BACKEND_MASK.count_ones() == TAG_SHIFT - BACKEND_SHIFT);
const _: () = assert!(SEEN_SHIFT + crate::time::TICK_BITS == 64);

impl Mapping {
    /// A mapping that begins. `hash`: the flow's, see [`super::pool::Pool::hash`].
    #[inline(always)]
    pub const fn new(backend: BackendId, udp: bool, hash: u64, now: Tick) -> Self {
        Self(
            State::Live as u64
                | (udp as u64) << UDP.trailing_zeros()
                | (backend as u64 & BACKEND_MASK) << BACKEND_SHIFT
                | (hash & 0xffff) << TAG_SHIFT
                | (now.0 as u64) << SEEN_SHIFT,
        )
    }

    /// Whether the state is `state`.
    #[inline(always)]
    pub const fn is(self, state: State) -> bool {
        self.0 & STATE == state as u64
    }

    /// With another state.
    #[inline(always)]
    pub const fn with_state(self, state: State) -> Self {
        Self(self.0 & !STATE | state as u64)
    }

    /// Whether it may be of the same flow as another: backend, protocol and tag are the same.
    #[inline(always)]
    pub const fn resembles(self, other: Self) -> bool {
        (self.0 ^ other.0) & SAME == 0
    }

    /// The backend.
    #[inline(always)]
    pub const fn backend(self) -> BackendId {
        (self.0 >> BACKEND_SHIFT & BACKEND_MASK) as u16
    }

    /// Whether it is of UDP.
    #[inline(always)]
    pub const fn udp(self) -> bool {
        self.0 & UDP != 0
    }

    /// When a packet of it was last seen.
    #[inline(always)]
    pub const fn seen(self) -> Tick {
        Tick((self.0 >> SEEN_SHIFT) as u32)
    }

    /// Both ends have closed, or one has reset it.
    #[inline(always)]
    pub const fn finished(self) -> bool {
        self.0 & RESET != 0 || self.0 & (CLIENT_FIN | BACKEND_FIN) == CLIENT_FIN | BACKEND_FIN
    }

    /// Packets went both ways, and of TCP the handshake is over.
    #[inline(always)]
    pub const fn established(self) -> bool {
        self.0 & CONFIRMED != 0
    }

    /// The backend has answered.
    #[inline(always)]
    pub(super) const fn has_answer(self) -> bool {
        self.0 & ANSWERED != 0
    }

    #[inline(always)]
    const fn with(self, flag: u64) -> Self {
        Self(self.0 | flag)
    }

    #[inline(always)]
    const fn without(self, flags: u64) -> Self {
        Self(self.0 & !flags)
    }

    #[inline(always)]
    const fn refreshed(self, now: Tick) -> Self {
        if now.since(self.seen()) == 0 {
            self
        } else {
            Self(self.0 << 25 >> 25 | (now.0 as u64) << SEEN_SHIFT)
        }
    }

    /// After a packet of the client's. `reached`: its sequence number before.
    ///
    /// One that ended begins anew with a SYN: same client, same backend, so whether the old connection is over for good is theirs
    /// to judge, as without us. A SYN on one that lives ends nothing and moves nothing: it may be forged, or a copy. It only takes back
    /// a FIN of one end: were it kept, the other end's FIN of the connection that now begins would make a half-closed connection
    /// look finished, and its port would be another's after TIME_WAIT.
    #[inline(always)]
    pub fn sent(self, segment: Segment, reached: u32, now: Tick) -> Self {
        let mut new = self.refreshed(now);
        if segment.syn {
            // A copy of the connection's own SYN begins nothing: the answer to it may have passed already.
            let begins = new.finished() && !own_syn(reached, segment.seq);
            let answers = if begins { ANSWERED | CONFIRMED } else { 0 };
            return new.without(CLIENT_FIN | BACKEND_FIN | RESET | answers);
        }
        let near = near(reached, segment.seq);
        if !segment.rst {
            // The client lives: a RST seen before was forged, or is about to be answered by another.
            new = new.without(RESET);
        } else if near {
            new = new.with(RESET);
        }
        if segment.fin && near {
            new = new.with(CLIENT_FIN);
        }
        if new.0 & ANSWERED != 0 { new.with(CONFIRMED) } else { new }
    }

    /// After a packet of the backend's.
    ///
    /// Its first one may be a RST that refuses the connection. A FIN is never the first: it is of the port's last owner.
    #[inline(always)]
    pub fn answered(self, segment: Segment, reached: u32, now: Tick) -> Self {
        let mut new = self.refreshed(now);
        let begun = self.0 & ANSWERED != 0;
        let near = near(reached, segment.seq);
        if segment.rst {
            return if near || !begun { new.with(RESET) } else { new };
        }
        if segment.fin && near && begun {
            new = new.with(BACKEND_FIN);
        }
        new.with(ANSWERED)
    }

    /// After a datagram, of the backend's or of the client's.
    #[inline(always)]
    pub fn datagram(self, from_backend: bool, now: Tick) -> Self {
        let new = self.refreshed(now);
        if from_backend {
            new.with(ANSWERED)
        } else if new.0 & ANSWERED != 0 {
            new.with(CONFIRMED)
        } else {
            new
        }
    }
}

/// How long mappings of a service last, ns of silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// An established TCP connection.
    pub idle: u64,
    /// UDP.
    pub udp_idle: u64,
    /// A handshake that is not over.
    pub half_life: u64,
    /// A handshake, or a UDP flow that nobody has answered, while ports are scarce.
    pub scarce: u64,
    /// After both ends closed, or one reset: as long as either may be in TIME_WAIT.
    pub time_wait: u64,
    /// After this no packet can still be working with what it read before.
    pub grace: u64,
}

/// What becomes of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Keep,
    /// It is over: becomes this word.
    Over(Mapping),
    /// Its port may be given out again.
    Free,
}

/// The sweep's rule for one mapping. `scarce`: more than half of the ports are in use.
pub fn sweep(mapping: Mapping, times: &Timeouts, scarce: bool, now: u64) -> Fate {
    let tick = Tick::from_ns(now);
    let silent = |ns: u64| tick.since(mapping.seen()) > ticks(ns);
    if mapping.is(State::Free) {
        return Fate::Keep;
    }
    if !mapping.is(State::Live) {
        return if silent(times.grace) { Fate::Free } else { Fate::Keep };
    }
    let life = match (mapping.udp(), mapping.established()) {
        // Once answered it is a flow, though its client has said no more: it may only listen.
        (true, _) if scarce && !mapping.has_answer() => times.udp_idle.min(times.scarce),
        (true, _) => times.udp_idle,
        (false, _) if mapping.finished() => times.time_wait,
        (false, true) => times.idle,
        (false, false) if scarce => times.scarce,
        (false, false) => times.half_life,
    };
    if silent(life) { over(mapping, now) } else { Fate::Keep }
}

/// Ends a mapping now.
pub fn over(mapping: Mapping, now: u64) -> Fate {
    if !mapping.is(State::Live) {
        return Fate::Keep;
    }
    let tick = Tick::from_ns(now);
    Fate::Over(Mapping(mapping.0 << 25 >> 25 | (tick.0 as u64) << SEEN_SHIFT).with_state(State::Dead))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const TIMES: Timeouts = Timeouts {
        idle: 350 * S,
        udp_idle: 60 * S,
        half_life: 104 * S,
        scarce: 10 * S,
        time_wait: 60 * S,
        grace: 2 * S,
    };
    const SYN: Segment = Segment { syn: true, fin: false, rst: false, seq: 1000 };
    const DATA: Segment = Segment { syn: false, seq: 1001, ..SYN };
    const FIN: Segment = Segment { fin: true, ..DATA };
    const RST: Segment = Segment { rst: true, ..DATA };

    fn at(seconds: u64) -> Tick {
        Tick::from_ns(seconds * S)
    }

    fn handshake() -> Mapping {
        let answer = Segment { syn: false, seq: 7000, ..SYN };
        Mapping::new(5, false, 0x1234_5678, at(0)).answered(answer, 0, at(0)).sent(DATA, 1000, at(0))
    }

    fn lives(mapping: Mapping, seconds: u64) -> bool {
        let fate = |at: u64| sweep(mapping, &TIMES, false, at * S);
        assert_eq!(fate(seconds - 1), Fate::Keep, "{mapping:x?}");
        matches!(fate(seconds + 1), Fate::Over(_))
    }

    #[test]
    fn a_fin_far_from_where_its_end_is_closes_nothing() {
        let blind = Segment { seq: DATA.seq + (1 << 30), ..FIN };
        let (by_client, by_backend) = (
            |fin| handshake().sent(fin, DATA.seq, at(1)),
            |fin: Segment| handshake().answered(Segment { seq: fin.seq + 6000, ..fin }, 7001, at(1)),
        );
        for one in [by_client(FIN), by_backend(FIN)] {
            assert!(!one.finished());
        }
        let closed = by_client(FIN).answered(Segment { seq: 7001, ..FIN }, 7001, at(1));
        assert!(closed.finished());
        assert!(!by_client(blind).answered(Segment { seq: 7001, ..FIN }, 7001, at(1)).finished());
        assert!(!by_backend(blind).sent(FIN, DATA.seq, at(1)).finished());
    }

    #[test]
    fn a_word_keeps_every_field_apart() {
        let word = Mapping::new(0x7bcd, true, 0xffff_5a5a, Tick(0x1ff_fffe));
        assert_eq!((word.backend(), word.udp(), word.seen()), (0x7bcd, true, Tick(0x1ff_fffe)));
        let all = word.with(CLIENT_FIN | BACKEND_FIN | RESET | ANSWERED | CONFIRMED);
        assert!(all.resembles(word) && all.finished() && all.established() && all.is(State::Live));
        assert_eq!((all.backend(), all.udp(), all.seen()), (word.backend(), true, word.seen()));
        assert!(!word.resembles(Mapping::new(0x7bcc, true, 0x5a5a, Tick(0))));
        assert!(!word.resembles(Mapping::new(0x7bcd, false, 0x5a5a, Tick(0))));
        assert!(!word.resembles(Mapping::new(0x7bcd, true, 0x5a5b, Tick(0))));
    }

    #[test]
    fn each_stage_of_a_connection_has_its_own_life() {
        let begun = Mapping::new(5, false, 1, at(0));
        assert!(!begun.established() && lives(begun, 104));
        let established = handshake();
        assert!(established.established() && lives(established, 350));
        let half_closed = established.sent(FIN, 1000, at(0));
        assert!(!half_closed.finished() && lives(half_closed, 350));
        let closed = half_closed.answered(Segment { seq: 7001, ..FIN }, 7000, at(0));
        assert!(closed.finished() && lives(closed, 60));
        assert!(lives(established.sent(RST, 1000, at(0)), 60));
        assert!(lives(established.answered(Segment { seq: 7001, ..RST }, 7000, at(0)), 60));
    }

    #[test]
    fn while_ports_are_scarce_only_what_is_not_established_goes_early() {
        let fate = |mapping| sweep(mapping, &TIMES, true, 12 * S);
        assert!(matches!(fate(Mapping::new(5, false, 1, at(0))), Fate::Over(_)));
        assert!(matches!(fate(Mapping::new(5, true, 1, at(0))), Fate::Over(_)));
        assert_eq!(fate(handshake()), Fate::Keep);
        // A client that asked once, and only listens.
        assert_eq!(fate(Mapping::new(5, true, 1, at(0)).datagram(true, at(0))), Fate::Keep);
        assert_eq!(
            fate(Mapping::new(5, true, 1, at(0)).datagram(true, at(0)).datagram(false, at(0))),
            Fate::Keep
        );
    }

    #[test]
    fn a_blind_reset_ends_nothing_and_a_lucky_one_is_taken_back() {
        let far = Segment { seq: 1_000_000_000, ..RST };
        assert!(!handshake().sent(far, 1000, at(1)).finished());
        let hit = handshake().sent(RST, 1000, at(1));
        assert!(hit.finished() && !hit.sent(DATA, 1000, at(2)).finished());
        // What the backend had sent before it learned of the reset takes nothing back.
        assert!(hit.answered(Segment { seq: 7001, ..DATA }, 7000, at(2)).finished());
    }

    #[test]
    fn a_syn_begins_anew_only_what_has_ended() {
        let live = handshake();
        assert_eq!(live.sent(SYN, 1000, at(0)), live);
        let next = Segment { seq: 900_000_000, ..SYN };
        let again = live.sent(RST, 1000, at(0)).sent(next, 1000, at(0));
        assert!(!again.finished() && !again.established());
    }

    #[test]
    fn a_copy_of_its_own_syn_takes_no_answer_back() {
        // Refused by the port's last owner, answered, and a copy of the SYN comes late.
        let answer = Segment { syn: false, seq: 7000, ..SYN };
        let begun = Mapping::new(5, false, 1, at(0)).answered(Segment { seq: 9, ..RST }, 0, at(0));
        let late = begun.answered(answer, 9, at(0)).sent(SYN, 1000, at(0));
        assert!(!late.finished() && late.sent(DATA, 1000, at(0)).established());
    }

    #[test]
    fn a_fin_before_any_answer_is_not_of_this_connection() {
        let begun = Mapping::new(5, false, 1, at(0));
        let stray = begun.answered(Segment { seq: 4_000_000, ..FIN }, 0, at(0));
        let answered =
            stray.answered(Segment { seq: 7000, ..DATA }, 4_000_000, at(0)).sent(DATA, 1000, at(0));
        let half_closed = answered.sent(FIN, 1000, at(0));
        assert!(half_closed.established() && !half_closed.finished());
        // A refusal is a first answer.
        assert!(begun.answered(Segment { seq: 0, ..RST }, 0, at(0)).finished());
    }

    #[test]
    fn a_fin_of_the_connection_before_does_not_finish_the_next_one_of_the_port() {
        let backend_fin = Segment { seq: 7001, ..FIN };
        for half_closed in
            [handshake().sent(FIN, 1000, at(0)), handshake().answered(backend_fin, 7000, at(0))]
        {
            let next = half_closed.sent(SYN, 1000, at(1));
            assert!(next.established() && !next.finished());
            assert!(!next.answered(backend_fin, 7000, at(1)).finished(), "only its backend has closed");
            assert!(!next.sent(FIN, 1000, at(1)).finished(), "only its client has closed");
        }
    }

    #[test]
    fn a_port_rests_for_a_grace_period() {
        let Fate::Over(dead) = over(handshake(), 400 * S) else { panic!("it was live") };
        assert!(dead.is(State::Dead) && dead.backend() == 5);
        assert_eq!(sweep(dead, &TIMES, true, 401 * S), Fate::Keep);
        assert_eq!(sweep(dead, &TIMES, false, 403 * S), Fate::Free);
        assert_eq!(sweep(dead.with_state(State::Busy), &TIMES, false, 403 * S), Fate::Free);
    }
}
