//! The SYN filter: which SYNs were seen lately, in a sketch of fixed size that needs nobody to clean it.
//!
//! A quarter of its lines for each of four epochs. A SYN sets six bits of one word of the current epoch and is known if the same six
//! bits are set in the current epoch or one of the two before; so a SYN is remembered for two to three epochs. The fourth
//! quarter is the next epoch's: in the first eighth of an epoch, every SYN clears its line there, so that a clock that is behind
//! cannot clear what a clock that is ahead has set. A line that no SYN touches in that time keeps old bits: it can only say
//! "known" wrongly, which sends a new flow to base, never move an old one.
//!
//! Whether a SYN was seen in an earlier epoch is asked only where cells change. So what SYNs of settled cells touch is a quarter of the
//! filter, and stays in a cache that all of it would not fit into.

use crate::atomic::Atomics;
use crate::time::Tick;

/// Words per line.
pub const WORDS: usize = 8;
const EPOCHS: u32 = 4;
/// First of the three bits of the hash that choose the word; six positions of six bits each lie below them, the line above.
const WORD: u32 = 36;

/// One cache line of the filter.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Line {
    /// Of one epoch.
    pub words: [u64; WORDS],
}
wire!(Line, 64, { words: [u64; WORDS] });

/// How a filter is laid out.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Lines, a power of two, four at least.
    pub lines: u32,
    /// Ticks per epoch, as a power of two below 32.
    pub epoch_shift: u32,
}

