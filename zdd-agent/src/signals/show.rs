//! A reading as reports and metrics show it.

use zdd_common::signals::{EVENTS, Event, counters};

use super::metric::quantile_seconds;
use super::reading::Reading;
use crate::report::{SignalsStatus, TimeBucket, TimesStatus};

/// What only a backend's own packets tell.
const NEEDS_REPLIES: [Event; 5] = [
    Event::BackendResetHandshake,
    Event::BackendResetEarly,
    Event::BackendResetLate,
    Event::Unfinished,
    Event::BackendBytes,
];

impl SignalsStatus {
    /// Of a version whose replies pass us, or do not.
    pub fn new(reading: &Reading, one_in: u32, both_ways: bool) -> Self {
        let hidden = [Event::None, Event::HandshakeNs, Event::FirstByteNs];
        let shown = |event: &&Event| !hidden.contains(event) && (both_ways || !NEEDS_REPLIES.contains(event));
        let counts = EVENTS.iter().filter(shown);
        SignalsStatus {
            one_in,
            counts: counts.map(|event| (event.name().to_owned(), reading.of(*event))).collect(),
            handshake: times(&reading.handshake, reading.of(Event::HandshakeNs)),
            first_byte: times(&reading.first_byte, reading.of(Event::FirstByteNs)),
        }
    }

    /// In one line, for people.
    pub fn line(&self) -> String {
        let of = |event: Event| self.counts.get(event.name()).copied();
        let sum = |events: &[Event]| {
            let known: Vec<u64> = events.iter().filter_map(|event| of(*event)).collect();
            if known.is_empty() { "-".to_owned() } else { known.iter().sum::<u64>().to_string() }
        };
        let ms = |seconds: Option<f64>| match seconds {
            Some(seconds) => format!("{:.1}", seconds * 1e3),
            None => "-".to_owned(),
        };
        format!(
            "1/{}: {} new, {} established, {} half-open, {} SYNs repeated; reset in handshake/early/late by backend {}/{}/{}, by client {}/{}/{}; closed early {}, unanswered {}; handshake {}/{} ms, first byte {}/{} ms (p50/p99)",
            self.one_in,
            sum(&[Event::New]),
            sum(&[Event::Established]),
            sum(&[Event::HalfOpen]),
            sum(&[Event::SynRetransmission]),
            sum(&[Event::BackendResetHandshake]),
            sum(&[Event::BackendResetEarly]),
            sum(&[Event::BackendResetLate]),
            sum(&[Event::ClientResetHandshake]),
            sum(&[Event::ClientResetEarly]),
            sum(&[Event::ClientResetLate]),
            sum(&[Event::BackendCloseEarly, Event::ClientCloseEarly]),
            sum(&[Event::Unanswered, Event::Silent]),
            ms(self.handshake.p50_s),
            ms(self.handshake.p99_s),
            ms(self.first_byte.p50_s),
            ms(self.first_byte.p99_s),
        )
    }
}

fn times(histogram: &[u64], sum_ns: u64) -> TimesStatus {
    let mut buckets: Vec<TimeBucket> = Vec::new();
    let mut held = 0;
    for (at, n) in histogram.iter().enumerate() {
        held += n;
        let bound = counters::bound(at);
        if bound.is_power_of_two() {
            buckets.push(TimeBucket { below_s: bound as f64 / 1e9, count: held });
            held = 0;
        }
    }
    TimesStatus {
        count: histogram.iter().sum(),
        sum_s: sum_ns as f64 / 1e9,
        p50_s: quantile_seconds(histogram, 0.5),
        p99_s: quantile_seconds(histogram, 0.99),
        buckets,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading() -> Reading {
        let mut histogram = vec![0; zdd_common::signals::BUCKETS];
        histogram[counters::bucket(1_500_000)] = 9;
        histogram[counters::bucket(u64::MAX)] = 1;
        let mut events = vec![0; EVENTS.len()];
        events[Event::New as usize] = 10;
        events[Event::BackendResetLate as usize] = 3;
        events[Event::HandshakeNs as usize] = 2_000_000_000;
        Reading { events, handshake: histogram, first_byte: Vec::new() }
    }

    #[test]
    fn what_a_mode_does_not_show_is_absent_and_not_zero() {
        let (nat, l2) = (SignalsStatus::new(&reading(), 4, true), SignalsStatus::new(&reading(), 4, false));
        assert_eq!((nat.counts.get("backend_reset_late"), nat.counts.get("half_open")), (Some(&3), Some(&0)));
        assert_eq!((l2.counts.get("backend_reset_late"), l2.counts.get("half_open")), (None, Some(&0)));
        assert!(l2.line().contains("by backend -/-/-, by client 0/0/0"), "{}", l2.line());
        assert!(nat.line().contains("first byte -/- ms"), "{}", nat.line());
    }

    #[test]
    fn doubling_buckets_hold_what_the_fine_ones_held() {
        let times = SignalsStatus::new(&reading(), 1, true).handshake;
        assert_eq!((times.count, times.sum_s), (10, 2.0));
        assert_eq!(times.buckets.iter().map(|bucket| bucket.count).sum::<u64>(), 9);
        let full: Vec<_> = times.buckets.iter().filter(|bucket| bucket.count > 0).collect();
        assert!(
            matches!(full[..], [TimeBucket { below_s, .. }] if *below_s > 0.0015 && *below_s < 0.0022),
            "{full:?}"
        );
        assert!(times.p50_s.is_some_and(|p50| p50 > 0.0015 && p50 < 0.0019) && times.p99_s > Some(50.0));
    }
}
