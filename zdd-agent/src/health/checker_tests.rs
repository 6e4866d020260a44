//! The checker on a paused clock, with a prober that answers as it is told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::{Instant, timeout};

use super::*;
use crate::desired::Probe;

/// Answers per address, counts attempts, and notes the most that ran at the same time.
#[derive(Clone, Default)]
struct Fake(Arc<FakeState>);

#[derive(Default)]
struct FakeState {
    failing: Mutex<BTreeMap<SocketAddr, String>>,
    attempts: Mutex<Vec<(SocketAddr, Instant)>>,
    takes: Mutex<Duration>,
    running: AtomicUsize,
    most: AtomicUsize,
}

impl Fake {
    fn fail(&self, address: &str, reason: &str) {
        self.0.failing.lock().expect("lock").insert(addr(address), reason.into());
    }

    fn heal(&self, address: &str) {
        self.0.failing.lock().expect("lock").remove(&addr(address));
    }

    fn attempts(&self, address: &str) -> Vec<Instant> {
        let attempts = self.0.attempts.lock().expect("lock");
        attempts.iter().filter(|(to, _)| *to == addr(address)).map(|(_, when)| *when).collect()
    }
}

impl Prober for Fake {
    async fn probe(&self, target: &Target) -> Result<(), String> {
        self.0.attempts.lock().expect("lock").push((target.address(), Instant::now()));
        let running = self.0.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most.fetch_max(running, Ordering::SeqCst);
        let takes = *self.0.takes.lock().expect("lock");
        sleep(takes).await;
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        let failing = self.0.failing.lock().expect("lock");
        failing.get(&target.address()).map_or(Ok(()), |reason| Err(reason.clone()))
    }
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn spec() -> HealthSpec {
    HealthSpec {
        probe: Probe::Tcp,
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(500),
        rise: 2,
        fall: 3,
        jitter: 0.2,
        port: None,
    }
}

fn target(address: &str) -> Target {
    Target { service: "web".into(), backend: addr(address), spec: spec() }
}

fn checker(fake: &Fake, in_flight: usize) -> (Checker<Fake>, mpsc::Receiver<Transition>) {
    let (send, receive) = mpsc::channel(16);
    (Checker::new(fake.clone(), CheckerOptions { in_flight, seed: 1 }, send), receive)
}

async fn next(receive: &mut mpsc::Receiver<Transition>) -> Transition {
    timeout(Duration::from_secs(60), receive.recv()).await.expect("a transition in time").expect("open")
}

async fn silent_for(receive: &mut mpsc::Receiver<Transition>, time: Duration) {
    if let Ok(told) = timeout(time, receive.recv()).await {
        panic!("told {told:?}");
    }
}

const A: &str = "10.1.0.1:80";
const B: &str = "10.1.0.2:80";

#[tokio::test(start_paused = true)]
async fn a_backend_is_healthy_within_the_first_second_and_falls_and_rises_by_its_streaks() {
    let fake = Fake::default();
    let (mut checker, mut receive) = checker(&fake, 8);
    let start = Instant::now();
    checker.set_targets(vec![target(A)]);
    assert_eq!(next(&mut receive).await.health, Health::Healthy);
    assert!(start.elapsed() <= Duration::from_secs(1));

    fake.fail(A, "connection refused");
    let before = fake.attempts(A).len();
    let fell = next(&mut receive).await;
    assert_eq!((fell.health, fell.reason.as_deref()), (Health::Unhealthy, Some("connection refused")));
    assert_eq!(fake.attempts(A).len() - before, 3);
    let status = &checker.snapshot()[&("web".to_string(), addr(A))];
    assert_eq!((status.health, status.reason.as_deref()), (Health::Unhealthy, Some("connection refused")));

    fake.heal(A);
    let before = fake.attempts(A).len();
    let rose = next(&mut receive).await;
    assert_eq!((rose.health, rose.reason), (Health::Healthy, None));
    assert_eq!(fake.attempts(A).len() - before, 2);
}

#[tokio::test(start_paused = true)]
async fn intervals_vary_within_the_jitter_and_first_probes_spread() {
    let fake = Fake::default();
    let (mut checker, mut receive) = checker(&fake, 1000);
    checker.set_targets((1..=100).map(|n| target(&format!("10.1.0.{n}:80"))).collect());
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        let _ = timeout(Duration::from_millis(100), receive.recv()).await;
    }
    let firsts: Vec<Duration> =
        (1..=100).map(|n| fake.attempts(&format!("10.1.0.{n}:80"))[0].duration_since(start)).collect();
    for tenth in 0..10u32 {
        let from = Duration::from_millis(100) * tenth;
        let within =
            firsts.iter().filter(|at| **at >= from && **at < from + Duration::from_millis(100)).count();
        assert!((1..=30).contains(&within), "{within} of 100 in the tenth {tenth}: {firsts:?}");
    }
    let times = fake.attempts(A);
    let gaps: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // tokio's timer rounds up to a millisecond.
    assert!(gaps.iter().all(|gap| (Duration::from_millis(800)..=Duration::from_millis(1202)).contains(gap)));
    assert!(gaps.windows(2).any(|pair| pair[0] != pair[1]), "no jitter in {gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn a_long_interval_does_not_delay_the_first_probe() {
    let fake = Fake::default();
    let (mut checker, mut receive) = checker(&fake, 8);
    let mut slow = target(A);
    slow.spec.interval = Duration::from_secs(300);
    let start = Instant::now();
    checker.set_targets(vec![slow]);
    next(&mut receive).await;
    assert!(start.elapsed() <= Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn no_more_probes_run_at_once_than_allowed() {
    let fake = Fake::default();
    *fake.0.takes.lock().expect("lock") = Duration::from_millis(400);
    let (mut checker, mut receive) = checker(&fake, 3);
    checker.set_targets((1..=12).map(|n| target(&format!("10.1.0.{n}:80"))).collect());
    for _ in 0..12 {
        assert_eq!(next(&mut receive).await.health, Health::Healthy);
    }
    assert_eq!(fake.0.most.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn a_removed_target_is_probed_no_more_and_forgotten() {
    let fake = Fake::default();
    let (mut checker, mut receive) = checker(&fake, 8);
    checker.set_targets(vec![target(A), target(B)]);
    next(&mut receive).await;
    next(&mut receive).await;
    fake.fail(A, "down");
    checker.set_targets(vec![target(B)]);
    let attempts = fake.attempts(A).len();
    silent_for(&mut receive, Duration::from_secs(10)).await;
    assert_eq!(fake.attempts(A).len(), attempts);
    assert_eq!(checker.snapshot().len(), 1);
    assert!(fake.attempts(B).len() > 5, "the other goes on");

    // Back again it is unknown until `fall` failures.
    checker.set_targets(vec![target(A), target(B)]);
    assert_eq!(checker.snapshot()[&("web".to_string(), addr(A))].health, Health::Unknown);
    assert_eq!(next(&mut receive).await.health, Health::Unhealthy);
    assert_eq!(fake.attempts(A).len() - attempts, 3);
}

#[tokio::test(start_paused = true)]
async fn a_changed_spec_keeps_the_health() {
    let fake = Fake::default();
    let (mut checker, mut receive) = checker(&fake, 8);
    checker.set_targets(vec![target(A)]);
    assert_eq!(next(&mut receive).await.health, Health::Healthy);
    let mut other = target(A);
    other.spec.fall = 1;
    other.spec.port = Some(9000);
    checker.set_targets(vec![other]);
    assert_eq!(checker.snapshot()[&("web".to_string(), addr(A))].health, Health::Healthy);
    silent_for(&mut receive, Duration::from_secs(5)).await;
    let old = fake.attempts(A).len();
    fake.fail("10.1.0.1:9000", "status 503, expected 200");
    let fell = next(&mut receive).await;
    assert_eq!((fell.backend, fell.health), (addr(A), Health::Unhealthy));
    assert_eq!(fake.attempts(A).len(), old, "the old port is probed no more");
}

#[tokio::test(start_paused = true)]
async fn the_same_list_again_disturbs_nothing() {
    let fake = Fake::default();
    let (mut checker, mut receive) = checker(&fake, 8);
    let mut slow = target(A);
    slow.spec.interval = Duration::from_secs(30);
    slow.spec.jitter = 0.0;
    checker.set_targets(vec![slow.clone()]);
    next(&mut receive).await;
    for _ in 0..29 {
        checker.set_targets(vec![slow.clone()]);
        silent_for(&mut receive, Duration::from_secs(1)).await;
    }
    assert_eq!(fake.attempts(A).len(), 1, "a restarted task would have probed at its start");
}

#[tokio::test(start_paused = true)]
async fn no_transition_is_lost_when_a_spec_changes_while_the_channel_is_full() {
    let fake = Fake::default();
    let (send, mut receive) = mpsc::channel(1);
    let mut checker = Checker::new(fake.clone(), CheckerOptions { in_flight: 8, seed: 1 }, send);
    checker.set_targets(vec![target(A), target(B)]);
    // One fits, the other's task waits for room; then that task is replaced.
    sleep(Duration::from_secs(5)).await;
    let mut others = [target(A), target(B)];
    for other in &mut others {
        other.spec.rise = 7;
    }
    checker.set_targets(others.to_vec());
    let mut told =
        [next(&mut receive).await, next(&mut receive).await].map(|told| (told.backend, told.health));
    told.sort_by_key(|(backend, _)| *backend);
    assert_eq!(told, [(addr(A), Health::Healthy), (addr(B), Health::Healthy)]);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_checker_probes_no_more() {
    let fake = Fake::default();
    let (mut checker, mut receive) = checker(&fake, 8);
    checker.set_targets(vec![target(A)]);
    next(&mut receive).await;
    drop(checker);
    assert_eq!(receive.recv().await, None, "all senders are gone");
    assert_eq!(fake.attempts(A).len(), 1);
}
