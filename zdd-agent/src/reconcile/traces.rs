//! Traces: who looks, what all of them want together, and what each of them is told.
//!
//! The program is asked for what any of them wants, for a few seconds at a time; what comes is given a name and goes to those who
//! asked for it. With nobody left the rings are closed, and the program's word says no.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use zdd_common::net::{Addr, TCP, UDP};
use zdd_common::reason::REASONS;
use zdd_common::trace::{TraceAsk, TraceBudget, TraceMark};

use super::Reconciler;
use crate::clock;
use crate::control::Refused;
use crate::dataplane::TraceRing;
use crate::trace::{Frame, TraceFilter, TracedPacket};

/// A trace that nobody prolongs ends after this: that of an agent that was killed.
const LEASE: Duration = Duration::from_secs(3);
/// Packets that wait for the loop, and for each who looks.
const WAITING: usize = 4096;
/// Traces at the same time.
const TRACES: usize = 16;

/// A packet as a ring gave it.
type Raw = (TraceMark, Vec<u8>);

/// Everything about traces that the loop owns.
pub(super) struct Traces {
    looking: Vec<Looking>,
    rings: Vec<JoinHandle<()>>,
    /// Packets that found a ring or the loop full.
    lost: Arc<AtomicU64>,
    give: mpsc::Sender<Raw>,
    /// What the rings gave.
    pub(super) packets: mpsc::Receiver<Raw>,
}

/// One trace.
struct Looking {
    filter: TraceFilter,
    ask: TraceAsk,
    /// Of the whole host; the program's is of each CPU.
    budget: TraceBudget,
    to: mpsc::Sender<TracedPacket>,
}

impl Traces {
    pub(super) fn new() -> Self {
        let (give, packets) = mpsc::channel(WAITING);
        Self { looking: Vec::new(), rings: Vec::new(), lost: Arc::default(), give, packets }
    }

    /// Whether time must be looked at for them.
    pub(super) fn any(&self) -> bool {
        !self.looking.is_empty()
    }

