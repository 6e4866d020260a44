//! Chance as an argument: a small generator with a seed.

use std::time::Duration;

/// SplitMix64: good enough to spread probes, and the same sequence for the same seed.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// At least 0, less than 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `interval`, longer or shorter by up to `jitter` of it.
    pub(crate) fn vary(&mut self, interval: Duration, jitter: f64) -> Duration {
        interval.mul_f64(1.0 + bounded(jitter) * (2.0 * self.fraction() - 1.0))
    }
}

/// The shortest and the longest that [`Dice::vary`] makes of an interval.
pub(crate) fn bounds(interval: Duration, jitter: f64) -> (Duration, Duration) {
    let jitter = bounded(jitter);
    (interval.mul_f64(1.0 - jitter), interval.mul_f64(1.0 + jitter))
}

/// A jitter outside 0 to 1 is taken as the nearer end.
fn bounded(jitter: f64) -> f64 {
    if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_sequence() {
        let (mut a, mut b, mut c) = (Dice::new(7), Dice::new(7), Dice::new(8));
        let a: Vec<u64> = (0..8).map(|_| a.next()).collect();
        assert_eq!(a, (0..8).map(|_| b.next()).collect::<Vec<_>>());
        assert_ne!(a, (0..8).map(|_| c.next()).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn an_interval_stays_within_its_jitter(seed: u64, ms in 1u64..100_000, jitter in 0.0f64..=1.0) {
            let interval = Duration::from_millis(ms);
            let varied = Dice::new(seed).vary(interval, jitter);
            prop_assert!(varied >= interval.mul_f64((1.0 - jitter - 1e-9).max(0.0)));
            prop_assert!(varied <= interval.mul_f64(1.0 + jitter + 1e-9));
        }

        #[test]
        fn a_senseless_jitter_never_panics(seed: u64, jitter: f64) {
            let varied = Dice::new(seed).vary(Duration::from_secs(1), jitter);
            prop_assert!(varied <= Duration::from_secs(2));
        }
    }
}
