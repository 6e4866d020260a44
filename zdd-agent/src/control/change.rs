//! What goes with a change: who makes it, what they had seen, and the key that keeps it from being made twice.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::{Handle, Request};

/// What goes with a request that changes something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Who, for people.
    pub by: String,
    /// What, as a command.
    pub what: String,
    /// Why; may be empty.
    pub reason: String,
    /// The generation of the service that they had seen: refused when somebody has changed it since.
    pub expected: Option<u64>,
    /// Persisted together with what the change makes persistent, so that after a kill it is known whether it was made.
    pub key: Option<String>,
}

/// A service before and after a change.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Generations {
    /// Service.
    pub service: String,
    /// Generation before.
    pub before: u64,
    /// Generation after.
    pub after: u64,
}

/// Where the loop tells what a change has done; empty where it concerned no service.
pub type Made = oneshot::Sender<Vec<Generations>>;

/// What goes with a handle's next question, until it is asked.
pub(super) type Pending = Arc<Mutex<Option<(Change, Made)>>>;

/// A key of a change that was made, as it is persisted.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SpentKey {
    /// The key.
    pub key: String,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

impl Handle {
    /// A handle whose next question is this change, and what the change has done.
    pub fn changing(&self, change: Change) -> (Handle, oneshot::Receiver<Vec<Generations>>) {
        let (made, generations) = oneshot::channel();
        let pending = Mutex::new(Some((change, made)));
        (Handle { requests: self.requests.clone(), pending: Some(pending.into()) }, generations)
    }

    /// Puts what goes with it around a request.
    pub(super) fn wrap(&self, request: Request) -> Request {
        let pending = self
            .pending
            .as_ref()
            .and_then(|pending| pending.lock().unwrap_or_else(PoisonError::into_inner).take());
        match pending {
            Some((change, made)) => {
                Request::Change { change: Box::new(change), then: Box::new(request), made }
            }
            None => request,
        }
    }
}
