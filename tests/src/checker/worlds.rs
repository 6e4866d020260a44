//! The worlds: small enough to be visited whole, each with a purpose.

use zdd_common::steer::Segment;

use super::config::{Budget, Clock, Config, FAR, FARTHER, FlowSpec, Forgery, ISN, NEAR};

/// How much patience a world takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// Seconds: in every CI run.
    Short,
    /// A minute.
    Usual,
    /// Many minutes.
    Long,
}

fn forged(syn: bool, fin: bool, rst: bool, seq: u32) -> Forgery {
    Forgery { tuple: 0, segment: Segment { syn, fin, rst, seq } }
}

fn blind() -> Vec<Forgery> {
    vec![
        forged(true, false, false, FAR),
        forged(true, false, false, FARTHER),
        forged(false, false, false, FAR + 1),
        forged(false, true, false, FAR + 1),
        forged(false, false, true, FARTHER + 1),
    ]
}

/// A packet may be inside across one step of time; so the agent waits for two.
const INSIDE: Clock = Clock { grace: 2, ..Clock::SHORT };

/// All worlds.
pub fn worlds() -> Vec<(Size, Config)> {
    let changes = |changes: u8| Budget { changes, ..Budget::default() };
    let second = FlowSpec { tuple: 0, isn: FAR };
    let other = FlowSpec { tuple: 1, isn: ISN };
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
                flows: vec![FlowSpec { tuple: 0, isn: ISN }, second],
                fin: true,
                flight: 1,
                budget: changes(2),
                ..Config::base("reuse", "a port used again with an ISN far away")
            },
        ),
        (
            Size::Short,
            Config {
                flows: vec![FlowSpec { tuple: 0, isn: ISN }, FlowSpec { tuple: 0, isn: NEAR }],
                flight: 1,
                budget: changes(2),
                ..Config::base("reuse-near", "a port used again with an ISN within reach")
            },
        ),
        (
            Size::Usual,
            Config {
                flows: vec![FlowSpec { tuple: 0, isn: ISN }, second],
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
                flows: vec![
                    FlowSpec { tuple: 0, isn: ISN },
                    FlowSpec { tuple: 0, isn: FAR },
                    FlowSpec { tuple: 0, isn: NEAR },
                ],
                fin: true,
                flight: 0,
                budget: changes(2),
                ..Config::base("reuse-3", "a port used three times, near and far")
            },
        ),
        (
            Size::Long,
            Config {
                flows: vec![
                    FlowSpec { tuple: 0, isn: ISN },
                    FlowSpec { tuple: 0, isn: FAR },
                    FlowSpec { tuple: 0, isn: NEAR },
                ],
                fin: true,
                late: true,
                flight: 1,
                backends: 3,
                budget: changes(3),
                ..Config::base("long-reuse-3", "the same with late packets and three backends")
            },
        ),
        (
            Size::Usual,
            Config {
                flows: vec![
                    FlowSpec { tuple: 0, isn: ISN },
                    FlowSpec { tuple: 0, isn: FAR },
                    FlowSpec { tuple: 0, isn: NEAR },
                ],
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
                flows: vec![FlowSpec { tuple: 0, isn: ISN }, other],
                cells: 1,
                capacity: 1,
                budget: changes(2),
                ..Config::base("full", "two connections, room for one")
            },
        ),
        (
            Size::Short,
            Config {
                flows: vec![FlowSpec { tuple: 0, isn: ISN }, other],
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
                flows: vec![FlowSpec { tuple: 0, isn: ISN }, second],
                quota: [0, 1, 1],
                forgeries: vec![forged(true, false, false, FARTHER)],
                budget: Budget { changes: 2, forged: 1, ..Budget::default() },
                ..Config::base("quota-half", "no half-open entry can be made")
            },
        ),
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
                flows: vec![FlowSpec { tuple: 0, isn: ISN }, second],
                budget: Budget { changes: 3, removals: 1, ..Budget::default() },
                ..Config::base("remove-reuse", "a backend is removed, a port is used again")
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
                flows: vec![FlowSpec { tuple: 0, isn: ISN }, other],
                capacity: 1,
                fin: true,
                budget: Budget { changes: 2, restarts: 1, wipes: 1, ..Budget::default() },
                ..Config::base("full-restart", "two connections, room for one, the agent dies, all is lost")
            },
        ),
        (
            Size::Usual,
            Config {
                flows: vec![FlowSpec { tuple: 0, isn: ISN }, second],
                fin: true,
                budget: Budget { changes: 2, restarts: 1, wipes: 1, ..Budget::default() },
                ..Config::base("wipe-reuse", "the flow table is lost, the agent dies, a port is used again")
            },
        ),
        (
            Size::Usual,
            Config {
                flows: vec![FlowSpec { tuple: 0, isn: ISN }, second],
                limited: true,
                forgeries: vec![forged(true, false, false, FARTHER)],
                budget: Budget { changes: 2, forged: 1, restarts: 1, ..Budget::default() },
                ..Config::base("limit-forged", "limited connections, a forged SYN, the agent dies")
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
                flows: vec![FlowSpec { tuple: 0, isn: ISN }, second],
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
                flows: vec![FlowSpec { tuple: 0, isn: ISN }, second],
                ..Config::base("lies", "the filter takes new SYNs for old ones")
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
                flows: vec![FlowSpec { tuple: 0, isn: ISN }, second],
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
                flight: 0,
                budget: Budget { changes: 3, again: 1, wipes: 1, restarts: 1, ..Budget::default() },
                ..Config::base("udp", "a UDP flow, three changes, a wipe, a restart")
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
            Size::Usual,
            Config {
                cells: 2,
                flows: vec![FlowSpec { tuple: 0, isn: ISN }, other],
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
                flows: vec![FlowSpec { tuple: 0, isn: ISN }, other],
                capacity: 1,
                flight: 0,
                budget: changes(2),
                ..Config::base("two-services", "two services that share a table with room for one")
            },
        ),
        (
            Size::Usual,
            Config {
                cells: 2,
                services: true,
                flows: vec![FlowSpec { tuple: 0, isn: ISN }, other, second],
                capacity: 1,
                fin: true,
                flight: 0,
                budget: Budget { changes: 2, restarts: 1, ..Budget::default() },
                ..Config::base("two-services-reuse", "the same, a port used again, the agent dies")
            },
        ),
        (
            Size::Short,
            Config {
                cells: 2,
                services: true,
                preview: true,
                flows: vec![
                    FlowSpec { tuple: 0, isn: ISN },
                    FlowSpec { tuple: 1, isn: ISN },
                    FlowSpec { tuple: 1, isn: FAR },
                ],
                capacity: 1,
                fin: true,
                flight: 0,
                ..Config::base("preview-reuse", "a tester uses a port again, at one time the user's own")
            },
        ),
        (
            Size::Usual,
            Config {
                cells: 2,
                services: true,
                preview: true,
                flows: vec![
                    FlowSpec { tuple: 0, isn: ISN },
                    FlowSpec { tuple: 1, isn: ISN },
                    FlowSpec { tuple: 1, isn: FAR },
                ],
                fin: true,
                flight: 0,
                budget: changes(2),
                ..Config::base("preview-reuse-2", "the same with two changes, and room for both")
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
                flows: vec![FlowSpec { tuple: 0, isn: ISN }, second],
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
                flows: vec![FlowSpec { tuple: 0, isn: ISN }, second],
                forgeries: blind(),
                fin: true,
                flight: 2,
                budget: Budget { changes: 3, forged: 3, ..Budget::default() },
                ..Config::base("long-forged", "a port used again, three blind forged packets, three changes")
            },
        ),
        (
            Size::Long,
            Config {
                mids: 2,
                clock: INSIDE,
                flows: vec![FlowSpec { tuple: 0, isn: ISN }, second],
                fin: true,
                budget: Budget { changes: 2, restarts: 1, ..Budget::default() },
                ..Config::base("long-inside", "two packets inside, a port used again, a restart")
            },
        ),
    ]
}

/// A world by its name.
pub fn world(name: &str) -> Option<Config> {
    worlds().into_iter().map(|(_, config)| config).find(|config| config.name == name)
}
