//! Where frames for a destination go: the interface and the hardware address of the next hop, kept resolved.
//!
//! The kernel does the work: its routes say which way, its neighbour table says who, and when it does not know it is
//! told that somebody wants to, and asks by ARP or neighbour discovery itself. No packet is made here.

mod gateways;
mod judge;
mod read;
mod resolver;

use std::fmt;
use std::net::IpAddr;

pub use gateways::watch_gateways;
pub use read::on_link;
pub use resolver::{NeighbourError, Resolver, ResolverOptions};

use crate::links::Mac;

/// How a frame reaches a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Interface that it leaves by.
    pub ifindex: u32,
    /// That interface's name.
    pub interface: String,
    /// Hardware address to send to.
    pub mac: Mac,
    /// Hardware address to send from: the interface's own.
    pub source_mac: Mac,
    /// Gateway; none when the destination itself is on the link.
    pub via: Option<IpAddr>,
}

impl fmt::Display for NextHop {
    /// `02:00:00:00:00:01%eth0`, with the gateway behind it if there is one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%{}", self.mac, self.interface)?;
        self.via.map_or(Ok(()), |via| write!(f, " via {via}"))
    }
}

/// What is known of the way to a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextHopState {
    /// Frames can be sent.
    Resolved(NextHop),
    /// They cannot.
    Unresolved {
        /// Why, for an operator.
        why: String,
    },
}

impl NextHopState {
    /// The next hop, if it is known.
    pub fn next_hop(&self) -> Option<&NextHop> {
        match self {
            NextHopState::Resolved(hop) => Some(hop),
            NextHopState::Unresolved { .. } => None,
        }
    }
}

impl fmt::Display for NextHopState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NextHopState::Resolved(hop) => hop.fmt(f),
            NextHopState::Unresolved { why } => write!(f, "unresolved: {why}"),
        }
    }
}

/// The way to a destination is another than before, or is known for the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHopChange {
    /// The destination.
    pub addr: IpAddr,
    /// What is known now.
    pub state: NextHopState,
}
