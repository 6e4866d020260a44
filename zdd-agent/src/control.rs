//! The boundary between those who ask (the API) and the one loop that acts: requests in a queue, one answer for each.
//!
//! Nothing here knows maps or sockets. The loop owns the [`mpsc::Receiver`] and answers every [`Request`] through its
//! [`Reply`]; a request that is dropped unanswered is told to the caller as an internal error.

mod change;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::alert::Trouble;
use change::Pending;
pub use change::{Change, Generations, Made, SpentKey};

use crate::desired::{BasisPoints, Desired};
use crate::report::{
    ApplyReport, ChangeReport, DetachReport, DrainReport, Explain, NodeReport, ShiftReport, Snapshot, Splits,
    Status, WhoMoves,
};
use crate::rollout::report::{RolloutHistory, RolloutPlan, RolloutReport, StoppedLine, TrainReport};
use crate::text::{Unreadable, parse_socket};
use crate::trace::{TraceFilter, TracedPacket};

/// Where the answer to one request goes.
pub type Reply<T> = oneshot::Sender<Result<T, Refused>>;

/// Why a request was not done. Nothing was changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// For programs.
    pub code: RefusedCode,
    /// For people: what, where, and the way out. A line of its own that begins with `help: ` is shown as such.
    pub message: String,
}

/// The kinds of refusal that a program can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedCode {
    /// No such service, version or backend.
    NotFound,
    /// It would do harm, or the state does not allow it; `force` may.
    Refused,
    /// The request makes no sense by itself.
    Invalid,
    /// It contradicts something that exists or is under way.
    Conflict,
    /// The caller's role does not allow it.
    Denied,
    /// The agent failed.
    Internal,
}

impl RefusedCode {
    /// As gRPC calls it, in one word.
    pub fn word(self) -> &'static str {
        match self {
            RefusedCode::NotFound => "not_found",
            RefusedCode::Refused => "failed_precondition",
            RefusedCode::Invalid => "invalid_argument",
            RefusedCode::Conflict => "already_exists",
            RefusedCode::Denied => "permission_denied",
            RefusedCode::Internal => "internal",
        }
    }
}

impl Refused {
    /// A refusal of this kind.
    pub fn new(code: RefusedCode, message: impl Into<String>) -> Self {
        Refused { code, message: message.into() }
    }

    /// No such service, version or backend.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(RefusedCode::NotFound, message)
    }

    /// It would do harm, or the state does not allow it.
    #[expect(clippy::self_named_constructors, reason = "named after the code, as its neighbours are")]
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(RefusedCode::Refused, message)
    }

    /// The request makes no sense by itself.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(RefusedCode::Invalid, message)
    }

    /// It contradicts something that exists.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(RefusedCode::Conflict, message)
    }

    /// The agent failed.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(RefusedCode::Internal, message)
    }
}

/// What to drain: a version or a backend, with the service in front where it is not clear without.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// `v1` or `web/v1`.
    Version {
        /// Service; `None`: the only one that has such a version.
        service: Option<String>,
        /// Version.
        version: String,
    },
    /// `10.1.0.1:8080` or `web/10.1.0.1:8080`.
    Backend {
        /// Service; `None`: the only one that has this backend.
        service: Option<String>,
        /// Address and port.
        address: SocketAddr,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (service, what): (_, &dyn fmt::Display) = match self {
            Target::Version { service, version } => (service, version),
            Target::Backend { service, address } => (service, address),
        };
        match service {
            Some(service) => write!(f, "{service}/{what}"),
            None => what.fmt(f),
        }
    }
}

impl FromStr for Target {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let (service, what) = match text.split_once('/') {
            Some((service, what)) => (Some(service.to_owned()), what),
            None => (None, text),
        };
        let wrong = || {
            Unreadable(format!(
                "`{text}` is not a target; write VERSION, SERVICE/VERSION, ADDR:PORT or SERVICE/ADDR:PORT"
            ))
        };
        if what.is_empty() || what.contains('/') || service.as_deref() == Some("") {
            return Err(wrong());
        }
        // No name of a version has a colon, so whatever has one is meant as an address.
        if what.contains(':') {
            Ok(Target::Backend { service, address: parse_socket(what)? })
        } else {
            Ok(Target::Version { service, version: what.to_owned() })
        }
    }
}

