//! Who changed what, and who looked at packets: `audit.jsonl` in the state directory, two lines for each, one before it is done and one with its
//! outcome.
//!
//! The first line is written before anything happens, so that a change made just before a kill is on record; the next start ends such
//! a record. The second is on the disk before the caller is answered. Configuration texts are not written down: they may hold passwords.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::clock::unix_ms;
use crate::control::Generations;
use crate::journal::Journal;

/// Bytes of the file before it becomes `audit.jsonl.1`, whose predecessor goes.
const FILE_MOST: u64 = 16 << 20;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The change's number; both of its lines have it.
    pub id: u64,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// User and process, or the certificate's subject and address, or the page's token and address.
    pub who: String,
    /// As a command: `shift web v2=10%`.
    pub what: String,
    /// As the caller gave it; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// As the caller gave it; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// `begun`, `done`, `repeated` (nothing was done: the first answer was given again), `unknown` (the agent ended before the answer), or
    /// the status code of the refusal.
    pub outcome: String,
    /// Of a refusal; of a look at packets, how many were told.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Services that it concerned, before and after.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub generations: Vec<Generations>,
}

/// What cannot be put on record is not done: nobody would know of it.
#[derive(Debug, thiserror::Error)]
#[error(
    "audit.jsonl cannot be written: {0}\nhelp: nothing was done, because nobody would know of it; make room in agent.state_dir and repeat"
)]
pub struct NotOnRecord(#[from] io::Error);

/// The open file. Clones share it.
#[derive(Clone, Debug)]
pub struct Audit(Arc<Mutex<Open>>);

#[derive(Debug)]
struct Open {
    journal: Journal,
    last: u64,
}

impl Audit {
    /// The file in `dir`; records that a kill left open are ended.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn open(dir: &Path) -> io::Result<Audit> {
        let mut journal = Journal::open(&dir.join("audit.jsonl"), FILE_MOST)?;
        let records: Vec<Record> = journal.lines();
        let last = records.iter().map(|record| record.id).max().unwrap_or(0);
        for begun in records.iter().filter(|record| record.outcome == "begun") {
            if !records.iter().any(|other| other.id == begun.id && other.outcome != "begun") {
                let outcome = "unknown".to_owned();
                journal.append(&Record { outcome, unix_ms: unix_ms(), ..begun.clone() })?;
            }
        }
        Ok(Audit(Arc::new(Mutex::new(Open { journal, last }))))
    }

    fn open_file(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the first line.
    ///
    /// # Errors
    /// When it cannot be written: then nothing may be done.
    pub fn begin(
        &self,
        who: String,
        what: String,
        reason: String,
        key: String,
    ) -> Result<Record, NotOnRecord> {
        let mut open = self.open_file();
        open.last += 1;
        let outcome = "begun".to_owned();
        let (message, generations) = (String::new(), Vec::new());
        let record = Record {
            id: open.last,
            unix_ms: unix_ms(),
            who,
            what,
            reason,
            key,
            outcome,
            message,
            generations,
        };
        open.journal.append(&record)?;
        Ok(record)
    }

    /// Writes the second line, and waits until both are on the disk.
    pub async fn end(&self, record: Record) {
        let audit = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            let file = {
                let mut open = audit.open_file();
                open.journal.append(&Record { unix_ms: unix_ms(), ..record })?;
                open.journal.file()?
            };
            // Without the lock: the next change is put on record meanwhile.
            file.sync_data()
        });
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the outcome of a change is not in audit.jsonl"),
            Err(error) => tracing::error!(%error, "the outcome of a change is not in audit.jsonl"),
        }
    }
}
