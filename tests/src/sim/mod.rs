//! A simulation of whole balancers under change: millions of heavy-tailed flows over several nodes, through ramps, pool updates,
//! floods, and the loss of nodes and of state. Counts connections that break with our steering, with a hash alone, and with
//! an LRU connection table.
//!
//! Pure and deterministic: the same seed gives the same figures. Ours is the very [`zdd_common::steer`] and
//! [`zdd_common::rules`] that kernel and agent run.
//!
//! ```text
//!  traffic (flows, packets)  ->  ECMP picks a node  ->  each contender's state on that node picks a backend
//!  scenario (weights, pool, losses)  ->  one row of cells for all contenders and nodes
//! ```

mod contender;
mod lru;
mod node;
mod pool;
mod report;
mod run;
mod scenario;
#[cfg(test)]
mod sequences;
mod traffic;

pub use report::{Report, Row, Score};
pub use run::{Size, simulate};
pub use scenario::{SCENARIOS, Scenario};
