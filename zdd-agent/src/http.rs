//! HTTP/1.1 on a loopback address: the accept loop that metrics and page share.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::shutdown::Shutdown;

/// Connections at the same time. Those beyond wait in the kernel's queue.
pub const CONNECTIONS: usize = 32;
/// How long a request's head may take, and everything where a connection is not meant to stay.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
pub const HEAD_LIMIT: usize = 8 * 1024;
/// Pause after an accept that failed for a reason which will still be there at once, such as no file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What an answer carries: text at once, or a stream of events.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Why nothing can be served.
#[derive(Debug, Error)]
pub enum HttpError {
    /// The configured address can be reached from outside.
    #[error("agent.{key} address {address} is not a loopback address; use 127.0.0.1 or [::1], or \"off\"")]
    NotLoopback {
        /// The key in the configuration.
        key: &'static str,
        /// The configured address.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot serve {key} on {address}: {source}; set agent.{key} to another address, or to \"off\"")]
    Bind {
        /// The key in the configuration.
        key: &'static str,
        /// The configured address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The other end of a connection; every request carries it among its extensions.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    key: &'static str,
}

impl Listener {
    /// Listens on `address`; port 0 takes a free one. `key`: what the configuration calls it.
    ///
    /// # Errors
    /// The address is not loopback, or is taken.
    pub async fn bind(key: &'static str, address: SocketAddr) -> Result<Self, HttpError> {
        if !address.ip().is_loopback() {
            return Err(HttpError::NotLoopback { key, address });
        }
        let failed = |source| HttpError::Bind { key, address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Listener { listener, address, key })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers until the shutdown; open connections are closed then. `stay`: a connection may carry more than one request, and
    /// an answer may last; else it has ten seconds.
    pub async fn serve<A, F>(self, shutdown: Shutdown, stay: bool, answer: A)
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.wait() => break,
                Some(_) = connections.join_next() => continue,
                accepted = self.accept(&slots) => accepted,
            };
            let (stream, peer, slot) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(address = %self.address, %error, "cannot accept a connection for {}", self.key);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let answer = answer.clone();
            connections.spawn(async move {
                let service = service_fn(move |mut request| {
                    request.extensions_mut().insert(peer);
                    let answered = answer(request);
                    async move { Ok::<_, Infallible>(answered.await) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIME)
                    .max_buf_size(HEAD_LIMIT)
                    .keep_alive(stay)
                    .serve_connection(TokioIo::new(stream), service);
                let limit = if stay { Duration::MAX } else { HEAD_TIME };
                // A client that talks nonsense or leaves early is its own affair.
                let _ = tokio::time::timeout(limit, connection).await;
                drop(slot);
            });
        }
    }

    /// A connection, once there is a slot for it.
    async fn accept(
        &self,
        slots: &Arc<Semaphore>,
    ) -> io::Result<(tokio::net::TcpStream, Peer, OwnedSemaphorePermit)> {
        let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
        let (stream, peer) = self.listener.accept().await?;
        Ok((stream, Peer(peer), slot))
    }
}

/// A whole answer.
pub fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A whole answer in words.
pub fn text(status: StatusCode, body: String) -> Response<Body> {
    response(status, "text/plain; charset=utf-8", body)
}
