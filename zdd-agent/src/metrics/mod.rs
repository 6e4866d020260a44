//! Prometheus metrics on a loopback address.
//!
//! Nothing is counted here: the kernel counts, the agent answers with the same [`Snapshot`](crate::report::Snapshot) that every
//! other view shows, [`families`] gives its numbers names and [`server`] serves them. What is about the agent's own process is
//! read by [`process`].

mod families;
mod process;
mod server;

pub use families::{CONTENT_TYPE, encode};
pub use server::{MetricsServer, Source};
