//! Addresses and ports that would belong to two: VIPs of ranges that overlap, and backends whose replies could be of either.

use std::collections::HashMap;
use std::net::IpAddr;

use super::problems::Sink;
use super::reader::{At, Span};
use super::service::ServiceRead;
use crate::desired::{BackendSpec, Forward, Protocol, Vip};

/// Two ranges of one address, neither of them all ports: no rule says whose a port of both would be. One port goes before a
/// range, and a range before all ports.
pub(super) fn overlaps(services: &[ServiceRead], sink: &mut Sink<'_>) {
    let mut seen: HashMap<(IpAddr, Protocol), Vec<(Vip, &str)>> = HashMap::new();
    for service in services {
        for At { value: vip, span } in service.all_vips() {
            if vip.more == 0 || vip.all_ports() {
                continue;
            }
            let others = seen.entry((vip.addr, vip.protocol)).or_default();
            let (first, last) = vip.ports();
            for (other, owner) in others.iter().filter(|(other, _)| other != vip) {
                let (from, to) = (first.max(other.port), last.min(other.ports().1));
                if from <= to {
                    let message =
                        format!("VIP {vip} and {other} of service `{owner}` share ports {from}-{to}");
                    let help = "let the ranges of an address not overlap; a single port inside of a range is fine, and goes before it";
                    sink.error(Some(span.clone()), message, help);
                }
            }
            others.push((*vip, service.label()));
        }
    }
}

/// A backend with all the ports that it takes.
struct Taken<'a> {
    first: u16,
    last: u16,
    at: &'a At<BackendSpec>,
    service: usize,
    forward: Forward,
}

/// Under `nat` and `snat` a reply is recognised by the backend's address, port and protocol, so these belong to one VIP, and to one port of it.
pub(super) fn shared_backends(services: &[ServiceRead], sink: &mut Sink<'_>) {
    let mut seen: HashMap<(IpAddr, Protocol), Vec<Taken<'_>>> = HashMap::new();
    for (number, service) in services.iter().enumerate() {
        let Some(protocol) = service.protocol() else { continue };
        for version in &service.versions {
            let Some(forward) = service.forward_of(version) else { continue };
            for at in &version.backends {
                let address = at.value.address;
                let first = address.port();
                let last = first.saturating_add(service.more_ports(&address));
                let taken = Taken { first, last, at, service: number, forward };
                let others = seen.entry((address.ip(), protocol)).or_default();
                if let Some(other) = others.iter().find(|other| clash(&taken, other)) {
                    report(services, &taken, other, sink);
                } else {
                    others.push(taken);
                }
            }
        }
    }
}

fn clash(a: &Taken<'_>, b: &Taken<'_>) -> bool {
    let finds = |taken: &Taken<'_>| matches!(taken.forward, Forward::Nat | Forward::Snat);
    // The same backend twice in one service is told elsewhere.
    let same = a.service == b.service && a.first == b.first;
    (finds(a) || finds(b)) && !same && a.first <= b.last && b.first <= a.last
}

fn report(services: &[ServiceRead], taken: &Taken<'_>, other: &Taken<'_>, sink: &mut Sink<'_>) {
    let (address, owner) = (taken.at.value.address, services[other.service].label());
    let span = Some(taken.at.span.clone());
    if taken.first == taken.last && other.first == other.last {
        let message = format!("backend {address} is in service `{owner}` already");
        let help = "nat and snat know a reply by the backend's address: let the backend listen on another port for \
                    this service, or use forward = \"l2\" for both";
        sink.error(span, message, help);
        return;
    }
    let (from, to) = (taken.first.max(other.first), taken.last.min(other.last));
    let message = format!(
        "backend {address} shares its ports {from}-{to} with backend {} of service `{owner}`",
        other.at.value.address
    );
    let help = "nat finds the VIP and its port by the address and port of a reply: let the ranges of a host not overlap";
    sink.error(span, message, help);
}

pub(super) fn vip_as_backend(services: &[ServiceRead], sink: &mut Sink<'_>) {
    let mut owners: HashMap<IpAddr, Vec<(Vip, &str)>> = HashMap::new();
    for service in services {
        for vip in service.all_vips() {
            owners.entry(vip.value.addr).or_default().push((vip.value, service.label()));
        }
    }
    for service in services {
        for backend in service.versions.iter().flat_map(|version| &version.backends) {
            let address = backend.value.address;
            let last = address.port().saturating_add(service.more_ports(&address));
            let taken = |vip: &Vip| vip.port <= last && address.port() <= vip.ports().1;
            let Some(vips) = owners.get(&address.ip()) else { continue };
            if let Some((_, owner)) = vips.iter().find(|(vip, _)| taken(vip)) {
                let message = format!("backend {address} is the VIP of service `{owner}`");
                let help = "a packet would go round in circles: name the backend's own address";
                let span: Span = backend.span.clone();
                sink.error(Some(span), message, help);
            }
        }
    }
}