impl Shape {
    /// Index of a hash's line, so many epochs back.
    #[inline(always)]
    const fn line(self, hash: u64, now: Tick, back: u32) -> u32 {
        let quarter = self.lines / EPOCHS;
        let epoch = (now.0 >> self.epoch_shift).wrapping_sub(back) & (EPOCHS - 1);
        epoch * quarter + ((hash >> (WORD + 3)) as u32 & quarter.wrapping_sub(1))
    }
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

/// Remembers a SYN, and tells whether this epoch knew it already. `at` finds a line by its index: a valid one, or none, and then all
/// is known, so that no change happens.
///
/// # Safety
/// What `at` finds is valid.
#[inline(always)]
pub unsafe fn remember<A: Atomics>(
    shape: Shape,
    hash: u64,
    now: Tick,
    at: impl Fn(u32) -> Option<*mut Line>,
) -> bool {
    let bits = bits_of(hash);
    let Some(line) = at(shape.line(hash, now, 0)) else { return true };
    // SAFETY: the caller's promise; every index is below WORDS.
    let before = unsafe { A::or(word_of(line, hash), bits) };
    let phase = now.0 & ((1 << shape.epoch_shift) - 1);
    if phase < 1 << shape.epoch_shift >> 3
        && let Some(next) = at(shape.line(hash, now, 3))
    {
        for word in 0..WORDS {
            // SAFETY: as above.
            unsafe {
                let word = next.cast::<u64>().add(word);
                if A::load(word) != 0 {
                    A::store(word, 0);
                }
            }
        }
    }
    before & bits == bits
}

/// Has what [`remember`] touches fetched, or, if it is about `earlier` epochs, [`known_before`], without waiting for it: loads whose values
/// nobody wants.
///
/// # Safety
/// As of [`remember`].
#[inline(always)]
pub unsafe fn expect<A: Atomics>(
    shape: Shape,
    hash: u64,
    now: Tick,
    earlier: bool,
    at: impl Fn(u32) -> Option<*mut Line>,
) {
    for back in if earlier { 1..3 } else { 0..1 } {
        if let Some(line) = at(shape.line(hash, now, back)) {
            // SAFETY: the caller's promise.
            unsafe { A::load(word_of(line, hash)) };
        }
    }
}

/// Whether one of the two epochs before this one knows a SYN. Asked after [`remember`].
///
/// # Safety
/// As of [`remember`].
#[inline(always)]
pub unsafe fn known_before<A: Atomics>(
    shape: Shape,
    hash: u64,
    now: Tick,
    at: impl Fn(u32) -> Option<*mut Line>,
) -> bool {
    // SAFETY: the caller's promise.
    unsafe { known_in::<A>(shape, hash, now, 1, &at) || known_in::<A>(shape, hash, now, 2, &at) }
}

/// Whether a SYN is known, without remembering it.
///
/// # Safety
/// As of [`remember`].
#[inline(always)]
pub unsafe fn known<A: Atomics>(
    shape: Shape,
    hash: u64,
    now: Tick,
    at: impl Fn(u32) -> Option<*mut Line>,
) -> bool {
    // SAFETY: the caller's promise.
    unsafe { known_in::<A>(shape, hash, now, 0, &at) || known_before::<A>(shape, hash, now, at) }
}

#[inline(always)]
unsafe fn known_in<A: Atomics>(
    shape: Shape,
    hash: u64,
    now: Tick,
    back: u32,
    at: &impl Fn(u32) -> Option<*mut Line>,
) -> bool {
    let bits = bits_of(hash);
    match at(shape.line(hash, now, back)) {
        // SAFETY: the caller's promise; every index is below WORDS.
        Some(line) => unsafe { A::load(word_of(line, hash)) & bits == bits },
        None => true,
    }
}

/// Fraction of the bits that are set in the fullest epoch, of the bits set in each line, in the order of the lines: how surely the filter
/// takes a new SYN for an old one, to the power of six.
pub fn fill(ones: impl ExactSizeIterator<Item = u32>) -> f64 {
    let quarter = ones.len() / EPOCHS as usize;
    let mut epochs = [0u64; EPOCHS as usize];
    for (line, ones) in ones.enumerate() {
        // Those of a number that is no multiple of four are never used.
        if let Some(epoch) = epochs.get_mut(line.checked_div(quarter).unwrap_or(usize::MAX)) {
            *epoch += u64::from(ones);
        }
    }
    let fullest = epochs.into_iter().max().unwrap_or(0);
    if quarter == 0 { 1.0 } else { fullest as f64 / (quarter * size_of::<Line>() * 8) as f64 }
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

/// A hash's word in its line.
///
/// # Safety
/// `line` is valid.
#[inline(always)]
unsafe fn word_of(line: *mut Line, hash: u64) -> *mut u64 {
    // SAFETY: three bits are below WORDS.
    unsafe { line.cast::<u64>().add((hash >> WORD & (WORDS as u64 - 1)) as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic::Host;
    use crate::hash::fold;
    use std::cell::RefCell;

    const SHIFT: u32 = 4;

    struct Filter(RefCell<Vec<Line>>);

    impl Filter {
        fn new(lines: usize) -> Self {
            Self(RefCell::new(vec![Line::default(); lines]))
        }

        fn at(&self) -> impl Fn(u32) -> Option<*mut Line> {
            |line| self.0.borrow_mut().get_mut(line as usize).map(|line| &raw mut *line)
        }

        fn shape(&self) -> Shape {
            Shape { lines: self.0.borrow().len() as u32, epoch_shift: SHIFT }
        }

        /// Remembers a SYN and tells whether it was known.
        fn seen(&self, hash: u64, now: u32) -> bool {
            // SAFETY: lines of a vector that does not grow.
            unsafe {
                remember::<Host>(self.shape(), hash, Tick(now), self.at())
                    || known_before::<Host>(self.shape(), hash, Tick(now), self.at())
            }
        }

        fn known(&self, hash: u64, now: u32) -> bool {
            // SAFETY: as above.
            unsafe { known::<Host>(self.shape(), hash, Tick(now), self.at()) }
        }
    }

    #[test]
    fn a_syn_is_known_for_two_epochs_and_forgotten_after_three() {
        for start in 0..64 {
            // One line for each epoch.
            let filter = Filter::new(4);
            let hash = fold(1, u64::from(start) + 100);
            assert!(!filter.known(hash, start) && !filter.seen(hash, start) && filter.known(hash, start));
            // Others come by meanwhile and keep the next epoch's line clean.
            for now in start..start + 32 {
                filter.seen(fold(2, u64::from(now) + 200), now);
            }
            assert!(filter.known(hash, start + 32) && filter.seen(hash, start + 32), "start {start}");
            let filter = Filter::new(4);
            filter.seen(hash, start);
            for now in start..start + 3 * 16 + 16 {
                // A SYN whose bits are a single one: it cleans, and hardly fills.
                filter.seen(0, now);
            }
            assert!(!filter.known(hash, start + 4 * 16), "start {start}");
        }
    }

    #[test]
    fn nothing_is_cleared_late_in_an_epoch() {
        for phase in 0..16 {
            let filter = Filter::new(4);
            let hash = fold(3, 8);
            // By a clock that is ahead.
            filter.seen(hash, 16);
            filter.seen(fold(4, 9), phase);
            assert_eq!(filter.known(hash, 16), phase >= 2, "phase {phase}");
        }
    }

    #[test]
    fn a_filter_without_a_line_knows_all() {
        let (filter, hash) = (Filter::new(4), fold(5, 9));
        let shape = Shape { lines: 8, epoch_shift: SHIFT };
        // SAFETY: as above.
        let beyond = unsafe { known::<Host>(shape, hash, Tick(40), filter.at()) };
        assert!(beyond);
    }

    #[test]
    fn a_flood_within_one_epoch_fills_that_epoch() {
        let fill = |filter: &Filter| {
            fill(filter.0.borrow().iter().map(|line| line.words.iter().map(|word| word.count_ones()).sum()))
        };
        let filter = Filter::new(64);
        assert_eq!(fill(&filter), 0.0);
        for epoch in 0..3 {
            for n in 0..100_000 {
                filter.seen(fold(6, n), epoch * 16 + 8);
            }
            assert_eq!(fill(&filter), 1.0, "epoch {epoch}");
        }
        let half = Filter::new(64);
        // As many bits as the epoch has: of each, 1 - 1/e.
        for n in 0..16 * 512 / 6 {
            half.seen(fold(6, n), 8);
        }
        assert!((fill(&half) - 0.632).abs() < 0.03, "{}", fill(&half));
        assert_eq!(super::fill([].into_iter()), 1.0, "without a line all is known");
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
        // 16 bits per SYN of the memory's length would be 4 SYNs per word and epoch; take 4.
        let mut alarms = 0;
        let lines = 1 << 12;
        let filter = Filter::new(lines);
        let per_epoch = lines / 4 * WORDS * 4;
        for n in 0..3 * per_epoch {
            let (epoch, part) = (n / per_epoch, n % per_epoch * 16 / per_epoch);
            alarms += u32::from(filter.seen(fold(99, n as u64), (epoch * 16 + part) as u32));
        }
        assert!(alarms < 3 * per_epoch as u32 / 180, "{alarms} of {}", 3 * per_epoch);
    }

    /// What the README promises of the default.
    #[test]
    fn a_filter_of_the_default_size_is_half_full_after_480_000_syns_of_an_epoch() {
        let filter = Filter::new(crate::limits::SYN_FILTER_DEFAULT as usize / size_of::<Line>());
        let fill =
            || fill(filter.0.borrow().iter().map(|line| line.words.iter().map(|w| w.count_ones()).sum()));
        for n in 0..480_000 {
            filter.seen(fold(7, n), 1 << SHIFT);
        }
        assert!((0.48..0.5).contains(&fill()), "{}", fill());
    }
}
