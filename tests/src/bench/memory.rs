//! What memory costs on this machine: how long one load takes whose address the load before it told.
//!
//! A packet waits at least so long for each cache line of a map that is not near, unless it can ask for several at once.

use anyhow::{Result, ensure};
use serde::Serialize;

use super::rows;

/// Loads at random from so many bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// How many.
    pub bytes: usize,
    /// Nanoseconds of one load, a few steps of the loop included: median of nine rounds.
    pub ns: f64,
}

/// What stays near, twice the part of the SYN filter that is in use by default, the lines that entries of 64k flows lie in, the flow table by
/// default and for a million flows.
const SIZES: [usize; 5] = [64 << 10, 1 << 20, 4 << 20, 12 << 20, 96 << 20];
const LINE: usize = 64;
const ROUNDS: usize = 9;
const LOADS: usize = 100_000;

/// Measures it.
///
/// # Errors
/// When there is no memory to be had.
pub(super) fn measure() -> Result<Vec<Memory>> {
    SIZES.into_iter().map(|bytes| Ok(Memory { bytes, ns: of(bytes)? })).collect()
}

fn of(bytes: usize) -> Result<f64> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping of the kernel's choice.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    ensure!(start != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
    // SAFETY: our mapping. In small pages, as the kernel's maps are; a kernel without large ones refuses, and that is as good.
    unsafe { libc::madvise(start, bytes, libc::MADV_NOHUGEPAGE) };
    let (start, lines) = (start.cast::<u8>(), bytes / LINE);
    // One circle through all lines, by Sattolo's algorithm.
    let mut next: Vec<usize> = (0..lines).collect();
    let mut random = 1u64;
    for line in (1..lines).rev() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        next.swap(line, (random >> 33) as usize % line);
    }
    for (line, next) in next.into_iter().enumerate() {
        // SAFETY: both lines are within the mapping; a line begins at a multiple of its size.
        unsafe { start.add(line * LINE).cast::<*const u8>().write(start.add(next * LINE)) };
    }
    let mut at: *const u8 = start;
    let mut ns = vec![];
    // The first one brings in what fits.
    for round in 0..=ROUNDS {
        let count = if round == 0 { lines.max(LOADS) } else { LOADS };
        let begun = super::measure::thread_ns();
        for _ in 0..count {
            // SAFETY: each line holds the address of another.
            at = unsafe { at.cast::<*const u8>().read_volatile() };
        }
        let took = super::measure::thread_ns() - begun;
        if round > 0 {
            ns.push(took as f64 / LOADS as f64);
        }
    }
    // SAFETY: our mapping, which nothing points into any longer.
    unsafe { libc::munmap(start.cast(), bytes) };
    Ok(rows::median(&ns))
}
