//! What one packet means for a flow that is followed: (word, numbers, packet) in, (word, numbers, events) out. Pure.

use crate::time::Tick;

use super::Event;

// The word: bits 0-2 stage, 3-8 flags, 39-63 when a packet was last seen (Tick).
/// Mask of the stage.
pub const STAGE: u64 = 7;
/// Nobody's.
pub const FREE: u64 = 0;
/// Being written.
pub const BUSY: u64 = 1;
/// A SYN was seen.
pub const SYN: u64 = 2;
/// The backend's SYN-ACK too.
pub const SYN_ACK: u64 = 3;
/// The client has acknowledged it.
pub const ESTABLISHED: u64 = 4;
/// A byte of a reply was seen.
pub const ANSWERED: u64 = 5;
/// Its fate is known. Stays findable, so that what still comes is not taken for something else.
pub const DONE: u64 = 6;

/// The client has sent a byte.
pub const ASKED: u64 = 1 << 3;
/// It has closed.
pub const CLIENT_FIN: u64 = 1 << 4;
/// The backend has.
pub const BACKEND_FIN: u64 = 1 << 5;
/// Its SYN was repeated.
pub const REPEATED: u64 = 1 << 6;
/// The handshake ended without our seeing a SYN-ACK: replies go around us.
pub const ONE_SIDED: u64 = 1 << 7;
/// One-sided: the client has acknowledged one number beyond the handshake, most likely the backend's FIN.
pub const ONE_AHEAD: u64 = 1 << 8;

const SEEN_SHIFT: u32 = 39;

const TCP_FIN: u8 = 0x01;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;

/// The furthest that an acknowledgement that ends a handshake may be from its SYN: lost ones are made up for by data.
const WINDOW: u32 = 1 << 20;

/// Who sent a packet.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client = 0,
    /// The backend.
    Backend = 1,
}

impl Side {
    #[inline(always)]
    pub(super) const fn is_client(self) -> bool {
        self as u8 == Side::Client as u8
    }
}

/// What a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Seen {
    /// The flags as they stand in the header.
    pub flags: u8,
    /// Sequence number, host order.
    pub seq: u32,
    /// Acknowledgement number, host order.
    pub ack: u32,
    /// Bytes of payload.
    pub payload: u32,
}

impl Seen {
    const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether it begins a connection.
    #[inline(always)]
    pub const fn begins(&self, side: Side) -> bool {
        side.is_client() && self.flags & (TCP_SYN | TCP_ACK | TCP_RST) == TCP_SYN
    }
}

/// What follows from a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The new word.
    pub word: u64,
    /// The new numbers.
    pub numbers: u64,
    /// What is counted, by [`Event`]'s numbers; 0: nothing.
    pub events: [u8; 2],
    /// What else is to be done.
    pub acts: u8,
}

const ACT_ASKED: u8 = 1;
const ACT_HANDSHAKE: u8 = 2;
const ACT_FIRST_BYTE: u8 = 4;
const ACT_BEGIN: u8 = 8;

impl Step {
    /// The time from the SYN to now is a handshake's.
    #[inline(always)]
    pub const fn handshake(&self) -> bool {
        self.acts & ACT_HANDSHAKE != 0
    }
    /// The time since `asked` is a first byte's.
    #[inline(always)]
    pub const fn first_byte(&self) -> bool {
        self.acts & ACT_FIRST_BYTE != 0
    }
    /// `asked` is now.
    #[inline(always)]
    pub const fn asked(&self) -> bool {
        self.acts & ACT_ASKED != 0
    }
    /// The tuple begins anew.
    #[inline(always)]
    pub const fn begins(&self) -> bool {
        self.acts & ACT_BEGIN != 0
    }
    /// Whether the exact time is needed.
    #[inline(always)]
    pub const fn needs_time(&self) -> bool {
        self.acts & (ACT_ASKED | ACT_HANDSHAKE | ACT_FIRST_BYTE) != 0
    }

    #[inline(always)]
    fn count(&mut self, event: Event) {
        if self.events[0] == 0 {
            self.events[0] = event as u8;
        } else {
            self.events[1] = event as u8;
        }
    }

    #[inline(always)]
    fn stage(&mut self, stage: u64) {
        self.word = self.word & !STAGE | stage;
    }

    #[inline(always)]
    fn end(&mut self, event: Event) {
        self.stage(DONE);
        self.count(event);
    }
}

/// The word of a flow whose SYN was just seen.
#[inline(always)]
pub const fn fresh(now: Tick) -> u64 {
    SYN | (now.0 as u64) << SEEN_SHIFT
}

/// When a packet was last seen.
#[inline(always)]
pub const fn seen_at(word: u64) -> Tick {
    Tick((word >> SEEN_SHIFT) as u32)
}

/// Whether its fate is still open.
#[inline(always)]
pub const fn is_live(word: u64) -> bool {
    let stage = word & STAGE;
    stage >= SYN && stage < DONE
}

/// Whether its key can be trusted.
#[inline(always)]
pub(super) const fn is_known(word: u64) -> bool {
    word & STAGE >= SYN
}

/// How willingly a place is given up: the longer nothing was seen the more, and first those with nothing to lose.
#[inline(always)]
pub(super) const fn worth(word: u64, now: Tick) -> u32 {
    let stage = word & STAGE;
    if stage == FREE || stage == DONE {
        u32::MAX
    } else if stage == BUSY {
        0
    } else {
        now.since(seen_at(word)) + 1
    }
}

