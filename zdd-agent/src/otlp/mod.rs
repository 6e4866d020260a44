//! Traces of the agent's own doings for OpenTelemetry: one trace for each rollout, with a span for each step, hook, measurement and
//! closed gate.
//!
//! Ids are worked out from what is persisted of a rollout and not drawn: a rollout that goes on after a restart is the same trace,
//! and nothing more has to be kept for it.

mod export;

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use zdd_common::hash::fold;

pub use export::start;

/// Spans that wait to be sent. Those beyond are lost, which is logged: a collector that is away must cost nothing else.
const WAITING: usize = 1024;

/// Which trace, and which span in it (W3C Trace Context).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanContext {
    /// Trace.
    pub trace: [u8; 16],
    /// Span.
    pub span: [u8; 8],
}

fn words(seed: u64, bytes: &[u8]) -> u64 {
    let padded = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    padded.fold(fold(seed, bytes.len() as u64), fold)
}

impl SpanContext {
    /// The trace of a rollout and its outermost span. `host`: what tells this agent from others.
    pub fn of_rollout(host: &str, service: &str, id: u64, started_unix_ms: u64) -> Self {
        let name = words(words(0, host.as_bytes()), service.as_bytes());
        let seed = fold(fold(name, id), started_unix_ms);
        let mut trace = [0; 16];
        trace[..8].copy_from_slice(&fold(seed, 1).to_be_bytes());
        // An id of all zeros would be none.
        trace[8..].copy_from_slice(&(fold(seed, 2) | 1).to_be_bytes());
        Self { trace, span: (fold(seed, 3) | 1).to_be_bytes() }
    }

    /// A span below it: the same for the same name and number.
    pub fn child(&self, name: &str, number: u64) -> Self {
        let seed = words(u64::from_be_bytes(self.span), name.as_bytes());
        Self { trace: self.trace, span: (fold(seed, number) | 1).to_be_bytes() }
    }

    /// The trace's id as logs and collectors write it.
    pub fn trace_id(&self) -> String {
        hex(&self.trace)
    }

    /// The value of the header `traceparent`; the trace is recorded.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-01", hex(&self.trace), hex(&self.span))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What tells this host from others that talk to the same collector.
pub fn host() -> String {
    let read = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned());
    read("/etc/machine-id").or_else(|_| read("/proc/sys/kernel/hostname")).unwrap_or_default()
}

/// Nanoseconds since 1970.
pub fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

/// Something that took its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Its ids.
    pub context: SpanContext,
    /// The span that it is a part of.
    pub parent: Option<[u8; 8]>,
    /// What it is.
    pub name: String,
    /// Nanoseconds since 1970.
    pub start_ns: u64,
    /// Nanoseconds since 1970.
    pub end_ns: u64,
    /// What is known of it.
    pub attributes: Vec<(&'static str, String)>,
    /// Why it was no success.
    pub error: Option<String>,
    /// What happened meanwhile, and when.
    pub events: Vec<(u64, String)>,
}

impl Span {
    /// One that ends now.
    pub fn ended(context: SpanContext, parent: SpanContext, name: impl Into<String>, start_ns: u64) -> Self {
        Self {
            context,
            parent: Some(parent.span),
            name: name.into(),
            start_ns,
            end_ns: now_ns().max(start_ns),
            attributes: Vec::new(),
            error: None,
            events: Vec::new(),
        }
    }

    /// With one more thing that is known of it.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.attributes.push((key, value.into()));
        self
    }
}

/// Where spans go. Cheap to clone; one that is off takes them and forgets them.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<mpsc::Sender<Span>>);

impl Tracer {
    /// One that keeps nothing.
    pub fn off() -> Self {
        Self(None)
    }

    /// A tracer, and where its spans come out.
    pub fn new() -> (Self, mpsc::Receiver<Span>) {
        let (give, spans) = mpsc::channel(WAITING);
        (Self(Some(give)), spans)
    }

    /// Whether anybody wants spans.
    pub fn on(&self) -> bool {
        self.0.is_some()
    }

    /// Takes one. Never waits.
    pub fn emit(&self, span: Span) {
        if let Some(give) = &self.0
            && give.try_send(span).is_err()
        {
            tracing::warn!("a span is lost: the collector takes them too slowly");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_same_after_a_restart_and_others_for_another_rollout() {
        let first = SpanContext::of_rollout("host", "web", 1, 1_700_000_000_000);
        assert_eq!(first, SpanContext::of_rollout("host", "web", 1, 1_700_000_000_000));
        let others = [
            SpanContext::of_rollout("host", "web", 2, 1_700_000_000_000),
            SpanContext::of_rollout("host", "web", 1, 1_700_000_000_001),
            SpanContext::of_rollout("host", "api", 1, 1_700_000_000_000),
            SpanContext::of_rollout("other", "web", 1, 1_700_000_000_000),
            SpanContext::of_rollout("hostw", "eb", 1, 1_700_000_000_000),
        ];
        assert!(others.iter().all(|other| other.trace != first.trace && other.span != first.span));
        let (step, again, next) = (first.child("step", 1), first.child("step", 1), first.child("step", 2));
        assert!(
            step == again && step.trace == first.trace && step.span != next.span && step.span != first.span
        );
    }

    #[test]
    fn a_traceparent_has_the_shape_of_the_recommendation() {
        let text = SpanContext { trace: [0xab; 16], span: [1; 8] }.traceparent();
        assert_eq!(text, "00-abababababababababababababababab-0101010101010101-01");
    }
}
