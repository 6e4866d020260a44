//! Snapshots for those who look, and the history of every split for those who come later.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::control::Handle;
use crate::report::Snapshot;
use crate::shutdown::Shutdown;

/// Between two snapshots while somebody looks.
const LOOK: Duration = Duration::from_secs(1);
/// Every so many of them is a point of the history, also when nobody looks.
const POINT_EVERY: u32 = 5;
/// Points that are kept: a quarter of an hour.
const POINTS: usize = 180;

/// What a split was at one time: by service and version, in the order of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Point {
    unix_ms: u64,
    services: Vec<(String, Vec<VersionPoint>)>,
}

/// Name, share asked for, share in the table, flows begun since the maps were made.
type VersionPoint = (String, f64, f64, u64);

impl Point {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let services = snapshot.status.services.iter().map(|service| {
            let versions =
                service.versions.iter().map(|row| (row.name.clone(), row.asked, row.share, row.new_flows));
            (service.name.clone(), versions.collect())
        });
        Point { unix_ms: snapshot.unix_ms, services: services.collect() }
    }
}

/// Shared by the task that takes snapshots and the connections that pass them on. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Feed {
    latest: watch::Sender<Bytes>,
    history: Arc<Mutex<VecDeque<Point>>>,
}

impl Feed {
    pub(super) fn new() -> Self {
        Feed { latest: watch::Sender::new(Bytes::new()), history: Arc::default() }
    }

    /// Each new snapshot as an event for a stream; one who is slow misses some.
    pub(super) fn subscribe(&self) -> watch::Receiver<Bytes> {
        self.latest.subscribe()
    }

    /// The points, the oldest first.
    pub(super) fn history(&self) -> Vec<Point> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn keep(&self, point: Point) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.push_back(point);
        let over = history.len().saturating_sub(POINTS);
        history.drain(..over);
    }

    /// Takes snapshots until the shutdown.
    pub(super) async fn run(self, handle: Handle, shutdown: Shutdown) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut count = 0;
        loop {
            tokio::select! {
                () = shutdown.wait() => return,
                _ = ticks.tick() => {}
            }
            let (point, seen) = (count % POINT_EVERY == 0, self.latest.receiver_count() > 0);
            count = (count + 1) % POINT_EVERY;
            if !point && !seen {
                continue;
            }
            // The loop has ended: so will this.
            let Ok(snapshot) = handle.snapshot().await else { return };
            if point {
                self.keep(Point::of(&snapshot));
            }
            if seen {
                self.latest.send_replace(event("snapshot", &snapshot));
            }
        }
    }
}

/// One server-sent event (HTML, "server-sent events"): JSON without line breaks.
pub(super) fn event<T: Serialize>(name: &str, data: &T) -> Bytes {
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("event: {name}\ndata: {data}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_is_bounded_and_ordered() {
        let feed = Feed::new();
        for unix_ms in 0..POINTS as u64 + 7 {
            feed.keep(Point { unix_ms, services: Vec::new() });
        }
        let kept = feed.history();
        assert_eq!((kept.len(), kept[0].unix_ms), (POINTS, 7));
    }

    #[tokio::test(start_paused = true)]
    async fn snapshots_are_taken_each_second_only_while_somebody_looks() {
        let (handle, mut requests) = crate::control::channel(1);
        let (trigger, shutdown) = Shutdown::new();
        let feed = Feed::new();
        let running = tokio::spawn(feed.clone().run(handle, shutdown));
        let asked = Arc::new(Mutex::new(0));
        let counted = asked.clone();
        let answering = tokio::spawn(async move {
            while let Some(crate::control::Request::Snapshot { reply }) = requests.recv().await {
                *counted.lock().unwrap() += 1;
                drop(reply.send(Ok(Snapshot::default())));
            }
        });
        tokio::time::sleep(Duration::from_millis(10_500)).await;
        assert_eq!((*asked.lock().unwrap(), feed.history().len()), (3, 3), "at 0, 5 and 10 s");
        let mut looking = feed.subscribe();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!((*asked.lock().unwrap(), feed.history().len()), (13, 5));
        assert!(looking.borrow_and_update().starts_with(b"event: snapshot\ndata: {\"unix_ms\":0,"));
        drop(looking);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(*asked.lock().unwrap(), 15);
        trigger.start();
        running.await.unwrap();
        answering.await.unwrap();
    }
}
