//! False alarms and power of the comparison, measured on simulated rollouts. The seed is fixed: a figure that changes was changed
//! by somebody.
//!
//! The model. A rollout looks 15 times, 3 times each at 1, 5, 10, 25 and 50 % for the candidate; 100 to 20,000 sampled flows per
//! interval in all (log-uniform), with bursts (times e^N(0, 0.3)). The service has its own rates (log-uniform: failed handshakes and
//! unanswered ones 0.001-0.3 %, repeated SYNs 0.01-2 %, resets 0.001-2 %, closes without a byte 0.001-10 %). Each version has backends of
//! its own, the stable one 2-6, the candidate 1-2, and each of them its own faults (times e^N(0, 0.2)) and speed (times e^N(0,
//! 0.07)). In one interval of 20 something that both depend on is sick: five times the failures and four times the times, for both. Times
//! are lognormal (median 0.3-300 ms, sigma 0.6), 3 % of them with a Pareto tail (alpha 1.1, infinite variance). Failures are seen in the
//! same interval. What is not in it: clients whose flows fail together and always meet the same version.

use zdd_common::signals::{BUCKETS, EVENTS, Event, counters};

use super::compare::{ALPHA, CompareSpec, Comparison, MARGIN};
use super::metric::Metric;
use super::reading::Reading;
use crate::rollout::runs::Outcome;

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }
    /// In (0, 1).
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }
    fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }
    fn log_uniform(&mut self, from: f64, to: f64) -> f64 {
        from * (to / from).powf(self.unit())
    }
    /// Exact where a success is rare, else the normal limit.
    fn binomial(&mut self, n: u64, p: f64) -> u64 {
        if p > 0.5 {
            return n - self.binomial(n, 1.0 - p);
        }
        let mean = n as f64 * p;
        if mean <= 0.0 {
            0
        } else if mean > 30.0 {
            let drawn = mean + self.normal() * (mean * (1.0 - p)).sqrt();
            (drawn.round().max(0.0) as u64).min(n)
        } else {
            // From one success to the next (geometric distances).
            let (mut at, mut bad) = (0.0, 0);
            let scale = (-p).ln_1p();
            loop {
                at += (self.unit().ln() / scale).floor() + 1.0;
                if at > n as f64 {
                    return bad;
                }
                bad += 1;
            }
        }
    }
}