/// One request to the loop. The methods of [`Handle`] of the same name say what each means.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields are those of the Handle's methods, which document them")]
pub enum Request {
    Status {
        reply: Reply<Status>,
    },
    Snapshot {
        reply: Reply<Snapshot>,
    },
    Splits {
        reply: Reply<Splits>,
    },
    Trace {
        filter: TraceFilter,
        reply: Reply<mpsc::Receiver<TracedPacket>>,
    },
    Troubles {
        reply: Reply<Vec<Trouble>>,
    },
    Shift {
        service: String,
        weights: Vec<(String, BasisPoints)>,
        force: bool,
        reply: Reply<ShiftReport>,
    },
    Rollback {
        service: String,
        force: bool,
        reply: Reply<ShiftReport>,
    },
    BackendAdd {
        service: String,
        version: String,
        address: SocketAddr,
        weight: u32,
        reply: Reply<ChangeReport>,
    },
    BackendRemove {
        service: String,
        address: SocketAddr,
        deadline: Option<Duration>,
        reply: Reply<ChangeReport>,
    },
    Drain {
        target: Target,
        deadline: Option<Duration>,
        reply: Reply<DrainReport>,
    },
    Undrain {
        target: Target,
        reply: Reply<ChangeReport>,
    },
    DrainedWatch {
        target: Target,
        reply: Reply<watch::Receiver<DrainReport>>,
    },
    Apply {
        desired: Box<Desired>,
        dry_run: bool,
        reply: Reply<ApplyReport>,
    },
    Explain {
        service: String,
        from: SocketAddr,
        port: Option<u16>,
        preview: bool,
        reply: Reply<Explain>,
    },
    Rollout {
        service: String,
        ask: RolloutAsk,
        reply: Reply<RolloutReport>,
    },
    RolloutStatus {
        service: String,
        reply: Reply<RolloutReport>,
    },
    RolloutPlan {
        service: String,
        candidate: String,
        reply: Reply<RolloutPlan>,
    },
    RolloutHistory {
        service: String,
        reply: Reply<RolloutHistory>,
    },
    Gate {
        service: String,
        closed: bool,
        reason: String,
        reply: Reply<ChangeReport>,
    },
    Train {
        train: String,
        act: TrainAct,
        reply: Reply<TrainReport>,
    },
    Line {
        stopped: Option<String>,
        reply: Reply<StoppedLine>,
    },
    Detach {
        pin_dir: Option<PathBuf>,
        reply: Reply<DetachReport>,
    },
    WhoMoves {
        service: String,
        weights: Vec<(String, BasisPoints)>,
        clients: Vec<SocketAddr>,
        port: Option<u16>,
        reply: Reply<WhoMoves>,
    },
    DrainNode {
        node: String,
        deadline: Option<Duration>,
        force: bool,
        reply: Reply<NodeReport>,
    },
    UndrainNode {
        node: String,
        reply: Reply<NodeReport>,
    },
    /// A request that changes something, with what goes with it.
    Change {
        change: Box<Change>,
        then: Box<Request>,
        made: Made,
    },
}

/// What is asked of a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutAsk {
    /// What.
    pub act: RolloutAct,
    /// The revision that the asker has seen: refused as a conflict when it is another by now. `None`: whatever it is.
    pub revision: Option<u64>,
    /// Why, kept in the history; may be empty.
    pub reason: String,
    /// Pass what holds it now: the gate, a stopped line, a freeze window. Needs a reason.
    pub break_glass: bool,
}

/// What is asked of a release train.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrainAct {
    /// Begin the rollouts of all its services, or of none.
    Start {
        /// Each service and the version that is to have everything.
        candidates: Vec<(String, String)>,
        /// Why; may be empty.
        reason: String,
    },
    /// Give everything back.
    Abort {
        /// Why, kept in the history; may be empty.
        reason: String,
    },
    /// Look at it.
    Status,
}

