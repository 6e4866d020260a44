//! Changes on somebody's behalf: expected generation, key, and what is told of it afterwards.

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use super::Reconciler;
use crate::clock;
use crate::control::{Change, Generations, Made, Refused, Reply, Request, SpentKey};
use crate::events::{EventKind, EventLog};
use crate::report::DetachReport;

/// A key is remembered for so long.
pub const KEY_LIFE: Duration = Duration::from_secs(24 * 3600);
/// As many keys at most.
const KEYS_MOST: usize = 4096;

/// Keys of changes that were made, and whether the one under way is persisted yet.
#[derive(Debug, Default)]
pub(super) struct Spent {
    keys: Vec<SpentKey>,
    saved: Cell<bool>,
}

impl Spent {
    /// As they were persisted.
    pub(super) fn recall(keys: Vec<SpentKey>) -> Self {
        Spent { keys, saved: Cell::new(false) }
    }

    /// What is persisted with everything else.
    pub(super) fn keys(&self) -> &[SpentKey] {
        &self.keys
    }

    /// Everything was persisted just now.
    pub(super) fn saved(&self) {
        self.saved.set(true);
    }

    fn begin(&mut self, key: Option<String>) {
        self.saved.set(false);
        let unix_ms = clock::unix_ms();
        let oldest = unix_ms.saturating_sub(u64::try_from(KEY_LIFE.as_millis()).unwrap_or(u64::MAX));
        self.keys.retain(|spent| spent.unix_ms >= oldest);
        self.keys.drain(..self.keys.len().saturating_sub(KEYS_MOST - 1));
        self.keys.extend(key.map(|key| SpentKey { key, unix_ms }));
    }

    /// Whether anything was persisted since it began; if not, its key is not spent.
    fn end(&mut self, key: Option<&str>) -> bool {
        if !self.saved.get() {
            self.keys.retain(|spent| Some(spent.key.as_str()) != key);
        }
        self.saved.get()
    }
}

impl Reconciler {
    /// Keys of changes that the state holds.
    pub fn spent_keys(&self) -> Vec<SpentKey> {
        self.spent.keys().to_vec()
    }

    /// What has happened.
    pub fn events(&self) -> EventLog {
        self.events.clone()
    }

    /// Does what is asked; a detach, which ends the loop, is handed back.
    pub(super) fn take(&mut self, request: Request) -> Option<Reply<DetachReport>> {
        match request {
            Request::Detach { pin_dir, reply } => self.ours(pin_dir.as_deref(), reply),
            Request::Change { change, then, made } => match *then {
                Request::Detach { pin_dir, reply } => {
                    drop(made.send(Vec::new()));
                    let reply = self.ours(pin_dir.as_deref(), reply)?;
                    self.events.note(EventKind::Agent, None, change.what, Some(change.by));
                    Some(reply)
                }
                then => {
                    self.change(*change, then, made);
                    None
                }
            },
            other => {
                self.answer(other);
                None
            }
        }
    }

    /// Whether it is this agent that a detach is about. Another one's pins may be meant, and then this one's traffic must go on.
    fn ours(&self, named: Option<&Path>, reply: Reply<DetachReport>) -> Option<Reply<DetachReport>> {
        let own = &self.desired.agent.pin_dir;
        let real = |dir: &Path| dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        let Some(named) = named.filter(|named| real(named) != real(own)) else { return Some(reply) };
        drop(reply.send(Err(Refused::refused(format!(
            "the agent that answers here has its maps in {}, not in {}\nhelp: nothing was detached; name the other agent's socket with --socket, or one on which nobody answers if it does not run",
            own.display(),
            named.display()
        )))));
        None
    }

    pub(super) fn change(&mut self, change: Change, then: Request, made: Made) {
        let concerned = self.concerned(&then);
        if let Some(expected) = change.expected
            && let Err(refused) = self.expect(concerned, expected)
        {
            then.refuse(refused);
            return;
        }
        let before: Vec<(String, u64)> =
            self.services.iter().map(|service| (service.name().to_owned(), service.generation())).collect();
        let key = change.key.clone();
        self.spent.begin(change.key);
        self.answer(then);
        let changed = self.spent.end(key.as_deref());
        let named = concerned.and_then(|index| before.get(index)).map(|(name, _)| name.clone());
        let mut generations = Vec::new();
        for service in &self.services {
            let name = service.name();
            let before = before.iter().find(|(known, _)| known == name).map_or(0, |(_, before)| *before);
            let after = service.generation();
            if before == after && named.as_deref() != Some(name) {
                continue;
            }
            generations.push(Generations { service: name.to_owned(), before, after });
            if changed {
                let text = match change.reason.as_str() {
                    "" => change.what.clone(),
                    reason => format!("{} ({reason})", change.what),
                };
                self.events.note(EventKind::Change, Some((name, after)), text, Some(change.by.clone()));
            }
        }
        // Whoever asked hears of it when it is on the disk, too.
        self.disk.then(move || drop(made.send(generations)));
    }

    /// The one service that a request is about.
    fn concerned(&self, request: &Request) -> Option<usize> {
        match request {
            Request::Shift { service, .. }
            | Request::Rollback { service, .. }
            | Request::BackendAdd { service, .. }
            | Request::BackendRemove { service, .. }
            | Request::Rollout { service, .. }
            | Request::Gate { service, .. } => self.index_of(service).ok(),
            Request::Drain { target, .. } | Request::Undrain { target, .. } => self.resolve(target).ok(),
            _ => None,
        }
    }

    /// Refuses a change of a service that somebody has changed since `expected`, and tells what came between. Settling and health raise
    /// the generation too; they change nothing that anybody has asked for, and are no reason to refuse.
    fn expect(&self, concerned: Option<usize>, expected: u64) -> Result<(), Refused> {
        let Some(service) = concerned.map(|index| &self.services[index]) else {
            return Err(Refused::invalid(
                "a generation is of one service, and this is about none or about many\nhelp: leave the expected generation out; `zdd apply --dry-run` shows what would change",
            ));
        };
        let (name, now) = (service.name(), service.generation());
        if expected > now {
            return Err(Refused::conflict(format!(
                "{name} is at generation {now}, and was never at {expected}\nhelp: look at `zdd status` and decide anew"
            )));
        }
        let between = match self.events.changes_since(name, expected) {
            Some(changes) if changes.is_empty() => return Ok(()),
            None if expected == now => return Ok(()),
            None => "what came between is no longer kept".to_owned(),
            Some(changes) => {
                let told = changes.iter().rev().take(5).rev().map(|event| {
                    let by = event.by.as_deref().unwrap_or("the agent");
                    format!("generation {}: {} (by {by})", event.generation, event.text)
                });
                told.collect::<Vec<_>>().join("; ")
            }
        };
        Err(Refused::conflict(format!(
            "{name} was changed since generation {expected}: {between}\nhelp: look at `zdd status` and decide anew; it is at generation {now}"
        )))
    }

    /// Notes an event of a service that nobody asked for.
    pub(super) fn note_event(&self, kind: EventKind, index: usize, text: String) {
        let service = &self.services[index];
        self.events.note(kind, Some((service.name(), service.generation())), text, None);
    }
}
