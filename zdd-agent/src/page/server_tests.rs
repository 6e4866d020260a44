//! The page over loopback, with an agent that answers from a script.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::control::{self, Refused, Request as Asked};
use crate::report::{ShiftReport, Snapshot};
use crate::shutdown::Trigger;

async fn start(actions: bool) -> (SocketAddr, Trigger, String) {
    let (handle, mut requests) = control::channel(4);
    tokio::spawn(async move {
        let mut unix_ms = 0;
        while let Some(request) = requests.recv().await {
            unix_ms += 1;
            // What goes with a change is the loop's own business.
            let request = match request {
                Asked::Change { then, .. } => *then,
                other => other,
            };
            match request {
                Asked::Snapshot { reply } => {
                    drop(reply.send(Ok(Snapshot { unix_ms, ..Snapshot::default() })));
                }
                Asked::Shift { service, weights, force: false, reply }
                    if weights == [("v2".to_owned(), 2500)] =>
                {
                    drop(reply.send(Ok(ShiftReport {
                        service,
                        generation: 9,
                        versions: Vec::new(),
                        moved_groups: 0,
                        notes: Vec::new(),
                    })));
                }
                other => other.refuse(Refused::conflict("somebody was faster")),
            }
        }
    });
    let dir = std::env::temp_dir().join(format!("zdd-page-{}-{actions}", std::process::id()));
    let spec = PageSpec { address: "127.0.0.1:0".parse().unwrap(), actions };
    let page = PageServer::bind(&spec, &dir, handle, None).await.unwrap();
    let token = std::fs::read_to_string(token::path(&dir)).unwrap_or_default().trim().to_owned();
    drop(std::fs::remove_dir_all(dir));
    let (address, (trigger, shutdown)) = (page.local_addr(), Shutdown::new());
    tokio::spawn(page.serve(shutdown));
    (address, trigger, token)
}

async fn ask(address: SocketAddr, request: String) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(60), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

fn get(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

fn post(address: SocketAddr, token: &str, body: &str) -> String {
    format!(
        "POST /api/v1/actions HTTP/1.1\r\nHost: {address}\r\nOrigin: http://{address}\r\nContent-Type: application/json\r\n\
         Authorization: Bearer {token}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

const SHIFT: &str = r#"{"act":"shift","service":"web","weights":[["v2",2500]]}"#;

#[tokio::test]
async fn every_file_is_served_with_what_keeps_others_out() {
    let (address, _trigger, _) = start(false).await;
    for (path, kind, content) in FILES {
        let answer = ask(address, get(path, "localhost")).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(content), "{path}: {answer}");
        assert!(answer.contains(&format!("content-type: {kind}\r\n")), "{answer}");
        assert!(answer.contains("content-security-policy: default-src 'none'"), "{answer}");
        // Nothing of it may come from elsewhere, and what the policy forbids would only fail in silence.
        for word in ["https://", "http://", "style=\"", "onclick=", "innerHTML", "<script>"] {
            let without_names = content.replace("http://www.w3.org/2000/svg", "");
            assert!(!without_names.contains(word), "{path} has {word}");
        }
    }
    assert!(ask(address, get("/other", "localhost")).await.starts_with("HTTP/1.1 404"));
    for path in ["/", "/api/v1/snapshot", "/api/v1/events"] {
        let answer = ask(address, get(path, "evil.example")).await;
        assert!(
            answer.starts_with("HTTP/1.1 403") && answer.contains("answers to localhost"),
            "{path}: {answer}"
        );
    }
}

#[tokio::test]
async fn a_stream_begins_with_the_history_and_goes_on_until_the_agent_ends() {
    let (address, trigger, _) = start(false).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(get("/api/v1/events", "[::1]").as_bytes()).await.unwrap();
    let mut seen = String::new();
    let mut bytes = [0; 4096];
    while seen.matches("event: snapshot").count() < 3 {
        let read =
            tokio::time::timeout(Duration::from_secs(60), stream.read(&mut bytes)).await.unwrap().unwrap();
        assert!(read > 0, "it ended: {seen}");
        seen.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    let hello = seen.find("event: hello\ndata: {\"actions\":false,\"history\":[").expect(&seen);
    assert!(
        hello < seen.find("event: snapshot").unwrap() && seen.contains("content-type: text/event-stream"),
        "{seen}"
    );
    trigger.start();
    let ended = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut Vec::new())).await;
    ended.expect("it ends with the agent").ok();
}

#[tokio::test]
async fn nothing_can_be_changed_unless_it_is_enabled_and_the_token_is_right() {
    let (address, _trigger, _) = start(false).await;
    let answer = ask(address, post(address, "", SHIFT)).await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("this page only shows"), "{answer}");

    let (address, _trigger, token) = start(true).await;
    let answer = ask(address, post(address, "0".repeat(32).as_str(), SHIFT)).await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("the token is wrong"), "{answer}");
    let answer = ask(address, post(address, &token, SHIFT)).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"generation\":9"), "{answer}");
    let answer = ask(address, post(address, &token, r#"{"act":"abort","service":"web","revision":3}"#)).await;
    assert!(answer.starts_with("HTTP/1.1 409") && answer.contains("somebody was faster"), "{answer}");
    let answer = ask(address, post(address, &token, r#"{"act":"detach"}"#)).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let answer = ask(address, get("/api/v1/actions", "localhost")).await;
    assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("allow: POST"), "{answer}");
}
