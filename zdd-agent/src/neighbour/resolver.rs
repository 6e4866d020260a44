//! Keeps a set of destinations resolved.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rtnetlink::MulticastGroup;
use rtnetlink::packet_route::RouteNetlinkMessage;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::judge::judge;
use super::read::{Way, neighbour_address, neighbours, nudge, way};
use super::{NextHopChange, NextHopState};
use crate::links::netlink::{Netlink, Notice, links};

/// Changes that may wait for their reader.
const QUEUE: usize = 256;

const GROUPS: [MulticastGroup; 9] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Nexthop,
];

/// Why next hops cannot be followed.
#[derive(Debug, Error)]
pub enum NeighbourError {
    /// No netlink socket.
    #[error("cannot open a netlink socket to resolve next hops: {0}")]
    Open(#[from] io::Error),
}

/// How a resolver keeps time.
#[derive(Clone, Copy, Debug)]
pub struct ResolverOptions {
    /// Notices of the kernel within this time are answered together.
    pub debounce: Duration,
    /// What is not resolved is looked at, and asked for, again after this; also the least time between two
    /// requests to resolve the same neighbour.
    pub retry: Duration,
    /// Everything is looked at again after this, and stale entries are refreshed.
    pub refresh: Duration,
}

impl Default for ResolverOptions {
    fn default() -> ResolverOptions {
        ResolverOptions {
            debounce: Duration::from_millis(20),
            retry: Duration::from_secs(1),
            refresh: Duration::from_secs(15),
        }
    }
}

type States = BTreeMap<IpAddr, NextHopState>;

/// Keeps destinations resolved in the network namespace it was started in, until it is dropped.
pub struct Resolver {
    wanted: watch::Sender<BTreeSet<IpAddr>>,
    states: Arc<Mutex<States>>,
    task: JoinHandle<()>,
}

impl Resolver {
    /// A resolver without destinations. The receiver gets the first state of each of them and every change; it must
    /// be read or dropped. A change of a destination that was removed meanwhile may still be in it. Needs a tokio
    /// runtime, and CAP_NET_ADMIN to have neighbours resolved.
    ///
    /// # Errors
    /// Netlink cannot be opened.
    pub fn start(
        options: ResolverOptions,
    ) -> Result<(Resolver, mpsc::Receiver<NextHopChange>), NeighbourError> {
        let netlink = Netlink::open(&GROUPS)?;
        let (wanted, wanted_receive) = watch::channel(BTreeSet::new());
        let (changes, receive) = mpsc::channel(QUEUE);
        let states = Arc::new(Mutex::new(States::new()));
        let resolving = Resolving {
            options,
            netlink,
            wanted: wanted_receive,
            states: states.clone(),
            changes,
            hops: HashMap::new(),
            unsettled: HashSet::new(),
            nudged: HashMap::new(),
            full_cost: Duration::ZERO,
        };
        let task = tokio::spawn(resolving.run());
        Ok((Resolver { wanted, states, task }, receive))
    }

    /// Makes `destinations` the whole set. Those that are gone are forgotten, new ones are resolved at once.
    pub fn set(&self, destinations: BTreeSet<IpAddr>) {
        self.wanted.send_if_modified(|known| {
            let changed = *known != destinations;
            *known = destinations;
            changed
        });
    }

    /// What is known of every destination that was looked at.
    pub fn states(&self) -> BTreeMap<IpAddr, NextHopState> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What to look at.
enum Look {
    All,
    /// Those that are not resolved, or that the kernel has to be asked about, and those never looked at.
    Open,
    /// Those whose next hop is one of these.
    Hops(HashSet<IpAddr>),
}

struct Resolving {
    options: ResolverOptions,
    netlink: Netlink,
    wanted: watch::Receiver<BTreeSet<IpAddr>>,
    states: Arc<Mutex<States>>,
    changes: mpsc::Sender<NextHopChange>,
    /// Whom each destination's frames go to: its gateway, or itself. None while it has no way.
    hops: HashMap<IpAddr, IpAddr>,
    /// Destinations whose neighbour was to be asked for at the last look. That may have been too soon after the last
    /// time, so they are looked at again.
    unsettled: HashSet<IpAddr>,
    /// When the kernel was last told to resolve whom.
    nudged: HashMap<(u32, IpAddr), Instant>,
    /// How long the last look at everything took.
    full_cost: Duration,
}

impl Resolving {
    async fn run(mut self) {
        let mut refresh = Instant::now() + self.options.refresh;
        let mut retry = refresh;
        loop {
            let look = tokio::select! {
                changed = self.wanted.changed() => match changed {
                    Ok(()) => Look::Open,
                    Err(_) => return,
                },
                notice = self.netlink.next() => self.gather(notice).await,
                () = sleep_until(refresh) => Look::All,
                () = sleep_until(retry) => Look::Open,
            };
            let started = Instant::now();
            let full = matches!(look, Look::All);
            let some = matches!(look, Look::Hops(_));
            let done = self.look(look).await;
            let now = Instant::now();
            if full {
                self.full_cost = now - started;
                refresh = now + self.options.refresh;
            }
            retry = match done {
                Ok(true) => refresh,
                // News of some neighbours must not put off the look at the others.
                Ok(false) if some => retry.min(now + self.options.retry),
                Ok(false) => now + self.options.retry,
                Err(error) => {
                    tracing::warn!(%error, "cannot look up next hops; trying again");
                    self.reopen().await;
                    refresh = now + self.options.retry;
                    refresh
                }
            };
        }
    }

