//! One network namespace: made by `ip netns add`, removed on drop.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread::JoinHandle;

use super::cleanup::{self, Leftover, NETNS_DIR};
use super::error::{Error, Result};
use super::process::{self, Proc};

/// A namespace of ours.
///
/// Programs enter it by `setns` before `exec`, not by `ip netns exec`: that one remounts /sys and hides the BPF file system.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
}

impl Netns {
    /// Makes the namespace `name`. Loopback is up, IPv6 is off (its duplicate address detection only makes noise here), and replies
    /// may leave by another interface than requests came in by.
    pub fn new(name: String) -> Result<Self> {
        let mut add = Command::new("ip");
        add.args(["netns", "add", &name]);
        cleanup::remember(Leftover::Netns(name.clone()));
        let opened = process::run(add).and_then(|_| {
            let path = PathBuf::from(NETNS_DIR).join(&name);
            File::open(&path).map_err(Error::io(format!("open {}", path.display())))
        });
        let ns = match opened {
            Ok(file) => Self { name, file },
            Err(e) => {
                cleanup::remove_netns(&name);
                cleanup::forget(&Leftover::Netns(name));
                return Err(e);
            }
        };
        for (key, value) in [
            ("net/ipv6/conf/all/disable_ipv6", "1"),
            ("net/ipv6/conf/default/disable_ipv6", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
        ] {
            ns.sysctl(key, value)?;
        }
        ns.run(&["ip", "link", "set", "lo", "up"])?;
        Ok(ns)
    }

    /// Full name, `zdd-<pid>-<n>-<role>`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file to give to `nsenter --net=`.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(NETNS_DIR).join(&self.name)
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        self.enter_before_exec(&mut command);
        command
    }

    fn enter_before_exec(&self, command: &mut Command) {
        let fd = self.file.as_raw_fd();
        // SAFETY: the closure runs between fork and exec and makes one system call, which is async-signal-safe. The descriptor is open
        // as long as `self`; should the command outlive it, setns fails and the command does not start.
        unsafe { command.pre_exec(move || setns(fd)) };
    }

    /// Runs a program inside to its end and returns its standard output.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        let mut command = self.command(argv[0]);
        command.args(&argv[1..]);
        process::run(command)
    }

    /// Runs several `ip` commands at once, one per line.
    pub fn ip_batch(&self, lines: &[String]) -> Result<()> {
        use std::io::Write;
        use std::process::Stdio;
        let mut child = self
            .command("ip")
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Error::io("run `ip -batch -`"))?;
        if let Some(mut stdin) = child.stdin.take() {
            // When ip stops reading after an error, its own message below says more than a broken pipe.
            drop(stdin.write_all((lines.join("\n") + "\n").as_bytes()));
        }
        let out = child.wait_with_output().map_err(Error::io("wait for `ip -batch -`"))?;
        if !out.status.success() {
            return Err(Error::Failed {
                command: format!("ip -batch in {}: {}", self.name, lines.join("; ")),
                status: out.status,
                stderr: String::from_utf8_lossy(&out.stderr).trim().to_owned(),
            });
        }
        Ok(())
    }

    /// Starts `command` inside; it is killed when the returned [`Proc`] is dropped.
    pub fn spawn(&self, mut command: Command) -> Result<Proc> {
        self.enter_before_exec(&mut command);
        Proc::start(command)
    }

    /// The same, with its output appended to `log`.
    pub fn spawn_logged(&self, mut command: Command, log: &std::path::Path) -> Result<Proc> {
        self.enter_before_exec(&mut command);
        Proc::start_logged(command, log)
    }

    /// Runs `work` on a thread inside and waits for it. Sockets made there belong to the namespace for good, whichever thread uses
    /// them later. A panic of `work` goes on here.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R> {
        let fd = self.file.as_raw_fd();
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || setns(fd).map(|()| work()));
            match inside.join() {
                Ok(result) => result.map_err(Error::io(format!("enter {}", self.name))),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Starts a thread that lives inside. `work` is not run when the namespace cannot be entered; the thread then returns the error.
    pub fn thread<R: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<JoinHandle<std::io::Result<R>>> {
        let file =
            self.file.try_clone().map_err(Error::io(format!("duplicate the handle of {}", self.name)))?;
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || setns(file.as_raw_fd()).map(|()| work()))
            .map_err(Error::io(format!("start thread {name}")))
    }

    /// Writes `value` to /proc/sys/`key` as seen from inside.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{key}");
        self.enter(|| std::fs::write(&path, value))?
            .map_err(Error::io(format!("write {value} to {path} in {}", self.name)))
    }
}

/// Moves the calling thread into the namespace behind `fd`.
fn setns(fd: RawFd) -> std::io::Result<()> {
    // SAFETY: plain system call; a bad descriptor is an error, not undefined.
    if unsafe { libc::setns(fd, libc::CLONE_NEWNET) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

impl Drop for Netns {
    fn drop(&mut self) {
        cleanup::remove_netns(&self.name);
        cleanup::forget(&Leftover::Netns(self.name.clone()));
    }
}
