//! Probes a list of targets that changes, and tells when one changes its health.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::jitter::Dice;
use super::machine::{Health, Machine};
use crate::desired::HealthSpec;

/// The first probe comes within this time also under a longer interval: a new backend waits for it to get traffic.
const FIRST_WITHIN: Duration = Duration::from_secs(1);

/// One backend to probe. Service and backend together are its identity.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Name of the service.
    pub service: String,
    /// The backend's own address and port.
    pub backend: SocketAddr,
    /// What to ask, how often, and what decides.
    pub spec: HealthSpec,
}

impl Target {
    /// Where the probe goes: the backend, on the check's port if it has one of its own.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.backend.ip(), self.spec.port.unwrap_or(self.backend.port()))
    }

    fn key(&self) -> Key {
        (self.service.clone(), self.backend)
    }
}

/// Service and backend.
pub type Key = (String, SocketAddr);

/// A backend's health changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Name of the service.
    pub service: String,
    /// The backend's own address and port, also when another port is probed.
    pub backend: SocketAddr,
    /// The new health.
    pub health: Health,
    /// Why, when it is not healthy.
    pub reason: Option<String>,
}

/// What is known of a target now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Health.
    pub health: Health,
    /// Why the last failed probe failed; none when healthy with no failure since.
    pub reason: Option<String>,
}

/// Makes one attempt. Ends by itself: it keeps the target's timeout.
pub trait Prober: Send + Sync + 'static {
    /// Probes `target` once; the error is why it did not pass, in an operator's words.
    fn probe(&self, target: &Target) -> impl Future<Output = Result<(), String>> + Send;
}

/// How a checker runs.
#[derive(Clone, Copy, Debug)]
pub struct CheckerOptions {
    /// Probes at the same time, at the most. Those beyond wait; their timeout begins when they do.
    pub in_flight: usize,
    /// Seed of the jitter.
    pub seed: u64,
}

impl Default for CheckerOptions {
    fn default() -> CheckerOptions {
        CheckerOptions { in_flight: 256, seed: 0 }
    }
}

struct Entry {
    spec: HealthSpec,
    machine: Machine,
    /// Number of the task that may report for this entry. One that was replaced or removed finds another number, or
    /// no entry, and says nothing.
    task: u64,
    abort: AbortHandle,
}

type Entries = Arc<Mutex<HashMap<Key, Entry>>>;

/// A panic while it was held leaves the map as whole as it was: every change to it is one call.
fn lock(entries: &Mutex<HashMap<Key, Entry>>) -> MutexGuard<'_, HashMap<Key, Entry>> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Probes its targets until it is dropped.
pub struct Checker<P> {
    prober: Arc<P>,
    entries: Entries,
    slots: Arc<Semaphore>,
    transitions: mpsc::Sender<Transition>,
    dice: Dice,
    tasks: u64,
}

impl<P: Prober> Checker<P> {
    /// A checker without targets. Transitions go to `transitions`; while it is full, probes wait.
    ///
    /// A transition that was sent before its target was removed may still be in the channel: a receiver ignores
    /// what it does not know.
    pub fn new(prober: P, options: CheckerOptions, transitions: mpsc::Sender<Transition>) -> Checker<P> {
        Checker {
            prober: Arc::new(prober),
            entries: Entries::default(),
            slots: Arc::new(Semaphore::new(options.in_flight.max(1))),
            transitions,
            dice: Dice::new(options.seed),
            tasks: 0,
        }
    }

    /// Makes `targets` the whole list. Those that are gone are forgotten; those with another spec are probed by it
    /// from now on and keep their health; the others go on undisturbed. Of two with one identity the last counts.
    /// Needs a tokio runtime.
    pub fn set_targets(&mut self, targets: Vec<Target>) {
        let wanted: HashMap<Key, Target> = targets.into_iter().map(|target| (target.key(), target)).collect();
        let shared = self.entries.clone();
        let mut entries = lock(&shared);
        entries.retain(|key, entry| {
            let keep = wanted.contains_key(key);
            if !keep {
                entry.abort.abort();
            }
            keep
        });
        for (key, target) in wanted {
            if entries.get(&key).is_some_and(|entry| entry.spec == target.spec) {
                continue;
            }
            let machine = match entries.remove(&key) {
                Some(entry) => {
                    entry.abort.abort();
                    let mut machine = entry.machine;
                    machine.retune(target.spec.rise, target.spec.fall);
                    machine
                }
                None => Machine::new(target.spec.rise, target.spec.fall),
            };
            let spec = target.spec.clone();
            let (task, abort) = self.spawn(target);
            entries.insert(key, Entry { spec, machine, task, abort });
        }
    }

    /// What is known of every target.
    pub fn snapshot(&self) -> HashMap<Key, Status> {
        lock(&self.entries)
            .iter()
            .map(|(key, entry)| {
                let reason = entry.machine.reason().map(str::to_owned);
                (key.clone(), Status { health: entry.machine.health(), reason })
            })
            .collect()
    }

    fn spawn(&mut self, target: Target) -> (u64, AbortHandle) {
        self.tasks += 1;
        let run = Run {
            number: self.tasks,
            prober: self.prober.clone(),
            entries: self.entries.clone(),
            slots: self.slots.clone(),
            transitions: self.transitions.clone(),
            dice: Dice::new(self.dice.next()),
            target,
        };
        (self.tasks, tokio::spawn(run.probe_until_gone()).abort_handle())
    }
}

impl<P> Drop for Checker<P> {
    fn drop(&mut self) {
        for (_, entry) in lock(&self.entries).drain() {
            entry.abort.abort();
        }
    }
}

struct Run<P> {
    number: u64,
    prober: Arc<P>,
    entries: Entries,
    slots: Arc<Semaphore>,
    transitions: mpsc::Sender<Transition>,
    dice: Dice,
    target: Target,
}

impl<P: Prober> Run<P> {
    async fn probe_until_gone(mut self) {
        let spec = self.target.spec.clone();
        sleep(spec.interval.min(FIRST_WITHIN).mul_f64(self.dice.fraction())).await;
        loop {
            let Ok(slot) = self.slots.acquire().await else { return };
            let result = self.prober.probe(&self.target).await;
            drop(slot);
            // Room first, then the state, then the message, without a wait in between: a task that is stopped
            // either did both or neither, so no change of health is ever known here and told to nobody.
            let Ok(room) = self.transitions.reserve().await else { return };
            if !self.observe(result, room) {
                return;
            }
            sleep(self.dice.vary(spec.interval, spec.jitter)).await;
        }
    }

    /// False: the target is no longer this task's own.
    fn observe(&self, result: Result<(), String>, room: mpsc::Permit<'_, Transition>) -> bool {
        // Held while sending: messages about one backend keep the order of its states, also when another task
        // takes the target over.
        let mut entries = lock(&self.entries);
        let Some(entry) = entries.get_mut(&self.target.key()).filter(|entry| entry.task == self.number)
        else {
            return false;
        };
        if let Some(health) = entry.machine.observe(result) {
            room.send(Transition {
                service: self.target.service.clone(),
                backend: self.target.backend,
                health,
                reason: entry.machine.reason().map(str::to_owned),
            });
        }
        true
    }
}

#[cfg(test)]
#[path = "checker_tests.rs"]
mod tests;
