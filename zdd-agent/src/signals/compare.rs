//! A candidate held against the stable version, at every interval of a rollout.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zdd_common::signals::Event;

use super::metric::{Metric, Trials};
use super::reading::{Reading, quantile_bucket};
use super::sequential::{Evidence, Margin};
use crate::rollout::runs::Outcome;

/// How two versions are compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompareSpec {
    /// By what; at least one.
    pub metrics: Vec<Metric>,
    /// What is tolerated.
    pub margin: Margin,
    /// Chance of a false alarm in one whole rollout, all metrics together.
    pub alpha: f64,
}

/// Defaults: an alarm in 10,000 rollouts, half as many failures again and half a percent of all.
pub const ALPHA: f64 = 0.0001;
/// See [`ALPHA`].
pub const MARGIN: Margin = Margin { absolute: 0.005, ratio: 1.5 };

/// Times are compared by how many are longer than these quantiles of the stable version's; and beside each, how many more are tolerated
/// than of failures: in the bulk of the times a small difference of speed moves many across a bound.
const QUANTILES: [(f64, f64); 3] = [(0.5, 0.05), (0.9, 0.05), (0.99, 0.0)];
/// And longer by this many buckets of a quarter each, so by about a half: that one backend is a little slower than another is
/// nobody's fault. With one bucket, and no more tolerated than of failures, 8 of 10,000 simulated rollouts of a version against
/// itself were stopped.
const SLACK: usize = 2;

/// How a comparison stands. Persisted with the rollout: a restart neither forgets evidence nor begins a second test.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Stable's and the candidate's totals when the interval began; `None` before the first weight.
    since: Option<(Reading, Reading)>,
    /// By metric: one for a rate, one for each quantile of a time.
    evidence: BTreeMap<Metric, Vec<Evidence>>,
    /// The stable version's times before the interval: what is longer than its quantiles is chosen before the interval is seen.
    reference: Reading,
}

impl Comparison {
    /// An interval begins, under a weight that is new: what came before it belongs to another. Flows of the stable version before
    /// the first one tell what its times are.
    pub fn begin(&mut self, stable: Reading, candidate: Reading) {
        if self.since.is_none() {
            self.reference = stable.clone();
        }
        self.since = Some((stable, candidate));
    }

    /// An interval ends, and the next begins. `min_samples`: new flows of the candidate that are needed for a success.
    pub fn look(
        &mut self,
        spec: &CompareSpec,
        stable: Reading,
        candidate: Reading,
        min_samples: u32,
    ) -> Outcome {
        let Some((s_before, c_before)) = &self.since else {
            self.begin(stable, candidate);
            return Outcome::Inconclusive("nothing was counted yet".to_owned());
        };
        let (s, c) = (stable.since(s_before), candidate.since(c_before));
        let (s_new, c_new) = (s.of(Event::New), c.of(Event::New));
        if s_new == 0 || c_new == 0 {
            let who = if c_new == 0 { "candidate" } else { "stable version" };
            return Outcome::Inconclusive(format!("no flow of the {who} was sampled since the last look"));
        }
        let alarm = (spec.metrics.len() as f64 / spec.alpha).ln();
        let mut worst: Option<(f64, String)> = None;
        for metric in &spec.metrics {
            let (ln, told) = self.one(*metric, spec.margin, &s, &c);
            if worst.as_ref().is_none_or(|(most, _)| ln > *most) {
                worst = Some((ln, told));
            }
        }
        self.reference.add(&s);
        self.since = Some((stable, candidate));
        let Some((ln, told)) = worst else {
            return Outcome::Inconclusive("there is nothing to compare by".to_owned());
        };
        let told = format!("{told}; evidence {}, alarm at {}", power(ln), power(alarm));
        if ln >= alarm {
            Outcome::Failure(format!("worse than the stable version: {told}"))
        } else {
            Outcome::Success(told).of_samples(c_new, min_samples)
        }
    }

