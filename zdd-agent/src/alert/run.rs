//! Asks the loop what is wrong, keeps the book, and sends.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::book::Book;
use super::message::message;
use super::spec::{AlertSpec, Channel};
use crate::control::Handle;
use crate::http_client;
use crate::shutdown::Shutdown;
use crate::store::Store;

/// How often the loop is asked.
const LOOK: Duration = Duration::from_secs(1);
/// Troubles in one message; the others follow at the next look.
const MOST: usize = 100;

/// What became of a message to one receiver: the troubles in it, each with whether it was over, and why it was not taken.
type Sent = (String, Vec<(String, bool)>, Result<(), String>);

/// Tells the receivers until the agent ends. `dir` keeps the book.
pub async fn run(receivers: Vec<AlertSpec>, handle: Handle, dir: PathBuf, shutdown: Shutdown) {
    if receivers.is_empty() {
        return;
    }
    let store = match Store::open_as(&dir, "alerts.json") {
        Ok(store) => Arc::new(store),
        Err(error) => return tracing::error!("nobody is alerted: {error}"),
    };
    let mut book: Book = store
        .load()
        .unwrap_or_else(|error| {
            tracing::error!("what was told is not known any more, and may be told again: {error}");
            None
        })
        .unwrap_or_default();
    let receivers: Vec<Arc<AlertSpec>> = receivers.into_iter().map(Arc::new).collect();
    let specs: Vec<AlertSpec> = receivers.iter().map(|receiver| AlertSpec::clone(receiver)).collect();
    let mut under_way: JoinSet<Sent> = JoinSet::new();
    let mut busy: Vec<String> = Vec::new();
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.wait() => return,
            _ = tick.tick() => {
                // Without an answer nothing is known, and so nothing has ended.
                let Ok(troubles) = handle.troubles().await else { continue };
                let now = now_ms();
                let mut news = book.observe(&troubles, now);
                let mut messages = Vec::new();
                for receiver in receivers.iter().filter(|receiver| !busy.contains(&receiver.name)) {
                    let ids = book.due(receiver, now, MOST);
                    if !ids.is_empty() {
                        book.trying(&receiver.name, &ids, now);
                        messages.push((receiver.clone(), ids));
                        news = true;
                    }
                }
                if news {
                    // On the disk first: after a kill, what may have been told is known.
                    keep(&store, &book).await;
                }
                for (receiver, ids) in messages {
                    let entries: Vec<_> = ids.iter().map(|id| &book.entries[id]).collect();
                    let text = message(&receiver, &entries, now);
                    let told = ids.iter().map(|id| (id.clone(), book.entries[id].ended_ms.is_some())).collect();
                    busy.push(receiver.name.clone());
                    under_way.spawn(async move {
                        let sent = send(&receiver, text).await;
                        (receiver.name.clone(), told, sent)
                    });
                }
            }
            Some(Ok((name, told, sent))) = under_way.join_next() => {
                busy.retain(|other| *other != name);
                match sent {
                    Ok(()) => {
                        book.taken(&name, &told, now_ms());
                        book.tidy(&specs);
                        keep(&store, &book).await;
                    }
                    Err(why) => tracing::warn!(receiver = name, alerts = told.len(), "not taken, tried again: {why}"),
                }
            }
        }
    }
}

/// Returns when the book is on the disk, for which nobody else waits.
async fn keep(store: &Arc<Store>, book: &Book) {
    let of = Arc::clone(store);
    let kept = match store.stage(book) {
        Ok(()) => tokio::task::spawn_blocking(move || of.settle()).await.unwrap_or(Ok(())),
        Err(error) => Err(error),
    };
    if let Err(error) = kept {
        tracing::error!("what was told is not kept, and may be told again: {error}");
    }
}

async fn send(receiver: &AlertSpec, text: String) -> Result<(), String> {
    let url = match &receiver.channel {
        Channel::Webhook(url) | Channel::Slack(url) => url.0.clone(),
        Channel::Alertmanager(url) => format!("{}/api/v2/alerts", url.0.trim_end_matches('/')),
    };
    let json = [("content-type", "application/json")];
    http_client::post(&url, &json, &receiver.tls, text.into_bytes(), receiver.timeout).await
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
