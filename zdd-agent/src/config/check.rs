//! What only shows when several values are looked at together.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use zdd_common::syn_filter;
use zdd_common::time::ticks;

use super::agent::AgentRead;
use super::problems::Sink;
use super::ranges;
use super::reader::Span;
use super::service::{ServiceRead, VersionRead, unusable};
use crate::clock;
use crate::desired::{EncapSources, FULL, Forward, Limits, Probe, Protocol, SnatSpec};
use crate::rows::Rows;
use crate::text::percent;

pub(super) fn all(agent: &AgentRead, services: &[ServiceRead], sink: &mut Sink<'_>) {
    service_names(services, sink);
    vips(services, sink);
    for service in services {
        version_names(service, sink);
        weights(service, sink);
        backends(service, sink);
        super::preview::check(service, &agent.snat, sink);
        doubts(agent, service, sink);
    }
    ranges::shared_backends(services, sink);
    ranges::vip_as_backend(services, sink);
    outer_sources(&agent.encap, services, sink);
    mapped_sources(&agent.snat, services, sink);
    limits(&agent.limits, services, sink);
}

fn service_names(services: &[ServiceRead], sink: &mut Sink<'_>) {
    let mut seen: HashMap<&str, Span> = HashMap::new();
    for name in services.iter().filter_map(|service| service.name.as_ref()) {
        match seen.get(name.value.as_str()) {
            Some(first) => {
                let line = sink.line_of(first);
                let message = format!("service `{}` is there already, in line {line}", name.value);
                sink.error(Some(name.span.clone()), message, "give each service a name of its own");
            }
            None => drop(seen.insert(&name.value, name.span.clone())),
        }
    }
}

fn vips(services: &[ServiceRead], sink: &mut Sink<'_>) {
    let mut seen = HashMap::new();
    for service in services {
        for vip in service.all_vips() {
            if let Some(why) = unusable(&vip.value.socket(), vip.value.all_ports()) {
                let message = format!("{} cannot be a VIP: {why}", vip.value);
                sink.error(Some(vip.span.clone()), message, "write the address and port that clients dial");
            }
            match seen.get(&vip.value) {
                Some(owner) => {
                    let message = format!("VIP {} belongs to service `{owner}` already", vip.value);
                    let help = "give each service an address, port or protocol of its own, or put the versions into one service";
                    sink.error(Some(vip.span.clone()), message, help);
                }
                None => drop(seen.insert(vip.value, service.label())),
            }
        }
        together(service, sink);
    }
    ranges::overlaps(services, sink);
}

/// Two VIPs of one service are the two families of the same thing.
fn together(service: &ServiceRead, sink: &mut Sink<'_>) {
    let Some((first, others)) = service.vips.split_first() else { return };
    for (at, vip) in others.iter().enumerate() {
        let before = &service.vips[..=at];
        let span = Some(vip.span.clone());
        if vip.value.protocol != first.value.protocol {
            let message = format!("{} and {} are of two protocols", first.value, vip.value);
            sink.error(span, message, "make a service for each protocol: their flows end in different ways");
        } else if before.iter().any(|b| b.value.family() == vip.value.family() && b.value != vip.value) {
            let message = format!("service `{}` has two {} VIPs", service.label(), vip.value.family());
            let help = "a service has one VIP, or one of each address family; make a second service for the other one";
            sink.error(span, message, help);
        }
    }
}

fn version_names(service: &ServiceRead, sink: &mut Sink<'_>) {
    let mut seen: HashMap<&str, Span> = HashMap::new();
    for name in service.versions.iter().filter_map(|version| version.name.as_ref()) {
        match seen.get(name.value.as_str()) {
            Some(first) => {
                let line = sink.line_of(first);
                let message = format!(
                    "version `{}` of service `{}` is there already, in line {line}",
                    name.value,
                    service.label()
                );
                sink.error(
                    Some(name.span.clone()),
                    message,
                    "give each version of a service a name of its own",
                );
            }
            None => drop(seen.insert(&name.value, name.span.clone())),
        }
    }
}

