//! Kernels, emulator and busybox from the machine's package sources: downloaded and unpacked, never installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::output;

/// A kernel to boot.
pub struct Kernel {
    /// Package name.
    pub name: String,
    /// The compressed image.
    pub image: PathBuf,
    /// The veth module, uncompressed.
    pub veth: PathBuf,
}

/// The emulator: its program, the libraries that the machine lacks, its firmware.
pub struct Emulator {
    pub program: PathBuf,
    pub libraries: Vec<PathBuf>,
    pub firmware: Vec<PathBuf>,
}

/// Downloads packages into `dir` and unpacks them below `dir/<into>`; what is there already is taken as it is.
fn unpack(dir: &Path, into: &str, packages: &[&str]) -> Result<PathBuf> {
    let root = dir.join(into);
    let done = root.join(".unpacked");
    if done.is_file() {
        return Ok(root);
    }
    let fetched = dir.join(format!("{into}.debs"));
    std::fs::create_dir_all(&fetched)?;
    std::fs::create_dir_all(&root)?;
    output(Command::new("apt-get").args(["-q", "download"]).args(packages).current_dir(&fetched))
        .context("cannot fetch packages (`apt-get update` first?)")?;
    for entry in std::fs::read_dir(&fetched)? {
        output(Command::new("dpkg-deb").arg("-x").arg(entry?.path()).arg(&root))?;
    }
    std::fs::remove_dir_all(&fetched)?;
    std::fs::write(done, "")?;
    Ok(root)
}

/// The emulator, the machine's own if it has one.
pub fn emulator(dir: &Path) -> Result<Emulator> {
    let own = PathBuf::from("/usr/bin/qemu-system-x86_64");
    if own.is_file() {
        return Ok(Emulator { program: own, libraries: vec![], firmware: vec![] });
    }
    // Only what the machine lacks is listed, and nothing is done.
    let plan = output(Command::new("apt-get").args([
        "-s",
        "--no-install-recommends",
        "install",
        "qemu-system-x86",
    ]))?;
    let missing: Vec<&str> =
        plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next()).collect();
    let root = unpack(dir, "qemu", &missing)?;
    let usr = root.join("usr");
    let multiarch = Path::new("lib/x86_64-linux-gnu");
    Ok(Emulator {
        program: usr.join("bin/qemu-system-x86_64"),
        libraries: vec![usr.join(multiarch), root.join(multiarch)],
        firmware: vec![usr.join("share/qemu"), usr.join("share/seabios")],
    })
}

/// A static busybox.
pub fn busybox(dir: &Path) -> Result<PathBuf> {
    let root = unpack(dir, "busybox", &["busybox-static"])?;
    let found =
        [root.join("bin/busybox"), root.join("usr/bin/busybox")].into_iter().find(|path| path.is_file());
    found.context("busybox-static holds no busybox")
}

/// The newest cloud kernel of a series, such as 6.12; `None` when the sources have none.
pub fn kernel(dir: &Path, series: &str) -> Result<Option<Kernel>> {
    let names = output(Command::new("apt-cache").args(["pkgnames", &format!("linux-image-{series}.")]))?;
    let newest = names
        .lines()
        .filter(|name| name.ends_with("-cloud-amd64"))
        // The numbers in the name, in order: 6, 12, 117.
        .max_by_key(|name| {
            let numbers = name.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
            numbers.collect::<Vec<_>>()
        });
    let Some(name) = newest else { return Ok(None) };
    let root = unpack(dir, name, &[name])?;
    let version = name.trim_start_matches("linux-image-");
    let image = root.join(format!("boot/vmlinuz-{version}"));
    let module = format!("lib/modules/{version}/kernel/drivers/net/veth.ko");
    let veth = [root.join(&module), root.join("usr").join(&module)].into_iter().find_map(|plain| {
        let packed = plain.with_extension("ko.xz");
        if packed.is_file() && !plain.is_file() {
            output(Command::new("xz").arg("--decompress").arg("--keep").arg(&packed)).ok()?;
        }
        plain.is_file().then_some(plain)
    });
    match veth {
        Some(veth) if image.is_file() => Ok(Some(Kernel { name: name.to_owned(), image, veth })),
        _ => bail!("{name} holds no kernel image or no veth module"),
    }
}
