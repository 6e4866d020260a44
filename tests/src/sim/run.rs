//! One scenario, all contenders at once over the same packets.

use zdd_common::entries::{Affinity, BackendId, FlowKey, Service, ServiceView};
use zdd_common::hash::fold;
use zdd_common::net::Addr;
use zdd_common::steer;

use super::contender::Contender;
use super::lru::Lru;
use super::node::Node;
use super::pool::{KEY, Pool};
use super::report::{Row, Score};
use super::scenario::{Act, Scenario};
use super::traffic::{Kind, Packet, Random, SECOND, Traffic, Tuple};

/// How large a run is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Flows of a scenario.
    pub flows: u32,
    /// Seconds over which they begin.
    pub seconds: u32,
    /// Cells of the service.
    pub cells: u32,
    /// Of the random generator.
    pub seed: u64,
}

/// Backends of each version.
const BACKENDS: usize = 10;
/// How often agents do their housekeeping.
const TICK: u64 = 10 * SECOND;

/// Names of the contenders, in the order of a row's scores.
pub const CONTENDERS: [&str; 4] = ["zdd", "hash only", "LRU", "small LRU"];

impl Size {
    /// Entries of our table and of the LRU, per node: a quarter of the flows.
    fn ample(&self) -> usize {
        (self.flows as usize / 4).next_power_of_two().max(1024)
    }

    /// Of the small one: fewer than are alive at once.
    fn small(&self) -> usize {
        (self.flows as usize / 1000).max(16)
    }

    fn duration(&self) -> u64 {
        u64::from(self.seconds) * SECOND
    }
}

/// Routers in front: which node a flow's packets come to.
struct Ecmp {
    alive: Vec<usize>,
    reshuffle: bool,
}

impl Ecmp {
    fn node(&self, flow: u64) -> usize {
        let hash = |with: u64| fold(fold(flow, 0xec4b), with);
        if self.reshuffle {
            return self.alive[(hash(0) % self.alive.len() as u64) as usize];
        }
        // Rendezvous: only the flows of a node that is gone move.
        self.alive.iter().copied().max_by_key(|node| hash(*node as u64 + 1)).unwrap_or(0)
    }
}

/// A flow's fate with one contender: where it began; 0: not yet, [`BROKEN`]: broken.
const BROKEN: BackendId = BackendId::MAX;

/// Runs one scenario.
pub fn simulate(scenario: &Scenario, size: Size) -> Row {
    let mut pool = Pool::new(size.cells, BACKENDS);
    let mut row = pool.row();
    let mut random = Random(size.seed ^ 0x5ce7a810);
    let lines = size.ample() / 4;
    let mut contenders: Vec<Vec<Contender>> = vec![
        (0..scenario.nodes)
            .map(|_| Contender::Ours(Box::new(Node::new(&row, size.ample(), lines))))
            .collect(),
        (0..scenario.nodes).map(|_| Contender::Hash).collect(),
        (0..scenario.nodes).map(|_| Contender::Table(Lru::new(size.ample()))).collect(),
        (0..scenario.nodes).map(|_| Contender::Table(Lru::new(size.small()))).collect(),
    ];
    let mut fates = vec![vec![0 as BackendId; size.flows as usize]; contenders.len()];
    let mut broken = vec![0u64; contenders.len()];
    let (mut entries, mut ticks) = (vec![0u64; contenders.len()], 0u64);
    let mut ecmp = Ecmp { alive: (0..scenario.nodes).collect(), reshuffle: scenario.reshuffle };
    let mut acts = scenario.acts(size.duration()).into_iter().peekable();
    let (mut flood, mut forged, mut next_tick, mut packets, mut live) = (0u32, 0u64, TICK, 0u64, 0usize);
    let view = view(size.cells);
    let mut traffic = Traffic::new(size.seed, size.flows, size.duration());
    while let Some(packet) = traffic.next() {
        while let Some((at, act)) = acts.next_if(|(at, _)| *at <= packet.at) {
            match act {
                Act::Shift(weight) => pool.shift(weight),
                Act::Pool => pool.toggle(random.below(2) as usize, random.below(pool.size() as u64) as usize),
                Act::Lose(node) => ecmp.alive.retain(|alive| *alive != node),
                Act::Wipe(node) => contenders.iter_mut().for_each(|nodes| nodes[node].wipe(at)),
                Act::Flood(n) => flood = n,
            }
            if matches!(act, Act::Shift(_) | Act::Pool) {
                row = pool.row();
                contenders.iter_mut().flatten().for_each(|node| node.change(&row, at));
            }
        }
        while next_tick <= packet.at {
            for (nodes, sum) in contenders.iter_mut().zip(&mut entries) {
                nodes.iter_mut().for_each(|node| node.tick(next_tick));
                *sum += nodes.iter().map(Contender::entries).sum::<u64>();
            }
            ticks += 1;
            next_tick += TICK;
        }
        packets += 1;
        if packet.kind == Kind::Syn {
            live = live.max(traffic.live());
            for _ in 0..flood {
                // From addresses that no real flow has.
                let tuple = Tuple {
                    client: 0xc612_0000 | random.next() as u32 & 0x1_ffff,
                    port: random.next() as u16,
                };
                let syn = Packet { kind: Kind::Syn, seq: random.next() as u32, ..packet };
                let (flow, picked) = place(&view, tuple, &row);
                let node = ecmp.node(flow);
                for nodes in &mut contenders {
                    nodes[node].steer(&syn, tuple, flow, picked);
                }
                forged += 1;
            }
        }
        let tuple = traffic.tuple(packet.flow);
        let (flow, picked) = place(&view, tuple, &row);
        let node = ecmp.node(flow);
        for ((nodes, fates), broken) in contenders.iter_mut().zip(&mut fates).zip(&mut broken) {
            let fate = &mut fates[packet.flow as usize];
            if *fate == BROKEN {
                continue;
            }
            let met = nodes[node].steer(&packet, tuple, flow, picked);
            if *fate == 0 {
                *fate = met;
            } else if *fate != met {
                // Its new backend resets what it never shook hands for.
                *fate = BROKEN;
                *broken += 1;
            }
        }
    }
    let score = |(at, nodes): (usize, &Vec<Contender>)| Score {
        contender: CONTENDERS[at].to_owned(),
        broken: broken[at],
        share: broken[at] as f64 / f64::from(size.flows),
        mean_entries: entries[at] as f64 / (ticks * nodes.len() as u64).max(1) as f64,
        peak_entries: nodes.iter().map(Contender::peak).max().unwrap_or(0),
    };
    Row {
        scenario: scenario.name.to_owned(),
        what: scenario.what.to_owned(),
        state_lost: scenario.state_lost,
        nodes: scenario.nodes,
        flows: size.flows,
        packets,
        forged,
        live_at_once: live as u64,
        scores: contenders.iter().enumerate().map(score).collect(),
    }
}

