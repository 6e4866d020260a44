//! Whose CPU time it was.
//!
//! The kernel works on a received packet in a softirq, which is charged to whichever process happens to run. With threaded NAPI
//! (Linux 5.12) a kernel thread for each interface does it instead, and `/proc/PID/task/*/schedstat` tells its time in
//! nanoseconds. What is not counted: timers' softirqs, which are few.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::rig::{Netns, run};

/// The thread that receives an interface's packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receiver(i32);

impl Receiver {
    /// Makes the kernel start it, on interface `device` of a namespace.
    pub(super) fn of(ns: &Netns, device: &str) -> Result<Self> {
        let before = threads(device);
        let mut command = std::process::Command::new("ip");
        // `ip netns exec` mounts the namespace's own /sys.
        let write = format!("echo 1 > /sys/class/net/{device}/threaded");
        command.args(["netns", "exec", ns.name(), "sh", "-c", &write]);
        run(command).context("threaded NAPI needs Linux 5.12")?;
        let mut new: Vec<i32> = threads(device).difference(&before).copied().collect();
        ensure!(new.len() == 1, "{} new threads receive for {device} of {}, not one", new.len(), ns.name());
        Ok(Self(new.remove(0)))
    }

    /// CPU time so far.
    pub(super) fn ns(self) -> Result<u64> {
        of_process(self.0.cast_unsigned())
    }

    /// Binds the thread to a CPU, where it goes before all others, as a softirq does: a queue of 256 frames is full in the tenth of
    /// a millisecond.
    pub(super) fn alone(self, cpu: usize) -> Result<()> {
        pin(self.0, &[cpu])?;
        schedule(self.0, libc::SCHED_FIFO, 1)
    }

    /// Undoes [`Receiver::alone`].
    pub(super) fn among_others(self, cpus: &[usize]) -> Result<()> {
        pin(self.0, cpus)?;
        schedule(self.0, libc::SCHED_OTHER, 0)
    }
}

/// Threads named `napi/DEVICE-NUMBER`; every namespace may have such a device.
fn threads(device: &str) -> BTreeSet<i32> {
    let prefix = format!("napi/{device}-");
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with(&prefix))
        })
        .collect()
}

/// CPU time of a process so far: of all its threads that live, kernel and user.
pub(super) fn of_process(pid: u32) -> Result<u64> {
    let dir = format!("/proc/{pid}/task");
    let mut all = 0;
    for task in
        std::fs::read_dir(&dir).with_context(|| format!("{dir}: a process that is measured is gone"))?
    {
        all += of_task(&task?.path()).with_context(|| format!("{dir}: no CPU time (CONFIG_SCHED_INFO)"))?;
    }
    Ok(all)
}

fn of_task(dir: &Path) -> Result<u64> {
    let text = std::fs::read_to_string(dir.join("schedstat"))?;
    text.split_whitespace().next().and_then(|word| word.parse().ok()).context("schedstat is not as expected")
}

fn schedule(thread: i32, policy: i32, sched_priority: i32) -> Result<()> {
    let parameters = libc::sched_param { sched_priority };
    // SAFETY: parameters that live through the call.
    let result = unsafe { libc::sched_setscheduler(thread, policy, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()).context("sched_setscheduler") }
}

/// CPUs that this process may use.
pub(super) fn cpus() -> Vec<usize> {
    // SAFETY: all zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: valid for its size; 0 is the calling thread.
    if unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) } != 0 {
        return vec![0];
    }
    // SAFETY: numbers below the set's size.
    (0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect()
}

/// Binds a thread (0: the calling one) to some CPUs.
pub(super) fn pin(thread: i32, cpus: &[usize]) -> Result<()> {
    // SAFETY: all zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for cpu in cpus {
        // SAFETY: numbers that `cpus` found.
        unsafe { libc::CPU_SET(*cpu, &mut set) };
    }
    // SAFETY: a set and its size.
    let result = unsafe { libc::sched_setaffinity(thread, size_of_val(&set), &raw const set) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()).context("sched_setaffinity") }
}
