//! Which version a preview VIP leads to. Pure: it follows from what is persisted, so a kill in between changes nothing.

use crate::desired::ServiceSpec;
use crate::rollout::saved::SavedRollouts;

/// The version that all new flows of a service's preview VIPs go to: the candidate of the rollout under way; else
/// `preview_version`; else the candidate of the last rollout; else the first version after the stable one.
///
/// `takes`: whether a version has a backend that takes new flows, sick or not. One that has none is passed over for the one that has
/// the most weight, because it would keep a drain from ending. `None`: no version has any.
pub fn version<'a>(
    spec: &'a ServiceSpec,
    rollouts: &'a SavedRollouts,
    takes: impl Fn(&str) -> bool,
) -> Option<&'a str> {
    let known = |name: &&str| spec.versions.iter().any(|version| version.name == *name);
    let candidate = rollouts.active().map(|rollout| rollout.plan.candidate.as_str());
    let last = rollouts.current.as_ref().map(|rollout| rollout.plan.candidate.as_str());
    let next = spec.versions.get(1).or(spec.versions.first()).map(|version| version.name.as_str());
    let meant = candidate
        .filter(known)
        .or(spec.preview_version.as_deref().filter(known))
        .or(last.filter(known))
        .or(next)
        .filter(|name| takes(name));
    // The first of those with the same weight: `max_by_key` takes the last.
    let able = spec.versions.iter().rev().filter(|version| takes(&version.name));
    meant.or_else(|| able.max_by_key(|version| version.weight).map(|version| version.name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::rollout::machine::{Holds, Phase, begin};
    use crate::rollout::saved::SavedRollout;

    fn spec(more: &str) -> ServiceSpec {
        let version = |name: &str, weight, last| {
            format!(
                "[[service.version]]\nname = \"{name}\"\nweight = {weight}\nbackends = [\"10.1.0.{last}:80\"]\n"
            )
        };
        let text = format!(
            "[agent]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nvip = \"10.0.0.10:80/tcp\"\nforward = \"l2\"\n\
             preview = \"10.0.0.11:80/tcp\"\n{more}\n[service.rollout]\nstrategy = \"blue-green\"\n{}{}{}",
            version("v1", 100, 1),
            version("v2", 0, 2),
            version("v3", 0, 3)
        );
        Config::parse(&text, "test").unwrap().0.services.remove(0)
    }

    fn rollouts(spec: &ServiceSpec, candidate: &str, phase: Phase) -> SavedRollouts {
        let plan = crate::rollout::machine::Plan {
            id: 1,
            spec: spec.rollout.clone().unwrap(),
            stable: "v1".to_owned(),
            candidate: candidate.to_owned(),
            train_run: 0,
        };
        let (mut progress, _) = begin(&plan, Holds::default(), 0);
        progress.phase = phase;
        let current = SavedRollout {
            plan,
            progress,
            clock_ms: 0,
            started_unix_ms: 0,
            log: vec![],
            leading: 0,
            comparisons: Default::default(),
        };
        SavedRollouts { current: Some(current), ..SavedRollouts::default() }
    }

    #[test]
    fn of_those_with_the_same_weight_it_is_the_first() {
        let spec = spec("");
        let rollouts = rollouts(&spec, "v1", Phase::Running);
        assert_eq!(version(&spec, &rollouts, |name| name != "v1"), Some("v2"));
    }

    #[test]
    fn it_is_the_rollouts_candidate_else_the_named_one_else_the_last_candidate_else_the_second() {
        let (plain, named) = (spec(""), spec("preview_version = \"v3\""));
        let none = SavedRollouts::default();
        let of = |spec: &ServiceSpec, rollouts: &SavedRollouts| {
            version(spec, rollouts, |_| true).map(str::to_owned)
        };
        assert_eq!((of(&plain, &none), of(&named, &none)), (Some("v2".into()), Some("v3".into())));
        let v3 = rollouts(&plain, "v3", Phase::Running);
        assert_eq!(of(&plain, &v3).as_deref(), Some("v3"));
        let v2 = rollouts(&named, "v2", Phase::RollingBack("x".to_owned()));
        assert_eq!(of(&named, &v2).as_deref(), Some("v2"), "until it is over");
        for over in [Phase::Promoted, Phase::RolledBack("x".to_owned())] {
            let (v3, v2) = (rollouts(&plain, "v3", over.clone()), rollouts(&named, "v2", over));
            assert_eq!((of(&plain, &v3).as_deref(), of(&named, &v2).as_deref()), (Some("v3"), Some("v3")));
        }
        let gone = rollouts(&plain, "v9", Phase::Running);
        assert_eq!(of(&plain, &gone).as_deref(), Some("v2"));
    }

    #[test]
    fn one_that_takes_no_flows_is_passed_over_for_the_one_that_has_the_most() {
        let plain = spec("");
        let of = |takes: &[&str]| {
            version(&plain, &SavedRollouts::default(), |name| takes.contains(&name)).map(str::to_owned)
        };
        assert_eq!(of(&["v1", "v3"]).as_deref(), Some("v1"));
        assert_eq!(of(&["v3"]).as_deref(), Some("v3"));
        assert_eq!(of(&[]), None);
    }
}
