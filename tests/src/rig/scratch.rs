//! A directory for one run, with a BPF file system of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::cleanup::{self, Leftover};
use super::error::{Error, Result};
use super::process;

/// Name of the BPF mount below a scratch directory.
pub(super) const BPF_DIR: &str = "bpf";

/// `<tmp>/zdd-<pid>-<n>`; unmounted and removed on drop.
#[derive(Debug)]
pub struct Scratch {
    dir: PathBuf,
}

impl Scratch {
    /// Makes the directory and mounts a BPF file system on `bpf` below it. `id` is `zdd-<pid>-<n>`.
    pub(super) fn new(id: &str) -> Result<Self> {
        let dir = std::env::temp_dir().join(id);
        cleanup::remember(Leftover::Dir(dir.clone()));
        let scratch = Self { dir };
        let bpf = scratch.bpffs();
        std::fs::create_dir_all(&bpf).map_err(Error::io(format!("create {}", bpf.display())))?;
        // Remembered after the directory: removed before it.
        cleanup::remember(Leftover::Mount(bpf.clone()));
        let mut mount = Command::new("mount");
        mount.args(["-t", "bpf", "-o", "mode=0700", "bpf"]).arg(&bpf);
        process::run(mount)?;
        Ok(scratch)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `name` below the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Root of the BPF file system.
    pub fn bpffs(&self) -> PathBuf {
        self.dir.join(BPF_DIR)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let bpf = self.bpffs();
        cleanup::unmount(&bpf);
        cleanup::forget(&Leftover::Mount(bpf));
        drop(std::fs::remove_dir_all(&self.dir));
        cleanup::forget(&Leftover::Dir(self.dir.clone()));
    }
}
