//! The gRPC methods: message in, question to the loop, message out.

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tonic::{Code, Request, Response, Status};

use super::pb;
use super::wire::Wire;
use crate::config::Config;
use crate::control::{Handle, Refused, RefusedCode, RolloutAct, RolloutAsk, Target};

/// Without an interval from the caller.
const WATCH_DEFAULT: Duration = Duration::from_secs(1);
const WATCH_MIN: Duration = Duration::from_millis(10);
const WATCH_MAX: Duration = Duration::from_secs(3600);

/// Implements the service on top of a [`Handle`].
pub(super) struct Control {
    pub handle: Handle,
    /// Becomes true when the server ends, so that open streams do not hold it.
    pub closing: watch::Receiver<bool>,
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Control {
    fn until_closing<T: 'static>(
        &self,
        stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Streamed<T> {
        let mut closing = self.closing.clone();
        let closed = async move { drop(closing.wait_for(|closing| *closing).await) };
        Box::pin(stream.take_until(Box::pin(closed)))
    }
}

fn status(refused: Refused) -> Status {
    Status::new(code(refused.code), refused.message)
}

/// The status code of each kind of refusal; the client reads it back.
fn code(code: RefusedCode) -> Code {
    match code {
        RefusedCode::NotFound => Code::NotFound,
        RefusedCode::Refused => Code::FailedPrecondition,
        RefusedCode::Invalid => Code::InvalidArgument,
        RefusedCode::Conflict => Code::AlreadyExists,
        RefusedCode::Internal => Code::Internal,
    }
}

fn answer<T: Wire>(result: Result<T, Refused>) -> Result<Response<T::Pb>, Status> {
    result.map(|report| Response::new(report.into_pb())).map_err(status)
}

fn target(text: &str) -> Result<Target, Status> {
    text.parse().map_err(|error: crate::text::Unreadable| Status::invalid_argument(error.0))
}

fn address(text: &str) -> Result<std::net::SocketAddr, Status> {
    crate::text::parse_socket(text).map_err(|error| Status::invalid_argument(error.0))
}

#[tonic::async_trait]
impl pb::control_server::Control for Control {
    async fn get_status(&self, _: Request<pb::GetStatusRequest>) -> Result<Response<pb::Status>, Status> {
        answer(self.handle.status().await)
    }

    type WatchStatusStream = Streamed<pb::Status>;

    async fn watch_status(
        &self,
        request: Request<pb::WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let interval = match request.into_inner().interval_ms {
            0 => WATCH_DEFAULT,
            ms => Duration::from_millis(ms.into()).clamp(WATCH_MIN, WATCH_MAX),
        };
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let reports = stream::unfold((self.handle.clone(), ticks), |(handle, mut ticks)| async move {
            ticks.tick().await;
            let report = handle.status().await.map(Wire::into_pb).map_err(status);
            Some((report, (handle, ticks)))
        });
        Ok(Response::new(self.until_closing(reports)))
    }

    async fn shift(&self, request: Request<pb::ShiftRequest>) -> Result<Response<pb::ShiftReport>, Status> {
        let pb::ShiftRequest { service, weights, force } = request.into_inner();
        let weights = weights.into_iter().map(|weight| (weight.version, weight.points)).collect();
        answer(self.handle.shift(service, weights, force).await)
    }

    async fn rollback(
        &self,
        request: Request<pb::RollbackRequest>,
    ) -> Result<Response<pb::ShiftReport>, Status> {
        let pb::RollbackRequest { service, force } = request.into_inner();
        answer(self.handle.rollback(service, force).await)
    }

    async fn add_backend(
        &self,
        request: Request<pb::AddBackendRequest>,
    ) -> Result<Response<pb::ChangeReport>, Status> {
        let pb::AddBackendRequest { service, version, address: text, weight } = request.into_inner();
        let address = address(&text)?;
        if weight > 1000 {
            return Err(Status::invalid_argument(format!(
                "backend weight {weight} is above 1000; choose 1 to 1000"
            )));
        }
        answer(self.handle.backend_add(service, version, address, weight.max(1)).await)
    }

    async fn remove_backend(
        &self,
        request: Request<pb::RemoveBackendRequest>,
    ) -> Result<Response<pb::ChangeReport>, Status> {
        let pb::RemoveBackendRequest { service, address: text, deadline_ms } = request.into_inner();
        let deadline = deadline_ms.map(Duration::from_millis);
        answer(self.handle.backend_remove(service, address(&text)?, deadline).await)
    }

    async fn drain(&self, request: Request<pb::DrainRequest>) -> Result<Response<pb::DrainReport>, Status> {
        let pb::DrainRequest { target: text, deadline_ms } = request.into_inner();
        answer(self.handle.drain(target(&text)?, deadline_ms.map(Duration::from_millis)).await)
    }

    async fn undrain(
        &self,
        request: Request<pb::UndrainRequest>,
    ) -> Result<Response<pb::ChangeReport>, Status> {
        answer(self.handle.undrain(target(&request.into_inner().target)?).await)
    }

    type WaitDrainedStream = Streamed<pb::DrainReport>;

    async fn wait_drained(
        &self,
        request: Request<pb::WaitDrainedRequest>,
    ) -> Result<Response<Self::WaitDrainedStream>, Status> {
        let target = target(&request.into_inner().target)?;
        let mut reports = self.handle.drained_watch(target).await.map_err(status)?;
        // The present state is news to this caller.
        reports.mark_changed();
        let reports = stream::unfold(Some(reports), |reports| async move {
            let mut reports = reports?;
            // Fails when the loop has dropped the sender and its last report was seen.
            reports.changed().await.ok()?;
            let report = *reports.borrow_and_update();
            let last = report.drained || report.deadline_passed;
            Some((Ok(report.into_pb()), (!last).then_some(reports)))
        });
        Ok(Response::new(self.until_closing(reports)))
    }

