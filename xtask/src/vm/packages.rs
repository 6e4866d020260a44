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

/// The keys of all releases of Debian's archive.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where packages come from.
pub enum Sources {
    /// What the machine is set up for.
    Own,
    /// An older release of the same archive, by lists of its own: what apt is told to use instead of the machine's settings.
    Older(Vec<String>),
}

impl Sources {
    /// The release `name` from the places that the machine's own release comes from. `None`: it comes from nowhere that we know.
    fn older(dir: &Path, name: &str) -> Result<Option<Self>> {
        let own = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let codename = own.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or("?");
        let places =
            output(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI) $(RELEASE)"]))?;
        let signed = match Path::new(KEYS).is_file() {
            true => format!("[signed-by={KEYS}] "),
            // Then apt asks all keys that it trusts.
            false => String::new(),
        };
        let mut lines: Vec<String> = places
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                let (place, release) = (words.next()?, words.next()?);
                let suite = match release.strip_prefix(codename)? {
                    end @ ("" | "-security") => format!("{name}{end}"),
                    _ => return None,
                };
                Some(format!("deb {signed}{place} {suite} main\n"))
            })
            .collect();
        lines.sort();
        lines.dedup();
        if lines.is_empty() {
            return Ok(None);
        }
        let own = dir.join(format!("apt-{name}"));
        for sub in ["lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(own.join(sub))?;
        }
        std::fs::write(own.join("sources.list"), lines.concat())?;
        let at = |sub: &str| own.join(sub).display().to_string();
        let mut options = vec!["-q".to_owned()];
        for set in [
            format!("Dir::Etc::sourcelist={}", at("sources.list")),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::lists={}", at("lists")),
            format!("Dir::Cache={}", at("cache")),
            "Acquire::Languages=none".to_owned(),
            // An old release's lists are never renewed.
            "Acquire::Check-Valid-Until=false".to_owned(),
        ] {
            options.extend(["-o".to_owned(), set]);
        }
        let sources = Self::Older(options);
        output(sources.apt("apt-get").args(["-o", "APT::Update::Error-Mode=any", "update"]))?;
        Ok(Some(sources))
    }

    /// A command of apt's that looks there.
    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        if let Self::Older(options) = self {
            command.args(options);
        }
        command
    }
}

/// Downloads packages into `dir` and unpacks them below `dir/<into>`; what is there already is taken as it is.
fn unpack(sources: &Sources, dir: &Path, into: &str, packages: &[&str]) -> Result<PathBuf> {
    let root = dir.join(into);
    let done = root.join(".unpacked");
    if done.is_file() {
        return Ok(root);
    }
    let fetched = dir.join(format!("{into}.debs"));
    std::fs::create_dir_all(&fetched)?;
    std::fs::create_dir_all(&root)?;
    output(sources.apt("apt-get").args(["-q", "download"]).args(packages).current_dir(&fetched))
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
    let root = unpack(&Sources::Own, dir, "qemu", &missing)?;
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
    let root = unpack(&Sources::Own, dir, "busybox", &["busybox-static"])?;
    let found =
        [root.join("bin/busybox"), root.join("usr/bin/busybox")].into_iter().find(|path| path.is_file());
    found.context("busybox-static holds no busybox")
}

/// The newest cloud kernel of a series, such as 6.12, from the machine's sources, or else from `older`, the Debian release that has
/// that series. `Err` within: why there is none.
pub fn kernel(dir: &Path, series: &str, older: Option<&str>) -> Result<Result<Kernel, String>> {
    let mut sources = Sources::Own;
    let mut name = newest(&sources, series)?;
    if name.is_none()
        && let Some(release) = older
    {
        match Sources::older(dir, release) {
            Ok(Some(found)) => sources = found,
            Ok(None) => return Ok(Err("this machine's package sources are not a Debian archive".to_owned())),
            Err(error) => return Ok(Err(format!("the archive does not serve {release}: {error:#}"))),
        }
        name = newest(&sources, series)?;
    }
    let Some(name) = name else {
        return Ok(Err(format!("this machine's package sources have no linux-image-{series}.*-cloud-amd64")));
    };
    let name = name.as_str();
    let root = unpack(&sources, dir, name, &[name])?;
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
        Some(veth) if image.is_file() => Ok(Ok(Kernel { name: name.to_owned(), image, veth })),
        _ => bail!("{name} holds no kernel image or no veth module"),
    }
}

fn newest(sources: &Sources, series: &str) -> Result<Option<String>> {
    let mut list = sources.apt("apt-cache");
    let names = output(list.args(["pkgnames", &format!("linux-image-{series}.")]))?;
    let cloud = names.lines().filter(|name| name.ends_with("-cloud-amd64"));
    // The numbers in the name, in order: 6, 12, 117.
    let newest = cloud.max_by_key(|name| {
        let numbers = name.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
        numbers.collect::<Vec<_>>()
    });
    Ok(newest.map(str::to_owned))
}
