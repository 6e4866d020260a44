//! A PostgreSQL of a test's own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::rig::{Error, Proc, Result, Rig, wait_for};

/// `initdb` and a start take seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Nobody: it refuses to run as root.
const NOBODY: u32 = 65_534;

/// One user, `zdd`; a unix socket, no port. Gone when dropped.
#[derive(Debug)]
pub struct Postgres {
    dir: PathBuf,
    bin: PathBuf,
    server: Option<Proc>,
}

impl Postgres {
    /// Makes and starts it in the rig's directory; it answers when this returns.
    ///
    /// # Panics
    /// When none is installed, or `initdb` fails.
    pub fn start(rig: &Rig, name: &str) -> Result<Self> {
        let dir = rig.scratch().path(name);
        std::fs::create_dir(&dir)
            .and_then(|()| std::os::unix::fs::chown(&dir, Some(NOBODY), Some(NOBODY)))
            .map_err(Error::io(format!("make {}", dir.display())))?;
        let bin = installed();
        let as_nobody = |program: &str| {
            let mut command = Command::new("setpriv");
            command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")]);
            command.args(["--clear-groups", "--"]).arg(bin.join(program)).current_dir(&dir);
            command.arg("-D").arg(dir.join("data"));
            command
        };
        let made = as_nobody("initdb").args(["-A", "trust", "-U", "zdd", "--no-sync"]).output();
        let made = made.map_err(Error::io("run initdb"))?;
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut command = as_nobody("postgres");
        command.arg("-k").arg(&dir).args(["-F", "-c", "listen_addresses="]);
        let server = Proc::start_logged(command, &dir.join("log"))?;
        let mut postgres = Self { dir, bin, server: Some(server) };
        wait_for("PostgreSQL to answer", PATIENCE, LOOK_EVERY, || {
            postgres.server.as_mut().map_or(Ok(()), Proc::must_run)?;
            Ok::<_, Error>(postgres.run("SELECT 1").status.success().then_some(()))
        })?;
        Ok(postgres)
    }

    /// Where its socket is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What somebody runs for one statement.
    pub fn argv(&self, statement: &str) -> Vec<String> {
        let psql = self.bin.join("psql").display().to_string();
        let dir = self.dir.display().to_string();
        let words =
            [&psql, "-h", &dir, "-U", "zdd", "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-Atc", statement];
        words.map(str::to_owned).to_vec()
    }

    /// Runs one statement, with whatever comes of it.
    ///
    /// # Panics
    /// When psql cannot be started.
    pub fn run(&self, statement: &str) -> Output {
        let argv = self.argv(statement);
        Command::new(&argv[0]).args(&argv[1..]).output().expect("psql runs")
    }

    /// It dies: every session is cut, and nobody answers any more. An immediate shutdown, which loses what a crash loses and gives its
    /// shared memory back, as SIGKILL does not.
    pub fn crash(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.signal(libc::SIGQUIT);
            // One that does not end in time is killed as `server` is dropped.
            drop(server.wait(PATIENCE));
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.crash();
    }
}

/// Where Debian keeps the newest PostgreSQL's programs: they are not on the path.
fn installed() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    found.retain(|bin: &PathBuf| Path::new(&bin.join("postgres")).exists());
    found.sort();
    found.pop().expect("no PostgreSQL is installed: run scripts/setup.sh --tests")
}
