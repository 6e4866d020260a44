//! Names, help and labels of the metrics: a snapshot as OpenMetrics text.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::snapshot::{BackendMetrics, MetricsSnapshot, ServiceMetrics, VersionMetrics};

/// Content type of what [`encode`] makes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The snapshot as OpenMetrics text, `# EOF` included.
///
/// # Errors
/// None that is known; the encoder's signature allows one.
pub fn encode(snapshot: MetricsSnapshot) -> Result<String, fmt::Error> {
    // A collector and not registered counters: the totals are the kernel's, and outlive the agent.
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(snapshot)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Families(MetricsSnapshot);

/// One sample's labels, in order.
type Labels<'a> = Vec<(&'static str, &'a str)>;

/// One family: its samples share name, help and type.
struct Family {
    /// Without unit and suffix.
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
}

const fn family(name: &'static str, help: &'static str) -> Family {
    Family { name, help, unit: None }
}

impl Family {
    fn in_bytes(mut self) -> Family {
        self.unit = Some(Unit::Bytes);
        self
    }

    /// The library's own unit is called `ratios`; the convention says `_ratio`.
    fn in_ratio(mut self) -> Family {
        self.unit = Some(Unit::Other("ratio".into()));
        self
    }
}

impl Collector for Families {
    fn encode(&self, mut to: DescriptorEncoder) -> Result<(), fmt::Error> {
        let MetricsSnapshot { build, services, flows, snat, syn_filter_fill, packets, interfaces } = &self.0;
        encode_build(&mut to, build)?;
        encode_services(&mut to, services)?;
        encode_versions(&mut to, services)?;
        encode_backends(&mut to, services)?;
        gauges(
            &mut to,
            family("zdd_flow_entries", "Remembered flows by state."),
            flows.entries.iter().map(|(state, n)| (vec![("state", state.as_str())], *n as f64)),
        )?;
        gauges(
            &mut to,
            family("zdd_flow_capacity", "Flows that can be remembered."),
            [(vec![], flows.capacity as f64)],
        )?;
        gauges(
            &mut to,
            family("zdd_snat_ports", "Ports of ours that snat has given to flows, by state."),
            snat.iter().flat_map(|row| {
                [("live", row.live), ("ended", row.finished)]
                    .map(|(state, n)| (vec![("family", row.family), ("state", state)], n as f64))
            }),
        )?;
        gauges(
            &mut to,
            family("zdd_snat_capacity", "Flows that snat can map at a time."),
            snat.iter().map(|row| (vec![("family", row.family)], row.capacity as f64)),
        )?;
        gauges(
            &mut to,
            family("zdd_syn_filter_fill", "Fill of the SYN filter, 0 to 1.").in_ratio(),
            [(vec![], *syn_filter_fill)],
        )?;
        counters(
            &mut to,
            family("zdd_packets", "Packets seen, each counted under the one reason it ended with."),
            packets.iter().map(|row| (vec![("reason", row.reason.as_str())], row.packets)),
        )?;
        gauges(
            &mut to,
            family("zdd_interface_attached", "1 while the program is attached to the interface."),
            interfaces.iter().map(|row| {
                let labels = vec![("interface", row.interface.as_str()), ("mode", row.mode.as_str())];
                (labels, f64::from(u8::from(row.attached)))
            }),
        )
    }
}

fn encode_build(to: &mut DescriptorEncoder, build: &str) -> Result<(), fmt::Error> {
    to.encode_descriptor("zdd_build", "The build that runs.", None, MetricType::Info)?
        .encode_info(&[("build", build)])
}

fn encode_services(to: &mut DescriptorEncoder, services: &[ServiceMetrics]) -> Result<(), fmt::Error> {
    fn rows(
        services: &[ServiceMetrics],
        value: fn(&ServiceMetrics) -> u64,
    ) -> impl Iterator<Item = (Labels<'_>, u64)> {
        services.iter().map(move |row| (vec![("service", row.service.as_str())], value(row)))
    }
    counters(to, family("zdd_service_packets", "Packets steered."), rows(services, |row| row.packets))?;
    counters(to, family("zdd_service", "Bytes steered.").in_bytes(), rows(services, |row| row.bytes))?;
    counters(to, family("zdd_new_flows", "Flows that began."), rows(services, |row| row.new_flows))?;
    counters(
        to,
        family("zdd_learned_flows", "Flows remembered in the middle of their life."),
        rows(services, |row| row.learned_flows),
    )?;
    counters(
        to,
        family("zdd_insert_failures", "Flows that could not be remembered."),
        rows(services, |row| row.insert_failures),
    )?;
    gauges(
        to,
        family("zdd_dirty_cells", "Cells that are not settled after a change."),
        rows(services, |row| row.dirty_cells).map(|(labels, n)| (labels, n as f64)),
    )
}

fn encode_versions(to: &mut DescriptorEncoder, services: &[ServiceMetrics]) -> Result<(), fmt::Error> {
    fn rows(
        services: &[ServiceMetrics],
        value: fn(&VersionMetrics) -> f64,
    ) -> impl Iterator<Item = (Labels<'_>, f64)> {
        services.iter().flat_map(move |service| {
            service.versions.iter().map(move |row| {
                (vec![("service", service.service.as_str()), ("version", row.version.as_str())], value(row))
            })
        })
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
    )
}

fn encode_backends(to: &mut DescriptorEncoder, services: &[ServiceMetrics]) -> Result<(), fmt::Error> {
    fn rows(
        services: &[ServiceMetrics],
        value: fn(&BackendMetrics) -> u64,
    ) -> impl Iterator<Item = (Labels<'_>, u64)> {
        services.iter().flat_map(move |service| {
            service.versions.iter().flat_map(move |version| {
                version.backends.iter().map(move |row| {
                    let labels = vec![
                        ("service", service.service.as_str()),
                        ("version", version.version.as_str()),
                        ("backend", row.backend.as_str()),
                    ];
                    (labels, value(row))
                })
            })
        })
    }
    gauges(
        to,
        family("zdd_backend_healthy", "1 while the backend is healthy."),
        rows(services, |row| row.healthy.into()).map(|(labels, n)| (labels, n as f64)),
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

/// Writes a counter family; `_total` is the encoder's. A family without samples is left out.
fn counters<'a>(
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
        metric.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&value, None)?;
    }
    Ok(())
}

/// Writes a gauge family. A family without samples is left out.
fn gauges<'a>(
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
