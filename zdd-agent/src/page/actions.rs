//! What a page may ask for when it is allowed to change something: the same as the commands of the same names.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::audit::{Audit, Record};
use crate::control::{Change, Handle, Refused, RefusedCode, RolloutAct, RolloutAsk};
use crate::desired::BasisPoints;
use crate::text::percent;

/// One request.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "act", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Action {
    /// What a shift would move; changes nothing.
    WhoMoves {
        service: String,
        weights: Vec<(String, BasisPoints)>,
    },
    Shift {
        service: String,
        weights: Vec<(String, BasisPoints)>,
    },
    Rollback {
        service: String,
    },
    Pause {
        service: String,
        revision: u64,
    },
    Resume {
        service: String,
        revision: u64,
    },
    Promote {
        service: String,
        revision: u64,
    },
    Abort {
        service: String,
        revision: u64,
    },
    Undo {
        service: String,
        revision: u64,
    },
}

/// The answer to one that was not done.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    pub(super) error: String,
}

impl Action {
    /// As a command, for people.
    fn what(&self) -> String {
        let at = |what: &str, service: &str, revision: u64| {
            format!("rollout {what} {service} --revision {revision}")
        };
        match self {
            Action::WhoMoves { service, weights } | Action::Shift { service, weights } => {
                let weights =
                    weights.iter().map(|(version, points)| format!(" {version}={}", percent(*points)));
                format!("shift {service}{}", weights.collect::<String>())
            }
            Action::Rollback { service } => format!("rollback {service}"),
            Action::Pause { service, revision } => at("pause", service, *revision),
            Action::Resume { service, revision } => at("resume", service, *revision),
            Action::Promote { service, revision } => at("promote", service, *revision),
            Action::Abort { service, revision } => at("abort", service, *revision),
            Action::Undo { service, revision } => at("undo", service, *revision),
        }
    }
}

/// Does it for somebody, on record: the report as JSON.
pub(super) async fn act(
    handle: &Handle,
    audit: Option<&Audit>,
    who: String,
    action: Action,
) -> Result<Value, Refused> {
    if matches!(action, Action::WhoMoves { .. }) {
        return make(handle.clone(), action).await;
    }
    let (what, reason) = (action.what(), "on the page".to_owned());
    tracing::info!(by = who, "{what}");
    let begin = |audit: &Audit| audit.begin(who.clone(), what.clone(), reason.clone(), String::new());
    let begun = audit.map(begin).transpose().map_err(|error| Refused::internal(error.to_string()))?;
    let change = Change { by: who, what, reason, ..Change::default() };
    let (handle, made) = handle.changing(change);
    let answer = make(handle, action).await;
    if let (Some(audit), Some(begun)) = (audit, begun) {
        let generations = made.await.unwrap_or_default();
        let (outcome, message) = match &answer {
            Ok(_) => ("done".to_owned(), String::new()),
            Err(refused) => (refused.code.word().to_owned(), refused.message.clone()),
        };
        audit.end(Record { outcome, message, generations, ..begun }).await;
    }
    answer
}

async fn make(handle: Handle, action: Action) -> Result<Value, Refused> {
    let (service, act, revision) = match action {
        Action::WhoMoves { service, weights } => {
            return json(handle.who_moves(service, weights, Vec::new(), None).await?);
        }
        Action::Shift { service, weights } => return json(handle.shift(service, weights, false).await?),
        Action::Rollback { service } => return json(handle.rollback(service, false).await?),
        Action::Pause { service, revision } => (service, RolloutAct::Pause, revision),
        Action::Resume { service, revision } => (service, RolloutAct::Resume, revision),
        Action::Promote { service, revision } => (service, RolloutAct::Promote { full: false }, revision),
        Action::Abort { service, revision } => (service, RolloutAct::Abort, revision),
        Action::Undo { service, revision } => (service, RolloutAct::Undo { to: None }, revision),
    };
    // What was on the screen when somebody decided: if it is something else by now, they shall look again.
    let ask =
        RolloutAsk { act, revision: Some(revision), reason: "on the page".to_owned(), break_glass: false };
    json(handle.rollout(service, ask).await?)
}

fn json<T: Serialize>(report: T) -> Result<Value, Refused> {
    serde_json::to_value(report).map_err(|error| Refused::internal(error.to_string()))
}

/// The status of a refusal (RFC 9110).
pub(super) fn status(code: RefusedCode) -> hyper::StatusCode {
    use hyper::StatusCode;
    match code {
        RefusedCode::NotFound => StatusCode::NOT_FOUND,
        RefusedCode::Refused => StatusCode::UNPROCESSABLE_ENTITY,
        RefusedCode::Invalid => StatusCode::BAD_REQUEST,
        RefusedCode::Conflict => StatusCode::CONFLICT,
        RefusedCode::Denied => StatusCode::FORBIDDEN,
        RefusedCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
