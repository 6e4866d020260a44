//! A test that may be looked at after every interval: is the candidate's rate more than tolerated above the stable version's?
//!
//! Null hypothesis, for every interval k: p_c,k <= margin + ratio * p_s,k, whatever the rates are and however they drift. For one
//! interval with n_c and n_s trials, x_c and x_s of them bad, take a point (m_s, m_c = margin + ratio * m_s) on its border, a
//! stake a_c > 0, and a_s = -ratio * a_c * n_c / n_s. Then
//!
//! ```text
//! E = (1 + a_c (1 - m_c))^x_c (1 - a_c m_c)^(n_c - x_c) (1 + a_s (1 - m_s))^x_s (1 - a_s m_s)^(n_s - x_s)
//! ```
//!
//! has, under the null, an expectation of (1 + a_c (p_c - m_c))^n_c (1 + a_s (p_s - m_s))^n_s <= exp(n_c a_c [(p_c - m_c) - ratio
//! (p_s - m_s)]) = exp(n_c a_c [p_c - ratio p_s - margin]) <= 1: it is an e-variable, after the two-sample ones of Turner, Ly and
//! Grünwald ("Generic E-variables for exact sequential k-sample tests that allow for optional stopping", 2024), with a tolerated
//! difference. Their product over intervals is a supermartingale, and by Ville's inequality it ever reaches 1/alpha with a
//! probability of alpha at the most, however often it is looked at and whenever one stops: always-valid inference as in Johari,
//! Koomen, Pekelis and Walsh ("Always Valid Inference", 2022) and Howard, Ramdas, McAuliffe and Sekhon ("Time-uniform,
//! nonparametric, nonasymptotic confidence sequences", Annals of Statistics 2021). Because the bets are settled interval by interval,
//! a rate that rises for both versions while the weights move (Simpson's paradox) is nobody's fault.
//!
//! Which point and stake are right is not known, nor when a fault begins; so the wealth is spread over a grid of both and over
//! beginnings (the interval n gets 1/(n (n + 1)) of it). A mean of such supermartingales is one.

use serde::{Deserialize, Serialize};

use super::metric::Trials;

/// What difference is tolerated: up to `absolute + ratio * stable's rate`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Margin {
    /// In shares of one, at least 0.
    pub absolute: f64,
    /// At least 1.
    pub ratio: f64,
}

/// Rates of the stable version that are bet on.
const STABLE: [f64; 4] = [0.001, 0.01, 0.1, 0.4];
/// How far the candidate's is above what is tolerated, in shares of the way to 1.
const WORSE: [f64; 4] = [0.02, 0.06, 0.2, 0.6];
/// Nothing is ever staked whole: a stake that is lost whole cannot come back.
const MOST: f64 = 0.95;

/// The evidence so far against a candidate, in one respect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Intervals so far.
    looks: u32,
    /// Natural logarithm of the wealth at each point of the grid; empty before the first interval.
    wealth: Vec<f64>,
}

impl Evidence {
    /// Takes an interval in. One without trials on either side says nothing.
    pub fn look(&mut self, stable: Trials, candidate: Trials, margin: Margin) {
        if stable.of == 0 || candidate.of == 0 {
            return;
        }
        self.looks = self.looks.saturating_add(1);
        self.wealth.resize(STABLE.len() * WORSE.len(), f64::NEG_INFINITY);
        let n = f64::from(self.looks);
        let fresh = -(n * (n + 1.0)).ln();
        let points = STABLE.iter().flat_map(|stable| WORSE.iter().map(move |worse| (*stable, *worse)));
        for (wealth, point) in self.wealth.iter_mut().zip(points) {
            *wealth = add(*wealth, fresh) + bet(stable, candidate, margin, point);
        }
    }

    /// Natural logarithm of the wealth: of how many times more likely than by chance, in a way that holds at every look.
    pub fn ln(&self) -> f64 {
        let kept = if self.looks == 0 { 1.0 } else { 1.0 / (f64::from(self.looks) + 1.0) };
        let all = self.wealth.iter().fold(f64::NEG_INFINITY, |sum, one| add(sum, *one));
        add(all - ((STABLE.len() * WORSE.len()) as f64).ln(), kept.ln())
    }
}

