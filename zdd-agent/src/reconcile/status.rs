//! Everything at this moment, for people and metrics.

use std::collections::HashMap;
use std::time::Duration;

use zdd_common::maps::{Counters, Refusals};
use zdd_common::reason::REASONS;

use super::Reconciler;
use super::service::{self, Service};
use crate::desired::{FULL, Forward, VersionSpec};
use crate::health::Health;
use crate::report::{
    self, AccessStatus, BackendState, BackendStatus, FlowTableStatus, InterfaceStatus, NewPerSourceStatus,
    PreviewStatus, Quota, Quotas, Role, ServiceCounters, ServiceStatus, Status, SynFilterStatus,
    VersionStatus,
};
use crate::state::{SavedBackend, SavedService};

/// Version of this build.
pub const BUILD: &str = env!("CARGO_PKG_VERSION");

impl Reconciler {
    pub(super) fn snapshot(&self) -> report::Snapshot {
        let rollouts = self.services.iter().filter_map(|service| {
            let saved = service.saved.rollouts.current.as_ref()?;
            Some(crate::rollout::report::report(service.name(), saved))
        });
        report::Snapshot {
            unix_ms: super::drains::unix_ms(),
            rollouts: rollouts.collect(),
            status: self.status(),
        }
    }

    pub(super) fn splits(&self) -> report::Splits {
        let counters = self.backend_counters();
        let services = self.services.iter().map(|service| {
            let departed = departed(&service.saved);
            let versions = service.saved.spec.versions.iter().chain(&departed);
            let split = |version: &VersionSpec| {
                let name = version.name.as_str();
                let new_flows = version_counters(service, name, &counters).new_flows;
                (name.to_owned(), asked(version), service.share(&service.ids_of(name)), new_flows)
            };
            (service.name().to_owned(), versions.map(split).collect())
        });
        report::Splits { unix_ms: super::drains::unix_ms(), services: services.collect() }
    }

    fn backend_counters(&self) -> Vec<Counters> {
        self.dataplane.all_backend_counters().unwrap_or_else(|error| {
            tracing::error!("{error}");
            Vec::new()
        })
    }