/// One packet of a flow whose word and numbers are these. The word is of a known flow ([`is_known`]) or the packet means
/// nothing.
#[inline(always)]
pub fn step(word: u64, numbers: u64, seen: &Seen, side: Side, now: Tick) -> Step {
    let mut step = Step { word, numbers, events: [0; 2], acts: 0 };
    if !is_known(word) {
        return step;
    }
    if now.since(seen_at(word)) != 0 {
        step.word = word << (64 - SEEN_SHIFT) >> (64 - SEEN_SHIFT) | (now.0 as u64) << SEEN_SHIFT;
    }
    if side.is_client() {
        client(&mut step, seen);
    } else {
        backend(&mut step, seen);
    }
    step
}

#[inline(always)]
fn client(step: &mut Step, seen: &Seen) {
    let stage = step.word & STAGE;
    if seen.begins(Side::Client) {
        if seen.seq != step.numbers as u32 {
            // A port used again. Whatever became of the connection before, its end was not seen.
            step.acts = ACT_BEGIN;
            if is_live(step.word) {
                step.count(Event::Evicted);
            }
        } else if stage == SYN || stage == SYN_ACK {
            step.count(Event::SynRetransmission);
            if step.word & REPEATED == 0 {
                step.word |= REPEATED;
                step.count(Event::SynRetransmitted);
            }
        }
        return;
    }
    if stage == DONE {
        return;
    }
    if seen.has(TCP_RST) {
        let event = match stage {
            SYN | SYN_ACK => Event::ClientResetHandshake,
            ESTABLISHED => Event::ClientResetEarly,
            // Many clients end a connection that is over by a reset.
            _ if step.word & (CLIENT_FIN | BACKEND_FIN) != 0 => Event::Closed,
            _ => Event::ClientResetLate,
        };
        step.end(event);
        return;
    }
    if !seen.has(TCP_ACK) || seen.has(TCP_SYN) {
        return;
    }
    if stage == SYN || stage == SYN_ACK {
        if seen.seq.wrapping_sub(step.numbers as u32).wrapping_sub(1) > WINDOW {
            return;
        }
        if stage == SYN {
            step.word |= ONE_SIDED;
            step.numbers = step.numbers & 0xffff_ffff | (seen.ack as u64) << 32;
            step.acts |= ACT_HANDSHAKE;
        }
        step.stage(ESTABLISHED);
        step.count(Event::Established);
        step.acts |= ACT_ASKED;
    }
    if seen.payload > 0 && step.word & ASKED == 0 {
        step.word |= ASKED;
        if step.word & STAGE == ESTABLISHED {
            step.acts |= ACT_ASKED;
        }
    }
    if step.word & ONE_SIDED != 0 && step.word & STAGE == ESTABLISHED {
        acknowledged(step, seen);
    }
    if seen.has(TCP_FIN) {
        step.word |= CLIENT_FIN;
        let one_sided = step.word & ONE_SIDED != 0;
        if step.word & STAGE == ANSWERED && (one_sided || step.word & BACKEND_FIN != 0) {
            step.end(Event::Closed);
        } else if step.word & STAGE == ESTABLISHED && step.word & ONE_AHEAD != 0 {
            step.end(Event::BackendCloseEarly);
        }
    } else if step.word & (CLIENT_FIN | ONE_AHEAD) == CLIENT_FIN | ONE_AHEAD
        && step.word & STAGE == ESTABLISHED
    {
        // It closed, and then acknowledged a FIN and nothing else.
        step.end(Event::ClientCloseEarly);
    }
}

/// One-sided: what the client acknowledges is what has reached it.
#[inline(always)]
fn acknowledged(step: &mut Step, seen: &Seen) {
    let ahead = seen.ack.wrapping_sub((step.numbers >> 32) as u32);
    if ahead == 1 {
        step.word |= ONE_AHEAD;
    } else if ahead > 1 && ahead < 1 << 31 {
        step.stage(ANSWERED);
        step.count(Event::Answered);
        // Asked and answered by one packet: a reply to what came before it, and no time is known.
        if step.acts & ACT_ASKED == 0 {
            step.acts |= ACT_FIRST_BYTE;
        }
    }
}

#[inline(always)]
fn backend(step: &mut Step, seen: &Seen) {
    let stage = step.word & STAGE;
    if stage == DONE {
        return;
    }
    if seen.has(TCP_RST) {
        let event = match stage {
            SYN | SYN_ACK => Event::BackendResetHandshake,
            ESTABLISHED => Event::BackendResetEarly,
            _ if step.word & (CLIENT_FIN | BACKEND_FIN) != 0 => Event::Closed,
            _ => Event::BackendResetLate,
        };
        step.end(event);
        return;
    }
    if seen.has(TCP_SYN) {
        if stage == SYN {
            step.stage(SYN_ACK);
            step.numbers = step.numbers & 0xffff_ffff | (seen.seq.wrapping_add(1) as u64) << 32;
            step.acts |= ACT_HANDSHAKE;
        }
        return;
    }
    if seen.payload > 0 && stage == ESTABLISHED {
        step.stage(ANSWERED);
        step.count(Event::Answered);
        step.acts |= ACT_FIRST_BYTE;
    }
    if seen.has(TCP_FIN) {
        step.word |= BACKEND_FIN;
        let stage = step.word & STAGE;
        if stage == ANSWERED && step.word & CLIENT_FIN != 0 {
            step.end(Event::Closed);
        } else if stage == ESTABLISHED {
            let by_client = step.word & CLIENT_FIN != 0;
            step.end(if by_client { Event::ClientCloseEarly } else { Event::BackendCloseEarly });
        }
    }
}
