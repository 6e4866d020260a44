//! The signals of versions: counters by what happened, resets by side and phase, two histograms.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::families::{Family, Labels, counters, family, gauges};
use crate::report::{ServiceStatus, SignalsStatus, TimesStatus};

type Rows<'a> = Vec<(Labels<'a>, &'a SignalsStatus)>;

pub(super) fn encode(to: &mut DescriptorEncoder, services: &[ServiceStatus]) -> Result<(), fmt::Error> {
    let rows: Rows<'_> = services
        .iter()
        .flat_map(|service| service.versions.iter().map(move |version| (service, version)))
        .filter_map(|(service, version)| {
            let labels =
                vec![("service", service.name.as_str().into()), ("version", version.name.as_str().into())];
            Some((labels, version.signals.as_ref()?))
        })
        .collect();
    let sampled = rows.iter().map(|(labels, of)| (labels.clone(), 1.0 / f64::from(of.one_in.max(1))));
    gauges(
        to,
        family("zdd_version_signal_sample_ratio", "Share of the version's flows that are followed."),
        sampled,
    )?;
    let flows = [
        "new",
        "established",
        "answered",
        "closed",
        "half_open",
        "unfinished",
        "unanswered",
        "silent",
        "syn_retransmitted",
        "evicted",
        "missed",
    ];
    counters(
        to,
        family("zdd_version_signal_flows", "Sampled flows by what happened to them."),
        by_name(&rows, &flows.map(|name| (name, vec![("event", name)]))),
    )?;
    let resets = [
        ("client_reset_handshake", vec![("side", "client"), ("phase", "handshake")]),
        ("client_reset_early", vec![("side", "client"), ("phase", "before_reply")]),
        ("client_reset_late", vec![("side", "client"), ("phase", "after_reply")]),
        ("backend_reset_handshake", vec![("side", "backend"), ("phase", "handshake")]),
        ("backend_reset_early", vec![("side", "backend"), ("phase", "before_reply")]),
        ("backend_reset_late", vec![("side", "backend"), ("phase", "after_reply")]),
    ];
    counters(
        to,
        family("zdd_version_resets", "Sampled flows that were reset, by who did it and when."),
        by_name(&rows, &resets),
    )?;
    let closes = [
        ("client_close_early", vec![("side", "client")]),
        ("backend_close_early", vec![("side", "backend")]),
    ];
    counters(
        to,
        family(
            "zdd_version_early_closes",
            "Sampled flows that were closed without a byte of a reply, by who closed.",
        ),
        by_name(&rows, &closes),
    )?;
    let repeated = [("syn_retransmissions", vec![])];
    counters(
        to,
        family("zdd_version_syn_retransmissions", "Repeated SYNs of sampled flows."),
        by_name(&rows, &repeated),
    )?;
    let ways = [("client_bytes", vec![("side", "client")]), ("backend_bytes", vec![("side", "backend")])];
    let payload = Family {
        name: "zdd_version_signal_payload",
        help: "Payload of sampled flows, by who sent it.",
        unit: Some(Unit::Bytes),
    };
    counters(to, payload, by_name(&rows, &ways))?;
    histogram(to, "zdd_version_handshake", "Handshake times of sampled flows.", &rows, |of| &of.handshake)?;
    let help = "Times of sampled flows from the question to the first byte of its reply.";
    histogram(to, "zdd_version_first_byte", help, &rows, |of| &of.first_byte)
}

/// Those of the named counts that are there, with labels of their own.
fn by_name<'a>(
    rows: &Rows<'a>,
    names: &[(&str, Vec<(&'static str, &'static str)>)],
) -> Vec<(Labels<'a>, u64)> {
    let of = |row: &(Labels<'a>, &'a SignalsStatus)| {
        let found = names.iter().filter_map(|(name, extra)| {
            let n = row.1.counts.get(*name)?;
            let extra = extra.iter().map(|(label, value)| (*label, (*value).into()));
            Some((row.0.iter().cloned().chain(extra).collect(), *n))
        });
        found.collect::<Vec<_>>()
    };
    rows.iter().flat_map(of).collect()
}

fn histogram<'a>(
    to: &mut DescriptorEncoder,
    name: &'static str,
    help: &'static str,
    rows: &Rows<'a>,
    times: fn(&SignalsStatus) -> &TimesStatus,
) -> Result<(), fmt::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut metric = to.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
    for (labels, of) in rows {
        let times = times(of);
        let mut buckets: Vec<(f64, u64)> =
            times.buckets.iter().map(|bucket| (bucket.below_s, bucket.count)).collect();
        let within: u64 = buckets.iter().map(|(_, n)| n).sum();
        buckets.push((f64::INFINITY, times.count.saturating_sub(within)));
        metric.encode_family(labels)?.encode_histogram::<NoLabelSet>(
            times.sum_s,
            times.count,
            &buckets,
            None,
        )?;
    }
    Ok(())
}
