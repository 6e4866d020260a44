//! Entries of the flow table: key, state word and positions.

use super::BackendId;
use crate::limits::BACKENDS_MAX;
use crate::net::Addr;
use crate::time::Tick;

/// Key of a flow entry: who (`client`), and ports, VIP and a tag in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct FlowKey {
    /// The client's address.
    pub client: Addr,
    /// Bits 0-15 client port, 16-31 VIP port (both network order as read), 32-47 number of the VIP, 48-63: 0.
    pub ports: u64,
}

impl FlowKey {
    /// A key; ports in network byte order.
    #[inline(always)]
    pub const fn new(client: Addr, client_port: u16, vip_port: u16, vip: u16) -> Self {
        Self { client, ports: client_port as u64 | (vip_port as u64) << 16 | (vip as u64) << 32 }
    }

    /// Number of the VIP.
    #[inline(always)]
    pub const fn vip(&self) -> u16 {
        (self.ports >> 32) as u16
    }

    /// The client's port, network byte order.
    #[inline(always)]
    pub const fn client_port(&self) -> u16 {
        self.ports as u16
    }
}

/// States of a flow entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Nobody's.
    Free = 0,
    /// Being written: its key cannot be trusted.
    Busy = 1,
    /// A SYN was seen.
    Half = 2,
    /// More than a SYN was seen.
    Est = 3,
    /// Expired; stays until no packet can still be looking at it, then becomes free.
    Dead = 4,
    /// Live with one identity while its positions are rewritten: packets go to `backend` and change nothing.
    Pending = 5,
}

/// Whose quota an entry counts against, so that a flood of one kind cannot take the room of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// Made by a SYN and not confirmed.
    Half = 0,
    /// Made by a packet in the middle of a flow.
    Learned = 1,
    /// Made by a SYN, then confirmed.
    Promoted = 2,
}

/// All classes, in the order of their numbers.
pub const CLASSES: [Class; 3] = [Class::Half, Class::Learned, Class::Promoted];

/// The state word of a flow entry, changed only by compare-and-swap.
///
/// Bits 0-2 [`State`], 3 fin_seen, 4 alt_seen, 5-6 [`Class`], 7 alt_fin, 8-22 backend, 23-37 alt, 38: 0, 39-63 last_seen
/// ([`Tick`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Word(pub u64);

const FIN: u64 = 1 << 3;
const ALT_SEEN: u64 = 1 << 4;
const CLASS_SHIFT: u32 = 5;
const ALT_FIN: u64 = 1 << 7;
const BACKEND_SHIFT: u32 = 8;
const ALT_SHIFT: u32 = 23;
const BACKEND_MASK: u64 = BACKENDS_MAX as u64;
const SEEN_SHIFT: u32 = 39;
const _: () = assert!(BACKEND_MASK.count_ones() == ALT_SHIFT - BACKEND_SHIFT);
const _: () = assert!(SEEN_SHIFT + crate::time::TICK_BITS == 64);

impl Word {
    /// A word without flags.
    #[inline(always)]
    pub const fn new(state: State, class: Class, backend: BackendId, alt: BackendId, seen: Tick) -> Self {
        Self(
            state as u64
                | (class as u64) << CLASS_SHIFT
                | (backend as u64 & BACKEND_MASK) << BACKEND_SHIFT
                | (alt as u64 & BACKEND_MASK) << ALT_SHIFT
                | (seen.0 as u64) << SEEN_SHIFT,
        )
    }

    /// The state's number.
    #[inline(always)]
    pub const fn state_bits(self) -> u8 {
        (self.0 & 7) as u8
    }

    /// Whether the state is `state`.
    #[inline(always)]
    pub const fn is(self, state: State) -> bool {
        self.state_bits() == state as u8
    }

    /// Half, Est or Pending: packets of its key are steered by it.
    #[inline(always)]
    pub const fn live(self) -> bool {
        self.is(State::Half) || self.is(State::Est) || self.is(State::Pending)
    }

    /// The backend of the tuple's connection.
    #[inline(always)]
    pub const fn backend(self) -> BackendId {
        (self.0 >> BACKEND_SHIFT & BACKEND_MASK) as u16
    }

    /// Where packets go that do not belong to `backend`'s connection; equal to it: there is no second identity.
    #[inline(always)]
    pub const fn alt(self) -> BackendId {
        (self.0 >> ALT_SHIFT & BACKEND_MASK) as u16
    }

