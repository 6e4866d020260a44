//! Serves the metrics over HTTP/1.1 on a loopback address.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE as CONTENT_TYPE_HEADER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;

use super::families::{CONTENT_TYPE, encode};
use super::snapshot::MetricsSnapshot;
use crate::shutdown::Shutdown;

/// Connections at the same time. Those beyond wait in the kernel's queue.
const CONNECTIONS: usize = 32;
/// A connection that takes longer is closed; it carries one request.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const HEAD_LIMIT: usize = 8 * 1024;
/// Pause after an accept that failed for a reason which will still be there at once, such as no file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the metrics cannot be served.
#[derive(Debug, Error)]
pub enum MetricsError {
    /// The configured address can be reached from outside.
    #[error("metrics address {0} is not a loopback address; use 127.0.0.1 or [::1], or \"off\"")]
    NotLoopback(SocketAddr),
    /// The address cannot be listened on.
    #[error(
        "cannot serve metrics on {address}: {source}; set agent.metrics to another address, or to \"off\""
    )]
    Bind {
        /// The configured address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Where the values of a scrape come from. Called on a thread that may block, never twice at the same time.
pub trait Source: Send + Sync + 'static {
    /// The values now.
    ///
    /// # Errors
    /// Why there are none, for the log and the scraper, which gets a 503.
    fn snapshot(&self) -> Result<MetricsSnapshot, String>;

    /// Whether the agent works, for `/healthz`.
    ///
    /// # Errors
    /// What is wrong, for the answer, which is a 503.
    fn healthy(&self) -> Result<(), String> {
        Ok(())
    }
}

impl<F: Fn() -> Result<MetricsSnapshot, String> + Send + Sync + 'static> Source for F {
    fn snapshot(&self) -> Result<MetricsSnapshot, String> {
        self()
    }
}

/// A bound metrics server.
pub struct MetricsServer<S> {
    listener: TcpListener,
    address: SocketAddr,
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
    pub async fn bind(address: SocketAddr, source: S) -> Result<MetricsServer<S>, MetricsError> {
        if !address.ip().is_loopback() {
            return Err(MetricsError::NotLoopback(address));
        }
        let failed = |source| MetricsError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(MetricsServer { listener, address, shared: Arc::new(Shared { source, turn: Arc::default() }) })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves `/metrics` and `/healthz` until the shutdown; open connections are closed then.
    pub async fn serve(self, shutdown: Shutdown) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.wait() => break,
                Some(_) = connections.join_next() => continue,
                accepted = accept(&self.listener, &slots) => accepted,
            };
            match accepted {
                Ok((stream, slot)) => {
                    let shared = self.shared.clone();
                    connections.spawn(async move {
                        serve_one(stream, shared).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(address = %self.address, %error, "cannot accept a metrics connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// A connection, once there is a slot for it.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, slot))
}

async fn serve_one<S: Source>(stream: TcpStream, shared: Arc<Shared<S>>) {
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer(request, shared).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION_TIME)
        .max_buf_size(HEAD_LIMIT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // A client that talks nonsense or leaves early is its own affair.
    let _ = tokio::time::timeout(CONNECTION_TIME, connection).await;
}

async fn answer<S: Source>(request: Request<Incoming>, shared: Arc<Shared<S>>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n".into());
        answer.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET"));
        return answer;
    }
    match request.uri().path() {
        "/metrics" => match scrape(shared).await {
            Ok(body) => response(StatusCode::OK, CONTENT_TYPE, body),
            Err(why) => {
                tracing::warn!(%why, "cannot answer a metrics request");
                text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"))
            }
        },
        "/healthz" => match shared.source.healthy() {
            Ok(()) => text(StatusCode::OK, "ok\n".into()),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, "here are /metrics and /healthz\n".into()),
    }
}

async fn scrape<S: Source>(shared: Arc<Shared<S>>) -> Result<String, String> {
    let turn = shared.turn.clone().lock_owned().await;
    let made = tokio::task::spawn_blocking(move || {
        // Kept by the thread: it goes on when the client leaves, and is still the only one then.
        let _turn = turn;
        let snapshot = shared.source.snapshot()?;
        encode(snapshot).map_err(|error| format!("cannot encode the metrics: {error}"))
    });
    made.await.map_err(|error| format!("reading the metrics failed: {error}"))?
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", body)
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE_HEADER, hyper::header::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
