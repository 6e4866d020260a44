//! Packets inside the program while the world changes.

use super::{FIRST, INSIDE, SECOND, Size, blind, changes};
use crate::checker::config::{Budget, Config};

pub(super) fn worlds() -> Vec<(Size, Config)> {
    vec![
        (
            Size::Usual,
            Config {
                cells: 2,
                mids: 1,
                clock: INSIDE,
                budget: Budget { changes: 2, joins: 1, ..Budget::default() },
                ..Config::base("rows-inside", "the same with a packet inside, once")
            },
        ),
        (
            Size::Short,
            Config {
                mids: 1,
                clock: INSIDE,
                fin: true,
                budget: changes(2),
                ..Config::base("inside", "a packet inside the program while the world changes")
            },
        ),
        (
            Size::Usual,
            Config {
                mids: 1,
                clock: INSIDE,
                backends: 3,
                budget: changes(3),
                ..Config::base("inside-3", "the same through three changes, none of which waits for it")
            },
        ),
        (
            Size::Usual,
            Config {
                mids: 2,
                clock: INSIDE,
                fin: true,
                budget: changes(2),
                ..Config::base("inside-2", "two packets inside the program while the world changes")
            },
        ),
        (
            Size::Usual,
            Config {
                mids: 1,
                clock: INSIDE,
                flows: vec![FIRST, SECOND],
                budget: changes(2),
                ..Config::base("inside-reuse", "a packet inside the program, a port used again")
            },
        ),
        (
            Size::Usual,
            Config {
                mids: 1,
                clock: INSIDE,
                forgeries: blind(),
                budget: Budget { changes: 2, forged: 2, ..Budget::default() },
                ..Config::base("inside-forged", "a packet inside the program, two blind forged packets")
            },
        ),
        (
            Size::Short,
            Config {
                udp: true,
                flight: 1,
                late: true,
                mids: 1,
                clock: INSIDE,
                budget: Budget { changes: 2, again: 1, ..Budget::default() },
                ..Config::base("udp-inside", "a UDP flow, late packets, one inside the program")
            },
        ),
        (
            Size::Short,
            Config {
                mids: 2,
                early: true,
                rss: false,
                flight: 0,
                clock: INSIDE,
                ..Config::base("same-row", "copies of one SYN on two CPUs while a row is committed")
            },
        ),
        (
            Size::Usual,
            Config {
                mids: 2,
                clock: INSIDE,
                rss: false,
                fin: true,
                budget: changes(2),
                ..Config::base("no-rss", "copies of one SYN inside at the same time, on different CPUs")
            },
        ),
        (
            Size::Long,
            Config {
                mids: 2,
                clock: INSIDE,
                flows: vec![FIRST, SECOND],
                fin: true,
                budget: Budget { changes: 2, restarts: 1, ..Budget::default() },
                ..Config::base("long-inside", "two packets inside, a port used again, a restart")
            },
        ),
    ]
}
