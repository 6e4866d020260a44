//! A child process that ends with its owner.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::cleanup::{self, Leftover};
use super::error::{Error, Result};

/// A running child. Dropping it kills it (SIGKILL, by its own id) and waits for it.
#[derive(Debug)]
pub struct Proc {
    child: Child,
    name: String,
    log: Option<PathBuf>,
}

impl Proc {
    /// Starts `command` in a process group of its own, so that Ctrl-C on a terminal reaches only the rig, which decides.
    pub fn start(mut command: Command) -> Result<Self> {
        use std::os::unix::process::CommandExt;
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(Error::io(format!("start {name}")))?;
        let proc = Self { child, name, log: None };
        cleanup::remember(Leftover::Process(proc.raw_pid()));
        Ok(proc)
    }

    /// The same, with standard output and error appended to the file `log`.
    pub fn start_logged(mut command: Command, log: &Path) -> Result<Self> {
        let open = || std::fs::OpenOptions::new().create(true).append(true).open(log);
        let what = format!("open the log {}", log.display());
        command.stdout(open().map_err(Error::io(what.clone()))?);
        command.stderr(open().map_err(Error::io(what))?);
        let mut proc = Self::start(command)?;
        proc.log = Some(log.to_owned());
        Ok(proc)
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn raw_pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("Linux process ids fit an i32")
    }

    /// Sends `signal`, for example `libc::SIGTERM`. A child that has ended already is no error.
    pub fn signal(&self, signal: i32) {
        // SAFETY: plain system call; the child is not waited for while `self` lives, so the id is its own.
        unsafe { libc::kill(self.raw_pid(), signal) };
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(mut self) {
        self.end();
    }

    /// SIGTERM, then waits at most `patience`; a process that stays longer is an error (and is killed).
    pub fn terminate(mut self, patience: Duration) -> Result<ExitStatus> {
        self.signal(libc::SIGTERM);
        self.wait(patience)
    }

    /// Waits at most `patience` for the child to end by itself.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if begin.elapsed() > patience {
                return Err(Error::Timeout {
                    what: format!("{} (pid {}) to end", self.name, self.pid()),
                    waited_ms: begin.elapsed().as_millis(),
                    detail: String::new(),
                });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.try_wait().map_err(Error::io(format!("wait for {}", self.name)))?;
        if status.is_some() {
            // Waited for: from now on the id may belong to somebody else.
            cleanup::forget(&Leftover::Process(self.raw_pid()));
        }
        Ok(status)
    }

    /// An error with the end of the log when the process has ended.
    pub fn must_run(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => {
                let log = self.log.clone().unwrap_or_default();
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let tail = lines[lines.len().saturating_sub(20)..].join("\n");
                Err(Error::Died { name: self.name.clone(), status, log, tail })
            }
        }
    }

    fn end(&mut self) {
        // `kill` of std does nothing after the child was waited for, so it cannot hit a stranger.
        drop(self.child.kill());
        drop(self.child.wait());
        cleanup::forget(&Leftover::Process(self.raw_pid()));
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs `command` to its end; an exit status other than 0 is an error with what it wrote to standard error.
pub fn run(mut command: Command) -> Result<String> {
    let line = line_of(&command);
    let out = command.stdin(Stdio::null()).output().map_err(Error::io(format!("run `{line}`")))?;
    if !out.status.success() {
        let stderr = String::from_utf8_lossy(&out.stderr).trim().to_owned();
        return Err(Error::Failed { command: line, status: out.status, stderr });
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The command line, for messages.
pub fn line_of(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}
