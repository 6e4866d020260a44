//! How many probes there may be: at the same time, and in a second. A probe that has to wait is late, and never a failure.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

/// What all probes of an agent may cost together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeBudget {
    /// Probes at the same time. Default 256.
    pub concurrent: u32,
    /// Probes that begin in one second; 0 (the default): as many as there are.
    pub per_second: u32,
}

impl Default for ProbeBudget {
    fn default() -> ProbeBudget {
        ProbeBudget { concurrent: 256, per_second: 0 }
    }
}

/// After this much of its interval a probe that waits for its turn counts as late.
const TOLERANCE: f64 = 0.1;
/// What was not used of the last tenth of a second may be used at once.
const BURST: Duration = Duration::from_millis(100);

/// The budget of one checker.
pub(super) struct Turnstile {
    slots: Semaphore,
    /// From the beginning of one probe to the next.
    gap: Duration,
    /// When the next probe may begin.
    next: Mutex<Instant>,
    late: AtomicU64,
    made: AtomicU64,
}

impl Turnstile {
    pub(super) fn new(budget: ProbeBudget) -> Turnstile {
        let gap = 1_000_000_000u64.checked_div(budget.per_second.into()).unwrap_or(0);
        Turnstile {
            slots: Semaphore::new(budget.concurrent.max(1) as usize),
            gap: Duration::from_nanos(gap),
            next: Mutex::new(Instant::now()),
            late: AtomicU64::new(0),
            made: AtomicU64::new(0),
        }
    }

    /// Returns when a probe that comes every `interval` may begin; it ends when the permit goes. `None`: the checker has ended.
    pub(super) async fn enter(&self, interval: Duration) -> Option<SemaphorePermit<'_>> {
        let due = Instant::now();
        if !self.gap.is_zero() {
            sleep_until(self.turn(due)).await;
        }
        let slot = self.slots.acquire().await.ok()?;
        self.made.fetch_add(1, Ordering::Relaxed);
        if due.elapsed() > interval.mul_f64(TOLERANCE) {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
        Some(slot)
    }

    fn turn(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = (*next).max(now.checked_sub(BURST).unwrap_or(now));
        *next = turn + self.gap;
        turn
    }

    /// Probes that were made, and those among them that had to wait.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.made.load(Ordering::Relaxed), self.late.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn probes_begin_at_the_pace_and_those_that_wait_are_counted_late() {
        let turnstile = Turnstile::new(ProbeBudget { concurrent: 1000, per_second: 100 });
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut slots = Vec::new();
        for _ in 0..100 {
            slots.push(turnstile.enter(second).await.expect("open"));
        }
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(880) && took <= second, "{took:?}");
        assert_eq!(turnstile.counts(), (100, 0), "each waited for its own 10 ms only");
        let all = (0..50).map(|_| turnstile.enter(second));
        let all = futures::future::join_all(all).await;
        assert!(all.len() == 50 && turnstile.counts().1 >= 30, "{:?}", turnstile.counts());
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_its_slots_are_under_way() {
        let turnstile = Turnstile::new(ProbeBudget { concurrent: 2, per_second: 0 });
        let second = Duration::from_secs(1);
        let (first, _second) = (turnstile.enter(second).await, turnstile.enter(second).await);
        assert!(tokio::time::timeout(second, turnstile.enter(second)).await.is_err());
        drop(first);
        assert!(tokio::time::timeout(second, turnstile.enter(second)).await.is_ok());
    }
}