    pub(super) fn status(&self) -> Status {
        let quotas = self.dataplane.quotas();
        let quota = |class: usize| Quota { used: quotas.used[class], limit: quotas.limit[class] };
        let totals = self.totals;
        let (bytes, fill) = self.dataplane.filter_fill();
        let reasons = self.dataplane.reasons().unwrap_or_else(|error| {
            tracing::error!("{error}");
            vec![0; REASONS.len()]
        });
        let counters = self.backend_counters();
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
        let probes = self.checker.counts();
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
            snat: self.snat_status(),
            reasons: REASONS.iter().zip(reasons).map(|(reason, n)| (reason.name().to_owned(), n)).collect(),
            interfaces,
            probes: probes.0,
            probes_late: probes.1,
        }
    }

    fn service_status(&self, service: &Service, counters_of: &[Counters]) -> ServiceStatus {
        let spec = &service.saved.spec;
        let counters =
            Counters::sum(service.faces.iter().map(|face| self.dataplane.service_counters(face.at.id)));
        let refused = Refusals::sum(service.faces.iter().map(|face| self.dataplane.refusals(face.at.id)));
        let fails = service.faces.iter().map(|face| self.dataplane.facts(face.at.id).fails).sum();
        let departed = departed(&service.saved);
        let versions: Vec<VersionStatus> = spec
            .versions
            .iter()
            .chain(&departed)
            .enumerate()
            .map(|(place, version)| self.version_status(service, version, place == 0, counters_of))
            .collect();
        let mut notes = service.notes.clone();
        notes.extend(elsewhere(service));
        notes.extend(self.unremembered(service));
        let mapped = |v: &VersionSpec| v.forward.unwrap_or(spec.forward) == Forward::Snat;
        if service.maps() || spec.versions.iter().any(mapped) {
            notes.extend(self.starved());
        }
        if let Some(why) = service.members_wait().filter(|_| spec.cohorts.is_empty()) {
            notes.push(format!(
                "clients of cohorts that are not in the configuration any more keep their cells: {why}"
            ));
        }
        if let Some(why) = &self.line_stopped {
            notes.push(format!(
                "the line is stopped ({why}), no rollout takes a step up: `zdd rollout release-the-line`"
            ));
        }
        if let Some(rollout) = service.saved.rollouts.active() {
            let (plan, progress) = (&rollout.plan, &rollout.progress);
            notes.push(format!(
                "rollout {} of {} is {} at {}: `zdd rollout status {}`",
                plan.id,
                plan.candidate,
                if progress.held() { "held" } else { progress.phase.name() },
                crate::text::percent(progress.weight),
                spec.name
            ));
        }
        let given_up = service.saved.backends.iter().filter(|b| service.given_up.contains(&b.id));
        notes.extend(given_up.map(|b| {
            format!(
                "{} has failed its checks for longer than udp_idle_timeout: its UDP flows were let go",
                b.address
            )
        }));
        ServiceStatus {
            name: spec.name.clone(),
            vip: spec.vips.first().map(ToString::to_string).unwrap_or_default(),
            vips: spec.vips.iter().map(ToString::to_string).collect(),
            affinity: spec.affinity,
            forward: spec.forward,
            generation: service.generation(),
            cells: spec.cells * service.faces.len() as u32,
            groups: service::groups(spec),
            dirty_cells: service.dirty_cells(),
            alarm: service.alarm(),
            notes,
            counters: ServiceCounters {
                packets: counters.packets,
                bytes: counters.bytes,
                new_flows: counters.new_flows,
                learned: counters.learned,
                insert_failed: fails,
                fallback: counters.fallback,
                denied: refused.denied,
                limited: refused.limited,
                no_backend: refused.no_backend,
            },
            cohorts: service.cohort_status(&self.dataplane),
            preview: preview(service),
            access: (!spec.access.open()).then_some(AccessStatus {
                allow: spec.access.allow.len() as u64,
                deny: spec.access.deny.len() as u64,
            }),
            new_per_source: spec
                .new_per_source
                .map(|limit| NewPerSourceStatus { rate: limit.rate, burst: limit.burst }),
            versions,
        }
    }

    /// A note while flows that could not be remembered keep the service from settling.
    fn unremembered(&self, service: &Service) -> Option<String> {
        let last = service.faces.iter().map(|face| self.dataplane.facts(face.at.id).last_fail).max()?;
        let ago = Duration::from_nanos(crate::clock::now_ns().saturating_sub(last));
        let for_ns = service.times.idle.max(service.times.udp_idle);
        if last == 0 || service.dirty_cells() == 0 || ago > Duration::from_nanos(for_ns) {
            return None;
        }
        let quotas = self.dataplane.quotas();
        let used = ["half-open", "learned", "confirmed"].iter().zip(quotas.used.iter().zip(quotas.limit));
        let used: Vec<String> = used.map(|(name, (used, limit))| format!("{name} {used}/{limit}")).collect();
        Some(format!(
            "flows could not be remembered, the last one {} s ago ({}): new flows of cells that are not settled stay at \
             their base meanwhile, none breaks; a flood, or raise agent.limits.flows",
            ago.as_secs(),
            used.join(", ")
        ))
    }

    fn version_status(
        &self,
        service: &Service,
        version: &VersionSpec,
        stable: bool,
        counters_of: &[Counters],
    ) -> VersionStatus {
        let name = version.name.as_str();
        let members: Vec<&SavedBackend> =
            service.saved.backends.iter().filter(|b| b.version == name).collect();
        let of = |b: &SavedBackend| counters_of.get(usize::from(b.id)).copied().unwrap_or_default();
        let weights: HashMap<_, _> = version.backends.iter().map(|b| (b.address, b.weight)).collect();
        let backend = |b: &&SavedBackend| {
            let weight = weights.get(&b.address).copied().unwrap_or(0);
            self.backend_status(service, b, weight, of(b))
        };
        let backends: Vec<BackendStatus> = members.iter().map(backend).collect();
        let total = version_counters(service, name, counters_of);
        VersionStatus {
            name: name.to_owned(),
            role: if stable { Role::Stable } else { Role::Candidate },
            asked: asked(version),
            share: service.share(&service.ids_of(name)),
            draining: service.saved.draining.iter().any(|drain| drain.version == name)
                || service.saved.spec.versions.iter().all(|version| version.name != name),
            flows: backends.iter().map(|b| b.flows).sum(),
            new_flows: total.new_flows,
            packets: total.packets,
            bytes: total.bytes,
            signals: self.signals_status(service, name),
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
        let failure = self.checker.status(&(spec.name.clone(), backend.address));
        let failure = failure.and_then(|status| status.last_failure);
        let told = service.depends.get(&backend.address).map_or(&[][..], Vec::as_slice);
        let depends = told.iter().map(|state| report::DependencyStatus {
            name: state.name.clone(),
            well: state.well,
            said: state.said.clone(),
            shared: state.shared,
        });
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
            last_failure_ms_ago: failure.as_ref().map(|(_, ago)| ago.as_millis() as u64),
            last_failure: failure.map(|(why, _)| why),
            depends: depends.collect(),
        }
    }
}

