//! Probes against real servers on loopback.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::testing::{LONG, attempt, question, why};
use super::*;
use crate::health::spec::{Dependency, HttpCheck, JsonAssertion};
use crate::rollout::spec::{Comparison, Condition, Operand};

/// What is asked, and for how long, ms.
type Asked = (Probe, u64);

fn http(path: &str, status: &[u16], timeout_ms: u64) -> Asked {
    let check = HttpCheck { path: path.into(), status: status.into(), ..HttpCheck::default() };
    (Probe::Http(check), timeout_ms)
}

fn tcp(timeout_ms: u64) -> Asked {
    (Probe::Tcp, timeout_ms)
}

async fn probe(address: SocketAddr, (probe, timeout_ms): &Asked) -> Answer {
    attempt(address, probe.clone(), *timeout_ms).await
}

/// Serves one connection: reads the request's head, sends `parts` as they are, then closes or holds the connection.
/// Returns the address and the head that the server saw.
async fn server(parts: Vec<Vec<u8>>, hold: bool) -> (SocketAddr, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("address");
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let mut head = Vec::new();
        let mut byte = [0u8; 1];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).await.unwrap_or(0) == 1 {
            head.push(byte[0]);
        }
        for part in parts {
            // The client may have gone already, which is what some tests want.
            let _ = stream.write_all(&part).await;
        }
        if hold {
            let _ = stream.read(&mut byte).await;
        }
        String::from_utf8_lossy(&head).into_owned()
    });
    (address, task)
}

fn text(answer: &str) -> Vec<Vec<u8>> {
    vec![answer.as_bytes().to_vec()]
}

/// A port that nothing listens on: bound once, then closed.
async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.expect("loopback").local_addr().expect("address")
}

#[tokio::test]
async fn a_listening_port_passes_a_tcp_probe() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    assert_eq!(probe(listener.local_addr().expect("address"), &tcp(LONG)).await, Ok(()));
}

#[tokio::test]
async fn a_closed_port_is_refused() {
    let failure = probe(closed_port().await, &tcp(LONG)).await.expect_err("nothing listens");
    assert_eq!(failure.to_string(), "connection refused");
}

#[tokio::test]
async fn a_server_that_hangs_times_out() {
    let (address, _task) = server(vec![], true).await;
    let failure = probe(address, &http("/", &[], 60)).await.expect_err("no answer");
    assert_eq!(failure.to_string(), "timed out after 60 ms");
}

#[tokio::test]
async fn a_body_that_stalls_times_out() {
    let (address, _task) = server(text("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"), true).await;
    let failure = probe(address, &http("/", &[], 60)).await.expect_err("half a body");
    assert_eq!(failure, ProbeFailure::TimedOut(Duration::from_millis(60)));
}

#[tokio::test]
async fn a_body_cut_short_fails() {
    let (address, _task) = server(text("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"), false).await;
    assert_eq!(probe(address, &http("/", &[], LONG)).await, Err(ProbeFailure::Closed));
}

#[tokio::test]
async fn a_body_is_read_to_the_limit_only() {
    let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n".to_vec();
    answer.extend(vec![b'x'; BODY_LIMIT + 1]);
    let (address, _task) = server(vec![answer], true).await;
    assert_eq!(probe(address, &http("/", &[], LONG)).await, Ok(()));
}

#[tokio::test]
async fn the_expected_status_passes_and_the_request_names_host_and_path() {
    let (address, task) = server(text("HTTP/1.1 204 No Content\r\n\r\n"), false).await;
    assert_eq!(probe(address, &http("/health?deep=1", &[200, 204], LONG)).await, Ok(()));
    let head = task.await.expect("server").to_lowercase();
    assert!(head.starts_with("get /health?deep=1 http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: {address}\r\n")), "{head}");
}

