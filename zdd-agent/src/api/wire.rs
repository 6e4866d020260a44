//! Between messages and the domain: each report has exactly one message of the same fields.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use super::pb;
use crate::desired::{Affinity, AttachMode, Forward};
use crate::events::{Event, EventKind};
use crate::report;
use crate::rollout::report as rollout;

/// A message that the other side should not have sent: a field is missing or has a value of a newer build.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {wrong}")]
pub struct Malformed {
    /// Message and field.
    pub field: String,
    /// What is wrong with it.
    pub wrong: String,
}

/// A value that travels as `Pb`.
pub trait Wire: Sized {
    /// Its form in a message.
    type Pb;
    /// To the message.
    fn into_pb(self) -> Self::Pb;
    /// From the message; `field` is for the error.
    fn from_pb(pb: Self::Pb, field: &str) -> Result<Self, Malformed>;
}

macro_rules! plain {
    ($($of:ty),*) => {$(
        impl Wire for $of {
            type Pb = $of;
            fn into_pb(self) -> $of { self }
            fn from_pb(pb: $of, _: &str) -> Result<Self, Malformed> { Ok(pb) }
        }
    )*};
}
plain!(u32, u64, f64, bool, String);

impl<T: Wire> Wire for Option<T> {
    type Pb = Option<T::Pb>;
    fn into_pb(self) -> Self::Pb {
        self.map(T::into_pb)
    }
    fn from_pb(pb: Self::Pb, field: &str) -> Result<Self, Malformed> {
        pb.map(|pb| T::from_pb(pb, field)).transpose()
    }
}

impl<T: Wire> Wire for Vec<T> {
    type Pb = Vec<T::Pb>;
    fn into_pb(self) -> Self::Pb {
        self.into_iter().map(T::into_pb).collect()
    }
    fn from_pb(pb: Self::Pb, field: &str) -> Result<Self, Malformed> {
        pb.into_iter().map(|pb| T::from_pb(pb, field)).collect()
    }
}

impl Wire for BTreeMap<String, u64> {
    type Pb = HashMap<String, u64>;
    fn into_pb(self) -> Self::Pb {
        self.into_iter().collect()
    }
    fn from_pb(pb: Self::Pb, _: &str) -> Result<Self, Malformed> {
        Ok(pb.into_iter().collect())
    }
}

/// A port, host byte order.
impl Wire for u16 {
    type Pb = u32;
    fn into_pb(self) -> u32 {
        self.into()
    }
    fn from_pb(pb: u32, field: &str) -> Result<Self, Malformed> {
        let wrong = || Malformed { field: field.to_owned(), wrong: format!("{pb} is no port") };
        Self::try_from(pb).map_err(|_| wrong())
    }
}

impl Wire for crate::trace::Frame {
    type Pb = Vec<u8>;
    fn into_pb(self) -> Vec<u8> {
        self.0
    }
    fn from_pb(pb: Vec<u8>, _: &str) -> Result<Self, Malformed> {
        Ok(Self(pb))
    }
}

impl Wire for SocketAddr {
    type Pb = String;
    fn into_pb(self) -> String {
        self.to_string()
    }
    fn from_pb(pb: String, field: &str) -> Result<Self, Malformed> {
        crate::text::parse_socket(&pb).map_err(|error| Malformed { field: field.to_owned(), wrong: error.0 })
    }
}

/// `report fields` on both sides; after `;` those that are messages which are always there.
macro_rules! message {
    ($report:ty, $pb:ident { $($field:ident),* $(; $($nested:ident),*)? }) => {
        impl Wire for $report {
            type Pb = pb::$pb;
            fn into_pb(self) -> pb::$pb {
                pb::$pb { $($field: self.$field.into_pb(),)* $($($nested: Some(self.$nested.into_pb()),)*)? }
            }
            fn from_pb(pb: pb::$pb, _: &str) -> Result<Self, Malformed> {
                Ok(Self {
                    $($field: Wire::from_pb(pb.$field, concat!(stringify!($pb), ".", stringify!($field)))?,)*
                    $($($nested: {
                        let field = concat!(stringify!($pb), ".", stringify!($nested));
                        let missing = || Malformed { field: field.to_owned(), wrong: "it is missing".to_owned() };
                        Wire::from_pb(pb.$nested.ok_or_else(missing)?, field)?
                    },)*)?
                })
            }
        }
    };
}

