//! `state.json`: what must outlive the agent. One header line, one JSON body; replaced as a whole, never in place.
//!
//! A change is written down before it is in force, for a process that is killed; the disk is waited for after it is in force and before
//! anybody is told, for a machine that loses its power: what was in force is gone with it then. So no change waits for a disk.
//!
//! A file that cannot be read is an error, never an empty state: starting afresh beside pinned maps would move live flows.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Layout of the body that this build writes. Raise it with a migration from the one before.
///
/// 3: VIPs have rows for cohorts and previews, which a build that reads 2 would take for rows of everybody.
pub const VERSION: u32 = 3;

/// The oldest layout that is read as it stands: all that has come since has a default.
const OLDEST: u32 = 2;

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
    /// There is something that [`Store::settle`] has not brought to the disk yet.
    staged: AtomicBool,
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
        Ok(Store {
            dir: dir.to_owned(),
            file,
            path: dir.join(file),
            failing: Mutex::new(None),
            staged: AtomicBool::new(false),
        })
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
        let staged = self.beside(".new");
        match Self::read(&staged) {
            Ok(state) => {
                self.staged.store(true, Ordering::Relaxed);
                return Ok(Some(state));
            }
            Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            // Only a machine that lost its power cuts it, and then nobody was told that it is in force.
            Err(StoreError::Corrupt { wrong, .. }) => {
                tracing::warn!("{} is passed over: {wrong}", staged.display());
            }
            Err(error) => return Err(error),
        }
        match Self::read(&self.path) {
            Ok(state) => Ok(Some(state)),
            Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                let backup = self.beside(".bak");
                match backup.try_exists() {
                    Ok(false) => Ok(None),
                    Ok(true) => Err(StoreError::OnlyBackup { path: self.path.clone() }),
                    Err(error) => Err(Self::io("look for", backup, error)),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// One whole file.
    fn read<T: DeserializeOwned>(path: &Path) -> Result<T, StoreError> {
        let bytes = fs::read(path).map_err(|error| Self::io("read", path.to_owned(), error))?;
        let corrupt = |wrong: String| StoreError::Corrupt { path: path.to_owned(), wrong };
        let line = bytes.iter().position(|&byte| byte == b'\n').ok_or_else(|| {
            corrupt(if bytes.is_empty() { "it is empty" } else { "it ends within its first line" }.to_owned())
        })?;
        let (header, body) = (&bytes[..line], &bytes[line + 1..]);
        let header: Header = serde_json::from_slice(header)
            .map_err(|error| corrupt(format!("its first line is not a header ({error})")))?;
        if header.format != FORMAT {
            return Err(corrupt(format!("its format is `{}`, not `{FORMAT}`", header.format)));
        }
        if !(OLDEST..=VERSION).contains(&header.version) {
            return Err(StoreError::OtherVersion { path: path.to_owned(), found: header.version });
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
        serde_json::from_slice(body).map_err(|error| corrupt(format!("its content is not a state ({error})")))
    }

    /// Replaces the state and keeps the one before as `state.json.bak`. When this returns, the new state is on the disk; after
    /// a crash at any instant `state.json` is the old state or the new one, whole.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the old state is still there then.
    pub fn save<T: Serialize>(&self, state: &T) -> Result<(), StoreError> {
        self.stage(state)?;
        self.settle()
    }

    /// Writes the state beside the present one: from now on it is the one that [`Store::load`] gives, also after SIGKILL. It is on the
    /// disk when [`Store::settle`] has returned.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the state before is still there then.
    pub fn stage<T: Serialize>(&self, state: &T) -> Result<(), StoreError> {
        let staged = self.write_beside(state);
        if let Err(error) = &staged {
            self.note(Some(error.to_string()));
        } else {
            self.staged.store(true, Ordering::Relaxed);
        }
        staged
    }

    /// Brings what was staged to the disk, in the place of the present state, which becomes `state.json.bak`. Without anything
    /// staged it does nothing.
    ///
    /// # Errors
    /// [`StoreError::Io`]; what was staged still is, and still is what a start takes.
    pub fn settle(&self) -> Result<(), StoreError> {
        if !self.staged() {
            return Ok(());
        }
        let settled = self.replace();
        self.staged.store(settled.is_err(), Ordering::Relaxed);
        self.note(settled.as_ref().err().map(ToString::to_string));
        settled
    }

    /// Whether [`Store::settle`] has anything to do.
    pub fn staged(&self) -> bool {
        self.staged.load(Ordering::Relaxed)
    }

    fn note(&self, failing: Option<String>) {
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = failing;
    }

    /// Why the last [`Store::save`] failed; `None`: it did not, or there was none.
    pub fn failing(&self) -> Option<String> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn write_beside<T: Serialize>(&self, state: &T) -> Result<(), StoreError> {
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

        // What was staged before may be in force: it stays whole until this is.
        let (part, new) = (self.beside(".part"), self.beside(".new"));
        let written = Self::write_new(&part, &bytes).map_err(|error| Self::io("write", part.clone(), error));
        let done = written
            .and_then(|()| fs::rename(&part, &new).map_err(|error| Self::io("replace", new.clone(), error)));
        if done.is_err() {
            drop(fs::remove_file(&part));
        }
        done
    }

    fn replace(&self) -> Result<(), StoreError> {
        let new = self.beside(".new");
        // The size is data enough: times need not reach the disk.
        File::open(&new)
            .and_then(|file| file.sync_data())
            .map_err(|error| Self::io("bring to the disk", new.clone(), error))?;
        self.keep_old().map_err(|error| Self::io("keep the state before as", self.beside(".bak"), error))?;
        fs::rename(&new, &self.path).map_err(|error| Self::io("replace", self.path.clone(), error))?;
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|error| Self::io("bring to the disk", self.dir.clone(), error))
    }

    fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(bytes)
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

    fn io(what: &'static str, path: PathBuf, source: io::Error) -> StoreError {
        let way_out =
            "the state before is untouched; make room or fix the permissions of agent.state_dir, then repeat";
        StoreError::Io { what, path, way_out, source }
    }
}

#[cfg(test)]
mod tests;
