//! Probes a list of targets that changes, and tells when one changes its health.
//!
//! Targets that ask one address the same share one probe: its result counts for each of them by its own streaks.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::beat::Beats;
use super::budget::{ProbeBudget, Turnstile};
use super::depends::DependencyState;
use super::jitter::{Dice, bounds};
use super::machine::{Health, Machine};
use super::spec::{Dependency, HealthSpec, Probe};

/// The first probe comes within this time also under a longer interval: a new backend waits for it to get traffic.
const FIRST_WITHIN: Duration = Duration::from_secs(1);

/// The least part of an interval between two attempts.
const NEWS_APART: f64 = 0.1;

/// One backend to probe. Service and backend together are its identity.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Name of the service.
    pub service: String,
    /// Name of the version, for programs that are called.
    pub version: String,
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

    fn question(&self) -> Question {
        let spec = &self.spec;
        // Only programs hear whom the question is for: all else is the same for every service.
        let told = matches!(spec.probe, Probe::Exec { .. });
        let only = |name: &str| if told { name.to_owned() } else { String::new() };
        Question {
            service: only(&self.service),
            version: only(&self.version),
            address: self.address(),
            probe: spec.probe.clone(),
            timeout: spec.timeout,
            depends: spec.depends.clone(),
        }
    }
}

/// What one probe asks. Targets with the same question share it.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// Name of the service, where the answer may depend on it.
    pub service: String,
    /// Name of the version, where the answer may depend on it.
    pub version: String,
    /// Whom.
    pub address: SocketAddr,
    /// What.
    pub probe: Probe,
    /// For all of one attempt.
    pub timeout: Duration,
    /// What is read off the answer besides.
    pub depends: Vec<Dependency>,
}

impl Question {
    /// Equal for equal questions.
    fn id(&self) -> String {
        format!("{self:?}")
    }
}

/// Service and backend.
pub type Key = (String, SocketAddr);

/// A backend's health changed, or what it says of the things that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Name of the service.
    pub service: String,
    /// The backend's own address and port, also when another port is probed.
    pub backend: SocketAddr,
    /// The health now.
    pub health: Health,
    /// Why, when it is not healthy.
    pub reason: Option<String>,
    /// Its dependencies now, in the order of the check.
    pub depends: Vec<DependencyState>,
}

/// What is known of a target now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Health.
    pub health: Health,
    /// Why the last failed probe failed; none when healthy with no failure since.
    pub reason: Option<String>,
    /// Why the last failed probe failed, and how long ago, whatever came after it.
    pub last_failure: Option<(String, Duration)>,
}

/// What one attempt has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The error is why it did not pass, in an operator's words.
    pub result: Result<(), String>,
    /// What the answer says of dependencies.
    pub depends: Vec<DependencyState>,
}

/// Makes attempts. Each ends by itself: it keeps the question's timeout.
pub trait Prober: Send + Sync + 'static {
    /// What is kept from one attempt to the next of the same question.
    type Session: Default + Send;

    /// Asks once.
    fn probe(&self, question: &Question, session: &mut Self::Session) -> impl Future<Output = Seen> + Send;

    /// Ends when asking is worth it before its time; most never are. May be dropped at any time.
    fn news(&self, session: &mut Self::Session) -> impl Future<Output = ()> + Send;
}

/// How a checker runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckerOptions {
    /// What probes may cost. Those beyond wait; their timeout begins when they do.
    pub budget: ProbeBudget,
    /// Seed of the jitter.
    pub seed: u64,
}

struct Entry {
    spec: HealthSpec,
    machine: Machine,
    /// Its question's id.
    asks: String,
    depends: Vec<DependencyState>,
    last_failure: Option<(String, Instant)>,
}

impl Entry {
    /// How long until the next probe.
    fn interval(&self) -> Duration {
        let fast = self.spec.fast_interval.filter(|_| !self.machine.steady());
        fast.unwrap_or(self.spec.interval)
    }

    /// Takes a result; whether anything is to be told.
    fn observe(&mut self, seen: &Seen) -> bool {
        if let Err(reason) = &seen.result {
            self.last_failure = Some((reason.clone(), Instant::now()));
        }
        let turned = self.machine.observe(seen.result.clone()).is_some();
        // Only what they are worth, not their words: a latency in the answer would be news each time.
        let worth = |states: &[DependencyState]| states.iter().map(|state| state.well).collect::<Vec<_>>();
        let news = worth(&self.depends) != worth(&seen.depends);
        self.depends.clone_from(&seen.depends);
        turned || news
    }
}

