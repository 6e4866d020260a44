//! VIPs by their ends, where a packet finds them by one multiplication and one cache line, without the call of a helper that a hash
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
    let word = end.addr.hi ^ end.addr.lo.rotate_left(21) ^ port_and_protocol(end);
    let hash = word.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((hash >> 32) as u32 & (lines - 1), hash & 0xffff << 48)
}

/// Lines for so many VIPs: a quarter of the ways is used at the most, so nearly all find one.
pub const fn lines_for(vips: u32) -> u32 {
    (2 * vips).next_power_of_two()
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
    use crate::net::TCP;
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

    #[test]
    fn nearly_all_of_the_vips_allowed_have_room() {
        for vips in [256u16, 1000] {
            let lines = lines_for(vips.into());
            let mut used = vec![0; lines as usize];
            (0..vips).for_each(|n| used[place(&end(n), lines).0 as usize] += 1);
            let without: usize = used.iter().map(|ways: &usize| ways.saturating_sub(VIP_WAYS)).sum();
            assert!(without * 50 < vips.into(), "{without} of {vips}");
        }
    }
}
