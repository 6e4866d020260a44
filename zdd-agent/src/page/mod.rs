//! The page: everything that `zdd status` shows, drawn, on a loopback address, and alive.
//!
//! It is plain files in this binary and asks nobody else for anything. [`feed`] takes a snapshot each second while somebody looks
//! (each five seconds otherwise, for the history of the split), [`server`] answers, [`guard`] decides who may ask, and [`actions`]
//! is how a page that was allowed to changes something.

mod actions;
mod feed;
mod guard;
mod server;
mod token;

pub use server::PageServer;
pub use token::TokenError;