/// ln(e^a + e^b).
fn add(a: f64, b: f64) -> f64 {
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

/// ln E of one interval at one point.
fn bet(stable: Trials, candidate: Trials, margin: Margin, (m_s, worse): (f64, f64)) -> f64 {
    let m_c = margin.absolute + margin.ratio * m_s;
    if m_c >= 1.0 {
        return 0.0;
    }
    let (n_s, n_c) = (stable.of as f64, candidate.of as f64);
    // The best stake if the candidate's rate were m_c + worse (1 - m_c), as far as stable's side can cover it.
    let best = worse / m_c;
    let covered = MOST * n_s / (margin.ratio * n_c * (1.0 - m_s));
    let a_c = best.min(covered).min(MOST / m_c);
    let a_s = -margin.ratio * a_c * n_c / n_s;
    let side = |a: f64, m: f64, trials: Trials| {
        let (bad, good) = (trials.bad as f64, (trials.of - trials.bad) as f64);
        bad * (a * (1.0 - m)).ln_1p() + good * (-a * m).ln_1p()
    };
    side(a_c, m_c, candidate) + side(a_s, m_s, stable)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARGIN: Margin = Margin { absolute: 0.005, ratio: 1.5 };

    fn trials(bad: u64, of: u64) -> Trials {
        Trials { of, bad }
    }

    /// P(exactly k of n), from logarithms of factorials.
    fn chance(k: u64, n: u64, p: f64) -> f64 {
        let ln_factorial = |n: u64| (1..=n).map(|i| (i as f64).ln()).sum::<f64>();
        let ln = ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k);
        (ln + k as f64 * p.ln() + (n - k) as f64 * (1.0 - p).ln()).exp()
    }

    /// The theorem, by adding up every case of small intervals: at the border of the null the expectation is at most 1.
    #[test]
    fn no_bet_is_expected_to_win_while_the_difference_is_tolerated() {
        for (n_s, n_c) in [(1, 1), (3, 12), (12, 3), (20, 20), (40, 2)] {
            for p_s in [0.0001, 0.01, 0.05, 0.2, 0.5] {
                for m_s in STABLE {
                    for worse in WORSE {
                        let p_c = MARGIN.absolute + MARGIN.ratio * p_s;
                        let mut expected = 0.0;
                        for x_s in 0..=n_s {
                            for x_c in 0..=n_c {
                                let ln = bet(trials(x_s, n_s), trials(x_c, n_c), MARGIN, (m_s, worse));
                                expected += chance(x_s, n_s, p_s) * chance(x_c, n_c, p_c) * ln.exp();
                            }
                        }
                        assert!(expected <= 1.0 + 1e-9, "{n_s} {n_c} {p_s} {m_s} {worse}: {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_far_worse_is_found_and_what_is_alike_is_not() {
        let mut alike = Evidence::default();
        let mut worse = Evidence::default();
        for _ in 0..3 {
            alike.look(trials(2, 900), trials(0, 100), MARGIN);
            worse.look(trials(2, 900), trials(10, 100), MARGIN);
        }
        assert!(alike.ln() < 0.0, "{}", alike.ln());
        assert!(worse.ln() > 20.0, "{}", worse.ln());
    }

    #[test]
    fn a_fault_that_begins_after_a_hundred_good_intervals_is_found_in_three() {
        let mut evidence = Evidence::default();
        for _ in 0..100 {
            evidence.look(trials(2, 900), trials(1, 500), MARGIN);
        }
        assert!(evidence.ln() < 0.0);
        for _ in 0..3 {
            evidence.look(trials(2, 900), trials(25, 500), MARGIN);
        }
        assert!(evidence.ln() > (7.0f64 / 1e-4).ln(), "{}", evidence.ln());
    }

    #[test]
    fn a_fault_of_both_versions_is_nobody_s_even_while_the_weights_move() {
        let mut evidence = Evidence::default();
        for _ in 0..10 {
            evidence.look(trials(1, 9_500), trials(0, 500), MARGIN);
        }
        for _ in 0..10 {
            evidence.look(trials(250, 5_000), trials(250, 5_000), MARGIN);
        }
        assert!(evidence.ln() < 2.0, "{}", evidence.ln());
    }

    #[test]
    fn nothing_to_look_at_changes_nothing() {
        let mut evidence = Evidence::default();
        evidence.look(trials(0, 0), trials(5, 5), MARGIN);
        evidence.look(trials(5, 5), trials(0, 0), MARGIN);
        assert_eq!((evidence.clone(), evidence.ln()), (Evidence::default(), 0.0));
    }
}
