//! Build steps: the XDP object that the agent carries, and the gRPC code from the proto file.

use std::path::PathBuf;

use anyhow::Context as _;

fn main() -> anyhow::Result<()> {
    proto()?;
    ebpf()
}

/// Builds the XDP objects for the BPF target and puts them at `$OUT_DIR/zdd.bpf.o` and `$OUT_DIR/zdd-decap.bpf.o`.
///
/// Cargo runs inside cargo: the object needs another compiler (the nightly named in `zdd-ebpf/rust-toolchain.toml`),
/// target and flags. A target directory of its own keeps the two from waiting for each other's lock.
fn ebpf() -> anyhow::Result<()> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").context("OUT_DIR")?);
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR")?)
        .parent()
        .context("the workspace")?
        .to_owned();
    for dir in ["zdd-ebpf", "zdd-common"] {
        println!("cargo::rerun-if-changed={}", root.join(dir).join("src").display());
        println!("cargo::rerun-if-changed={}", root.join(dir).join("Cargo.toml").display());
    }
    let pinned = root.join("zdd-ebpf/rust-toolchain.toml");
    println!("cargo::rerun-if-changed={}", pinned.display());
    let text = std::fs::read_to_string(&pinned).with_context(|| pinned.display().to_string())?;
    let toolchain = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("channel = \"")?.strip_suffix('"'))
        .context("no channel in zdd-ebpf/rust-toolchain.toml")?;
    let target_dir = out.join("bpf-target");
    let mut path = vec![root.join(".tools/bin")];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    // cpu v3: compare-and-swap and 32-bit jumps (Linux 5.12).
    let flags = ["--cfg=bpf_target_arch=\"x86_64\"", "-Cdebuginfo=2", "-Ctarget-cpu=v3", "-Clink-arg=--btf"]
        .join("\x1f");
    let mut cargo = std::process::Command::new("rustup");
    cargo.args([
        "run",
        toolchain,
        "cargo",
        "build",
        "--locked",
        "--package",
        "zdd-ebpf",
        "--bins",
        "--release",
    ]);
    cargo.args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--target-dir"]).arg(&target_dir);
    cargo.current_dir(&root).env("PATH", std::env::join_paths(path)?).env("CARGO_ENCODED_RUSTFLAGS", flags);
    // What cargo tells build scripts would bind the inner cargo to the outer compiler.
    for key in ["RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTDOC", "CARGO", "RUSTUP_TOOLCHAIN"] {
        cargo.env_remove(key);
    }
    let status = cargo.status().context("rustup is needed to build the XDP object: run scripts/setup.sh")?;
    anyhow::ensure!(status.success(), "the XDP object did not build: run scripts/setup.sh, then see above");
    for name in ["zdd", "zdd-decap"] {
        let built = target_dir.join("bpfel-unknown-none/release").join(name);
        std::fs::copy(built, out.join(name).with_extension("bpf.o"))?;
    }
    Ok(())
}

/// Compiles `proto/` without a protoc binary, and keeps the descriptors for reflection as `zdd.v1.bin`.
fn proto() -> anyhow::Result<()> {
    const FILE: &str = "proto/zdd/v1/zdd.proto";
    println!("cargo::rerun-if-changed={FILE}");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_file("zdd/v1/zdd.proto")?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("zdd.v1.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
