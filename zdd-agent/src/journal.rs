//! A file of JSON lines that only grows, up to a size: then it becomes `NAME.1`, the one before that goes, and a new one begins.
//!
//! What was appended survives the death of the process; [`Journal::sync`] makes it survive that of the machine. A line that a
//! power failure has cut is left out when it is read, and ended before the next one is written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The open file. One writer at a time.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
    most: u64,
}

impl Journal {
    /// Opens `path` (made with mode 0600) for appending; more than `most` bytes are never in it.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn open(path: &Path, most: u64) -> io::Result<Journal> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        let mut bytes = file.metadata()?.len();
        if bytes > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                bytes += 1;
            }
        }
        Ok(Journal { path: path.to_owned(), file, bytes, most })
    }

    /// All lines that can be read as `T`, the oldest first.
    pub fn lines<T: DeserializeOwned>(&self) -> Vec<T> {
        let mut all = Vec::new();
        for path in [self.before(), self.path.clone()] {
            let text = fs::read(path).unwrap_or_default();
            all.extend(
                text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()),
            );
        }
        all
    }

    /// Appends one line.
    ///
    /// # Errors
    /// When the file system refuses; the file is then as it was.
    pub fn append<T: Serialize>(&mut self, line: &T) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        if self.bytes > 0 && self.bytes + text.len() as u64 > self.most {
            self.file.sync_data()?;
            fs::rename(&self.path, self.before())?;
            self.file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
            self.bytes = 0;
        }
        if let Err(error) = self.file.write_all(&text) {
            // The disk is full, say. What of the line got there must not become the beginning of the next one, and a file can be made shorter
            // where there is no room.
            self.file.set_len(self.bytes)?;
            return Err(error);
        }
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// Waits until everything appended is on the disk.
    ///
    /// # Errors
    /// When it cannot get there.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// The file as it is now, to wait for the disk without keeping others from appending.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    fn before(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".1");
        PathBuf::from(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("zdd-journal-{name}-{}", std::process::id()));
        drop((fs::remove_file(&path), fs::remove_file(path.with_extension("1"))));
        path
    }

    #[test]
    fn lines_come_back_in_order_and_the_oldest_go_first() {
        let path = path("order");
        let mut journal = Journal::open(&path, 100).unwrap();
        for n in 0..100u32 {
            journal.append(&n).unwrap();
        }
        journal.sync().unwrap();
        let lines: Vec<u32> = journal.lines();
        assert_eq!(lines.last(), Some(&99));
        assert!(lines.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{lines:?}");
        assert!((34..=100).contains(&lines.len()), "one file of 100 bytes and a part: {}", lines.len());
        assert!(fs::metadata(&path).unwrap().len() <= 100);
        drop((fs::remove_file(&path), fs::remove_file(format!("{}.1", path.display()))));
    }

    /// Run again by the test below, in a process that may write no file above 10 bytes: as on a disk that is full, a part of the line gets
    /// there.
    #[test]
    fn full() {
        let Some(path) = std::env::var_os("ZDD_JOURNAL_FULL").map(PathBuf::from) else { return };
        let mut journal = Journal::open(&path, 1000).unwrap();
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a valid limit to fill; this process is the test's own, and what the signal says the error says as well.
        unsafe {
            libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit);
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        }
        let room = |bytes: Option<u64>| {
            let limit = libc::rlimit { rlim_cur: bytes.unwrap_or(limit.rlim_max), ..limit };
            // SAFETY: a valid limit.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) }, 0);
        };
        room(Some(10));
        journal.append(&"first").unwrap();
        let refused = journal.append(&"second").unwrap_err();
        let size = fs::metadata(&path).unwrap().len();
        // There is room again, and nobody has started anew.
        room(None);
        journal.append(&"third").unwrap();
        assert_eq!((size, refused.raw_os_error()), (8, Some(libc::EFBIG)));
        assert_eq!(journal.lines::<String>(), ["first", "third"]);
    }

    #[test]
    fn a_line_that_finds_no_room_leaves_nothing_behind() {
        let path = path("full");
        let done = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "journal::tests::full"])
            .env("ZDD_JOURNAL_FULL", &path)
            .output()
            .unwrap();
        drop(fs::remove_file(&path));
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(
            done.status.success() && said.contains("1 passed"),
            "{said}{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }

    #[test]
    fn a_line_that_was_cut_is_left_out_and_harms_no_other() {
        let path = path("cut");
        fs::write(&path, "1\n2\n{\"half").unwrap();
        let mut journal = Journal::open(&path, 1000).unwrap();
        journal.append(&3).unwrap();
        assert_eq!(Journal::open(&path, 1000).unwrap().lines::<u32>(), [1, 2, 3]);
        fs::remove_file(&path).unwrap();
    }
}
