//! Health checks: facts in, transitions out.
//!
//! [`probe`] makes one attempt, [`machine`] turns attempts into a state, [`checker`] runs both for a list of
//! targets that changes. Nothing here knows what a transition is good for.

pub mod checker;
mod jitter;
pub mod machine;
pub mod probe;

pub use checker::{Checker, CheckerOptions, Prober, Status, Target, Transition};
pub use machine::{Health, Machine};
pub use probe::{NetworkProber, ProbeFailure};
