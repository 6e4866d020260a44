//! What the kernel knows: routes and neighbours, by netlink.

use std::collections::HashMap;
use std::net::IpAddr;

use futures::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia};
use rtnetlink::{Error, Handle};

use crate::links::Mac;

/// The way that the routing table shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Out of an interface, to a gateway or to the destination itself.
    Out { ifindex: u32, via: Option<IpAddr> },
    /// To this host itself.
    Local,
    /// Nowhere, in the kernel's words.
    None(String),
}

/// One neighbour entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) state: NeighbourState,
    pub(super) mac: Option<Mac>,
}

/// Looks the way to `addr` up, as for a packet that this host sends.
///
/// # Errors
/// The kernel did not answer; that there is no way is an answer.
pub(super) async fn way(ask: &Handle, addr: IpAddr) -> Result<Way, Error> {
    let mut question = RouteMessage::default();
    (question.header.address_family, question.header.destination_prefix_length) = match addr {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    question.attributes.push(RouteAttribute::Destination(addr.into()));
    let answer: Result<Vec<_>, Error> = ask.route().get(question).execute().try_collect().await;
    match answer {
        Ok(routes) => Ok(routes.first().map_or_else(|| Way::None("the kernel names none".into()), read_way)),
        Err(Error::NetlinkError(error)) => match error.raw_code().abs() {
            libc::ENETUNREACH => Ok(Way::None("network is unreachable".into())),
            libc::EHOSTUNREACH => Ok(Way::None("an unreachable route covers it".into())),
            libc::EACCES => Ok(Way::None("a prohibit route covers it".into())),
            // What a blackhole route answers, and an address that nothing can be sent to.
            libc::EINVAL => Ok(Way::None("the kernel sends nothing there".into())),
            libc::ENODEV => Ok(Way::None("its interface is gone".into())),
            // Says nothing about the way.
            libc::ENOBUFS | libc::ENOMEM | libc::EINTR | libc::EAGAIN => Err(Error::NetlinkError(error)),
            // Such as a family that this host does not have. One odd address must not keep the others unresolved.
            _ => Ok(Way::None(error.to_io().to_string())),
        },
        Err(error) => Err(error),
    }
}

/// Which of these this host would ask for by ARP or neighbour discovery, and out of which interface: others on that link do so, too. A
/// kernel that does not answer knows of none.
pub async fn on_link(addresses: impl IntoIterator<Item = IpAddr>) -> HashMap<IpAddr, u32> {
    let Ok((connection, handle, _)) = rtnetlink::new_connection() else { return HashMap::new() };
    let task = tokio::spawn(connection);
    let mut found = HashMap::new();
    for addr in addresses {
        if let Ok(Way::Out { ifindex, via: None }) = way(&handle, addr).await {
            found.insert(addr, ifindex);
        }
    }
    task.abort();
    found
}

fn read_way(route: &RouteMessage) -> Way {
    match route.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return Way::Local,
        RouteType::Broadcast => return Way::None("it is a broadcast address".into()),
        RouteType::Multicast => return Way::None("it is a multicast address".into()),
        other => return Way::None(format!("its route is of type {other:?}")),
    }
    let mut out = None;
    let mut via = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => out = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => via = Some(IpAddr::V4(*gateway)),
            RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) => via = Some(IpAddr::V6(*gateway)),
            RouteAttribute::Via(RouteVia::Inet(gateway)) => via = Some(IpAddr::V4(*gateway)),
            RouteAttribute::Via(RouteVia::Inet6(gateway)) => via = Some(IpAddr::V6(*gateway)),
            _ => {}
        }
    }
    out.map_or_else(|| Way::None("its route names no interface".into()), |ifindex| Way::Out { ifindex, via })
}

/// The address that a neighbour message is about.
pub(super) fn neighbour_address(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(addr)) => Some(IpAddr::V4(*addr)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(addr)) => Some(IpAddr::V6(*addr)),
        _ => None,
    })
}

/// All neighbour entries of IPv4 and IPv6, by interface and address.
pub(super) async fn neighbours(ask: &Handle) -> Result<HashMap<(u32, IpAddr), Entry>, Error> {
    let messages: Vec<_> = ask.neighbours().get().execute().try_collect().await?;
    let entries = messages.iter().filter_map(|message| {
        let mac = message.attributes.iter().find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok().map(Mac),
            _ => None,
        });
        let key = (message.header.ifindex, neighbour_address(message)?);
        Some((key, Entry { state: message.header.state, mac }))
    });
    Ok(entries.collect())
}

/// Tells the kernel that somebody wants to send to `addr` on `ifindex`: it asks who has it, or makes sure that a stale
/// entry is still right. Returns before there is an answer. Not for permanent entries: they would not be permanent
/// any more.
pub(super) async fn nudge(ask: &Handle, ifindex: u32, addr: IpAddr) -> Result<(), Error> {
    let request = ask.neighbours().add(ifindex, addr).state(NeighbourState::None).flags(NeighbourFlags::Use);
    request.replace().execute().await
}