/// Enumerations travel as numbers; 0 and unknown ones are refused.
macro_rules! choice {
    ($domain:ty, $pb:ident { $($variant:ident = $wire:ident),* }) => {
        impl Wire for $domain {
            type Pb = i32;
            fn into_pb(self) -> i32 {
                match self { $(<$domain>::$variant => pb::$pb::$wire as i32,)* }
            }
            fn from_pb(pb: i32, field: &str) -> Result<Self, Malformed> {
                match pb::$pb::try_from(pb) {
                    $(Ok(pb::$pb::$wire) => Ok(<$domain>::$variant),)*
                    _ => Err(Malformed { field: field.to_owned(), wrong: format!("{pb} is no {}", stringify!($pb)) }),
                }
            }
        }
    };
}

choice!(Affinity, Affinity { Flow = Flow, Client = Client, ClientVersion = ClientVersion });
choice!(Forward, Forward { L2 = L2, Nat = Nat, Ipip = Ipip, Snat = Snat });
choice!(AttachMode, AttachMode { Native = Native, Generic = Generic });
choice!(report::Role, Role { Stable = Stable, Candidate = Candidate });
choice!(report::Health, Health { Healthy = Healthy, Unhealthy = Unhealthy, Unknown = Unknown });
choice!(report::BackendState, BackendState { Active = Active, Draining = Draining, Removed = Removed });
choice!(
    EventKind,
    EventKind { Change = Change, Rollout = Rollout, Health = Health, Drain = Drain, Interface = Interface, Agent = Agent }
);
choice!(report::Op, Op { Add = Add, Remove = Remove, Change = Change });

message!(
    crate::trace::TracedPacket,
    TracedPacket {
        unix_ns,
        interface,
        verdict,
        reason,
        protocol,
        from,
        to,
        service,
        version,
        backend,
        bytes,
        missed,
        frame
    }
);
message!(
    rollout::RolloutReport,
    RolloutReport {
        service,
        id,
        revision,
        strategy,
        stable,
        candidate,
        phase,
        why,
        weight,
        cohorts,
        paused,
        gate_closed,
        stopped,
        broke_glass,
        train,
        waits_for,
        steps,
        analyses,
        started_unix_ms,
        watched_ms,
        log
    }
);
message!(rollout::TrainReport, TrainReport { train, rollouts });
message!(rollout::StoppedLine, StoppedLine { stopped, rollouts });
message!(rollout::StepReport, RolloutStep { what, rollback, state });
message!(
    rollout::AnalysisReport,
    AnalysisReport {
        name,
        provider,
        dry_run,
        proven,
        count,
        successes,
        failures,
        failure_limit,
        inconclusive,
        inconclusive_limit,
        errors_in_row,
        consecutive_error_limit,
        measuring,
        last
    }
);
message!(rollout::LineReport, RolloutLine { unix_ms, text });
message!(
    rollout::RolloutPlan,
    RolloutPlan { service, strategy, stable, candidate, steps, on_failure, refusals, preview }
);
message!(rollout::RolloutHistory, RolloutHistory { service, rollouts });
message!(
    rollout::PastRollout,
    PastRollout { id, kind, stable, candidate, outcome, why, left, started_unix_ms, ended_unix_ms, log }
);

