//! VIPs by their ends, where a packet finds them by two multiplications and one cache line, without the call of a helper that a hash
//! map costs.
//!
//! A copy for speed of what the table of ends says: most VIPs are here, each in one of the two ways of its line, and whoever
//! does not find one asks there. Only the agent writes. A way's key is written while its word is 0; a word that is taken back is
//! 0 at once, and its way gets another key only after a time in which no packet can still be looking at the old one. A packet that
//! did all the same is told off by the tag: key and word are of one VIP, or the word counts for nothing.

use crate::atomic::Atomics;
use crate::entries::VipWord;
use crate::net::{Addr, End};

/// VIPs of one line.
pub const VIP_WAYS: usize = 2;

/// One cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct VipLine {
    /// Whose each way is; all zero: nobody's so far.
    pub keys: [End; VIP_WAYS],
    /// [`VipWord`] of each way with the tag of its key, or 0.
    pub words: [u64; VIP_WAYS],
}
wire!(VipLine, 64, { keys: [End; VIP_WAYS], words: [u64; VIP_WAYS] });

/// Where the VIP of an end would be: the index of its line among `lines` (a power of two), and its tag in bits 48-63. Without a key:
/// only operators choose VIPs.
#[inline(always)]
pub const fn place(end: &End, lines: u32) -> (u32, u64) {
    // Words lie as they came, so the last bytes of an address, which tell most VIPs apart, are the highest, and only the product's
    // highest bits depend on them: the line comes from there, and the tag from all.
    let word = end.addr.hi ^ end.addr.lo.rotate_left(32) ^ port_and_protocol(end);
    let hash = word.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((((hash >> 32) * lines as u64) >> 32) as u32, (hash ^ (hash << 16)) & (0xffff << 48))
}

/// Lines for so many VIPs: one way in sixteen is used at the most, so nearly all find one.
pub const fn lines_for(vips: u32) -> u32 {
    (8 * vips).next_power_of_two()
}

/// The last eight bytes of an end, as they lie in memory.
#[inline(always)]
const fn port_and_protocol(end: &End) -> u64 {
    let [a, b] = end.port.to_ne_bytes();
    u64::from_ne_bytes([a, b, end.proto, 0, 0, 0, 0, 0])
}

/// Whether a way is an end's.
///
/// # Safety
/// `line` is valid and `way` below [`VIP_WAYS`].
#[inline(always)]
pub unsafe fn is<A: Atomics>(line: *const VipLine, way: usize, end: &End) -> bool {
    // SAFETY: the caller's promise; an end is three aligned words.
    unsafe {
        let key = (&raw const (*line).keys[way]).cast::<u64>();
        let Addr { hi, lo } = end.addr;
        A::load(key.add(1)) == lo && A::load(key.add(2)) == port_and_protocol(end) && A::load(key) == hi
    }
}

/// Looks an end up in its line.
///
/// # Safety
/// `line` is valid.
#[inline(always)]
pub unsafe fn find<A: Atomics>(line: *const VipLine, end: &End, tag: u64) -> Option<VipWord> {
    for way in 0..VIP_WAYS {
        // SAFETY: the caller's promise.
        unsafe {
            if is::<A>(line, way, end) {
                let word = A::load(&raw const (*line).words[way]);
                // 0 has no tag either, or a word of 0 bits but the tag's: none of a VIP's, see VipWord.
                return if word != 0 && word & 0xffff << 48 == tag { Some(VipWord(word)) } else { None };
            }
        }
    }
    None
}

