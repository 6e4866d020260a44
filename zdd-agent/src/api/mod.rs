//! The agent's gRPC API on a unix socket: the only way in for commands. It translates between messages and
//! [`control`](crate::control) and decides nothing.

pub mod client;
pub mod server;
mod service;
mod socket;
mod wire;

/// Code generated from `proto/zdd/v1/zdd.proto`.
#[expect(
    missing_docs,
    reason = "the proto file documents every field; the generator adds methods of its own"
)]
#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code; which lints it meets changes with the generator"
)]
pub mod pb {
    tonic::include_proto!("zdd.v1");

    /// Descriptors of this package, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/zdd.v1.bin"));
}
