//! Alerts: what somebody must know, told once, told again while it lasts, and told when it is over.
//!
//! [`trouble`] names what can be wrong, [`book`] is the pure count of what was told to whom, [`message`] the texts, [`run`] asks the
//! loop and sends. The book is on the disk before anything is sent: after a kill nothing is told twice that was told, and what
//! ended meanwhile is still told to be over.

pub mod book;
mod message;
mod run;
pub mod spec;
pub mod trouble;

pub use run::run;
pub use spec::{AlertSpec, Channel};
pub use trouble::{Kind, Trouble};
