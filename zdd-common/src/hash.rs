//! Keyed hashes of clients and flows. The key is persisted and shared by all nodes, so that they agree on every cell.
//!
//! The mixing is multiply, xor, shift (the finaliser family of MurmurHash3 and SplitMix64): two multiplications a word
//! instead of SipHash's rounds, because it is paid for every packet. It spreads; it does not claim to resist somebody
//! who can measure many outputs.

use crate::net::Addr;

/// 128 secret bits.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HashKey {
    /// Start value.
    pub k0: u64,
    /// Mixed into what chooses within a group.
    pub k1: u64,
}
wire!(HashKey, 16, { k0: u64, k1: u64 });

/// Mixes one word into a hash. A bijection of `hash` for every `word` and of `word` for every `hash`.
#[inline(always)]
pub const fn fold(hash: u64, word: u64) -> u64 {
    let mut x = (hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x ^= x >> 29;
    x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^ (x >> 32)
}

/// Hash of a client address, from [`HashKey::k0`] on. The upper half of an IPv4 address is 0 and says nothing.
#[inline(always)]
pub const fn client(start: u64, addr: Addr) -> u64 {
    let first = if addr.hi == 0 { start } else { fold(start, addr.hi) };
    fold(first, addr.lo)
}

/// Hash of a whole flow: the client's hash, and ports and VIP in one word (see [`crate::entries::FlowKey::ports`]).
#[inline(always)]
pub const fn flow(client: u64, ports: u64) -> u64 {
    fold(client, ports)
}

/// Maps the upper 32 bits of a hash to `0..n` without a division (Lemire, "Fast random integer generation in an
/// interval", 2019; without the rejection step: the bias is below n / 2^32).
#[inline(always)]
pub const fn range(hash: u64, n: u32) -> u32 {
    (((hash >> 32) * n as u64) >> 32) as u32
}
