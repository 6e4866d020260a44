//! `cargo xtask vm --systemd`: the Debian package in a Debian with systemd, in an emulated machine.
//!
//! ```text
//!  mmdebstrap (once) ─► target/vm/debian ─┐
//!  cargo xtask package ─► zdd_*.deb ──────┼─► initrd ─► qemu (TCG): systemd ─► checks.sh ─► console
//!  kernel, veth.ko, checks.sh, connections.py ┘
//! ```
//!
//! The whole system is the initrd: nothing is mounted, and the machine forgets everything.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::initrd::Archive;
use super::machine::{self, Boot};
use super::packages::{self, Emulator};
use super::{Arguments, output, root};

const CHECKS: &str = include_str!("checks.sh");
const CONNECTIONS: &str = include_str!("connections.py");

/// What a server has, as far as the package and the checks need it.
const PACKAGES: &str = "systemd,systemd-sysv,init-system-helpers,dbus,iproute2,ethtool,procps,kmod,python3-minimal,libpython3-stdlib";

const UNIT: &str = "[Unit]\nDescription=The checks of the package\nAfter=multi-user.target\n\
    [Service]\nType=oneshot\nExecStart=/root/checks.sh\nStandardOutput=file:/dev/console\nTimeoutStartSec=infinity\n\
    [Install]\nWantedBy=multi-user.target\n";

/// # Errors
/// When something cannot be fetched, built or started.
pub fn run(arguments: &Arguments, dir: &Path, emulator: &Emulator) -> Result<ExitCode> {
    let series = arguments.kernel.first().map_or("6.1", String::as_str);
    let kernel = packages::kernel(dir, series, None)?.map_err(|why| anyhow::anyhow!("{series}: {why}"))?;
    let debian = debian(dir)?;
    if arguments.fetch {
        return Ok(ExitCode::SUCCESS);
    }
    let deb = crate::package::make(arguments.binary.as_deref(), true)?.context("no package was made")?;
    let initrd = dir.join("initrd-systemd");
    let mut archive = Archive::create(&initrd)?;
    archive
        .tree(&debian, &["usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache", ".unpacked"])?;
    archive.copy(Path::new("root/zdd.deb"), &deb, 0o644)?;
    archive.copy(Path::new("root/veth.ko"), &kernel.veth, 0o644)?;
    archive.file(Path::new("root/checks.sh"), CHECKS.as_bytes(), 0o755)?;
    archive.file(Path::new("root/connections.py"), CONNECTIONS.as_bytes(), 0o644)?;
    archive.file(Path::new("etc/systemd/system/zdd-checks.service"), UNIT.as_bytes(), 0o644)?;
    let wanted = "etc/systemd/system/multi-user.target.wants/zdd-checks.service";
    archive.link(Path::new(wanted), "../zdd-checks.service")?;
    let readme = std::fs::read_to_string(root().join("README.md"))?;
    for (file, text) in [
        (
            "zdd.toml",
            block(&readme, "**3. Write `zdd.toml`.** For `nat`:", "toml")?
                .replace("eth0", "zc0")
                .replace("eth1", "zs0"),
        ),
        ("keep-it-running.sh", block(&readme, "**7. Keep it running**", "sh")?),
        ("undo-everything.sh", block(&readme, "## Undo everything", "sh")?),
        ("scripts/zdd.service", std::fs::read_to_string(root().join("scripts/zdd.service"))?),
    ] {
        archive.file(&Path::new("root/clone").join(file), text.as_bytes(), 0o644)?;
    }
    archive.end()?;
    println!("{} boots with systemd and {}", kernel.name, deb.display());
    let log = dir.join("systemd.log");
    // No login prompts: the console is the checks'.
    let words = "rdinit=/sbin/init systemd.getty_auto=no systemd.show_status=no systemd.log_target=journal";
    let boot = Boot { image: &kernel.image, initrd: &initrd, words, memory: 2560 };
    let patience = Duration::from_secs(60 * arguments.minutes.max(30));
    let outcome = machine::run(emulator, &boot, &log, patience)?;
    let console = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
    let told = |line: &&str| ["test ", "    ", "zdd-vm-"].iter().any(|begin| line.starts_with(begin));
    console.lines().map(str::trim_end).filter(told).for_each(|line| println!("{line}"));
    ensure!(outcome.ended, "the machine did not come to its end; see {}", log.display());
    println!("{} passed, {} failed", outcome.tests_passed, outcome.tests_failed);
    Ok(if outcome.tests_failed == 0 && outcome.tests_passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The first block of a language after a line.
fn block(text: &str, after: &str, language: &str) -> Result<String> {
    let rest = text.split_once(after).with_context(|| format!("README.md has no {after:?}"))?.1;
    let block =
        rest.split_once(&format!("\n```{language}\n")).and_then(|(_, block)| block.split_once("\n```"));
    Ok(block.with_context(|| format!("no {language} after {after:?}"))?.0.to_owned() + "\n")
}

/// A small Debian 12, made once.
fn debian(dir: &Path) -> Result<PathBuf> {
    let system = dir.join("debian");
    let done = system.join(".unpacked");
    if done.is_file() {
        return Ok(system);
    }
    println!("{}: mmdebstrap makes a Debian", system.display());
    drop(std::fs::remove_dir_all(&system));
    let mut make = Command::new("mmdebstrap");
    make.args(["--quiet", "--variant=minbase", &format!("--include={PACKAGES}"), "bookworm"]).arg(&system);
    output(&mut make).context("a Debian cannot be made\nhelp: apt-get install mmdebstrap")?;
    std::fs::write(done, "")?;
    Ok(system)
}
