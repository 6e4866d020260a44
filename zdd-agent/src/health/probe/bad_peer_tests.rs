//! Peers that are broken or hostile: each is told apart or times out, in bounded memory.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::testing::{LONG, attempt, http};
use super::*;
use crate::health::spec::{GrpcCheck, HttpCheck};

/// Sends `head`, then `again` without end until the client goes; tells how many bytes it could send.
async fn endless(head: &'static [u8], again: &'static [u8]) -> (SocketAddr, tokio::task::JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut sent = 0;
        let _ = stream.read(&mut [0; 2048]).await;
        let mut part = head;
        while let Ok(length @ 1..) = stream.write(part).await {
            sent += length;
            part = again;
        }
        sent
    });
    (address, task)
}

#[tokio::test]
async fn a_body_without_end_is_read_to_the_limit_only() {
    const PART: &[u8] = &[b'x'; 8192];
    let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    let (address, task) = endless(head, PART).await;
    let check = HttpCheck { contains: Some("never".into()), ..http() };
    let said = attempt(address, Probe::Http(check), LONG).await.unwrap_err().to_string();
    assert!(said.starts_with("the body does not contain \"never\": \"xxx"), "{said}");
    // What was sent beyond the limit sits in socket buffers; nobody reads it.
    let sent =
        tokio::time::timeout(Duration::from_millis(LONG), task).await.expect("the probe hung up").unwrap();
    assert!(sent < 16 << 20, "{sent} bytes were taken");
}

#[tokio::test]
async fn a_chunked_body_of_single_bytes_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 2048]).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        while stream.write_all(b"1\r\nx\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let answer = attempt(address, Probe::Http(http()), 300).await;
    assert_eq!(answer, Err(ProbeFailure::TimedOut(Duration::from_millis(300))));
}

#[tokio::test]
async fn garbage_is_no_grpc_and_silence_times_out() {
    let grpc = |watch| Probe::Grpc(GrpcCheck { watch, ..GrpcCheck::default() });
    for watch in [false, true] {
        let (address, _task) = endless(b"HTTP/1.1 400 Bad Request\r\n\r\n", &[0xff; 1024]).await;
        let answer = attempt(address, grpc(watch), 2_000).await;
        assert!(answer.is_err(), "{answer:?}");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = attempt(listener.local_addr().unwrap(), grpc(watch), 200).await;
        assert_eq!(silent, Err(ProbeFailure::TimedOut(Duration::from_millis(200))));
    }
}
