//! The checker on a paused clock, with a prober that answers as it is told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::{Instant, sleep, timeout};

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
    depends: Mutex<BTreeMap<SocketAddr, bool>>,
    news: tokio::sync::Notify,
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
    type Session = ();

    async fn probe(&self, question: &Question, (): &mut ()) -> Seen {
        self.0.attempts.lock().expect("lock").push((question.address, Instant::now()));
        let running = self.0.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most.fetch_max(running, Ordering::SeqCst);
        let takes = *self.0.takes.lock().expect("lock");
        sleep(takes).await;
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        let failing = self.0.failing.lock().expect("lock");
        let result = failing.get(&question.address).map_or(Ok(()), |reason| Err(reason.clone()));
        let state = |well: &bool| DependencyState {
            name: "db".into(),
            shared: true,
            well: Some(*well),
            said: well.to_string(),
        };
        let depends = self.0.depends.lock().expect("lock").get(&question.address).map(state);
        Seen { result, depends: depends.into_iter().collect() }
    }

    async fn news(&self, (): &mut ()) {
        self.0.news.notified().await;
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
        fast_interval: None,
        depends: Vec::new(),
        panic_threshold: None,
    }
}

fn target(address: &str) -> Target {
    Target { service: "web".into(), version: "v1".into(), backend: addr(address), spec: spec() }
}

