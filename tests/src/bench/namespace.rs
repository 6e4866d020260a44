//! A network namespace and a BPF file system of the calling thread's own. They have no names, so nothing is left behind.

use std::io;

use anyhow::{Context as _, Result};

/// Index of the loopback interface, by which frames come in and leave. Always 1.
pub(super) const LOOPBACK: u32 = 1;

/// Where the BPF file system is.
pub(super) const PINS: &str = "/tmp";

fn check(result: libc::c_int, what: &'static str) -> Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()).context(what) }
}

/// Moves the thread.
pub(super) fn enter() -> Result<()> {
    let (none, root) = (std::ptr::null(), c"/".as_ptr());
    let (name, at) = (c"bpf".as_ptr(), c"/tmp".as_ptr());
    // SAFETY: plain system calls with constant arguments; only this thread moves.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS), "unshare: run as root")?;
        check(libc::mount(none, root, none, libc::MS_REC | libc::MS_PRIVATE, none.cast()), "make / private")?;
        check(libc::mount(name, at, name, 0, none.cast()), "mount a BPF file system")?;
    }
    pin_to_one_cpu()
}

/// A thread that wanders between CPUs takes its caches along.
fn pin_to_one_cpu() -> Result<()> {
    // SAFETY: a set on the stack, all zero is the empty one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: valid for its size; 0 is the calling thread.
    check(unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) }, "sched_getaffinity")?;
    // The last one: interrupts tend to be on the first.
    // SAFETY: numbers below the set's size.
    let last = (0..libc::CPU_SETSIZE as usize).rev().find(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) });
    // SAFETY: as above.
    unsafe {
        libc::CPU_ZERO(&mut set);
        libc::CPU_SET(last.unwrap_or(0), &mut set);
        check(libc::sched_setaffinity(0, size_of_val(&set), &raw const set), "sched_setaffinity")
    }
}