fn weights(service: &ServiceRead, sink: &mut Sink<'_>) {
    let given: Vec<_> = service.versions.iter().filter_map(|version| version.weight.as_ref()).collect();
    // Without any, the first version gets all; with a wrong one, the sum says nothing.
    let Some(weights) = given.into_iter().map(Option::as_ref).collect::<Option<Vec<_>>>() else { return };
    let Some(first) = weights.first() else { return };
    let sum: u64 = weights.iter().map(|weight| u64::from(weight.value)).sum();
    if sum == u64::from(FULL) {
        return;
    }
    let each: Vec<_> = service
        .versions
        .iter()
        .map(|version| {
            let weight = version.weight.as_ref().and_then(Option::as_ref).map_or(0, |weight| weight.value);
            format!("{} {}", label(version), percent(weight))
        })
        .collect();
    let shown = percent(u32::try_from(sum).unwrap_or(u32::MAX));
    let message =
        format!("the weights of service `{}` sum to {shown} ({})", service.label(), each.join(", "));
    let help =
        "make them sum to 100%; a version without a weight has 0%, and if none has one the first gets all";
    sink.error(Some(first.span.clone()), message, help);
}

fn label(version: &VersionRead) -> &str {
    version.name.as_ref().map_or("?", |name| &name.value)
}

fn backends(service: &ServiceRead, sink: &mut Sink<'_>) {
    let mut seen: HashMap<SocketAddr, &str> = HashMap::new();
    for version in &service.versions {
        for backend in &version.backends {
            let address = backend.value.address;
            let span = || Some(backend.span.clone());
            // Whether it may stand for all ports is for the VIP to say, below.
            if let Some(why) = unusable(&address, true) {
                let help = "write the address and port on which the backend listens, as this host reaches it";
                sink.error(span(), format!("{address} cannot be a backend: {why}"), help);
            }
            match seen.get(&address) {
                Some(owner) if *owner == label(version) => {
                    let help = "remove one of them; give it a weight if it should get more";
                    sink.error(span(), format!("backend {address} is twice in version `{owner}`"), help);
                }
                Some(owner) => {
                    let help =
                        "an address and port runs one version; start the other one on a port of its own";
                    let message = format!(
                        "backend {address} is in version `{owner}` of service `{}` already",
                        service.label()
                    );
                    sink.error(span(), message, help);
                }
                None => drop(seen.insert(address, label(version))),
            }
            let Some(first) = service.vips.first() else { continue };
            let vip = service.vips.iter().find(|vip| vip.value.serves(&address)).unwrap_or(first);
            if let Some(forward) = service.forward_of(version)
                && let Err((message, help)) = forward.can_reach(&vip.value, address)
            {
                sink.error(span(), message, help);
            }
        }
        half_served(service, version, sink);
    }
}

/// A version with backends for one VIP only would take its weight there and nowhere else.
fn half_served(service: &ServiceRead, version: &VersionRead, sink: &mut Sink<'_>) {
    let serves = |vip: &crate::desired::Vip| version.backends.iter().any(|b| vip.serves(&b.value.address));
    if service.vips.len() < 2 || !service.vips.iter().any(|vip| serves(&vip.value)) {
        return;
    }
    for vip in service.vips.iter().map(|vip| vip.value).filter(|vip| !serves(vip)) {
        let message = format!(
            "version `{}` of service `{}` has no {} backend for the VIP {vip}",
            label(version),
            service.label(),
            vip.family()
        );
        let help = "add one, so that its weight means the same for both families, or make a service of its own for this VIP";
        sink.error(Some(version.span.clone()), message, help);
    }
}

/// Outer headers come from addresses that nobody else uses: replies and errors would go to a VIP or a backend.
fn outer_sources(encap: &EncapSources, services: &[ServiceRead], sink: &mut Sink<'_>) {
    let inside = |addr| [encap.v4, encap.v6].into_iter().find(|prefix| prefix.contains(addr));
    for service in services {
        let vip = service.all_vips().map(|vip| (vip.value.addr, &vip.span));
        let backends = service.versions.iter().flat_map(|version| &version.backends);
        for (addr, span) in vip.chain(backends.map(|backend| (backend.value.address.ip(), &backend.span))) {
            if let Some(prefix) = inside(addr).filter(|_| service.tunnels()) {
                let message = format!("{addr} lies in {prefix}, where outer headers of ipip come from");
                let help = "set agent.encap_source (agent.encap_source6) to a prefix that nobody uses";
                sink.error(Some(span.clone()), message, help);
            }
        }
    }
}

