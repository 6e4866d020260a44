//! The agent's own process, under the names that Prometheus' client libraries use for it.

/// What /proc says of this process. Zero where it says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Process {
    /// User and system time, s.
    pub cpu_seconds: f64,
    /// Memory that is in RAM.
    pub resident_bytes: u64,
    /// Descriptors.
    pub open_fds: u64,
    /// Since 1970, s.
    pub start_seconds: f64,
}

impl Process {
    /// Now.
    pub(super) fn now() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let open_fds = std::fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count() as u64);
        let boot = read("/proc/stat");
        let boot = boot.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
        // SAFETY: sysconf has no preconditions.
        let (ticks, page) = unsafe { (libc::sysconf(libc::_SC_CLK_TCK), libc::sysconf(libc::_SC_PAGESIZE)) };
        Self {
            open_fds,
            ..Self::parse(&read("/proc/self/stat"), boot.unwrap_or(0.0), ticks as f64, page as u64)
        }
    }

    /// Of `/proc/PID/stat` (proc(5)): its fields from the third on follow the last bracket, as a name may hold blanks.
    fn parse(stat: &str, boot: f64, ticks: f64, page: u64) -> Self {
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
        let field =
            |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        Self {
            cpu_seconds: (field(14) + field(15)) as f64 / ticks,
            resident_bytes: field(24) * page,
            open_fds: 0,
            start_seconds: boot + field(22) as f64 / ticks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_an_odd_name() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 1000 9000000 300 18446744073709551615";
        let process = Process::parse(stat, 1_000.0, 100.0, 4096);
        let expected =
            Process { cpu_seconds: 3.0, resident_bytes: 300 * 4096, open_fds: 0, start_seconds: 1_010.0 };
        assert_eq!(process, expected);
    }

    #[test]
    fn this_process_lives_and_has_begun() {
        let now = Process::now();
        assert!(now.resident_bytes > 1 << 20 && now.open_fds > 2, "{now:?}");
        let age = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
            - now.start_seconds;
        assert!((-1.0..3600.0).contains(&age), "{now:?}");
    }
}