/// P(standard normal > z), after Abramowitz and Stegun 26.2.17.
fn tail(z: f64) -> f64 {
    if z < 0.0 {
        return 1.0 - tail(-z);
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let poly = t
        * (0.319_381_53
            + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt() * poly
}

/// P(a time is longer than `ms`): body and tail.
fn longer(ms: f64, median: f64) -> f64 {
    let z = (ms / median).max(1e-12).ln() / 0.6;
    let pareto = if ms <= median { 1.0 } else { (ms / median).powf(-1.1) };
    0.97 * tail(z) + 0.03 * pareto
}

/// How a version is.
#[derive(Clone, Copy, Default)]
struct Fault {
    resets: f64,
    later_ms: f64,
    unanswered: f64,
}

struct Version {
    reading: Reading,
    /// Of each backend: faults, and the chances of each bucket of both its histograms, well and sick.
    backends: Vec<(f64, [[Vec<f64>; 2]; 2])>,
    fault: Fault,
}

impl Version {
    fn new(chance: &mut Chance, service: &Rates, backends: u64, fault: Fault) -> Version {
        let backends = (0..backends).map(|_| {
            let (faults, speed) = ((0.2 * chance.normal()).exp(), (0.07 * chance.normal()).exp());
            let times = [1.0, 4.0].map(|slower| {
                let median = |ms: f64| ms * speed * slower;
                [shares(median(service.connect_ms), 0.0), shares(median(service.answer_ms), fault.later_ms)]
            });
            (faults, times)
        });
        let reading = Reading {
            events: vec![0; EVENTS.len()],
            handshake: vec![0; BUCKETS],
            first_byte: vec![0; BUCKETS],
        };
        Version { backends: backends.collect(), reading, fault }
    }

    fn live(&mut self, chance: &mut Chance, service: &Rates, flows: u64, sick: bool) {
        let Version { reading, backends, fault } = self;
        let each = flows / backends.len() as u64;
        let more = if sick { 5.0 } else { 1.0 };
        for (faults, chances) in backends {
            let rate = |p: f64, extra: f64| (p * *faults * more + extra).min(0.9);
            let mut put = |event: Event, n: u64| reading.events[event as usize] += n;
            put(Event::New, each);
            put(Event::HalfOpen, chance.binomial(each, rate(service.handshake, 0.0)));
            put(Event::SynRetransmitted, chance.binomial(each, rate(service.repeated, 0.0)));
            put(Event::Established, each);
            put(Event::BackendResetEarly, chance.binomial(each, rate(service.resets, fault.resets)));
            put(Event::BackendCloseEarly, chance.binomial(each, rate(service.closes, 0.0)));
            put(Event::Unanswered, chance.binomial(each, rate(service.unanswered, fault.unanswered)));
            let [connect, answer] = &chances[usize::from(sick)];
            times(chance, &mut reading.handshake, each, connect);
            times(chance, &mut reading.first_byte, each, answer);
        }
    }
}

/// Of each bucket: the chance that a time lies in it if it lies in none before.
fn shares(median: f64, later: f64) -> Vec<f64> {
    let mut before = 1.0;
    let of = |at: usize| {
        let ms = counters::bound(at) as f64 / 1e6;
        if ms <= later {
            return 0.0;
        }
        let beyond = if at + 1 == BUCKETS { 0.0 } else { longer(ms - later, median) };
        let here: f64 = 1.0 - beyond / before;
        before = beyond.max(1e-300);
        here.clamp(0.0, 1.0)
    };
    (0..BUCKETS).map(of).collect()
}

/// Draws times bucket by bucket, each from what is left.
fn times(chance: &mut Chance, to: &mut [u64], mut left: u64, shares: &[f64]) {
    for (bucket, here) in to.iter_mut().zip(shares) {
        if left == 0 {
            return;
        }
        let n = if *here > 1e-7 { chance.binomial(left, *here) } else { 0 };
        *bucket += n;
        left -= n;
    }
}

struct Rates {
    handshake: f64,
    repeated: f64,
    resets: f64,
    closes: f64,
    unanswered: f64,
    connect_ms: f64,
    answer_ms: f64,
}

const WEIGHTS: [f64; 5] = [0.01, 0.05, 0.10, 0.25, 0.50];
const LOOKS: usize = 3;

fn spec() -> CompareSpec {
    CompareSpec { metrics: Metric::ALL.to_vec(), margin: MARGIN, alpha: ALPHA }
}

/// The look at which a rollout is stopped, and why; `None`: it is promoted. `flows`: sampled per interval, both versions.
fn rollout(seed: u64, flows: Option<(f64, f64)>, fault: Fault) -> Option<(usize, String)> {
    let chance = &mut Chance(seed.wrapping_mul(0xD134_2543_DE82_EF95));
    let service = Rates {
        handshake: chance.log_uniform(1e-5, 3e-3),
        repeated: chance.log_uniform(1e-4, 2e-2),
        resets: chance.log_uniform(1e-5, 2e-2),
        closes: chance.log_uniform(1e-5, 0.1),
        unanswered: chance.log_uniform(1e-5, 3e-3),
        connect_ms: chance.log_uniform(0.1, 50.0),
        answer_ms: chance.log_uniform(0.3, 300.0),
    };
    let size = chance.log_uniform(100.0, 20_000.0);
    let (many, few) = (2 + chance.next() % 5, 1 + chance.next() % 2);
    let mut stable = Version::new(chance, &service, many, Fault::default());
    let mut candidate = Version::new(chance, &service, few, fault);
    let (mut comparison, spec) = (Comparison::default(), spec());
    let steps: Vec<(f64, f64)> = match flows {
        Some((stable, candidate)) => vec![(stable, candidate)],
        None => WEIGHTS.iter().map(|weight| (size * (1.0 - weight), size * weight)).collect(),
    };
    let mut looks = 0;
    for (s, c) in steps {
        comparison.begin(stable.reading.clone(), candidate.reading.clone());
        for _ in 0..LOOKS {
            let sick = chance.unit() < 0.05;
            let burst = if flows.is_some() { 1.0 } else { (0.3 * chance.normal()).exp() };
            stable.live(chance, &service, (s * burst) as u64, sick);
            candidate.live(chance, &service, (c * burst).round() as u64, sick);
            looks += 1;
            let outcome = comparison.look(&spec, stable.reading.clone(), candidate.reading.clone(), 0);
            if let Outcome::Failure(why) = outcome {
                return Some((looks, why));
            }
        }
    }
    None
}

/// Many rollouts, on all CPUs.
fn rollouts(n: u64, flows: Option<(f64, f64)>, fault: Fault) -> Vec<Option<(usize, String)>> {
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    std::thread::scope(|scope| {
        let part = |cpu: u64| {
            scope.spawn(move || {
                (cpu..n).step_by(cpus as usize).map(|seed| rollout(seed + 1, flows, fault)).collect()
            })
        };
        let parts: Vec<std::thread::ScopedJoinHandle<'_, Vec<_>>> = (0..cpus).map(part).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap_or_default()).collect()
    })
}

/// Upper bound of a proportion at 95 % after Clopper and Pearson: the p at which `k` or fewer of `n` have a chance of 5 %.
fn upper_bound(k: u64, n: u64) -> f64 {
    let at_most_k = |p: f64| -> f64 {
        let mut term = (n as f64 * (-p).ln_1p()).exp();
        let mut sum = term;
        for i in 0..k {
            term *= (n - i) as f64 / (i + 1) as f64 * p / (1.0 - p);
            sum += term;
        }
        sum
    };
    let (mut low, mut high) = (0.0, 0.5);
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        if at_most_k(middle) > 0.05 { low = middle } else { high = middle }
    }
    high
}

#[test]
fn of_ten_thousand_rollouts_of_a_version_against_itself_less_than_one_in_a_thousand_is_stopped() {
    let stopped: Vec<_> = rollouts(10_000, None, Fault::default()).into_iter().flatten().collect();
    let bound = upper_bound(stopped.len() as u64, 10_000);
    println!(
        "{} of 10000 A/A rollouts stopped: at most {:.4} % at 95 % confidence",
        stopped.len(),
        bound * 100.0
    );
    assert!(bound < 0.001, "{bound}: {stopped:?}");
}

#[test]
fn faults_are_found_within_three_looks_at_the_traffic_that_the_readme_names() {
    let resets = Fault { resets: 0.05, ..Fault::default() };
    let later = Fault { later_ms: 50.0, ..Fault::default() };
    let mute = Fault { unanswered: 0.9, ..Fault::default() };
    for (name, fault, candidate, least) in [
        ("5 % resets", resets, 400.0, 0.95),
        ("50 ms later", later, 100.0, 0.6),
        ("never answers", mute, 30.0, 0.99),
    ] {
        let looks = rollouts(400, Some((candidate * 9.0, candidate)), fault);
        let in_time = looks.iter().filter(|at| matches!(at, Some((1..=3, _)))).count() as f64 / 400.0;
        println!(
            "{name}: {:.1} % within 3 looks at {candidate} candidate flows per interval",
            in_time * 100.0
        );
        assert!(in_time >= least, "{name}: {in_time}");
    }
}

#[test]
fn the_bound_is_the_one_of_clopper_and_pearson() {
    assert!((upper_bound(0, 10_000) - 2.995e-4).abs() < 1e-6);
    assert!((upper_bound(4, 10_000) - 9.15e-4).abs() < 2e-6);
}