/// Writes the key of a way whose word is 0 and has been for long enough.
///
/// # Safety
/// `line` is valid, `way` below [`VIP_WAYS`], and nobody else writes.
pub unsafe fn claim<A: Atomics>(line: *mut VipLine, way: usize, end: &End) {
    // SAFETY: the caller's promise; an end is three aligned words.
    unsafe {
        let key = (&raw mut (*line).keys[way]).cast::<u64>();
        A::store(key, end.addr.hi);
        A::store(key.add(1), end.addr.lo);
        A::store(key.add(2), port_and_protocol(end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic::Host;
    use crate::entries::{EndEntry, EndKind};
    use crate::net::{TCP, UDP};
    use crate::signals::Rate;

    fn end(n: u16) -> End {
        End::new(Addr::v4([10, 80, (n >> 8) as u8, n as u8]), 443u16.to_be(), TCP)
    }

    #[test]
    fn a_vip_is_found_by_its_end_alone() {
        let entry = EndEntry { kind: EndKind::Vip as u16, service: 7, id: 9, ..EndEntry::default() };
        let entry = entry.with_rate(Rate::one_in(3));
        let word = VipWord::of(&entry).expect("a VIP without sources");
        assert_eq!(word.entry(), entry);
        let mut line = VipLine::default();
        let (_, tag) = place(&end(1), 64);
        // SAFETY: a reference is valid.
        unsafe {
            assert_eq!(find::<Host>(&raw const line, &end(1), tag), None);
            claim::<Host>(&raw mut line, 1, &end(1));
            assert_eq!(find::<Host>(&raw const line, &end(1), tag), None, "its word is not there yet");
            line.words[1] = word.0 | tag;
            let found = find::<Host>(&raw const line, &end(1), tag).expect("it is there");
            assert_eq!(found.entry(), entry);
            assert_eq!(find::<Host>(&raw const line, &end(2), tag), None);
            line.words[1] = word.0 | !tag & 0xffff << 48;
            assert_eq!(find::<Host>(&raw const line, &end(1), tag), None, "the word of another key");
        }
    }

    #[test]
    fn what_a_word_cannot_say_has_none() {
        let vip = EndEntry { kind: EndKind::Vip as u16, ..EndEntry::default() };
        assert!(VipWord::of(&vip).is_some_and(|word| word.0 != 0));
        assert_eq!(VipWord::of(&EndEntry { sources: 1, ..vip }), None);
        assert_eq!(VipWord::of(&EndEntry { vip_port: 1, ..vip }), None);
        assert_eq!(VipWord::of(&EndEntry { kind: EndKind::NatBackend as u16, ..vip }), None);
    }

    /// Ends as operators number them.
    fn plan(name: &str, n: u16) -> End {
        let [high, low] = n.to_be_bytes();
        let v4 = |a, b| Addr::v4([10, 80, a, b]);
        let v6 = |words: [u16; 8]| Addr::from(std::net::IpAddr::V6(words.into()));
        let (addr, port, proto) = match name {
            "one port" => (v4(high, low), 443, TCP),
            "two ports" => (v4(0, (n / 2) as u8), if n.is_multiple_of(2) { 80 } else { 443 }, TCP),
            "tcp and udp" => (v4(0, (n / 2) as u8), 53, if n.is_multiple_of(2) { TCP } else { UDP }),
            "ports of one address" => (v4(0, 1), 30_000 + n, TCP),
            "v6, host numbers" => (v6([0xfd00, 0, 0, 0x10, 0, 0, 0, n]), 443, TCP),
            "v6, a network each" => (v6([0x2001, 0xdb8, 0, n, 0, 0, 0, 1]), 443, TCP),
            "v6, a site each" => (v6([0x2001, 0xdb8, n, 0, 0, 0, 0, 1]), 443, TCP),
            "both families" if n.is_multiple_of(2) => (v4(0, (n / 2) as u8), 443, TCP),
            "both families" => (v6([0xfd00, 0, 0, 0x10, 0, 0, 0, n / 2]), 443, TCP),
            _ => {
                let [a, b, c, d, ..] = crate::hash::fold(11, n.into()).to_ne_bytes();
                (Addr::v4([a, b, c, d]), 443, TCP)
            }
        };
        End::new(addr, port.to_be(), proto)
    }

    #[test]
    fn nearly_all_of_the_vips_allowed_have_room() {
        for name in [
            "one port",
            "two ports",
            "tcp and udp",
            "ports of one address",
            "v6, host numbers",
            "v6, a network each",
            "v6, a site each",
            "both families",
            "at random",
        ] {
            let vips = 500u16;
            let lines = lines_for(vips.into());
            let mut used = vec![0; lines as usize];
            (0..vips).for_each(|n| used[place(&plan(name, n), lines).0 as usize] += 1);
            let without: usize = used.iter().map(|ways: &usize| ways.saturating_sub(VIP_WAYS)).sum();
            assert!(without * 100 < vips.into(), "{name}: {without} of {vips}");
        }
    }

    #[test]
    fn the_tags_of_one_line_differ() {
        for name in ["one port", "v6, host numbers", "v6, a network each", "v6, a site each", "at random"] {
            let tags: std::collections::BTreeSet<u64> =
                (0..500).map(|n| place(&plan(name, n), 1).1).collect();
            assert!(tags.len() > 490, "{name}: {} of 500", tags.len());
        }
    }
}
