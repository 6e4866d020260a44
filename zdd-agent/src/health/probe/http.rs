//! `GET` over HTTP/1.1, in clear or with TLS, and what the answer must be.

use std::future::pending;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderMap, USER_AGENT};
use hyper::{Request, body::Incoming};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{ProbeFailure, connect, excerpt, found};
use crate::health::spec::HttpCheck;
use crate::rollout::Outcome;
use crate::rollout::provider::{judge as compare, named};
use crate::{redact, tls};

/// Bytes of an answer's body that are read. Where only the status counts, one that is longer has answered well enough; text is
/// looked for within them, and a JSON document must fit.
pub const BODY_LIMIT: usize = 64 * 1024;
/// Bytes of an answer's head; a longer one is a failure.
pub const HEAD_LIMIT: usize = 16 * 1024;

/// Asks. `told` takes the body if it is JSON, whatever the answer is worth otherwise: a backend that answers 503 says why.
pub(super) async fn get(
    address: SocketAddr,
    check: &HttpCheck,
    told: Option<&mut Option<Value>>,
) -> Result<(), ProbeFailure> {
    let host = check.host.clone().unwrap_or_else(|| address.to_string());
    let stream = connect(address).await?;
    match &check.tls {
        None => exchange(stream, check, host, told).await,
        Some(spec) => {
            let stream = tls::connect(stream, spec, tls::host_of(&host), &[b"http/1.1"]).await;
            exchange(stream.map_err(ProbeFailure::Wrong)?, check, host, told).await
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    check: &HttpCheck,
    host: String,
    told: Option<&mut Option<Value>>,
) -> Result<(), ProbeFailure> {
    let request = Request::get(&check.path)
        .header(HOST, &host)
        .header(USER_AGENT, "zdd")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| ProbeFailure::Request { path: check.path.clone(), host })?;
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
    let talk = async {
        let answer = sender.send_request(request).await.map_err(http_failure)?;
        let (head, body) = answer.into_parts();
        let judged = status(head.status.as_u16(), &check.status).and_then(|()| headers(&head.headers, check));
        if judged.is_err() && told.is_none() {
            return judged;
        }
        let read = read(body).await;
        if let (Some(told), Ok((bytes, true))) = (told, &read) {
            *told = serde_json::from_slice(bytes).ok();
        }
        judged?;
        let (bytes, whole) = read?;
        judge_body(&bytes, whole, check)
    };
    tokio::select! {
        done = talk => done,
        () = drive => Err(ProbeFailure::Closed),
    }
}

fn status(got: u16, wanted: &[u16]) -> Result<(), ProbeFailure> {
    let passes = if wanted.is_empty() { (200..=399).contains(&got) } else { wanted.contains(&got) };
    if passes { Ok(()) } else { Err(ProbeFailure::Status { got, expected: expected(wanted) }) }
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

fn headers(got: &HeaderMap, check: &HttpCheck) -> Result<(), ProbeFailure> {
    for (name, value) in &check.headers {
        // Reasons go everywhere: status, log, events, alerts.
        let hides = redact::names_a_secret(name);
        let expected = if hides { redact::HIDDEN.to_owned() } else { format!("{value:?}") };
        let mut all = got.get_all(name).iter().peekable();
        if all.peek().is_none() {
            return Err(ProbeFailure::Wrong(format!("header {name} is missing, expected {expected}")));
        }
        if !all.any(|got| got.as_bytes() == value.as_bytes()) {
            let got = got.get(name).filter(|_| !hides).map(|got| excerpt(got.as_bytes()));
            let got = got.unwrap_or_else(|| "another".to_owned());
            return Err(ProbeFailure::Wrong(format!("header {name} is {got}, expected {expected}")));
        }
    }
    Ok(())
}

/// Reads the body to its end (true) or to [`BODY_LIMIT`] (false): a backend that stalls in the middle of an answer is not well.
async fn read(mut body: Incoming) -> Result<(Vec<u8>, bool), ProbeFailure> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(http_failure)?.into_data() {
            let room = BODY_LIMIT - bytes.len();
            bytes.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                return Ok((bytes, false));
            }
        }
    }
    Ok((bytes, true))
}

fn judge_body(bytes: &[u8], whole: bool, check: &HttpCheck) -> Result<(), ProbeFailure> {
    let wrong = |why: String| Err(ProbeFailure::Wrong(why));
    if let Some(text) = &check.contains
        && !bytes.windows(text.len().max(1)).any(|window| window == text.as_bytes())
    {
        return wrong(format!("the body does not contain {text:?}: {}", excerpt(bytes)));
    }
    if let Some(expression) = &check.matches
        && !found(expression, bytes)?
    {
        return wrong(format!("the body does not match {expression:?}: {}", excerpt(bytes)));
    }
    if check.json.is_empty() {
        return Ok(());
    }
    if !whole {
        return wrong(format!("the body is longer than {BODY_LIMIT} bytes: too long for a JSON assertion"));
    }
    let document: Value = match serde_json::from_slice(bytes) {
        Ok(document) => document,
        Err(error) => return wrong(format!("the body is not JSON: {error}: {}", excerpt(bytes))),
    };
    for assertion in &check.json {
        let path = &assertion.path;
        match named(&document, path).map_err(ProbeFailure::Wrong)? {
            None => return wrong(format!("{path} names nothing in the body")),
            Some(value) => match compare(value, &assertion.is) {
                Outcome::Success(_) => {}
                Outcome::Failure(got) => return wrong(format!("{path} is {got}, expected {}", assertion.is)),
                Outcome::Inconclusive(why) | Outcome::Error(why) | Outcome::Postponed(why) => {
                    return wrong(format!("{path}: {why}"));
                }
            },
        }
    }
    Ok(())
}

fn http_failure(error: hyper::Error) -> ProbeFailure {
    if error.is_parse() {
        return ProbeFailure::NotHttp(error.to_string());
    }
    // The rest is I/O: a reset, an end in the middle, a connection that was cancelled because of either.
    ProbeFailure::Closed
}
