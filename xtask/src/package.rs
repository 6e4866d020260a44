//! `cargo xtask package`: the binary, its manual pages and completions, and a Debian package of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};

/// What to package
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Package this binary instead of building one in release mode
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Make manual pages, completions and the unit only
    #[arg(long)]
    no_deb: bool,
}

/// The maintainer that files of the repository name: an address that nobody answers at.
const NOBODY: &str = "zdd developers <zdd@localhost>";
/// Where packaged binaries are.
const INSTALLED: &str = "/usr/bin/zdd";
/// Where the unit of the repository expects one that was installed by hand.
const BY_HAND: &str = "/usr/local/bin/zdd";

/// Makes everything below `target/package`, and tells what there is.
///
/// # Errors
/// When a step fails; it says which.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    make(arguments.binary.as_deref(), !arguments.no_deb)?;
    Ok(ExitCode::SUCCESS)
}

/// Makes everything below `target/package`, the Debian package only if it is wanted; returns its path.
///
/// # Errors
/// When a step fails; it says which.
pub fn make(binary: Option<&Path>, deb: bool) -> Result<Option<PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let release = target.join("release/zdd");
    let binary = match binary {
        Some(binary) => binary.to_owned(),
        None => {
            let mut build = Command::new(&cargo);
            build.current_dir(root).args(["build", "--release", "--locked", "--package", "zdd-agent"]);
            ensure!(build.status().context("cannot start cargo")?.success(), "zdd does not build");
            release.clone()
        }
    };
    // cargo-deb's paths are relative to the workspace, so this is where they point to.
    let out = root.join("target/package");
    drop(fs::remove_dir_all(&out));
    fs::create_dir_all(out.join("man"))?;
    tell(&binary, &["man", &out.join("man").display().to_string()], None)?;
    for (shell, file) in [("bash", "zdd.bash"), ("zsh", "_zdd"), ("fish", "zdd.fish")] {
        tell(&binary, &["completions", shell], Some(&out.join(file)))?;
    }
    let unit = fs::read_to_string(root.join("scripts/zdd.service"))?;
    ensure!(unit.contains(BY_HAND), "scripts/zdd.service does not name {BY_HAND}");
    // The comment at its top tells how to install it by hand.
    let unit: String =
        unit.lines().filter(|line| !line.starts_with("#   ")).map(|line| format!("{line}\n")).collect();
    fs::write(out.join("zdd.service"), unit.replace(BY_HAND, INSTALLED))?;
    fs::copy(&binary, out.join("zdd")).with_context(|| format!("cannot copy {}", binary.display()))?;
    let changelog = fs::read_to_string(root.join("scripts/package/changelog"))?;
    ensure!(changelog.contains(NOBODY), "scripts/package/changelog does not name {NOBODY}");
    fs::write(out.join("changelog"), changelog.replace(NOBODY, &maintainer()))?;
    println!("{}: binary, manual pages, completions, systemd unit", out.display());
    if !deb {
        return Ok(None);
    }
    let mut deb = Command::new("cargo-deb");
    deb.current_dir(root).args(["--no-build", "--no-strip", "--package", "zdd-agent", "--output"]).arg(&out);
    deb.args(["--maintainer", &maintainer()]);
    // It is told where cargo is, and looks for the binary where cargo puts it.
    let status = deb.status().context("cannot start cargo-deb: cargo install cargo-deb --locked")?;
    ensure!(status.success(), "cargo-deb failed");
    let made = fs::read_dir(&out)?.filter_map(|entry| Some(entry.ok()?.path()));
    let made = made.into_iter().find(|path| path.extension().is_some_and(|end| end == "deb"));
    Ok(Some(made.context("cargo-deb has made no package")?))
}

/// Who answers for the package, by the variables of Debian's own tools (dch(1)).
fn maintainer() -> String {
    match (std::env::var("DEBFULLNAME"), std::env::var("DEBEMAIL")) {
        (Ok(name), Ok(address)) => format!("{name} <{address}>"),
        _ => NOBODY.to_owned(),
    }
}

/// Runs the binary; its output goes to `file`.
fn tell(binary: &Path, arguments: &[&str], file: Option<&Path>) -> Result<()> {
    let mut command = Command::new(binary);
    command.args(arguments).stdin(Stdio::null());
    if let Some(file) = file {
        command.stdout(fs::File::create(file)?);
    }
    let status = command.status().with_context(|| format!("cannot start {}", binary.display()))?;
    ensure!(status.success(), "`{} {}` failed", binary.display(), arguments.join(" "));
    Ok(())
}
