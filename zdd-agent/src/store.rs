//! `state.json`: what must outlive the agent. One header line, one JSON body; replaced as a whole, never in place.
//!
//! A change is written down before it is in force, for a process that is killed; the disk is waited for after it is in force and before
//! anybody is told, for a machine that loses its power: what was in force is gone with it then. So no change waits for a disk.
//! Each writing is a file of its own, `state.json.new.N` with N one more than the last: replacing a file that is not on the disk yet
//! makes ext4 bring the new one there at once (`auto_da_alloc`), and whoever stages would wait for what somebody else settles.
//!
//! A file that cannot be read is an error, never an empty state: starting afresh beside pinned maps would move live flows.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
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
    /// Of two whole files the one with the higher number is the newer one. 0 in files from before there was any.
    #[serde(default)]
    number: u64,
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
    /// Another agent runs on it.
    #[error(
        "another zdd agent uses {}\nhelp: stop it first (its traffic goes on), or give this one its own agent.state_dir", dir.display()
    )]
    Locked {
        /// The state directory.
        dir: PathBuf,
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

/// The state file of one agent. One writer at a time: the agent that holds [`Store::lock`].
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    file: &'static str,
    path: PathBuf,
    /// Why the last save failed, if it did.
    failing: Mutex<Option<String>>,
    /// Number of the newest writing.
    newest: AtomicU64,
    /// Number of the newest that [`Store::settle`] has brought to the disk: all before are there too, or outdated.
    settled: AtomicU64,
    /// One at a time.
    settling: Mutex<()>,
}

/// Bytes kept for the first line: more than it ever has, with every number at its longest.
const HEADER: usize = 128;
/// Bytes that are written at once.
const BUFFER: usize = 64 << 10;

/// The body on its way to the file.
struct Body {
    to: BufWriter<File>,
    len: u64,
    crc: crc32fast::Hasher,
}

