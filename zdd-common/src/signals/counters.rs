//! What is counted for each backend. Shared by all CPUs and added to atomically: a flow has a handful of events in its life.

use crate::atomic::Atomics;

macro_rules! events {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// What happened to a sampled flow; the number is its place in [`SignalCounters::events`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Event { $($(#[doc = $doc])+ $name,)+ }

        /// All of them, in the order of their numbers.
        pub const EVENTS: &[Event] = &[$(Event::$name,)+];

        impl Event {
            /// The name in a report.
            pub const fn name(self) -> &'static str {
                match self { $(Event::$name => $text,)+ }
            }
        }
    };
}

events! {
    /// Nothing: its count means nothing.
    None = "none",
    /// A connection began: its first SYN.
    New = "new",
    /// The client has acknowledged the backend's SYN-ACK.
    Established = "established",
    /// The first byte of a reply; under DSR the client's acknowledgement of it.
    Answered = "answered",
    /// Ended as it should: both sides have closed, or (DSR) the client has, after a reply.
    Closed = "closed",
    /// A SYN of a handshake that had one already.
    SynRetransmission = "syn_retransmissions",
    /// Flows with at least one of them.
    SynRetransmitted = "syn_retransmitted",
    /// Nothing came back for a SYN within the handshake timeout; under DSR also a handshake that the client did not end.
    HalfOpen = "half_open",
    /// The backend's SYN-ACK was not acknowledged within the handshake timeout: the client's doing.
    Unfinished = "unfinished",
    /// Reset by the client in the handshake.
    ClientResetHandshake = "client_reset_handshake",
    /// Reset by the client before the first byte of a reply.
    ClientResetEarly = "client_reset_early",
    /// Reset by the client after it.
    ClientResetLate = "client_reset_late",
    /// Reset by the backend in the handshake: refused.
    BackendResetHandshake = "backend_reset_handshake",
    /// Reset by the backend before the first byte of a reply.
    BackendResetEarly = "backend_reset_early",
    /// Reset by the backend after it, neither side having closed.
    BackendResetLate = "backend_reset_late",
    /// Closed by the client without a reply.
    ClientCloseEarly = "client_close_early",
    /// Closed by the backend without a reply.
    BackendCloseEarly = "backend_close_early",
    /// Asked, and no byte of a reply within the answer timeout.
    Unanswered = "unanswered",
    /// Established, and neither side said anything within the answer timeout.
    Silent = "silent",
    /// Followed no longer to make room, or because the sample shrank: unknown.
    Evicted = "evicted",
    /// Not followed, because two flows wanted the same place at once: unknown.
    Missed = "missed",
    /// Payload of the clients' segments, repeated ones included.
    ClientBytes = "client_bytes",
    /// Payload of the backends' segments; not seen under DSR.
    BackendBytes = "backend_bytes",
    /// Sum of all handshake times, ns.
    HandshakeNs = "handshake_ns",
    /// Sum of all times to the first byte, ns.
    FirstByteNs = "first_byte_ns",
}

/// Places for events.
pub const EVENT_PLACES: usize = 32;
const _: () = assert!(EVENTS.len() <= EVENT_PLACES);

/// Shortest time that is told apart, as a power of two of nanoseconds: 16 us.
const FIRST_OCTAVE: u32 = 14;
/// Longest: 69 s and more go into the last bucket.
const LAST_OCTAVE: u32 = 36;
/// Buckets per doubling, as a power of two: a bound is at most a quarter above the next lower one.
const SUB_BITS: u32 = 2;
/// Buckets of a histogram.
pub const BUCKETS: usize = 96;
const _: () = assert!(((LAST_OCTAVE - FIRST_OCTAVE) << SUB_BITS) as usize + 2 <= BUCKETS);

/// Bucket of a time. 0: below 16 us; then four per doubling.
#[inline(always)]
pub const fn bucket(ns: u64) -> usize {
    if ns < 1 << FIRST_OCTAVE {
        return 0;
    }
    if ns >= 1 << LAST_OCTAVE {
        return 1 + (((LAST_OCTAVE - FIRST_OCTAVE) << SUB_BITS) as usize);
    }
    let octave = 63 - ns.leading_zeros();
    let sub = (ns >> ((octave - SUB_BITS) & 63)) & ((1 << SUB_BITS) - 1);
    1 + (((octave - FIRST_OCTAVE) << SUB_BITS) as usize) + sub as usize
}

