//! Names, help and labels of the metrics: a snapshot as OpenMetrics text.
//!
//! Labels are what the configuration names (services, versions, backends), the reasons of the program and a few fixed words:
//! nothing that clients or time make more of.

use std::borrow::Cow;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::process::Process;
use crate::desired::AttachMode;
use crate::report::{
    BackendState, BackendStatus, CohortStatus, Health, Quota, ServiceCounters, ServiceStatus, Snapshot,
    SnatStatus, Status, VersionStatus,
};
use crate::rollout::report::RolloutReport;

/// Content type of what [`encode`] makes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How much of a snapshot is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Everything.
    Backends,
    /// Without the families of single backends, which are nearly all samples where there are many.
    Versions,
}

/// The snapshot as OpenMetrics text, `# EOF` included.
///
/// # Errors
/// None that is known; the encoder's signature allows one.
pub fn encode(snapshot: Snapshot, detail: Detail) -> Result<String, fmt::Error> {
    // A collector and not registered counters: the totals are the kernel's, and outlive the agent.
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(snapshot, Process::now(), detail)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Families(Snapshot, Process, Detail);

/// One sample's labels, in order.
pub(super) type Labels<'a> = Vec<(&'static str, Cow<'a, str>)>;

/// One family: its samples share name, help and type.
pub(super) struct Family {
    /// Without unit and suffix.
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) unit: Option<Unit>,
}

pub(super) const fn family(name: &'static str, help: &'static str) -> Family {
    Family { name, help, unit: None }
}

impl Family {
    fn in_bytes(mut self) -> Family {
        self.unit = Some(Unit::Bytes);
        self
    }

    fn in_seconds(mut self) -> Family {
        self.unit = Some(Unit::Seconds);
        self
    }

    /// The library's own unit is called `ratios`; the convention says `_ratio`.
    fn in_ratio(mut self) -> Family {
        self.unit = Some(Unit::Other("ratio".into()));
        self
    }
}

/// 1 or 0.
fn truth(is: bool) -> f64 {
    f64::from(u8::from(is))
}

impl Collector for Families {
    fn encode(&self, mut to: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Snapshot { status, rollouts, .. } = &self.0;
        encode_build(&mut to, &status.build)?;
        encode_services(&mut to, &status.services)?;
        encode_versions(&mut to, &status.services)?;
        super::signals::encode(&mut to, &status.services)?;
        if self.2 == Detail::Backends {
            encode_backends(&mut to, &status.services)?;
        }
        encode_rollouts(&mut to, rollouts)?;
        encode_table(&mut to, status)?;
        encode_snat(&mut to, &status.snat)?;
        counters(
            &mut to,
            family("zdd_packets", "Packets seen, each counted under the one reason it ended with."),
            status
                .reasons
                .iter()
                .map(|(reason, packets)| (vec![("reason", reason.as_str().into())], *packets)),
        )?;
        counters(
            &mut to,
            family("zdd_probes", "Health checks that were made since the agent began."),
            [(vec![], status.probes)],
        )?;
        counters(
            &mut to,
            family("zdd_probes_late", "Health checks that had to wait for the probe budget."),
            [(vec![], status.probes_late)],
        )?;
        gauges(
            &mut to,
            family("zdd_interface_attached", "1 while the program is attached to the interface."),
            status.interfaces.iter().map(|row| {
                let mode = match row.mode {
                    AttachMode::Native => "native",
                    AttachMode::Generic => "generic",
                };
                (vec![("interface", row.name.as_str().into()), ("mode", mode.into())], truth(row.attached))
            }),
        )?;
        encode_process(&mut to, &self.1)
    }
}

fn encode_snat(to: &mut DescriptorEncoder, snat: &[SnatStatus]) -> Result<(), fmt::Error> {
    fn family_of(row: &SnatStatus) -> &'static str {
        if row.sources.iter().any(|source| source.contains(':')) { "ipv6" } else { "ipv4" }
    }
    gauges(
        to,
        family("zdd_snat_ports", "Ports of ours that snat has given to flows, by state."),
        snat.iter().flat_map(|row| {
            [("live", row.live), ("ended", row.finished)].map(|(state, n)| {
                (vec![("family", family_of(row).into()), ("state", state.into())], n as f64)
            })
        }),
    )?;
    gauges(
        to,
        family("zdd_snat_capacity", "Flows that snat can map at a time."),
        snat.iter().map(|row| (vec![("family", family_of(row).into())], row.capacity as f64)),
    )
}

