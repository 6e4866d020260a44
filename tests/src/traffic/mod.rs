//! Real TCP and UDP through the rig: servers that say who they are, clients that check it and keep accounts.
//!
//! Everything runs in this process, on one thread for all servers and one for all clients: a socket belongs to the namespace in which
//! it was made, so [`Servers`] only enter the backends' namespaces to open their sockets.

mod client;
mod ledger;
mod long;
mod probe;
mod protocol;
mod server;
mod short;
mod socket;
mod udp;

pub use client::{Load, LoadSpec, Target};
pub use ledger::{Counts, Incident, Ledger, Share, ShortRecord, Slope, flipped_back};
pub use probe::{Probed, Prober, first_new_ms};
pub use protocol::{Fleet, Greeting, Member, Place};
pub use server::{Fault, ServerSpec, Servers};