    /// Whether the tuple has one identity only.
    #[inline(always)]
    pub const fn single(self) -> bool {
        self.backend() == self.alt()
    }

    /// When a packet of `backend`'s connection was last seen.
    #[inline(always)]
    pub const fn seen(self) -> Tick {
        Tick((self.0 >> SEEN_SHIFT) as u32)
    }

    /// A FIN or RST of the connection was seen.
    #[inline(always)]
    pub const fn fin_seen(self) -> bool {
        self.0 & FIN != 0
    }

    /// Packets of the second identity were seen: the entry is restored to it, not deleted.
    #[inline(always)]
    pub const fn alt_seen(self) -> bool {
        self.0 & ALT_SEEN != 0
    }

    /// The second identity is the connection that was at `backend` before, and its FIN or RST had been seen.
    #[inline(always)]
    pub const fn alt_fin(self) -> bool {
        self.0 & ALT_FIN != 0
    }

    /// The class's number.
    #[inline(always)]
    pub const fn class_bits(self) -> usize {
        (self.0 >> CLASS_SHIFT & 3) as usize
    }

    /// With another state.
    #[inline(always)]
    pub const fn with_state(self, state: State) -> Self {
        Self(self.0 & !7 | state as u64)
    }

    /// With another class.
    #[inline(always)]
    pub const fn with_class(self, class: Class) -> Self {
        Self(self.0 & !(3 << CLASS_SHIFT) | (class as u64) << CLASS_SHIFT)
    }

    /// With another time.
    #[inline(always)]
    pub const fn with_seen(self, seen: Tick) -> Self {
        Self(self.0 << 25 >> 25 | (seen.0 as u64) << SEEN_SHIFT)
    }

    /// Seen at `now`, unless another CPU, whose clock is ahead, has seen it later.
    #[inline(always)]
    pub const fn refreshed(self, now: Tick) -> Self {
        if now.since(self.seen()) == 0 { self } else { self.with_seen(now) }
    }

    /// With fin_seen.
    #[inline(always)]
    pub const fn with_fin(self) -> Self {
        Self(self.0 | FIN)
    }

    /// With alt_seen.
    #[inline(always)]
    pub const fn with_alt_seen(self) -> Self {
        Self(self.0 | ALT_SEEN)
    }
}

impl Word {
    /// Without fin_seen.
    #[inline(always)]
    pub const fn without_fin(self) -> Self {
        Self(self.0 & !FIN)
    }

    /// With alt_fin as told.
    #[inline(always)]
    pub const fn with_alt_fin(self, yes: bool) -> Self {
        Self(self.0 & !ALT_FIN | (yes as u64) << ALT_FIN.trailing_zeros())
    }

    /// Without alt_seen.
    #[inline(always)]
    pub const fn without_alt_seen(self) -> Self {
        Self(self.0 & !ALT_SEEN)
    }
}

/// The positions of an entry's two identities in one word: bits 0-31 of `backend`'s connection, 32-63 of alt's.
/// A position is the sequence number that the client's packets have reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Positions(pub u64);

impl Positions {
    /// Both positions.
    #[inline(always)]
    pub const fn new(backend: u32, alt: u32) -> Self {
        Self(backend as u64 | (alt as u64) << 32)
    }

    /// Of `backend`'s connection.
    #[inline(always)]
    pub const fn backend(self) -> u32 {
        self.0 as u32
    }

    /// Of alt's connection; means nothing before alt_seen.
    #[inline(always)]
    pub const fn alt(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_keeps_every_field_apart() {
        let word = Word::new(State::Half, Class::Promoted, 0x7bcd, 0x1234, Tick(0x1ff_fffe));
        assert!(!word.alt_fin() && word.with_alt_fin(true).alt_fin());
        assert_eq!(word.with_alt_fin(true).with_alt_fin(false), word);
        let word = word.with_fin().with_alt_seen().with_alt_fin(true);
        assert!(word.is(State::Half) && word.fin_seen() && word.alt_seen() && word.live() && !word.single());
        assert_eq!((word.backend(), word.alt(), word.seen()), (0x7bcd, 0x1234, Tick(0x1ff_fffe)));
        assert_eq!(word.class_bits(), Class::Promoted as usize);
        let word = word.with_seen(Tick(7)).with_state(State::Est).with_class(Class::Learned);
        assert_eq!((word.backend(), word.alt(), word.seen()), (0x7bcd, 0x1234, Tick(7)));
        assert!(word.is(State::Est) && word.fin_seen() && word.class_bits() == Class::Learned as usize);
    }
}
