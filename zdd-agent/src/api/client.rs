//! The calling side, for the command line and for tests: reports out, no message in sight.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{Stream, StreamExt};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use zdd_common::reason::{REASONS, Reason};
use zdd_common::trace::reason_bit;

use super::pb;
use super::pb::control_client::ControlClient;
pub use super::wire::Malformed;
use super::wire::Wire;
use crate::control::{Refused, RefusedCode, RolloutAct, RolloutAsk, Target, TrainAct};
use crate::desired::BasisPoints;
use crate::events::Event;
use crate::report::{
    ApplyReport, ChangeReport, DetachReport, DrainReport, Explain, NodeReport, ShiftReport, Status, WhoMoves,
};
use crate::rollout::report::{RolloutHistory, RolloutPlan, RolloutReport, StoppedLine, TrainReport};
use crate::trace::{TraceFilter, TracedPacket};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers on the socket.
    #[error("no agent answers on {at}: {source}")]
    Unreachable {
        /// Where it was looked for.
        at: At,
        /// What the system said.
        source: io::Error,
    },
    /// The same, where an agent should have taken everything away.
    #[error(
        "no agent answers on {at}: {source}\nhelp: without one, name what it pinned: --config FILE, or --pin-dir DIR as /sys/fs/bpf/zdd"
    )]
    NothingToDetach {
        /// Where it was looked for.
        at: At,
        /// What the system said.
        source: io::Error,
    },
    /// A file for the connection cannot be used.
    #[error("{}: {wrong}\nhelp: --cert, --key and --ca name PEM files: your certificate, its key, and the authority of the agent's", .path.display())]
    Certificate {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        wrong: String,
    },
    /// The agent does not believe our certificate, and heard nothing else.
    #[error(
        "the agent refuses the certificate ({0}): nothing was asked\nhelp: --cert must be signed by the authority that agent.api.client_ca names there, and be valid now (openssl x509 -noout -issuer -dates -in FILE); the agent's log tells why it refused it"
    )]
    Doubted(String),
    /// The agent said no; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The connection broke before the answer: whether it was done is not known.
    #[error("the agent went away before it answered ({0})\nhelp: look at `zdd status` whether it was done")]
    Lost(String),
    /// The connection broke while something was looked at or waited for, which was asked for and is under way as before.
    #[error(
        "the agent went away ({0})\nhelp: traffic goes on without it, and drains and rollouts do once one runs again; look at `zdd status`, then repeat the command"
    )]
    Broke(String),
    /// The answer makes no sense to this build.
    #[error(
        "the agent's answer cannot be read: {0}\nhelp: agent and command are of different builds; use the agent's"
    )]
    Malformed(#[from] Malformed),
}

/// How long a connection over TCP may take.
const CONNECT: Duration = Duration::from_secs(10);

/// An error with all its causes: the transport's own word is only "transport error".
fn reasons(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    let told: Vec<String> = causes.map(ToString::to_string).collect();
    told.last().cloned().unwrap_or_else(|| error.to_string())
}

/// Under TLS 1.3 the other side judges a certificate after this one has begun to speak: its alert is all that comes (RFC 8446, 6.2).
fn lost(status: &tonic::Status) -> ClientError {
    let told = std::error::Error::source(status).is_some();
    let why = if told { reasons(status) } else { status.message().to_owned() };
    if why.contains("fatal alert") { ClientError::Doubted(why) } else { ClientError::Lost(why) }
}

fn failed(status: tonic::Status) -> ClientError {
    let code = match status.code() {
        Code::NotFound => RefusedCode::NotFound,
        Code::FailedPrecondition => RefusedCode::Refused,
        Code::InvalidArgument => RefusedCode::Invalid,
        Code::AlreadyExists => RefusedCode::Conflict,
        Code::PermissionDenied => RefusedCode::Denied,
        Code::Internal => RefusedCode::Internal,
        Code::Unimplemented => {
            let message = "the agent does not know this command\nhelp: agent and command are of different builds; use the agent's";
            return Refused::invalid(message).into();
        }
        _ => return lost(&status),
    };
    // A broken connection is told as an internal error by the transport; only the agent's own have no source.
    if code == RefusedCode::Internal && std::error::Error::source(&status).is_some() {
        return lost(&status);
    }
    Refused::new(code, status.message()).into()
}

