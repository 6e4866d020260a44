//! How long everything takes, and the timeouts that are scaled down for it.

use std::time::Duration;

use super::Options;

/// Durations and repetitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How long new connections are observed after each step.
    pub window: Duration,
    /// How long the traffic is left without an agent.
    pub gap: Duration,
    /// Pairs of shift and rollback whose speed is measured.
    pub pairs: usize,
    /// The services' `idle_timeout`, in seconds.
    pub idle_timeout_s: u64,
    /// The services' `udp_idle_timeout`, in seconds.
    pub udp_idle_timeout_s: u64,
    /// The agent's `syn_memory`, in seconds.
    pub syn_memory_s: u64,
    /// How long a drain may take.
    pub drain_deadline: Duration,
    /// How long the agent may take to start and to end, and a change or a health check to be seen.
    pub patience: Duration,
}

impl Pace {
    /// The usual pace, or the one of `--quick`.
    pub fn new(options: &Options) -> Self {
        let quick = options.quick;
        Self {
            window: Duration::from_millis(if quick { 1500 } else { 4000 }),
            gap: Duration::from_millis(if quick { 1000 } else { 2000 }),
            pairs: if quick { 5 } else { 20 },
            idle_timeout_s: 6,
            udp_idle_timeout_s: 3,
            syn_memory_s: 3,
            drain_deadline: Duration::from_secs(300),
            patience: Duration::from_secs(90),
        }
    }
}

/// How many of `total` are opened at first; the rest follows in `parts` equal parts, so that some begin on every split.
pub fn opening(total: usize, parts: usize) -> (usize, usize) {
    let part = total / 10;
    (total - part * parts, part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_sum_to_the_whole() {
        for total in [0, 1, 9, 50, 500, 503] {
            let (first, part) = opening(total, 4);
            assert_eq!(first + 4 * part, total);
        }
        assert_eq!(opening(500, 4), (300, 50));
    }
}