/// Nanoseconds below which all times of a bucket and of those before it are; `u64::MAX` for the last.
pub const fn bound(bucket: usize) -> u64 {
    let octaves = (LAST_OCTAVE - FIRST_OCTAVE) as usize;
    if bucket > octaves << SUB_BITS {
        return u64::MAX;
    }
    let (octave, sub) = (bucket >> SUB_BITS, bucket & ((1 << SUB_BITS) - 1));
    (1 << (octave as u32 + FIRST_OCTAVE)) + ((sub as u64) << (octave as u32 + FIRST_OCTAVE - SUB_BITS))
}

/// Counters of one backend.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalCounters {
    /// By [`Event`].
    pub events: [u64; EVENT_PLACES],
    /// From the first SYN to the backend's SYN-ACK; under DSR to the client's acknowledgement of it.
    pub handshake: [u64; BUCKETS],
    /// From the client's first byte (from the handshake's end where the backend speaks first) to the first byte of a reply;
    /// under DSR to the client's acknowledgement of it.
    pub first_byte: [u64; BUCKETS],
}
wire!(SignalCounters, 1792, {
    events: [u64; EVENT_PLACES], handshake: [u64; BUCKETS], first_byte: [u64; BUCKETS],
});

impl Default for SignalCounters {
    fn default() -> Self {
        Self { events: [0; EVENT_PLACES], handshake: [0; BUCKETS], first_byte: [0; BUCKETS] }
    }
}

impl SignalCounters {
    /// How often something happened.
    pub const fn of(&self, event: Event) -> u64 {
        self.events[event as usize]
    }
}

/// Counts an event by its number; 0 is none.
///
/// # Safety
/// `counters` is valid.
#[inline(always)]
pub(super) unsafe fn count<A: Atomics>(counters: *mut SignalCounters, event: u8) {
    if event != 0 {
        // SAFETY: the caller's promise; the place is masked.
        unsafe { A::add(counters.cast::<u64>().add(event as usize & (EVENT_PLACES - 1)), 1) };
    }
}

/// Adds to an event's count.
///
/// # Safety
/// `counters` is valid.
#[inline(always)]
pub(super) unsafe fn add<A: Atomics>(counters: *mut SignalCounters, event: Event, much: u64) {
    // SAFETY: the caller's promise; events are the first field and the place is masked.
    unsafe { A::add(counters.cast::<u64>().add(event as usize & (EVENT_PLACES - 1)), much) };
}

/// Adds a time to a histogram, and to the sum of its times.
///
/// # Safety
/// `counters` and `histogram`, a part of it, are valid.
#[inline(always)]
pub(super) unsafe fn time<A: Atomics>(
    counters: *mut SignalCounters,
    histogram: *mut [u64; BUCKETS],
    sum: Event,
    ns: u64,
) {
    let at = bucket(ns);
    if at < BUCKETS {
        // SAFETY: the caller's promise and the test.
        unsafe {
            A::add(histogram.cast::<u64>().add(at), 1);
            add::<A>(counters, sum, ns);
        }
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_time_lies_below_its_bucket_s_bound_and_not_below_the_one_before() {
        for exponent in 0..60u32 {
            for ns in [
                1u64 << exponent,
                (1u64 << exponent) * 5 / 4,
                (1u64 << exponent) + (1u64 << exponent) / 2 - 1,
            ] {
                let at = bucket(ns);
                assert!(ns < bound(at), "{ns} {at}");
                assert!(at == 0 || ns >= bound(at - 1), "{ns} {at}");
            }
        }
        assert_eq!((bucket(0), bound(0)), (0, 1 << 14));
        assert_eq!(bound(bucket(u64::MAX)), u64::MAX);
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn bounds_rise_by_a_quarter_at_the_most() {
        for at in 1..bucket(u64::MAX) {
            assert!(bound(at) > bound(at - 1) && bound(at) * 4 <= bound(at - 1) * 5, "{at}");
        }
    }
}
