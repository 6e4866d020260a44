//! `cargo xtask bench`: builds the bench and becomes it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

/// Everything is passed on to zdd-bench.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Arguments {
    /// See `cargo xtask bench --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

/// Returns only when something went wrong: otherwise this process has become the bench, whose exit status says whether a
/// comparison with another revision failed.
///
/// # Errors
/// When cargo cannot be started.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let error = Command::new(cargo)
        .args(["run", "--quiet", "--release", "--locked", "--package", "zdd-tests"])
        .args(["--bin", "zdd-bench", "--"])
        .args(&arguments.rest)
        .exec();
    Err(error).context("cannot start cargo")
}