/// `snat` needs an address of the backends' family, and ports there that are nobody else's.
fn mapped_sources(snat: &SnatSpec, services: &[ServiceRead], sink: &mut Sink<'_>) {
    for service in services {
        for version in &service.versions {
            if service.forward_of(version) != Some(Forward::Snat) {
                continue;
            }
            let without = version.backends.iter().find(|b| !snat.serves(b.value.address.is_ipv4()));
            if let Some(backend) = without {
                let v4 = backend.value.address.is_ipv4();
                let key = if v4 { "snat_source" } else { "snat_source6" };
                let message =
                    format!("backend {} is under snat, and agent.{key} is not set", backend.value.address);
                let help = format!(
                    "set agent.{key} to an address of this host, or one routed to it, that the backends can answer"
                );
                sink.error(Some(backend.span.clone()), message, help);
            }
        }
        for vip in service.all_vips() {
            let (from, to) = vip.value.ports();
            if snat.sources.contains(&vip.value.addr) && from <= snat.last && snat.first <= to {
                let message =
                    format!("{} lies in agent.snat_ports ({}-{})", vip.value, snat.first, snat.last);
                let help = "choose snat_ports without it, or another snat_source: answers to that port would be taken for clients";
                sink.error(Some(vip.span.clone()), message, help);
            }
        }
        for backend in service.versions.iter().flat_map(|version| &version.backends) {
            if snat.sources.contains(&backend.value.address.ip()) {
                let message =
                    format!("backend {} has an address that snat sends from", backend.value.address);
                let help =
                    "name another address as agent.snat_source: a backend there would be asked by itself";
                sink.error(Some(backend.span.clone()), message, help);
            }
        }
    }
}

fn limits(limits: &Limits, services: &[ServiceRead], sink: &mut Sink<'_>) {
    let vips: Vec<_> = services.iter().flat_map(|service| &service.vips).collect();
    if let Some(first_above) = vips.get(limits.services as usize) {
        let message =
            format!("{} VIPs are more than agent.limits.services = {}", vips.len(), limits.services);
        sink.error(Some(first_above.span.clone()), message, "raise agent.limits.services");
    } else if let Some(service) =
        services.iter().find(|service| service.cohorts() > 0 || !service.preview.is_empty())
        && let rows = services.iter().map(ServiceRead::rows).sum::<usize>()
        && rows > limits.services as usize
    {
        let message = format!(
            "{} VIPs, each once more for each of its cohorts, and preview VIPs are {rows}: more than agent.limits.services = {}",
            vips.len(),
            limits.services
        );
        sink.error(Some(service.span.clone()), message, "raise agent.limits.services, or name fewer cohorts");
    }
    let backends: Vec<_> =
        services.iter().flat_map(|service| &service.versions).flat_map(|version| &version.backends).collect();
    if let Some(first_above) = backends.get(limits.backends as usize) {
        let message =
            format!("{} backends are more than agent.limits.backends = {}", backends.len(), limits.backends);
        let help = "raise agent.limits.backends, and leave room for those that drain";
        sink.error(Some(first_above.span.clone()), message, help);
    }
    let mut cells: u64 = 0;
    let mut reserves: HashMap<u64, u64> = HashMap::new();
    // A row for each VIP, each of its cohorts and each preview VIP, and of each size as many spare ones as one service has.
    let mut need = |service: &ServiceRead| {
        let (row, rows) = (u64::from(service.cells.value), service.rows() as u64);
        let reserve = reserves.entry(row).or_default();
        let more = rows.saturating_sub(*reserve);
        *reserve += more;
        row * (rows + more)
    };
    for (at, service) in services.iter().enumerate() {
        cells += need(service);
        if cells > u64::from(limits.cells) {
            let all = cells + services[at + 1..].iter().map(need).sum::<u64>();
            let message = format!(
                "the services need {all} cells (a row for each VIP, each of its cohorts and each preview VIP, and spare ones of each size), agent.limits.cells = {}",
                limits.cells
            );
            let help = format!(
                "raise agent.limits.cells to at least {all} (8 bytes each), or lower `cells` of a service"
            );
            sink.error(Some(service.cells.span.clone()), message, help);
            return;
        }
    }
    pieces(limits, services, sink);
}

