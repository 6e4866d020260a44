//! What the sampled flows of a version say, and whether a candidate is worse than the stable version.
//!
//! [`reading`] adds up what the kernel counted, [`metric`] makes rates and times of it, [`compare`] holds two versions against
//! each other at every interval, by the test in [`sequential`]. All of it is pure.

pub mod compare;
pub mod metric;
pub mod reading;
pub mod sequential;
mod show;
#[cfg(test)]
mod simulated;

pub use compare::{CompareSpec, Comparison};
pub use metric::Metric;
pub use reading::Reading;