fn report<T: Wire>(answer: Result<tonic::Response<T::Pb>, tonic::Status>) -> Result<T, ClientError> {
    Ok(T::from_pb(answer.map_err(failed)?.into_inner(), "answer")?)
}

fn reports<T: Wire>(
    answer: Result<tonic::Response<tonic::Streaming<T::Pb>>, tonic::Status>,
) -> Result<impl Stream<Item = Result<T, ClientError>> + Unpin + use<T>, ClientError> {
    Ok(answer.map_err(failed)?.into_inner().map(|item| Ok(T::from_pb(item.map_err(broke)?, "answer")?)))
}

/// The same for who has had an answer already, and follows what comes after it.
fn broke(status: tonic::Status) -> ClientError {
    match failed(status) {
        ClientError::Lost(why) => ClientError::Broke(why),
        other => other,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A connection to one agent.
#[derive(Clone, Debug)]
pub struct Client {
    inner: ControlClient<Channel>,
    with: Option<pb::ChangeOptions>,
}

/// Where an agent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// On this host, at the path of its socket.
    Socket(PathBuf),
    /// Anywhere, over TLS.
    Server(Server),
}

/// An agent over TCP: certificates on both sides. The files are PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `https://host:port`; the name or address must be in the agent's certificate.
    pub url: String,
    /// The caller's certificate.
    pub cert: PathBuf,
    /// The caller's private key.
    pub key: PathBuf,
    /// The authority of the agent's certificate.
    pub ca: PathBuf,
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            At::Socket(path) => path.display().fmt(f),
            At::Server(server) => server.url.fmt(f),
        }
    }
}