impl Write for Body {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.crc.update(&bytes[..written]);
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
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
            newest: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            settling: Mutex::new(()),
        })
    }

    /// Keeps other agents away from the directory for as long as the answer lives: with pins of their own nothing else would.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another one has it; [`StoreError::Io`] when it cannot be opened. A file system without locks keeps nobody away.
    pub fn lock(&self) -> Result<File, StoreError> {
        let dir = File::open(&self.dir).map_err(|error| Self::io("open", self.dir.clone(), error))?;
        match dir.try_lock() {
            Err(fs::TryLockError::WouldBlock) => Err(StoreError::Locked { dir: self.dir.clone() }),
            Ok(()) | Err(fs::TryLockError::Error(_)) => Ok(dir),
        }
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
        let own = Self::read::<T>(&self.path);
        let number = own.as_ref().map_or(0, |(number, _)| *number);
        self.settled.store(number, Ordering::Relaxed);
        self.newest.store(number, Ordering::Relaxed);
        let staged = self.staged_files().map_err(|error| Self::io("look into", self.dir.clone(), error))?;
        for (name, path) in staged {
            match Self::read(&path) {
                // Put in place before; a loss of power has brought its first name back.
                Ok((staged, _)) if name > 0 && staged <= number => {}
                Ok((staged, state)) => {
                    self.newest.store(staged.max(number + 1), Ordering::Relaxed);
                    return Ok(Some(state));
                }
                Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                // Cut by a kill before it was in force, or by a machine that lost its power, and then nobody was told that it is.
                Err(StoreError::Corrupt { wrong, .. }) => {
                    tracing::warn!("{} is passed over: {wrong}", path.display());
                }
                Err(error) => return Err(error),
            }
        }
        match own {
            Ok((_, state)) => Ok(Some(state)),
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

    /// Staged files by the number in their name, the newest first. Before there were numbers it was `.new` alone.
    fn staged_files(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let prefix = format!("{}.new", self.file);
        let number = |name: &str| match name.strip_prefix(&prefix)? {
            "" => Some(0),
            rest => rest.strip_prefix('.')?.parse().ok(),
        };
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if let Some(number) = entry.file_name().to_str().and_then(number) {
                all.push((number, entry.path()));
            }
        }
        all.sort_by(|a, b| b.cmp(a));
        Ok(all)
    }

    /// One whole file: its number and its content.
    fn read<T: DeserializeOwned>(path: &Path) -> Result<(u64, T), StoreError> {
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
        let state = serde_json::from_slice(body);
        let state = state.map_err(|error| corrupt(format!("its content is not a state ({error})")))?;
        Ok((header.number, state))
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
    /// disk when [`Store::settle`] has returned, which another thread may be in meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the state before is still there then.
    pub fn stage<T: Serialize>(&self, state: &T) -> Result<(), StoreError> {
        let number = self.newest.load(Ordering::Relaxed) + 1;
        let staged = self.write_beside(number, state);
        match &staged {
            Err(error) => self.note(Some(error.to_string())),
            // Whoever settles it has to find it whole.
            Ok(()) => self.newest.store(number, Ordering::Release),
        }
        staged
    }

    /// Brings what was staged to the disk, in the place of the present state, which becomes `state.json.bak`. Without anything
    /// staged it does nothing.
    ///
    /// # Errors
    /// [`StoreError::Io`]; what was staged still is, and still is what a start takes.
    pub fn settle(&self) -> Result<(), StoreError> {
        let _alone = self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = self.newest();
        if newest == self.settled.load(Ordering::Relaxed) {
            return Ok(());
        }
        let settled = self.replace(newest);
        if settled.is_ok() {
            self.settled.store(newest, Ordering::Release);
        }
        self.note(settled.as_ref().err().map(ToString::to_string));
        settled
    }

    /// Whether [`Store::settle`] has anything to do.
    pub fn staged(&self) -> bool {
        self.newest() != self.settled.load(Ordering::Acquire)
    }

    /// Number of the newest writing.
    pub fn newest(&self) -> u64 {
        self.newest.load(Ordering::Acquire)
    }

    fn note(&self, failing: Option<String>) {
        let mut before = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if before.is_some() && failing.is_none() {
            tracing::info!("{} can be written again", self.path.display());
        }
        *before = failing;
    }

    /// Why the last [`Store::save`] failed; `None`: it did not, or there was none.
    pub fn failing(&self) -> Option<String> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn write_beside<T: Serialize>(&self, number: u64, state: &T) -> Result<(), StoreError> {
        // What was staged before may be in force: it stays whole until this is. One that a kill cuts has no header yet.
        let new = self.staged_as(number);
        let done = Self::write_new(&new, number, state).map_err(|error| match error.classify() {
            serde_json::error::Category::Io => Self::io("write", new.clone(), error.into()),
            _ => StoreError::Encode(error),
        });
        if done.is_err() {
            drop(fs::remove_file(&new));
        }
        done
    }

    fn replace(&self, number: u64) -> Result<(), StoreError> {
        let staged = self.staged_files().map_err(|error| Self::io("look into", self.dir.clone(), error))?;
        // One of before there were numbers stands for itself.
        let new = staged.iter().find(|(at, _)| *at == number).or(staged.iter().find(|(at, _)| *at == 0));
        let new = new.map_or_else(|| self.staged_as(number), |(_, path)| path.clone());
        // Nobody was told of them, and a kill leaves what is newer.
        for (_, path) in staged.iter().filter(|(at, path)| *at < number && *path != new) {
            drop(fs::remove_file(path));
        }
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

    fn staged_as(&self, number: u64) -> PathBuf {
        self.beside(&format!(".new.{number}"))
    }

    /// As it is encoded it is written: a state of a thousand services is tens of MiB of text, which would have to stay in memory twice.
    fn write_new<T: Serialize>(path: &Path, number: u64, state: &T) -> serde_json::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let io = serde_json::Error::io;
        let file =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(path).map_err(io)?;
        let mut body =
            Body { to: BufWriter::with_capacity(BUFFER, file), len: 0, crc: crc32fast::Hasher::new() };
        // Its place is kept by blanks until what it says is known: with them alone the file is none.
        body.to.write_all(&[b' '; HEADER]).and_then(|()| body.to.write_all(b"\n")).map_err(io)?;
        serde_json::to_writer(&mut body, state)?;
        body.flush().map_err(io)?;
        let header = Header {
            format: FORMAT.to_owned(),
            version: VERSION,
            len: body.len,
            crc32: body.crc.finalize(),
            number,
        };
        let header = serde_json::to_vec(&header)?;
        debug_assert!(header.len() <= HEADER);
        let mut file = body.to.into_inner().map_err(|error| io(error.into_error()))?;
        file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&header)).map_err(io)
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
