//! `cargo xtask vm`: the kernel tests (verifier, packet rows, model == kernel) on other kernels, each in a virtual machine.
//!
//! ```text
//!  packages (apt-get download, unpacked below target/vm, nothing installed)
//!     kernel + veth.ko ─┐
//!     qemu, busybox ────┼─► initrd (cpio): init, busybox, ip, the test binary, their libraries ─► qemu (TCG) ─► log, result
//!     cargo test --no-run ┘
//! ```
//!
//! With `--systemd` the machine is a small Debian, and what runs in it is the package, under systemd: see [`systemd`].

mod initrd;
mod machine;
mod packages;
mod systemd;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use machine::{Boot, Outcome};

/// Debian's cloud kernels, the series that stand for others: 6.1 and 6.12. 5.10 is below the floor of 5.15. Beside each the release
/// that has it, if the machine's own need not.
const SERIES: [(&str, Option<&str>); 3] = [("6.1", None), ("6.12", None), (BELOW, Some("bullseye"))];

/// Below the floor: run to see what still holds.
const BELOW: &str = "5.10";

/// What is run unless `--test` says otherwise; and below the floor: what each kernel must do, and the backend's program.
const TESTS: [&str; 4] = ["budget", "floor", "rows", "model"];
const TESTS_BELOW: [&str; 2] = ["floor", "decap"];

/// Runs the kernel tests on Debian's kernels.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only this series of kernels, for example 6.12; several times for several. 5.10, which is below the floor, is run only when
    /// it is asked for: what it takes and refuses, that the agent says so, and the backend's program (`zdd decap`), which it takes
    #[arg(long)]
    kernel: Vec<String>,
    /// Tests whose name holds one of these. The hammer tests are left out: they wait for races that an emulated second CPU does not
    /// run into. Unless it says otherwise: budget, floor, rows and model; floor and decap on 5.10
    #[arg(long)]
    test: Vec<String>,
    /// Random frames that kernel and model must agree on; a run outside of a machine takes 200,000
    #[arg(long, default_value_t = 10_000)]
    frames: u64,
    /// Only fetch what is needed from the package sources
    #[arg(long)]
    fetch: bool,
    /// Not the kernel tests, but the Debian package under a real systemd: from its installation to its purge, with live connections
    #[arg(long, conflicts_with_all = ["test", "frames"])]
    systemd: bool,
    /// With --systemd: package this binary instead of building one in release mode
    #[arg(long, value_name = "FILE", requires = "systemd")]
    binary: Option<PathBuf>,
    /// Minutes for one machine; the emulation is 10 to 30 times slower than the machine it runs on
    #[arg(long, default_value_t = 15)]
    minutes: u64,
}

/// # Errors
/// When packages cannot be fetched, the tests cannot be built, or the emulator cannot be started.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let dir = target_dir().join("vm");
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let emulator = packages::emulator(&dir)?;
    if arguments.systemd {
        return systemd::run(arguments, &dir, &emulator);
    }
    let busybox = packages::busybox(&dir)?;
    let mut kernels = vec![];
    for (series, older) in SERIES {
        let asked = match &arguments.kernel[..] {
            [] => series != BELOW,
            asked => asked.iter().any(|one| one == series),
        };
        if asked {
            kernels.push((series, packages::kernel(&dir, series, older)?));
        }
    }
    let known = SERIES.map(|(series, _)| series);
    ensure!(!kernels.is_empty(), "none of {:?} is among the series {known:?}", arguments.kernel);
    if arguments.fetch {
        return Ok(ExitCode::SUCCESS);
    }
    let (test, zdd) = (build(false)?, build_zdd(&dir)?);
    let patience = Duration::from_secs(60 * arguments.minutes);
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    for (series, kernel) in kernels {
        let kernel = match kernel {
            Ok(kernel) => kernel,
            Err(why) => {
                // As the test programs say it, so that whoever counts their lines counts this one.
                println!("test {series} ... ignored, {why}");
                ignored += 1;
                continue;
            }
        };
        let tests = match &arguments.test[..] {
            [] if series == BELOW => TESTS_BELOW.map(String::from).to_vec(),
            [] => TESTS.map(String::from).to_vec(),
            asked => asked.to_vec(),
        };
        let initrd = dir.join(format!("initrd-{series}"));
        initrd::write(&initrd, &busybox, [&test, &zdd], &kernel.veth, (&tests, arguments.frames))
            .with_context(|| format!("write {}", initrd.display()))?;
        println!("{series}: {} boots", kernel.name);
        let log = dir.join(format!("{series}.log"));
        let boot = Boot { image: &kernel.image, initrd: &initrd, words: "", memory: 1536 };
        let outcome = machine::run(&emulator, &boot, &log, patience)?;
        let Outcome { tests_passed, tests_failed, told, ended } = &outcome;
        for line in told {
            println!("{series}: {line}");
        }
        if !ended {
            println!("{series}: the machine did not come to its end; see {}", log.display());
            failed += 1;
        } else if *tests_failed > 0 || *tests_passed == 0 {
            println!("{series}: {}", machine::failures(&log)?);
        }
        println!("{series}: {tests_passed} tests passed, {tests_failed} failed ({})", log.display());
        passed += tests_passed;
        failed += tests_failed;
    }
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 && passed + ignored > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds the kernel tests and says where the binary is.
pub(crate) fn build(release: bool) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(cargo)
        .args(["test", "--locked", "--no-run", "--package", "zdd-tests", "--test", "kernel"])
        .args(release.then_some("--release"))
        .current_dir(root())
        .output()
        .context("cannot start cargo")?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "the tests do not build:\n{said}");
    // `Executable tests/kernel/main.rs (target/release/deps/kernel-0123456789abcdef)`
    let path = said.lines().rev().find_map(|line| {
        let line = line.trim().strip_prefix("Executable ")?;
        line.rsplit_once('(')?.1.strip_suffix(')')
    });
    let Some(path) = path else { bail!("cargo names no executable:\n{said}") };
    Ok(root().join(path))
}

/// Builds `zdd` and takes what only debuggers need out of it: the machine holds it in memory.
fn build_zdd(dir: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    output(Command::new(cargo).args(["build", "--locked", "--package", "zdd-agent"]).current_dir(root()))?;
    let stripped = dir.join("zdd");
    let built = target_dir().join("debug/zdd");
    output(Command::new("strip").arg("-o").arg(&stripped).arg(built)).context("binutils has `strip`")?;
    Ok(stripped)
}

/// The clone.
pub(crate) fn root() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.parent().map_or(own.clone(), Path::to_path_buf)
}

/// Where cargo builds.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Runs a program to its end and returns what it wrote.
fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let out = command.output().with_context(|| format!("cannot start {shown}"))?;
    ensure!(out.status.success(), "{shown} failed:\n{}", String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