fn encode_build(to: &mut DescriptorEncoder, build: &str) -> Result<(), fmt::Error> {
    to.encode_descriptor("zdd_build", "The build that runs.", None, MetricType::Info)?
        .encode_info(&[("build", build)])
}

fn of_cohort<'a>(service: &'a ServiceStatus, cohort: &'a CohortStatus) -> Labels<'a> {
    vec![("service", service.name.as_str().into()), ("cohort", cohort.name.as_str().into())]
}

fn encode_services(to: &mut DescriptorEncoder, services: &[ServiceStatus]) -> Result<(), fmt::Error> {
    fn rows<T>(
        services: &[ServiceStatus],
        value: fn(&ServiceStatus) -> T,
    ) -> impl Iterator<Item = (Labels<'_>, T)> {
        services.iter().map(move |row| (vec![("service", row.name.as_str().into())], value(row)))
    }
    counters(
        to,
        family("zdd_service_packets", "Packets steered."),
        rows(services, |row| row.counters.packets),
    )?;
    counters(
        to,
        family("zdd_service", "Bytes steered.").in_bytes(),
        rows(services, |row| row.counters.bytes),
    )?;
    counters(to, family("zdd_new_flows", "Flows that began."), rows(services, |row| row.counters.new_flows))?;
    counters(
        to,
        family("zdd_learned_flows", "Flows remembered in the middle of their life."),
        rows(services, |row| row.counters.learned),
    )?;
    counters(
        to,
        family("zdd_insert_failures", "Flows that could not be remembered."),
        rows(services, |row| row.counters.insert_failed),
    )?;
    counters(
        to,
        family("zdd_service_fallback_packets", "Packets of flows that could not be remembered."),
        rows(services, |row| row.counters.fallback),
    )?;
    counters(
        to,
        family("zdd_service_refused_packets", "Packets dropped: denied, over a limit, or no backend at all."),
        services.iter().flat_map(|row| {
            let ServiceCounters { denied, limited, no_backend, .. } = row.counters;
            [("denied", denied), ("limited", limited), ("no_backend", no_backend)].map(|(why, packets)| {
                (vec![("service", row.name.as_str().into()), ("why", why.into())], packets)
            })
        }),
    )?;
    gauges(
        to,
        family("zdd_service_access_prefixes", "Prefixes of sources that may dial, and that may not."),
        services.iter().flat_map(|row| {
            let lists = row.access.map(|access| [("allow", access.allow), ("deny", access.deny)]);
            lists.into_iter().flatten().map(|(list, prefixes)| {
                (vec![("service", row.name.as_str().into()), ("list", list.into())], prefixes as f64)
            })
        }),
    )?;
    gauges(
        to,
        family("zdd_service_new_per_source_limit", "New connections a second that one source may open."),
        services.iter().filter_map(|row| {
            Some((vec![("service", row.name.as_str().into())], f64::from(row.new_per_source?.rate)))
        }),
    )?;
    counters(
        to,
        family("zdd_cohort_new_flows", "Flows that began, of a cohort's clients."),
        services
            .iter()
            .flat_map(|row| row.cohorts.iter().map(move |cohort| (of_cohort(row, cohort), cohort.new_flows))),
    )?;
    gauges(
        to,
        family("zdd_cohort_prefixes", "Prefixes of a cohort that are in force."),
        services.iter().flat_map(|row| {
            row.cohorts.iter().map(move |cohort| (of_cohort(row, cohort), f64::from(cohort.prefixes)))
        }),
    )?;
    gauges(
        to,
        family(
            "zdd_cohort_leads",
            "1 while all new flows of a cohort go to the candidate, whatever the weights.",
        ),
        services.iter().flat_map(|row| {
            row.cohorts.iter().map(move |cohort| (of_cohort(row, cohort), truth(cohort.version.is_some())))
        }),
    )?;
    gauges(
        to,
        family("zdd_preview", "1 for the version that new flows of the preview VIPs go to."),
        services.iter().flat_map(|row| {
            row.versions.iter().filter_map(move |version| {
                let leads = row.preview.as_ref()?.version.as_ref() == Some(&version.name);
                let labels =
                    vec![("service", row.name.as_str().into()), ("version", version.name.as_str().into())];
                Some((labels, truth(leads)))
            })
        }),
    )?;
    gauges(
        to,
        family("zdd_dirty_cells", "Cells that are not settled after a change."),
        rows(services, |row| f64::from(row.dirty_cells)),
    )?;
    gauges(
        to,
        family("zdd_service_generation", "Number of the committed state; it grows with every commit."),
        rows(services, |row| row.generation as f64),
    )?;
    gauges(
        to,
        family("zdd_service_alarm", "1 while the service needs somebody's attention; `zdd status` says why."),
        rows(services, |row| truth(row.alarm.is_some())),
    )
}

