//! Build steps: the XDP object that the agent carries, and the gRPC code from the proto file.

#[path = "../zdd-ebpf/build/object.rs"]
mod object;

use std::path::PathBuf;

use anyhow::Context as _;

fn main() -> anyhow::Result<()> {
    proto()?;
    ebpf()
}

/// Builds the XDP objects for the BPF target and puts them at `$OUT_DIR/zdd.bpf.o` and `$OUT_DIR/zdd-decap.bpf.o`.
fn ebpf() -> anyhow::Result<()> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").context("OUT_DIR")?);
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR")?)
        .parent()
        .context("the workspace")?
        .to_owned();
    for path in [
        "zdd-ebpf/src",
        "zdd-ebpf/build",
        "zdd-ebpf/rustflags",
        "zdd-ebpf/rust-toolchain.toml",
        "zdd-ebpf/Cargo.toml",
        "zdd-common/src",
        "zdd-common/Cargo.toml",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    for name in ["zdd", "zdd-decap"] {
        let built = object::build(&root, name, &out.join("bpf-target"))?;
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
