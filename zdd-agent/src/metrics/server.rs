//! Serves the metrics over HTTP/1.1 on a loopback address.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Mutex;

use super::families::{CONTENT_TYPE, Detail, encode};
use crate::http::{Body, HttpError, Listener, response, text};
use crate::report::Snapshot;
use crate::shutdown::Shutdown;

/// Where the values of a scrape come from. Called on a thread that may block, never twice at the same time.
pub trait Source: Send + Sync + 'static {
    /// The values now.
    ///
    /// # Errors
    /// Why there are none, for the log and the scraper, which gets a 503.
    fn snapshot(&self) -> Result<Snapshot, String>;

    /// Whether the agent works, for `/healthz`.
    ///
    /// # Errors
    /// What is wrong, for the answer, which is a 503.
    fn healthy(&self) -> Result<(), String> {
        Ok(())
    }
}

impl<F: Fn() -> Result<Snapshot, String> + Send + Sync + 'static> Source for F {
    fn snapshot(&self) -> Result<Snapshot, String> {
        self()
    }
}

/// A bound metrics server.
pub struct MetricsServer<S> {
    listener: Listener,
    shared: Arc<Shared<S>>,
}

struct Shared<S> {
    source: S,
    /// One scrape at a time: reading the kernel's counters is the dearest thing that a stranger can ask for.
    turn: Arc<Mutex<()>>,
}

impl<S: Source> MetricsServer<S> {
    /// Listens on `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// The address is not loopback, or is taken.
    pub async fn bind(address: SocketAddr, source: S) -> Result<MetricsServer<S>, HttpError> {
        let listener = Listener::bind("metrics", address).await?;
        Ok(MetricsServer { listener, shared: Arc::new(Shared { source, turn: Arc::default() }) })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// Serves `/metrics` (`?backends=off`: without single backends) and `/healthz` until the shutdown; open connections are closed then.
    pub async fn serve(self, shutdown: Shutdown) {
        let shared = self.shared;
        self.listener.serve(shutdown, false, move |request| answer(request, shared.clone())).await;
    }
}

async fn answer<S: Source>(request: Request<Incoming>, shared: Arc<Shared<S>>) -> Response<Body> {
    if request.method() != Method::GET {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n".into());
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return answer;
    }
    match request.uri().path() {
        "/metrics" => {
            let detail = match request.uri().query() {
                None | Some("") => Detail::Backends,
                Some("backends=off") => Detail::Versions,
                // Whoever asks for something else would not notice that he got everything.
                Some(_) => {
                    return text(
                        StatusCode::BAD_REQUEST,
                        "of parameters only backends=off is known\n".into(),
                    );
                }
            };
            match scrape(shared, detail).await {
                Ok(body) => response(StatusCode::OK, CONTENT_TYPE, body),
                Err(why) => {
                    tracing::warn!(%why, "cannot answer a metrics request");
                    text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"))
                }
            }
        }
        "/healthz" => match shared.source.healthy() {
            Ok(()) => text(StatusCode::OK, "ok\n".into()),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, "here are /metrics and /healthz\n".into()),
    }
}

async fn scrape<S: Source>(shared: Arc<Shared<S>>, detail: Detail) -> Result<String, String> {
    let turn = shared.turn.clone().lock_owned().await;
    let made = tokio::task::spawn_blocking(move || {
        // Kept by the thread: it goes on when the client leaves, and is still the only one then.
        let _turn = turn;
        let snapshot = shared.source.snapshot()?;
        encode(snapshot, detail).map_err(|error| format!("cannot encode the metrics: {error}"))
    });
    made.await.map_err(|error| format!("reading the metrics failed: {error}"))?
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
