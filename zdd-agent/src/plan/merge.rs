//! An edited file meets an intent that commands have changed meanwhile.
//!
//! What the file says differently from when it was last read wins: somebody edited it. What it says the same leaves the
//! intent alone: a shift, a drain or an added backend outlives the agent. Every place where the two differ is told.

use crate::desired::{FULL, ServiceSpec, VersionSpec};
use crate::text::percent;

/// The outcome.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// What shall be in force.
    pub services: Vec<ServiceSpec>,
    /// By service: what differs from the file, or was taken from it, for people.
    pub notes: Vec<(String, String)>,
}

/// Merges: `old` is the file as last read, `live` what is in force, `new` the file as it is now.
pub fn merge(old: &[ServiceSpec], live: &[ServiceSpec], new: &[ServiceSpec]) -> Merged {
    let mut notes = Vec::new();
    let services = new
        .iter()
        .map(|new| {
            let find = |all: &[ServiceSpec]| all.iter().find(|s| s.name == new.name).cloned();
            match (find(old), find(live)) {
                (Some(old), Some(live)) => {
                    let mut say = |text: String| notes.push((new.name.clone(), text));
                    service(&old, &live, new, &mut say)
                }
                _ => new.clone(),
            }
        })
        .collect();
    Merged { services, notes }
}

fn service(
    old: &ServiceSpec,
    live: &ServiceSpec,
    new: &ServiceSpec,
    say: &mut impl FnMut(String),
) -> ServiceSpec {
    // Nothing but weights and backends can be changed by a command, so the rest is the file's.
    let mut merged = ServiceSpec { versions: Vec::new(), ..new.clone() };
    for version in &new.versions {
        let find = |all: &ServiceSpec| all.versions.iter().find(|v| v.name == version.name).cloned();
        let (before, now) = (find(old), find(live));
        let mut kept = VersionSpec { backends: Vec::new(), ..version.clone() };
        let was = before.as_ref().map(|v| v.backends.as_slice()).unwrap_or_default();
        let is = now.as_ref().map(|v| v.backends.as_slice()).unwrap_or_default();
        for backend in is {
            let in_new = version.backends.iter().find(|b| b.address == backend.address);
            let in_old = was.iter().find(|b| b.address == backend.address);
            match (in_old, in_new) {
                (_, Some(b)) => kept.backends.push(b.clone()),
                (Some(_), None) => {}
                (None, None) => {
                    say(format!(
                        "{} has backend {}, added by command and not in the file: kept",
                        version.name, backend.address
                    ));
                    kept.backends.push(backend.clone());
                }
            }
        }
        for backend in &version.backends {
            let known = is.iter().any(|b| b.address == backend.address);
            let in_old = was.iter().any(|b| b.address == backend.address);
            if known {
                continue;
            }
            if in_old && now.is_some() {
                say(format!(
                    "{} lost backend {} by command, the file still has it: stays out",
                    version.name, backend.address
                ));
            } else {
                kept.backends.push(backend.clone());
            }
        }
        merged.versions.push(kept);
    }
    weights(old, live, new, &mut merged, say);
    merged
}

fn weights(
    old: &ServiceSpec,
    live: &ServiceSpec,
    new: &ServiceSpec,
    merged: &mut ServiceSpec,
    say: &mut impl FnMut(String),
) {
    let of = |spec: &ServiceSpec| -> Vec<(String, u32)> {
        spec.versions.iter().map(|v| (v.name.clone(), v.weight)).collect()
    };
    let show = |all: &[(String, u32)]| {
        all.iter().map(|(name, weight)| format!("{name}={}", percent(*weight))).collect::<Vec<_>>().join(" ")
    };
    let (old, live, new) = (of(old), of(live), of(new));
    if live == new {
        return;
    }
    if new != old {
        say(format!("the file was edited: weights {} replace {}", show(&new), show(&live)));
        return;
    }
    // The same names, because old and new are alike: the intent has a weight for each.
    for version in &mut merged.versions {
        if let Some((_, weight)) = live.iter().find(|(name, _)| *name == version.name) {
            version.weight = *weight;
        }
    }
    if merged.versions.iter().map(|v| v.weight).sum::<u32>() != FULL {
        for version in &mut merged.versions {
            version.weight = new.iter().find(|(name, _)| *name == version.name).map_or(0, |(_, w)| *w);
        }
        return;
    }
    say(format!(
        "weights {} were set by command, the file says {}: kept (`zdd apply FILE` takes the file's)",
        show(&live),
        show(&new)
    ));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn services(v1: &str, v2: &str, backends: &str) -> Vec<ServiceSpec> {
        let text = format!(
            r#"
            [agent]
            interfaces = ["eth0"]
            [[service]]
            name = "web"
            vip = "10.0.0.10:80/tcp"
            forward = "nat"
            [[service.version]]
            name = "v1"
            weight = "{v1}"
            backends = [{backends}]
            [[service.version]]
            name = "v2"
            weight = "{v2}"
            backends = ["10.1.0.9:80"]
            "#
        );
        Config::parse(&text, "test").unwrap().0.services
    }

    const A: &str = "\"10.1.0.1:80\"";
    const AB: &str = "\"10.1.0.1:80\", \"10.1.0.2:80\"";

    #[test]
    fn a_shift_outlives_the_agent_and_is_told() {
        let file = services("100%", "0%", A);
        let merged = merge(&file, &services("90%", "10%", A), &file);
        assert_eq!(merged.services, services("90%", "10%", A));
        assert!(merged.notes[0].1.contains("kept"), "{:?}", merged.notes);
    }

    #[test]
    fn an_edited_file_wins_over_the_intent_and_says_so() {
        let merged =
            merge(&services("100%", "0%", A), &services("90%", "10%", A), &services("50%", "50%", A));
        assert_eq!(merged.services, services("50%", "50%", A));
        assert!(merged.notes[0].1.contains("edited"), "{:?}", merged.notes);
    }

    #[test]
    fn backends_added_or_removed_by_command_stay_so() {
        let (one, two) = (services("100%", "0%", A), services("100%", "0%", AB));
        assert_eq!(merge(&one, &two, &one).services, two);
        assert_eq!(merge(&two, &one, &two).services, one);
        assert_eq!(merge(&one, &one, &two).services, two);
        assert_eq!(merge(&two, &two, &one).services, one);
    }
}