impl Client {
    /// Connects to the agent's socket.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when nobody answers there.
    pub async fn connect(path: &Path) -> Result<Client, ClientError> {
        let unreachable = |source| ClientError::Unreachable { at: At::Socket(path.to_owned()), source };
        // Connected by hand first, so that the reason is the system's own word and not wrapped by the transport.
        let mut first = Some(UnixStream::connect(path).await.map_err(unreachable)?);
        let path = path.to_owned();
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let (ready, path) = (first.take(), path.clone());
            async move {
                match ready {
                    Some(stream) => Ok(TokioIo::new(stream)),
                    None => UnixStream::connect(path).await.map(TokioIo::new),
                }
            }
        });
        // The address is never dialled; HTTP/2 wants an authority.
        let channel = Endpoint::from_static("http://zdd.local").connect_with_connector_lazy(connector);
        Ok(Client { inner: ControlClient::new(channel), with: None })
    }

    /// Connects to the agent wherever it is.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when nobody answers there, [`ClientError::Certificate`] when a file cannot be used.
    pub async fn connect_to(at: &At) -> Result<Client, ClientError> {
        let server = match at {
            At::Socket(path) => return Self::connect(path).await,
            At::Server(server) => server,
        };
        let wrong = |path: &Path, wrong: String| ClientError::Certificate { path: path.to_owned(), wrong };
        let read = |path: &Path| std::fs::read(path).map_err(|error| wrong(path, error.to_string()));
        let identity = Identity::from_pem(read(&server.cert)?, read(&server.key)?);
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read(&server.ca)?))
            .identity(identity);
        let unreachable = |source: io::Error| ClientError::Unreachable { at: at.clone(), source };
        let channel = Endpoint::from_shared(server.url.clone())
            .map_err(|error| unreachable(io::Error::other(format!("`{}` is no URL: {error}", server.url))))?
            .connect_timeout(CONNECT)
            .tls_config(tls)
            .map_err(|error| wrong(&server.cert, reasons(&error)))?
            .connect()
            .await
            .map_err(|error| unreachable(io::Error::other(reasons(&error))))?;
        Ok(Client { inner: ControlClient::new(channel), with: None })
    }

    /// The same agent; what goes with `options` goes with every change.
    pub fn with(self, options: pb::ChangeOptions) -> Client {
        Client { with: Some(options), ..self }
    }

    fn options(&self) -> Option<pb::ChangeOptions> {
        self.with.clone()
    }

    /// Events after number `after_seq`, and then every new one unless `only_present`.
    pub async fn watch_events(
        &mut self,
        after_seq: u64,
        service: &str,
        only_present: bool,
    ) -> Result<impl Stream<Item = Result<Event, ClientError>> + Unpin + use<>, ClientError> {
        let request = pb::WatchEventsRequest { after_seq, service: service.to_owned(), only_present };
        reports(self.inner.watch_events(request).await)
    }

    /// See [`Handle::status`](crate::control::Handle::status).
    pub async fn status(&mut self) -> Result<Status, ClientError> {
        report(self.inner.get_status(pb::GetStatusRequest {}).await)
    }

    /// The status now and at every interval, until the stream is dropped.
    pub async fn watch_status(
        &mut self,
        interval: Duration,
    ) -> Result<impl Stream<Item = Result<Status, ClientError>> + Unpin + use<>, ClientError> {
        let interval_ms = u32::try_from(millis(interval)).unwrap_or(u32::MAX);
        reports(self.inner.watch_status(pb::WatchStatusRequest { interval_ms }).await)
    }

    /// What the agent logs.
    pub async fn log_level(&mut self) -> Result<String, ClientError> {
        Ok(self.inner.get_log_level(pb::GetLogLevelRequest {}).await.map_err(failed)?.into_inner().level)
    }

    /// Changes what the agent logs; what it was before.
    pub async fn set_log_level(&mut self, level: &str, reason: String) -> Result<String, ClientError> {
        let options = Some(pb::ChangeOptions { reason, ..pb::ChangeOptions::default() });
        let request = pb::SetLogLevelRequest { level: level.to_owned(), options };
        Ok(self.inner.set_log_level(request).await.map_err(failed)?.into_inner().before)
    }

    /// See [`Handle::trace`](crate::control::Handle::trace).
    pub async fn trace(
        &mut self,
        filter: &TraceFilter,
    ) -> Result<impl Stream<Item = Result<TracedPacket, ClientError>> + Unpin + use<>, ClientError> {
        let named = |reason: &&Reason| filter.reasons & reason_bit(**reason) != 0;
        let any = filter.reasons == u64::MAX;
        let reasons = REASONS.iter().filter(named).filter(|_| !any).map(|reason| reason.name().to_owned());
        let request = pb::TraceRequest {
            service: filter.service.clone(),
            reasons: reasons.collect(),
            from: filter.from.map(|prefix| prefix.to_string()),
            rate: filter.rate,
            snap_bytes: filter.snap,
        };
        reports(self.inner.trace(request).await)
    }

    /// See [`Handle::shift`](crate::control::Handle::shift).
    pub async fn shift(
        &mut self,
        service: &str,
        weights: &[(String, BasisPoints)],
        force: bool,
    ) -> Result<ShiftReport, ClientError> {
        let options = self.options();
        let weights = weights
            .iter()
            .map(|(version, points)| pb::Weight { version: version.clone(), points: *points })
            .collect();
        report(
            self.inner.shift(pb::ShiftRequest { service: service.to_owned(), weights, force, options }).await,
        )
    }

    /// See [`Handle::rollback`](crate::control::Handle::rollback).
    pub async fn rollback(&mut self, service: &str, force: bool) -> Result<ShiftReport, ClientError> {
        let options = self.options();
        report(self.inner.rollback(pb::RollbackRequest { service: service.to_owned(), force, options }).await)
    }

    /// See [`Handle::backend_add`](crate::control::Handle::backend_add).
    pub async fn backend_add(
        &mut self,
        service: &str,
        version: &str,
        address: SocketAddr,
        weight: u32,
    ) -> Result<ChangeReport, ClientError> {
        let options = self.options();
        let (service, version, address) = (service.to_owned(), version.to_owned(), address.to_string());
        report(
            self.inner
                .add_backend(pb::AddBackendRequest { service, version, address, weight, options })
                .await,
        )
    }

    /// See [`Handle::backend_remove`](crate::control::Handle::backend_remove).
    pub async fn backend_remove(
        &mut self,
        service: &str,
        address: SocketAddr,
        deadline: Option<Duration>,
    ) -> Result<ChangeReport, ClientError> {
        let options = self.options();
        let (service, address, deadline_ms) = (service.to_owned(), address.to_string(), deadline.map(millis));
        report(
            self.inner
                .remove_backend(pb::RemoveBackendRequest { service, address, deadline_ms, options })
                .await,
        )
    }

    /// See [`Handle::drain`](crate::control::Handle::drain).
    pub async fn drain(
        &mut self,
        target: &Target,
        deadline: Option<Duration>,
    ) -> Result<DrainReport, ClientError> {
        let options = self.options();
        let request =
            pb::DrainRequest { target: target.to_string(), deadline_ms: deadline.map(millis), options };
        report(self.inner.drain(request).await)
    }

    /// See [`Handle::undrain`](crate::control::Handle::undrain).
    pub async fn undrain(&mut self, target: &Target) -> Result<ChangeReport, ClientError> {
        let options = self.options();
        report(self.inner.undrain(pb::UndrainRequest { target: target.to_string(), options }).await)
    }

    /// See [`Handle::drain_node`](crate::control::Handle::drain_node).
    pub async fn drain_node(
        &mut self,
        node: &str,
        deadline: Option<Duration>,
        force: bool,
    ) -> Result<NodeReport, ClientError> {
        let (options, node, deadline_ms) = (self.options(), node.to_owned(), deadline.map(millis));
        report(self.inner.drain_node(pb::DrainNodeRequest { node, deadline_ms, force, options }).await)
    }

    /// See [`Handle::undrain_node`](crate::control::Handle::undrain_node).
    pub async fn undrain_node(&mut self, node: &str) -> Result<NodeReport, ClientError> {
        let (options, node) = (self.options(), node.to_owned());
        report(self.inner.undrain_node(pb::UndrainNodeRequest { node, options }).await)
    }

    /// See [`Handle::drained_watch`](crate::control::Handle::drained_watch).
    pub async fn wait_drained(
        &mut self,
        target: &Target,
    ) -> Result<impl Stream<Item = Result<DrainReport, ClientError>> + Unpin + use<>, ClientError> {
        reports(self.inner.wait_drained(pb::WaitDrainedRequest { target: target.to_string() }).await)
    }

    /// Sends the text of a configuration file; `name` is how errors name it.
    pub async fn apply(
        &mut self,
        config: String,
        name: String,
        dry_run: bool,
    ) -> Result<ApplyReport, ClientError> {
        let options = self.options();
        report(self.inner.apply(pb::ApplyRequest { config, name, dry_run, options }).await)
    }

    /// See [`Handle::explain`](crate::control::Handle::explain).
    pub async fn explain(
        &mut self,
        service: &str,
        from: SocketAddr,
        port: Option<u16>,
        preview: bool,
    ) -> Result<Explain, ClientError> {
        let (service, from, port) = (service.to_owned(), from.to_string(), port.map(u32::from));
        let request = pb::ExplainRequest { service, from, port, preview };
        report(self.inner.explain(request).await)
    }

    /// See [`Handle::rollout_plan`](crate::control::Handle::rollout_plan).
    pub async fn rollout_plan(&mut self, service: &str, candidate: &str) -> Result<RolloutPlan, ClientError> {
        let (service, candidate) = (service.to_owned(), candidate.to_owned());
        report(self.inner.plan_rollout(pb::PlanRolloutRequest { service, candidate }).await)
    }

    /// See [`Handle::rollout`](crate::control::Handle::rollout).
    pub async fn rollout(&mut self, service: &str, ask: RolloutAsk) -> Result<RolloutReport, ClientError> {
        let options = self.options();
        let RolloutAsk { act, revision, reason, break_glass } = ask;
        let (service, mut undo_to) = (service.to_owned(), None);
        let r#move = match act {
            RolloutAct::Start { version: candidate, replace } => {
                let pair = |(old, new): (SocketAddr, SocketAddr)| pb::Replace {
                    old: old.to_string(),
                    new: new.to_string(),
                };
                let replace = replace.into_iter().map(pair).collect();
                let request =
                    pb::StartRolloutRequest { service, candidate, reason, break_glass, replace, options };
                return report(self.inner.start_rollout(request).await);
            }
            RolloutAct::Pause => pb::Move::Pause,
            RolloutAct::Resume => pb::Move::Resume,
            RolloutAct::Promote { full: false } => pb::Move::Promote,
            RolloutAct::Promote { full: true } => pb::Move::PromoteFull,
            RolloutAct::Abort => pb::Move::Abort,
            RolloutAct::Retry => pb::Move::Retry,
            RolloutAct::Undo { to } => {
                undo_to = to;
                pb::Move::Undo
            }
        };
        let r#move = r#move.into();
        report(
            self.inner
                .move_rollout(pb::MoveRolloutRequest {
                    service,
                    r#move,
                    revision,
                    reason,
                    undo_to,
                    break_glass,
                    options,
                })
                .await,
        )
    }

    /// See [`Handle::rollout_status`](crate::control::Handle::rollout_status).
    pub async fn rollout_status(&mut self, service: &str) -> Result<RolloutReport, ClientError> {
        report(self.inner.get_rollout(pb::GetRolloutRequest { service: service.to_owned() }).await)
    }

    /// The rollout now and at every interval, until it is over.
    pub async fn watch_rollout(
        &mut self,
        service: &str,
        interval: Duration,
    ) -> Result<impl Stream<Item = Result<RolloutReport, ClientError>> + Unpin + use<>, ClientError> {
        let interval_ms = u32::try_from(millis(interval)).unwrap_or(u32::MAX);
        let request = pb::WatchRolloutRequest { service: service.to_owned(), interval_ms };
        reports(self.inner.watch_rollout(request).await)
    }

    /// See [`Handle::rollout_history`](crate::control::Handle::rollout_history).
    pub async fn rollout_history(&mut self, service: &str) -> Result<RolloutHistory, ClientError> {
        let request = pb::GetRolloutHistoryRequest { service: service.to_owned() };
        report(self.inner.get_rollout_history(request).await)
    }

    /// See [`Handle::train`](crate::control::Handle::train).
    pub async fn train(&mut self, train: &str, act: TrainAct) -> Result<TrainReport, ClientError> {
        let (train, options) = (train.to_owned(), self.with.clone());
        match act {
            TrainAct::Start { candidates, reason } => {
                let one = |(service, candidate)| pb::TrainService { service, candidate };
                let services = candidates.into_iter().map(one).collect();
                report(
                    self.inner.start_train(pb::StartTrainRequest { train, services, reason, options }).await,
                )
            }
            TrainAct::Abort { reason } => {
                report(self.inner.abort_train(pb::AbortTrainRequest { train, reason, options }).await)
            }
            TrainAct::Status => report(self.inner.get_train(pb::GetTrainRequest { train }).await),
        }
    }

    /// See [`Handle::line`](crate::control::Handle::line).
    pub async fn line(&mut self, stopped: Option<String>) -> Result<StoppedLine, ClientError> {
        report(self.inner.set_line(pb::SetLineRequest { stopped, options: self.with.clone() }).await)
    }

    /// See [`Handle::gate`](crate::control::Handle::gate).
    pub async fn gate(
        &mut self,
        service: &str,
        closed: bool,
        reason: &str,
    ) -> Result<ChangeReport, ClientError> {
        let options = self.options();
        let (service, reason) = (service.to_owned(), reason.to_owned());
        report(self.inner.set_gate(pb::SetGateRequest { service, closed, reason, options }).await)
    }

    /// See [`Handle::detach`](crate::control::Handle::detach).
    pub async fn detach(&mut self, pin_dir: Option<&Path>) -> Result<DetachReport, ClientError> {
        let options = self.options();
        let pin_dir = pin_dir.map_or(String::new(), |dir| dir.display().to_string());
        report(self.inner.detach(pb::DetachRequest { pin_dir, options }).await)
    }

    /// See [`Handle::who_moves`](crate::control::Handle::who_moves).
    pub async fn who_moves(
        &mut self,
        service: &str,
        weights: &[(String, BasisPoints)],
        clients: &[SocketAddr],
        port: Option<u16>,
    ) -> Result<WhoMoves, ClientError> {
        let weights = weights
            .iter()
            .map(|(version, points)| pb::Weight { version: version.clone(), points: *points })
            .collect();
        let clients = clients.iter().map(ToString::to_string).collect();
        let port = port.map(u32::from);
        let request = pb::WhoMovesRequest { service: service.to_owned(), weights, clients, port };
        report(self.inner.who_moves(request).await)
    }
}