/// The ways in which an operator moves a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RolloutAct {
    /// Begin one with this candidate.
    Start {
        /// The version; of a rolling rollout the one whose backends are done.
        version: String,
        /// Rolling: old and new addresses. Empty: all backends are restarted where they are.
        replace: Vec<(SocketAddr, SocketAddr)>,
    },
    /// Hold the weights.
    Pause,
    /// End a pause.
    Resume,
    /// End the present waiting, or with `full` leave out all steps before 100 %.
    Promote {
        /// Leave them out.
        full: bool,
    },
    /// Give everything back.
    Abort,
    /// Go on after a freeze, or begin again after a rollback.
    Retry,
    /// Give everything to the version before, or to the one that rollout `to` left.
    Undo {
        /// Number of a rollout in the history.
        to: Option<u64>,
    },
}

impl Request {
    /// Answers whatever was asked with a refusal.
    pub fn refuse(self, refused: Refused) {
        // A caller that has gone away needs no answer, so a failed send is nothing to act on.
        match self {
            Request::Status { reply } => drop(reply.send(Err(refused))),
            Request::Snapshot { reply } => drop(reply.send(Err(refused))),
            Request::Splits { reply } => drop(reply.send(Err(refused))),
            Request::Trace { reply, .. } => drop(reply.send(Err(refused))),
            Request::Troubles { reply } => drop(reply.send(Err(refused))),
            Request::Shift { reply, .. } | Request::Rollback { reply, .. } => drop(reply.send(Err(refused))),
            Request::BackendAdd { reply, .. }
            | Request::BackendRemove { reply, .. }
            | Request::Undrain { reply, .. } => drop(reply.send(Err(refused))),
            Request::Drain { reply, .. } => drop(reply.send(Err(refused))),
            Request::DrainedWatch { reply, .. } => drop(reply.send(Err(refused))),
            Request::Apply { reply, .. } => drop(reply.send(Err(refused))),
            Request::Explain { reply, .. } => drop(reply.send(Err(refused))),
            Request::Rollout { reply, .. } | Request::RolloutStatus { reply, .. } => {
                drop(reply.send(Err(refused)));
            }
            Request::RolloutPlan { reply, .. } => drop(reply.send(Err(refused))),
            Request::RolloutHistory { reply, .. } => drop(reply.send(Err(refused))),
            Request::Gate { reply, .. } => drop(reply.send(Err(refused))),
            Request::Line { reply, .. } => drop(reply.send(Err(refused))),
            Request::Train { reply, .. } => drop(reply.send(Err(refused))),
            Request::Detach { reply, .. } => drop(reply.send(Err(refused))),
            Request::WhoMoves { reply, .. } => drop(reply.send(Err(refused))),
            Request::DrainNode { reply, .. } | Request::UndrainNode { reply, .. } => {
                drop(reply.send(Err(refused)))
            }
            Request::Change { then, .. } => then.refuse(refused),
        }
    }
}

/// Makes the two ends. `capacity` requests may wait; the next caller waits for room.
pub fn channel(capacity: usize) -> (Handle, mpsc::Receiver<Request>) {
    let (requests, receiver) = mpsc::channel(capacity);
    (Handle { requests, pending: None }, receiver)
}

/// The asking end. Clones ask the same loop.
///
/// Every method fails with what the loop answers, or with [`RefusedCode::Internal`] when the loop has ended.
#[derive(Clone, Debug)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    /// What goes with the next question.
    pending: Option<Pending>,
}

