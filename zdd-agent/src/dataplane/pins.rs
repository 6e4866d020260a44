//! The pin directory: on a BPF file system, locked by one agent, marked with the layout of its maps.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData};
use zdd_common::limits::LAYOUT;

use super::DataplaneError;
use super::fault::{self, Write};

/// Name of the pinned map that says which layout its neighbours have.
pub(super) const MARKER: &str = "LAYOUT";

/// Its name while maps are being pinned for the first time, or removed: nothing is attached, and whoever comes next begins anew.
const UNFINISHED: &str = "UNFINISHED";

/// The locked directory. The lock ends with the process, however it ends.
#[derive(Debug)]
pub(super) struct Pins {
    pub(super) dir: PathBuf,
    _lock: File,
}

impl Pins {
    /// Makes and locks the directory. `true`: it held maps already.
    pub(super) fn open(dir: &Path) -> Result<(Self, bool), DataplaneError> {
        if !on_bpffs(dir) {
            return Err(DataplaneError::NoBpffs { dir: dir.to_owned() });
        }
        fs::create_dir_all(dir.join("links")).map_err(|error| failed("cannot make", dir, error))?;
        let lock = lock(dir)?;
        let pins = Self { dir: dir.to_owned(), _lock: lock };
        let marker = dir.join(MARKER);
        let found = marker.exists();
        if found {
            let ours = read_marker(&marker).map_err(|found| DataplaneError::Layout {
                dir: dir.to_owned(),
                found,
                ours: LAYOUT,
            })?;
            if ours != LAYOUT {
                return Err(DataplaneError::Layout {
                    dir: dir.to_owned(),
                    found: ours.to_string(),
                    ours: LAYOUT,
                });
            }
        } else if let Some(stranger) = any_map(dir) {
            return Err(DataplaneError::Layout {
                dir: dir.to_owned(),
                found: format!("unknown ({stranger} is pinned, but no {MARKER})"),
                ours: LAYOUT,
            });
        } else {
            pins.begin()?;
        }
        Ok((pins, found))
    }

    /// Marks the directory as one whose maps are not whole yet. It is empty, or holds what an earlier run did not finish.
    fn begin(&self) -> Result<(), DataplaneError> {
        let cannot = |what, error| failed(what, &self.dir, error);
        remove_files(&self.dir).map_err(|error| cannot("cannot clear", error))?;
        let mut map = Array::<MapData, u32>::create(1, 0)
            .map_err(|error| DataplaneError::kernel("cannot make the layout marker", error))?;
        map.set(0, &LAYOUT, 0)
            .map_err(|error| DataplaneError::kernel("cannot write the layout marker", error))?;
        map.pin(self.dir.join(UNFINISHED)).map_err(|error| {
            DataplaneError::kernel(format!("cannot pin {UNFINISHED} in {}", self.dir.display()), error)
        })
    }

    /// Whether it holds maps, of whatever layout.
    pub(super) fn found(dir: &Path) -> bool {
        dir.join(MARKER).exists() || any_map(dir).is_some()
    }

    /// Marks the directory, after all maps are pinned, and before anything is attached.
    pub(super) fn mark(&self) -> Result<(), DataplaneError> {
        fault::before(Write::Layout);
        fs::rename(self.dir.join(UNFINISHED), self.dir.join(MARKER))
            .map_err(|error| failed("cannot mark", &self.dir, error))
    }
}

fn failed(what: &str, dir: &Path, error: io::Error) -> DataplaneError {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return DataplaneError::Privileges { what: format!("{what} {}: {error}", dir.display()) };
    }
    DataplaneError::Kernelspace { what: format!("{what} {}", dir.display()), reason: error.to_string() }
}

/// Locks the directory itself, so that two agents meet whatever their state directories and namespaces are.
fn lock(dir: &Path) -> Result<File, DataplaneError> {
    let file = File::open(dir).map_err(|error| failed("cannot open", dir, error))?;
    // SAFETY: a valid descriptor.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        return Err(DataplaneError::Locked { dir: dir.to_owned() });
    }
    Ok(file)
}

pub(super) fn read_marker(path: &Path) -> Result<u32, String> {
    let data = MapData::from_pin(path).map_err(|error| format!("unreadable: {error}"))?;
    let map = Map::from_map_data(data).map_err(|error| format!("unreadable: {error}"))?;
    let array = Array::<MapData, u32>::try_from(map).map_err(|error| format!("unknown: {error}"))?;
    array.get(&0, 0).map_err(|error| format!("unreadable: {error}"))
}

/// Some map of an unknown layout.
pub(super) fn any_map(dir: &Path) -> Option<String> {
    if dir.join(UNFINISHED).exists() {
        return None;
    }
    fs::read_dir(dir)
        .ok()?
        .flatten()
        .find(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// Whether the nearest existing ancestor is on a BPF file system.
pub(super) fn on_bpffs(dir: &Path) -> bool {
    let Some(existing) = dir.ancestors().find(|path| path.exists()) else { return false };
    let Ok(path) = CString::new(existing.as_os_str().as_bytes()) else { return false };
    // SAFETY: all zero is a valid buffer to be filled.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid.
    let done = unsafe { libc::statfs(path.as_ptr(), &raw mut stat) } == 0;
    // Signed in one C library, unsigned in another.
    done && i128::from(stat.f_type) == i128::from(libc::BPF_FS_MAGIC)
}

/// Removes everything pinned in the directory: links first, so that packets pass the host untouched before the maps go.
/// Returns how many links were removed.
pub(super) fn remove_all(dir: &Path) -> io::Result<usize> {
    let mut links = 0;
    let links_dir = dir.join("links");
    if links_dir.is_dir() {
        for entry in fs::read_dir(&links_dir)? {
            fs::remove_file(entry?.path())?;
            links += 1;
        }
        fs::remove_dir(&links_dir)?;
    }
    // Nothing is attached any more: what is left after a crash is not taken for whole.
    let marker = dir.join(MARKER);
    if marker.exists() {
        fs::rename(marker, dir.join(UNFINISHED))?;
    }
    remove_files(dir)?;
    fs::remove_dir(dir)?;
    Ok(links)
}

/// Removes all that is pinned in the directory itself, the mark that this is not finished last.
fn remove_files(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() && entry.file_name() != UNFINISHED {
            fs::remove_file(entry.path())?;
        }
    }
    let mark = dir.join(UNFINISHED);
    if mark.exists() { fs::remove_file(mark) } else { Ok(()) }
}
