//! Leaves nothing behind: what a rig made is written down here until it is removed again, and a signal removes the rest.
//!
//! Three ways out are covered: dropping (also while a panic unwinds), SIGINT, SIGTERM and SIGHUP (a handler wakes a thread that
//! cleans up and ends the process), and SIGKILL (the next run finds names that carry the pid of a dead process).

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, Once};

use super::error::{Error, Result};

/// Everything of ours in the system begins with this.
pub const PREFIX: &str = "zdd-";

/// Where `ip netns` keeps its namespaces.
pub const NETNS_DIR: &str = "/run/netns";

/// Something to be undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Leftover {
    /// A process of ours that has not been waited for yet, so its id cannot belong to anybody else.
    Process(i32),
    /// A namespace by name.
    Netns(String),
    /// A mount point.
    Mount(PathBuf),
    /// A directory with everything below it.
    Dir(PathBuf),
}

static REGISTRY: Mutex<Vec<Leftover>> = Mutex::new(Vec::new());
static WAKE_FD: AtomicI32 = AtomicI32::new(-1);
static INSTALL: Once = Once::new();

fn registry() -> MutexGuard<'static, Vec<Leftover>> {
    // A panic elsewhere must not keep us from cleaning up.
    REGISTRY.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Remembers `leftover` until [`forget`] or a signal.
pub(super) fn remember(leftover: Leftover) {
    registry().push(leftover);
}

/// `leftover` is gone.
pub(super) fn forget(leftover: &Leftover) {
    registry().retain(|l| l != leftover);
}

/// From now on SIGINT, SIGTERM and SIGHUP remove what is remembered and end the process with 128 + signal.
pub(super) fn install_signal_handler() -> Result<()> {
    let mut result = Ok(());
    INSTALL.call_once(|| result = try_install());
    result
}

fn try_install() -> Result<()> {
    let mut fds = [0; 2];
    // SAFETY: the array has room for the two descriptors the call writes.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(Error::io("create the signal pipe")(std::io::Error::last_os_error()));
    }
    // SAFETY: the descriptor is fresh from pipe2 and owned by nobody else; the write end is kept open for ever on purpose.
    let read = unsafe { OwnedFd::from_raw_fd(fds[0]) };
    WAKE_FD.store(fds[1], Ordering::SeqCst);
    std::thread::Builder::new()
        .name("zdd-signals".into())
        .spawn(move || {
            let mut signal = 0u8;
            loop {
                // SAFETY: reads one byte into a live u8.
                let n = unsafe { libc::read(read.as_raw_fd(), (&raw mut signal).cast(), 1) };
                if n == 1 {
                    break;
                }
                if n == 0 || std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
                    return;
                }
            }
            eprintln!("\ninterrupted: removing namespaces and processes");
            remove_all();
            // SAFETY: ends the process; destructors must not run, other threads still use what they own.
            unsafe { libc::_exit(128 + i32::from(signal)) }
        })
        .map_err(Error::io("start the signal thread"))?;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only does an atomic load and write(2), both async-signal-safe.
        unsafe { libc::signal(signal, on_signal as *const () as libc::sighandler_t) };
    }
    Ok(())
}

extern "C" fn on_signal(signal: i32) {
    let byte = u8::try_from(signal).unwrap_or(0);
    // SAFETY: write(2) of one byte from a live u8; the descriptor is never closed.
    unsafe { libc::write(WAKE_FD.load(Ordering::SeqCst), (&raw const byte).cast(), 1) };
}

/// Undoes everything remembered: processes first, they hold the rest.
fn remove_all() {
    let all = std::mem::take(&mut *registry());
    for leftover in &all {
        if let Leftover::Process(pid) = leftover {
            // SAFETY: plain system call; the process is ours and not waited for, so the id is still its own.
            unsafe { libc::kill(*pid, libc::SIGKILL) };
        }
    }
    for leftover in all.iter().rev() {
        match leftover {
            Leftover::Process(_) => {}
            Leftover::Netns(name) => remove_netns(name),
            Leftover::Mount(path) => unmount(path),
            Leftover::Dir(path) => drop(std::fs::remove_dir_all(path)),
        }
    }
}

/// Ends the processes that live in namespace `name`, then deletes it.
pub(super) fn remove_netns(name: &str) {
    let own = std::process::id().to_string();
    if let Ok(out) = quiet("ip", &["netns", "pids", name]) {
        for pid in out.split_whitespace().filter(|p| *p != own) {
            if let Ok(pid) = pid.parse::<i32>() {
                // SAFETY: plain system call; only processes inside a namespace that we made are listed.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
    }
    drop(quiet("ip", &["netns", "del", name]));
}

/// Detaches a mount; a mount that is gone already is no error.
pub(super) fn unmount(path: &Path) {
    drop(quiet("umount", &["-l", &path.to_string_lossy()]));
}

fn quiet(program: &str, args: &[&str]) -> std::io::Result<String> {
    let out = Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The pid in `zdd-<pid>-<n>...`, the form of all our names.
pub(super) fn owner(name: &str) -> Option<u32> {
    let rest = name.strip_prefix(PREFIX)?;
    let (pid, rest) = rest.split_once('-')?;
    // Without the counter it is somebody else's name.
    rest.split('-').next()?.parse::<u32>().ok()?;
    pid.parse().ok()
}

/// Removes namespaces and scratch directories whose owner is dead. Returns what was removed.
pub fn remove_stale() -> Vec<String> {
    let dead = |name: &str| owner(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
    let mut removed = Vec::new();
    for name in names_in(Path::new(NETNS_DIR)).into_iter().filter(|n| dead(n)) {
        remove_netns(&name);
        removed.push(name);
    }
    let tmp = std::env::temp_dir();
    for name in names_in(&tmp).into_iter().filter(|n| dead(n)) {
        let dir = tmp.join(&name);
        unmount(&dir.join(super::scratch::BPF_DIR));
        drop(std::fs::remove_dir_all(&dir));
        removed.push(dir.display().to_string());
    }
    removed
}

fn names_in(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_our_form_have_an_owner() {
        assert_eq!(owner("zdd-4242-0-lb"), Some(4242));
        assert_eq!(owner("zdd-4242-17"), Some(4242));
        assert_eq!(owner("zdd-lb"), None);
        assert_eq!(owner("zdd-4242"), None);
        assert_eq!(owner("zdd-4242-lb"), None);
        assert_eq!(owner("other-4242-0-lb"), None);
    }

    #[test]
    fn what_is_forgotten_is_not_removed() {
        let dir = Leftover::Dir(PathBuf::from("/nonexistent/zdd-test"));
        remember(dir.clone());
        assert!(registry().contains(&dir));
        forget(&dir);
        assert!(!registry().contains(&dir));
    }
}
