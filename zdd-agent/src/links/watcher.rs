//! Follows interfaces and addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rtnetlink::MulticastGroup;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::link::{Link, LinkEvent, diff};
use super::netlink::{Netlink, Notice, links, locals};

/// Notices come in bursts; one look at the kernel answers those of this time together.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// Pause before asking again when the kernel did not answer.
const RETRY: Duration = Duration::from_secs(1);
/// Events that may wait for their reader.
const QUEUE: usize = 256;

const GROUPS: [MulticastGroup; 3] =
    [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];

/// Why interfaces cannot be followed.
#[derive(Debug, Error)]
pub enum LinksError {
    /// No netlink socket.
    #[error("cannot open a netlink socket to watch interfaces: {0}")]
    Open(#[from] io::Error),
    /// The kernel did not list them.
    #[error("cannot list interfaces and addresses by netlink: {0}")]
    List(#[from] rtnetlink::Error),
}

/// Follows the interfaces and addresses of the network namespace it was started in, until it is dropped.
pub struct LinkWatcher {
    links: watch::Receiver<Arc<BTreeMap<u32, Link>>>,
    locals: watch::Receiver<Arc<BTreeSet<IpAddr>>>,
    task: JoinHandle<()>,
}

impl LinkWatcher {
    /// Starts with a first look, so that [`links`](Self::links) and [`locals`](Self::locals) are complete when it
    /// returns. Every interface that is there comes as [`LinkEvent::Appeared`] first, then every change, in order and
    /// with nothing left out but states that came and went within 20 ms. A receiver may be dropped; one that is kept must
    /// be read, or everything here waits for it. Needs a tokio runtime.
    ///
    /// # Errors
    /// Netlink does not answer.
    pub async fn start() -> Result<(LinkWatcher, mpsc::Receiver<LinkEvent>), LinksError> {
        // Opened before the first look: a change after it is told.
        let netlink = Netlink::open(&GROUPS)?;
        let first = links(&netlink.ask).await?;
        let (links_send, links_receive) = watch::channel(Arc::new(first.clone()));
        let (locals_send, locals_receive) = watch::channel(Arc::new(locals(&netlink.ask).await?));
        let (events, receive) = mpsc::channel(QUEUE);
        let watching = Watching { netlink: Some(netlink), links: links_send, locals: locals_send, events };
        let task = tokio::spawn(watching.run());
        Ok((LinkWatcher { links: links_receive, locals: locals_receive, task }, receive))
    }

    /// The interfaces now, by index.
    pub fn links(&self) -> Arc<BTreeMap<u32, Link>> {
        self.links.borrow().clone()
    }

    /// Addresses assigned to this host's interfaces, of both families, those of the loopback and link-local ones
    /// included. The receiver is told of every change of the set.
    pub fn locals(&self) -> watch::Receiver<Arc<BTreeSet<IpAddr>>> {
        self.locals.clone()
    }
}

impl Drop for LinkWatcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Watching {
    /// None while it is broken.
    netlink: Option<Netlink>,
    links: watch::Sender<Arc<BTreeMap<u32, Link>>>,
    locals: watch::Sender<Arc<BTreeSet<IpAddr>>>,
    events: mpsc::Sender<LinkEvent>,
}

impl Watching {
    async fn run(mut self) {
        let first = self.links.borrow().clone();
        self.tell(diff(&BTreeMap::new(), &first, &BTreeSet::new())).await;
        // Interfaces that a notice said were removed. Kept until they were told.
        let mut removed = BTreeSet::new();
        loop {
            self.wait(&mut removed).await;
            while let Err(error) = self.look(&mut removed).await {
                tracing::warn!(%error, "cannot follow interfaces; trying again");
                sleep(RETRY).await;
            }
        }
    }

    /// Returns when something may have changed.
    async fn wait(&mut self, removed: &mut BTreeSet<u32>) {
        let Some(netlink) = &mut self.netlink else { return };
        let mut notice = netlink.next().await;
        let until = Instant::now() + DEBOUNCE;
        loop {
            match notice {
                None => {
                    tracing::warn!("the netlink socket for interfaces broke; opening another");
                    self.netlink = None;
                    sleep(RETRY).await;
                    return;
                }
                Some(Notice::Message(RouteNetlinkMessage::DelLink(message)))
                    // The same message for the family of bridges says that a bridge lost a port.
                    if message.header.interface_family == AddressFamily::Unspec =>
                {
                    removed.insert(message.header.index);
                }
                Some(Notice::Message(_) | Notice::Lost) => {}
            }
            // Asked first, as notices that never end would win against any deadline.
            if Instant::now() >= until {
                return;
            }
            match timeout_at(until, netlink.next()).await {
                Ok(next) => notice = next,
                Err(_) => return,
            }
        }
    }

    async fn look(&mut self, removed: &mut BTreeSet<u32>) -> Result<(), LinksError> {
        let netlink = match self.netlink.take() {
            Some(open) => open,
            None => Netlink::open(&GROUPS)?,
        };
        // Put back only when it answered; otherwise the next try opens new sockets.
        let after = links(&netlink.ask).await?;
        let addresses = locals(&netlink.ask).await?;
        self.netlink = Some(netlink);
        self.locals.send_if_modified(|known| {
            let changed = **known != addresses;
            if changed {
                *known = Arc::new(addresses);
            }
            changed
        });
        let before = self.links.borrow().clone();
        let events = diff(&before, &after, removed);
        removed.clear();
        if !events.is_empty() {
            self.links.send_replace(Arc::new(after));
            self.tell(events).await;
        }
        Ok(())
    }

    async fn tell(&self, events: Vec<LinkEvent>) {
        for event in events {
            // Nobody listens any more; the watched values go on.
            let _ = self.events.send(event).await;
        }
    }
}
