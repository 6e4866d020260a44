//! The SYN filter: which SYNs were seen lately, in a sketch of fixed size that needs nobody to clean it.
//!
//! A cache line holds four epochs of two words each. A SYN sets six bits of one word of the current epoch and is known
//! if the same six bits are set in the current epoch or one of the two before; so a SYN is remembered for two to three
//! epochs. The fourth part is the next epoch's: every SYN clears its word there, in the first three quarters of an epoch
//! only, so that a clock that is behind cannot clear what a clock that is ahead has set. A word that no SYN touches for an
//! epoch keeps old bits: it can only say "known" wrongly, which sends a new flow to base, never move an old one.

use crate::atomic::Atomics;
use crate::time::Tick;

/// Words per line.
pub const WORDS: usize = 8;
const EPOCHS: u64 = 4;
/// Bit of the hash that chooses the word; six positions of six bits each lie below it, the line above it.
const PAIR: u32 = 36;

/// One cache line of the filter.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Line {
    /// Two words for each of four epochs.
    pub words: [u64; WORDS],
}
wire!(Line, 64, { words: [u64; WORDS] });

/// Index of a hash's line in a filter of `lines` (a power of two).
#[inline(always)]
pub const fn line_of(hash: u64, lines: u32) -> u32 {
    (hash >> (PAIR + 1)) as u32 & (lines - 1)
}

/// Ticks per epoch as a power of two so that a SYN is remembered for at least `memory` ticks.
pub const fn epoch_shift(memory: u32) -> u32 {
    // Two whole epochs surely pass before a SYN is forgotten.
    let epoch = memory.div_ceil(2);
    if epoch <= 1 { 0 } else { 32 - (epoch - 1).leading_zeros() }
}

/// Ticks after which a SYN is surely forgotten.
pub const fn memory_max(epoch_shift: u32) -> u32 {
    3 << epoch_shift
}

/// Whether a SYN's bits are set.
///
/// # Safety
/// `line` is valid.
#[inline(always)]
pub unsafe fn known<A: Atomics>(line: *mut Line, hash: u64, now: Tick, epoch_shift: u32) -> bool {
    let bits = bits_of(hash);
    // SAFETY: the caller's promise; every index is below WORDS.
    let set = |back: u64| unsafe { A::load(word_of(line, hash, now, epoch_shift, back)) & bits == bits };
    set(0) || set(1) || set(2)
}

/// Sets a SYN's bits and tells whether they were set already.
///
/// # Safety
/// `line` is valid.
#[inline(always)]
pub unsafe fn check_and_set<A: Atomics>(line: *mut Line, hash: u64, now: Tick, epoch_shift: u32) -> bool {
    let bits = bits_of(hash);
    // SAFETY: the caller's promise.
    let word = |back: u64| unsafe { word_of(line, hash, now, epoch_shift, back) };
    // SAFETY: every index is below WORDS.
    unsafe {
        let before = A::or(word(0), bits);
        let known =
            before & bits == bits || A::load(word(1)) & bits == bits || A::load(word(2)) & bits == bits;
        let next = word(3);
        let phase = now.0 & ((1 << epoch_shift) - 1);
        if phase < (3 << epoch_shift) >> 2 && A::load(next) != 0 {
            A::store(next, 0);
        }
        known
    }
}

#[inline(always)]
const fn bits_of(hash: u64) -> u64 {
    let mut bits = 0;
    let mut n = 0;
    while n < 6 {
        bits |= 1 << (hash >> (6 * n) & 63);
        n += 1;
    }
    bits
}

/// The word of a hash, so many epochs back.
///
/// # Safety
/// `line` is valid.
#[inline(always)]
unsafe fn word_of(line: *mut Line, hash: u64, now: Tick, epoch_shift: u32, back: u64) -> *mut u64 {
    let epoch = u64::from(now.0 >> epoch_shift);
    // Two steps, each with a bound of its own: of numbers put together by OR, the verifier of Linux 6.1 knows no bound.
    // SAFETY: the sum is below WORDS.
    unsafe {
        let half = line.cast::<u64>().add((hash >> PAIR & 1) as usize);
        half.add((epoch.wrapping_sub(back) & (EPOCHS - 1)) as usize * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic::Host;
    use crate::hash::fold;

    fn seen(line: &mut Line, hash: u64, now: u32) -> bool {
        // SAFETY: a reference is valid.
        unsafe { check_and_set::<Host>(line, hash, Tick(now), 4) }
    }

    #[test]
    fn a_syn_is_known_for_two_epochs_and_forgotten_after_three() {
        for start in 0..64 {
            let mut line = Line::default();
            let hash = fold(1, start.into());
            assert!(!seen(&mut line, hash, start));
            // Others come by meanwhile and keep the line clean.
            for now in start..start + 32 {
                seen(&mut line, fold(2, now.into()) & !(1 << PAIR) | hash & 1 << PAIR, now);
            }
            let mut copy = line;
            assert!(seen(&mut copy, hash, start + 32), "start {start}");
            let mut line = Line::default();
            seen(&mut line, hash, start);
            for now in start..start + 3 * 16 + 16 {
                // A SYN whose bits are a single one: it cleans, and hardly fills.
                seen(&mut line, hash & 1 << PAIR, now);
            }
            assert!(!seen(&mut line, hash | 0x3f, start + 4 * 16), "start {start}");
        }
    }

    #[test]
    fn an_epoch_is_long_enough_for_the_memory_asked_for() {
        for memory in 1..2000 {
            assert!(2 << epoch_shift(memory) >= memory);
            assert!(memory < 3 || 2 << epoch_shift(memory) < 2 * memory + 2, "{memory}");
        }
    }

    #[test]
    fn false_alarms_are_few_at_the_size_advised() {
        // 16 bits per SYN of the memory's length: two live epochs of two words in a line, 8 SYNs per word and epoch at 16
        // bits each would be 4; take 4.
        let mut alarms = 0;
        let lines = 1 << 12;
        let mut filter = vec![Line::default(); lines];
        let per_epoch = lines * 2 * 4;
        for n in 0..3 * per_epoch {
            let epoch = (n / per_epoch) as u32;
            let hash = fold(99, n as u64);
            let line = &mut filter[line_of(hash, lines as u32) as usize];
            alarms += u32::from(seen(line, hash, epoch * 16 + 1));
        }
        assert!(alarms < 3 * per_epoch as u32 / 180, "{alarms} of {}", 3 * per_epoch);
    }
}
