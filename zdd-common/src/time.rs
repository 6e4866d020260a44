//! Coarse time: 2^27 ns (134 ms) steps of the kernel's CLOCK_MONOTONIC_COARSE.

/// Nanoseconds of one tick, as a power of two: cheap to get from a clock, fine enough for timeouts of seconds.
pub const TICK_SHIFT: u32 = 27;

/// Bits of a tick that a flow entry keeps: 52 days until it wraps, far above the longest idle timeout (24 h).
pub const TICK_BITS: u32 = 25;

const TICK_MASK: u32 = (1 << TICK_BITS) - 1;

/// A point in time in ticks since boot, modulo 2^25. Two points can be compared when they are less than 26 days apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Tick(pub u32);

impl Tick {
    /// From nanoseconds since boot.
    #[inline(always)]
    pub const fn from_ns(ns: u64) -> Self {
        Self((ns >> TICK_SHIFT) as u32 & TICK_MASK)
    }

    /// Ticks from `earlier` to `self`; 0 if `earlier` is in fact later (another CPU's clock may be a tick ahead).
    #[inline(always)]
    pub const fn since(self, earlier: Self) -> u32 {
        let distance = self.0.wrapping_sub(earlier.0) & TICK_MASK;
        if distance > TICK_MASK / 2 { 0 } else { distance }
    }

    /// The point `ticks` later.
    #[inline(always)]
    pub const fn plus(self, ticks: u32) -> Self {
        Self(self.0.wrapping_add(ticks) & TICK_MASK)
    }
}

/// Ticks that surely last as long as `ns`.
pub const fn ticks(ns: u64) -> u32 {
    ns.div_ceil(1 << TICK_SHIFT) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_seems_to_run_backwards_makes_nothing_old() {
        assert_eq!(Tick(5).since(Tick(6)), 0);
        assert_eq!(Tick(3).since(Tick(TICK_MASK - 1)), 5);
        assert_eq!(Tick(TICK_MASK).plus(3), Tick(2));
    }
}
