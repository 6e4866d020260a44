//! Probes that are due at about the same time begin at the same instant: a process that wakes for each by itself pays for every
//! wake with cold caches and a timer of its own, which cost more than the probe.

use std::time::Duration;

use tokio::time::Instant;

/// Probes that shall begin together, about. More would hold up the loop that they run beside.
const TOGETHER: f64 = 8.0;
/// No two beats are further apart.
const LONGEST: Duration = Duration::from_millis(256);
/// Below this a beat saves nothing: timers are as coarse.
const SHORTEST: Duration = Duration::from_millis(2);

/// Instants at which probes begin, for all probes of a checker. A beat is a power of two of milliseconds, so that those of
/// different intervals coincide.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beats {
    origin: Instant,
}

impl Beats {
    pub(super) fn new() -> Beats {
        Beats { origin: Instant::now() }
    }

    /// The beat nearest to `at` that is not outside `from` to `to`; `at` itself where there is none. `probes`: how many there are
    /// that come once in `interval`.
    pub(super) fn nearest(
        self,
        at: Instant,
        (from, to): (Instant, Instant),
        interval: Duration,
        probes: usize,
    ) -> Instant {
        let room = to.saturating_duration_since(from);
        let beat = LONGEST.min(room).min(interval.mul_f64(TOGETHER / probes.max(1) as f64));
        if beat < SHORTEST {
            return at;
        }
        let beat = 1u64 << (beat.as_millis() as u64).ilog2();
        let since = at.saturating_duration_since(self.origin).as_millis() as u64;
        let down = since / beat * beat;
        let near = if since - down > beat / 2 { [down + beat, down] } else { [down, down + beat] };
        near.into_iter()
            .filter_map(|ms| self.origin.checked_add(Duration::from_millis(ms)))
            .find(|beat| (from..=to).contains(beat))
            .unwrap_or(at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn few_probes_share_long_beats_many_short_ones_and_those_without_room_none() {
        let beats = Beats::new();
        let ms = |ms: u64| beats.origin + Duration::from_millis(ms);
        let second = Duration::from_secs(1);
        let all = (ms(0), ms(10_000));
        // 8 of 30 in a second: 267 ms, and so 256.
        assert_eq!(beats.nearest(ms(1_000), all, second, 30), ms(1_024));
        assert_eq!(beats.nearest(ms(1_200), all, second, 1), ms(1_280));
        // 8 of 100: 80 ms, and so 64.
        assert_eq!(beats.nearest(ms(1_000), all, second, 100), ms(1_024));
        assert_eq!(beats.nearest(ms(1_001), all, second, 10_000), ms(1_001), "the timer is as coarse");
        // 50 ms of room: 32.
        assert_eq!(beats.nearest(ms(1_000), (ms(980), ms(1_030)), second, 30), ms(992), "within the jitter");
        assert_eq!(beats.nearest(ms(1_000), (ms(1_000), ms(1_000)), second, 30), ms(1_000), "no jitter");
        assert_eq!(
            beats.nearest(ms(1_020), (ms(767), ms(1_023)), second, 30),
            ms(768),
            "the other side has one"
        );
    }

    proptest! {
        #[test]
        fn a_probe_never_begins_outside_its_bounds(
            at in 0u64..100_000, before in 0u64..2_000, after in 0u64..2_000, interval in 0u64..100_000, probes: usize,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            let _guard = runtime.enter();
            let beats = Beats::new();
            let at = beats.origin + Duration::from_micros(at * 37);
            let from = at.checked_sub(Duration::from_millis(before)).unwrap_or(at);
            let to = at + Duration::from_millis(after);
            let begins = beats.nearest(at, (from, to), Duration::from_millis(interval), probes);
            prop_assert!((from..=to).contains(&begins));
        }
    }
}
