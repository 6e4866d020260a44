//! The difference of two sets of services, as people read it, and what of it must not be done under traffic.

use crate::desired::{HealthSpec, ServiceSpec, VersionSpec};
use crate::report::{Change, Op};
use crate::text::percent;

fn change(op: Op, what: String, from: Option<String>, to: Option<String>) -> Change {
    Change { op, what, from, to }
}

/// What differs, service by service.
pub fn changes(from: &[ServiceSpec], to: &[ServiceSpec]) -> Vec<Change> {
    let mut all = Vec::new();
    for old in from {
        if !to.iter().any(|new| new.name == old.name) {
            all.push(change(Op::Remove, format!("service {}", old.name), Some(old.dialled()), None));
        }
    }
    for new in to {
        match from.iter().find(|old| old.name == new.name) {
            Some(old) => service(&mut all, old, new),
            None => all.push(change(Op::Add, format!("service {}", new.name), None, Some(new.dialled()))),
        }
    }
    all
}

fn service(all: &mut Vec<Change>, old: &ServiceSpec, new: &ServiceSpec) {
    let name = &new.name;
    let mut field = |what: &str, from: String, to: String| {
        if from != to {
            all.push(change(Op::Change, format!("{name} {what}"), Some(from), Some(to)));
        }
    };
    let time = |d: std::time::Duration| humantime::format_duration(d).to_string();
    field("vip", old.dialled(), new.dialled());
    let preview = |spec: &ServiceSpec| match spec.preview.as_slice() {
        [] => "none".to_owned(),
        all => all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    field("preview", preview(old), preview(new));
    let named = |spec: &ServiceSpec| spec.preview_version.clone().unwrap_or_else(|| "not named".to_owned());
    field("preview_version", named(old), named(new));
    field("affinity", old.affinity.to_string(), new.affinity.to_string());
    field("forward", old.forward.to_string(), new.forward.to_string());
    field("cells", old.cells.to_string(), new.cells.to_string());
    field("idle_timeout", time(old.idle_timeout), time(new.idle_timeout));
    field("udp_idle_timeout", time(old.udp_idle_timeout), time(new.udp_idle_timeout));
    field("udp", old.udp.to_string(), new.udp.to_string());
    if old.access != new.access {
        // The lists may be long; what they are called says which.
        field(
            "access",
            format!("{} (as it was)", old.access.summary()),
            format!("{} (as it is now)", new.access.summary()),
        );
    }
    let pace = |spec: &ServiceSpec| {
        spec.new_per_source.map_or("none".to_owned(), |n| format!("{}/s, {} at once", n.rate, n.burst))
    };
    field("new_per_source", pace(old), pace(new));
    let drain = |d: Option<std::time::Duration>| d.map_or_else(|| "none".to_owned(), time);
    field("drain_timeout", drain(old.drain_timeout), drain(new.drain_timeout));
    if old.health != new.health {
        // Never what is asked or expected: paths, datagrams and arguments may hold secrets.
        let health = |spec: &ServiceSpec| spec.health.as_ref().map_or("none".to_owned(), HealthSpec::summary);
        let (was, is) = (health(old), health(new));
        match was == is {
            true => field("health", format!("{was} (as it was)"), format!("{is} (as it is now)")),
            false => field("health", was, is),
        }
    }
    if old.rollout != new.rollout {
        // A specification is a page: what it is called says enough, and `rollout plan` shows the rest.
        let named = |spec: &ServiceSpec, mark: &str| {
            spec.rollout.as_ref().map_or("none".to_owned(), |r| format!("{} ({mark})", r.strategy.name()))
        };
        field("rollout", named(old, "as it was"), named(new, "as it is now"));
    }
    if old.cohorts != new.cohorts {
        let named = |spec: &ServiceSpec, mark: &str| match spec.cohorts.as_slice() {
            [] => "none".to_owned(),
            all => {
                let told = all.iter().map(|cohort| {
                    let many = cohort.prefixes.as_ref().map_or(0, |prefixes| prefixes.len());
                    format!("{} ({many} prefixes)", cohort.name)
                });
                format!("{} ({mark})", told.collect::<Vec<_>>().join(", "))
            }
        };
        field("cohorts", named(old, "as it was"), named(new, "as it is now"));
    }
    for version in &old.versions {
        if !new.versions.iter().any(|v| v.name == version.name) {
            all.push(change(
                Op::Remove,
                format!("{name}/{}", version.name),
                Some(percent(version.weight)),
                None,
            ));
        }
    }
    for version in &new.versions {
        match old.versions.iter().find(|v| v.name == version.name) {
            Some(before) => self::version(all, name, before, version),
            None => all.push(change(
                Op::Add,
                format!("{name}/{}", version.name),
                None,
                Some(percent(version.weight)),
            )),
        }
    }
}

fn version(all: &mut Vec<Change>, service: &str, old: &VersionSpec, new: &VersionSpec) {
    let name = format!("{service}/{}", new.name);
    if old.weight != new.weight {
        all.push(change(
            Op::Change,
            format!("{name} weight"),
            Some(percent(old.weight)),
            Some(percent(new.weight)),
        ));
    }
    if old.forward != new.forward {
        let text = |f: Option<crate::desired::Forward>| f.map(|f| f.to_string());
        all.push(change(Op::Change, format!("{name} forward"), text(old.forward), text(new.forward)));
    }
    for backend in &old.backends {
        if !new.backends.iter().any(|b| b.address == backend.address) {
            all.push(change(Op::Remove, format!("{name} backend {}", backend.address), None, None));
        }
    }
    for backend in &new.backends {
        match old.backends.iter().find(|b| b.address == backend.address) {
            Some(before) if before.weight != backend.weight => all.push(change(
                Op::Change,
                format!("{name} backend {} weight", backend.address),
                Some(before.weight.to_string()),
                Some(backend.weight.to_string()),
            )),
            Some(_) => {}
            None => all.push(change(Op::Add, format!("{name} backend {}", backend.address), None, None)),
        }
    }
}

/// What of the difference would move or break live flows, each with the way out. Empty: it can be done under traffic.
pub fn refusals(from: &[ServiceSpec], to: &[ServiceSpec]) -> Vec<String> {
    let mut all = Vec::new();
    for new in to {
        let Some(old) = from.iter().find(|old| old.name == new.name) else { continue };
        let name = &new.name;
        let mut refuse = |what: &str, from: String, to: String, why: &str| {
            if from != to {
                all.push(format!(
                    "{name}: {what} cannot change from {from} to {to} while the service lives: {why}\nhelp: put {from} back, or give the service a new name: the old one is then removed and a new one begins"
                ));
            }
        };
        let remap = "every client would be mapped anew and live flows would break";
        refuse("affinity", old.affinity.to_string(), new.affinity.to_string(), remap);
        refuse("cells", old.cells.to_string(), new.cells.to_string(), remap);
        // A second VIP may come: nothing flows there yet.
        if !old.vips.iter().all(|vip| new.vips.contains(vip)) {
            refuse("vip", old.dialled(), new.dialled(), "its live flows would lose their way");
        }
        for version in &new.versions {
            let Some(before) = old.versions.iter().find(|v| v.name == version.name) else { continue };
            refuse(
                &format!("forward of {}", version.name),
                before.forward.unwrap_or(old.forward).to_string(),
                version.forward.unwrap_or(new.forward).to_string(),
                "live flows are known to their backends under the old mode",
            );
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn services(vip: &str, backend: &str) -> Vec<ServiceSpec> {
        let text = format!(
            r#"
            [agent]
            interfaces = ["eth0"]
            [[service]]
            name = "web"
            vip = {vip}
            forward = "nat"
            [[service.version]]
            name = "v1"
            backends = ["10.1.0.1:80"{backend}]
            "#
        );
        Config::parse(&text, "test").unwrap().0.services
    }

    #[test]
    fn another_health_check_is_told_without_what_it_asks() {
        let with = |health: &str| {
            let mut all = services("\"10.0.0.10:80/tcp\"", "");
            let text = format!(
                "[agent]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nvip = \"10.0.0.10:80/tcp\"\nforward = \"nat\"\n\
                 health = {health}\n[[service.version]]\nname = \"v1\"\nbackends = [\"10.1.0.1:80\"]\n"
            );
            all[0].health = Config::parse(&text, "test").unwrap().0.services.remove(0).health;
            all
        };
        let told = |from: &str, to: &str| {
            let mut all = changes(&with(from), &with(to));
            assert_eq!((all.len(), all[0].what.as_str()), (1, "web health"), "{all:?}");
            let one = all.remove(0);
            format!("{} -> {}", one.from.unwrap(), one.to.unwrap())
        };
        assert_eq!(
            told(
                "{ http = \"/h?token=planted\" }",
                "{ tcp = true, interval = \"5s\", fast_interval = \"1s\", fall = 1 }"
            ),
            "http every 1s within 500ms, rise 2, fall 3 -> tcp every 5s (1s while unsteady) within 500ms, rise 2, fall 1"
        );
        let argv = told("{ exec = [\"/x\", \"planted-1\"] }", "{ exec = [\"/x\", \"planted-2\"] }");
        assert!(argv.contains("(as it was)") && !argv.contains("planted"), "{argv}");
    }

    #[test]
    fn a_second_vip_may_come_under_traffic_and_none_may_go() {
        let one = services("\"10.0.0.10:80/tcp\"", "");
        let both = services("[\"10.0.0.10:80/tcp\", \"[2001:db8::10]:80/tcp\"]", ", \"[2001:db8::11]:80\"");
        assert_eq!(refusals(&one, &both), Vec::<String>::new());
        let told: Vec<String> = changes(&one, &both).iter().map(|c| c.what.clone()).collect();
        assert_eq!(told, ["web vip", "web/v1 backend [2001:db8::11]:80"]);
        let refused = refusals(&both, &one);
        assert!(refused.len() == 1 && refused[0].contains("web: vip cannot change"), "{refused:?}");
        let other = services("\"10.0.0.11:80/tcp\"", "");
        assert_eq!(refusals(&one, &other).len(), 1);
    }
}
