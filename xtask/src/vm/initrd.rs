//! The machine's file system: a cpio archive in the kernel's own format ("newc", Documentation/driver-api/early-userspace).

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::output;

const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin LD_LIBRARY_PATH=/lib/x86_64-linux-gnu:/usr/lib/x86_64-linux-gnu
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
ulimit -l unlimited
insmod /veth.ko
echo "zdd-vm-kernel $(uname -r)"
ZDD_FRAMES=FRAMES /kernel --test-threads=1 --nocapture TESTS 2>&1
echo "zdd-vm-end $?"
poweroff -f
"#;

/// Writes an archive with busybox, `ip`, the test binary, `zdd`, the libraries that they need, and a script that runs the tests.
pub fn write(
    at: &Path,
    busybox: &Path,
    [test, zdd]: [&Path; 2],
    veth: &Path,
    (tests, frames): (&[String], u64),
) -> Result<()> {
    let ip = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip"].map(PathBuf::from);
    let ip = ip.into_iter().find(|path| path.is_file()).context("there is no `ip`: install iproute2")?;
    let mut archive = Archive::create(at)?;
    for dir in ["bin", "dev", "proc", "sys", "tmp"] {
        archive.directory(Path::new(dir))?;
    }
    let init = INIT.replace("TESTS", &tests.join(" ")).replace("=FRAMES", &format!("={}", frames));
    archive.file(Path::new("init"), init.as_bytes(), 0o755)?;
    archive.copy(Path::new("bin/busybox"), busybox, 0o755)?;
    archive.copy(Path::new("bin/ip"), &ip, 0o755)?;
    archive.copy(Path::new("kernel"), test, 0o755)?;
    archive.copy(Path::new("zdd"), zdd, 0o755)?;
    archive.copy(Path::new("veth.ko"), veth, 0o644)?;
    let mut libraries = BTreeSet::new();
    for program in [ip.as_path(), test, zdd] {
        libraries.extend(libraries_of(program)?);
    }
    for library in libraries {
        archive.copy(library.strip_prefix("/").unwrap_or(&library), &library, 0o755)?;
    }
    archive.end()
}

/// Absolute paths of a program's shared libraries, the loader included.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let said = output(Command::new("ldd").arg(program))?;
    let path = |line: &str| {
        let path = line.split_whitespace().find(|word| word.starts_with('/'))?;
        Some(PathBuf::from(path))
    };
    Ok(said.lines().filter_map(path).collect())
}

/// An archive under way.
pub struct Archive {
    out: BufWriter<File>,
    inode: u32,
    made: BTreeSet<PathBuf>,
}

impl Archive {
    /// # Errors
    /// The file cannot be written; so are all errors of the other functions.
    pub fn create(at: &Path) -> Result<Archive> {
        Ok(Archive { out: BufWriter::new(File::create(at)?), inode: 1, made: BTreeSet::new() })
    }

    /// All that lies below `from`, as root's, but for what is below the paths `without`. What is neither a file nor a directory nor a link
    /// is left out: the kernel makes devices.
    pub fn tree(&mut self, from: &Path, without: &[&str]) -> Result<()> {
        let mut left = vec![PathBuf::new()];
        while let Some(inside) = left.pop() {
            let mut entries = std::fs::read_dir(from.join(&inside))?.collect::<std::io::Result<Vec<_>>>()?;
            entries.sort_by_key(std::fs::DirEntry::file_name);
            for entry in entries {
                let (path, about) = (inside.join(entry.file_name()), entry.metadata()?);
                let mode = about.permissions().mode() & 0o7777;
                if without.iter().any(|out| path.starts_with(out)) {
                    continue;
                } else if about.is_dir() {
                    self.made.insert(path.clone());
                    self.entry(&path, 0o040_000 | mode, &[])?;
                    left.push(path);
                } else if about.is_symlink() {
                    let target = std::fs::read_link(entry.path())?;
                    self.entry(&path, 0o120_777, target.as_os_str().as_bytes())?;
                } else if about.is_file() {
                    self.entry(&path, 0o100_000 | mode, &std::fs::read(entry.path())?)?;
                }
            }
        }
        Ok(())
    }

    /// A directory and those above it.
    fn directory(&mut self, path: &Path) -> Result<()> {
        for above in path.ancestors().collect::<Vec<_>>().into_iter().rev() {
            if !above.as_os_str().is_empty() && self.made.insert(above.to_owned()) {
                self.entry(above, 0o040_755, &[])?;
            }
        }
        Ok(())
    }

    /// A file, and the directories above it.
    pub fn file(&mut self, path: &Path, content: &[u8], mode: u32) -> Result<()> {
        if let Some(above) = path.parent() {
            self.directory(above)?;
        }
        self.entry(path, 0o100_000 | mode, content)
    }

    /// A symbolic link, and the directories above it.
    pub fn link(&mut self, path: &Path, to: &str) -> Result<()> {
        if let Some(above) = path.parent() {
            self.directory(above)?;
        }
        self.entry(path, 0o120_777, to.as_bytes())
    }

    /// A file of this machine.
    pub fn copy(&mut self, path: &Path, from: &Path, mode: u32) -> Result<()> {
        let content = std::fs::read(from).with_context(|| format!("read {}", from.display()))?;
        self.file(path, &content, mode)
    }

    fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) -> Result<()> {
        let name = path.to_str().context("a path that is text")?;
        // magic, inode, mode, uid, gid, links, mtime, size, device (2), device of a node (2), length of the name, checksum
        let fields = [
            self.inode,
            mode,
            0,
            0,
            1,
            0,
            u32::try_from(content.len())?,
            0,
            0,
            0,
            0,
            name.len() as u32 + 1,
            0,
        ];
        self.inode += 1;
        self.out.write_all(b"070701")?;
        for field in fields {
            write!(self.out, "{field:08x}")?;
        }
        self.out.write_all(name.as_bytes())?;
        // The name with its end, and the content, are filled up to four bytes.
        let header = 110 + name.len() + 1;
        self.out.write_all(&vec![0; 1 + header.next_multiple_of(4) - header])?;
        self.out.write_all(content)?;
        self.out.write_all(&vec![0; content.len().next_multiple_of(4) - content.len()])?;
        Ok(())
    }

    /// Writes the end.
    pub fn end(mut self) -> Result<()> {
        self.entry(Path::new("TRAILER!!!"), 0, &[])?;
        self.out.flush()?;
        Ok(())
    }
}
