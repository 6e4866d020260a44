//! `cargo xtask fuzz`: coverage-guided fuzzing of everything that happens to a packet, by libFuzzer. The target is a workspace of its own,
//! `tests/fuzz`, because it is built by the nightly, with sanitizers.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

use crate::vm::{root, target_dir};

/// As scripts/setup.sh pins its tools.
const CARGO_FUZZ: &str = "0.13.2";

/// Fuzzes what happens to packets.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Seconds to search; 0: until something is found, or Ctrl-C
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Run this input instead: a finding of an earlier run
    #[arg(long)]
    input: Option<PathBuf>,
}

/// # Errors
/// When a tool cannot be had or the target does not build. A finding is no error: its exit status is libFuzzer's.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let dir = target_dir().join("fuzz");
    let tool = cargo_fuzz(&dir)?;
    let corpus = dir.join("corpus");
    let manifest = root().join("tests/fuzz/Cargo.toml");
    let mut seeds = nightly(&dir);
    seeds.args(["cargo", "run", "--quiet", "--locked", "--bin", "seeds", "--manifest-path"]);
    let status = seeds.arg(manifest).arg("--").arg(&corpus).status().context("cannot start rustup")?;
    ensure!(status.success(), "the seeds cannot be written ({status})");
    let mut fuzz = nightly(&dir);
    fuzz.arg(tool).args(["fuzz", "run", "--fuzz-dir"]).arg(root().join("tests/fuzz")).arg("packets");
    match &arguments.input {
        Some(input) => fuzz.arg(input),
        None => fuzz.arg(&corpus).args(["--", "-max_len=4096", "-print_final_stats=1"]).arg(
            // 0 is no limit to libFuzzer too.
            format!("-max_total_time={}", arguments.seconds),
        ),
    };
    let status = fuzz.current_dir(root()).status().context("cannot start rustup")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A command of the nightly, with a target directory of its own.
fn nightly(dir: &Path) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", nightly_name()]).env("CARGO_TARGET_DIR", dir);
    command
}

/// The toolchain that builds the eBPF object.
fn nightly_name() -> &'static str {
    let pinned = include_str!("../../zdd-ebpf/rust-toolchain.toml");
    pinned
        .lines()
        .find_map(|line| line.strip_prefix("channel = \""))
        .map_or("nightly", |rest| rest.trim_end_matches('"'))
}

/// The tool; built the first time.
fn cargo_fuzz(dir: &Path) -> Result<PathBuf> {
    let tool = root().join(".tools/bin/cargo-fuzz");
    let there = Command::new(&tool).arg("--version").output();
    let version = there.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
    if version.contains(CARGO_FUZZ) {
        return Ok(tool);
    }
    println!("cargo-fuzz {CARGO_FUZZ} is built, once");
    let mut install = nightly(&dir.join("tool"));
    install.args(["cargo", "install", "cargo-fuzz", "--locked", "--debug", "--force", "--version"]);
    install.arg(format!("={CARGO_FUZZ}")).arg("--root").arg(root().join(".tools"));
    let status = install.status().context("cannot start rustup")?;
    ensure!(status.success(), "cargo-fuzz cannot be built ({status})");
    Ok(tool)
}
