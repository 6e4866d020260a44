//! First answers by idempotency key: the same request again gets the same answer and does nothing.
//!
//! Kept in `answers.jsonl` for a day. A change that was made, and whose answer a kill swallowed, is known by its key in `state.json`,
//! which was written together with the change itself.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tonic::{Code, Status};

use super::caller::Caller;
use crate::clock::unix_ms;
use crate::control::SpentKey;
use crate::journal::Journal;
use crate::reconcile::KEY_LIFE;

const FILE_MOST: u64 = 8 << 20;
const KEY_MOST: usize = 128;

/// One answer, as it was given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Answer {
    /// Caller and key.
    key: String,
    unix_ms: u64,
    /// Of rpc and request.
    digest: String,
    /// 0, or the status code of the refusal.
    code: i32,
    /// Of a refusal.
    message: String,
    /// The message, encoded, as hexadecimal digits.
    body: String,
}

/// What is known of a key.
pub(super) enum Known {
    /// Nothing: make the change.
    New,
    /// It was answered like this.
    Answered(Result<Vec<u8>, Status>),
    /// It was made, and the agent was killed before the answer.
    Made,
}

/// All answers that are kept.
#[derive(Debug)]
pub(super) struct Answers {
    journal: Option<Journal>,
    kept: HashMap<String, Answer>,
    made: Vec<SpentKey>,
}

/// The key as it is kept: two callers' equal keys are two keys.
pub(super) fn scoped(caller: &Caller, key: &str) -> Result<String, Status> {
    if key.len() > KEY_MOST {
        return Err(Status::invalid_argument(format!(
            "the idempotency key has {} bytes; choose one of at most {KEY_MOST}",
            key.len()
        )));
    }
    Ok(match caller {
        Caller::Local { uid, .. } => format!("uid {uid}: {key}"),
        Caller::Remote { subject, names, .. } => format!("{subject} {}: {key}", names.join(" ")),
    })
}

impl Answers {
    /// Those of the file, and the keys of the state.
    pub fn open(dir: Option<&Path>, made: Vec<SpentKey>) -> io::Result<Answers> {
        let journal = dir.map(|dir| Journal::open(&dir.join("answers.jsonl"), FILE_MOST)).transpose()?;
        let mut answers = Answers { journal, kept: HashMap::new(), made };
        let lines: Vec<Answer> = answers.journal.as_ref().map(Journal::lines).unwrap_or_default();
        for answer in lines {
            answers.kept.insert(answer.key.clone(), answer);
        }
        answers.forget();
        Ok(answers)
    }

    fn forget(&mut self) {
        let life = u64::try_from(KEY_LIFE.as_millis()).unwrap_or(u64::MAX);
        let oldest = unix_ms().saturating_sub(life);
        self.kept.retain(|_, answer| answer.unix_ms >= oldest);
        self.made.retain(|spent| spent.unix_ms >= oldest);
    }

    /// What is known of a key that goes with this request now.
    pub fn look(&mut self, key: &str, digest: &str) -> Result<Known, Status> {
        self.forget();
        if let Some(answer) = self.kept.get(key) {
            if answer.digest != digest {
                return Err(Status::invalid_argument(
                    "this idempotency key went with another request\nhelp: choose a new key for each change",
                ));
            }
            return Ok(Known::Answered(match Code::from_i32(answer.code) {
                Code::Ok => Ok(from_hex(&answer.body)),
                code => Err(Status::new(code, answer.message.clone())),
            }));
        }
        Ok(if self.made.iter().any(|spent| spent.key == key) { Known::Made } else { Known::New })
    }

    /// Keeps an answer. One that says that the agent failed is not kept: it may be tried again.
    pub fn keep(&mut self, key: String, digest: String, answer: &Result<Vec<u8>, Status>) {
        let (code, message, body) = match answer {
            Ok(body) => (0, String::new(), hex(body)),
            Err(refused) if refused.code() == Code::Internal => return,
            Err(refused) => (refused.code() as i32, refused.message().to_owned(), String::new()),
        };
        let answer = Answer { key: key.clone(), unix_ms: unix_ms(), digest, code, message, body };
        if let Some(journal) = &mut self.journal
            && let Err(error) = journal.append(&answer)
        {
            tracing::error!(%error, "an answer is not in answers.jsonl: after a restart its request is known by state.json only");
        }
        self.kept.insert(key, answer);
    }
}

/// SHA-256 of a request, so that a key cannot go with two.
pub(super) fn digest(rpc: &str, request: &[u8]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(rpc.as_bytes());
    context.update(&[0]);
    context.update(request);
    hex(context.finish().as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(digits: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    (0..digits.len()).step_by(2).map_while(byte).collect()
}
