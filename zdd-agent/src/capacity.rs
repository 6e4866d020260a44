//! Whether a version's healthy backends can bear the share of new flows that it is to have. Pure; asked before every weight that
//! rises, on the way forth and on the way back.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::desired::{BasisPoints, FULL};
use crate::text::percent;

/// What a version must be able to bear before it gets more new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// The share of its backends that must be healthy and not drain.
    pub min_healthy: BasisPoints,
    /// New flows per second that one backend bears; `None`: not asked.
    pub new_flows: Option<u32>,
}

/// Why a version cannot bear its share; `None`: it can. `load`: new flows per second of those that go by the weights, `None`: not known
/// yet; `besides`: of cohorts that come to it whatever its weight.
pub fn too_much(
    capacity: &Capacity,
    (usable, all): (usize, usize),
    weight: BasisPoints,
    load: Option<f64>,
    besides: f64,
) -> Option<String> {
    let least = (all as u64 * u64::from(capacity.min_healthy)).div_ceil(u64::from(FULL));
    if (usable as u64) < least {
        return Some(format!(
            "{usable} of its {all} backends can take flows, and capacity.min_healthy ({}) asks for {least}",
            percent(capacity.min_healthy)
        ));
    }
    let (bears, load) = (f64::from(capacity.new_flows?) * usable as f64, load?);
    let comes = load * f64::from(weight) / f64::from(FULL) + besides;
    let cohorts = if besides > 0.0 { format!(" ({besides:.0} of cohorts)") } else { String::new() };
    (comes > bears).then(|| {
        format!(
            "{} would be {comes:.0} new flows per second{cohorts}, and its {usable} usable backends bear {bears:.0} (capacity.new_flows)",
            percent(weight)
        )
    })
}

/// The load of a service: the most new flows per second, over any ten seconds of the last minute, so that a lull of a moment
/// does not let a peak through.
#[derive(Debug, Default)]
pub struct Load {
    /// When, and how many there had been by then.
    seen: VecDeque<(Instant, u64)>,
}

const KEEP: Duration = Duration::from_secs(60);
const OVER: Duration = Duration::from_secs(10);
/// Two looks are no nearer to each other, so what is kept is bounded.
const APART: Duration = Duration::from_millis(500);

impl Load {
    /// Takes a look: how many new flows there have been since the counters began.
    pub fn look(&mut self, now: Instant, flows: u64) {
        if self.seen.back().is_some_and(|(last, before)| now < *last + APART || flows < *before) {
            // Counters that went back began anew.
            self.seen.retain(|(_, before)| *before <= flows);
            return;
        }
        self.seen.push_back((now, flows));
        while self.seen.front().is_some_and(|(first, _)| *first + KEEP < now) {
            self.seen.pop_front();
        }
    }

    /// New flows per second; `None` before two looks.
    pub fn per_second(&self) -> Option<f64> {
        let mut most: Option<f64> = None;
        let mut from = 0;
        for (at, flows) in &self.seen {
            while self.seen[from].0 + OVER < *at {
                from += 1;
            }
            let (began, before) = self.seen[from];
            let took = at.duration_since(began).as_secs_f64();
            if took > 0.0 {
                let rate = (flows - before) as f64 / took;
                most = Some(most.map_or(rate, |most| most.max(rate)));
            }
        }
        most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_healthy_backends_is_rounded_against_the_change() {
        let half = Capacity { min_healthy: 5_000, new_flows: None };
        assert_eq!(too_much(&half, (2, 4), FULL, None, 0.0), None);
        assert_eq!(too_much(&half, (2, 3), FULL, None, 0.0), None);
        let why = too_much(&half, (1, 3), FULL, None, 0.0).unwrap();
        assert!(why.contains("1 of its 3 backends") && why.contains("asks for 2"), "{why}");
    }

    #[test]
    fn what_comes_is_compared_with_what_the_usable_backends_bear() {
        let capacity = Capacity { min_healthy: 0, new_flows: Some(100) };
        assert_eq!(too_much(&capacity, (2, 4), 2_500, Some(800.0), 0.0), None);
        let why = too_much(&capacity, (2, 4), 7_000, Some(800.0), 0.0).unwrap();
        assert!(why.contains("70% would be 560") && why.contains("bear 200"), "{why}");
        assert_eq!(too_much(&capacity, (2, 4), FULL, None, 0.0), None, "what is not known refuses nothing");
    }

    #[test]
    fn what_cohorts_bring_comes_besides_the_weight() {
        let capacity = Capacity { min_healthy: 0, new_flows: Some(100) };
        let comes = |weight, besides| too_much(&capacity, (2, 2), weight, Some(800.0), besides);
        assert_eq!((comes(2_000, 0.0), comes(2_000, 40.0)), (None, None));
        let why = comes(2_000, 50.0).unwrap();
        assert!(why.contains("20% would be 210 new flows per second (50 of cohorts), and its 2"), "{why}");
        assert!(comes(1, 201.0).is_some());
    }

    #[test]
    fn a_lull_does_not_hide_the_peak_of_the_last_minute() {
        let (start, mut load) = (Instant::now(), Load::default());
        assert_eq!(load.per_second(), None);
        let (mut flows, at) = (0, |second: u64| start + Duration::from_secs(second));
        for second in 0..=20 {
            flows += 500;
            load.look(at(second), flows);
        }
        for second in 21..=60 {
            load.look(at(second), flows);
        }
        assert_eq!(load.per_second(), Some(500.0));
        for second in 61..=90 {
            load.look(at(second), flows);
        }
        assert_eq!(load.per_second(), Some(0.0), "a minute later it is forgotten");
        load.look(at(91), 3);
        load.look(at(92), 10);
        load.look(at(93), 17);
        assert_eq!(load.per_second(), Some(7.0), "counters that began anew");
    }
}
