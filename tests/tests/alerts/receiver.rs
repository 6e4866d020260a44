//! Somebody who is told: keeps what comes, and can refuse it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use zdd_tests::rig::{Result, Rig};
use zdd_tests::world::PATIENCE;

/// Where it listens, inside the balancer's namespace.
pub const ADDRESS: &str = "127.0.0.1:9800";

#[derive(Default)]
struct Shared {
    told: Mutex<Vec<Value>>,
    refuses: AtomicBool,
    ended: AtomicBool,
}

/// A webhook, until it is dropped.
pub struct Receiver {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Receiver {
    pub fn start(rig: &Rig) -> Result<Receiver> {
        let listener = rig.in_ns("lb", || TcpListener::bind(ADDRESS))?.expect("the port is free");
        listener.set_nonblocking(true).expect("a plain socket option");
        let shared = Arc::new(Shared::default());
        let inside = shared.clone();
        let thread = std::thread::spawn(move || {
            while !inside.ended.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => drop(take(stream, &inside)),
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Ok(Receiver { shared, thread: Some(thread) })
    }

    /// From now on it answers 500.
    pub fn refuses(&self, refuses: bool) {
        self.shared.refuses.store(refuses, Ordering::Relaxed);
    }

    /// Every alert that was taken: `status kind labels...`.
    pub fn lines(&self) -> Vec<String> {
        let told = self.shared.told.lock().unwrap_or_else(PoisonError::into_inner);
        let alerts = told.iter().filter_map(|message| message["alerts"].as_array()).flatten();
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let labels = |alert: &Value| {
            let labels = alert["labels"].as_object().into_iter().flatten();
            labels.map(|(name, value)| format!(" {name}={}", word(value))).collect::<String>()
        };
        alerts
            .map(|alert| format!("{} {}{}", word(&alert["status"]), word(&alert["kind"]), labels(alert)))
            .collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn take(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut bytes = Vec::new();
    let whole = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let head = head.to_lowercase();
        let length = head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse::<usize>().ok()?;
        (body.len() >= length).then(|| body.to_owned())
    };
    let body = loop {
        if let Some(body) = whole(&bytes) {
            break body;
        }
        let mut part = [0; 4096];
        match stream.read(&mut part)? {
            0 => return Ok(()),
            length => bytes.extend_from_slice(&part[..length]),
        }
    };
    if shared.refuses.load(Ordering::Relaxed) {
        return stream.write_all(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
    }
    let message = serde_json::from_str(&body).expect("a message is JSON");
    shared.told.lock().unwrap_or_else(PoisonError::into_inner).push(message);
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
}
