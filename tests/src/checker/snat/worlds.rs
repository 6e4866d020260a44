//! The worlds.

use zdd_common::steer::Segment;

use super::config::{Budget, Clock, Config, Conn, FAR, ISN, RULES};
use crate::checker::worlds::Size;

/// A packet may be inside across one step of time; so a port rests for two.
const INSIDE: Clock = Clock { grace: 2, ..Clock::SHORT };

/// All worlds.
pub fn worlds() -> Vec<(Size, Config)> {
    let first = Conn { tuple: 0, isn: ISN, backend: 1 };
    let again = Conn { isn: FAR, ..first };
    let other = Conn { tuple: 1, ..first };
    let blind = |syn, fin, rst| Segment { syn, fin, rst, seq: FAR };
    vec![
        (
            Size::Short,
            Config {
                conns: vec![first, other],
                flight: 1,
                fin: true,
                rst: true,
                late_ends: true,
                ..Config::base("snat-one", "two clients, one port, late packets, every way to end")
            },
        ),
        (
            Size::Short,
            Config {
                conns: vec![first, other],
                fin: true,
                clock: Clock::WAITS,
                ..Config::base("snat-closed", "two clients, one port, a long TIME_WAIT")
            },
        ),
        (
            Size::Short,
            Config {
                conns: vec![first, again],
                flight: 1,
                fin: true,
                rst: true,
                late_ends: true,
                exception: Some("a FIN or reset that comes after the next handshake of its port (j)"),
                ..Config::base("snat-late-end", "a FIN or reset overtaken by the next connection of its port")
            },
        ),
        (
            Size::Short,
            Config {
                conns: vec![first, again, other],
                fin: true,
                rst: true,
                ..Config::base("snat-reuse", "a client that uses its port again, and another")
            },
        ),
        (
            Size::Short,
            Config {
                conns: vec![first, Conn { backend: 2, ..again }],
                ports: 2,
                fin: true,
                pressure: true,
                ..Config::base("snat-two", "a client's port used again towards another backend")
            },
        ),
        (
            Size::Short,
            Config {
                conns: vec![first, other, Conn { tuple: 2, ..first }],
                ports: 2,
                pressure: true,
                ..Config::base("snat-full", "three clients, two ports")
            },
        ),
        (
            Size::Short,
            Config {
                conns: vec![first, other],
                forgeries: vec![
                    blind(true, false, false),
                    blind(false, true, false),
                    blind(false, false, true),
                ],
                fin: true,
                budget: Budget { forged: 2, ..Budget::default() },
                ..Config::base("snat-forged", "two blind forged packets")
            },
        ),
        (
            Size::Short,
            Config {
                conns: vec![first, other],
                ports: 2,
                budget: Budget { wipes: 1, removals: 1, ..Budget::default() },
                ..Config::base("snat-wipe", "the table is lost, a backend is removed")
            },
        ),
        (
            Size::Short,
            Config {
                udp: true,
                conns: vec![first, other],
                flight: 1,
                ..Config::base("snat-udp", "two clients of UDP, one port, late datagrams")
            },
        ),
        (
            Size::Short,
            Config {
                udp: true,
                conns: vec![first, other, Conn { tuple: 2, ..first }],
                ports: 2,
                pressure: true,
                ..Config::base("snat-udp-full", "three clients of UDP, two ports, which are scarce")
            },
        ),
        (
            Size::Usual,
            Config {
                udp: true,
                conns: vec![first, other],
                mids: 1,
                clock: INSIDE,
                ..Config::base(
                    "snat-udp-inside",
                    "two clients of UDP, one port, a datagram inside, step by step",
                )
            },
        ),
        (
            Size::Short,
            Config {
                nodes: 2,
                ports: 2,
                conns: vec![first, other],
                budget: Budget { reroutes: 1, ..Budget::default() },
                ..Config::base(
                    "snat-nodes",
                    "two clients, two nodes with a port each, routers move a connection: it is lost, nobody else is",
                )
            },
        ),
        (
            Size::Usual,
            Config {
                nodes: 2,
                ports: 2,
                conns: vec![first, again],
                fin: true,
                budget: Budget { reroutes: 1, ..Budget::default() },
                ..Config::base("snat-nodes-reuse", "a client's port used again by way of either of two nodes")
            },
        ),
        (
            Size::Short,
            Config {
                nodes: 2,
                ports: 2,
                moved_is_lost: false,
                budget: Budget { reroutes: 1, ..Budget::default() },
                exception: Some("routers move a connection to a node that has no port of it (d)"),
                ..Config::base("snat-nodes-apart", "a connection that is moved to another node")
            },
        ),
        (
            Size::Usual,
            Config {
                conns: vec![first, again, other],
                flight: 1,
                fin: true,
                rst: true,
                ..Config::base("snat-reuse-late", "a client that uses its port again, another, late packets")
            },
        ),
        (
            Size::Long,
            Config {
                conns: vec![first, again, other],
                ports: 2,
                flight: 1,
                fin: true,
                rst: true,
                pressure: true,
                clock: Clock::WAITS,
                budget: Budget { removals: 1, ..Budget::default() },
                ..Config::base(
                    "long-snat",
                    "a client that uses its port again, another, two ports, late packets, every way to end, a removal",
                )
            },
        ),
        (
            Size::Usual,
            Config {
                conns: vec![first],
                ports: 2,
                mids: 2,
                still: true,
                syns_inside: true,
                ..Config::base(
                    "snat-race",
                    "one client, two ports, two copies of its SYN inside, step by step",
                )
            },
        ),
        (
            Size::Short,
            Config {
                conns: vec![first, other],
                mids: 1,
                clock: INSIDE,
                ..Config::base("snat-inside", "two clients, one port, a packet inside, step by step")
            },
        ),
    ]
}

/// The world that shows a rule to be needed, without it.
pub fn ablated(name: &str) -> Option<Config> {
    let (_, rule, shows) = RULES.iter().find(|(known, ..)| *known == name)?;
    let world = worlds().into_iter().map(|(_, world)| world).find(|world| world.name == *shows)?;
    Some(world.ablated(*rule))
}
