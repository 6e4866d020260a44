//! One health check attempt over the network.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;

use super::checker::{Prober, Target};
use crate::desired::{HealthSpec, Probe};

/// Bytes of an answer's body that are read. One that is longer has answered well enough; the rest is not asked for.
pub const BODY_LIMIT: usize = 16 * 1024;
/// Bytes of an answer's head; a longer one is a failure.
pub const HEAD_LIMIT: usize = 16 * 1024;

/// Why a probe failed, in words for an operator.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ProbeFailure {
    /// Nothing listens there.
    #[error("connection refused")]
    Refused,
    /// The connection could not be made for another reason, in the kernel's words.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The probe took longer than the check allows.
    #[error("timed out after {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// Another status than the check expects.
    #[error("status {got}, expected {expected}")]
    Status {
        /// The status of the answer.
        got: u16,
        /// The statuses that would have done.
        expected: String,
    },
    /// The connection ended before the answer did.
    #[error("connection closed before the answer was complete")]
    Closed,
    /// What came is not an HTTP/1 answer.
    #[error("the answer is not HTTP: {0}")]
    NotHttp(String),
    /// The configured path or host cannot be sent.
    #[error("cannot make a request for path {path:?} and host {host:?}")]
    Request {
        /// Path of the check.
        path: String,
        /// Host header of the check.
        host: String,
    },
}

/// Probes with real sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct NetworkProber;

impl Prober for NetworkProber {
    async fn probe(&self, target: &Target) -> Result<(), String> {
        probe(target.address(), &target.spec).await.map_err(|failure| failure.to_string())
    }
}

/// Probes `address` once. `spec.timeout` covers all of it: connection, request, answer and body.
///
/// # Errors
/// Why the backend did not pass.
pub async fn probe(address: SocketAddr, spec: &HealthSpec) -> Result<(), ProbeFailure> {
    let attempt = async {
        let stream = TcpStream::connect(address).await.map_err(connect_failure)?;
        match &spec.probe {
            Probe::Tcp => Ok(()),
            Probe::Http { path, status, host } => {
                let host = host.clone().unwrap_or_else(|| address.to_string());
                get(stream, path, host, status).await
            }
        }
    };
    tokio::time::timeout(spec.timeout, attempt).await.unwrap_or(Err(ProbeFailure::TimedOut(spec.timeout)))
}

async fn get(stream: TcpStream, path: &str, host: String, status: &[u16]) -> Result<(), ProbeFailure> {
    let request = Request::get(path)
        .header(HOST, &host)
        .header(USER_AGENT, "zdd")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| ProbeFailure::Request { path: path.into(), host })?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_LIMIT)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(http_failure)?;
    // Driven here and not in a task of its own, so that a timeout drops the socket too. Its error reaches the
    // exchange as well, which is why it is not looked at.
    let drive = async {
        let _ = connection.await;
        pending::<()>().await;
    };
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(http_failure)?;
        judge(&answer, status)?;
        read(answer.into_body()).await
    };
    tokio::select! {
        done = exchange => done,
        () = drive => Err(ProbeFailure::Closed),
    }
}

fn judge(answer: &Response<Incoming>, status: &[u16]) -> Result<(), ProbeFailure> {
    let got = answer.status().as_u16();
    let passes = if status.is_empty() { (200..=399).contains(&got) } else { status.contains(&got) };
    if passes { Ok(()) } else { Err(ProbeFailure::Status { got, expected: expected(status) }) }
}

fn expected(status: &[u16]) -> String {
    match status {
        [] => "200 to 399".into(),
        [one] => one.to_string(),
        [rest @ .., last] => {
            let rest: Vec<String> = rest.iter().map(u16::to_string).collect();
            format!("{} or {last}", rest.join(", "))
        }
    }
}

/// Reads the body to its end or to [`BODY_LIMIT`]: a backend that stalls in the middle of an answer is not well.
async fn read(mut body: Incoming) -> Result<(), ProbeFailure> {
    let mut seen = 0;
    while let Some(frame) = body.frame().await {
        seen += frame.map_err(http_failure)?.data_ref().map_or(0, Bytes::len);
        if seen >= BODY_LIMIT {
            break;
        }
    }
    Ok(())
}

fn connect_failure(error: io::Error) -> ProbeFailure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ProbeFailure::Refused,
        io::ErrorKind::HostUnreachable => ProbeFailure::Connect("no route to host".into()),
        io::ErrorKind::NetworkUnreachable => ProbeFailure::Connect("network is unreachable".into()),
        _ => ProbeFailure::Connect(error.to_string()),
    }
}

fn http_failure(error: hyper::Error) -> ProbeFailure {
    if error.is_parse() {
        return ProbeFailure::NotHttp(error.to_string());
    }
    // The rest is I/O: a reset, an end in the middle, a connection that was cancelled because of either.
    ProbeFailure::Closed
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
