//! The ways of packets through this host: settings that the stack needs, addresses, neighbours.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::interfaces::some;
use super::{Finding, sysctl};
use crate::desired::{Desired, Forward};
use crate::links::{Link, matches, xdp};
use crate::neighbour::{NextHopState, Resolver, ResolverOptions, on_link};

/// How long neighbours may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the stack needs so that what XDP leaves to it under `nat` gets through.
pub(super) async fn settings(
    desired: &Desired,
    links: &BTreeMap<u32, Link>,
    locals: &BTreeSet<IpAddr>,
) -> Vec<Finding> {
    let foreign: BTreeSet<IpAddr> = vips(desired).filter(|addr| !locals.contains(addr)).collect();
    let on_link = on_link(foreign.iter().copied()).await;
    let mut findings = owned(&foreign, |addr| Some(links.get(on_link.get(&addr)?)?.name.clone()));
    if some(desired, Forward::Snat) {
        findings.push(ports(desired, locals));
    }
    if !some(desired, Forward::Nat) && !some(desired, Forward::Snat) {
        return findings;
    }
    findings.extend(forwarding(desired));
    if vips(desired).any(|addr| addr.is_ipv4() && locals.contains(&addr)) {
        findings.extend(own_vip(desired, links));
    }
    findings
}

/// Whether packets for the VIPs can find this host: `foreign` are those that are no address of it, `segment` names the interface whose
/// link such an address lies on.
fn owned(foreign: &BTreeSet<IpAddr>, segment: impl Fn(IpAddr) -> Option<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut routed = Vec::new();
    for addr in foreign {
        match segment(*addr) {
            Some(interface) => findings.push(Finding::warning(
                "vip",
                format!(
                    "{addr} is no address of this host and lies on {interface}'s own link, where machines ask for it by {}: zdd does not answer",
                    if addr.is_ipv4() { "ARP" } else { "neighbour discovery" }
                ),
                format!(
                    "ip addr add {addr}/{} dev lo (under l2 and ipip too); if somebody else answers for this host, all is well",
                    if addr.is_ipv4() { 32 } else { 128 }
                ),
            )),
            None => routed.push(addr.to_string()),
        }
    }
    if !routed.is_empty() {
        let what = format!(
            "{}: no address of this host, so clients need a route to it over here",
            routed.join(", ")
        );
        findings.push(Finding::ok("vip", what));
    } else if findings.is_empty() {
        findings.push(Finding::ok("vip", "every VIP is an address of this host"));
    }
    findings
}

/// Whether the host gives out the ports of `snat` to its own sockets.
fn ports(desired: &Desired, locals: &BTreeSet<IpAddr>) -> Finding {
    let snat = &desired.agent.snat;
    let range = format!("{}-{}", snat.first, snat.last);
    let own: Vec<String> =
        snat.sources.iter().filter(|addr| locals.contains(addr)).map(ToString::to_string).collect();
    if own.is_empty() {
        return Finding::ok(
            "snat_ports",
            "no snat_source is an address of this host: backends need a route to it over here",
        );
    }
    let range_of = |text: &str, between: &[char]| {
        let (first, last) = text.split_once(between).unwrap_or((text, text));
        Some((first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?))
    };
    let given = sysctl::read::<String>("net/ipv4/ip_local_port_range")
        .and_then(|text| range_of(&text, &['\t', ' ']))
        .unwrap_or((32_768, 60_999));
    let reserved = sysctl::read::<String>("net/ipv4/ip_local_reserved_ports").unwrap_or_default();
    let kept = reserved.split(',').filter_map(|text| range_of(text, &['-']));
    let kept = kept.into_iter().any(|(first, last)| first <= snat.first && last >= snat.last);
    if kept || snat.first > given.1 || snat.last < given.0 {
        return Finding::ok(
            "snat_ports",
            format!("{} {range}: the host gives out {}-{}", own.join(", "), given.0, given.1),
        );
    }
    Finding::problem(
        "snat_ports",
        format!(
            "snat_ports {range} of {} overlap with the ports that the host gives to its own connections ({}-{}): an answer to one of those may be taken for a client's",
            own.join(", "),
            given.0,
            given.1
        ),
        format!("sysctl -w net.ipv4.ip_local_reserved_ports={range}, or another range as agent.snat_ports"),
    )
}

fn vips(desired: &Desired) -> impl Iterator<Item = IpAddr> {
    desired.services.iter().flat_map(|service| service.all_vips().map(|vip| vip.addr))
}

fn forwarding(desired: &Desired) -> Vec<Finding> {
    let families = [
        (vips(desired).any(|addr| addr.is_ipv4()), "net/ipv4/ip_forward", "net.ipv4.ip_forward"),
        (
            vips(desired).any(|addr| addr.is_ipv6()),
            "net/ipv6/conf/all/forwarding",
            "net.ipv6.conf.all.forwarding",
        ),
    ];
    let used = families.into_iter().filter(|(used, ..)| *used);
    used.map(|(_, key, name)| match sysctl::read::<u32>(key) {
        Some(0) => Finding::problem(
            "forwarding",
            "this host does not forward: nat replies that XDP leaves to the stack are lost",
            format!("sysctl -w {name}=1"),
        ),
        _ => Finding::ok("forwarding", format!("{name} is on")),
    })
    .collect()
}

