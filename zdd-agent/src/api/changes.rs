//! The requests that change something: each as a command for the record, how it is made, and what it reports when it was made before.

use std::future::Future;
use std::time::Duration;

use prost::Message;
use tonic::Status;

use super::pb;
use super::service::{address, status, target};
use super::wire::Wire;
use crate::config::Config;
use crate::control::{Handle, RolloutAct, RolloutAsk, TrainAct};
use crate::report::{ApplyReport, ChangeReport, ShiftReport, VersionShare};
use crate::text::percent;

const AGAIN: &str =
    "this was done before, and the agent was restarted before it answered: this is how it stands now";

/// A request that changes something.
pub(super) trait Changing: Message + Clone + Send + 'static {
    /// What it is answered with.
    type Report: Message + Default;
    /// Its rpc's name.
    const RPC: &'static str;

    /// What goes with it.
    fn options(&self) -> pb::ChangeOptions;

    /// As a command, for people; no secrets.
    fn what(&self) -> String;

    /// Why, where the request itself says it.
    fn why(&self) -> &str {
        ""
    }

    /// Makes it.
    fn make(self, handle: Handle) -> impl Future<Output = Result<Self::Report, Status>> + Send;

    /// What there is to say when it was made before and the answer is lost.
    fn made(self, handle: Handle) -> impl Future<Output = Result<Self::Report, Status>> + Send;
}

macro_rules! options {
    () => {
        fn options(&self) -> pb::ChangeOptions {
            self.options.clone().unwrap_or_default()
        }
    };
}

/// `rpc`s of all [`Changing`] requests: a test holds it equal to what needs more than a viewer.
#[cfg(test)]
pub(super) const ALL: [&str; 17] = [
    pb::ShiftRequest::RPC,
    pb::RollbackRequest::RPC,
    pb::AddBackendRequest::RPC,
    pb::RemoveBackendRequest::RPC,
    pb::DrainRequest::RPC,
    pb::UndrainRequest::RPC,
    pb::DrainNodeRequest::RPC,
    pb::UndrainNodeRequest::RPC,
    pb::ApplyRequest::RPC,
    pb::StartRolloutRequest::RPC,
    pb::MoveRolloutRequest::RPC,
    pb::SetGateRequest::RPC,
    pb::SetLineRequest::RPC,
    pb::StartTrainRequest::RPC,
    pb::AbortTrainRequest::RPC,
    pb::DetachRequest::RPC,
    pb::SetLogLevelRequest::RPC,
];

fn force(force: bool) -> &'static str {
    if force { " --force" } else { "" }
}

fn glass(broken: bool) -> &'static str {
    if broken { " --break-glass" } else { "" }
}

fn deadline(ms: Option<u64>) -> String {
    ms.map_or(String::new(), |ms| {
        format!(" --deadline {}", humantime::format_duration(Duration::from_millis(ms)))
    })
}

async fn shifted(handle: Handle, name: &str) -> Result<pb::ShiftReport, Status> {
    let all = handle.status().await.map_err(status)?.services;
    let Some(service) = all.into_iter().find(|service| service.name == name) else {
        return Err(Status::not_found(format!("there is no service `{name}` any more")));
    };
    let versions = service.versions.into_iter();
    let versions = versions.map(|v| VersionShare { name: v.name, asked: v.asked, share: v.share }).collect();
    let notes = vec![AGAIN.to_owned()];
    let generation = service.generation;
    Ok(ShiftReport { service: service.name, generation, versions, moved_groups: 0, notes }.into_pb())
}

async fn changed(handle: Handle, name: &str) -> Result<pb::ChangeReport, Status> {
    let all = handle.status().await.map_err(status)?.services;
    let generation = all.iter().find(|service| service.name == name).map_or(0, |service| service.generation);
    Ok(ChangeReport { service: name.to_owned(), generation, notes: vec![AGAIN.to_owned()] }.into_pb())
}

impl Changing for pb::ShiftRequest {
    type Report = pb::ShiftReport;
    const RPC: &'static str = "Shift";
    options!();

    fn what(&self) -> String {
        let weights = self.weights.iter().map(|w| format!(" {}={}", w.version, percent(w.points)));
        format!("shift {}{}{}", self.service, weights.collect::<String>(), force(self.force))
    }

    async fn make(self, handle: Handle) -> Result<pb::ShiftReport, Status> {
        let weights = self.weights.into_iter().map(|weight| (weight.version, weight.points)).collect();
        handle.shift(self.service, weights, self.force).await.map(Wire::into_pb).map_err(status)
    }

