//! `cargo xtask model-check`: builds the model checker and becomes it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

/// Everything is passed on to zdd-model-check.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Arguments {
    /// See `cargo xtask model-check --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

/// Returns only when something went wrong: otherwise this process has become the model checker, whose exit status says
/// whether everything holds.
///
/// # Errors
/// When cargo cannot be started.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let error = Command::new(cargo)
        .args(["run", "--quiet", "--release", "--locked", "--package", "zdd-tests"])
        .args(["--bin", "zdd-model-check", "--"])
        .args(&arguments.rest)
        .exec();
    Err(error).context("cannot start cargo")
}
