//! Which world shows that a rule is needed: the smallest in which its absence breaks something.

use super::config::{Config, RULES, Without};
use super::worlds::world;

/// Rule and world.
pub const SHOWN_BY: &[(&str, &str)] = &[
    ("filter", "one"),
    ("positions", "forged"),
    ("nearest-wins", "forged-near"),
    ("alt-restore", "reuse"),
    ("fin-learned", "one"),
    ("fin-after-syn", "forged-3"),
    ("fail-clock", "no-room"),
    ("insert-at-base", "remove"),
    ("sticky-dirty", "one"),
    ("conditional-delete", "inside"),
    ("half-life", "one"),
    ("wipe-clock", "wipe"),
    ("wipe-arm", "udp"),
    ("udp-arm", "udp"),
    ("udp-rearm", "udp-full"),
    ("keep-redundant", "one"),
    ("since-restart", "wipe"),
    ("grace", "inside"),
    ("forget-scan", "one"),
    ("fallback", "no-room"),
    ("join-clean", "rows"),
    ("join-lookup", "rows"),
    ("ask-first", "limit"),
    ("own-facts", "two-services"),
    ("same-row", "same-row"),
];

/// A rule by its name on the command line.
pub fn rule(name: &str) -> Option<Without> {
    RULES.iter().find(|(known, _)| *known == name).map(|(_, rule)| *rule)
}

/// The world that shows a rule to be needed, without it.
pub fn ablated(name: &str) -> Option<Config> {
    let (_, shows) = SHOWN_BY.iter().find(|(rule, _)| *rule == name)?;
    Some(world(shows)?.ablated(rule(name)?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::checker::search::{Bounds, search};
    use crate::checker::snat;

    const BOUNDS: Bounds = Bounds { memory: 1 << 30, time: Duration::from_secs(60), clean_every: 4 };

    #[test]
    fn every_rule_has_a_world_that_shows_it() {
        for (name, _) in RULES {
            assert!(ablated(name).is_some(), "{name}");
        }
        for (name, ..) in snat::config::RULES {
            assert!(snat::worlds::ablated(name).is_some(), "{name}");
        }
    }

    #[test]
    fn one_connection_survives_shift_and_rollback() {
        let found = search(&world("one").expect("world one"), &BOUNDS);
        assert!(found.complete && found.violation.is_none(), "{found:?}");
    }

    #[test]
    fn without_the_filter_a_copy_of_a_syn_draws_its_connection_away() {
        let found = search(&ablated("filter").expect("rule filter"), &BOUNDS);
        let (_, trace) = found.violation.expect("a violation");
        assert_eq!(trace.len(), 5);
    }
}
