//! Pure planning: from what is wanted and what is known to what the maps shall hold. No I/O, no clock.

mod changes;
mod currents;
mod held;
mod merge;
mod panic;

pub use changes::{changes, refusals};
pub use currents::{Candidate, Currents, Usable, currents, usable};
pub use held::{Held, Taken, refusal, taken};
pub use merge::{Merged, merge};
pub use panic::{Panic, panic};
