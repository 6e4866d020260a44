//! The built `zdd` against a real socket, with a loop of our own behind it that answers like an agent.

mod answers;
mod commands;
mod errors;
mod rig;
mod rollout;
mod serving;
