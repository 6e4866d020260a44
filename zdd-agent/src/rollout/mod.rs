//! Rollouts that look after themselves.
//!
//! [`machine`] decides and is pure; [`spec`] is what was asked for, [`stages`] its straight line, [`runs`] the count of an
//! analysis. [`provider`] measures and calls, and knows nothing of rollouts. `reconcile` brings them together: it alone sets
//! weights, on the same path as `zdd shift`.

mod along;
pub mod machine;
mod operator;
pub mod provider;
pub mod report;
pub mod runs;
pub mod saved;
pub mod spec;
pub mod stages;
mod walk;
pub mod windows;

#[cfg(test)]
mod machine_tests;
#[cfg(test)]
mod search_tests;

pub use machine::{Command, Effect, Event, Phase, Plan, Progress, Work, begin, resume, step};
pub use runs::{Outcome, Run};
pub use spec::RolloutSpec;
pub use stages::{Stage, stages};
