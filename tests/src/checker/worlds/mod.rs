//! The worlds: small enough to be visited whole, each with a purpose.

mod attacks;
mod connections;
mod inside;
mod losses;
mod room;

use zdd_common::steer::Segment;

use super::config::{Budget, Clock, Config, FAR, FARTHER, FlowSpec, Forgery, ISN};

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

/// The connection of most worlds.
const FIRST: FlowSpec = FlowSpec { tuple: 0, isn: ISN };
/// The next one from its port.
const SECOND: FlowSpec = FlowSpec { tuple: 0, isn: FAR };
/// One from another port.
const OTHER: FlowSpec = FlowSpec { tuple: 1, isn: ISN };

fn changes(changes: u8) -> Budget {
    Budget { changes, ..Budget::default() }
}

/// All worlds.
pub fn worlds() -> Vec<(Size, Config)> {
    [connections::worlds(), attacks::worlds(), room::worlds(), losses::worlds(), inside::worlds()].concat()
}

/// A world by its name.
pub fn world(name: &str) -> Option<Config> {
    worlds().into_iter().map(|(_, config)| config).find(|config| config.name == name)
}