message!(Event, Event { seq, unix_ms, kind, service, generation, text, by, missed });
message!(
    report::Status,
    Status { build, pid, services, reasons, interfaces, probes, probes_late, snat; flow_table, syn_filter }
);
message!(report::ServiceStatus, ServiceStatus {
    name, vip, vips, affinity, forward, generation, cells, groups, dirty_cells, alarm, notes, cohorts, preview, versions, access, new_per_source; counters
});
message!(report::CohortStatus, CohortStatus { name, prefixes, version, waits, new_flows });
message!(report::PreviewStatus, PreviewStatus { vips, version, alarm });
message!(report::AccessStatus, AccessStatus { allow, deny });
message!(report::NewPerSourceStatus, NewPerSourceStatus { rate, burst });
message!(
    report::ServiceCounters,
    ServiceCounters {
        packets,
        bytes,
        new_flows,
        learned,
        insert_failed,
        fallback,
        denied,
        limited,
        no_backend
    }
);
message!(
    report::VersionStatus,
    VersionStatus { name, role, asked, share, draining, flows, new_flows, packets, bytes, backends, signals }
);
message!(report::SignalsStatus, SignalsStatus { one_in, counts; handshake, first_byte });
message!(report::TimesStatus, TimesStatus { count, sum_s, p50_s, p99_s, buckets });
message!(report::TimeBucket, TimeBucket { below_s, count });
message!(
    report::BackendStatus,
    BackendStatus {
        address,
        weight,
        health,
        reason,
        state,
        flows,
        packets,
        bytes,
        new_flows,
        next_hop,
        last_failure,
        last_failure_ms_ago,
        depends
    }
);
message!(report::DependencyStatus, DependencyStatus { name, well, said, shared });
message!(report::FlowTableStatus, FlowTableStatus { capacity, entries, half, established, dead; quotas });
message!(report::Quotas, Quotas { ; half, learned, promoted });
message!(report::Quota, Quota { used, limit });
message!(report::SnatStatus, SnatStatus { sources, ports, capacity, per_backend, live, finished });
message!(report::SynFilterStatus, SynFilterStatus { bytes, fill });
message!(report::InterfaceStatus, InterfaceStatus { name, index, mode, attached, note });
message!(
    report::Explain,
    Explanation {
        service,
        from,
        version,
        backend,
        cell,
        group,
        base,
        current,
        dirty,
        entry,
        why,
        cohort,
        port,
        preview
    }
);
message!(report::FlowEntry, FlowEntry { state, backend, alt, last_seen_ms });
message!(report::ShiftReport, ShiftReport { service, generation, versions, moved_groups, notes });
message!(report::VersionShare, VersionShare { name, asked, share });
message!(report::ChangeReport, ChangeReport { service, generation, notes });
message!(report::DrainReport, DrainReport { drained, left, waited_ms, deadline_passed });
message!(report::NodeReport, NodeReport { node, drained, left, backends, notes });
message!(report::NodeBackend, NodeBackend { service, version, address; drain });
message!(report::ApplyReport, ApplyReport { changes, applied, warnings });
message!(report::Change, Change { op, what, from, to });
message!(report::DetachReport, DetachReport { removed });
message!(
    report::WhoMoves,
    WhoMovesReport {
        service,
        generation,
        cells,
        moved_cells,
        moved_groups,
        moved_share,
        other_backend_cells,
        versions,
        moves,
        live_flows,
        kept_flows,
        clients,
        notes
    }
);
message!(report::VersionMove, VersionMove { name, asked_before, asked_after, share_before, share_after });
message!(report::CellMove, CellMove { from, to, cells });
message!(report::ClientMove, ClientMove { from, before, after });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_newer_build_says_is_an_error_and_not_a_guess() {
        let backend = pb::BackendStatus {
            address: "10.1.0.1:80".to_owned(),
            health: 9,
            state: 1,
            ..Default::default()
        };
        let wrong = report::BackendStatus::from_pb(backend.clone(), "").unwrap_err();
        insta::assert_snapshot!(wrong, @"BackendStatus.health: 9 is no Health");
        let wrong = report::BackendStatus::from_pb(pb::BackendStatus { health: 0, ..backend.clone() }, "")
            .unwrap_err();
        insta::assert_snapshot!(wrong, @"BackendStatus.health: 0 is no Health");
        let wrong = pb::BackendStatus { health: 1, address: "web".to_owned(), ..backend };
        assert_eq!(report::BackendStatus::from_pb(wrong, "").unwrap_err().field, "BackendStatus.address");
    }

    #[test]
    fn a_missing_part_is_an_error_and_not_zero() {
        let wrong = report::Status::from_pb(pb::Status::default(), "").unwrap_err();
        insta::assert_snapshot!(wrong, @"Status.flow_table: it is missing");
    }
}