    async fn made(self, handle: Handle) -> Result<pb::ShiftReport, Status> {
        shifted(handle, &self.service).await
    }
}

impl Changing for pb::RollbackRequest {
    type Report = pb::ShiftReport;
    const RPC: &'static str = "Rollback";
    options!();

    fn what(&self) -> String {
        format!("rollback {}{}", self.service, force(self.force))
    }

    async fn make(self, handle: Handle) -> Result<pb::ShiftReport, Status> {
        handle.rollback(self.service, self.force).await.map(Wire::into_pb).map_err(status)
    }

    async fn made(self, handle: Handle) -> Result<pb::ShiftReport, Status> {
        shifted(handle, &self.service).await
    }
}

impl Changing for pb::AddBackendRequest {
    type Report = pb::ChangeReport;
    const RPC: &'static str = "AddBackend";
    options!();

    fn what(&self) -> String {
        format!(
            "backend add {} {} {} --weight {}",
            self.service,
            self.version,
            self.address,
            self.weight.max(1)
        )
    }

    async fn make(self, handle: Handle) -> Result<pb::ChangeReport, Status> {
        let address = address(&self.address)?;
        if self.weight > 1000 {
            return Err(Status::invalid_argument(format!(
                "backend weight {} is above 1000; choose 1 to 1000",
                self.weight
            )));
        }
        let weight = self.weight.max(1);
        handle
            .backend_add(self.service, self.version, address, weight)
            .await
            .map(Wire::into_pb)
            .map_err(status)
    }

    async fn made(self, handle: Handle) -> Result<pb::ChangeReport, Status> {
        changed(handle, &self.service).await
    }
}

impl Changing for pb::RemoveBackendRequest {
    type Report = pb::ChangeReport;
    const RPC: &'static str = "RemoveBackend";
    options!();

    fn what(&self) -> String {
        format!("backend remove {} {}{}", self.service, self.address, deadline(self.deadline_ms))
    }

    async fn make(self, handle: Handle) -> Result<pb::ChangeReport, Status> {
        let deadline = self.deadline_ms.map(Duration::from_millis);
        let address = address(&self.address)?;
        handle.backend_remove(self.service, address, deadline).await.map(Wire::into_pb).map_err(status)
    }

    async fn made(self, handle: Handle) -> Result<pb::ChangeReport, Status> {
        changed(handle, &self.service).await
    }
}

impl Changing for pb::DrainRequest {
    type Report = pb::DrainReport;
    const RPC: &'static str = "Drain";
    options!();

    fn what(&self) -> String {
        format!("drain {}{}", self.target, deadline(self.deadline_ms))
    }

    async fn make(self, handle: Handle) -> Result<pb::DrainReport, Status> {
        let deadline = self.deadline_ms.map(Duration::from_millis);
        handle.drain(target(&self.target)?, deadline).await.map(Wire::into_pb).map_err(status)
    }

    async fn made(self, handle: Handle) -> Result<pb::DrainReport, Status> {
        let watched = handle.drained_watch(target(&self.target)?).await.map_err(status)?;
        let now = *watched.borrow();
        Ok(now.into_pb())
    }
}

impl Changing for pb::UndrainRequest {
    type Report = pb::ChangeReport;
    const RPC: &'static str = "Undrain";
    options!();

    fn what(&self) -> String {
        format!("undrain {}", self.target)
    }

    async fn make(self, handle: Handle) -> Result<pb::ChangeReport, Status> {
        handle.undrain(target(&self.target)?).await.map(Wire::into_pb).map_err(status)
    }

    async fn made(self, handle: Handle) -> Result<pb::ChangeReport, Status> {
        changed(handle, self.target.split('/').next().unwrap_or_default()).await
    }
}

impl Changing for pb::DrainNodeRequest {
    type Report = pb::NodeReport;
    const RPC: &'static str = "DrainNode";
    options!();

    fn what(&self) -> String {
        format!("drain --node {}{}{}", self.node, deadline(self.deadline_ms), force(self.force))
    }

    async fn make(self, handle: Handle) -> Result<pb::NodeReport, Status> {
        let deadline = self.deadline_ms.map(Duration::from_millis);
        handle.drain_node(self.node, deadline, self.force).await.map(Wire::into_pb).map_err(status)
    }

    // Again it changes nothing: those that drain go on.
    async fn made(self, handle: Handle) -> Result<pb::NodeReport, Status> {
        self.make(handle).await
    }
}

