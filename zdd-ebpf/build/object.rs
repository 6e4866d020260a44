// How a BPF object is built. Included by the agent's build script, which carries the object, and by the bench, which also
// builds other revisions and programs of its own: one way of building, or figures would not be comparable.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Builds the binary `bin` of the zdd-ebpf crate in the workspace `root` and returns the object's path.
///
/// Cargo may run inside cargo here: the object needs another compiler (the nightly named in `zdd-ebpf/rust-toolchain.toml`),
/// target and flags (`zdd-ebpf/rustflags`, one a line). `target_dir` keeps the two from waiting for each other's lock.
///
/// # Errors
/// Without rustup or that compiler, and when the object does not compile; cargo's own messages go to stderr.
pub fn build(root: &Path, bin: &str, target_dir: &Path) -> Result<PathBuf> {
    let toolchain = toolchain(root)?;
    let mut path = vec![root.join(".tools/bin")];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let mut cargo = Command::new("rustup");
    cargo.args([
        "run",
        &toolchain,
        "cargo",
        "build",
        "--locked",
        "--package",
        "zdd-ebpf",
        "--bin",
        bin,
        "--release",
    ]);
    cargo.args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--target-dir"]).arg(target_dir);
    cargo
        .current_dir(root)
        .env("PATH", std::env::join_paths(path)?)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(root)?);
    // What cargo tells build scripts would bind the inner cargo to the outer compiler.
    for key in ["RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTDOC", "CARGO", "RUSTUP_TOOLCHAIN"] {
        cargo.env_remove(key);
    }
    let status = cargo.status().context("rustup is needed to build the BPF object: run scripts/setup.sh")?;
    ensure!(status.success(), "the BPF object {bin} did not build: run scripts/setup.sh, then see above");
    Ok(target_dir.join("bpfel-unknown-none/release").join(bin))
}

/// The compiler that the workspace names.
fn toolchain(root: &Path) -> Result<String> {
    let pinned = root.join("zdd-ebpf/rust-toolchain.toml");
    let text = std::fs::read_to_string(&pinned).with_context(|| pinned.display().to_string())?;
    text.lines()
        .find_map(|line| line.trim().strip_prefix("channel = \"")?.strip_suffix('"'))
        .map(str::to_owned)
        .context("no channel in zdd-ebpf/rust-toolchain.toml")
}

/// The workspace's flags, as cargo wants them in a variable. A revision from before the file had these.
fn flags(root: &Path) -> Result<String> {
    const BEFORE: &str = "--cfg=bpf_target_arch=\"x86_64\"\n-Cdebuginfo=2\n-Ctarget-cpu=v3\n-Clink-arg=--btf";
    let file = root.join("zdd-ebpf/rustflags");
    let text = match std::fs::read_to_string(&file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => BEFORE.to_owned(),
        read => read.with_context(|| file.display().to_string())?,
    };
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\x1f"))
}
