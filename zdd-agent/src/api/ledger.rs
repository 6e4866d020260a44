//! How a change is made over the API: authorised before, on record, once for each key, and to its end even if the caller goes away.

use std::io;
use std::path::Path;
use std::sync::Arc;

use prost::Message;
use tokio::sync::Mutex;
use tonic::{Code, Request, Response, Status};

use super::answers::{Answers, Known, digest, scoped};
use super::audit::{Audit, Record};
use super::caller::Caller;
use super::changes::Changing;
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
        let reason = if options.reason.is_empty() { request.why().to_owned() } else { options.reason };
        let key = match options.idempotency_key.as_str() {
            "" => None,
            key => Some(scoped(caller, key)?),
        };
        let begun = match &self.audit {
            None => None,
            Some(audit) => Some(
                audit.begin(who.clone(), request.what(), reason.clone(), options.idempotency_key).map_err(
                    |error| {
                        Status::internal(format!(
                            "audit.jsonl cannot be written: {error}\nhelp: nothing was changed, because nobody would know of it; make room in agent.state_dir and repeat"
                        ))
                    },
                )?,
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
