//! Programs of the tests crate: `cargo xtask NAME` builds one in release mode and becomes it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

/// Everything is passed on to the program; it has its own `--help`.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Arguments {
    /// Arguments of the program
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

impl Arguments {
    /// Whether a word is among them.
    #[must_use]
    pub fn has(&self, word: &str) -> bool {
        self.rest.iter().any(|argument| argument == word)
    }
}

/// Returns only when something went wrong: otherwise this process has become `binary`, and its exit status is that one's.
/// `needs`: packages whose binaries it starts.
///
/// # Errors
/// When cargo cannot be started, or a package that is needed does not build.
pub fn become_it(binary: &str, needs: &[&str], arguments: &Arguments) -> Result<ExitCode> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    for package in needs {
        let mut build = Command::new(&cargo);
        build.args(["build", "--quiet", "--release", "--locked", "--package", package]);
        let status = build.status().context("cannot start cargo")?;
        ensure!(status.success(), "{package} does not build ({status})");
    }
    let error = Command::new(cargo)
        .args(["run", "--quiet", "--release", "--locked", "--package", "zdd-tests"])
        .args(["--bin", binary, "--"])
        .args(&arguments.rest)
        .exec();
    Err(error).context("cannot start cargo")
}