fn asked(version: &VersionSpec) -> f64 {
    f64::from(version.weight) / f64::from(FULL)
}

/// What a version's backends have counted, those that are gone included.
fn version_counters(service: &Service, name: &str, counters_of: &[Counters]) -> Counters {
    let members = service.saved.backends.iter().filter(|b| b.version == name);
    let each = members.map(|b| counters_of.get(usize::from(b.id)).copied().unwrap_or_default());
    let retired = service.saved.retired.get(name).copied().unwrap_or_default().counters();
    Counters::sum(each.chain([retired]))
}

/// Its preview VIPs, and where they lead.
fn preview(service: &Service) -> Option<PreviewStatus> {
    let mut faces = service.faces.iter().filter(|face| face.at.preview).peekable();
    let slot = service.preview_slot(faces.peek()?);
    let (vips, alarms): (Vec<String>, Vec<Option<String>>) =
        faces.map(|face| (face.at.vip.to_string(), face.alarm.clone())).unzip();
    Some(PreviewStatus {
        vips,
        version: slot.and_then(|slot| service.saved.slots.get(slot)).cloned(),
        alarm: alarms.into_iter().flatten().next(),
    })
}

/// A note for each version whose share others take, because it has no backend that can.
fn elsewhere(service: &Service) -> Vec<String> {
    let spec = &service.saved.spec;
    let groups = f64::from(service::groups(spec));
    let mut notes = Vec::new();
    for face in service.mains() {
        let takes = |version: &str| {
            let ids = service.ids_of(version);
            ids.iter().any(|id| face.held(*id) > 0)
        };
        let taker = spec.versions.iter().find(|v| takes(&v.name)).map_or("nobody", |v| v.name.as_str());
        let family =
            if service.mains().count() > 1 { format!("{} ", face.at.vip.family()) } else { String::new() };
        for version in &spec.versions {
            let asked = f64::from(version.weight) / f64::from(FULL);
            if asked * groups >= 1.0 && !takes(&version.name) {
                notes.push(format!(
                    "{} has no healthy {family}backend that takes new flows: its {:.2}% {family}go to {taker}",
                    version.name,
                    asked * 100.0
                ));
            }
        }
    }
    notes
}

/// Versions that are in no configuration any more and still have backends with a number: connections may live there, so whoever
/// wants to stop them must see them.
fn departed(saved: &SavedService) -> Vec<VersionSpec> {
    let mut all: Vec<VersionSpec> = Vec::new();
    for backend in &saved.backends {
        let known = |versions: &[VersionSpec]| versions.iter().any(|v| v.name == backend.version);
        if !known(&saved.spec.versions) && !known(&all) {
            all.push(VersionSpec {
                name: backend.version.clone(),
                weight: 0,
                forward: None,
                backends: Vec::new(),
            });
        }
    }
    all
}
