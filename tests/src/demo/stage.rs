//! What is on at the moment, for everybody to see; and the record of it for the chart.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::scene::{V1, V2};
use super::view::View;
use crate::rig::Zdd;
use crate::traffic::{Counts, Load};

/// One moment of the traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Microseconds since the load began.
    pub at_us: u64,
    /// New connections per second since the sample before, per version.
    pub new_per_s: [f64; 2],
    /// Long-lived connections, per version.
    pub live_long: [u32; 2],
    /// UDP flows, per version.
    pub live_udp: [u32; 2],
    /// Sums.
    pub counts: Counts,
}

/// Something that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Microseconds since the load began.
    pub at_us: u64,
    /// A few words.
    pub label: String,
}

/// What the agent last said.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// `zdd status --json`; null when it does not answer.
    pub status: Value,
}

impl Told {
    fn version(&self, service: &str, index: usize) -> &Value {
        let services = self.status["services"].as_array();
        let found = services.and_then(|all| all.iter().find(|s| s["name"] == service));
        found.map_or(&Value::Null, |s| &s["versions"][index])
    }

    /// Share of new flows that version number `index` of `web` was asked to take, and really takes.
    pub fn shares(&self, index: usize) -> Option<(f64, f64)> {
        let version = self.version("web", index);
        Some((version["asked"].as_f64()?, version["share"].as_f64()?))
    }

    /// Flow table entries of that version, both services together.
    pub fn flows(&self, index: usize) -> u64 {
        ["web", "echo"].iter().filter_map(|s| self.version(s, index)["flows"].as_u64()).sum()
    }

    /// Entries of the flow table.
    pub fn entries(&self) -> Option<u64> {
        self.status["flow_table"]["entries"].as_u64()
    }
}

/// Everything that was recorded.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Twice per second.
    pub samples: Vec<Sample>,
    /// In order.
    pub events: Vec<Event>,
    /// The most entries that the flow table was seen with.
    pub peak_entries: u64,
    /// Packets by reason, as the agent told last.
    pub reasons: Value,
}

#[derive(Debug, Default)]
struct Inner {
    act: String,
    over: bool,
    told: Told,
    record: Record,
}

/// Shared between the acts, which write, and the watcher, which shows.
#[derive(Debug)]
pub struct Stage {
    inner: Mutex<Inner>,
    wake: Condvar,
    begin_us: u64,
}

/// How often a sample is taken.
const SAMPLE_EVERY: Duration = Duration::from_millis(500);

/// How often the agent is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);

impl Stage {
    /// `begin_us`: now, on the clock of the load.
    pub fn new(begin_us: u64) -> Self {
        Self { inner: Mutex::default(), wake: Condvar::new(), begin_us }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is being played.
    pub fn act(&self, text: impl Into<String>) {
        self.inner().act = text.into();
    }

    /// Marks a moment on the chart.
    pub fn event(&self, at_us: u64, label: impl Into<String>) {
        self.inner().record.events.push(Event { at_us, label: label.into() });
    }

    /// Writes down a status that somebody else asked for.
    pub fn told(&self, status: &Value) {
        let mut inner = self.inner();
        let told = Told { status: status.clone() };
        inner.record.peak_entries = inner.record.peak_entries.max(told.entries().unwrap_or(0));
        if told.status["reasons"].is_object() {
            inner.record.reasons = told.status["reasons"].clone();
        }
        inner.told = told;
    }

    /// When the returned guard is dropped, by a panic too, the watcher ends.
    pub fn end_of_show(&self) -> impl Drop + '_ {
        struct End<'a>(&'a Stage);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.inner().over = true;
                self.0.wake.notify_all();
            }
        }
        End(self)
    }

    /// Waits until `until`; true when the show is over.
    fn over_by(&self, until: Instant) -> bool {
        let mut inner = self.inner();
        while !inner.over {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            inner = self.wake.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Asks the agent once per second until the show is over. On a thread of its own: a slow answer must not bend the samples.
    pub fn ask(&self, zdd: &Zdd) {
        while !self.over_by(Instant::now() + ASK_EVERY) {
            self.told(&zdd.status().unwrap_or_default());
        }
    }

    /// Samples and shows until the show is over.
    pub fn watch(&self, load: &Load, view: &View) {
        let mut last = Sample { at_us: self.begin_us, ..Sample::default() };
        for turn in 0u64.. {
            // From now, not from when it was due: two samples in a row would show a burst that never was.
            if self.over_by(Instant::now() + SAMPLE_EVERY) {
                return;
            }
            last = take(load, &last);
            let mut inner = self.inner();
            inner.record.samples.push(last);
            let (act, told) = (inner.act.clone(), inner.told.clone());
            drop(inner);
            view.show(turn, &act, &last, &told);
        }
    }

    /// The record; call it when the watcher has ended.
    pub fn finish(&self) -> Record {
        std::mem::take(&mut self.inner().record)
    }
}

fn take(load: &Load, last: &Sample) -> Sample {
    let at_us = load.now_us();
    let ledger = load.ledger();
    // By their ends: what ended after the last sample is new.
    let first = ledger.shorts.partition_point(|r| r.ended_us < last.at_us);
    let mut counted = [0u32; 2];
    for record in &ledger.shorts[first..] {
        if record.ended_us < at_us {
            counted[usize::from(record.place.version == V2)] += 1;
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "microseconds of one run are far below 2^52")]
    let seconds = (at_us - last.at_us) as f64 / 1e6;
    let per_s = |n: u32| if seconds > 0.0 { f64::from(n) / seconds } else { 0.0 };
    Sample {
        at_us,
        new_per_s: [per_s(counted[usize::from(V1)]), per_s(counted[usize::from(V2)])],
        live_long: ledger.live_long,
        live_udp: ledger.live_udp,
        counts: ledger.counts,
    }
}