    /// What the notices of the next moment touch, the first one included.
    async fn gather(&mut self, first: Option<Notice>) -> Look {
        let mut hops = HashSet::new();
        let mut all = false;
        let start = Instant::now();
        let mut notice = first;
        loop {
            match notice {
                None => {
                    tracing::warn!("the netlink socket for next hops broke; opening another");
                    self.reopen().await;
                    return Look::All;
                }
                Some(Notice::Message(
                    RouteNetlinkMessage::NewNeighbour(message) | RouteNetlinkMessage::DelNeighbour(message),
                )) => hops.extend(neighbour_address(&message)),
                Some(Notice::Message(_) | Notice::Lost) => all = true,
            }
            // A look at everything costs a question per destination; where routes come and go all the time, most of
            // the time is spent on waiting nevertheless, but never so long that a new address is late.
            let busy = (4 * self.full_cost).min(self.options.retry / 2);
            let pause = if all { self.options.debounce.max(busy) } else { self.options.debounce };
            // Asked first, as notices that never end would win against any deadline.
            let left = (start + pause).saturating_duration_since(Instant::now());
            let next = if left.is_zero() { None } else { timeout(left, self.netlink.next()).await.ok() };
            match next {
                Some(next) => notice = next,
                None if all => return Look::All,
                None => return Look::Hops(hops),
            }
        }
    }

    /// Opens new sockets, however long it takes.
    async fn reopen(&mut self) {
        loop {
            tokio::time::sleep(self.options.retry).await;
            match Netlink::open(&GROUPS) {
                Ok(netlink) => {
                    self.netlink = netlink;
                    return;
                }
                Err(error) => tracing::warn!(%error, "cannot open a netlink socket to resolve next hops"),
            }
        }
    }

    /// Looks, tells what changed and has resolved what is not. True when nothing is open.
    async fn look(&mut self, look: Look) -> Result<bool, rtnetlink::Error> {
        let wanted = self.wanted.borrow_and_update().clone();
        let before = {
            let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
            states.retain(|addr, _| wanted.contains(addr));
            states.clone()
        };
        self.hops.retain(|addr, _| wanted.contains(addr));
        self.unsettled.retain(|addr| wanted.contains(addr));
        let open = |addr: &IpAddr| {
            self.unsettled.contains(addr) || before.get(addr).is_none_or(|state| state.next_hop().is_none())
        };
        let touched: Vec<IpAddr> = match look {
            Look::All => wanted.iter().copied().collect(),
            Look::Open => wanted.iter().copied().filter(open).collect(),
            Look::Hops(told) => {
                let touched = |addr: &IpAddr| self.hops.get(addr).is_some_and(|hop| told.contains(hop));
                wanted.iter().copied().filter(touched).collect()
            }
        };
        if touched.is_empty() {
            return Ok(!wanted.iter().any(open));
        }
        let links = links(&self.netlink.ask).await?;
        let entries = neighbours(&self.netlink.ask).await?;
        let mut nudges = HashSet::new();
        let mut changes = Vec::new();
        for addr in touched {
            let way = way(&self.netlink.ask, addr).await?;
            let (link, entry) = match &way {
                Way::Out { ifindex, via } => {
                    let hop = via.unwrap_or(addr);
                    self.hops.insert(addr, hop);
                    (links.get(ifindex), entries.get(&(*ifindex, hop)))
                }
                Way::Local | Way::None(_) => {
                    self.hops.remove(&addr);
                    (None, None)
                }
            };
            let verdict = judge(addr, &way, link, entry, before.get(&addr));
            match verdict.nudge {
                Some(whom) => {
                    nudges.insert(whom);
                    self.unsettled.insert(addr);
                }
                None => {
                    self.unsettled.remove(&addr);
                }
            }
            if before.get(&addr) != Some(&verdict.state) {
                changes.push(NextHopChange { addr, state: verdict.state });
            }
        }
        let settled = {
            let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
            states.extend(changes.iter().map(|change| (change.addr, change.state.clone())));
            let resolved = |addr| states.get(addr).is_some_and(|state| state.next_hop().is_some());
            self.unsettled.is_empty() && wanted.iter().all(resolved)
        };
        self.nudge(nudges).await;
        for change in changes {
            // Nobody listens any more; the states go on.
            let _ = self.changes.send(change).await;
        }
        Ok(settled)
    }

    async fn nudge(&mut self, whom: HashSet<(u32, IpAddr)>) {
        let now = Instant::now();
        let retry = self.options.retry;
        // A little less than the time between two tries, or every other one would come too early.
        self.nudged.retain(|_, last| now - *last < retry.mul_f64(0.9));
        for (ifindex, addr) in whom {
            if self.nudged.contains_key(&(ifindex, addr)) {
                continue;
            }
            self.nudged.insert((ifindex, addr), now);
            if let Err(error) = nudge(&self.netlink.ask, ifindex, addr).await {
                // The interface may be gone since; a missing privilege shows here every time.
                tracing::debug!(ifindex, %addr, %error, "the kernel does not resolve a neighbour");
            }
        }
    }
}
