//! The ports of `snat`, checked like `steer` is: frames go through the very [`zdd_common::process::process`], mappings are swept by the very
//! [`zdd_common::snat::mapping::sweep`], in worlds with one or two ports to give out and every order of events.
//!
//! Packets may stay inside the program: then every single load, store and compare-and-swap on a mapping is a step of its own, and
//! anything may happen between two of them. What is *not* checked here: weak memory (operations are in one order for everybody), and
//! which backend a flow goes to, which is `steer`'s to say and each connection's to keep.
//!
//! Read in this order: [`config`], [`state`], [`traced`] and [`program`] (how the real code runs, whole or step by step), [`ends`]
//! (what clients and backends do, and what must hold), [`step`], [`worlds`].

pub mod config;
pub mod ends;
pub mod program;
pub mod report;
pub mod state;
pub mod step;
pub mod traced;
pub mod worlds;