impl Changing for pb::UndrainNodeRequest {
    type Report = pb::NodeReport;
    const RPC: &'static str = "UndrainNode";
    options!();

    fn what(&self) -> String {
        format!("undrain --node {}", self.node)
    }

    async fn make(self, handle: Handle) -> Result<pb::NodeReport, Status> {
        handle.undrain_node(self.node).await.map(Wire::into_pb).map_err(status)
    }

    async fn made(self, handle: Handle) -> Result<pb::NodeReport, Status> {
        self.make(handle).await
    }
}

impl Changing for pb::ApplyRequest {
    type Report = pb::ApplyReport;
    const RPC: &'static str = "Apply";
    options!();

    fn what(&self) -> String {
        let dry = if self.dry_run { " --dry-run" } else { "" };
        format!("apply {}{dry} ({} bytes)", self.name, self.config.len())
    }

    async fn make(self, handle: Handle) -> Result<pb::ApplyReport, Status> {
        let (mut desired, warnings) = Config::parse(&self.config, &self.name)
            .map_err(|errors| Status::invalid_argument(errors.to_string()))?;
        // A large database takes a while, and nobody else shall wait for it.
        let read = tokio::task::spawn_blocking(move || desired.read_cohorts().map(|()| desired)).await;
        let desired =
            read.map_err(|error| Status::internal(error.to_string()))?.map_err(Status::invalid_argument)?;
        let mut report = handle.apply(desired, self.dry_run).await.map_err(status)?;
        report.warnings.splice(0..0, warnings.iter().map(ToString::to_string));
        Ok(report.into_pb())
    }

    async fn made(self, _: Handle) -> Result<pb::ApplyReport, Status> {
        let warnings = vec![AGAIN.to_owned()];
        Ok(ApplyReport { changes: Vec::new(), applied: true, warnings }.into_pb())
    }
}

impl Changing for pb::StartRolloutRequest {
    type Report = pb::RolloutReport;
    const RPC: &'static str = "StartRollout";
    options!();

    fn what(&self) -> String {
        format!("rollout start {} {}{}", self.service, self.candidate, glass(self.break_glass))
    }

    fn why(&self) -> &str {
        &self.reason
    }

    async fn make(self, handle: Handle) -> Result<pb::RolloutReport, Status> {
        let replace = self.replace.iter().map(|pair| Ok((address(&pair.old)?, address(&pair.new)?)));
        let replace = replace.collect::<Result<Vec<_>, Status>>()?;
        let ask = RolloutAsk {
            act: RolloutAct::Start { version: self.candidate, replace },
            revision: None,
            reason: self.reason,
            break_glass: self.break_glass,
        };
        handle.rollout(self.service, ask).await.map(Wire::into_pb).map_err(status)
    }

    async fn made(self, handle: Handle) -> Result<pb::RolloutReport, Status> {
        handle.rollout_status(self.service).await.map(Wire::into_pb).map_err(status)
    }
}

impl Changing for pb::MoveRolloutRequest {
    type Report = pb::RolloutReport;
    const RPC: &'static str = "MoveRollout";
    options!();

