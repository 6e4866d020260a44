//! The machine: kernel, rights, file system, clock, connection tracking.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::{Finding, sysctl};
use crate::dataplane::probe::{self, Pinned};

/// Version of the kernel, and the features that are tried one by one.
pub(super) fn kernel() -> Vec<Finding> {
    let release: String = sysctl::read("kernel/osrelease").unwrap_or_else(|| "of unknown release".to_owned());
    let release = if probe::too_old(&release) {
        let fix = "boot Linux 5.15 or later (for `zdd decap` on a backend 5.10 is enough)";
        Finding::problem("kernel", format!("Linux {release} is older than 5.15"), fix)
    } else {
        Finding::ok("kernel", format!("Linux {release}; zdd needs 5.15 or later"))
    };
    let features = probe::features();
    let names = |wanted: &dyn Fn(&probe::Feature) -> bool| -> Vec<String> {
        features.iter().filter(|f| wanted(f)).map(|f| f.name.to_owned()).collect()
    };
    let mut findings = vec![release];
    for feature in &features {
        match (&feature.there, feature.needed) {
            (Ok(false), true) => findings.push(Finding::problem(
                "features",
                format!("this kernel has no {}", feature.name),
                format!(
                    "boot a kernel that has it (in Linux since {}), and is not configured without it",
                    feature.since
                ),
            )),
            (Ok(false), false) => findings.push(Finding::warning(
                "features",
                format!(
                    "this kernel has no {}: zdd runs, but its maps and programs are harder to inspect",
                    feature.name
                ),
                format!("boot a kernel that has it (in Linux since {})", feature.since),
            )),
            _ => {}
        }
    }
    let unknown = names(&|f| f.there.is_err());
    if let Some(why) = features.iter().find_map(|f| f.there.as_ref().err()) {
        findings.push(Finding::warning(
            "features",
            format!("could not be tried: {} ({why})", unknown.join(", ")),
            "run it as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
        ));
    }
    let there = names(&|f| f.there == Ok(true));
    if findings.len() == 1 {
        findings.push(Finding::ok("features", format!("tried, and there: {}", there.join(", "))));
    }
    findings
}

/// The capabilities that zdd uses, with their numbers (include/uapi/linux/capability.h).
const CAPABILITIES: [(&str, u32); 3] = [("CAP_BPF", 39), ("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38)];
const CAP_SYS_ADMIN: u32 = 21;

/// Names of the capabilities that a set lacks. CAP_SYS_ADMIN stands in for CAP_BPF and CAP_PERFMON.
fn lacking(set: u64) -> Vec<&'static str> {
    let has = |bit: u32| set >> bit & 1 == 1;
    let stands_in = |name: &str| name != "CAP_NET_ADMIN" && has(CAP_SYS_ADMIN);
    CAPABILITIES.iter().filter(|(name, bit)| !has(*bit) && !stands_in(name)).map(|(name, _)| *name).collect()
}

/// Names of the capabilities that this process lacks.
pub(super) fn lacking_rights() -> Vec<&'static str> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .unwrap_or(0);
    lacking(set)
}

/// The rights of this process: an agent that is started the same way has the same.
pub(super) fn privileges() -> Finding {
    match lacking_rights().as_slice() {
        [] => Finding::ok("privileges", "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are there"),
        missing => Finding::problem(
            "privileges",
            format!("this user lacks {}", missing.join(", ")),
            "run it as root, or with these capabilities (in a container: privileged)",
        ),
    }
}

/// What the agent with this process id has given up.
pub(super) fn sandbox(pid: i32) -> Finding {
    judge_sandbox(pid, fs::read_to_string(format!("/proc/{pid}/status")).ok().as_deref())
}

fn judge_sandbox(pid: i32, status: Option<&str>) -> Finding {
    let of = |field: &str| status?.lines().find_map(|line| line.strip_prefix(field)).map(str::trim);
    let set = of("CapEff:").and_then(|set| u64::from_str_radix(set, 16).ok());
    let (Some(set), Some(seccomp)) = (set, of("Seccomp:")) else {
        return Finding::ok("sandbox", format!("what process {pid} has given up cannot be seen from here"));
    };
    let kept = CAPABILITIES.iter().fold(0, |kept, (_, bit)| kept | 1u64 << bit);
    let again = "restart the agent with this build (traffic goes on), and look at what it logs at its start";
    if set & !kept != 0 {
        return Finding::warning(
            "sandbox",
            format!("the agent (process {pid}) has kept more rights than it needs"),
            again,
        );
    }
    // SECCOMP_MODE_FILTER.
    if seccomp != "2" {
        return Finding::warning(
            "sandbox",
            format!(
                "the agent (process {pid}) has no seccomp filter: agent.seccomp is off, or the kernel took none"
            ),
            again,
        );
    }
    Finding::ok(
        "sandbox",
        format!(
            "the agent (process {pid}) keeps three capabilities at the most, and has given up the system calls that it does not need"
        ),
    )
}

