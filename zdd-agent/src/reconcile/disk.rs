//! The disk is waited for on a thread of its own: the loop goes on, and whatever it is asked next is in force without waiting for what
//! was asked before.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use crate::store::Store;

type Then = Box<dyn FnOnce() + Send>;

/// Brings what is staged to the disk.
pub(super) struct Disk {
    store: Arc<Store>,
    /// `None` while it ends.
    ask: Option<mpsc::Sender<Then>>,
    thread: Option<JoinHandle<()>>,
    /// The newest that was asked for.
    asked: u64,
}

impl Disk {
    /// Starts the thread. Dropping this waits until everything is on the disk.
    pub(super) fn start(store: Arc<Store>) -> std::io::Result<Disk> {
        let (ask, asked) = mpsc::channel::<Then>();
        let of = Arc::clone(&store);
        let thread = std::thread::Builder::new().name("zdd-disk".into()).spawn(move || {
            while let Ok(first) = asked.recv() {
                // One wait serves all that have asked until it begins.
                let all: Vec<Then> = std::iter::once(first).chain(asked.try_iter()).collect();
                settle(&of);
                all.into_iter().for_each(|then| then());
            }
        })?;
        Ok(Disk { store, ask: Some(ask), thread: Some(thread), asked: 0 })
    }

    /// Calls `then` when everything that was staged until now is on the disk, or the disk has refused.
    pub(super) fn then(&mut self, then: impl FnOnce() + Send + 'static) {
        self.asked = self.store.newest();
        let refused = match &self.ask {
            Some(ask) => ask.send(Box::new(then)).err().map(|unsent| unsent.0),
            None => None,
        };
        if let Some(then) = refused {
            // The thread is gone: this one waits.
            settle(&self.store);
            then();
        }
    }

    /// Asks for what is staged and was not asked for yet. A disk that refuses is asked again by `again`, not at each turn.
    pub(super) fn follow(&mut self, again: bool) {
        let news = self.store.newest() != self.asked && self.store.staged();
        if news && self.store.failing().is_none() || again {
            self.then(|| {});
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn settle(store: &Store) {
    if let Err(error) = store.settle() {
        tracing::error!("what is in force would not outlive a loss of power: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn whoever_waits_is_told_when_it_is_on_the_disk_and_the_end_waits_for_all() {
        let dir = std::env::temp_dir().join(format!("zdd-disk-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&dir));
        let store = Arc::new(Store::open(&dir).unwrap());
        let mut disk = Disk::start(Arc::clone(&store)).unwrap();
        store.stage(&1u32).unwrap();
        let (of, settled) = (Arc::clone(&store), Arc::new(AtomicBool::new(false)));
        let (tell, told) = mpsc::channel();
        disk.then(move || tell.send(of.staged()).unwrap());
        assert!(!told.recv().unwrap(), "told before it was there");
        disk.follow(false);
        store.stage(&2u32).unwrap();
        disk.follow(false);
        let seen = Arc::clone(&settled);
        disk.then(move || seen.store(true, Ordering::Relaxed));
        drop(disk);
        assert!(settled.load(Ordering::Relaxed) && !store.staged());
        assert_eq!(Store::open(&dir).unwrap().load::<u32>().unwrap(), Some(2));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