#[tokio::test]
async fn a_host_can_be_configured() {
    let (address, task) = server(text("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), false).await;
    let check = HttpCheck { path: "/".into(), host: Some("shop.example".into()), ..HttpCheck::default() };
    assert_eq!(attempt(address, Probe::Http(check), LONG).await, Ok(()));
    assert!(task.await.expect("server").to_lowercase().contains("host: shop.example\r\n"));
}

#[tokio::test]
async fn another_status_fails_and_says_what_was_expected() {
    for (status, words) in [
        (&[200][..], "status 503, expected 200"),
        (&[], "status 503, expected 200 to 399"),
        (&[200, 201, 204], "status 503, expected 200, 201 or 204"),
    ] {
        let (address, _task) = server(text("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"), false).await;
        let failure = probe(address, &http("/", status, LONG)).await.expect_err("503");
        assert_eq!(failure.to_string(), words);
    }
}

#[tokio::test]
async fn garbage_is_not_http() {
    let (address, _task) = server(text("SSH-2.0-OpenSSH_9.9\r\n"), true).await;
    let failure = probe(address, &http("/", &[], LONG)).await.expect_err("not HTTP");
    assert!(failure.to_string().starts_with("the answer is not HTTP: "), "{failure}");
}

#[tokio::test]
async fn a_head_without_end_fails() {
    let (address, _task) = server(vec![vec![b'x'; 4 * HEAD_LIMIT]], true).await;
    assert!(matches!(probe(address, &http("/", &[], LONG)).await, Err(ProbeFailure::NotHttp(_))));
    let mut head = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
    head.extend(vec![b'x'; 4 * HEAD_LIMIT]);
    let (address, _task) = server(vec![head], true).await;
    assert!(matches!(probe(address, &http("/", &[], LONG)).await, Err(ProbeFailure::NotHttp(_))));
}

#[tokio::test]
async fn a_connection_closed_without_an_answer_says_so() {
    let (address, _task) = server(vec![], false).await;
    let failure = probe(address, &http("/", &[], LONG)).await.expect_err("closed");
    assert_eq!(failure.to_string(), "connection closed before the answer was complete");
}

#[tokio::test]
async fn a_path_that_cannot_be_sent_is_told() {
    let (address, _task) = server(vec![], true).await;
    let failure = probe(address, &http("/a b", &[], LONG)).await.expect_err("a space");
    assert!(failure.to_string().contains("\"/a b\""), "{failure}");
}

/// Answers once with this head and body.
async fn answering(head: &str, body: &str) -> SocketAddr {
    server(text(&format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())), false).await.0
}

fn asking(change: impl FnOnce(&mut HttpCheck)) -> Probe {
    let mut check = testing::http();
    change(&mut check);
    Probe::Http(check)
}

fn equals(path: &str, text: &str) -> JsonAssertion {
    let is = Condition { op: Comparison::Equal, with: Operand::Text(text.into()) };
    JsonAssertion { path: path.into(), is }
}

#[tokio::test]
async fn a_header_must_be_there_and_as_expected() {
    let probe = asking(|check| check.headers = vec![("X-Ready".into(), "yes".into())]);
    let ready = answering("200 OK\r\nx-ready: no\r\nx-ready: yes", "").await;
    assert_eq!(attempt(ready, probe.clone(), LONG).await, Ok(()));
    let not = answering("200 OK\r\nx-ready: no", "").await;
    assert_eq!(why(not, probe.clone()).await, "header X-Ready is \"no\", expected \"yes\"");
    let none = answering("200 OK", "").await;
    assert_eq!(why(none, probe).await, "header X-Ready is missing, expected \"yes\"");
    // What is called like a secret is told to nobody: neither what was expected nor what came.
    let secret = asking(|check| check.headers = vec![("X-Auth-Token".into(), "planted".into())]);
    let other = answering("200 OK\r\nx-auth-token: theirs", "").await;
    assert_eq!(why(other, secret.clone()).await, "header X-Auth-Token is another, expected [redacted]");
    let none = answering("200 OK", "").await;
    assert_eq!(why(none, secret).await, "header X-Auth-Token is missing, expected [redacted]");
}

#[tokio::test]
async fn a_body_must_contain_and_match() {
    let probe = asking(|check| {
        check.contains = Some("alive".into());
        check.matches = Some("^v[0-9]+ is ".into());
    });
    assert_eq!(attempt(answering("200 OK", "v2 is alive").await, probe.clone(), LONG).await, Ok(()));
    let dead = answering("200 OK", "v2 is dead").await;
    assert_eq!(why(dead, probe.clone()).await, "the body does not contain \"alive\": \"v2 is dead\"");
    let other = answering("200 OK", "alive").await;
    assert_eq!(why(other, probe).await, "the body does not match \"^v[0-9]+ is \": \"alive\"");
}

#[tokio::test]
async fn json_assertions_say_what_they_found() {
    let probe = asking(|check| check.json = vec![equals("$.db", "ok"), equals("$.cache.state", "warm")]);
    for (body, said) in [
        (r#"{"db": "ok", "cache": {"state": "warm"}}"#, None),
        (r#"{"db": "down", "cache": {"state": "warm"}}"#, Some("$.db is \"down\", expected == \"ok\"")),
        (r#"{"db": "ok"}"#, Some("$.cache.state names nothing in the body")),
        (r#"{"db": 7, "cache": {}}"#, Some("$.db: 7 cannot be compared with what is expected")),
        ("<html>", Some("the body is not JSON: expected value at line 1 column 1: \"<html>\"")),
    ] {
        let answer = attempt(answering("200 OK", body).await, probe.clone(), LONG).await;
        assert_eq!(answer.err().map(|failure| failure.to_string()).as_deref(), said, "{body}");
    }
}

#[tokio::test]
async fn a_json_body_beyond_the_limit_is_no_answer() {
    let probe = asking(|check| check.json = vec![equals("$.db", "ok")]);
    let body = format!(r#"{{"db": "ok", "filler": "{}"}}"#, "x".repeat(BODY_LIMIT));
    let said = why(answering("200 OK", &body).await, probe).await;
    assert!(said.starts_with("the body is longer than 65536 bytes"), "{said}");
}

#[tokio::test]
async fn dependencies_are_read_also_off_an_answer_that_fails() {
    let depends = |name: &str, shared| Dependency {
        name: name.into(),
        path: format!("$.{name}"),
        shared,
        success: None,
    };
    let address = answering("503 Busy", r#"{"db": "down", "redis": true}"#).await;
    let mut asked = question(address, asking(|_| ()), LONG);
    asked.depends = vec![depends("db", true), depends("redis", false), depends("queue", false)];
    let (answer, told) = super::probe(&asked, &mut Session::default()).await;
    assert_eq!(answer.unwrap_err().to_string(), "status 503, expected 200 to 399");
    let told: Vec<_> = told.iter().map(|state| (state.name.as_str(), state.shared, state.well)).collect();
    assert_eq!(told, [("db", true, Some(false)), ("redis", false, Some(true)), ("queue", false, None)]);
}
