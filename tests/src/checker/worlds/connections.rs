//! One client's connections through changes: copies, late packets, ports used again.

use super::{FIRST, SECOND, Size, changes};
use crate::checker::config::{Budget, Clock, Config, FAR, FlowSpec, NEAR};

pub(super) fn worlds() -> Vec<(Size, Config)> {
    vec![
        (
            Size::Short,
            Config {
                fin: true,
                rst: true,
                flight: 2,
                budget: changes(2),
                ..Config::base("one", "one connection, copies of its SYN, shift and rollback")
            },
        ),
        (
            Size::Short,
            Config {
                cells: 2,
                fin: true,
                budget: Budget { changes: 3, joins: 2, ..Budget::default() },
                ..Config::base(
                    "rows",
                    "a client that comes to be steered by another row, and back; each row changes",
                )
            },
        ),
        (
            Size::Short,
            Config {
                cells: 2,
                udp: true,
                budget: Budget { changes: 3, joins: 2, again: 1, ..Budget::default() },
                ..Config::base("rows-udp", "the same for a UDP flow")
            },
        ),
        (
            Size::Usual,
            Config {
                fin: true,
                late: true,
                flight: 2,
                backends: 3,
                moves: (1, 1460),
                budget: Budget { changes: 3, copies: 1, ..Budget::default() },
                ..Config::base("flap", "one connection, three changes among three backends, late packets")
            },
        ),
        (
            Size::Short,
            Config {
                fin: true,
                budget: changes(2),
                clock: Clock::LONG,
                ..Config::base(
                    "clock",
                    "one connection, a filter that forgets at its own time, longer timeouts",
                )
            },
        ),
        (
            Size::Short,
            Config {
                flows: vec![FIRST, SECOND],
                fin: true,
                flight: 1,
                budget: changes(2),
                ..Config::base("reuse", "a port used again with an ISN far away")
            },
        ),
        (
            Size::Short,
            Config {
                flows: vec![FIRST, FlowSpec { tuple: 0, isn: NEAR }],
                flight: 1,
                budget: changes(2),
                ..Config::base("reuse-near", "a port used again with an ISN within reach")
            },
        ),
        (
            Size::Usual,
            Config {
                flows: vec![FIRST, SECOND],
                fin: true,
                late: true,
                flight: 2,
                budget: changes(2),
                ..Config::base(
                    "reuse-late",
                    "a port used again while packets of the first connection are on the wire",
                )
            },
        ),
        (
            Size::Short,
            Config {
                flows: vec![FIRST, FlowSpec { tuple: 0, isn: FAR }, FlowSpec { tuple: 0, isn: NEAR }],
                fin: true,
                flight: 0,
                budget: changes(2),
                ..Config::base("reuse-3", "a port used three times, near and far")
            },
        ),
        (
            Size::Long,
            Config {
                flows: vec![FIRST, FlowSpec { tuple: 0, isn: FAR }, FlowSpec { tuple: 0, isn: NEAR }],
                fin: true,
                late: true,
                flight: 1,
                backends: 3,
                budget: changes(3),
                ..Config::base("long-reuse-3", "the same with late packets and three backends")
            },
        ),
        (
            Size::Short,
            Config {
                flows: vec![FIRST, SECOND],
                limited: true,
                fin: true,
                flight: 2,
                budget: changes(2),
                ..Config::base("limit", "new connections are limited, any of them may be refused")
            },
        ),
        (
            Size::Short,
            Config {
                budget: Budget { changes: 2, lies: 2, ..Budget::default() },
                flows: vec![FIRST, SECOND],
                ..Config::base("lies", "the filter takes new SYNs for old ones")
            },
        ),
        (
            Size::Short,
            Config {
                udp: true,
                flight: 0,
                budget: Budget { changes: 3, again: 1, wipes: 1, restarts: 1, ..Budget::default() },
                ..Config::base("udp", "a UDP flow, three changes, a wipe, a restart")
            },
        ),
    ]
}
