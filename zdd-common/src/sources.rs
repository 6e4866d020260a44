//! What a VIP makes of where its packets come from: denied ones, and those whose flows have a row of cells of their own.
//!
//! A trie by {set, address}: a VIP names its set, and a set is never changed. Other prefixes are another set, written whole and then
//! named instead, by one write: no packet sees half of a change.

use crate::net::Addr;
use crate::spans::halves;

/// Key of the trie, in the order of its bits: number of the set, address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct SourceKey {
    /// Its bytes, as they stand in a frame.
    pub words: [u32; 5],
}
wire!(SourceKey, 20, { words: [u32; 5] });

/// Bits of a [`SourceKey`] before the address's.
pub const BEFORE_ADDR: u32 = 32;

impl SourceKey {
    /// The key of an address in a set.
    #[inline(always)]
    pub const fn of(set: u32, addr: &Addr) -> Self {
        let [a, b] = halves(addr.hi);
        let [c, d] = halves(addr.lo);
        Self { words: [set, a, b, c, d] }
    }

    /// Its set.
    #[inline(always)]
    pub const fn set(&self) -> u32 {
        self.words[0]
    }
}

/// What the longest prefix of a source says.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Source {
    /// [`Source::DENIED`] or 0.
    pub flags: u16,
    /// Number of the row of cells that steers its flows.
    pub service: u16,
}
wire!(Source, 4, { flags: u16, service: u16 });

impl Source {
    /// Its packets are dropped.
    pub const DENIED: u16 = 1;
}