/// The task that asks one question.
struct Asker {
    /// One that was replaced or removed finds another number, or no asker, and says nothing.
    number: u64,
    abort: AbortHandle,
    /// Who wants to know.
    keys: Vec<Key>,
    /// Somebody may want to know sooner.
    hurry: Arc<Notify>,
}

#[derive(Default)]
struct Known {
    entries: HashMap<Key, Entry>,
    /// By the question's id.
    askers: HashMap<String, Asker>,
}

/// A panic while it was held leaves the map as whole as it was: every change to it is one call.
fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Probes its targets until it is dropped.
pub struct Checker<P> {
    prober: Arc<P>,
    known: Arc<Mutex<Known>>,
    turnstile: Arc<Turnstile>,
    transitions: mpsc::Sender<Transition>,
    dice: Dice,
    beats: Option<Beats>,
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
            known: Arc::default(),
            turnstile: Arc::new(Turnstile::new(options.budget)),
            transitions,
            dice: Dice::new(options.seed),
            beats: None,
            tasks: 0,
        }
    }

    /// Makes `targets` the whole list. Those that are gone are forgotten; those with another spec are probed by it
    /// from now on and keep their health; the others go on undisturbed. Of two with one identity the last counts.
    /// Needs a tokio runtime.
    pub fn set_targets(&mut self, targets: Vec<Target>) {
        let wanted: HashMap<Key, Target> = targets.into_iter().map(|target| (target.key(), target)).collect();
        let shared = self.known.clone();
        let mut known = lock(&shared);
        let gone: Vec<Key> = known.entries.keys().filter(|key| !wanted.contains_key(*key)).cloned().collect();
        for key in gone {
            known.forget(&key);
        }
        for (key, target) in wanted {
            let question = match known.entries.get_mut(&key) {
                Some(entry) if entry.spec == target.spec => continue,
                Some(entry) => {
                    let question = target.question();
                    entry.machine.retune(target.spec.rise, target.spec.fall);
                    entry.spec = target.spec;
                    if entry.asks == question.id() {
                        let hurry = known.entries.get(&key).and_then(|entry| known.askers.get(&entry.asks));
                        hurry.inspect(|asker| asker.hurry.notify_one());
                        continue;
                    }
                    let left = std::mem::replace(&mut entry.asks, question.id());
                    known.leave(&left, &key);
                    question
                }
                None => {
                    let question = target.question();
                    let machine = Machine::new(target.spec.rise, target.spec.fall);
                    let asks = question.id();
                    let entry =
                        Entry { spec: target.spec, machine, asks, depends: Vec::new(), last_failure: None };
                    known.entries.insert(key.clone(), entry);
                    question
                }
            };
            match known.askers.get_mut(&question.id()) {
                Some(asker) => {
                    asker.keys.push(key);
                    asker.hurry.notify_one();
                }
                None => {
                    let (id, asker) = self.spawn(question, key);
                    known.askers.insert(id, asker);
                }
            }
        }
    }

    /// What is known of every target.
    pub fn snapshot(&self) -> HashMap<Key, Status> {
        let known = lock(&self.known);
        known.entries.iter().map(|(key, entry)| (key.clone(), entry.status())).collect()
    }

    /// What is known of one.
    pub fn status(&self, key: &Key) -> Option<Status> {
        lock(&self.known).entries.get(key).map(Entry::status)
    }

    /// Probes that were made since the start, and those among them that had to wait for the budget.
    pub fn counts(&self) -> (u64, u64) {
        self.turnstile.counts()
    }

    fn spawn(&mut self, question: Question, key: Key) -> (String, Asker) {
        self.tasks += 1;
        let (id, hurry) = (question.id(), Arc::new(Notify::new()));
        let run = Run {
            number: self.tasks,
            id: id.clone(),
            prober: self.prober.clone(),
            known: self.known.clone(),
            turnstile: self.turnstile.clone(),
            transitions: self.transitions.clone(),
            dice: Dice::new(self.dice.next()),
            beats: *self.beats.get_or_insert_with(Beats::new),
            hurry: hurry.clone(),
            question,
        };
        let abort = tokio::spawn(run.probe_until_gone()).abort_handle();
        (id, Asker { number: self.tasks, abort, keys: vec![key], hurry })
    }
}

impl Entry {
    fn status(&self) -> Status {
        let last_failure = self.last_failure.as_ref();
        Status {
            health: self.machine.health(),
            reason: self.machine.reason().map(str::to_owned),
            last_failure: last_failure.map(|(reason, when)| (reason.clone(), when.elapsed())),
        }
    }
}

