//! What a service says of the sources of its packets: `[service.access]` and `new_per_source`.

use std::collections::HashMap;

use super::problems::Sink;
use super::reader::Table;
use super::value;
use crate::admission::{AccessSpec, NewPerSource};
use crate::desired::{Protocol, Vip};
use crate::prefix::Prefix;

use super::reader::At;

/// `[service.access]`.
pub(super) fn access(service: &mut Table<'_, '_>, vips: &[At<Vip>], sink: &mut Sink<'_>) -> AccessSpec {
    let Some(mut table) = service.table("access", "[service.access]", sink) else {
        return AccessSpec::default();
    };
    let allow = table.parsed_all("allow", sink, str::parse::<Prefix>);
    let deny = table.parsed_all("deny", sink, str::parse::<Prefix>);
    if !table.has("allow") && !table.has("deny") {
        let help =
            "write allow = [\"10.0.0.0/8\"], deny = [\"10.66.0.0/16\"], or both; the longest prefix decides";
        sink.error(Some(table.span.clone()), "[service.access] names nobody".to_owned(), help);
    }
    let mut seen = HashMap::new();
    for (list, prefixes) in [("allow", &allow), ("deny", &deny)] {
        for At { value, span } in prefixes {
            if let Some(before) = seen.insert(*value, list) {
                let message = format!("{value} stands in `{before}` already");
                sink.error(Some(span.clone()), message, "let it stand in one list, once");
            }
            if !vips.is_empty() && vips.iter().all(|vip| vip.value.addr.is_ipv4() != value.addr.is_ipv4()) {
                let message =
                    format!("{value} is of a family that no VIP of the service has: it says nothing");
                sink.warning(Some(span.clone()), message);
            }
        }
    }
    for vip in vips.iter().map(|vip| vip.value) {
        let same = |at: &At<Prefix>| at.value.addr.is_ipv4() == vip.addr.is_ipv4();
        if !allow.is_empty() && !allow.iter().any(same) {
            let message = format!("`allow` names no {} prefix: nobody may dial {vip}", vip.family());
            sink.warning(Some(table.span.clone()), message);
        }
    }
    table.finish(sink);
    let values = |all: Vec<At<Prefix>>| all.into_iter().map(|at| at.value).collect();
    AccessSpec { allow: values(allow), deny: values(deny) }
}

/// `new_per_source = { rate = 100, burst = 200 }`.
pub(super) fn new_per_source(
    service: &mut Table<'_, '_>,
    vips: &[At<Vip>],
    sink: &mut Sink<'_>,
) -> Option<NewPerSource> {
    let mut table = service.table("new_per_source", "`new_per_source`", sink)?;
    if let Some(vip) = vips.first()
        && vip.value.protocol == Protocol::Udp
    {
        let help = "remove it: a UDP datagram does not say whether it begins anything";
        sink.error(
            Some(table.span.clone()),
            format!("`new_per_source` means nothing to {}", vip.value),
            help,
        );
    }
    let rate = table.integer("rate", 1..=1_000_000, sink);
    table.missing("rate", "write { rate = 100, burst = 200 }: new connections a second, and at once", sink);
    let burst = table.integer("burst", 1..=1_000_000, sink);
    table.finish(sink);
    let rate = value(rate)?;
    Some(NewPerSource { rate, burst: value(burst).unwrap_or(rate) })
}