    fn follow(&mut self, rings: Vec<TraceRing>) {
        for ring in rings {
            let (give, lost) = (self.give.clone(), self.lost.clone());
            // SAFETY: the ring owns its descriptor, keeps it for life and is moved into the registration.
            let registered = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
            let Ok(mut readable) = registered else {
                tracing::warn!("a trace ring cannot be waited for: its CPU is left out");
                continue;
            };
            self.rings.push(tokio::spawn(async move {
                while let Ok(mut guard) = readable.readable_mut().await {
                    let full = guard.get_inner_mut().drain(|mark, frame| {
                        if give.try_send((mark, frame)).is_err() {
                            lost.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                    lost.fetch_add(full, Ordering::Relaxed);
                    guard.clear_ready();
                }
            }));
        }
    }
}

impl Reconciler {
    /// Begins a trace. It ends when the receiver is dropped.
    pub(super) fn trace(&mut self, filter: TraceFilter) -> Result<mpsc::Receiver<TracedPacket>, Refused> {
        // Whoever has gone since the last look is in nobody's way.
        if self.traces.looking.iter().filter(|looking| !looking.to.is_closed()).count() >= TRACES {
            return Err(Refused::refused(format!(
                "{TRACES} traces are under way, as many as there may be\nhelp: end one of them; `zdd events` shows who began which"
            )));
        }
        let services = match &filter.service {
            None => u64::MAX,
            Some(name) => {
                let index = self.index_of(name)?;
                self.services[index].faces.iter().fold(0, |bits, face| bits | 1 << (face.at.id & 63))
            }
        };
        let (net, mask) = match filter.from {
            None => (Addr::default(), Addr::default()),
            Some(prefix) => prefix.as_map_words(),
        };
        let (rate, snap) = (filter.rate, filter.snap);
        let ask = TraceAsk { until: 0, reasons: filter.reasons, services, net, mask, rate, snap };
        if self.traces.rings.is_empty() {
            let rings = self.dataplane.open_trace().map_err(|error| {
                Refused::internal(format!("{error}\nhelp: the agent needs CAP_PERFMON to trace"))
            })?;
            self.traces.follow(rings);
        }
        let (to, packets) = mpsc::channel(WAITING);
        tracing::info!(?filter, "a trace begins");
        self.traces.looking.push(Looking { filter, ask, budget: TraceBudget::default(), to });
        self.prolong_traces();
        Ok(packets)
    }

    /// Forgets those who have gone, and asks for what the others want for a few seconds more.
    pub(super) fn prolong_traces(&mut self) {
        let before = self.traces.looking.len();
        self.traces.looking.retain(|looking| !looking.to.is_closed());
        let mut asks = self.traces.looking.iter().map(|looking| looking.ask);
        let ask = match asks.next() {
            Some(first) => {
                let all = asks.fold(first, |all, ask| all.with(&ask));
                TraceAsk { until: clock::now_ns() + LEASE.as_nanos() as u64, ..all }
            }
            None => TraceAsk::default(),
        };
        if let Err(error) = self.dataplane.ask_trace(ask) {
            tracing::error!("{error}");
        }
        if before > 0 && self.traces.looking.is_empty() {
            self.traces.rings.drain(..).for_each(|ring| ring.abort());
            tracing::info!("the last trace has ended");
        }
    }

    /// One packet, to all who asked for such.
    pub(super) fn on_traced(&mut self, (mark, frame): Raw) {
        let lost = self.traces.lost.swap(0, Ordering::Relaxed);
        let Some(mut packet) = self.told(&mark, frame) else { return };
        packet.missed += lost;
        for looking in &mut self.traces.looking {
            let another = looking.filter.service.is_some() && looking.filter.service != packet.service;
            let wanted = TraceAsk { until: u64::MAX, ..looking.ask }.wants(0, &mark) && !another;
            if !wanted {
                continue;
            }
            let Some(missed) = looking.budget.take(mark.at_ns, looking.filter.rate) else { continue };
            let mut packet = packet.clone();
            packet.missed += u64::from(missed);
            packet.frame.0.truncate(looking.filter.snap as usize);
            if looking.to.try_send(packet).is_err() {
                // Slower than the packets come: told with the next one that it gets.
                looking.budget.missed = looking.budget.missed.saturating_add(1);
            }
        }
    }

    /// A packet with names for its numbers. `None`: of another build's program.
    fn told(&self, mark: &TraceMark, frame: Vec<u8>) -> Option<TracedPacket> {
        let reason = REASONS.get(usize::from(mark.reason))?;
        let verdict = match mark.action {
            TraceMark::PASS => "pass",
            TraceMark::DROP => "drop",
            TraceMark::TRANSMIT => "transmit",
            TraceMark::REDIRECT => "redirect",
            _ => return None,
        };
        let parsed = mark.known & TraceMark::PARSED != 0;
        let end =
            |addr: Addr, port: u16| parsed.then(|| SocketAddr::new(IpAddr::from(addr), u16::from_be(port)));
        let served = (mark.known & TraceMark::SERVED != 0)
            .then(|| self.services.iter().find(|s| s.faces.iter().any(|face| face.at.id == mark.service)))
            .flatten();
        let backend = served.and_then(|service| service.saved.backends.iter().find(|b| b.id == mark.backend));
        let interface = match self.interfaces.get(&mark.ifindex) {
            Some(interface) => interface.name.clone(),
            None => format!("if{}", mark.ifindex),
        };
        Some(TracedPacket {
            unix_ns: unix_ns(mark.at_ns),
            interface,
            verdict: verdict.to_owned(),
            reason: reason.name().to_owned(),
            protocol: parsed.then(|| match mark.proto {
                TCP => "tcp".to_owned(),
                UDP => "udp".to_owned(),
                other => other.to_string(),
            }),
            from: end(mark.src, mark.src_port),
            to: end(mark.dst, mark.dst_port),
            service: served.map(|service| service.name().to_owned()),
            version: backend.map(|backend| backend.version.clone()),
            backend: backend.map(|backend| backend.address),
            bytes: mark.length,
            missed: u64::from(mark.missed),
            frame: Frame(frame),
        })
    }
}

/// When, by the clock of this machine, something was that happened `at_ns` after boot.
fn unix_ns(at_ns: u64) -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, exclusive timespec for the length of the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    let since_boot = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
    unix.saturating_sub(since_boot.saturating_sub(at_ns))
}
