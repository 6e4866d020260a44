//! One health check attempt.
//!
//! Whoever answers may be broken or hostile: every answer is read to a bound, and the check's timeout covers all of an attempt,
//! so that no peer can hold more than one buffer for one timeout.

mod dns;
mod exec;
mod grpc;
mod http;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpSocket, TcpStream};

use super::checker::{Prober, Question, Seen};
use super::depends::{self, DependencyState};
use super::spec::Probe;

pub use dns::{RCODES, TYPES, askable};
pub use grpc::Watch;
pub use http::{BODY_LIMIT, HEAD_LIMIT};

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
    /// What came is not an HTTP answer.
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
    /// An answer that is not as expected, or a peer that cannot be spoken to; in words.
    #[error("{0}")]
    Wrong(String),
}

/// What of an answer is of use beyond passing or not.
type Answer = Result<(), ProbeFailure>;

/// Probes with real sockets and programs.
#[derive(Clone, Copy, Debug, Default)]
pub struct NetworkProber;

/// What is kept from one attempt to the next: the open stream of a gRPC watch.
#[derive(Default)]
pub struct Session(Option<Watch>);

impl Prober for NetworkProber {
    type Session = Session;

    async fn probe(&self, question: &Question, session: &mut Session) -> Seen {
        let (answer, depends) = probe(question, session).await;
        Seen { result: answer.map_err(|failure| failure.to_string()), depends }
    }

    async fn news(&self, session: &mut Session) {
        match &mut session.0 {
            Some(watch) => watch.changed().await,
            None => std::future::pending().await,
        }
    }
}

/// Asks once. The question's timeout covers all of it: connection, handshake, request, answer and body.
pub async fn probe(question: &Question, session: &mut Session) -> (Answer, Vec<DependencyState>) {
    let mut told = None;
    let attempt = async {
        let address = question.address;
        match &question.probe {
            Probe::Tcp => connect(address).await.map(drop),
            Probe::Http(check) => {
                let wants_body = !question.depends.is_empty();
                http::get(address, check, wants_body.then_some(&mut told)).await
            }
            Probe::Grpc(check) if check.watch => {
                grpc::watch(address, check, question.timeout, &mut session.0).await
            }
            Probe::Grpc(check) => grpc::check(address, check).await,
            Probe::Udp(check) => udp::ask(address, check).await,
            Probe::Dns(check) => dns::ask(address, check).await,
            Probe::Exec { argv } => exec::run(argv, question).await,
        }
    };
    let answer = tokio::time::timeout(question.timeout, attempt).await;
    let answer = answer.unwrap_or(Err(ProbeFailure::TimedOut(question.timeout)));
    (answer, depends::read(&question.depends, told.as_ref()))
}

async fn connect(address: SocketAddr) -> Result<TcpStream, ProbeFailure> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(connect_failure)?;
    // The acknowledgment of the SYN-ACK goes with what is sent next, or with the end: every probe speaks first or hangs up. It is a
    // packet less for each; one more where this cannot be set.
    let _ = socket2::SockRef::from(&socket).set_tcp_quickack(false);
    socket.connect(address).await.map_err(connect_failure)
}

fn connect_failure(error: io::Error) -> ProbeFailure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ProbeFailure::Refused,
        io::ErrorKind::HostUnreachable => ProbeFailure::Connect("no route to host".into()),
        io::ErrorKind::NetworkUnreachable => ProbeFailure::Connect("network is unreachable".into()),
        _ => ProbeFailure::Connect(error.to_string()),
    }
}

/// Looks for a regular expression: time is linear in text and expression, whatever they are.
fn found(expression: &str, text: &[u8]) -> Result<bool, ProbeFailure> {
    // Compiled anew for each answer: some microseconds, and nothing to keep.
    expression_of(expression).map(|regex| regex.is_match(text)).map_err(ProbeFailure::Wrong)
}

/// A regular expression as health checks take it: bounded in the memory that it may compile to.
///
/// # Errors
/// What is wrong with it.
pub fn expression_of(text: &str) -> Result<regex::bytes::Regex, String> {
    regex::bytes::RegexBuilder::new(text)
        .size_limit(1 << 20)
        .dfa_size_limit(1 << 20)
        .build()
        .map_err(|error| error.to_string())
}

/// The beginning of an answer, for people.
fn excerpt(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(&bytes[..bytes.len().min(240)]).chars().take(60).collect();
    format!("{text:?}{}", if bytes.len() > text.len() { "..." } else { "" })
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod bad_peer_tests;
#[cfg(test)]
mod http_tests;
#[cfg(test)]
mod other_tests;
#[cfg(test)]
mod tls_tests;
