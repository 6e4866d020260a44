//! What has happened, numbered: for those who watch, for those who resume watching, and for the answer to "what came between".

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::journal::Journal;

/// As many are kept at hand.
const KEPT: usize = 4096;
/// Bytes of the file before a new one begins; there are two at most.
const FILE_MOST: u64 = 4 << 20;

/// What kind of thing has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// Somebody changed something by a command.
    Change,
    /// A rollout took a step, measured, or was moved.
    Rollout,
    /// A backend's health changed.
    Health,
    /// A drain ended, or its deadline has passed.
    Drain,
    /// An interface came or went.
    Interface,
    /// The agent started or stopped.
    Agent,
}

impl EventKind {
    /// Whether it changes what is wanted of a service, so that somebody who decided before should look again.
    fn changes_intent(self) -> bool {
        matches!(self, EventKind::Change | EventKind::Rollout | EventKind::Drain)
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Number, from 1, without gaps; it goes on after a restart of the agent.
    pub seq: u64,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// What kind of thing.
    pub kind: EventKind,
    /// The service that it is about; `None`: the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The service's generation after it; 0 without a service.
    pub generation: u64,
    /// What happened, for people.
    pub text: String,
    /// Who did it; `None`: nobody, it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Events before this one are no longer kept, although they were asked for.
    #[serde(default)]
    pub missed: bool,
}

/// The log of events. Clones share it.
#[derive(Clone, Debug)]
pub struct EventLog {
    shared: Arc<Mutex<Shared>>,
    last: Arc<watch::Sender<u64>>,
}

#[derive(Debug)]
struct Shared {
    kept: VecDeque<Event>,
    seq: u64,
    /// `None`: kept in memory only.
    journal: Option<Journal>,
    /// The last that is in the file.
    written: u64,
}

impl Shared {
    /// Writes down what is not yet: the last event, and those before it for which there was no room. Without them their numbers would be
    /// given out again after a restart.
    fn write(&mut self) {
        let Some(journal) = &mut self.journal else { return };
        let waited = self.written + 1 < self.seq;
        let missing = self.kept.iter().rev().take_while(|event| event.seq > self.written).count();
        for event in self.kept.iter().skip(self.kept.len() - missing) {
            if let Err(error) = journal.append(event) {
                if !waited {
                    tracing::error!(%error, "events are not written down until there is room: events.jsonl");
                }
                return;
            }
            self.written = event.seq;
        }
        if waited {
            tracing::info!("events are written down again, those of meanwhile too: events.jsonl");
        }
    }
}

impl Default for EventLog {
    fn default() -> Self {
        Self::new(None)
    }
}

impl EventLog {
    fn new(journal: Option<Journal>) -> Self {
        let mut kept: VecDeque<Event> = journal.as_ref().map(Journal::lines).unwrap_or_default().into();
        kept.drain(..kept.len().saturating_sub(KEPT));
        let seq = kept.back().map_or(0, |event| event.seq);
        let shared = Arc::new(Mutex::new(Shared { kept, seq, journal, written: seq }));
        EventLog { shared, last: Arc::new(watch::Sender::new(seq)) }
    }

    /// The log whose file is `events.jsonl` in `dir`, and what it holds.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn open(dir: &Path) -> io::Result<Self> {
        Ok(Self::new(Some(Journal::open(&dir.join("events.jsonl"), FILE_MOST)?)))
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers an event and keeps it. A file that cannot be written is told, and the event kept in memory until it can.
    pub fn note(&self, kind: EventKind, service: Option<(&str, u64)>, text: String, by: Option<String>) {
        let mut shared = self.shared();
        shared.seq += 1;
        let event = Event {
            seq: shared.seq,
            unix_ms: crate::clock::unix_ms(),
            kind,
            service: service.map(|(name, _)| name.to_owned()),
            generation: service.map_or(0, |(_, generation)| generation),
            text,
            by,
            missed: false,
        };
        shared.kept.push_back(event);
        shared.write();
        if shared.kept.len() > KEPT {
            shared.kept.pop_front();
        }
        self.last.send_replace(shared.seq);
    }

