//! `cargo xtask image`: a static binary and an OCI archive of it, without a container engine's service and without a registry.
//!
//! ```text
//!  cargo build --target *-linux-musl ─► zdd (static) ─┐
//!  scripts/Containerfile, from its `FROM scratch` on ─┴─► buildah ─► target/image/zdd.oci.tar
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

use crate::vm::{root, target_dir};

/// What to put into the image
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Take this static binary instead of building one in release mode
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// The image's name and tag
    #[arg(long, default_value = "zdd:latest")]
    tag: String,
    /// Run the image as the DaemonSet would, with live traffic (needs root)
    #[arg(long)]
    check: bool,
}

/// # Errors
/// When a step fails; it says which.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let binary = match &arguments.binary {
        Some(binary) => binary.clone(),
        None => build()?,
    };
    let elf = fs::read(&binary).with_context(|| format!("cannot read {}", binary.display()))?;
    ensure!(is_static(&elf), "{} asks for a loader, and the image has none", binary.display());
    let out = target_dir().join("image");
    drop(fs::remove_dir_all(&out));
    fs::create_dir_all(&out)?;
    fs::write(out.join("zdd"), elf)?;
    make_executable(&out.join("zdd"))?;
    let file = fs::read_to_string(root().join("scripts/Containerfile"))?;
    fs::write(out.join("Containerfile"), last_stage(&file)?)?;
    let archive = out.join("zdd.oci.tar");
    // A store of its own, on any file system: nothing of it stays on the machine.
    let store = out.join("store");
    let buildah = |arguments: &[&str]| {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(store.join("root")).arg("--runroot").arg(store.join("run"));
        command.args(["--storage-driver", "vfs"]).args(arguments).current_dir(&out);
        let status = command.status().context("cannot start buildah\nhelp: apt-get install buildah")?;
        ensure!(status.success(), "buildah {} failed", arguments.join(" "));
        Ok(())
    };
    let tag = &arguments.tag;
    buildah(&["build", "--quiet", "--isolation", "chroot", "--file", "Containerfile", "--tag", tag, "."])?;
    let name = tag.rsplit('/').next().unwrap_or(tag);
    buildah(&["push", "--quiet", tag, &format!("oci-archive:{}:{name}", archive.display())])?;
    fs::remove_dir_all(&store)?;
    println!("{}: {} KiB, {tag}", archive.display(), fs::metadata(&archive)?.len() / 1024);
    println!("to load it: podman load -i FILE, or ctr -n k8s.io images import FILE");
    if arguments.check { check(&archive) } else { Ok(ExitCode::SUCCESS) }
}

/// The test that runs a pod, with this image in it.
fn check(archive: &Path) -> Result<ExitCode> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut test = Command::new(&cargo);
    test.args(["test", "--locked", "--package", "zdd-tests", "--test", "pod"]).env("ZDD_IMAGE", archive);
    // The command line that it compares with is the tests' own.
    let built = Command::new(&cargo).args(["build", "--locked", "--package", "zdd-agent"]).status()?;
    ensure!(built.success(), "zdd does not build");
    Ok(if test.status().context("cannot start cargo")?.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Builds for musl, whose programs need nothing of the system that they run on.
fn build() -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let added = Command::new("rustup").args(["target", "add", &target]).current_dir(root()).status();
    ensure!(added.context("cannot start rustup")?.success(), "rustup has no target {target}");
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--locked", "--release", "--package", "zdd-agent", "--target", &target]);
    let status = build.current_dir(root()).status().context("cannot start cargo")?;
    ensure!(status.success(), "zdd does not build for {target}\nhelp: apt-get install musl-tools");
    Ok(target_dir().join(target).join("release/zdd"))
}

/// The part of the Containerfile that is the image itself; the binary lies beside it.
fn last_stage(file: &str) -> Result<String> {
    const COPY: &str = "COPY --from=build /out/zdd /zdd";
    let at = file.find("\nFROM scratch\n").context("scripts/Containerfile has no stage `FROM scratch`")?;
    let stage = &file[at + 1..];
    ensure!(stage.contains(COPY), "scripts/Containerfile does not say `{COPY}`");
    Ok(stage.replace(COPY, "COPY zdd /zdd"))
}

/// Whether an ELF file of 64 bits names no interpreter (PT_INTERP, elf(5)).
fn is_static(elf: &[u8]) -> bool {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, bytes: usize| {
        let mut value = [0; 8];
        value[..bytes].copy_from_slice(elf.get(at..at + bytes)?);
        Some(u64::from_le_bytes(value))
    };
    let headers = || {
        let (first, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        let kinds = (0..count).map(|n| number(usize::try_from(first + n * size).ok()?, 4));
        kinds.collect::<Option<Vec<u64>>>()
    };
    elf.starts_with(b"\x7fELF\x02") && headers().is_some_and(|kinds| !kinds.contains(&PT_INTERP))
}

fn make_executable(file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(file, fs::Permissions::from_mode(0o755))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_the_last_stage_of_the_containerfile() {
        let file = include_str!("../../scripts/Containerfile");
        let stage = last_stage(file).expect("a stage");
        assert!(stage.starts_with("FROM scratch\nCOPY zdd /zdd\n"), "{stage}");
        assert!(!stage.contains("--from") && stage.contains("ENTRYPOINT [\"/zdd\"]"), "{stage}");
        assert!(last_stage("FROM scratch\n").is_err());
    }

    #[test]
    fn a_program_that_needs_a_loader_is_not_static() {
        let own = fs::read("/proc/self/exe").expect("this program");
        assert!(!is_static(&own), "tests are linked dynamically");
        assert!(!is_static(b"#!/bin/sh\n"));
        // Without program headers there is no interpreter either.
        let mut bare = vec![0; 64];
        bare[..5].copy_from_slice(b"\x7fELF\x02");
        assert!(is_static(&bare));
    }
}
