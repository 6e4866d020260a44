//! The host's interfaces and addresses, and how they change.

mod features;
mod link;
pub(crate) mod netlink;
mod pattern;
mod watcher;
pub mod xdp;

pub use link::{Link, LinkEvent, Mac, Vlan, underlying};
pub use pattern::matches;
pub use watcher::{LinkWatcher, LinksError};
