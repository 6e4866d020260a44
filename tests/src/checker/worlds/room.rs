//! Tables and quotas that are full, and who shares them.

use super::{FIRST, OTHER, SECOND, Size, blind, changes, forged};
use crate::checker::config::{Budget, Clock, Config, FAR, FARTHER, FlowSpec, ISN};

pub(super) fn worlds() -> Vec<(Size, Config)> {
    vec![
        (
            Size::Short,
            Config {
                forgeries: blind(),
                fin: true,
                pressure: true,
                capacity: 1,
                budget: Budget { changes: 2, forged: 1, ..Budget::default() },
                clock: Clock { idle: 3, ..Clock::SHORT },
                ..Config::base("pressure", "closed connections are reclaimed early; a blind forged packet")
            },
        ),
        (
            Size::Short,
            Config {
                flows: vec![FIRST, OTHER],
                cells: 1,
                capacity: 1,
                budget: changes(2),
                ..Config::base("full", "two connections, room for one")
            },
        ),
        (
            Size::Short,
            Config {
                flows: vec![FIRST, OTHER],
                capacity: 2,
                quota: [1, 1, 1],
                budget: changes(2),
                ..Config::base("quota", "two connections, a quota of one per class")
            },
        ),
        (
            Size::Short,
            Config {
                capacity: 0,
                budget: changes(3),
                ..Config::base("no-room", "no entry can ever be made")
            },
        ),
        (
            Size::Short,
            Config {
                flows: vec![FIRST, SECOND],
                quota: [0, 1, 1],
                forgeries: vec![forged(true, false, false, FARTHER)],
                budget: Budget { changes: 2, forged: 1, ..Budget::default() },
                ..Config::base("quota-half", "no half-open entry can be made")
            },
        ),
        (
            Size::Usual,
            Config {
                flows: vec![FIRST, OTHER],
                capacity: 1,
                fin: true,
                budget: Budget { changes: 2, restarts: 1, wipes: 1, ..Budget::default() },
                ..Config::base("full-restart", "two connections, room for one, the agent dies, all is lost")
            },
        ),
        (
            Size::Short,
            Config {
                udp: true,
                flight: 0,
                flows: vec![FlowSpec { tuple: 0, isn: 0 }, FlowSpec { tuple: 1, isn: 0 }],
                capacity: 1,
                budget: Budget { changes: 3, again: 1, ..Budget::default() },
                ..Config::base("udp-full", "two UDP flows, room for one")
            },
        ),
        (
            Size::Usual,
            Config {
                cells: 2,
                flows: vec![FIRST, OTHER],
                capacity: 1,
                budget: changes(2),
                ..Config::base("two-cells", "two cells that share a table with room for one")
            },
        ),
        (
            Size::Short,
            Config {
                cells: 2,
                services: true,
                flows: vec![FIRST, OTHER],
                capacity: 1,
                flight: 0,
                budget: changes(2),
                ..Config::base("two-services", "two services that share a table with room for one")
            },
        ),
        (
            Size::Long,
            Config {
                cells: 2,
                services: true,
                flows: vec![FIRST, OTHER, SECOND],
                capacity: 1,
                fin: true,
                flight: 0,
                budget: Budget { changes: 2, restarts: 1, ..Budget::default() },
                ..Config::base("long-two-services", "the same, a port used again, the agent dies")
            },
        ),
        (
            Size::Short,
            Config {
                cells: 2,
                services: true,
                preview: true,
                flows: vec![FIRST, FlowSpec { tuple: 1, isn: ISN }, FlowSpec { tuple: 1, isn: FAR }],
                capacity: 1,
                fin: true,
                flight: 0,
                ..Config::base("preview-reuse", "a tester uses a port again, at one time the user's own")
            },
        ),
        (
            Size::Long,
            Config {
                cells: 2,
                services: true,
                preview: true,
                flows: vec![FIRST, FlowSpec { tuple: 1, isn: ISN }, FlowSpec { tuple: 1, isn: FAR }],
                fin: true,
                flight: 0,
                budget: changes(2),
                ..Config::base("long-preview", "the same with two changes, and room for both")
            },
        ),
    ]
}