/// Rows lie in one piece, at multiples of their size: a nearly full map may have cells enough and no place for a row. The same books as the
/// agent's, in the order in which it makes the services of a file when it starts for the first time.
fn pieces(limits: &Limits, services: &[ServiceRead], sink: &mut Sink<'_>) {
    // What is no size of a row is told elsewhere.
    if services.iter().any(|service| !service.cells.value.is_power_of_two()) {
        return;
    }
    let place = |capacity: u32| {
        let mut rows = Rows::new(capacity);
        let fits = |rows: &mut Rows, service: &ServiceRead| {
            (1..=service.rows() as u32).all(|place| rows.add(service.cells.value, place, |_| true).is_ok())
        };
        let first = services.iter().find(|service| !fits(&mut rows, service));
        (first, rows.extent())
    };
    if let (Some(service), _) = place(limits.cells) {
        // The lowest place is taken, so in a larger map they lie the same.
        let (_, enough) = place(u32::MAX);
        let cells = service.cells.value;
        let message = format!(
            "service `{}` finds no {cells} cells in one piece: rows begin at multiples of their size, and with rows of other sizes before it agent.limits.cells = {} is {} too few",
            service.label(),
            limits.cells,
            enough.saturating_sub(limits.cells)
        );
        let help = format!(
            "raise agent.limits.cells to at least {enough} (8 bytes each), or name services with more cells first"
        );
        sink.error(Some(service.cells.span.clone()), message, help);
    }
}

/// What is allowed and perhaps not meant.
fn doubts(agent: &AgentRead, service: &ServiceRead, sink: &mut Sink<'_>) {
    let name = service.label().to_owned();
    if let Some(health) = &service.health
        && let Some(vip) = service.vips.iter().find(|vip| vip.value.all_ports())
        && health.port.is_none()
        && !matches!(health.probe, Probe::Exec { .. })
    {
        let message =
            format!("the health check of service `{name}` has no port to ask: its VIP {} has all", vip.value);
        sink.error(Some(vip.span.clone()), message, "name one, as health = { tcp = true, port = 8080 }");
    }
    if service.health.is_none() {
        let message = format!("service `{name}` has no health check: every backend counts as healthy");
        sink.warning(Some(service.span.clone()), message);
    }
    let tcp = service.protocol() == Some(Protocol::Tcp);
    let half_open = clock::half_open_life(syn_filter::epoch_shift(ticks(agent.syn_memory.as_nanos() as u64)));
    if tcp && service.idle_timeout < half_open {
        let say = humantime::format_duration;
        let message = format!(
            "idle_timeout of service `{name}` ({}) counts as {}: no entry lives shorter than a half-open one, which is what \
             agent.syn_memory ({}) asks for",
            say(service.idle_timeout),
            say(Duration::from_secs(half_open.as_secs())),
            say(agent.syn_memory)
        );
        sink.warning(Some(service.span.clone()), message);
    }
    for version in service.versions.iter().filter(|version| version.backends.is_empty()) {
        let message = format!(
            "version `{}` of service `{name}` has no backends: its share goes to the stable version",
            label(version)
        );
        sink.warning(Some(version.span.clone()), message);
    }
    let backends: usize = service.versions.iter().map(|version| version.backends.len()).sum();
    if backends * 100 > service.cells.value as usize {
        let message = format!(
            "service `{name}` has {backends} backends on {} cells: with less than 100 cells each, their shares are coarse",
            service.cells.value
        );
        sink.warning(Some(service.cells.span.clone()), message);
    }
}
