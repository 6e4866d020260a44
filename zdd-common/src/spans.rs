//! Ends that have many ports: VIPs of a range of ports or of all, and the `nat` backends behind them.
//!
//! They lie in a trie by {address, protocol, port} as prefixes of the port's bits, so that the most exact one wins: a range before
//! all ports. An end of one port lies in the table of ends and is found first. A range of `n` ports takes 30 prefixes at the most.

use crate::entries::{EndEntry, EndKind};
use crate::net::{Addr, End};

/// Key of the trie, in the order of its bits: address, protocol, 0, port in network byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct SpanKey {
    /// Its bytes, as they stand in a frame.
    pub words: [u32; 5],
}
wire!(SpanKey, 20, { words: [u32; 5] });

/// Bits of a [`SpanKey`] before the port's.
pub const BEFORE_PORT: u32 = 144;

impl SpanKey {
    /// The key of an end.
    #[inline(always)]
    pub const fn of(end: &End) -> Self {
        let [a, b] = halves(end.addr.hi);
        let [c, d] = halves(end.addr.lo);
        let [p, q] = end.port.to_ne_bytes();
        Self { words: [a, b, c, d, u32::from_ne_bytes([end.proto, 0, p, q])] }
    }
}

/// The first and the last four bytes of a word, as they lie in memory.
#[inline(always)]
pub(crate) const fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

/// An end of many ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Span {
    /// What it is to us. [`EndEntry::vip_port`] of a backend: the first port of the VIP.
    pub end: EndEntry,
    /// The first port, network byte order.
    pub first: u16,
    /// 0.
    pub zero: [u16; 3],
}
wire!(Span, 40, { end: EndEntry, first: u16, zero: [u16; 3] });

impl Span {
    /// What one of its ports (network byte order) is: a VIP tells how far behind the first port it is, a backend which port of the
    /// VIP answers for it.
    #[inline(always)]
    pub const fn at(&self, port: u16) -> EndEntry {
        let mut end = self.end;
        let behind = u16::from_be(port).wrapping_sub(u16::from_be(self.first));
        if end.is(EndKind::Vip) {
            end.vip_port = behind;
        } else {
            end.vip_port = u16::from_be(end.vip_port).wrapping_add(behind).to_be();
        }
        end
    }
}

/// Words of the sketch of addresses that have spans.
pub const SKETCH_WORDS: usize = 8;

/// Word and bit of an address in that sketch. Without a key: whoever aims at a bit only gets the lookup.
#[inline(always)]
pub const fn sketched(addr: &Addr) -> (usize, u64) {
    let hash = (addr.hi ^ addr.lo.rotate_left(21)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((hash >> 61) as usize & (SKETCH_WORDS - 1), 1 << (hash >> 55 & 63))
}

/// The prefixes that make up the ports `first..=last` (host byte order): {first port, how many of its bits count}.
#[cfg(any(test, feature = "std"))]
pub fn prefixes(first: u16, last: u16) -> Vec<(u16, u32)> {
    let (mut at, end) = (u32::from(first), u32::from(last) + 1);
    let mut all = Vec::new();
    while at < end {
        // The largest block that begins here and does not go beyond the end.
        let mut free = at.trailing_zeros().min(16);
        while at + (1 << free) > end {
            free -= 1;
        }
        all.push((at as u16, 16 - free));
        at += 1 << free;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_cover_a_range_exactly() {
        for (first, last) in
            [(8000, 8099), (0, u16::MAX), (1, u16::MAX), (1, 65_534), (80, 81), (65_535, 65_535), (7, 8)]
        {
            let all = prefixes(first, last);
            assert!(all.len() <= 30, "{first}-{last}: {}", all.len());
            let mut next = u32::from(first);
            for (start, bits) in all {
                let size = 1u32 << (16 - bits);
                assert_eq!(u32::from(start), next, "no gap, no overlap");
                assert!(u32::from(start).is_multiple_of(size), "a prefix");
                next += size;
            }
            assert_eq!(next, u32::from(last) + 1);
        }
        assert_eq!(prefixes(0, u16::MAX), [(0, 0)]);
    }

    #[test]
    fn a_key_is_as_its_bytes_stand_in_a_frame() {
        let key = SpanKey::of(&End::new(Addr::v4([10, 0, 0, 9]), 8001u16.to_be(), 6));
        let bytes: Vec<u8> = key.words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(bytes[12..], [10, 0, 0, 9, 6, 0, 0x1f, 0x41]);
    }

    #[test]
    fn a_reply_finds_its_port_of_the_vip() {
        let end =
            EndEntry { kind: EndKind::NatBackend as u16, vip_port: 8000u16.to_be(), ..EndEntry::default() };
        let backend = Span { end, first: 9000u16.to_be(), ..Span::default() };
        assert_eq!(backend.at(9005u16.to_be()).vip_port, 8005u16.to_be());
        let end = EndEntry { kind: EndKind::Vip as u16, ..EndEntry::default() };
        let vip = Span { end, first: 8000u16.to_be(), ..Span::default() };
        assert_eq!(vip.at(8005u16.to_be()).vip_port, 5);
    }
}
