//! Health checks: facts in, transitions out.
//!
//! [`spec`] is what was asked for, [`probe`] makes one attempt, [`depends`] reads what an answer says of others, [`machine`] turns
//! attempts into a state, [`checker`] runs all of it for a list of targets that changes, within a [`budget`]. Nothing here knows
//! what a transition is good for.

mod beat;
pub mod budget;
pub mod checker;
pub mod depends;
mod jitter;
pub mod machine;
pub mod probe;
pub mod spec;

pub use budget::ProbeBudget;
pub use checker::{Checker, CheckerOptions, Prober, Question, Seen, Status, Target, Transition};
pub use depends::DependencyState;
pub use machine::{Health, Machine};
pub use probe::{NetworkProber, ProbeFailure};
