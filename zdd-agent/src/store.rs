//! `state.json`: what must outlive the agent. One header line, one JSON body; replaced as a whole, never in place.
//!
//! A file that cannot be read is an error, never an empty state: starting afresh beside pinned maps would move live flows.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Layout of the body that this build writes. Raise it with a migration from the one before.
pub const VERSION: u32 = 2;

const FORMAT: &str = "zdd-state";
const STATE: &str = "state.json";

/// First line of the file; everything after its newline is the body.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    /// Bytes of the body.
    len: u64,
    /// CRC-32 (IEEE) of the body.
    crc32: u32,
}

/// Why the state could not be read or written. Every message names the file and the way out.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("cannot {what} {path}: {source}\nhelp: {way_out}", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What would help.
        way_out: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error(
        "{path} cannot be used: {wrong}\nhelp: restore the state before it with `cp {path}.bak {path}`, or give up weights and \
         drains set by command: `zdd detach`, remove the file, start again",
        path = path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        wrong: String,
    },
    /// The file is of another build.
    #[error(
        "{path} has layout {found}, this build reads {VERSION}\nhelp: run the build of zdd that wrote it, restore an older state with \
         `cp {path}.bak {path}`, or start afresh: `zdd detach`, remove the file, start again",
        path = path.display()
    )]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: u32,
    },
    /// There is no state, but there was one.
    #[error(
        "{path} is missing, but {path}.bak is there\nhelp: restore it with `cp {path}.bak {path}`, or remove it too to start afresh",
        path = path.display()
    )]
    OnlyBackup {
        /// The file that is missing.
        path: PathBuf,
    },
    /// The state cannot be written as JSON: a mistake in zdd.
    #[error(
        "the state cannot be written as JSON: {0}\nhelp: this is a mistake in zdd; the file before it is untouched"
    )]
    Encode(serde_json::Error),
}

/// The state file of one agent. One writer at a time: the agent that holds the pin directory.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    file: &'static str,
    path: PathBuf,
    /// Why the last save failed, if it did.
    failing: Mutex<Option<String>>,
}

impl Store {
    /// Uses `dir`, which is created (0700) when it is not there.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the directory cannot be made or read.
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        Self::open_as(dir, STATE)
    }

    /// The same for something else than the agent's state, in a file of its own.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the directory cannot be made or read.
    pub fn open_as(dir: &Path, file: &'static str) -> Result<Store, StoreError> {
        use std::os::unix::fs::DirBuilderExt;
        let way_out = "check the path in agent.state_dir and that the agent may write there";
        let failed = |what| move |source| StoreError::Io { what, path: dir.to_owned(), way_out, source };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(failed("create the directory"))?;
        fs::read_dir(dir).map_err(failed("read the directory"))?;
        Ok(Store { dir: dir.to_owned(), file, path: dir.join(file), failing: Mutex::new(None) })
    }

    /// The state file's path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the state; `None` when none was ever saved here.
    ///
    /// # Errors
    /// A file that is truncated, altered, of another layout or unreadable, or only its backup.
    pub fn load<T: DeserializeOwned>(&self) -> Result<Option<T>, StoreError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let backup = self.beside(".bak");
                return match backup.try_exists() {
                    Ok(false) => Ok(None),
                    Ok(true) => Err(StoreError::OnlyBackup { path: self.path.clone() }),
                    Err(error) => Err(self.io("look for", backup, error)),
                };
            }
            Err(error) => return Err(self.io("read", self.path.clone(), error)),
        };
        let corrupt = |wrong: String| StoreError::Corrupt { path: self.path.clone(), wrong };
        let line = bytes.iter().position(|&byte| byte == b'\n').ok_or_else(|| {
            corrupt(if bytes.is_empty() { "it is empty" } else { "it ends within its first line" }.to_owned())
        })?;
        let (header, body) = (&bytes[..line], &bytes[line + 1..]);
        let header: Header = serde_json::from_slice(header)
            .map_err(|error| corrupt(format!("its first line is not a header ({error})")))?;
        if header.format != FORMAT {
            return Err(corrupt(format!("its format is `{}`, not `{FORMAT}`", header.format)));
        }
        if header.version != VERSION {
            return Err(StoreError::OtherVersion { path: self.path.clone(), found: header.version });
        }
        if header.len != body.len() as u64 {
            return Err(corrupt(format!("it was written with {} bytes and has {}", header.len, body.len())));
        }
        let sum = crc32fast::hash(body);
        if header.crc32 != sum {
            return Err(corrupt(format!(
                "its checksum is {sum:08x}, it was written with {:08x}",
                header.crc32
            )));
        }
        serde_json::from_slice(body)
            .map(Some)
            .map_err(|error| corrupt(format!("its content is not a state ({error})")))
    }

    /// Replaces the state and keeps the one before as `state.json.bak`. When this returns, the new state is on the disk; after
    /// a crash at any instant `state.json` is the old state or the new one, whole.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the old state is still there then.
    pub fn save<T: Serialize>(&self, state: &T) -> Result<(), StoreError> {
        let saved = self.replace(state);
        let why = saved.as_ref().err().map(ToString::to_string);
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = why;
        saved
    }

    /// Why the last [`Store::save`] failed; `None`: it did not, or there was none.
    pub fn failing(&self) -> Option<String> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace<T: Serialize>(&self, state: &T) -> Result<(), StoreError> {
        let body = serde_json::to_vec(state).map_err(StoreError::Encode)?;
        let header = Header {
            format: FORMAT.to_owned(),
            version: VERSION,
            len: body.len() as u64,
            crc32: crc32fast::hash(&body),
        };
        let mut bytes = serde_json::to_vec(&header).map_err(StoreError::Encode)?;
        bytes.push(b'\n');
        bytes.extend_from_slice(&body);

        let new = self.beside(".new");
        self.write_new(&new, &bytes).map_err(|error| self.io("write", new.clone(), error))?;
        self.keep_old().map_err(|error| self.io("keep the state before as", self.beside(".bak"), error))?;
        fs::rename(&new, &self.path).map_err(|error| self.io("replace", self.path.clone(), error))?;
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|error| self.io("bring to the disk", self.dir.clone(), error))
    }

    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        // The size is data enough: times need not reach the disk, and this is on the path of every shift.
        file.sync_data()
    }

    /// Gives the present state a second name, and that name the place of the backup: at no instant is either missing.
    fn keep_old(&self) -> io::Result<()> {
        let link = self.beside(".old");
        let absent_is_fine = |result: io::Result<()>| match result {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        };
        absent_is_fine(fs::remove_file(&link))?;
        match fs::hard_link(&self.path, &link) {
            Ok(()) => fs::rename(&link, self.beside(".bak")),
            other => absent_is_fine(other),
        }
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        self.dir.join(format!("{}{suffix}", self.file))
    }

    fn io(&self, what: &'static str, path: PathBuf, source: io::Error) -> StoreError {
        let way_out =
            "the state before is untouched; make room or fix the permissions of agent.state_dir, then repeat";
        StoreError::Io { what, path, way_out, source }
    }
}

#[cfg(test)]
mod tests;
