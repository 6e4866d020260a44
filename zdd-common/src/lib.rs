//! Every decision that the XDP program, the agent, the tests and the simulations share.
//!
//! The crate is pure: no I/O, no clock, no randomness; whatever it needs comes in through [`tables::Tables`] and
//! [`frame::Frame`]. The XDP program implements these over BPF maps and packet memory, the host over ordinary
//! collections, so that one and the same code is model-checked, property-tested, fuzzed and steers packets.
//!
//! Read in this order: [`entries`] (what the tables hold), [`steer`] (which backend gets this packet), [`process`]
//! (a whole packet: parse, steer, forward), [`odd`] (frames that are not plain), [`snat`] (both ends rewritten), [`flows`] (the flow table), [`rules`] (the agent's side).
#![cfg_attr(not(any(test, feature = "std")), no_std)]

pub mod atomic;
pub mod checksum;
pub mod decap;
pub mod encap;
#[macro_use]
pub mod wire;
#[doc(hidden)]
pub mod bench;
pub mod entries;
pub mod flows;
pub mod forward;
pub mod frame;
pub mod hash;
pub mod limits;
pub mod maps;
pub mod mss;
pub mod net;
pub mod odd;
pub mod pace;
pub mod packet;
pub mod process;
pub mod reason;
pub mod signals;
pub mod snat;
pub mod sources;
pub mod spans;
pub mod steer;
pub mod syn_filter;
pub mod tables;
pub mod time;
pub mod toobig;
pub mod trace;
pub mod vips;

#[cfg(any(test, feature = "std"))]
pub mod maglev;
#[cfg(any(test, feature = "std"))]
pub mod model;
#[cfg(any(test, feature = "std"))]
pub mod rules;
#[cfg(any(test, feature = "std"))]
pub mod split;
