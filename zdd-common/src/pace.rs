//! How many new connections a source may open: a token bucket, kept as one word per source.
//!
//! The generic cell rate algorithm (ITU-T I.371, annex A): the word is when the bucket would be full again. A connection moves it by one
//! interval, and is refused when that would be further away than a whole bucket takes.

use crate::net::Addr;

/// Whose bucket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct PaceKey {
    /// An IPv4 address; of an IPv6 one its first 64 bits: the rest is the client's to choose.
    pub source: Addr,
    /// The service.
    pub service: u16,
    /// 0.
    pub zero: [u16; 3],
}
wire!(PaceKey, 24, { source: Addr, service: u16, zero: [u16; 3] });

impl PaceKey {
    /// The key of a client.
    #[inline(always)]
    pub const fn of(service: u16, client: &Addr) -> Self {
        let source = if client.is_v4() { *client } else { Addr { hi: client.hi, lo: 0 } };
        Self { source, service, zero: [0; 3] }
    }
}

/// A limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Pace {
    /// Nanoseconds for one new connection; 0: no limit.
    pub interval: u32,
    /// Connections that may come at once, 1 at the least.
    pub burst: u32,
}

impl Pace {
    /// So many a second (1 to 1,000,000), and so many at once.
    pub const fn new(rate: u32, burst: u32) -> Self {
        Self { interval: 1_000_000_000 / rate, burst }
    }

    /// Whether there is a limit.
    #[inline(always)]
    pub const fn limits(&self) -> bool {
        self.interval != 0
    }

    /// The word after one more connection at `now` (ns), with the word before (0: of a source that is not known); 0: refused.
    #[inline(always)]
    pub const fn next(&self, full: u64, now: u64) -> u64 {
        let from = if full > now { full } else { now };
        let next = from + self.interval as u64;
        if next - now > self.interval as u64 * self.burst as u64 { 0 } else { next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// How many of these moments get their connection.
    fn passed(pace: Pace, moments: impl Iterator<Item = u64>) -> usize {
        let mut word = 0;
        moments
            .filter(|now| {
                let next = pace.next(word, *now);
                if next != 0 {
                    word = next;
                }
                next != 0
            })
            .count()
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let pace = Pace::new(100, 5);
        let start = 1_000_000 * MS;
        assert_eq!(passed(pace, std::iter::repeat_n(start, 50)), 5);
        // A connection a millisecond for ten seconds.
        assert_eq!(passed(pace, (0..10_000).map(|ms| start + ms * MS)), 5 + 999);
        // One that keeps to the rate is never refused.
        assert_eq!(passed(pace, (0..1000).map(|n| start + n * 10 * MS)), 1000);
    }

    #[test]
    fn what_is_refused_costs_nothing() {
        let pace = Pace::new(1, 1);
        let word = pace.next(0, 5_000 * MS);
        assert_eq!(pace.next(word, 5_500 * MS), 0);
        assert_ne!(pace.next(word, 6_000 * MS), 0);
    }

    #[test]
    fn a_v6_client_is_its_first_64_bits() {
        let a = Addr::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8]);
        let b = Addr::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9]);
        let c = Addr::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(PaceKey::of(1, &a), PaceKey::of(1, &b));
        assert_ne!(PaceKey::of(1, &a), PaceKey::of(1, &c));
        assert_ne!(PaceKey::of(1, &Addr::v4([10, 0, 0, 1])), PaceKey::of(1, &Addr::v4([10, 0, 0, 2])));
    }
}
