//! What is pinned, for whoever has to look from outside: names, sizes, memory. No contents: the flow table knows who talked to whom.

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use aya::maps::MapData;
use serde::Serialize;

/// One pinned map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PinnedMap {
    /// File in the pin directory.
    pub pin: String,
    /// Name in the kernel.
    pub name: String,
    /// Kind, as the kernel calls it.
    pub kind: String,
    /// Bytes of a key.
    pub key_bytes: u32,
    /// Bytes of a value.
    pub value_bytes: u32,
    /// Entries that fit.
    pub entries_max: u32,
    /// Bytes that the kernel accounts for it; `None` where it does not say.
    pub memory_bytes: Option<u64>,
}

/// All maps pinned in `dir`, by name; what cannot be opened is left out.
///
/// # Errors
/// The directory cannot be read.
pub fn pinned_maps(dir: &Path) -> std::io::Result<Vec<PinnedMap>> {
    let mut maps = Vec::new();
    for entry in std::fs::read_dir(dir)?.flatten() {
        let Ok(map) = MapData::from_pin(entry.path()) else { continue };
        let Ok(info) = map.info() else { continue };
        let fdinfo = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
        let memory = std::fs::read_to_string(fdinfo).ok().and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("memlock:"))?;
            line.trim().parse().ok()
        });
        maps.push(PinnedMap {
            pin: entry.file_name().to_string_lossy().into_owned(),
            name: info.name_as_str().unwrap_or_default().to_owned(),
            kind: info.map_type().map_or_else(|_| "unknown".to_owned(), |kind| format!("{kind:?}")),
            key_bytes: info.key_size(),
            value_bytes: info.value_size(),
            entries_max: info.max_entries(),
            memory_bytes: memory,
        });
    }
    maps.sort_by(|a, b| a.pin.cmp(&b.pin));
    Ok(maps)
}