fn encode_versions(to: &mut DescriptorEncoder, services: &[ServiceStatus]) -> Result<(), fmt::Error> {
    fn rows(
        services: &[ServiceStatus],
        value: fn(&VersionStatus) -> f64,
    ) -> impl Iterator<Item = (Labels<'_>, f64)> {
        services
            .iter()
            .flat_map(move |service| service.versions.iter().map(move |row| (of(service, row), value(row))))
    }
    gauges(
        to,
        family("zdd_version_share", "Share of new flows that the table gives the version.").in_ratio(),
        rows(services, |row| row.share),
    )?;
    gauges(
        to,
        family("zdd_version_asked", "Share of new flows that was asked for the version.").in_ratio(),
        rows(services, |row| row.asked),
    )?;
    let mut new_flows = Vec::new();
    for service in services {
        new_flows.extend(service.versions.iter().map(|row| (of(service, row), row.new_flows)));
    }
    counters(
        to,
        family("zdd_version_new_flows", "Flows that began on the version, also on backends that are gone."),
        new_flows,
    )?;
    gauges(
        to,
        family("zdd_version_flows", "Remembered flows of the version; none when it is settled."),
        rows(services, |row| row.flows as f64),
    )?;
    gauges(
        to,
        family("zdd_version_draining", "1 while the version takes no new flows until undrained."),
        rows(services, |row| truth(row.draining)),
    )
}

/// The labels of a version.
fn of<'a>(service: &'a ServiceStatus, version: &'a VersionStatus) -> Labels<'a> {
    vec![("service", service.name.as_str().into()), ("version", version.name.as_str().into())]
}

fn encode_backends(to: &mut DescriptorEncoder, services: &[ServiceStatus]) -> Result<(), fmt::Error> {
    fn rows<T>(
        services: &[ServiceStatus],
        value: fn(&BackendStatus) -> T,
    ) -> impl Iterator<Item = (Labels<'_>, T)> {
        services.iter().flat_map(move |service| {
            service.versions.iter().flat_map(move |version| {
                version.backends.iter().map(move |row| {
                    let mut labels = of(service, version);
                    labels.push(("backend", row.address.to_string().into()));
                    (labels, value(row))
                })
            })
        })
    }
    gauges(
        to,
        family("zdd_backend_healthy", "1 while no probe says otherwise."),
        rows(services, |row| truth(row.health != Health::Unhealthy)),
    )?;
    gauges(
        to,
        family("zdd_backend_draining", "1 while the backend keeps its flows and takes no new ones."),
        rows(services, |row| truth(row.state != BackendState::Active)),
    )?;
    gauges(
        to,
        family("zdd_backend_flows", "Remembered flows of the backend; none when it is settled."),
        rows(services, |row| row.flows as f64),
    )?;
    counters(
        to,
        family("zdd_backend_packets", "Packets sent to the backend."),
        rows(services, |row| row.packets),
    )?;
    counters(
        to,
        family("zdd_backend", "Bytes sent to the backend.").in_bytes(),
        rows(services, |row| row.bytes),
    )?;
    counters(
        to,
        family("zdd_backend_new_flows", "Flows that began on the backend."),
        rows(services, |row| row.new_flows),
    )
}

