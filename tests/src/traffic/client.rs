//! The clients' side: one thread in the clients' namespace drives every connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::ledger::Ledger;
use super::protocol::{Fleet, Place};
use super::{long, short, udp};
use crate::rig::{self, Error, Result, Rig};

/// Longer than every patience of the clients: on a busy machine what was begun takes its time to be known.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whom the clients dial.
#[derive(Clone, Debug)]
pub enum Target {
    /// One address for all: the VIP.
    Vip(SocketAddr),
    /// Several in turn: VIPs of both families, or backends without a balancer, to see what the rig can do alone.
    InTurn(Vec<SocketAddr>),
}

impl Target {
    /// The address for connection number `n`.
    pub fn pick(&self, n: usize) -> SocketAddr {
        match self {
            Self::Vip(address) => *address,
            Self::InTurn(all) => all[n % all.len()],
        }
    }
}

/// How much traffic.
#[derive(Clone, Debug)]
pub struct LoadSpec {
    /// Whether servers see the clients' own addresses: under all modes but `snat`. Where not, it is counted.
    pub sources_seen: bool,
    /// Whom TCP clients dial.
    pub tcp: Target,
    /// Whom UDP clients dial.
    pub udp: Target,
    /// Who may answer.
    pub fleet: Fleet,
    /// Client addresses in use; at most as many as the rig has.
    pub clients: usize,
    /// New short connections per second, evenly spread over time and clients.
    pub short_per_second: u32,
    /// Pause between two lines on a long-lived connection, and between two datagrams of a UDP flow.
    pub echo_every: Duration,
}

/// What the client tasks share.
#[derive(Debug)]
pub(super) struct Shared {
    pub spec: LoadSpec,
    epoch: Instant,
    ledger: Mutex<Ledger>,
    /// Bit v: whoever talks to version v says goodbye.
    hang_up: AtomicU8,
    /// Everything ends, at once but in order.
    pub stop: AtomicBool,
    /// New short connections per second, now.
    pub rate: AtomicU32,
    /// Tasks that have not ended.
    pub running: AtomicUsize,
}

impl Shared {
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub fn must_hang_up(&self, place: Place) -> bool {
        self.hang_up.load(Ordering::Relaxed) & (1 << place.version) != 0
    }

    /// Source address of connection number `n` to `target`.
    pub fn source(&self, n: usize, target: SocketAddr) -> IpAddr {
        let client = n % self.spec.clients.max(1);
        match target {
            SocketAddr::V4(_) => rig::client_address(client).into(),
            SocketAddr::V6(_) => rig::client_address6(client).into(),
        }
    }
}

/// Lowers the number of running tasks when a task ends, however it ends.
pub(super) struct Running(Arc<Shared>);

impl Running {
    pub fn new(shared: &Arc<Shared>) -> Self {
        shared.running.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

enum Order {
    Long(usize),
    Udp(usize),
}

/// Running traffic. [`Load::finish`] ends it in order; dropping it just ends it.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    orders: Option<mpsc::UnboundedSender<Order>>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Load {
    /// Starts the short connections; long-lived ones and UDP flows come by [`Load::open_long`] and [`Load::open_udp`].
    pub fn start(rig: &Rig, spec: LoadSpec) -> Result<Self> {
        let shared = Arc::new(Shared {
            rate: AtomicU32::new(spec.short_per_second),
            spec,
            epoch: Instant::now(),
            ledger: Mutex::default(),
            hang_up: AtomicU8::new(0),
            stop: AtomicBool::new(false),
            running: AtomicUsize::new(0),
        });
        let (orders, mut inbox) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::io("start the clients' runtime"))?;
        let for_thread = Arc::clone(&shared);
        let thread = rig.ns("c").thread("zdd-clients", move || {
            runtime.block_on(async move {
                tokio::spawn(short::keep_dialling(Arc::clone(&for_thread)));
                let (mut long, mut flows) = (0, 0);
                while let Some(order) = inbox.recv().await {
                    match order {
                        Order::Long(n) => {
                            for i in long..long + n {
                                tokio::spawn(long::live(
                                    Arc::clone(&for_thread),
                                    i,
                                    Running::new(&for_thread),
                                ));
                            }
                            long += n;
                        }
                        Order::Udp(n) => {
                            for i in flows..flows + n {
                                tokio::spawn(udp::flow(
                                    Arc::clone(&for_thread),
                                    i,
                                    Running::new(&for_thread),
                                ));
                            }
                            flows += n;
                        }
                    }
                }
            });
        })?;
        Ok(Self { shared, orders: Some(orders), thread: Some(thread) })
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // The receiver lives as long as the thread; if that has died, `finish` says so.
            drop(orders.send(order));
        }
    }

    /// Opens `n` more long-lived connections and returns when all of them have been greeted (or have failed), at most after a minute.
    pub fn open_long(&self, n: usize) {
        let goal = self.settled_long() + u64::try_from(n).unwrap_or(u64::MAX);
        self.order(Order::Long(n));
        self.wait(PATIENCE, || self.settled_long() >= goal);
    }

    fn settled_long(&self) -> u64 {
        self.ledger().counts.long_opened
    }

    /// Opens `n` more UDP flows and returns when each has been answered once, at most after a minute.
    pub fn open_udp(&self, n: usize) {
        let goal = self.ledger().counts.udp_answered + u64::try_from(n).unwrap_or(u64::MAX);
        self.order(Order::Udp(n));
        self.wait(PATIENCE, || self.ledger().counts.udp_answered >= goal);
    }

    /// Clients of `version` say goodbye, spread over some 3 s; short connections go on.
    pub fn hang_up(&self, version: u8) {
        self.shared.hang_up.fetch_or(1 << version, Ordering::Relaxed);
    }

    /// Changes how many short connections begin per second; 0 pauses them.
    pub fn set_rate(&self, per_second: u32) {
        self.shared.rate.store(per_second, Ordering::Relaxed);
    }

    /// Microseconds since the load began: the clock of the records.
    pub fn now_us(&self) -> u64 {
        self.shared.now_us()
    }

    /// The accounts. Do not hold it for long: the clients wait for it.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.shared.ledger()
    }

    /// Ends everything in order, waits for what is under way, and returns the final accounts.
    pub fn finish(mut self) -> Ledger {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.wait(PATIENCE, || self.shared.running.load(Ordering::Relaxed) == 0);
        let left = self.shared.running.load(Ordering::Relaxed);
        if left != 0 {
            let at = self.shared.now_us();
            self.ledger().incident(at, format!("{left} client tasks did not end"));
        }
        self.end();
        std::mem::take(&mut *self.shared.ledger())
    }

    fn wait(&self, patience: Duration, done: impl Fn() -> bool) {
        let begin = Instant::now();
        while !done() && begin.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(e)) => {
                    let at = self.shared.now_us();
                    self.ledger().incident(at, format!("the clients could not enter their namespace: {e}"));
                }
                Err(_) => {
                    let at = self.shared.now_us();
                    self.ledger().incident(at, "the clients' thread panicked".to_owned());
                }
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}
