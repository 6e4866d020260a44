//! `grpc.health.v1.Health`: `Check`, or a `Watch` whose stream stays open.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tonic::Streaming;
use tonic::body::Body;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::{ProbeFailure, connect, http::HEAD_LIMIT};
use crate::health::spec::GrpcCheck;
use crate::tls;

/// Bytes of one message. A status takes two.
const MESSAGE_LIMIT: usize = 1024;
/// Statuses that are taken off a stream in one attempt: a peer that sends without end keeps nobody busy.
const MESSAGES_AT_ONCE: usize = 64;
/// How often a peer that says nothing on an open stream is asked whether it is there; it has the check's timeout to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The tasks that drive one connection; they end with it.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F: Future + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.spawn(async move { drop(task.await) });
    }
}

/// Closes the connection when it goes. The tasks hold their own set, so it would not go by itself.
struct Connection(Tasks);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

/// An open stream of statuses.
pub struct Watch {
    stream: Streaming<HealthCheckResponse>,
    last: Result<(), ProbeFailure>,
    _connection: Connection,
}

impl Watch {
    /// Returns when a status came or the stream ended; `last` is what it means.
    pub(super) async fn changed(&mut self) {
        if matches!(self.last, Err(ProbeFailure::Closed)) {
            return std::future::pending().await;
        }
        self.last = match self.stream.message().await {
            Ok(Some(status)) => judge(status.status()),
            // What an ended stream had said counts no longer; the next attempt opens another.
            Ok(None) | Err(_) => Err(ProbeFailure::Closed),
        };
    }
}

pub(super) async fn check(address: SocketAddr, check: &GrpcCheck) -> Result<(), ProbeFailure> {
    let (mut client, _connection) = open(address, check, None).await?;
    let request = HealthCheckRequest { service: check.service.clone() };
    let answer = client.check(request).await.map_err(failure)?;
    judge(answer.into_inner().status())
}

/// What the stream last said; opens it first if there is none.
pub(super) async fn watch(
    address: SocketAddr,
    check: &GrpcCheck,
    timeout: Duration,
    kept: &mut Option<Watch>,
) -> Result<(), ProbeFailure> {
    if let Some(watch) = kept {
        // Only what is there already: silence on a stream that lives means that nothing has changed.
        for _ in 0..MESSAGES_AT_ONCE {
            if tokio::time::timeout(Duration::ZERO, watch.changed()).await.is_err() {
                break;
            }
        }
        match &watch.last {
            Ok(()) => return Ok(()),
            Err(ProbeFailure::Closed) => *kept = None,
            Err(ProbeFailure::Wrong(why)) => return Err(ProbeFailure::Wrong(why.clone())),
            Err(other) => return Err(ProbeFailure::Wrong(other.to_string())),
        }
    }
    let (mut client, connection) = open(address, check, Some(timeout)).await?;
    let request = HealthCheckRequest { service: check.service.clone() };
    let mut stream = client.watch(request).await.map_err(failure)?.into_inner();
    let first = stream.message().await.map_err(failure)?.ok_or(ProbeFailure::Closed)?;
    let last = judge(first.status());
    let said = last.as_ref().map_err(ToString::to_string).copied();
    *kept = Some(Watch { stream, last, _connection: connection });
    said.map_err(ProbeFailure::Wrong)
}

fn judge(status: ServingStatus) -> Result<(), ProbeFailure> {
    match status {
        ServingStatus::Serving => Ok(()),
        other => Err(ProbeFailure::Wrong(format!("{}, expected SERVING", other.as_str_name()))),
    }
}

/// One connection, as tonic's client calls it.
struct Caller(http2::SendRequest<Body>);

impl tower::Service<Request<Body>> for Caller {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

async fn open(
    address: SocketAddr,
    check: &GrpcCheck,
    keep: Option<Duration>,
) -> Result<(HealthClient<Caller>, Connection), ProbeFailure> {
    let host = check.host.clone().unwrap_or_else(|| address.to_string());
    let stream = connect(address).await?;
    let (sender, connection) = match &check.tls {
        None => handshake(stream, keep).await?,
        Some(spec) => {
            let stream = tls::connect(stream, spec, tls::host_of(&host), &[b"h2"]).await;
            handshake(stream.map_err(ProbeFailure::Wrong)?, keep).await?
        }
    };
    let scheme = if check.tls.is_some() { "https" } else { "http" };
    let origin = format!("{scheme}://{host}")
        .parse()
        .map_err(|_| ProbeFailure::Request { path: "/grpc.health.v1.Health".into(), host })?;
    let client = HealthClient::with_origin(Caller(sender), origin).max_decoding_message_size(MESSAGE_LIMIT);
    Ok((client, connection))
}

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    keep: Option<Duration>,
) -> Result<(http2::SendRequest<Body>, Connection), ProbeFailure> {
    let tasks = Tasks::default();
    let guard = Connection(tasks.clone());
    let mut builder = http2::Builder::new(tasks.clone());
    builder.timer(TokioTimer::new()).max_header_list_size(HEAD_LIMIT as u32);
    if let Some(timeout) = keep {
        builder.keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(timeout).keep_alive_while_idle(true);
    }
    let opened = builder.handshake(TokioIo::new(stream)).await;
    let (sender, connection) = opened.map_err(|_| ProbeFailure::Closed)?;
    hyper::rt::Executor::execute(&tasks, connection);
    Ok((sender, guard))
}

/// A status of gRPC, or what became of the connection under it.
fn failure(status: tonic::Status) -> ProbeFailure {
    use tonic::Code;
    let wrong = |why: &str| ProbeFailure::Wrong(why.to_owned());
    match status.code() {
        Code::NotFound => wrong("the server's health service does not know this service"),
        Code::Unimplemented => wrong("the server has no health service"),
        // What hyper says of a connection that is none of HTTP/2, or has gone.
        Code::Unknown | Code::Internal | Code::Unavailable if status.message().is_empty() => {
            ProbeFailure::Closed
        }
        code => {
            let said: String = status.message().chars().take(120).collect();
            ProbeFailure::Wrong(format!("{code:?}: {said}"))
        }
    }
}