fn checker(fake: &Fake, in_flight: u32) -> (Checker<Fake>, mpsc::Receiver<Transition>) {
    let (send, receive) = mpsc::channel(16);
    let budget = ProbeBudget { concurrent: in_flight, per_second: 0 };
    (Checker::new(fake.clone(), CheckerOptions { budget, seed: 1 }, send), receive)
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
async fn few_probes_begin_together_so_that_an_idle_agent_seldom_wakes() {
    let fake = Fake::default();
    let (mut checker, mut receive) = checker(&fake, 1000);
    checker.set_targets((1..=30).map(|n| target(&format!("10.1.0.{n}:80"))).collect());
    for _ in 0..30 {
        next(&mut receive).await;
    }
    fake.0.attempts.lock().expect("lock").clear();
    sleep(Duration::from_secs(20)).await;
    let attempts = fake.0.attempts.lock().expect("lock");
    let instants: std::collections::BTreeSet<Instant> = attempts.iter().map(|(_, when)| *when).collect();
    assert!((500..=750).contains(&attempts.len()), "{} attempts in 20 s", attempts.len());
    // Four beats of 256 ms in a second; each by itself they were some 600.
    assert!(
        (50..=95).contains(&instants.len()),
        "{} instants for {} attempts",
        instants.len(),
        attempts.len()
    );
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
    let mut checker = Checker::new(fake.clone(), CheckerOptions::default(), send);
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

#[tokio::test(start_paused = true)]
async fn two_services_that_ask_the_same_share_one_probe_and_count_by_their_own_streaks() {
    let fake = Fake::default();
    let (mut checker, mut receive) = checker(&fake, 8);
    let mut patient = Target { service: "api".into(), ..target(A) };
    patient.spec.fall = 5;
    patient.spec.interval = Duration::from_secs(10);
    checker.set_targets(vec![target(A), patient.clone()]);
    next(&mut receive).await;
    next(&mut receive).await;
    assert_eq!(fake.attempts(A).len(), 1, "one probe told both");
    fake.fail(A, "down");
    let fell = [next(&mut receive).await, next(&mut receive).await].map(|told| told.service);
    assert_eq!(fell, ["web", "api"]);
    assert_eq!(fake.attempts(A).len(), 6, "the shorter interval is everybody's");

    // With the one that was in a hurry gone, the other goes on alone, at its own pace.
    checker.set_targets(vec![patient.clone()]);
    let before = fake.attempts(A).len();
    silent_for(&mut receive, Duration::from_secs(60)).await;
    let after = fake.attempts(A).len() - before;
    assert!((4..=9).contains(&after), "{after} probes in a minute");

    // One that is in a hurry again does not wait for the other's next probe.
    checker.set_targets(vec![target(A), patient]);
    let before = (fake.attempts(A).len(), Instant::now());
    while fake.attempts(A).len() == before.0 {
        sleep(Duration::from_millis(50)).await;
    }
    assert!(before.1.elapsed() <= Duration::from_millis(1100), "{:?}", before.1.elapsed());
}

#[tokio::test(start_paused = true)]
async fn programs_are_told_the_service_and_so_are_asked_for_each() {
    let fake = Fake::default();
    let (mut checker, mut receive) = checker(&fake, 8);
    let mut own = target(A);
    own.spec.probe = Probe::Exec { argv: vec!["/bin/true".into()] };
    checker.set_targets(vec![own.clone(), Target { service: "api".into(), ..own }]);
    next(&mut receive).await;
    next(&mut receive).await;
    assert_eq!(fake.attempts(A).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_fast_interval_counts_until_the_backend_is_steadily_healthy() {
    let fake = Fake::default();
    let (mut checker, mut receive) = checker(&fake, 8);
    let mut quick = target(A);
    quick.spec.interval = Duration::from_secs(10);
    quick.spec.fast_interval = Some(Duration::from_millis(500));
    checker.set_targets(vec![quick]);
    next(&mut receive).await;
    fake.fail(A, "down");
    let start = Instant::now();
    assert_eq!(next(&mut receive).await.health, Health::Unhealthy);
    let times = fake.attempts(A);
    let (first_failure, third_failure) = (times[times.len() - 3], times[times.len() - 1]);
    assert!(
        third_failure - first_failure <= Duration::from_millis(1300),
        "{:?}",
        third_failure - first_failure
    );
    assert!(start.elapsed() <= Duration::from_secs(14));
    fake.heal(A);
    let start = Instant::now();
    assert_eq!(next(&mut receive).await.health, Health::Healthy);
    assert!(start.elapsed() <= Duration::from_secs(2), "an unhealthy one is asked at the fast interval");
    let before = fake.attempts(A).len();
    silent_for(&mut receive, Duration::from_secs(30)).await;
    assert!(fake.attempts(A).len() - before <= 4, "then at the slow one");
}

#[tokio::test(start_paused = true)]
async fn news_are_asked_for_at_once_but_not_without_end() {
    let fake = Fake::default();
    let (mut checker, mut receive) = checker(&fake, 8);
    let mut slow = target(A);
    slow.spec.interval = Duration::from_secs(60);
    slow.spec.fall = 1;
    checker.set_targets(vec![slow]);
    next(&mut receive).await;
    sleep(Duration::from_secs(10)).await;
    fake.fail(A, "NOT_SERVING, expected SERVING");
    let start = Instant::now();
    fake.0.news.notify_one();
    assert_eq!(next(&mut receive).await.health, Health::Unhealthy);
    assert!(start.elapsed() <= Duration::from_millis(10), "{:?}", start.elapsed());
    // A peer that has news all the time is asked once in a tenth of the interval.
    let before = fake.attempts(A).len();
    for _ in 0..600 {
        fake.0.news.notify_one();
        sleep(Duration::from_millis(100)).await;
    }
    let asked = fake.attempts(A).len() - before;
    assert!((5..=12).contains(&asked), "{asked} times in a minute");
}

#[tokio::test(start_paused = true)]
async fn a_dependency_that_changes_is_told_though_the_health_stays() {
    let fake = Fake::default();
    let (mut checker, mut receive) = checker(&fake, 8);
    let tell = |well: bool| {
        fake.0.depends.lock().expect("lock").insert(addr(A), well);
    };
    tell(true);
    checker.set_targets(vec![target(A)]);
    assert_eq!(next(&mut receive).await.depends[0].well, Some(true));
    silent_for(&mut receive, Duration::from_secs(5)).await;
    tell(false);
    let told = next(&mut receive).await;
    assert_eq!((told.health, told.depends[0].well), (Health::Healthy, Some(false)));
    silent_for(&mut receive, Duration::from_secs(5)).await;
}