/// Since Linux 5.11 maps are charged to the memory cgroup, and the limit of locked memory means nothing to them.
pub(super) fn memlock() -> Finding {
    let max = fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| {
        let path = text.lines().find_map(|line| line.strip_prefix("0::"))?.trim().to_owned();
        fs::read_to_string(format!("/sys/fs/cgroup{path}/memory.max")).ok()
    });
    match max.as_deref().map(str::trim).and_then(|max| max.parse::<u64>().ok()) {
        Some(max) if max < 64 << 20 => Finding::warning(
            "memlock",
            format!(
                "the memory cgroup allows {} MiB, and maps are charged to it: the default limits take 50 MiB",
                max >> 20
            ),
            "give the agent's unit MemoryMax=128M or more, or lower agent.limits",
        ),
        _ => Finding::ok(
            "memlock",
            "maps are charged to the memory cgroup, not to the limit of locked memory; no tight limit is set",
        ),
    }
}

/// Clock sources that take a microsecond or more to read.
const SLOW_CLOCKS: [&str; 4] = ["hpet", "acpi_pm", "jiffies", "pit"];

/// The kernel's clock.
pub(super) fn clock() -> Finding {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    judge_clock(fs::read_to_string(path).unwrap_or_default().trim())
}

fn judge_clock(source: &str) -> Finding {
    if SLOW_CLOCKS.contains(&source) {
        return Finding::warning(
            "clock",
            format!(
                "the clock source is {source}, which is slow to read, most likely because the kernel found the CPU's own unstable"
            ),
            "look at `dmesg | grep -i clocksource`; boot with tsc=reliable only if the machine's TSC is",
        );
    }
    Finding::ok("clock", format!("clock source {}", if source.is_empty() { "not told" } else { source }))
}

/// Connection tracking. It never sees what XDP forwards, but all that goes through the stack: handshakes whose next hop is not known
/// yet, probes, and everything while zdd is not attached.
pub(super) fn conntrack() -> Finding {
    let of = |name: &str| sysctl::read::<u64>(&format!("net/netfilter/nf_conntrack_{name}"));
    judge_conntrack(of("count").zip(of("max")))
}

fn judge_conntrack(table: Option<(u64, u64)>) -> Finding {
    let Some((count, max)) = table else {
        return Finding::ok("conntrack", "nf_conntrack is not there");
    };
    let told = format!("nf_conntrack holds {count} of {max} connections");
    let more = format!("sysctl -w net.netfilter.nf_conntrack_max={}", max.max(65_536).saturating_mul(2));
    match count.saturating_mul(100) {
        // A maximum of 0 is none.
        _ if max == 0 => Finding::ok("conntrack", told),
        full if full >= max.saturating_mul(95) => Finding::problem(
            "conntrack",
            format!("{told}: new connections that pass the stack, health checks too, are dropped"),
            more,
        ),
        full if full >= max.saturating_mul(80) => Finding::warning("conntrack", told, more),
        _ => Finding::ok("conntrack", format!("{told}; what XDP forwards is not among them")),
    }
}

/// Where maps and links are pinned.
pub(super) fn bpffs(dir: &Path) -> Finding {
    if !probe::on_bpffs(dir) {
        return Finding::problem(
            "bpffs",
            format!("{} is not on a BPF file system", dir.display()),
            "mount -t bpf bpf /sys/fs/bpf, or set agent.pin_dir to a directory below a mounted one",
        );
    }
    Finding::ok("bpffs", format!("{} is on a BPF file system", dir.display()))
}

