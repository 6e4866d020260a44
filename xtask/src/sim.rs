//! `cargo xtask sim`: builds the simulation and becomes it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

/// Everything is passed on to zdd-sim.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Arguments {
    /// See `cargo xtask sim --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

/// Returns only when something went wrong: otherwise this process has become the simulation, whose exit status says
/// whether a connection broke although no state was lost.
///
/// # Errors
/// When cargo cannot be started.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let error = Command::new(cargo)
        .args(["run", "--quiet", "--release", "--locked", "--package", "zdd-tests"])
        .args(["--bin", "zdd-sim", "--"])
        .args(&arguments.rest)
        .exec();
    Err(error).context("cannot start cargo")
}
