//! Sums of what the kernel counted for some backends.

use serde::{Deserialize, Serialize};
use zdd_common::signals::{BUCKETS, EVENTS, Event, SignalCounters};

/// Totals of a version, or what came since an earlier reading.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// By the events' numbers; shorter in a state file of a release that knew fewer.
    pub events: Vec<u64>,
    /// Handshake times by bucket.
    pub handshake: Vec<u64>,
    /// Times to the first byte by bucket.
    pub first_byte: Vec<u64>,
}

impl Reading {
    /// Of one backend.
    pub fn of_backend(counters: &SignalCounters) -> Reading {
        Reading {
            events: counters.events[..EVENTS.len()].to_vec(),
            handshake: counters.handshake.to_vec(),
            first_byte: counters.first_byte.to_vec(),
        }
    }

    /// How often something happened.
    pub fn of(&self, event: Event) -> u64 {
        self.events.get(event as usize).copied().unwrap_or(0)
    }

    /// Adds another one.
    pub fn add(&mut self, other: &Reading) {
        merge(&mut self.events, &other.events);
        merge(&mut self.handshake, &other.handshake);
        merge(&mut self.first_byte, &other.first_byte);
    }

    /// What came since `before`. Counters that have begun anew (the maps were made again) have counted from 0.
    pub fn since(&self, before: &Reading) -> Reading {
        let anew = self.of(Event::New) < before.of(Event::New);
        let less = |now: &[u64], then: &[u64]| -> Vec<u64> {
            let then = then.iter().copied().chain(std::iter::repeat(0));
            now.iter()
                .zip(then)
                .map(|(now, then)| if anew { *now } else { now.saturating_sub(then) })
                .collect()
        };
        Reading {
            events: less(&self.events, &before.events),
            handshake: less(&self.handshake, &before.handshake),
            first_byte: less(&self.first_byte, &before.first_byte),
        }
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.events.iter().chain(&self.handshake).chain(&self.first_byte).all(|n| *n == 0)
    }
}

fn merge(to: &mut Vec<u64>, from: &[u64]) {
    to.resize(to.len().max(from.len()), 0);
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

/// Bucket below whose bound at least the share `quantile` of the times lies; `None` without times.
pub fn quantile_bucket(histogram: &[u64], quantile: f64) -> Option<usize> {
    let all: u64 = histogram.iter().sum();
    let wanted = (all as f64 * quantile).ceil().max(1.0) as u64;
    let mut below = 0;
    histogram.iter().take(BUCKETS).position(|n| {
        below += n;
        below >= wanted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_first_bucket_that_holds_enough() {
        assert_eq!(quantile_bucket(&[], 0.5), None);
        assert_eq!(quantile_bucket(&[0, 0], 0.5), None);
        assert_eq!(quantile_bucket(&[50, 49, 0, 1], 0.5), Some(0));
        assert_eq!(quantile_bucket(&[50, 49, 0, 1], 0.99), Some(1));
        assert_eq!(quantile_bucket(&[50, 49, 0, 1], 0.999), Some(3));
    }

    #[test]
    fn counters_that_began_anew_are_counted_from_zero() {
        let reading = |new: u64, resets: u64| Reading { events: vec![0, new, resets], ..Reading::default() };
        assert_eq!(reading(9, 5).since(&reading(7, 5)), reading(2, 0));
        assert_eq!(reading(3, 1).since(&reading(7, 5)), reading(3, 1));
        assert_eq!(reading(3, 1).since(&Reading::default()), reading(3, 1));
    }
}