    fn one(&mut self, metric: Metric, margin: Margin, s: &Reading, c: &Reading) -> (f64, String) {
        let evidence = self.evidence.entry(metric).or_default();
        if let (Some(stable), Some(candidate)) = (metric.trials(s), metric.trials(c)) {
            evidence.resize(1, Evidence::default());
            evidence[0].look(stable, candidate, margin);
            return (evidence[0].ln(), told(metric.name().to_owned(), stable, candidate));
        }
        let none = (0.0, format!("{}: no times", metric.name()));
        let (Some(stable), Some(candidate)) = (metric.histogram(s), metric.histogram(c)) else { return none };
        let Some(reference) = metric.histogram(&self.reference) else { return none };
        evidence.resize(QUANTILES.len(), Evidence::default());
        let known: u64 = reference.iter().sum();
        let mut most: Option<(f64, String)> = None;
        for (evidence, (quantile, more)) in evidence.iter_mut().zip(QUANTILES) {
            // Fewer times do not tell where the quantile is.
            if known as f64 * (1.0 - quantile) < 1.0 {
                continue;
            }
            let Some(bucket) = quantile_bucket(reference, quantile) else { continue };
            let longer = |histogram: &[u64]| Trials {
                of: histogram.iter().sum(),
                bad: histogram.iter().skip(bucket + 1 + SLACK).sum(),
            };
            let (stable, candidate) = (longer(stable), longer(candidate));
            evidence.look(stable, candidate, Margin { absolute: margin.absolute + more, ..margin });
            if most.as_ref().is_none_or(|(ln, _)| evidence.ln() > *ln) {
                let than = zdd_common::signals::counters::bound(bucket + SLACK);
                let what = format!("{} above {:.1} ms", metric.name(), than as f64 / 1e6);
                most = Some((evidence.ln(), told(what, stable, candidate)));
            }
        }
        // The mean of the three: at least the most of them, divided by their number.
        most.map_or(none, |(ln, told)| (ln - (QUANTILES.len() as f64).ln(), told))
    }
}

fn told(what: String, stable: Trials, candidate: Trials) -> String {
    let share = |trials: Trials| match trials.rate() {
        Some(rate) => format!("{:.2}% of {}", rate * 100.0, trials.of),
        None => "none".to_owned(),
    };
    format!("{what}: candidate {}, stable {}", share(candidate), share(stable))
}

/// e^ln in powers of ten.
fn power(ln: f64) -> String {
    format!("10^{:.1}", ln / std::f64::consts::LN_10)
}

#[cfg(test)]
mod tests {
    use zdd_common::signals::{BUCKETS, EVENTS, counters};

    use super::*;

    fn spec(metrics: &[Metric]) -> CompareSpec {
        CompareSpec { metrics: metrics.to_vec(), margin: MARGIN, alpha: ALPHA }
    }

    /// Flows, resets, and times of all of them in milliseconds.
    fn reading(flows: u64, resets: u64, ms: u64) -> Reading {
        let mut events = vec![0; EVENTS.len()];
        events[Event::New as usize] = flows;
        events[Event::Established as usize] = flows;
        events[Event::BackendResetEarly as usize] = resets;
        let mut first_byte = vec![0; BUCKETS];
        first_byte[counters::bucket(ms * 1_000_000)] = flows;
        Reading { events, handshake: vec![0; BUCKETS], first_byte }
    }

    fn plus(mut to: Reading, more: Reading) -> Reading {
        to.add(&more);
        to
    }

