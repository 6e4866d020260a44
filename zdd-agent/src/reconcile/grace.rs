//! Grace periods without waiting for them: a thread waits, the loop goes on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use crate::dataplane::{DataplaneError, GraceWaiter};

/// Counts commits, and knows up to which of them no packet can still be reading what was there before.
pub(super) struct Epochs {
    committed: u64,
    passed: Arc<AtomicU64>,
    ask: mpsc::Sender<u64>,
    waiter: GraceWaiter,
}

impl Epochs {
    /// Starts the waiting thread. It ends when this is dropped.
    pub(super) fn start(waiter: GraceWaiter) -> std::io::Result<Self> {
        let (ask, asked) = mpsc::channel::<u64>();
        let passed = Arc::new(AtomicU64::new(0));
        let (told, waits) = (Arc::clone(&passed), waiter.clone());
        std::thread::Builder::new().name("zdd-grace".into()).spawn(move || {
            while let Ok(mut epoch) = asked.recv() {
                // One wait serves all that have asked until it begins.
                while let Ok(later) = asked.try_recv() {
                    epoch = later;
                }
                match waits.wait() {
                    Ok(()) => told.store(epoch, Ordering::Release),
                    Err(error) => {
                        tracing::error!(%error, "no grace period: the next change waits for one itself")
                    }
                }
            }
        })?;
        Ok(Self { committed: 0, passed, ask, waiter })
    }

    /// Notes a commit; returns its epoch.
    pub(super) fn commit(&mut self) -> u64 {
        self.committed += 1;
        // A thread that is gone: `wait_for` then waits by itself.
        let _ = self.ask.send(self.committed);
        self.committed
    }

    /// Whether every packet that was under way at a commit has ended.
    pub(super) fn over(&self, epoch: u64) -> bool {
        self.passed.load(Ordering::Acquire) >= epoch
    }

    /// Returns when [`Epochs::over`] holds.
    pub(super) fn wait_for(&self, epoch: u64) -> Result<(), DataplaneError> {
        if !self.over(epoch) {
            self.waiter.wait()?;
            self.passed.fetch_max(epoch, Ordering::AcqRel);
        }
        Ok(())
    }
}
