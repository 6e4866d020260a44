//! Two netlink sockets: one to ask, one to be told.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use futures::channel::mpsc::UnboundedReceiver;
use futures::{StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::{Handle, MulticastGroup};
use tokio::task::JoinHandle;

use super::link::Link;

/// What the kernel tells.
pub(crate) enum Notice {
    /// Something changed.
    Message(RouteNetlinkMessage),
    /// Messages were lost, as they came faster than they were read: everything has to be asked again.
    Lost,
}

/// An open pair of sockets, bound to the network namespace of the thread that opened it.
pub(crate) struct Netlink {
    /// For questions. They go through a socket without multicast groups: notices carry the sequence number of
    /// whoever caused them, and would be taken for answers.
    pub(crate) ask: Handle,
    notices: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, rtnetlink::sys::SocketAddr)>,
    tasks: [JoinHandle<()>; 2],
}

impl Netlink {
    /// Opens both; notices of `groups` are queued from then on. Needs a tokio runtime.
    pub(crate) fn open(groups: &[MulticastGroup]) -> io::Result<Netlink> {
        let (told, _, notices) = rtnetlink::new_multicast_connection(groups)?;
        let (asked, ask, _) = rtnetlink::new_connection()?;
        Ok(Netlink { ask, notices, tasks: [tokio::spawn(told), tokio::spawn(asked)] })
    }

    /// The next notice; `None` when a socket broke, which only opening a new pair mends.
    pub(crate) async fn next(&mut self) -> Option<Notice> {
        loop {
            match self.notices.next().await?.0.payload {
                NetlinkPayload::InnerMessage(message) => return Some(Notice::Message(message)),
                NetlinkPayload::Overrun(_) => return Some(Notice::Lost),
                _ => {}
            }
        }
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// All interfaces, by index. A dump that a change interrupted is not told apart: the change itself sends a notice.
pub(crate) async fn links(ask: &Handle) -> Result<BTreeMap<u32, Link>, rtnetlink::Error> {
    let messages: Vec<_> = ask.link().get().execute().try_collect().await?;
    Ok(messages.iter().filter_map(Link::from_message).map(|link| (link.index, link)).collect())
}

/// All addresses of the host, of both families, the loopback's included.
pub(crate) async fn locals(ask: &Handle) -> Result<BTreeSet<IpAddr>, rtnetlink::Error> {
    let messages: Vec<_> = ask.address().get().execute().try_collect().await?;
    let local = |attributes: &[AddressAttribute]| {
        // On a point-to-point link `Address` is the peer's and `Local` the own; IPv6 has `Address` alone otherwise.
        let own = attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(own) => Some(*own),
            _ => None,
        });
        own.or_else(|| {
            attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            })
        })
    };
    Ok(messages.iter().filter_map(|message| local(&message.attributes)).collect())
}
