//! Everything at this moment, for people and metrics.

use std::collections::HashMap;

use zdd_common::maps::Counters;
use zdd_common::reason::REASONS;

use super::Reconciler;
use super::service::{self, Service};
use crate::desired::{FULL, VersionSpec};
use crate::health::Health;
use crate::report::{
    self, BackendState, BackendStatus, FlowTableStatus, InterfaceStatus, Quota, Quotas, Role,
    ServiceCounters, ServiceStatus, Status, SynFilterStatus, VersionStatus,
};
use crate::state::SavedBackend;

/// Version of this build.
pub const BUILD: &str = env!("CARGO_PKG_VERSION");

impl Reconciler {
    pub(super) fn status(&self) -> Status {
        let quotas = self.dataplane.quotas();
        let quota = |class: usize| Quota { used: quotas.used[class], limit: quotas.limit[class] };
        let totals = self.totals;
        let (bytes, fill) = self.dataplane.filter_fill();
        let reasons = self.dataplane.reasons();
        let counters = self.dataplane.all_backend_counters().unwrap_or_else(|error| {
            tracing::error!("{error}");
            Vec::new()
        });
        let mut interfaces: Vec<InterfaceStatus> = self
            .interfaces
            .iter()
            .map(|(index, interface)| InterfaceStatus {
                name: interface.name.clone(),
                index: *index,
                mode: self.desired.agent.mode,
                attached: interface.attached,
                note: interface.note.clone(),
            })
            .collect();
        interfaces.sort_by(|a, b| a.name.cmp(&b.name));
        Status {
            build: BUILD.to_owned(),
            pid: std::process::id(),
            services: self.services.iter().map(|service| self.service_status(service, &counters)).collect(),
            flow_table: FlowTableStatus {
                capacity: self.dataplane.flow_capacity(),
                entries: totals.half + totals.established + totals.dead,
                half: totals.half,
                established: totals.established,
                dead: totals.dead,
                quotas: Quotas { half: quota(0), learned: quota(1), promoted: quota(2) },
            },
            syn_filter: SynFilterStatus { bytes, fill },
            reasons: REASONS.iter().zip(reasons).map(|(reason, n)| (reason.name().to_owned(), n)).collect(),
            interfaces,
        }
    }

    fn service_status(&self, service: &Service, counters_of: &[Counters]) -> ServiceStatus {
        let spec = &service.saved.spec;
        let counters = self.dataplane.service_counters(service.saved.id);
        let versions: Vec<VersionStatus> = spec
            .versions
            .iter()
            .enumerate()
            .map(|(place, version)| self.version_status(service, version, place == 0, counters_of))
            .collect();
        let mut notes = service.notes.clone();
        notes.extend(elsewhere(&versions, service::groups(spec)));
        ServiceStatus {
            name: spec.name.clone(),
            vip: spec.vip.to_string(),
            affinity: spec.affinity,
            forward: spec.forward,
            generation: service.generation.into(),
            cells: spec.cells,
            groups: service::groups(spec),
            dirty_cells: service.dirty,
            alarm: service.alarm.clone(),
            notes,
            counters: ServiceCounters {
                packets: counters.packets,
                bytes: counters.bytes,
                new_flows: counters.new_flows,
                learned: counters.learned,
                insert_failed: self.dataplane.facts(service.saved.id).fails,
            },
            versions,
        }
    }

    fn version_status(
        &self,
        service: &Service,
        version: &VersionSpec,
        stable: bool,
        counters_of: &[Counters],
    ) -> VersionStatus {
        let (name, weight) = (version.name.as_str(), version.weight);
        let members: Vec<&SavedBackend> =
            service.saved.backends.iter().filter(|b| b.version == name).collect();
        let of = |b: &SavedBackend| counters_of.get(usize::from(b.id)).copied().unwrap_or_default();
        let weights: HashMap<_, _> = version.backends.iter().map(|b| (b.address, b.weight)).collect();
        let backend = |b: &&SavedBackend| {
            let weight = weights.get(&b.address).copied().unwrap_or(0);
            self.backend_status(service, b, weight, of(b))
        };
        let backends: Vec<BackendStatus> = members.iter().map(backend).collect();
        let retired = service.retired.get(name).copied().unwrap_or_default();
        let counted = members.iter().map(|b| of(b)).chain([retired]);
        let total = Counters::sum(counted);
        VersionStatus {
            name: name.to_owned(),
            role: if stable { Role::Stable } else { Role::Candidate },
            asked: f64::from(weight) / f64::from(FULL),
            share: service.share(&service.ids_of(name)),
            draining: service.saved.draining.iter().any(|drain| drain.version == name),
            flows: backends.iter().map(|b| b.flows).sum(),
            new_flows: total.new_flows,
            packets: total.packets,
            bytes: total.bytes,
            backends,
        }
    }

    fn backend_status(
        &self,
        service: &Service,
        backend: &SavedBackend,
        weight: u32,
        counters: Counters,
    ) -> BackendStatus {
        let spec = &service.saved.spec;
        let known = self.health.get(&(spec.name.clone(), backend.address));
        let (health, reason) = match known {
            Some((Health::Healthy, _)) => (report::Health::Healthy, None),
            Some((Health::Unhealthy, reason)) => (report::Health::Unhealthy, reason.clone()),
            _ => (report::Health::Unknown, spec.health.is_none().then(|| "no health check".to_owned())),
        };
        let state = if backend.removed {
            BackendState::Removed
        } else if service.backend_drains(backend) {
            BackendState::Draining
        } else {
            BackendState::Active
        };
        BackendStatus {
            address: backend.address,
            weight,
            health,
            reason,
            state,
            flows: service.flows.get(&backend.id).copied().unwrap_or(0),
            packets: counters.packets,
            bytes: counters.bytes,
            new_flows: counters.new_flows,
            next_hop: self
                .hops
                .get(&backend.address.ip())
                .map_or_else(|| "unresolved: not asked yet".to_owned(), ToString::to_string),
        }
    }
}

/// A note for each version whose share others take, because it has no backend that can.
fn elsewhere(versions: &[VersionStatus], groups: u32) -> Vec<String> {
    let takes_its_share = |v: &&VersionStatus| v.share == 0.0 && v.asked * f64::from(groups) >= 1.0;
    let taker = versions.iter().find(|v| v.share > 0.0).map_or("nobody", |v| v.name.as_str());
    let note = |v: &VersionStatus| {
        let asked = v.asked * 100.0;
        format!("{} has no healthy backend that takes new flows: its {asked:.2}% go to {taker}", v.name)
    };
    versions.iter().filter(takes_its_share).map(note).collect()
}
