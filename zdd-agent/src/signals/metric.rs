//! Rates and times from a reading.

use serde::{Deserialize, Serialize};
use zdd_common::signals::{Event, counters};

use super::reading::{Reading, quantile_bucket};
use crate::desired::Forward;

/// Failures among trials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trials {
    /// Trials.
    pub of: u64,
    /// Those of them that went badly, at most all.
    pub bad: u64,
}

impl Trials {
    /// Share that went badly; `None` without trials.
    pub fn rate(self) -> Option<f64> {
        (self.of > 0).then(|| self.bad as f64 / self.of as f64)
    }
}

/// What two versions can be compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Handshakes that failed (refused, or nothing came back in time), of those that began.
    HandshakeFailureRate,
    /// Handshakes whose SYN was repeated, of those that began.
    SynRetransmissionRate,
    /// Connections that the backend reset after the handshake, of those established.
    ResetRate,
    /// Connections that the backend closed without a byte, of those established.
    EarlyCloseRate,
    /// Connections without a byte of a reply in time, of those established.
    UnansweredRate,
    /// Time of the handshake.
    HandshakeTime,
    /// Time to the first byte of a reply.
    FirstByteTime,
}

impl Metric {
    /// All of them.
    pub const ALL: [Metric; 7] = [
        Metric::HandshakeFailureRate,
        Metric::SynRetransmissionRate,
        Metric::ResetRate,
        Metric::EarlyCloseRate,
        Metric::UnansweredRate,
        Metric::HandshakeTime,
        Metric::FirstByteTime,
    ];

    /// By its name.
    pub fn named(name: &str) -> Option<Metric> {
        Metric::ALL.into_iter().find(|metric| metric.name() == name)
    }

    /// The names of some, for messages.
    pub fn names(which: impl Fn(Metric) -> bool) -> String {
        let names: Vec<&str> = Metric::ALL.into_iter().filter(|m| which(*m)).map(Metric::name).collect();
        names.join(", ")
    }

    /// Whether it is a share of flows, not a time.
    pub fn is_rate(self) -> bool {
        !matches!(self, Metric::HandshakeTime | Metric::FirstByteTime)
    }

    /// As the configuration spells it.
    pub fn name(self) -> &'static str {
        match self {
            Metric::HandshakeFailureRate => "handshake-failure-rate",
            Metric::SynRetransmissionRate => "syn-retransmission-rate",
            Metric::ResetRate => "reset-rate",
            Metric::EarlyCloseRate => "early-close-rate",
            Metric::UnansweredRate => "unanswered-rate",
            Metric::HandshakeTime => "handshake-time",
            Metric::FirstByteTime => "first-byte-time",
        }
    }

    /// Whether it can be had at all: a backend's reset goes around us where its replies do.
    pub fn seen_under(self, forward: Forward) -> bool {
        self != Metric::ResetRate || both_ways(forward)
    }

    /// A rate's trials. Trials are counted when they begin and failures when they are seen, so failures lag, never trials: a
    /// version that has just got its first flows does not look worse than it is.
    pub fn trials(self, reading: &Reading) -> Option<Trials> {
        let of = |event| reading.of(event);
        let (all, bad) = match self {
            Metric::HandshakeFailureRate => {
                (of(Event::New), of(Event::HalfOpen) + of(Event::BackendResetHandshake))
            }
            Metric::SynRetransmissionRate => (of(Event::New), of(Event::SynRetransmitted)),
            Metric::ResetRate => {
                (of(Event::Established), of(Event::BackendResetEarly) + of(Event::BackendResetLate))
            }
            Metric::EarlyCloseRate => (of(Event::Established), of(Event::BackendCloseEarly)),
            Metric::UnansweredRate => (of(Event::Established), of(Event::Unanswered) + of(Event::Silent)),
            Metric::HandshakeTime | Metric::FirstByteTime => return None,
        };
        Some(Trials { of: all, bad: bad.min(all) })
    }

    /// A time's histogram.
    pub fn histogram(self, reading: &Reading) -> Option<&[u64]> {
        match self {
            Metric::HandshakeTime => Some(&reading.handshake),
            Metric::FirstByteTime => Some(&reading.first_byte),
            _ => None,
        }
    }
}

/// Whether replies pass us.
pub fn both_ways(forward: Forward) -> bool {
    !matches!(forward, Forward::L2 | Forward::Ipip)
}

/// Seconds below which the share `quantile` of a histogram's times lies, up to a quarter too many: the bound of its bucket.
/// `None` without times.
pub fn quantile_seconds(histogram: &[u64], quantile: f64) -> Option<f64> {
    let bound = counters::bound(quantile_bucket(histogram, quantile)?);
    // The last bucket has no bound: what is known is that it is longer than the one before.
    let last = counters::bound(counters::bucket(u64::MAX) - 1);
    Some(if bound == u64::MAX { last } else { bound } as f64 / 1e9)
}
