//! Snapshots for those who look, and the history of every split for those who come later: while nobody looks, the splits are all that is
//! asked for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::control::Handle;
use crate::report::{Snapshot, Splits, VersionSplit};
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
    services: Vec<(String, Vec<VersionSplit>)>,
}

impl From<Splits> for Point {
    fn from(Splits { unix_ms, services }: Splits) -> Self {
        Point { unix_ms, services }
    }
}

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
            // Where it is not answered, the loop has ended: so will this.
            if !seen {
                let Ok(splits) = handle.splits().await else { return };
                self.keep(splits.into());
                continue;
            }
            let Ok(snapshot) = handle.snapshot().await else { return };
            if point {
                self.keep(Point::of(&snapshot));
            }
            self.latest.send_replace(event("snapshot", &snapshot));
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
    use crate::control::Request;

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
    async fn snapshots_are_taken_only_while_somebody_looks() {
        let (handle, mut requests) = crate::control::channel(1);
        let (trigger, shutdown) = Shutdown::new();
        let feed = Feed::new();
        let running = tokio::spawn(feed.clone().run(handle, shutdown));
        // Snapshots, and splits alone.
        let asked = Arc::new(Mutex::new((0, 0)));
        let counted = asked.clone();
        let answering = tokio::spawn(async move {
            while let Some(request) = requests.recv().await {
                let mut counted = counted.lock().unwrap();
                match request {
                    Request::Snapshot { reply } => {
                        counted.0 += 1;
                        drop(reply.send(Ok(Snapshot::default())));
                    }
                    Request::Splits { reply } => {
                        counted.1 += 1;
                        drop(reply.send(Ok(Splits::default())));
                    }
                    other => panic!("{other:?}"),
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(10_500)).await;
        assert_eq!((*asked.lock().unwrap(), feed.history().len()), ((0, 3), 3), "at 0, 5 and 10 s");
        let mut looking = feed.subscribe();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!((*asked.lock().unwrap(), feed.history().len()), ((10, 3), 5));
        assert!(looking.borrow_and_update().starts_with(b"event: snapshot\ndata: {\"unix_ms\":0,"));
        drop(looking);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(*asked.lock().unwrap(), (10, 5));
        trigger.start();
        running.await.unwrap();
        answering.await.unwrap();
    }
}