    #[test]
    fn nobody_is_good_or_bad_without_flows_of_both() {
        let mut comparison = Comparison::default();
        let spec = spec(&[Metric::ResetRate]);
        let look =
            |comparison: &mut Comparison, s: Reading, c: Reading| comparison.look(&spec, s, c, 50).told();
        assert_eq!(
            look(&mut comparison, reading(9, 0, 1), reading(9, 0, 1)),
            "inconclusive: nothing was counted yet"
        );
        let told = look(&mut comparison, reading(99, 0, 1), reading(9, 0, 1));
        assert_eq!(told, "inconclusive: no flow of the candidate was sampled since the last look");
        // What was not looked at is looked at with what follows.
        let told = look(&mut comparison, reading(109, 0, 1), reading(29, 0, 1));
        assert!(
            told.starts_with("inconclusive: reset-rate: candidate 0.00% of 20, stable 0.00% of 100"),
            "{told}"
        );
        assert!(told.ends_with("but of 20 new flows, 50 are needed"), "{told}");
        let told = look(&mut comparison, reading(209, 0, 1), reading(129, 0, 1));
        assert!(told.starts_with("success: reset-rate: candidate 0.00% of 100, stable"), "{told}");
        let told = look(&mut comparison, reading(209, 0, 1), reading(229, 0, 1));
        assert_eq!(told, "inconclusive: no flow of the stable version was sampled since the last look");
    }

    #[test]
    fn resets_are_an_alarm_and_a_restart_in_between_changes_nothing() {
        let spec = spec(&Metric::ALL);
        let whole = |save: bool| {
            let mut comparison = Comparison::default();
            comparison.begin(Reading::default(), Reading::default());
            let mut told = Vec::new();
            for round in 1..=4 {
                let outcome =
                    comparison.look(&spec, reading(round * 900, 0, 1), reading(round * 100, round * 6, 1), 0);
                told.push(outcome.told());
                if save {
                    let text = serde_json::to_string(&comparison).unwrap();
                    comparison = serde_json::from_str(&text).unwrap();
                }
            }
            told
        };
        let told = whole(false);
        assert!(
            told[0].starts_with("success: reset-rate: candidate 6.00% of 100, stable 0.00% of 900"),
            "{told:?}"
        );
        assert!(told[3].starts_with("failure: worse than the stable version: reset-rate"), "{told:?}");
        assert_eq!(whole(true), told);
    }

    #[test]
    fn later_answers_are_an_alarm_once_it_is_known_what_is_usual() {
        let spec = spec(&[Metric::FirstByteTime]);
        let mut comparison = Comparison::default();
        comparison.begin(Reading::default(), Reading::default());
        let told = comparison.look(&spec, reading(900, 0, 4), reading(100, 0, 54), 0).told();
        assert!(told.starts_with("success: first-byte-time: no times"), "{told}");
        let (s, c) = (reading(1800, 0, 4), reading(200, 0, 54));
        let told = comparison.look(&spec, s, c, 0).told();
        assert!(
            told.contains("failure: worse than the stable version: first-byte-time above 6.3 ms"),
            "{told}"
        );
        // With flows from before the rollout it is known at once.
        let mut comparison = Comparison::default();
        comparison.begin(reading(1000, 0, 4), Reading::default());
        let told = comparison.look(&spec, reading(1900, 0, 4), reading(100, 0, 54), 0).told();
        assert!(told.starts_with("failure"), "{told}");
        // A quarter slower is nobody's fault.
        let mut comparison = Comparison::default();
        comparison.begin(reading(1000, 0, 40), Reading::default());
        let told = comparison.look(&spec, reading(1900, 0, 40), reading(1000, 0, 48), 0).told();
        assert!(told.starts_with("success"), "{told}");
    }

    #[test]
    fn what_came_under_another_weight_is_left_out() {
        let spec = spec(&[Metric::ResetRate]);
        let mut comparison = Comparison::default();
        comparison.begin(Reading::default(), Reading::default());
        // A fault of both while the candidate had much of it, forgotten at the new weight.
        let (s, c) = (reading(10, 5, 1), reading(1000, 500, 1));
        comparison.begin(s.clone(), c.clone());
        let told = comparison.look(&spec, plus(s, reading(500, 0, 1)), plus(c, reading(500, 0, 1)), 0).told();
        assert!(
            told.starts_with("success: reset-rate: candidate 0.00% of 500, stable 0.00% of 500"),
            "{told}"
        );
    }
}
