//! What the balancer costs: the same hops, once by plain kernel forwarding and once through a VIP under `nat`.
//!
//! Two rigs live side by side, built by the same code with the same offloads; the plain one has no XDP program anywhere. Rounds alternate
//! between them, and medians are compared: absolute figures on a shared machine say little, ratios hold.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::rig::{self, Error, Netns, Result, Rig, v4};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds; each measures both contenders.
    pub rounds: usize,
    /// Time for short connections of one contender in one round.
    pub short: Duration,
    /// The same for echoes.
    pub echo: Duration,
}

/// Medians over all rounds.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Figures {
    /// Short connections per second.
    pub short_per_s: f64,
    /// Echo round trip, microseconds, median.
    pub echo_us: f64,
}

/// Both contenders.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Report {
    /// Plain kernel forwarding.
    pub plain: Figures,
    /// Through the VIP.
    pub zdd: Figures,
    /// Median of each round's ratio of short connections per second; above 1: the balancer is quicker.
    pub short_ratio: f64,
    /// Median of each round's ratio of echo round trips, plain over balanced; above 1: the balancer is quicker.
    pub echo_ratio: f64,
}

/// Client threads for short connections: as many as this kind of machine has processors.
const THREADS: usize = 2;

/// One byte comes back for each that is sent. Dropping it ends it.
#[derive(Debug)]
pub struct EchoServer {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl EchoServer {
    /// Listens on `port` of every address inside `ns`.
    pub fn start(ns: &Netns, port: u16) -> Result<Self> {
        let bind = || std::net::TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, port));
        let listener = ns.enter(bind)?.map_err(Error::io(format!("listen on {port} in {}", ns.name())))?;
        listener.set_nonblocking(true).map_err(Error::io("make a listener nonblocking"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::io("start the echo server"))?;
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let serve = move || {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                loop {
                    let stream = tokio::select! {
                        accepted = listener.accept() => accepted?.0,
                        _ = &mut stopped => return Ok(()),
                    };
                    tokio::spawn(echo(stream));
                }
            })
        };
        let thread = std::thread::Builder::new()
            .name("zdd-echo".into())
            .spawn(serve)
            .map_err(Error::io("start the echo server's thread"))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

async fn echo(mut stream: tokio::net::TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0u8; 64];
    loop {
        let n = stream.read(&mut byte).await?;
        if n == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&byte[..n]).await?;
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Measures `plain` and `zdd` in turn: each a rig, and what its clients dial.
pub fn measure(plain: (&Rig, SocketAddr), zdd: (&Rig, SocketAddr), effort: Effort) -> Result<Report> {
    let contenders = [plain, zdd];
    let mut short = [Vec::new(), Vec::new()];
    let mut echo = [Vec::new(), Vec::new()];
    for round in 0..effort.rounds + 1 {
        // Whoever goes first has the advantage or disadvantage in turn.
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for i in order {
            let (rig, target) = contenders[i];
            let per_s = short_connections(rig, target, effort.short)?;
            let us = round_trip(rig, target, effort.echo)?;
            // The first round only warms up.
            if round > 0 {
                short[i].push(per_s);
                echo[i].push(us);
            }
        }
    }
    let ratios = |over: &[f64], under: &[f64]| median(over.iter().zip(under).map(|(a, b)| a / b).collect());
    let figures =
        |i: usize| Figures { short_per_s: median(short[i].clone()), echo_us: median(echo[i].clone()) };
    Ok(Report {
        plain: figures(0),
        zdd: figures(1),
        short_ratio: ratios(&short[1], &short[0]),
        echo_ratio: ratios(&echo[0], &echo[1]),
    })
}

/// Connections per second: dial, one byte there and back, close.
fn short_connections(rig: &Rig, target: SocketAddr, time: Duration) -> Result<f64> {
    let over = AtomicBool::new(false);
    let begin = Instant::now();
    let done = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let over = &over;
                scope.spawn(move || {
                    rig.in_ns("c", || -> std::io::Result<u64> {
                        let mut n = 0;
                        while !over.load(Ordering::Relaxed) {
                            there_and_back(&mut dial(target)?)?;
                            n += 1;
                        }
                        Ok(n)
                    })
                })
            })
            .collect();
        std::thread::sleep(time);
        over.store(true, Ordering::Relaxed);
        let mut sum = 0;
        for thread in threads {
            let counted = thread.join().expect("no panic in a client");
            sum += counted?.map_err(Error::io(format!("dial {target}")))?;
        }
        Ok::<u64, Error>(sum)
    })?;
    #[expect(clippy::cast_precision_loss, reason = "counts of one round are far below 2^52")]
    Ok(done as f64 / begin.elapsed().as_secs_f64())
}

/// Median round trip on one connection, in microseconds.
fn round_trip(rig: &Rig, target: SocketAddr, time: Duration) -> Result<f64> {
    let measured = rig.in_ns("c", || -> std::io::Result<Vec<f64>> {
        let mut stream = dial(target)?;
        let begin = Instant::now();
        let mut all = Vec::new();
        while begin.elapsed() < time {
            let sent = Instant::now();
            there_and_back(&mut stream)?;
            all.push(sent.elapsed().as_secs_f64() * 1e6);
        }
        Ok(all)
    })?;
    Ok(median(measured.map_err(Error::io(format!("echo with {target}")))?))
}

fn dial(target: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, Duration::from_secs(5))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(stream)
}

fn there_and_back(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0u8; 1])
}

/// The one in the middle; 0 when there is none.
fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(0.0)
}

/// The rig for plain forwarding with its server: the same wires, no XDP program.
pub fn plain(port: u16) -> Result<(Rig, EchoServer, SocketAddr)> {
    let rig = Rig::new(rig::RigSpec { backends: 2, clients: 1, ..rig::RigSpec::default() })?;
    let server = EchoServer::start(rig.ns("b1"), port)?;
    let target = v4(rig::backend_address(1), port);
    Ok((rig, server, target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_not_bent_by_one_bad_round() {
        assert_eq!(median(vec![1.0, 900.0, 2.0]), 2.0);
        assert_eq!(median(vec![]), 0.0);
    }
}