impl Known {
    fn forget(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.leave(&entry.asks, key);
        }
    }

    /// One who no longer wants to know; with the last one the question is no longer asked.
    fn leave(&mut self, id: &str, key: &Key) {
        let Some(asker) = self.askers.get_mut(id) else { return };
        asker.keys.retain(|other| other != key);
        if asker.keys.is_empty() {
            asker.abort.abort();
            self.askers.remove(id);
        }
    }

    /// The asker, if it is still this one.
    fn asker(&self, id: &str, number: u64) -> Option<&Asker> {
        self.askers.get(id).filter(|asker| asker.number == number)
    }
}

impl<P> Drop for Checker<P> {
    fn drop(&mut self) {
        for (_, asker) in lock(&self.known).askers.drain() {
            asker.abort.abort();
        }
    }
}

/// How often a question is asked.
struct Pace {
    interval: Duration,
    jitter: f64,
    /// Questions that the checker asks at all.
    probes: usize,
}

struct Run<P> {
    number: u64,
    id: String,
    prober: Arc<P>,
    known: Arc<Mutex<Known>>,
    turnstile: Arc<Turnstile>,
    transitions: mpsc::Sender<Transition>,
    dice: Dice,
    beats: Beats,
    hurry: Arc<Notify>,
    question: Question,
}

impl<P: Prober> Run<P> {
    async fn probe_until_gone(mut self) {
        let mut session = P::Session::default();
        let Some(mut pace) = self.pace() else { return };
        let (mut first, mut quiet) = (true, Instant::now());
        loop {
            let begins = self.begins(&pace, first);
            // The news first: a timer that most never need would wake the process for each probe.
            let news = async {
                self.prober.news(&mut session).await;
                sleep_until(quiet).await;
            };
            first = tokio::select! {
                () = sleep_until(begins) => false,
                () = news => false,
                () = self.hurry.notified() => true,
            };
            if !first {
                let Some(slot) = self.turnstile.enter(pace.interval).await else { return };
                let seen = self.prober.probe(&self.question, &mut session).await;
                drop(slot);
                if !self.tell(seen).await {
                    return;
                }
                // However often there is news: some time passes between two attempts.
                quiet = Instant::now() + pace.interval.mul_f64(NEWS_APART);
            }
            match self.pace() {
                Some(now) => pace = now,
                None => return,
            }
        }
    }

    /// The shortest interval that anybody wants now. `None`: nobody wants to know any more.
    fn pace(&self) -> Option<Pace> {
        let known = lock(&self.known);
        let asker = known.asker(&self.id, self.number)?;
        let entries = asker.keys.iter().filter_map(|key| known.entries.get(key));
        let paces = entries.map(|entry| (entry.interval(), entry.spec.jitter));
        let (interval, jitter) = paces.min_by(|a, b| a.0.cmp(&b.0))?;
        Some(Pace { interval, jitter, probes: known.askers.len() })
    }

    /// When the next probe begins: by chance, and then at the beat beside that which the jitter still allows.
    fn begins(&mut self, pace: &Pace, first: bool) -> Instant {
        let (now, interval) = (Instant::now(), pace.interval);
        let (wait, least, most) = if first {
            let within = interval.min(FIRST_WITHIN);
            (within.mul_f64(self.dice.fraction()), Duration::ZERO, within)
        } else {
            let (least, most) = bounds(interval, pace.jitter);
            (self.dice.vary(interval, pace.jitter), least, most)
        };
        self.beats.nearest(now + wait, (now + least, now + most), interval, pace.probes)
    }

    /// Tells everybody who wants to know. False: nobody does any more.
    async fn tell(&self, seen: Seen) -> bool {
        let keys = match lock(&self.known).asker(&self.id, self.number) {
            Some(asker) => asker.keys.clone(),
            None => return false,
        };
        for key in keys {
            // Room first, then the state, then the message, without a wait in between: a task that is stopped
            // either did both or neither, so no change of health is ever known here and told to nobody.
            let Ok(room) = self.transitions.reserve().await else { return false };
            if !self.observe(&key, &seen, room) {
                return false;
            }
        }
        true
    }

    /// False: the question is no longer this task's own.
    fn observe(&self, key: &Key, seen: &Seen, room: mpsc::Permit<'_, Transition>) -> bool {
        // Held while sending: messages about one backend keep the order of its states, also when another task
        // takes the target over.
        let mut known = lock(&self.known);
        if known.asker(&self.id, self.number).is_none() {
            return false;
        }
        let Some(entry) = known.entries.get_mut(key).filter(|entry| entry.asks == self.id) else {
            return true;
        };
        if entry.observe(seen) {
            room.send(Transition {
                service: key.0.clone(),
                backend: key.1,
                health: entry.machine.health(),
                reason: entry.machine.reason().map(str::to_owned),
                depends: entry.depends.clone(),
            });
        }
        true
    }
}

#[cfg(test)]
#[path = "checker_tests.rs"]
mod tests;