impl Handle {
    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Refused> {
        let gone = || {
            Refused::internal(
                "the agent is stopping; the traffic goes on as it was. Start it again and repeat",
            )
        };
        let (reply, answer) = oneshot::channel();
        self.requests.send(self.wrap(request(reply))).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Everything at this moment.
    pub async fn status(&self) -> Result<Status, Refused> {
        self.ask(|reply| Request::Status { reply }).await
    }

    /// The same, and the rollouts.
    pub async fn snapshot(&self) -> Result<Snapshot, Refused> {
        self.ask(|reply| Request::Snapshot { reply }).await
    }

    /// The splits alone, as in a snapshot.
    pub async fn splits(&self) -> Result<Splits, Refused> {
        self.ask(|reply| Request::Splits { reply }).await
    }

    /// Packets as they come, with what becomes of each, until the receiver is dropped.
    pub async fn trace(&self, filter: TraceFilter) -> Result<mpsc::Receiver<TracedPacket>, Refused> {
        self.ask(|reply| Request::Trace { filter, reply }).await
    }

    /// Everything that is wrong at this moment.
    pub async fn troubles(&self) -> Result<Vec<Trouble>, Refused> {
        self.ask(|reply| Request::Troubles { reply }).await
    }

    /// Gives the named versions these weights and the remainder to the others ([`crate::weights::complete`]). Answered when new
    /// flows follow the weights. Refused when a version that is to get more has no healthy backend, unless `force`.
    pub async fn shift(
        &self,
        service: String,
        weights: Vec<(String, BasisPoints)>,
        force: bool,
    ) -> Result<ShiftReport, Refused> {
        self.ask(|reply| Request::Shift { service, weights, force, reply }).await
    }

    /// Gives everything to the stable version.
    pub async fn rollback(&self, service: String, force: bool) -> Result<ShiftReport, Refused> {
        self.ask(|reply| Request::Rollback { service, force, reply }).await
    }

    /// Adds a backend to a version; `weight` is relative to the version's other backends, 1 to 1000.
    pub async fn backend_add(
        &self,
        service: String,
        version: String,
        address: SocketAddr,
        weight: u32,
    ) -> Result<ChangeReport, Refused> {
        self.ask(|reply| Request::BackendAdd { service, version, address, weight, reply }).await
    }

    /// Removes a backend: it drains, and is gone when drained or after `deadline` (default: the service's `drain_timeout`).
    pub async fn backend_remove(
        &self,
        service: String,
        address: SocketAddr,
        deadline: Option<Duration>,
    ) -> Result<ChangeReport, Refused> {
        self.ask(|reply| Request::BackendRemove { service, address, deadline, reply }).await
    }

    /// Gives no new flows to the target. Answered at once, with where the drain stands; [`Handle::drained_watch`] waits.
    pub async fn drain(&self, target: Target, deadline: Option<Duration>) -> Result<DrainReport, Refused> {
        self.ask(|reply| Request::Drain { target, deadline, reply }).await
    }

    /// Ends a drain: the target takes new flows again.
    pub async fn undrain(&self, target: Target) -> Result<ChangeReport, Refused> {
        self.ask(|reply| Request::Undrain { target, reply }).await
    }

    /// Gives no new flows to any backend on a node, in all services at once. Refused when a version with weight would be left without a
    /// healthy backend, unless `force`.
    pub async fn drain_node(
        &self,
        node: String,
        deadline: Option<Duration>,
        force: bool,
    ) -> Result<NodeReport, Refused> {
        self.ask(|reply| Request::DrainNode { node, deadline, force, reply }).await
    }

    /// Lets the backends on a node take new flows again.
    pub async fn undrain_node(&self, node: String) -> Result<NodeReport, Refused> {
        self.ask(|reply| Request::UndrainNode { node, reply }).await
    }

    /// Where the drain of the target stands, now and whenever that changes. The loop drops the sender after the last report:
    /// one with `drained` or `deadline_passed`; without either, the drain was undone or the agent stops.
    pub async fn drained_watch(&self, target: Target) -> Result<watch::Receiver<DrainReport>, Refused> {
        self.ask(|reply| Request::DrainedWatch { target, reply }).await
    }

    /// Goes from what is to `desired`, or with `dry_run` only says what would change.
    pub async fn apply(&self, desired: Desired, dry_run: bool) -> Result<ApplyReport, Refused> {
        self.ask(|reply| Request::Apply { desired: Box::new(desired), dry_run, reply }).await
    }

    /// Which version and backend a packet from this client gets now, and why. `port`: of the VIP, if it has many; else its first.
    /// `preview`: it dials the preview VIP.
    pub async fn explain(
        &self,
        service: String,
        from: SocketAddr,
        port: Option<u16>,
        preview: bool,
    ) -> Result<Explain, Refused> {
        self.ask(|reply| Request::Explain { service, from, port, preview, reply }).await
    }

    /// Begins or moves a rollout.
    pub async fn rollout(&self, service: String, ask: RolloutAsk) -> Result<RolloutReport, Refused> {
        self.ask(|reply| Request::Rollout { service, ask, reply }).await
    }

    /// The rollout under way, or the last one.
    pub async fn rollout_status(&self, service: String) -> Result<RolloutReport, Refused> {
        self.ask(|reply| Request::RolloutStatus { service, reply }).await
    }

    /// What a rollout of `candidate` would do; nothing is changed.
    pub async fn rollout_plan(&self, service: String, candidate: String) -> Result<RolloutPlan, Refused> {
        self.ask(|reply| Request::RolloutPlan { service, candidate, reply }).await
    }

    /// Rollouts that are over.
    pub async fn rollout_history(&self, service: String) -> Result<RolloutHistory, Refused> {
        self.ask(|reply| Request::RolloutHistory { service, reply }).await
    }

    /// Closes or opens the gate of a service: while it is closed no rollout takes a step up.
    pub async fn gate(&self, service: String, closed: bool, reason: String) -> Result<ChangeReport, Refused> {
        self.ask(|reply| Request::Gate { service, closed, reason, reply }).await
    }

    /// Begins, ends or shows a release train.
    pub async fn train(&self, train: String, act: TrainAct) -> Result<TrainReport, Refused> {
        self.ask(|reply| Request::Train { train, act, reply }).await
    }

    /// Stops the line: no rollout of any service takes a step up until it is released with `None`.
    pub async fn line(&self, stopped: Option<String>) -> Result<StoppedLine, Refused> {
        self.ask(|reply| Request::Line { stopped, reply }).await
    }

    /// Detaches the program and removes every pin; the agent ends after the answer. Refused if the pins are not in `pin_dir`, which the
    /// caller has named.
    pub async fn detach(&self, pin_dir: Option<PathBuf>) -> Result<DetachReport, Refused> {
        self.ask(|reply| Request::Detach { pin_dir, reply }).await
    }

    /// What [`Handle::shift`] to these weights would move, worked out by the same code and not made. `clients` are told one by one,
    /// as those who dial `port` (see [`Handle::explain`]).
    /// A shift that would be refused is not: the notes say why it would be.
    pub async fn who_moves(
        &self,
        service: String,
        weights: Vec<(String, BasisPoints)>,
        clients: Vec<SocketAddr>,
        port: Option<u16>,
    ) -> Result<WhoMoves, Refused> {
        self.ask(|reply| Request::WhoMoves { service, weights, clients, port, reply }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_reads_what_it_writes() {
        for text in
            ["v1", "web/v1", "10.1.0.1:8080", "web/10.1.0.1:8080", "[2001:db8::2]:80", "web/[2001:db8::2]:80"]
        {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for text in ["", "/", "web/", "/v1", "a/b/c", "10.1.0.1:x"] {
            assert!(text.parse::<Target>().is_err(), "{text} was taken");
        }
    }

    #[tokio::test]
    async fn a_dropped_request_is_an_answer() {
        let (handle, mut requests) = channel(1);
        let asked = tokio::spawn(async move { handle.status().await });
        drop(requests.recv().await);
        assert_eq!(asked.await.unwrap().unwrap_err().code, RefusedCode::Internal);
    }

    #[tokio::test]
    async fn an_ended_loop_is_an_answer() {
        let (handle, requests) = channel(1);
        drop(requests);
        assert_eq!(handle.detach(None).await.unwrap_err().code, RefusedCode::Internal);
    }
}
