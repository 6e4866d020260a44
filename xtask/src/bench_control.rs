//! `cargo xtask bench-control`: builds what it needs and becomes it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

/// Everything is passed on to zdd-bench-control.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Arguments {
    /// See `cargo xtask bench-control --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

/// Returns only when something went wrong: otherwise this process has become the measurement.
///
/// # Errors
/// When the build fails or the binary cannot be started.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // The agent first: it is started as a program too.
    let status = Command::new(&cargo)
        .args(["build", "--quiet", "--release", "--locked", "--package", "zdd-agent"])
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "the build of the agent failed ({status})");
    let error = Command::new(&cargo)
        .args(["run", "--quiet", "--release", "--locked", "--package", "zdd-tests"])
        .args(["--bin", "zdd-bench-control", "--"])
        .args(&arguments.rest)
        .exec();
    Err(error).context("cannot start cargo")
}
