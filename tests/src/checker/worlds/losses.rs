//! What is lost or taken away: tables, agents, backends, the node that knew.

use super::{FIRST, SECOND, Size};
use crate::checker::config::{Budget, Config};

pub(super) fn worlds() -> Vec<(Size, Config)> {
    vec![
        (
            Size::Short,
            Config {
                fin: true,
                budget: Budget { changes: 2, wipes: 1, restarts: 1, ..Budget::default() },
                ..Config::base("wipe", "the flow table is lost, the agent dies")
            },
        ),
        (
            Size::Short,
            Config {
                backends: 3,
                fin: true,
                budget: Budget { changes: 3, removals: 1, ..Budget::default() },
                ..Config::base("remove", "a backend is removed at its deadline")
            },
        ),
        (
            Size::Usual,
            Config {
                backends: 3,
                flows: vec![FIRST, SECOND],
                budget: Budget { changes: 3, removals: 1, ..Budget::default() },
                ..Config::base("remove-reuse", "a backend is removed, a port is used again")
            },
        ),
        (
            Size::Usual,
            Config {
                flows: vec![FIRST, SECOND],
                fin: true,
                budget: Budget { changes: 2, restarts: 1, wipes: 1, ..Budget::default() },
                ..Config::base("wipe-reuse", "the flow table is lost, the agent dies, a port is used again")
            },
        ),
        (
            Size::Usual,
            Config {
                nodes: 2,
                udp: true,
                flight: 0,
                budget: Budget { changes: 2, reroutes: 2, again: 1, restarts: 1, ..Budget::default() },
                ..Config::base("two-nodes-udp", "routers move a UDP flow between two nodes, an agent dies")
            },
        ),
        (
            Size::Short,
            Config {
                nodes: 2,
                flight: 0,
                fin: true,
                budget: Budget { changes: 2, reroutes: 1, ..Budget::default() },
                ..Config::base(
                    "two-nodes",
                    "routers move a connection between two nodes, where it is at base or known",
                )
            },
        ),
        (
            Size::Usual,
            Config {
                nodes: 2,
                flight: 0,
                fin: true,
                budget: Budget { changes: 3, reroutes: 3, restarts: 1, ..Budget::default() },
                ..Config::base("two-nodes-3", "the same, three changes and moves, an agent dies")
            },
        ),
        (
            Size::Short,
            Config {
                nodes: 2,
                flight: 0,
                flows: vec![FIRST, SECOND],
                budget: Budget { changes: 2, reroutes: 2, ..Budget::default() },
                exception: Some("a connection moved to a node that remembers another one of its tuple (d)"),
                ..Config::base("two-nodes-reuse", "the same, and a port used again by way of either node")
            },
        ),
        (
            Size::Short,
            Config {
                nodes: 2,
                moves_safely: false,
                flight: 0,
                budget: Budget { changes: 1, reroutes: 1, ..Budget::default() },
                exception: Some(
                    "routers move a connection to a node where it is neither at base nor known (d)",
                ),
                ..Config::base("two-nodes-apart", "routers move a connection anywhere, during a change")
            },
        ),
    ]
}
