//! Forged packets.

use super::{FIRST, SECOND, Size, blind, forged};
use crate::checker::config::{Budget, Config, FAR, FARTHER, FlowSpec, ISN, NEAR};

pub(super) fn worlds() -> Vec<(Size, Config)> {
    vec![
        (
            Size::Usual,
            Config {
                flows: vec![FIRST, FlowSpec { tuple: 0, isn: FAR }, FlowSpec { tuple: 0, isn: NEAR }],
                forgeries: vec![forged(true, false, false, FARTHER), forged(false, true, false, FARTHER + 1)],
                fin: true,
                flight: 0,
                budget: Budget { changes: 2, forged: 2, ..Budget::default() },
                ..Config::base("reuse-3-forged", "the same with two forged packets")
            },
        ),
        (
            Size::Short,
            Config {
                forgeries: blind(),
                fin: true,
                budget: Budget { changes: 2, forged: 2, ..Budget::default() },
                ..Config::base("forged", "two blind forged packets, two changes")
            },
        ),
        (
            Size::Usual,
            Config {
                forgeries: blind(),
                moves: (1, 1460),
                fin: true,
                budget: Budget { changes: 2, forged: 3, ..Budget::default() },
                ..Config::base("forged-3", "three blind forged packets, two changes")
            },
        ),
        (
            Size::Usual,
            Config {
                backends: 3,
                forgeries: blind(),
                fin: true,
                budget: Budget { changes: 2, forged: 1, removals: 1, ..Budget::default() },
                ..Config::base("remove-forged", "a backend is removed, two blind forged packets")
            },
        ),
        (
            Size::Usual,
            Config {
                flows: vec![FIRST, SECOND],
                limited: true,
                forgeries: vec![forged(true, false, false, FARTHER)],
                budget: Budget { changes: 2, forged: 1, restarts: 1, ..Budget::default() },
                ..Config::base("limit-forged", "limited connections, a forged SYN, the agent dies")
            },
        ),
        (
            Size::Short,
            Config {
                forgeries: vec![forged(true, false, false, NEAR), forged(false, false, false, NEAR + 1)],
                forges_on_entry: true,
                moves: (1, 1460),
                flight: 0,
                budget: Budget { changes: 2, forged: 3, ..Budget::default() },
                ..Config::base("forged-near", "forged packets within reach of a victim that has an entry")
            },
        ),
        (
            Size::Short,
            Config {
                forgeries: vec![forged(true, false, false, NEAR), forged(false, false, false, NEAR + 1)],
                flight: 0,
                budget: Budget { changes: 1, forged: 2, ..Budget::default() },
                exception: Some(
                    "forged SYN and ACK within 64 MiB of a victim that was silent since the change",
                ),
                ..Config::base("forged-silent", "forged packets within reach of a victim that has no entry")
            },
        ),
        (
            Size::Short,
            Config {
                forgeries: vec![
                    forged(true, false, false, FAR),
                    forged(false, false, false, FAR + 1),
                    forged(false, true, false, FAR + 1),
                    forged(true, false, false, FARTHER),
                ],
                flight: 0,
                budget: Budget { changes: 1, forged: 4, ..Budget::default() },
                exception: Some("a whole forged connection, closed, and a forged SYN after it"),
                ..Config::base(
                    "forged-four",
                    "four forged packets for a victim that was silent since the change",
                )
            },
        ),
        (
            Size::Short,
            Config {
                forgeries: vec![forged(true, false, false, ISN - 10)],
                flight: 0,
                budget: Budget { changes: 1, forged: 1, ..Budget::default() },
                exception: Some("a forged SYN near the victim's number inside its handshake"),
                ..Config::base("forged-handshake", "exception (a)")
            },
        ),
        (
            Size::Short,
            Config {
                forgeries: vec![forged(true, false, false, NEAR)],
                moves: (2, 1 << 19),
                flight: 0,
                budget: Budget { changes: 1, forged: 1, ..Budget::default() },
                exception: Some("a connection that sends its way over a forged SYN's number"),
                ..Config::base("passes-forged", "the victim's sequence number reaches a forged SYN's")
            },
        ),
        (
            Size::Long,
            Config {
                flows: vec![FIRST, SECOND],
                forgeries: blind(),
                fin: true,
                flight: 2,
                budget: Budget { changes: 3, forged: 3, ..Budget::default() },
                ..Config::base("long-forged", "a port used again, three blind forged packets, three changes")
            },
        ),
    ]
}
