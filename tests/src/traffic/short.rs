//! Short connections: dial, ask who is there, end.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{MissedTickBehavior, timeout};

use super::client::{Running, Shared};
use super::ledger::ShortRecord;
use super::protocol::{Fleet, Lines, Place, parse_greeting, parse_place};
use super::socket;

/// Longer than this and it has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Longer than this and a SYN was lost: the first repetition comes after 1 s.
const SLOW_US: u64 = 900_000;

/// How often new connections are begun; each time as many as are due.
const TICK: Duration = Duration::from_millis(4);

/// Begins short connections at the wanted rate until told to stop.
pub(super) async fn keep_dialling(shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(TICK);
    // After a stall the missed ones are not made up for in one burst.
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut n, mut due) = (0usize, 0.0f64);
    let mut last = tokio::time::Instant::now();
    while !shared.stopping() {
        tick.tick().await;
        let now = tokio::time::Instant::now();
        let rate = f64::from(shared.rate.load(Ordering::Relaxed));
        // At most 100 ms worth: see above.
        due += (now - last).as_secs_f64().min(0.1) * rate;
        last = now;
        while due >= 1.0 {
            due -= 1.0;
            tokio::spawn(one(Arc::clone(&shared), n, Running::new(&shared)));
            n += 1;
        }
    }
}

/// What a short connection found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub place: Place,
    pub port: u16,
    /// The server saw this client's address and port.
    pub own_source: bool,
}

async fn one(shared: Arc<Shared>, n: usize, _running: Running) {
    let target = shared.spec.tcp.pick(n);
    let client = shared.source(n, target);
    let started_us = shared.now_us();
    let result = timeout(PATIENCE, ask(&shared.spec.fleet, client, target)).await;
    let ended_us = shared.now_us();
    let mut ledger = shared.ledger();
    ledger.counts.short_total += 1;
    let trouble = match result {
        Ok(Ok(Answer { place, port, own_source })) => {
            ledger.shorts.push(ShortRecord { client, port, started_us, ended_us, place });
            ledger.counts.wrong_source += u64::from(shared.spec.sources_seen && !own_source);
            ledger.counts.short_slow += u64::from(ended_us - started_us > SLOW_US);
            return;
        }
        Ok(Err(e)) => e.to_string(),
        Err(_) => "no answer within 10 s".to_owned(),
    };
    ledger.counts.short_failed += 1;
    ledger.harmed.insert(client);
    ledger.incident(ended_us, format!("short connection {n} from {client} failed: {trouble}"));
}

/// One short connection. Greeting and answer must come from the same backend, and the stream must end in order.
pub(super) async fn ask(fleet: &Fleet, client: IpAddr, target: SocketAddr) -> std::io::Result<Answer> {
    let mut stream = socket::connect(client, target).await?;
    let own = stream.local_addr()?;
    stream.write_all(b"Q\n").await?;
    let mut lines = Lines::default();
    let line = lines.next(&mut stream).await?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let greeting = parse_greeting(fleet, line).ok_or_else(|| unexpected(line))?;
    let line = lines.next(&mut stream).await?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
    if parse_place(fleet, line) != Some(greeting.place) {
        return Err(unexpected(line));
    }
    if let Some(line) = lines.next(&mut stream).await? {
        return Err(unexpected(line));
    }
    Ok(Answer { place: greeting.place, port: own.port(), own_source: own == greeting.source })
}

fn unexpected(line: &[u8]) -> std::io::Error {
    std::io::Error::other(format!("unexpected answer {:?}", String::from_utf8_lossy(line)))
}