    fn what(&self) -> String {
        let word = pb::Move::try_from(self.r#move).unwrap_or_default().as_str_name();
        let word = word.trim_start_matches("MOVE_").to_lowercase().replace('_', " --");
        format!("rollout {word} {}{}", self.service, glass(self.break_glass))
    }

    fn why(&self) -> &str {
        &self.reason
    }

    async fn make(self, handle: Handle) -> Result<pb::RolloutReport, Status> {
        let act = match pb::Move::try_from(self.r#move) {
            Ok(pb::Move::Pause) => RolloutAct::Pause,
            Ok(pb::Move::Resume) => RolloutAct::Resume,
            Ok(pb::Move::Promote) => RolloutAct::Promote { full: false },
            Ok(pb::Move::PromoteFull) => RolloutAct::Promote { full: true },
            Ok(pb::Move::Abort) => RolloutAct::Abort,
            Ok(pb::Move::Retry) => RolloutAct::Retry,
            Ok(pb::Move::Undo) => RolloutAct::Undo { to: self.undo_to },
            Ok(pb::Move::Unspecified) | Err(_) => {
                return Err(Status::invalid_argument(format!("{} is no Move", self.r#move)));
            }
        };
        let ask =
            RolloutAsk { act, revision: self.revision, reason: self.reason, break_glass: self.break_glass };
        handle.rollout(self.service, ask).await.map(Wire::into_pb).map_err(status)
    }

    async fn made(self, handle: Handle) -> Result<pb::RolloutReport, Status> {
        handle.rollout_status(self.service).await.map(Wire::into_pb).map_err(status)
    }
}

impl Changing for pb::SetGateRequest {
    type Report = pb::ChangeReport;
    const RPC: &'static str = "SetGate";
    options!();

    fn what(&self) -> String {
        format!("gate {} {}", if self.closed { "close" } else { "open" }, self.service)
    }

    fn why(&self) -> &str {
        &self.reason
    }

    async fn make(self, handle: Handle) -> Result<pb::ChangeReport, Status> {
        handle.gate(self.service, self.closed, self.reason).await.map(Wire::into_pb).map_err(status)
    }

    async fn made(self, handle: Handle) -> Result<pb::ChangeReport, Status> {
        changed(handle, &self.service).await
    }
}

impl Changing for pb::SetLogLevelRequest {
    type Report = pb::SetLogLevelReport;
    const RPC: &'static str = "SetLogLevel";
    options!();

    fn what(&self) -> String {
        format!("log {}", self.level)
    }

    async fn make(self, _: Handle) -> Result<pb::SetLogLevelReport, Status> {
        let before =
            crate::logging::change(&self.level).map_err(|error| Status::invalid_argument(error.0))?;
        tracing::info!(level = self.level, before, "the log's level is changed");
        Ok(pb::SetLogLevelReport { before })
    }

    // The level ends with the agent: what was made before a restart is to be made again.
    async fn made(self, handle: Handle) -> Result<pb::SetLogLevelReport, Status> {
        self.make(handle).await
    }
}

impl Changing for pb::StartTrainRequest {
    type Report = pb::TrainReport;
    const RPC: &'static str = "StartTrain";
    options!();

    fn what(&self) -> String {
        let services: Vec<String> =
            self.services.iter().map(|one| format!("{}={}", one.service, one.candidate)).collect();
        format!("train start {} {}", self.train, services.join(" "))
    }

    fn why(&self) -> &str {
        &self.reason
    }

    async fn make(self, handle: Handle) -> Result<pb::TrainReport, Status> {
        let candidates = self.services.into_iter().map(|one| (one.service, one.candidate)).collect();
        let act = TrainAct::Start { candidates, reason: self.reason };
        handle.train(self.train, act).await.map(Wire::into_pb).map_err(status)
    }

    async fn made(self, handle: Handle) -> Result<pb::TrainReport, Status> {
        handle.train(self.train, TrainAct::Status).await.map(Wire::into_pb).map_err(status)
    }
}

impl Changing for pb::AbortTrainRequest {
    type Report = pb::TrainReport;
    const RPC: &'static str = "AbortTrain";
    options!();

    fn what(&self) -> String {
        format!("train abort {}", self.train)
    }

    fn why(&self) -> &str {
        &self.reason
    }

    async fn make(self, handle: Handle) -> Result<pb::TrainReport, Status> {
        let act = TrainAct::Abort { reason: self.reason };
        handle.train(self.train, act).await.map(Wire::into_pb).map_err(status)
    }

    async fn made(self, handle: Handle) -> Result<pb::TrainReport, Status> {
        handle.train(self.train, TrainAct::Status).await.map(Wire::into_pb).map_err(status)
    }
}

impl Changing for pb::SetLineRequest {
    type Report = pb::StoppedLine;
    const RPC: &'static str = "SetLine";
    options!();

    fn what(&self) -> String {
        let word = if self.stopped.is_some() { "stop" } else { "release" };
        format!("rollout {word}-the-line")
    }

    fn why(&self) -> &str {
        self.stopped.as_deref().unwrap_or_default()
    }

    async fn make(self, handle: Handle) -> Result<pb::StoppedLine, Status> {
        handle.line(self.stopped).await.map(Wire::into_pb).map_err(status)
    }

    // It says how things shall be: again changes nothing.
    async fn made(self, handle: Handle) -> Result<pb::StoppedLine, Status> {
        self.make(handle).await
    }
}

impl Changing for pb::DetachRequest {
    type Report = pb::DetachReport;
    const RPC: &'static str = "Detach";
    options!();

    fn what(&self) -> String {
        "detach".to_owned()
    }

    async fn make(self, handle: Handle) -> Result<pb::DetachReport, Status> {
        let pin_dir = (!self.pin_dir.is_empty()).then(|| self.pin_dir.into());
        handle.detach(pin_dir).await.map(Wire::into_pb).map_err(status)
    }

    async fn made(self, handle: Handle) -> Result<pb::DetachReport, Status> {
        self.make(handle).await
    }
}
