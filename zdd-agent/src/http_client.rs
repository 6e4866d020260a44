//! One exchange over HTTP/1.1, in clear or with TLS. Messages name the host and never the rest of an address: it may be a secret.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::tls::{self, TlsSpec};

/// Bytes of an answer. A longer one is an error: half a document says nothing.
const BODY_LIMIT: usize = 1 << 20;

/// The body of an answer with a status of 200 to 299.
///
/// # Errors
/// In words for an operator.
pub async fn get(
    url: &str,
    headers: Headers<'_>,
    tls: &TlsSpec,
    timeout: Duration,
) -> Result<Vec<u8>, String> {
    within(timeout, exchange(Method::GET, url, headers, tls, Vec::new())).await
}

/// Sends a body; a status of 200 to 299 is success.
///
/// # Errors
/// In words for an operator.
pub async fn post(
    url: &str,
    headers: Headers<'_>,
    tls: &TlsSpec,
    body: Vec<u8>,
    timeout: Duration,
) -> Result<(), String> {
    within(timeout, exchange(Method::POST, url, headers, tls, body)).await.map(drop)
}

/// Names and values beside the usual ones.
pub type Headers<'a> = &'a [(&'static str, &'a str)];

async fn within<T>(
    timeout: Duration,
    exchange: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let late = |_| format!("no answer within {}", humantime::format_duration(timeout));
    tokio::time::timeout(timeout, exchange).await.map_err(late)?
}

async fn exchange(
    method: Method,
    url: &str,
    headers: Headers<'_>,
    tls: &TlsSpec,
    body: Vec<u8>,
) -> Result<Vec<u8>, String> {
    let uri: Uri = url.parse().map_err(|error| format!("the address is none: {error}"))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let stream = TcpStream::connect((host.as_str(), port))
        .await
        .map_err(|error| format!("cannot connect to {host} port {port}: {error}"))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    // Without the name and password that may stand before the host.
    let authority = uri.authority().map_or(host.as_str(), |authority| authority.as_str());
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let mut request = Request::builder();
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request
        .method(method)
        .uri(path)
        .header(HOST, authority)
        .header(USER_AGENT, "zdd")
        .header(CONNECTION, "close")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| format!("cannot make a request for {authority}: {error}"))?;
    if secure {
        let stream = tls::connect(stream, tls, &host, &[b"http/1.1"]).await;
        talk(stream.map_err(|error| format!("{authority}: {error}"))?, request, authority).await
    } else {
        talk(stream, request, authority).await
    }
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
    authority: &str,
) -> Result<Vec<u8>, String> {
    let failed = |error: hyper::Error| format!("the exchange with {authority} failed: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // Driven here and not in a task of its own, so that giving up closes the socket too.
    let talk = async {
        let answer = sender.send_request(request).await.map_err(failed)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), BODY_LIMIT).collect().await;
        if !status.is_success() {
            return Err(format!("{authority} answers with status {}", status.as_u16()));
        }
        body.map(|body| body.to_bytes().to_vec())
            .map_err(|error| format!("the answer cannot be read: {error}"))
    };
    let drive = async {
        // Its error reaches the exchange as well.
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        done = talk => done,
        () = drive => Err("the connection closed before the answer was complete".to_owned()),
    }
}
