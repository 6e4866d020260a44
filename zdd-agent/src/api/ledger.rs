//! How a change is made over the API: authorised before, on record, once for each key, and to its end even if the caller goes away.

use std::io;
use std::path::Path;
use std::sync::Arc;

use prost::Message;
use tokio::sync::Mutex;
use tonic::{Code, Request, Response, Status};

use super::answers::{Answers, Known, digest, scoped};
use super::caller::Caller;
use super::changes::Changing;
use crate::audit::{Audit, Record};
use crate::control::{Change, Handle, SpentKey};

/// Records and answers. Clones share them.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// `None`: nothing is written down (tests of the API alone).
    audit: Option<Audit>,
    answers: Arc<Mutex<Answers>>,
}

impl Ledger {
    /// The files in `dir`; `made` are the keys of the state. Without a directory nothing outlives the process.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn open(dir: Option<&Path>, made: Vec<SpentKey>) -> io::Result<Ledger> {
        let audit = dir.map(Audit::open).transpose()?;
        Ok(Ledger { audit, answers: Arc::new(Mutex::new(Answers::open(dir, made)?)) })
    }

    /// The record, for what is changed otherwise than over the API.
    pub fn audit(&self) -> Option<Audit> {
        self.audit.clone()
    }

    /// Puts on record that somebody looks at what others say to each other, until the guard is dropped.
    pub(super) fn looking<T>(&self, request: &Request<T>, what: String) -> Result<Looking, Status> {
        let who = request.extensions().get::<Caller>().map(ToString::to_string).unwrap_or_default();
        let begin = |audit: &Audit| audit.begin(who, what, String::new(), String::new());
        let record = self.audit.as_ref().map(begin).transpose();
        let record = record.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Looking { record: self.audit.clone().zip(record), told: 0, refused: None })
    }

    /// Makes a change.
    pub(super) async fn change<T: Changing>(
        &self,
        handle: &Handle,
        request: Request<T>,
    ) -> Result<Response<T::Report>, Status> {
        let Some(caller) = request.extensions().get::<Caller>().cloned() else {
            return Err(Status::internal("the connection does not say whose it is: a mistake in zdd"));
        };
        let (ledger, handle, request) = (self.clone(), handle.clone(), request.into_inner());
        // A task of its own: a caller that goes away leaves no change half told.
        let made = tokio::spawn(async move { ledger.make(&handle, &caller, request).await });
        let body =
            made.await.map_err(|_| Status::internal("the change ended in a panic: look at the log"))??;
        let report = T::Report::decode(body.as_slice());
        report.map(Response::new).map_err(|error| Status::internal(error.to_string()))
    }

    async fn make<T: Changing>(
        &self,
        handle: &Handle,
        caller: &Caller,
        request: T,
    ) -> Result<Vec<u8>, Status> {
        let options = request.options();
        let who = caller.to_string();
        let reason = if options.reason.is_empty() { request.why() } else { &options.reason };
        let reason: String = reason.chars().take(REASON_MOST).collect();
        let key = match options.idempotency_key.as_str() {
            "" => None,
            key => Some(scoped(caller, key)?),
        };
        let begun = match &self.audit {
            None => None,
            Some(audit) => Some(
                audit
                    .begin(who.clone(), request.what(), reason.clone(), options.idempotency_key)
                    .map_err(|error| Status::internal(error.to_string()))?,
            ),
        };
        let change = Change {
            by: who,
            what: request.what(),
            reason,
            expected: options.expected_generation,
            key: key.clone(),
        };
        let (outcome, generations, answer) = match key {
            None => {
                let (handle, made) = handle.changing(change);
                let answer = request.make(handle).await.map(|report| report.encode_to_vec());
                ("done", made.await.unwrap_or_default(), answer)
            }
            Some(key) => {
                // One at a time: of two with the same key the second waits for the first one's answer.
                let mut answers = self.answers.lock().await;
                let digest = digest(T::RPC, &request.encode_to_vec());
                match answers.look(&key, &digest) {
                    Err(refused) => ("done", Vec::new(), Err(refused)),
                    Ok(Known::Answered(answer)) => ("repeated", Vec::new(), answer),
                    Ok(Known::Made) => {
                        let answer = request.made(handle.clone()).await.map(|report| report.encode_to_vec());
                        answers.keep(key, digest, &answer);
                        ("repeated", Vec::new(), answer)
                    }
                    Ok(Known::New) => {
                        let (handle, made) = handle.changing(change);
                        let answer = request.make(handle).await.map(|report| report.encode_to_vec());
                        answers.keep(key, digest, &answer);
                        ("done", made.await.unwrap_or_default(), answer)
                    }
                }
            }
        };
        if let (Some(audit), Some(begun)) = (&self.audit, begun) {
            let (outcome, message) = match &answer {
                Err(refused) if outcome == "done" => (word(refused.code()), refused.message().to_owned()),
                _ => (outcome.to_owned(), String::new()),
            };
            audit.end(Record { outcome, message, generations, ..begun }).await;
        }
        answer
    }
}

/// Letters of a reason that are kept: it is shown with the change it was given for, on lines with others.
const REASON_MOST: usize = 1000;

/// Somebody looks; dropping it ends the record.
pub(super) struct Looking {
    record: Option<(Audit, Record)>,
    /// Packets that they were told.
    pub told: u64,
    /// Why they were told none.
    pub refused: Option<Status>,
}

impl Drop for Looking {
    fn drop(&mut self) {
        let Some((audit, begun)) = self.record.take() else { return };
        let (outcome, message) = match &self.refused {
            Some(refused) => (word(refused.code()), refused.message().to_owned()),
            None => ("done".to_owned(), format!("{} packets", self.told)),
        };
        // While the agent ends there is nobody to do it: the next start says that the end is unknown.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { audit.end(Record { outcome, message, ..begun }).await });
        }
    }
}

/// `FailedPrecondition` as `failed_precondition`.
fn word(code: Code) -> String {
    let mut word = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.extend(letter.to_lowercase());
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Refused, RefusedCode};

    #[test]
    fn a_refusal_has_one_word_wherever_it_was_asked() {
        for code in [
            RefusedCode::NotFound,
            RefusedCode::Refused,
            RefusedCode::Invalid,
            RefusedCode::Conflict,
            RefusedCode::Denied,
            RefusedCode::Internal,
        ] {
            let status = crate::api::service::status(Refused::new(code, ""));
            assert_eq!(word(status.code()), code.word());
        }
    }
}
