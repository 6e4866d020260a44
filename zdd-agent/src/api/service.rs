//! The gRPC methods: message in, question to the loop, message out.

use std::future::ready;
use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tonic::{Code, Request, Response, Status};

use super::ledger::Ledger;
use super::pb;
use super::wire::Wire;
use crate::control::{Handle, Refused, RefusedCode, Target, TrainAct};
use crate::events::{Event, EventLog};
use crate::text::Unreadable;
use crate::trace::{self, TraceFilter};

/// Without an interval from the caller.
const WATCH_DEFAULT: Duration = Duration::from_secs(1);
const WATCH_MIN: Duration = Duration::from_millis(10);
const WATCH_MAX: Duration = Duration::from_secs(3600);

/// Implements the service on top of a [`Handle`].
pub(super) struct Control {
    pub handle: Handle,
    /// How changes are made.
    pub ledger: Ledger,
    /// What has happened.
    pub events: EventLog,
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

pub(super) fn status(refused: Refused) -> Status {
    Status::new(code(refused.code), refused.message)
}

/// The status code of each kind of refusal; the client reads it back.
fn code(code: RefusedCode) -> Code {
    match code {
        RefusedCode::NotFound => Code::NotFound,
        RefusedCode::Refused => Code::FailedPrecondition,
        RefusedCode::Invalid => Code::InvalidArgument,
        RefusedCode::Conflict => Code::AlreadyExists,
        RefusedCode::Denied => Code::PermissionDenied,
        RefusedCode::Internal => Code::Internal,
    }
}

fn answer<T: Wire>(result: Result<T, Refused>) -> Result<Response<T::Pb>, Status> {
    result.map(|report| Response::new(report.into_pb())).map_err(status)
}

pub(super) fn target(text: &str) -> Result<Target, Status> {
    text.parse().map_err(|error: crate::text::Unreadable| Status::invalid_argument(error.0))
}

pub(super) fn address(text: &str) -> Result<std::net::SocketAddr, Status> {
    crate::text::parse_socket(text).map_err(|error| Status::invalid_argument(error.0))
}

/// A port of a VIP, host byte order.
fn dialled(port: Option<u32>) -> Result<Option<u16>, Status> {
    port.map(u16::try_from)
        .transpose()
        .map_err(|_| Status::invalid_argument("a port is a number from 0 to 65535"))
}

fn trace_filter(asked: pb::TraceRequest) -> Result<TraceFilter, Unreadable> {
    let pb::TraceRequest { service, reasons, from, rate, snap_bytes } = asked;
    let mut bits = 0;
    for word in &reasons {
        bits |= trace::reasons(word)?;
    }
    let within = |what: &str, asked: u32, usual: u32, most: u32| match asked {
        0 => Ok(usual),
        asked if asked <= most => Ok(asked),
        asked => Err(Unreadable(format!("{what} {asked} is above {most}; choose less"))),
    };
    Ok(TraceFilter {
        service,
        reasons: if bits == 0 { u64::MAX } else { bits },
        from: from.map(|text| text.parse()).transpose()?,
        rate: within("rate", rate, trace::RATE, trace::RATE_MAX)?,
        snap: within("snap_bytes", snap_bytes, trace::SNAP, trace::SNAP_MAX)?,
    })
}

/// As a command, for the record.
fn trace_words(asked: &pb::TraceRequest) -> String {
    let mut words = vec!["trace".to_owned()];
    words.extend(asked.service.clone());
    words.extend(asked.from.iter().map(|prefix| format!("--from {prefix}")));
    words.extend(asked.reasons.iter().map(|reason| format!("--reason {reason}")));
    words.extend((asked.snap_bytes > 0).then(|| format!("--snap {}", asked.snap_bytes)));
    words.join(" ")
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

    type WatchEventsStream = Streamed<pb::Event>;

    async fn watch_events(
        &self,
        request: Request<pb::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let pb::WatchEventsRequest { after_seq, service, only_present } = request.into_inner();
        let wanted = move |event: &Event| service.is_empty() || event.service.as_deref() == Some(&*service);
        let events = self.events.clone();
        // Watched before the first look, so that nothing falls between.
        let news = events.watch();
        let batches = stream::unfold(Some((events, news, after_seq)), move |watched| async move {
            let (events, mut news, mut seen) = watched?;
            loop {
                news.mark_unchanged();
                let batch = events.since(seen);
                if let Some(last) = batch.last() {
                    seen = last.seq;
                    return Some((batch, (!only_present).then_some((events, news, seen))));
                }
                if only_present || news.changed().await.is_err() {
                    return None;
                }
            }
        });
        let events = batches.flat_map(stream::iter).filter(move |event| ready(wanted(event)));
        Ok(Response::new(self.until_closing(events.map(|event| Ok(event.into_pb())))))
    }

    async fn shift(&self, request: Request<pb::ShiftRequest>) -> Result<Response<pb::ShiftReport>, Status> {
        self.ledger.change(&self.handle, request).await
    }

    async fn rollback(
        &self,
        request: Request<pb::RollbackRequest>,
    ) -> Result<Response<pb::ShiftReport>, Status> {
        self.ledger.change(&self.handle, request).await
    }

    async fn add_backend(
        &self,
        request: Request<pb::AddBackendRequest>,
    ) -> Result<Response<pb::ChangeReport>, Status> {
        self.ledger.change(&self.handle, request).await
    }

    async fn remove_backend(
        &self,
        request: Request<pb::RemoveBackendRequest>,
    ) -> Result<Response<pb::ChangeReport>, Status> {
        self.ledger.change(&self.handle, request).await
    }

    async fn drain(&self, request: Request<pb::DrainRequest>) -> Result<Response<pb::DrainReport>, Status> {
        self.ledger.change(&self.handle, request).await
    }

    async fn undrain(
        &self,
        request: Request<pb::UndrainRequest>,
    ) -> Result<Response<pb::ChangeReport>, Status> {
        self.ledger.change(&self.handle, request).await
    }

    async fn drain_node(
        &self,
        request: Request<pb::DrainNodeRequest>,
    ) -> Result<Response<pb::NodeReport>, Status> {
        self.ledger.change(&self.handle, request).await
    }

    async fn undrain_node(
        &self,
        request: Request<pb::UndrainNodeRequest>,
    ) -> Result<Response<pb::NodeReport>, Status> {
        self.ledger.change(&self.handle, request).await
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
        self.ledger.change(&self.handle, request).await
    }

    async fn explain(
        &self,
        request: Request<pb::ExplainRequest>,
    ) -> Result<Response<pb::Explanation>, Status> {
        let pb::ExplainRequest { service, from, port, preview } = request.into_inner();
        answer(self.handle.explain(service, address(&from)?, dialled(port)?, preview).await)
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
        self.ledger.change(&self.handle, request).await
    }

    async fn move_rollout(
        &self,
        request: Request<pb::MoveRolloutRequest>,
    ) -> Result<Response<pb::RolloutReport>, Status> {
        self.ledger.change(&self.handle, request).await
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

    async fn start_train(
        &self,
        request: Request<pb::StartTrainRequest>,
    ) -> Result<Response<pb::TrainReport>, Status> {
        self.ledger.change(&self.handle, request).await
    }

    async fn abort_train(
        &self,
        request: Request<pb::AbortTrainRequest>,
    ) -> Result<Response<pb::TrainReport>, Status> {
        self.ledger.change(&self.handle, request).await
    }

    async fn get_train(
        &self,
        request: Request<pb::GetTrainRequest>,
    ) -> Result<Response<pb::TrainReport>, Status> {
        answer(self.handle.train(request.into_inner().train, TrainAct::Status).await)
    }

    async fn set_line(
        &self,
        request: Request<pb::SetLineRequest>,
    ) -> Result<Response<pb::StoppedLine>, Status> {
        self.ledger.change(&self.handle, request).await
    }

    async fn set_gate(
        &self,
        request: Request<pb::SetGateRequest>,
    ) -> Result<Response<pb::ChangeReport>, Status> {
        self.ledger.change(&self.handle, request).await
    }

    async fn detach(
        &self,
        request: Request<pb::DetachRequest>,
    ) -> Result<Response<pb::DetachReport>, Status> {
        self.ledger.change(&self.handle, request).await
    }

    async fn who_moves(
        &self,
        request: Request<pb::WhoMovesRequest>,
    ) -> Result<Response<pb::WhoMovesReport>, Status> {
        let pb::WhoMovesRequest { service, weights, clients, port } = request.into_inner();
        let weights = weights.into_iter().map(|weight| (weight.version, weight.points)).collect();
        let clients = clients.iter().map(|client| address(client)).collect::<Result<_, _>>()?;
        answer(self.handle.who_moves(service, weights, clients, dialled(port)?).await)
    }

    async fn get_log_level(
        &self,
        _: Request<pb::GetLogLevelRequest>,
    ) -> Result<Response<pb::LogLevel>, Status> {
        let level = crate::logging::present().map_err(|error| Status::failed_precondition(error.0))?;
        Ok(Response::new(pb::LogLevel { level }))
    }

    async fn set_log_level(
        &self,
        request: Request<pb::SetLogLevelRequest>,
    ) -> Result<Response<pb::SetLogLevelReport>, Status> {
        self.ledger.change(&self.handle, request).await
    }

    type TraceStream = Streamed<pb::TracedPacket>;

    async fn trace(&self, request: Request<pb::TraceRequest>) -> Result<Response<Self::TraceStream>, Status> {
        let mut looking = self.ledger.looking(&request, trace_words(request.get_ref()))?;
        let packets = async {
            let filter =
                trace_filter(request.into_inner()).map_err(|error| Status::invalid_argument(error.0))?;
            self.handle.trace(filter).await.map_err(status)
        };
        let packets = packets.await.inspect_err(|refused| looking.refused = Some(refused.clone()))?;
        let packets = stream::unfold((packets, looking), |(mut packets, mut looking)| async move {
            let packet = packets.recv().await?;
            looking.told += 1;
            Some((Ok(packet.into_pb()), (packets, looking)))
        });
        Ok(Response::new(self.until_closing(packets)))
    }
}