/// The rollout under way of each service, or the last one. Its phase is a label with a fixed set of values, each of which has a
/// sample: what alerts are written against is there before it happens.
fn encode_rollouts(to: &mut DescriptorEncoder, rollouts: &[RolloutReport]) -> Result<(), fmt::Error> {
    fn of(row: &RolloutReport) -> Labels<'_> {
        vec![("service", row.service.as_str().into())]
    }
    let mut phases = Vec::new();
    for row in rollouts {
        for phase in ["running", "frozen", "rolling-back", "promoted", "rolled-back"] {
            let mut labels = of(row);
            labels.push(("phase", phase.into()));
            phases.push((labels, truth(row.phase == phase)));
        }
    }
    gauges(
        to,
        family("zdd_rollout_phase", "1 for the phase of the rollout under way, or of the last one."),
        phases,
    )?;
    gauges(
        to,
        family("zdd_rollout_weight", "Share of new flows that the rollout last gave its candidate.")
            .in_ratio(),
        rollouts.iter().map(|row| (of(row), row.weight)),
    )?;
    gauges(
        to,
        family("zdd_rollout_held", "1 while somebody holds the rollout: paused, or its gate is closed."),
        rollouts.iter().map(|row| (of(row), truth(!row.over() && (row.paused.is_some() || row.gate_closed)))),
    )
}

fn encode_table(to: &mut DescriptorEncoder, status: &Status) -> Result<(), fmt::Error> {
    let flows = &status.flow_table;
    gauges(
        to,
        family("zdd_flow_entries", "Remembered flows by state."),
        [("half_open", flows.half), ("established", flows.established), ("dead", flows.dead)]
            .map(|(state, n)| (vec![("state", state.into())], n as f64)),
    )?;
    gauges(
        to,
        family("zdd_flow_capacity", "Flows that can be remembered."),
        [(vec![], flows.capacity as f64)],
    )?;
    let quotas = &flows.quotas;
    let quota = |value: fn(&Quota) -> u64| {
        [("half_open", quotas.half), ("learned", quotas.learned), ("promoted", quotas.promoted)]
            .map(|(class, quota)| (vec![("class", class.into())], value(&quota) as f64))
    };
    gauges(
        to,
        family("zdd_flow_quota_used", "Entries in use by class of the flow table."),
        quota(|quota| quota.used),
    )?;
    gauges(
        to,
        family("zdd_flow_quota_limit", "Entries allowed by class of the flow table."),
        quota(|quota| quota.limit),
    )?;
    gauges(
        to,
        family("zdd_syn_filter_fill", "Fill of the SYN filter, 0 to 1.").in_ratio(),
        [(vec![], status.syn_filter.fill)],
    )
}

fn encode_process(to: &mut DescriptorEncoder, process: &Process) -> Result<(), fmt::Error> {
    to.encode_descriptor(
        "process_cpu",
        "User and system time of the agent.",
        Some(&Unit::Seconds),
        MetricType::Counter,
    )?
    .encode_counter::<NoLabelSet, f64, u64>(&process.cpu_seconds, None)?;
    gauges(
        to,
        family("process_resident_memory", "Memory of the agent that is in RAM.").in_bytes(),
        [(vec![], process.resident_bytes as f64)],
    )?;
    gauges(
        to,
        family("process_open_fds", "Descriptors that the agent has open."),
        [(vec![], process.open_fds as f64)],
    )?;
    gauges(
        to,
        family("process_start_time", "When the agent began, since 1970.").in_seconds(),
        [(vec![], process.start_seconds)],
    )
}

/// Writes a counter family; `_total` is the encoder's. A family without samples is left out.
pub(super) fn counters<'a>(
    to: &mut DescriptorEncoder,
    family: Family,
    rows: impl IntoIterator<Item = (Labels<'a>, u64)>,
) -> Result<(), fmt::Error> {
    let mut rows = rows.into_iter().peekable();
    if rows.peek().is_none() {
        return Ok(());
    }
    let mut metric =
        to.encode_descriptor(family.name, family.help, family.unit.as_ref(), MetricType::Counter)?;
    for (labels, value) in rows {
        // A sample without labels is written without braces.
        if labels.is_empty() {
            metric.encode_counter::<NoLabelSet, u64, u64>(&value, None)?;
        } else {
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&value, None)?;
        }
    }
    Ok(())
}

/// Writes a gauge family. A family without samples is left out.
pub(super) fn gauges<'a>(
    to: &mut DescriptorEncoder,
    family: Family,
    rows: impl IntoIterator<Item = (Labels<'a>, f64)>,
) -> Result<(), fmt::Error> {
    let mut rows = rows.into_iter().peekable();
    if rows.peek().is_none() {
        return Ok(());
    }
    let mut metric =
        to.encode_descriptor(family.name, family.help, family.unit.as_ref(), MetricType::Gauge)?;
    for (labels, value) in rows {
        // A sample without labels is written without braces.
        if labels.is_empty() {
            metric.encode_gauge(&value)?;
        } else {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
    }
    Ok(())
}
