//! This host's gateways. Replies to clients behind them leave by their hardware address, which nothing else may have made
//! the kernel learn: XDP sends frames without asking its neighbour table to.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use futures::TryStreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteVia};
use tokio::sync::watch;

/// How often the routes are read again. A new gateway is learned sooner by the first reply that asks for it.
const AGAIN: Duration = Duration::from_secs(5);

/// The gateways of all routes now, and whenever they change. Ends when the receiver is dropped.
pub async fn watch_gateways() -> watch::Receiver<BTreeSet<IpAddr>> {
    let first = gateways().await.unwrap_or_default();
    let (tell, hears) = watch::channel(first);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = tell.closed() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
            match gateways().await {
                Ok(now) => {
                    tell.send_if_modified(|known| {
                        let changed = *known != now;
                        *known = now;
                        changed
                    });
                }
                Err(error) => tracing::debug!(%error, "the routes cannot be read"),
            }
        }
    });
    hears
}

async fn gateways() -> Result<BTreeSet<IpAddr>, rtnetlink::Error> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|error| rtnetlink::Error::NamespaceError(error.to_string()))?;
    let task = tokio::spawn(connection);
    let mut all = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        let mut answers = handle.route().get(question).execute();
        while let Some(route) = answers.try_next().await? {
            for attribute in route.attributes {
                match attribute {
                    RouteAttribute::Gateway(RouteAddress::Inet(addr))
                    | RouteAttribute::Via(RouteVia::Inet(addr)) => {
                        all.insert(IpAddr::V4(addr));
                    }
                    RouteAttribute::Gateway(RouteAddress::Inet6(addr))
                    | RouteAttribute::Via(RouteVia::Inet6(addr))
                        // A link-local gateway needs its interface with it, which a destination here does not have.
                        if !addr.is_unicast_link_local() =>
                    {
                        all.insert(IpAddr::V6(addr));
                    }
                    _ => {}
                }
            }
        }
    }
    task.abort();
    Ok(all)
}
