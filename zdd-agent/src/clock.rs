//! The clock that the kernel side stamps entries with.

use std::time::Duration;

use zdd_common::{syn_filter, time};

/// Nanoseconds since boot, suspend not counted, in ticks of one to ten milliseconds: the same clock that
/// `bpf_ktime_get_coarse_ns` reads, so that a time from a map and a time from here can be subtracted.
pub fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, exclusive timespec for the length of the call.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut time) };
    // The call can only fail for a clock that the kernel does not have; this one is older than XDP.
    assert_eq!(done, 0, "CLOCK_MONOTONIC_COARSE is missing");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Life of a half-open entry: as long as a SYN filter with epochs of `1 << epoch_shift` ticks may remember a SYN, and a tick. No entry
/// of a TCP service lives shorter, see [`zdd_common::rules::Timeouts`].
pub fn half_open_life(epoch_shift: u32) -> Duration {
    Duration::from_nanos(u64::from(syn_filter::memory_max(epoch_shift) + 1) << time::TICK_SHIFT)
}

/// The wall clock: milliseconds since 1970.
pub fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A moment on the wall clock, and on one that nobody sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since 1970, as somebody has set the clock.
    pub unix_ms: u64,
    /// Milliseconds since the machine was booted, suspend included.
    pub boot_ms: u64,
    /// Which boot that was: [`boot`].
    pub boot: u64,
}

/// Now.
pub fn moment() -> Moment {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, exclusive timespec for the length of the call.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    assert_eq!(done, 0, "CLOCK_BOOTTIME is missing: it is older than XDP");
    Moment {
        unix_ms: unix_ms(),
        boot_ms: time.tv_sec as u64 * 1_000 + time.tv_nsec as u64 / 1_000_000,
        boot: boot(),
    }
}

/// A number for this boot of the machine, another one for each; 0 where the kernel does not tell.
pub fn boot() -> u64 {
    static BOOT: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *BOOT.get_or_init(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(16).collect();
        u64::from_str_radix(&digits, 16).unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn precise_ns() -> u64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid, exclusive timespec for the length of the call.
        assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) }, 0);
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }

    #[test]
    fn the_coarse_clock_trails_the_monotonic_one_by_a_tick_at_most() {
        let before = now_ns();
        let precise = precise_ns();
        let after = now_ns();
        assert!(before <= precise, "{before} is ahead of {precise}");
        assert!(before <= after, "the clock went back from {before} to {after}");
        // 100 Hz is the slowest tick that Linux is built with; the rest is room for a busy machine.
        assert!(precise - before < 1_000_000_000, "{before} is far behind {precise}");
    }
}
