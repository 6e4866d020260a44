//! Whose a backend is while connections may live there.
//!
//! An address belongs to one version of one service for as long as flows may be on it: its number stands in the cells and entries of
//! that service, and under `nat` and `snat` one word says to which VIP a reply from it belongs. Given to another one before it is
//! drained, its live connections would get no replies any more.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crate::desired::{Forward, Protocol, ServiceSpec};

/// A backend that has a number.
#[derive(Clone, Copy, Debug)]
pub struct Held<'a> {
    /// Its service, as in force.
    pub service: &'a ServiceSpec,
    /// Its version.
    pub version: &'a str,
    /// Its address.
    pub address: SocketAddr,
    /// How packets reach it.
    pub forward: Forward,
    /// It is in no configuration any more and only drains.
    pub removed: bool,
}

/// A backend that somebody else is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The service that has it.
    pub service: String,
    /// Its address there.
    pub address: SocketAddr,
    /// What is wrong.
    pub why: String,
}

/// Which backends `to` gives to another version, or to another service, than the one that has them. What only services have that go
/// is nobody's: their flows end with them.
pub fn taken(held: &[Held<'_>], to: &[ServiceSpec]) -> Vec<Taken> {
    let mut owners: HashMap<IpAddr, Vec<&Held<'_>>> = HashMap::new();
    for own in held.iter().filter(|own| to.iter().any(|new| new.name == own.service.name)) {
        owners.entry(own.address.ip()).or_default().push(own);
    }
    let mut all = Vec::new();
    for new in to {
        for version in &new.versions {
            for backend in &version.backends {
                let owners = owners.get(&backend.address.ip()).map(Vec::as_slice).unwrap_or_default();
                let other = owners.iter().find(|own| clash(own, new, &version.name, backend.address));
                all.extend(other.map(|own| tell(own, &new.name, &version.name, backend.address)));
            }
        }
    }
    all
}

fn clash(own: &Held<'_>, new: &ServiceSpec, version: &str, address: SocketAddr) -> bool {
    if own.service.name == new.name {
        return own.address == address && own.version != version;
    }
    let last = |spec: &ServiceSpec, at: &SocketAddr| at.port().saturating_add(spec.more_ports(at));
    let meet = own.address.port() <= last(new, &address) && address.port() <= last(own.service, &own.address);
    let told = finds_replies(own.forward) || finds_replies(new.forward_of(version));
    protocol(own.service) == protocol(new) && meet && told
}

fn protocol(spec: &ServiceSpec) -> Option<Protocol> {
    spec.vips.first().map(|vip| vip.protocol)
}

/// Whether replies are known by the backend's address and port.
fn finds_replies(forward: Forward) -> bool {
    matches!(forward, Forward::Nat | Forward::Snat)
}

fn tell(own: &Held<'_>, service: &str, version: &str, address: SocketAddr) -> Taken {
    let (holder, at) = (&own.service.name, own.address);
    let why = if own.removed {
        format!("it still drains from {holder}/{}", own.version)
    } else {
        format!("it is one of {holder}/{}, and connections may live there", own.version)
    };
    Taken {
        service: holder.clone(),
        address: at,
        why: format!("backend {address} cannot go to {service}/{version} yet: {why}"),
    }
}

/// How many are told one by one.
const TOLD: usize = 4;

/// What is told of them, with the way out; `None`: there are none.
pub fn refusal(all: &[Taken]) -> Option<String> {
    let first = all.first()?;
    let mut told: Vec<String> = all.iter().take(TOLD).map(|taken| taken.why.clone()).collect();
    if all.len() > TOLD {
        told.push(format!("and {} more", all.len() - TOLD));
    }
    Some(format!(
        "{}\nhelp: apply a file that names it nowhere, or only where it is; add it anew when `zdd backend list {}` does not show it any more",
        told.join("; "),
        first.service
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn services(text: &str) -> Vec<ServiceSpec> {
        let text = format!("[agent]\ninterfaces = [\"eth0\"]\n{text}");
        Config::parse(&text, "test").expect("a configuration").0.services
    }

    fn service(name: &str, vip: &str, forward: &str, v1: &str, v2: &str) -> String {
        format!(
            "[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nforward = \"{forward}\"\n\
             [[service.version]]\nname = \"v1\"\nbackends = [{v1}]\n\
             [[service.version]]\nname = \"v2\"\nbackends = [{v2}]\n"
        )
    }

    fn held(services: &[ServiceSpec], removed: bool) -> Vec<Held<'_>> {
        let mut all = Vec::new();
        for service in services {
            for version in &service.versions {
                let (forward, name) = (service.forward_of(&version.name), version.name.as_str());
                let own = version.backends.iter().map(|b| b.address);
                all.extend(own.map(|address| Held { service, version: name, address, forward, removed }));
            }
        }
        all
    }

    const ONE: &str = "\"10.1.0.1:80\"";
    const TWO: &str = "\"10.1.0.2:80\"";
    const THREE: &str = "\"10.1.0.3:80\"";

    #[test]
    fn what_stays_where_it_is_or_is_new_is_nobodys_loss() {
        let before = services(&service("web", "10.0.0.10:80/tcp", "nat", ONE, TWO));
        let after = services(&service("web", "10.0.0.10:80/tcp", "nat", ONE, &format!("{TWO}, {THREE}")));
        assert_eq!(taken(&held(&before, false), &before), []);
        assert_eq!(taken(&held(&before, false), &after), []);
    }

    #[test]
    fn a_backend_keeps_its_version_while_it_has_one() {
        let before = services(&service("web", "10.0.0.10:80/tcp", "l2", ONE, TWO));
        let after = services(&service("web", "10.0.0.10:80/tcp", "l2", &format!("{ONE}, {TWO}"), THREE));
        let all = taken(&held(&before, false), &after);
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!(
            (all[0].service.as_str(), all[0].address),
            ("web", "10.1.0.2:80".parse().expect("an address"))
        );
        let told = refusal(&all).expect("one");
        for word in ["web/v1 yet", "one of web/v2", "\nhelp: ", "zdd backend list web`"] {
            assert!(told.contains(word), "{word:?} is missing in {told}");
        }
        let many = refusal(&vec![all[0].clone(); 7]).expect("seven");
        assert!(many.contains("; and 3 more\nhelp: ") && many.matches("one of").count() == 4, "{many}");
        assert_eq!(refusal(&[]), None);
        let drains = taken(&held(&before, true), &after);
        assert!(drains[0].why.contains("still drains from web/v2"), "{drains:?}");
    }

    #[test]
    fn where_replies_are_told_by_the_address_it_keeps_its_service_too() {
        let web = |forward, v1| service("web", "10.0.0.10:80/tcp", forward, v1, THREE);
        let both = format!("{ONE}, {TWO}");
        let other = |vip, forward| service("other", vip, forward, TWO, "\"10.1.0.4:80\"");
        let count = |forward, vip, others| {
            let before = services(&web(forward, &both));
            let after = services(&(web(forward, ONE) + &other(vip, others)));
            taken(&held(&before, false), &after).len()
        };
        assert_eq!(count("nat", "10.0.0.10:81/tcp", "nat"), 1);
        assert_eq!(
            count("l2", "10.0.0.11:80/tcp", "nat"),
            1,
            "the new one would claim the old one's direct replies"
        );
        assert_eq!(count("nat", "10.0.0.11:80/tcp", "l2"), 1);
        assert_eq!(count("l2", "10.0.0.11:80/tcp", "l2"), 0, "nobody rewrites replies");
        assert_eq!(count("nat", "10.0.0.10:81/udp", "nat"), 0, "another protocol");
    }

    #[test]
    fn the_backends_of_a_service_that_goes_are_free() {
        let before = services(&service("web", "10.0.0.10:80/tcp", "nat", ONE, TWO));
        let after = services(&service("web2", "10.0.0.10:80/tcp", "nat", ONE, TWO));
        assert_eq!(taken(&held(&before, false), &after), []);
    }
}
