//! The explicit-state model checker: the very [`zdd_common::steer::steer`] and the agent's [`zdd_common::rules`] in small
//! worlds, every order of events, every state visited once.
//!
//! Read in this order: [`config`] (what a world consists of), [`state`], [`tables`] (what a packet sees), [`packets`]
//! (what must hold), [`agent`], [`clients`], [`step`] (what may happen), [`search`], [`worlds`]. The ports of `snat` have worlds of their
//! own: [`snat`].

pub mod ablation;
pub mod agent;
pub mod clean;
pub mod clients;
pub mod config;
pub mod event;
pub mod fingerprint;
pub mod inside;
pub mod packets;
pub mod report;
pub mod search;
pub mod snat;
pub mod state;
pub mod step;
pub mod tables;
pub mod worlds;
