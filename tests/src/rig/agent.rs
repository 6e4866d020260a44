//! The agent inside the rig, and the command line that talks to it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::error::{Error, Result};
use super::process::{Proc, line_of};
use super::{Rig, Scratch, wait_for};

/// The command line, bound to one binary and one socket. Cheap to copy into threads; it needs no namespace, the socket is a path.
#[derive(Clone, Debug)]
pub struct Zdd {
    binary: PathBuf,
    socket: PathBuf,
}

impl Zdd {
    /// `binary` is the path of `zdd`; the socket lies in the rig's directory.
    pub fn new(binary: &Path, scratch: &Scratch) -> Self {
        Self { binary: binary.to_owned(), socket: scratch.path("zdd.sock") }
    }

    /// The agent's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `zdd --socket S ARGS`, not started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--socket").arg(&self.socket).args(args).stdin(Stdio::null());
        command
    }

    /// Runs it whatever its exit status.
    pub fn output(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.command(args);
        let line = line_of(&command);
        command.output().map_err(Error::io(format!("run `{line}`")))
    }

    /// Runs it; any exit status but 0 is an error with its message.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let out = self.output(args)?;
        self.checked(args, out)
    }

    /// Runs it with `--json` and reads what it printed.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let mut all = args.to_vec();
        all.push("--json");
        let text = self.run(&all)?;
        self.parsed(&all, &text)
    }

    /// The same where other exit statuses than 0 also print JSON. Returns the status with it.
    pub fn json_any(&self, args: &[&str]) -> Result<(ExitStatus, Value)> {
        let mut all = args.to_vec();
        all.push("--json");
        let out = self.output(&all)?;
        if out.stdout.iter().all(u8::is_ascii_whitespace) {
            let status = out.status;
            return self.checked(&all, out).map(|_| (status, Value::Null));
        }
        let value = self.parsed(&all, &String::from_utf8_lossy(&out.stdout))?;
        Ok((out.status, value))
    }

    fn checked(&self, args: &[&str], out: Output) -> Result<String> {
        if !out.status.success() {
            let stderr = String::from_utf8_lossy(&out.stderr).trim().to_owned();
            return Err(Error::Failed { command: line_of(&self.command(args)), status: out.status, stderr });
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    fn parsed(&self, args: &[&str], text: &str) -> Result<Value> {
        serde_json::from_str(text).map_err(|source| Error::Json {
            command: line_of(&self.command(args)),
            source,
            output: text.chars().take(400).collect(),
        })
    }

    /// `zdd status --json`.
    pub fn status(&self) -> Result<Value> {
        self.json(&["status"])
    }
}

/// A running agent. Dropping it kills it; its maps and links stay on the rig's BPF file system.
#[derive(Debug)]
pub struct Agent {
    proc: Proc,
    zdd: Zdd,
    log: PathBuf,
}

impl Agent {
    /// Starts `zdd agent --config CONFIG` in the balancer's namespace and waits until it answers. Its output goes to `agent.log` in the
    /// rig's directory; when it ends instead of answering, the error carries the end of that log.
    pub fn start(rig: &Rig, binary: &Path, config: &Path, patience: Duration) -> Result<Self> {
        Self::start_with(rig, binary, config, &[], patience)
    }

    /// The same with these in its environment.
    pub fn start_with(
        rig: &Rig,
        binary: &Path,
        config: &Path,
        environment: &[(String, String)],
        patience: Duration,
    ) -> Result<Self> {
        let zdd = Zdd::new(binary, rig.scratch());
        let log = rig.scratch().path("agent.log");
        let mut command = zdd.command(&["agent", "--config"]);
        command.arg(config).envs(environment.iter().cloned());
        let proc = rig.ns("lb").spawn_logged(command, &log)?;
        let mut agent = Self { proc, zdd, log };
        let begin = Instant::now();
        let pid = u64::from(agent.proc.pid());
        let mut last = String::new();
        let answered =
            wait_for("the agent to answer `zdd status`", patience, Duration::from_millis(20), || {
                agent.proc.must_run()?;
                Ok::<_, Error>(match agent.zdd.status() {
                    // A predecessor may still hold the socket.
                    Ok(status) if status["pid"].as_u64().is_none_or(|p| p == pid) => Some(()),
                    Ok(_) => None,
                    Err(e) => {
                        last = e.to_string();
                        None
                    }
                })
            });
        match answered {
            Ok(()) => Ok(agent),
            Err(Error::Timeout { what, .. }) => Err(Error::Timeout {
                what,
                waited_ms: begin.elapsed().as_millis(),
                detail: format!("; last: {last}"),
            }),
            Err(e) => Err(e),
        }
    }

    /// The command line that talks to it.
    pub fn zdd(&self) -> &Zdd {
        &self.zdd
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.proc.pid()
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// An error with the end of its log when it has ended.
    pub fn must_run(&mut self) -> Result<()> {
        self.proc.must_run()
    }

    /// SIGKILL.
    pub fn kill(self) {
        self.proc.kill();
    }

    /// SIGTERM, then waits at most `patience`.
    pub fn terminate(self, patience: Duration) -> Result<ExitStatus> {
        self.proc.terminate(patience)
    }
}