fn view(cells: u32) -> ServiceView {
    let affinity = Affinity::Flow as u32;
    Service { key: KEY, groups: cells, per_group: 1, affinity, ..Service::default() }.view()
}

/// A tuple as a number, and what the row says of it now.
fn place(view: &ServiceView, tuple: Tuple, row: &[BackendId]) -> (u64, BackendId) {
    let key = FlowKey::new(Addr::v4(tuple.client.to_be_bytes()), tuple.port.to_be(), 80u16.to_be(), 1);
    let cell = steer::place(view, &key).cell;
    (u64::from(tuple.client) << 16 | u64::from(tuple.port), row[cell as usize])
}

#[cfg(test)]
mod tests {
    use super::super::SCENARIOS;
    use super::*;

    const SMALL: Size = Size { flows: 20_000, seconds: 600, cells: 1024, seed: 1 };

    #[test]
    fn ours_breaks_nothing_wherever_no_state_is_lost() {
        for scenario in SCENARIOS.iter().filter(|s| !s.state_lost) {
            let row = simulate(scenario, SMALL);
            assert_eq!(row.scores[0].broken, 0, "{}", scenario.name);
        }
    }

    #[test]
    fn the_others_break_what_they_are_known_to_break() {
        let of =
            |name: &str| simulate(SCENARIOS.iter().find(|s| s.name == name).expect("it is there"), SMALL);
        let ramp = of("ramp");
        let [ours, hash, ample, small] = &ramp.scores[..] else { panic!("four contenders") };
        assert!(hash.share > 0.01 && small.broken > 0, "{ramp:?}");
        assert!(ample.broken == 0 && ours.peak_entries < ample.peak_entries, "{ramp:?}");
        assert!(ours.mean_entries > 0.0 && ours.mean_entries * 2.0 < ample.mean_entries, "{ramp:?}");
        assert_eq!(hash.mean_entries, 0.0);
        // Lost state: ours breaks what began elsewhere since the change, a table what began elsewhere before it.
        let wipe = of("wipe, late");
        assert!(wipe.scores[0].broken > 0 && wipe.scores[0].broken < wipe.scores[1].broken, "{wipe:?}");
        let steady = of("steady");
        assert!(
            steady.scores.iter().all(|s| s.broken == 0) && steady.scores[0].peak_entries == 0,
            "{steady:?}"
        );
    }

    #[test]
    fn the_same_seed_gives_the_same_figures() {
        let scenario = &SCENARIOS[3];
        assert_eq!(simulate(scenario, SMALL), simulate(scenario, SMALL));
        let other = simulate(scenario, Size { seed: 2, ..SMALL });
        assert_ne!(simulate(scenario, SMALL).packets, other.packets);
    }
}