    async fn apply(&self, request: Request<pb::ApplyRequest>) -> Result<Response<pb::ApplyReport>, Status> {
        let pb::ApplyRequest { config, name, dry_run } = request.into_inner();
        let (desired, warnings) =
            Config::parse(&config, &name).map_err(|errors| Status::invalid_argument(errors.to_string()))?;
        let report = self.handle.apply(desired, dry_run).await.map(|mut report| {
            report.warnings.splice(0..0, warnings.iter().map(ToString::to_string));
            report
        });
        answer(report)
    }

    async fn explain(
        &self,
        request: Request<pb::ExplainRequest>,
    ) -> Result<Response<pb::Explanation>, Status> {
        let pb::ExplainRequest { service, from } = request.into_inner();
        answer(self.handle.explain(service, address(&from)?).await)
    }

    async fn plan_rollout(
        &self,
        request: Request<pb::PlanRolloutRequest>,
    ) -> Result<Response<pb::RolloutPlan>, Status> {
        let pb::PlanRolloutRequest { service, candidate } = request.into_inner();
        answer(self.handle.rollout_plan(service, candidate).await)
    }

    async fn start_rollout(
        &self,
        request: Request<pb::StartRolloutRequest>,
    ) -> Result<Response<pb::RolloutReport>, Status> {
        let pb::StartRolloutRequest { service, candidate, reason, break_glass } = request.into_inner();
        let ask = RolloutAsk { act: RolloutAct::Start(candidate), revision: None, reason, break_glass };
        answer(self.handle.rollout(service, ask).await)
    }

    async fn move_rollout(
        &self,
        request: Request<pb::MoveRolloutRequest>,
    ) -> Result<Response<pb::RolloutReport>, Status> {
        let pb::MoveRolloutRequest { service, r#move, revision, reason, undo_to, break_glass } =
            request.into_inner();
        let act = match pb::Move::try_from(r#move) {
            Ok(pb::Move::Pause) => RolloutAct::Pause,
            Ok(pb::Move::Resume) => RolloutAct::Resume,
            Ok(pb::Move::Promote) => RolloutAct::Promote { full: false },
            Ok(pb::Move::PromoteFull) => RolloutAct::Promote { full: true },
            Ok(pb::Move::Abort) => RolloutAct::Abort,
            Ok(pb::Move::Retry) => RolloutAct::Retry,
            Ok(pb::Move::Undo) => RolloutAct::Undo { to: undo_to },
            Ok(pb::Move::Unspecified) | Err(_) => {
                return Err(Status::invalid_argument(format!("{} is no Move", r#move)));
            }
        };
        answer(self.handle.rollout(service, RolloutAsk { act, revision, reason, break_glass }).await)
    }

    async fn get_rollout(
        &self,
        request: Request<pb::GetRolloutRequest>,
    ) -> Result<Response<pb::RolloutReport>, Status> {
        answer(self.handle.rollout_status(request.into_inner().service).await)
    }

    type WatchRolloutStream = Streamed<pb::RolloutReport>;

    async fn watch_rollout(
        &self,
        request: Request<pb::WatchRolloutRequest>,
    ) -> Result<Response<Self::WatchRolloutStream>, Status> {
        let pb::WatchRolloutRequest { service, interval_ms } = request.into_inner();
        let interval = match interval_ms {
            0 => WATCH_DEFAULT,
            ms => Duration::from_millis(ms.into()).clamp(WATCH_MIN, WATCH_MAX),
        };
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let reports = stream::unfold(Some((self.handle.clone(), ticks)), move |watched| {
            let service = service.clone();
            async move {
                let (handle, mut ticks) = watched?;
                ticks.tick().await;
                let report = handle.rollout_status(service).await.map_err(status);
                let over = report.as_ref().map_or(true, crate::rollout::report::RolloutReport::over);
                Some((report.map(Wire::into_pb), (!over).then_some((handle, ticks))))
            }
        });
        Ok(Response::new(self.until_closing(reports)))
    }

    async fn get_rollout_history(
        &self,
        request: Request<pb::GetRolloutHistoryRequest>,
    ) -> Result<Response<pb::RolloutHistory>, Status> {
        answer(self.handle.rollout_history(request.into_inner().service).await)
    }

    async fn set_line(
        &self,
        request: Request<pb::SetLineRequest>,
    ) -> Result<Response<pb::StoppedLine>, Status> {
        answer(self.handle.line(request.into_inner().stopped).await)
    }

    async fn set_gate(
        &self,
        request: Request<pb::SetGateRequest>,
    ) -> Result<Response<pb::ChangeReport>, Status> {
        let pb::SetGateRequest { service, closed, reason } = request.into_inner();
        answer(self.handle.gate(service, closed, reason).await)
    }

    async fn detach(&self, _: Request<pb::DetachRequest>) -> Result<Response<pb::DetachReport>, Status> {
        answer(self.handle.detach().await)
    }

    async fn who_moves(
        &self,
        request: Request<pb::WhoMovesRequest>,
    ) -> Result<Response<pb::WhoMovesReport>, Status> {
        let pb::WhoMovesRequest { service, weights, clients } = request.into_inner();
        let weights = weights.into_iter().map(|weight| (weight.version, weight.points)).collect();
        let clients = clients.iter().map(|client| address(client)).collect::<Result<_, _>>()?;
        answer(self.handle.who_moves(service, weights, clients).await)
    }
}
