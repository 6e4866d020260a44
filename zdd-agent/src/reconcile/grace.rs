//! Grace periods without waiting for them: a thread waits, the loop goes on. And the rows that become spare by them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use crate::dataplane::{DataplaneError, GraceWaiter};
use crate::rows::{NoRoom, Rows};

/// Counts commits, and knows up to which of them no packet can still be reading what was there before.
pub(super) struct Epochs {
    committed: u64,
    passed: Arc<AtomicU64>,
    ask: mpsc::Sender<u64>,
    waiter: GraceWaiter,
    /// Who has which cells.
    pub(super) rows: Rows,
}

impl Epochs {
    /// Starts the waiting thread. It ends when this is dropped. `cells`: how many the map holds.
    pub(super) fn start(waiter: GraceWaiter, cells: u32) -> std::io::Result<Self> {
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
        Ok(Self { committed: 0, passed, ask, waiter, rows: Rows::new(cells) })
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

    /// Room for the row of a new VIP; `place` as for [`Rows::add`].
    pub(super) fn new_row(&mut self, len: u32, place: u32) -> Result<u32, NoRoom> {
        let Self { rows, passed, .. } = self;
        rows.add(len, place, |epoch| passed.load(Ordering::Acquire) >= epoch)
    }

    /// A row that no packet reads, to publish a service of this size in. Waits for a grace period if all spare ones are
    /// younger than that.
    pub(super) fn spare_row(&mut self, len: u32) -> Result<u32, DataplaneError> {
        for _ in 0..2 {
            let Self { rows, passed, .. } = self;
            match rows.spare(len, |epoch| passed.load(Ordering::Acquire) >= epoch) {
                Ok(start) => return Ok(start),
                Err(epoch) => self.wait_for(epoch)?,
            }
        }
        Err(DataplaneError::Kernelspace {
            what: format!("no spare row of {len} cells"),
            reason: "a fault in the agent's books: restart it (traffic goes on)".into(),
        })
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