/// Rewritten replies come from the VIP: to a stack that has this address they look forged.
fn own_vip(desired: &Desired, links: &BTreeMap<u32, Link>) -> Vec<Finding> {
    let generic = desired.agent.mode == crate::desired::AttachMode::Generic;
    let wanted: Vec<&Link> = links
        .values()
        .filter(|link| desired.agent.interfaces.iter().any(|pattern| matches(pattern, &link.name)))
        .collect();
    // When every interface takes redirects, the stack only gets what has no next hop yet.
    let direct = wanted.iter().all(|link| xdp::takes_redirects(link.index, link.kind.as_deref(), generic));
    let how_bad = if direct { Finding::warning } else { Finding::problem };
    let when = if direct { "until the next hop is known" } else { "that XDP cannot send by itself" };
    let mut findings = Vec::new();
    for (check, bad, fix) in [
        ("accept_local", 0, "sysctl -w net.ipv4.conf.all.accept_local=1"),
        ("rp_filter", 1, "sysctl -w net.ipv4.conf.all.rp_filter=2"),
    ] {
        let names: Vec<&str> = wanted
            .iter()
            .filter(|link| sysctl::of_interface(&link.name, check) == Some(bad))
            .map(|link| link.name.as_str())
            .collect();
        findings.push(if names.is_empty() {
            Finding::ok(check, "replies from a VIP that is this host's own pass the stack")
        } else {
            let what = format!(
                "{check} is {bad} on {}, and a VIP is an address of this host: nat replies {when} are dropped",
                names.join(", ")
            );
            how_bad(check, what, fix.to_owned())
        });
    }
    findings
}

/// Asks the kernel to find the backends' hardware addresses, as the agent does.
pub(super) async fn neighbours(desired: &Desired) -> Vec<Finding> {
    let backends: BTreeMap<IpAddr, Forward> = desired
        .services
        .iter()
        .flat_map(|s| s.versions.iter().map(|v| (v, v.forward.unwrap_or(s.forward))))
        .flat_map(|(version, mode)| version.backends.iter().map(move |b| (b.address.ip(), mode)))
        .collect();
    if backends.is_empty() {
        return Vec::new();
    }
    let options = ResolverOptions { retry: Duration::from_millis(250), ..ResolverOptions::default() };
    let (resolver, mut changes) = match Resolver::start(options) {
        Ok(started) => started,
        Err(error) => return vec![Finding::warning("neighbours", error.to_string(), "run it as root")],
    };
    resolver.set(backends.keys().copied().collect());
    let mut states: BTreeMap<IpAddr, NextHopState> = BTreeMap::new();
    let all_known = async {
        while let Some(change) = changes.recv().await {
            states.insert(change.addr, change.state);
            // A neighbour that did not answer before is asked again now, and may answer.
            let asked = |why: &str| why.starts_with("waiting") || why.starts_with("no answer");
            let waits =
                |state: &NextHopState| matches!(state, NextHopState::Unresolved { why } if asked(why));
            if states.len() == backends.len() && !states.values().any(waits) {
                break;
            }
        }
    };
    // Whoever has not answered by then is told as such.
    drop(tokio::time::timeout(PATIENCE, all_known).await);
    let mut findings = Vec::new();
    for (addr, mode) in &backends {
        match (states.get(addr), mode) {
            (Some(NextHopState::Resolved(hop)), Forward::L2) if hop.via.is_some() => {
                findings.push(Finding::problem(
                    "neighbours",
                    format!("backend {addr} is behind a gateway ({hop}), but an l2 backend must be on this host's segment"),
                    "use forward = \"nat\", with replies through this host",
                ));
            }
            (Some(NextHopState::Resolved(_)), _) => {}
            (state, _) => {
                let why = match state {
                    Some(NextHopState::Unresolved { why }) => why.as_str(),
                    _ => "the kernel did not say",
                };
                findings.push(Finding::problem(
                    "neighbours",
                    format!("backend {addr} cannot be reached: {why}"),
                    format!(
                        "look at `ip route get {addr}` and `ip neigh`; is it up, and on the right network?"
                    ),
                ));
            }
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok("neighbours", format!("the way to {} backends is known", backends.len())));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn a_vip_that_machines_ask_for_and_nobody_owns_is_told() {
        let [near, far]: [IpAddr; 2] = ["10.0.0.10".parse().unwrap(), "10.9.0.10".parse().unwrap()];
        let segment = |addr| (addr == near).then(|| "eth0".to_owned());
        let found = owned(&BTreeSet::from([near, far]), segment);
        let [nobodys, routed] = &found[..] else { panic!("{found:?}") };
        assert!(nobodys.level == Level::Warning && nobodys.what.contains("eth0's own link"), "{nobodys:?}");
        assert!(nobodys.fix.as_ref().is_some_and(|fix| fix.contains("ip addr add 10.0.0.10/32 dev lo")));
        assert!(routed.level == Level::Ok && routed.what.starts_with("10.9.0.10: "), "{routed:?}");
        assert!(owned(&BTreeSet::new(), segment)[0].what.starts_with("every VIP"));
    }
}
