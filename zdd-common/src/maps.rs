//! Map values that only carry: configuration, quotas, counters. And the maps' names.

use crate::net::End;
use crate::reason::Reason;
use crate::spans::SKETCH_WORDS;

/// Read-only data of the program, set when it is loaded.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Config {
    /// Buckets of the flow table, a power of two.
    pub buckets: u32,
    /// Lines of the SYN filter, a power of two.
    pub lines: u32,
    /// Ticks per epoch of the SYN filter, as a power of two.
    pub epoch_shift: u32,
}
wire!(Config, 12, { buckets: u32, lines: u32, epoch_shift: u32 });

/// Entries of the flow table by [`crate::entries::Class`]. Packets add and take back; the sweep takes what it frees.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Quotas {
    /// In use.
    pub used: [u64; 3],
    /// Allowed.
    pub limit: [u64; 3],
    /// 0.
    pub reserved: [u64; 2],
}
wire!(Quotas, 64, { used: [u64; 3], limit: [u64; 3], reserved: [u64; 2] });

/// Words of [`Repliers`].
const REPLIER_WORDS: usize = 512;

/// A sketch of the ends that are not in [`crate::vips`], 4 KiB: most packets that are for no VIP come from no `nat` backend either
/// and go to none, and this says so without two lookups in the table of ends, which cost several cold cache lines each. Wrong only
/// towards "maybe".
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repliers {
    /// One bit per end, at [`Repliers::place`].
    pub words: [u64; REPLIER_WORDS],
    /// The same of addresses that have ends of many ports, at [`crate::spans::sketched`].
    pub spans: [u64; SKETCH_WORDS],
}
wire!(Repliers, 4160, { words: [u64; REPLIER_WORDS], spans: [u64; SKETCH_WORDS] });

impl Default for Repliers {
    fn default() -> Self {
        Self { words: [0; REPLIER_WORDS], spans: [0; SKETCH_WORDS] }
    }
}

impl Repliers {
    /// Index of an end's word, below 512, and its bit. Without a key: whoever aims at a bit only gets the lookup.
    #[inline(always)]
    pub const fn place(end: &End) -> (usize, u64) {
        let word = end.addr.hi ^ end.addr.lo.rotate_left(21) ^ (end.port as u64 | (end.proto as u64) << 16);
        let hash = word.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((hash >> 55) as usize & (REPLIER_WORDS - 1), 1 << (hash >> 49 & 63))
    }
}

/// Counters of a service or backend on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counters {
    /// Packets forwarded.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// Flows that began.
    pub new_flows: u64,
    /// Entries learned from flows already under way.
    pub learned: u64,
    /// Packets that went to base because an entry could not be made.
    pub fallback: u64,
    /// Packets of a second identity.
    pub alt: u64,
}
wire!(Counters, 48, { packets: u64, bytes: u64, new_flows: u64, learned: u64, fallback: u64, alt: u64 });

impl Counters {
    /// Counts one forwarded packet.
    #[inline(always)]
    pub fn add(&mut self, bytes: u32, reason: Reason, new_flow: bool) {
        self.packets += 1;
        self.bytes += bytes as u64;
        self.new_flows += new_flow as u64;
        match reason {
            Reason::Learned => self.learned += 1,
            Reason::Fallback => self.fallback += 1,
            Reason::Alt => self.alt += 1,
            _ => {}
        }
    }

    /// Sum over CPUs.
    pub fn sum(all: impl IntoIterator<Item = Self>) -> Self {
        all.into_iter().fold(Self::default(), |a, b| Self {
            packets: a.packets + b.packets,
            bytes: a.bytes + b.bytes,
            new_flows: a.new_flows + b.new_flows,
            learned: a.learned + b.learned,
            fallback: a.fallback + b.fallback,
            alt: a.alt + b.alt,
        })
    }
}

/// What was turned away of a service on one CPU. Only packets that are dropped write it: those that are forwarded do not come near.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Refusals {
    /// [`Reason::DropDenied`].
    pub denied: u64,
    /// [`Reason::DropRate`].
    pub limited: u64,
    /// [`Reason::DropNoBackend`].
    pub no_backend: u64,
    /// 0.
    pub reserved: u64,
}
wire!(Refusals, 32, { denied: u64, limited: u64, no_backend: u64, reserved: u64 });

impl Refusals {
    /// Counts one packet; of any other reason nothing.
    #[inline(always)]
    pub fn add(&mut self, reason: Reason) {
        match reason {
            Reason::DropDenied => self.denied += 1,
            Reason::DropRate => self.limited += 1,
            Reason::DropNoBackend => self.no_backend += 1,
            _ => {}
        }
    }

    /// Sum over CPUs, or services.
    pub fn sum(all: impl IntoIterator<Item = Self>) -> Self {
        all.into_iter().fold(Self::default(), |a, b| Self {
            denied: a.denied + b.denied,
            limited: a.limited + b.limited,
            no_backend: a.no_backend + b.no_backend,
            reserved: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Addr, TCP};

    #[test]
    fn a_thousand_backends_set_a_thousand_bits_or_nearly() {
        let mut places: Vec<_> = (0..1000u16)
            .map(|n| End::new(Addr::v4([10, 1, (n >> 8) as u8, n as u8]), 8080u16.to_be(), TCP))
            .map(|end| Repliers::place(&end))
            .collect();
        places.sort_unstable();
        places.dedup();
        assert!(places.iter().all(|(word, bit)| *word < REPLIER_WORDS && bit.is_power_of_two()));
        assert!(places.len() > 900, "{}", places.len());
    }
}