/// What is pinned.
pub(super) fn pins(dir: &Path, pinned: &Pinned) -> Finding {
    let (shown, detach) = (dir.display(), format!("zdd detach --pin-dir {}", dir.display()));
    if fs::read_dir(dir).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied) {
        let what = format!("{shown} is not this user's to read: what is pinned there is not known");
        return Finding::warning("pins", what, "run it as root");
    }
    if let Some(strange) = &pinned.strange {
        return Finding::problem(
            "pins",
            format!("{shown} has {strange}; traffic goes on as it is, this zdd does not start"),
            format!("run the zdd that made them, or `{detach}` in a quiet moment: flows break"),
        );
    }
    if let [first, ..] = pinned.resized.as_slice() {
        return Finding::problem(
            "pins",
            format!("agent.limits differ from the maps pinned in {shown}: {first}"),
            format!("put the old limits back, or `{detach}` in a quiet moment: flows break"),
        );
    }
    match (pinned.ours, pinned.holder) {
        (false, _) => Finding::ok("pins", format!("nothing is pinned in {shown}: the first start makes it")),
        (true, Some(pid)) => Finding::ok(
            "pins",
            format!(
                "maps of this layout and {} links in {shown}, in use by process {pid}",
                pinned.links.len()
            ),
        ),
        (true, None) if pinned.links.is_empty() => Finding::ok(
            "pins",
            format!(
                "maps of this layout in {shown}, left by a start that failed or by `zdd detach` cut short; the next start uses them"
            ),
        ),
        (true, None) => Finding::warning(
            "pins",
            format!(
                "maps of this layout and {} links in {shown}, but no agent: traffic goes on, health checks and drains do not",
                pinned.links.len()
            ),
            "zdd agent --config FILE",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn a_full_connection_table_is_told_before_it_is_full() {
        for (table, level) in [
            (None, Level::Ok),
            (Some((0, 0)), Level::Ok),
            (Some((79, 100)), Level::Ok),
            (Some((80, 100)), Level::Warning),
            (Some((94, 100)), Level::Warning),
            (Some((95, 100)), Level::Problem),
            (Some((u64::MAX, u64::MAX)), Level::Problem),
        ] {
            assert_eq!(judge_conntrack(table).level, level, "{table:?}");
        }
        let fix = judge_conntrack(Some((262_144, 262_144))).fix.unwrap();
        assert_eq!(fix, "sysctl -w net.netfilter.nf_conntrack_max=524288");
    }

    #[test]
    fn clocks_that_a_machine_should_not_have_are_told() {
        assert_eq!(judge_clock("hpet").level, Level::Warning);
        assert_eq!(judge_clock("tsc"), Finding::ok("clock", "clock source tsc"));
        assert_eq!(judge_clock(""), Finding::ok("clock", "clock source not told"));
    }

    #[test]
    fn sys_admin_stands_in_for_bpf_and_perfmon_alone() {
        let bit = |n: u32| 1u64 << n;
        assert_eq!(lacking(u64::MAX), [""; 0]);
        assert_eq!(lacking(0), ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]);
        assert_eq!(lacking(bit(21)), ["CAP_NET_ADMIN"]);
        assert_eq!(lacking(bit(39) | bit(12)), ["CAP_PERFMON"]);
        assert_eq!(lacking(bit(39) | bit(12) | bit(38)), [""; 0]);
    }

    #[test]
    fn what_an_agent_has_kept_is_told() {
        let status =
            |set: u64, seccomp: u8| format!("Name:\tzdd\nCapEff:\t{set:016x}\nSeccomp:\t{seccomp}\n");
        let kept = 1 << 12 | 1 << 38 | 1 << 39;
        for (status, level, word) in [
            (Some(status(kept, 2)), Level::Ok, "given up the system calls"),
            (Some(status(kept, 0)), Level::Warning, "no seccomp filter"),
            (Some(status(u64::MAX, 2)), Level::Warning, "more rights"),
            (None, Level::Ok, "cannot be seen"),
        ] {
            let finding = judge_sandbox(7, status.as_deref());
            assert_eq!(finding.level, level, "{status:?}");
            assert!(finding.what.contains(word), "{finding:?}");
        }
    }

    #[test]
    fn pins_without_an_agent_are_told_and_those_of_another_size_are_a_problem() {
        let dir = Path::new("/sys/fs/bpf/zdd");
        let ours = Pinned { ours: true, links: vec![3, 4], ..Pinned::default() };
        assert_eq!(pins(dir, &Pinned::default()).level, Level::Ok);
        assert_eq!(pins(dir, &ours).level, Level::Warning);
        // Nothing is attached, so nothing goes on.
        assert_eq!(pins(dir, &Pinned { links: Vec::new(), ..ours.clone() }).level, Level::Ok);
        assert_eq!(pins(dir, &Pinned { holder: Some(7), ..ours.clone() }).level, Level::Ok);
        let resized = Pinned { resized: vec!["FLOWS has room for 1, agent.limits ask for 2".into()], ..ours };
        assert_eq!(pins(dir, &resized).level, Level::Problem);
    }
}