    /// Events with a number above `seq`, the oldest first. The first one has `missed` when others between are gone, or when `seq` is a
    /// number that this log has not come to.
    pub fn since(&self, seq: u64) -> Vec<Event> {
        let shared = self.shared();
        let foreign = seq > shared.seq;
        let seq = if foreign { 0 } else { seq };
        let mut found: Vec<Event> = shared.kept.iter().filter(|event| event.seq > seq).cloned().collect();
        if let Some(first) = found.first_mut() {
            first.missed = foreign || (seq > 0 && first.seq > seq + 1);
        }
        found
    }

    /// The number of the last event.
    pub fn last(&self) -> u64 {
        self.shared().seq
    }

    /// Tells the number of the last event whenever there is a new one.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    /// What was changed about a service after `generation`, the oldest first. `None`: events from then are no longer kept.
    pub fn changes_since(&self, service: &str, generation: u64) -> Option<Vec<Event>> {
        let shared = self.shared();
        let of_it = || shared.kept.iter().filter(|event| event.service.as_deref() == Some(service));
        let known = of_it().any(|event| event.generation <= generation)
            || shared.kept.front().is_some_and(|e| e.seq == 1);
        let changes = of_it().filter(|event| event.kind.changes_intent() && event.generation > generation);
        let changes: Vec<Event> = changes.cloned().collect();
        (known || !changes.is_empty()).then_some(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seqs(events: &[Event]) -> Vec<u64> {
        events.iter().map(|event| event.seq).collect()
    }

    #[test]
    fn numbers_go_on_after_a_restart_and_nothing_is_lost() {
        let dir = std::env::temp_dir().join(format!("zdd-events-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let log = EventLog::open(&dir).unwrap();
        for n in 0..5 {
            log.note(EventKind::Health, Some(("web", n)), format!("event {n}"), None);
        }
        // Not dropped: a kill closes nothing in order.
        std::mem::forget(log);
        let log = EventLog::open(&dir).unwrap();
        assert_eq!(seqs(&log.since(2)), [3, 4, 5]);
        log.note(EventKind::Change, Some(("web", 9)), "shift".to_owned(), Some("uid 0".to_owned()));
        assert_eq!(seqs(&log.since(5)), [6]);
        assert!(log.since(6).is_empty() && log.last() == 6);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_found_no_room_is_written_down_when_there_is() {
        let dir = std::env::temp_dir().join(format!("zdd-events-full-{}", std::process::id()));
        // The file can neither grow nor be put aside.
        let (file, aside) = (dir.join("events.jsonl"), dir.join("events.jsonl.1"));
        std::fs::create_dir_all(aside.join("in-the-way")).unwrap();
        let log = EventLog::new(Some(Journal::open(&file, 300).unwrap()));
        let note = |n: u64| log.note(EventKind::Health, None, format!("event {n}"), None);
        (1..=6).for_each(note);
        assert_eq!(log.last(), 6);
        let size = std::fs::metadata(&file).unwrap().len();
        assert!(size <= 300, "{size}");
        std::fs::remove_dir_all(&aside).unwrap();
        note(7);
        assert_eq!(seqs(&log.since(4)), [5, 6, 7]);
        let again = EventLog::new(Some(Journal::open(&file, 300).unwrap()));
        assert_eq!(seqs(&again.since(4)), [5, 6, 7], "and no number is given out twice");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn whoever_comes_too_late_is_told() {
        let log = EventLog::default();
        for n in 0..KEPT as u64 + 10 {
            log.note(EventKind::Health, None, n.to_string(), None);
        }
        let all = log.since(0);
        assert!(all.len() == KEPT && all[0].seq == 11 && !all[0].missed, "the beginning of what is kept");
        assert!(log.since(5)[0].missed && !log.since(10)[0].missed && !log.since(4000)[0].missed);
        // A number of a log that was lost.
        assert!(log.since(1_000_000)[0].missed);
    }

    #[test]
    fn what_came_between_is_what_was_wanted_and_not_what_happened() {
        let log = EventLog::default();
        log.note(EventKind::Change, Some(("web", 5)), "first".to_owned(), None);
        log.note(EventKind::Health, Some(("web", 6)), "sick".to_owned(), None);
        log.note(EventKind::Change, Some(("api", 7)), "other".to_owned(), None);
        assert_eq!(log.changes_since("web", 5), Some(vec![]));
        log.note(EventKind::Change, Some(("web", 8)), "second".to_owned(), None);
        assert_eq!(seqs(&log.changes_since("web", 5).unwrap()), [4]);
        assert_eq!(seqs(&log.changes_since("web", 4).unwrap()), [1, 4]);
    }
}
