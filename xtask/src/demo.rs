//! `cargo xtask demo`: builds what the demo needs and becomes it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

/// The packages with the binaries `zdd` and `zdd-demo`.
const PACKAGES: [&str; 2] = ["zdd-agent", "zdd-tests"];

/// Arguments of the demo itself are passed on as they are.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Arguments {
    /// Do not build; use what was built last
    #[arg(long)]
    no_build: bool,
    /// Everything else goes to zdd-demo; see `cargo xtask demo --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

/// Returns only when something went wrong: otherwise this process has become the demo.
///
/// # Errors
/// When the build fails or the demo cannot be started.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if !arguments.no_build {
        build()?;
    }
    let demo = release_dir().join("zdd-demo");
    ensure!(demo.is_file(), "there is no {}; run without --no-build", demo.display());
    // Becoming it, instead of waiting for it, leaves signals and the exit status to it.
    let error = Command::new(&demo).args(&arguments.rest).exec();
    Err(error).with_context(|| format!("cannot start {}", demo.display()))
}

fn build() -> Result<()> {
    // The cargo that runs us, or the one on the path.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.arg("build").arg("--release").arg("--locked");
    for package in PACKAGES {
        command.args(["--package", package]);
    }
    command.current_dir(root());
    let status = command.status().context("cannot start cargo")?;
    ensure!(status.success(), "the build failed ({status})");
    Ok(())
}

/// The workspace's directory.
fn root() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.parent().map_or(own.clone(), std::path::Path::to_path_buf)
}

fn release_dir() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join("release")
}
