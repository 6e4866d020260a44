//! What happens while the flows come and go.

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// The second version gets this weight, basis points.
    Shift(u32),
    /// A backend of any version stops or begins to take new flows.
    Pool,
    /// A node is gone, with its state.
    Lose(usize),
    /// A node forgets everything.
    Wipe(usize),
    /// From now on, this many forged SYNs for each real flow.
    Flood(u32),
}

/// A course of events.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Name, for tables.
    pub name: &'static str,
    /// In a sentence.
    pub what: &'static str,
    /// Balancer nodes behind ECMP.
    pub nodes: usize,
    /// When a node is lost, routers deal all flows anew (hash modulo nodes); otherwise only the lost node's move.
    pub reshuffle: bool,
    /// Some flow's state is lost, or moves to a node that has none of it.
    pub state_lost: bool,
    weights: bool,
    /// Pool updates per minute.
    pool: u32,
    /// Something else, and when: percent of the time.
    also: Option<(u64, Act)>,
    flood: bool,
}

const STEADY: Scenario = Scenario {
    name: "",
    what: "",
    nodes: 1,
    reshuffle: false,
    state_lost: false,
    weights: true,
    pool: 0,
    also: None,
    flood: false,
};

/// Per minute: what Miao et al. (SIGCOMM 2017, section 2) measured at the 99th percentile of clusters.
const UPDATES: u32 = 78;

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "steady", what: "nothing changes", weights: false, ..STEADY },
    Scenario { name: "ramp", what: "0 → 1 → 10 → 50 → 100 % and back to 20 %", ..STEADY },
    Scenario {
        name: "pool",
        what: "78 pool updates a minute on 4 nodes",
        weights: false,
        pool: UPDATES,
        nodes: 4,
        ..STEADY
    },
    Scenario { name: "ramp + pool", what: "both, on 4 nodes", pool: UPDATES, nodes: 4, ..STEADY },
    Scenario {
        name: "ramp + flood",
        what: "ten forged SYNs for each real one, for a quarter of the time",
        flood: true,
        ..STEADY
    },
    Scenario {
        name: "loss, at rest",
        what: "1 of 4 nodes is lost while nothing changes, all flows dealt anew",
        nodes: 4,
        reshuffle: true,
        weights: false,
        also: Some((50, Act::Lose(1))),
        ..STEADY
    },
    Scenario {
        name: "loss, resilient",
        what: "1 of 4 nodes is lost in the ramp; only its flows move",
        nodes: 4,
        state_lost: true,
        also: Some((50, Act::Lose(1))),
        ..STEADY
    },
    Scenario {
        name: "loss, reshuffle",
        what: "1 of 4 nodes is lost in the ramp; all flows are dealt anew",
        nodes: 4,
        reshuffle: true,
        state_lost: true,
        also: Some((50, Act::Lose(1))),
        ..STEADY
    },
    Scenario {
        name: "wipe, early",
        what: "all state of the only node is lost with the shift from 10 to 50 %",
        state_lost: true,
        also: Some((40, Act::Wipe(0))),
        ..STEADY
    },
    Scenario {
        name: "wipe, late",
        what: "all state of the only node is lost long after a change",
        state_lost: true,
        also: Some((50, Act::Wipe(0))),
        ..STEADY
    },
];

impl Scenario {
    /// What happens when, in the order of time; flows begin for `duration` ns.
    pub fn acts(&self, duration: u64) -> Vec<(u64, Act)> {
        let part = |percent: u64| duration / 100 * percent;
        let mut acts = Vec::new();
        if self.weights {
            let ramp = [(10, 100), (25, 1_000), (40, 5_000), (60, 10_000), (80, 2_000)];
            acts.extend(ramp.map(|(percent, weight)| (part(percent), Act::Shift(weight))));
        }
        if self.pool > 0 {
            let every = 60 * super::traffic::SECOND / u64::from(self.pool);
            acts.extend((1..duration / every).map(|n| (n * every, Act::Pool)));
        }
        acts.extend(self.also.map(|(percent, act)| (part(percent), act)));
        if self.flood {
            acts.extend([(part(35), Act::Flood(10)), (part(60), Act::Flood(0))]);
        }
        acts.sort_by_key(|(at, _)| *at);
        acts
    }
}
