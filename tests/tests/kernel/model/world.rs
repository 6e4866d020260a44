//! A small world: few services, cells, clients and ways of the flow table, so that everything meets everything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zdd_agent::dataplane::Ends;
use zdd_common::entries::{
    Affinity, Backend, Cell, Commit, EndEntry, EndKind, Mode, NextHop, Port, Service, Word,
};
use zdd_common::net::{Addr, End, TCP, UDP};
use zdd_common::pace::Pace;
use zdd_common::rules::{self, Facts, Sweep, Timeouts};
use zdd_common::signals::Rate;
use zdd_common::snat::mapping;
use zdd_common::sources::Source;
use zdd_common::steer::place;

use super::random::Random;
use super::traffic;
use super::twin::{Twin, coarse_now};
use crate::rig::{CELLS, KEY, Link, MAC_A, MAC_B, neighbour_mac, neighbour4, neighbour6};

/// Services 1 to 8.
pub const SERVICES: u16 = 8;
/// A VIP whose service was never committed, and one beyond the map.
pub const LOST: [u16; 2] = [9, 64];
/// Backends of a service.
const PER_SERVICE: u16 = 4;
const ROWS: u32 = 4;
const MS: u64 = 1_000_000;

/// Short, so that everything expires within the test.
const TIMES: Timeouts = Timeouts {
    idle: 900 * MS,
    udp_idle: 500 * MS,
    half_life: 400 * MS,
    grace: 140 * MS,
    fin_linger: 200 * MS,
};

/// The same for mappings.
const MAPPED: mapping::Timeouts = mapping::Timeouts {
    idle: TIMES.idle,
    udp_idle: TIMES.udp_idle,
    half_life: TIMES.half_life,
    scarce: 200 * MS,
    time_wait: 300 * MS,
    grace: TIMES.grace,
};

/// What the agent would know of a service.
struct Known {
    cells: Vec<Cell>,
    since: Vec<u64>,
    generation: u32,
    alive: bool,
    last_wipe: u64,
}

/// The agent's side.
pub struct World {
    known: Vec<Known>,
}

/// Whether a service's VIP is IPv6; the numbers alternate.
pub fn is_v6(id: u16) -> bool {
    id.is_multiple_of(2)
}

/// Whether it is UDP.
pub fn is_udp(id: u16) -> bool {
    matches!(id, 3 | 4)
}

/// How a backend is reached. Services 3, 4 and 7 have one backend of every kind: with the others, every mode has both families
/// and both protocols.
pub fn mode(id: u16, backend: u16) -> Mode {
    match (id, backend % 4) {
        (1 | 6, _) | (3 | 4 | 7, 0) => Mode::Nat,
        (8, _) | (3 | 4 | 7, 2) => Mode::Snat,
        (5, _) | (3 | 4 | 7, 1) | (2, 0 | 2) => Mode::Ipip,
        _ => Mode::L2,
    }
}

/// Whether it needs an entry of its own, so that its replies find back.
fn replies_to_us(id: u16, backend: u16) -> bool {
    matches!(mode(id, backend), Mode::Nat | Mode::Snat)
}

/// Whether a backend's address is IPv6: `ipip` carries either in either.
fn outer_v6(id: u16, backend: u16) -> bool {
    is_v6(id) != (mode(id, backend) == Mode::Ipip && backend % 4 == 1)
}

/// The prefix that outer headers come from, by its first address, and the bits of it that vary.
pub fn outer_source(id: u16, backend: u16) -> (IpAddr, u32) {
    let first = if outer_v6(id, backend) { neighbour6(Link::A, 0) } else { neighbour4(Link::A, 0) };
    (first, [0, 0xff, 0xffff, u32::MAX][usize::from(backend / 2 % 4)])
}

/// A service's VIP.
pub fn vip(id: u16) -> (IpAddr, u16) {
    let port = if is_udp(id) { 53 } else { 80 };
    if is_v6(id) {
        (Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, id).into(), port)
    } else {
        (Ipv4Addr::new(10, 9, 0, id as u8).into(), port)
    }
}

/// The ids of a service's backends.
pub fn backends(id: u16) -> std::ops::Range<u16> {
    1 + (id - 1) * PER_SERVICE..1 + id * PER_SERVICE
}

/// A backend's own end: hosts are shared, ports tell backends apart.
pub fn backend(id: u16, backend: u16) -> (IpAddr, u16) {
    let host = 10 + (backend % 8) as u8;
    let v6 = outer_v6(id, backend);
    (if v6 { neighbour6(Link::B, host) } else { neighbour4(Link::B, host) }, 8000 + backend)
}

fn proto(id: u16) -> u8 {
    if is_udp(id) { UDP } else { TCP }
}

fn end((addr, port): (IpAddr, u16), id: u16) -> End {
    End::new(addr.into(), port.to_be(), proto(id))
}

fn row(id: u16, generation: u32) -> u32 {
    u32::from(id) * 64 + generation % ROWS * 16
}

/// Services that have a VIP of many ports beside their own.
pub const SPANNED: u16 = 1;
/// The same of IPv6.
pub const SPANNED6: u16 = 6;

/// What is said of a source: prefix, flags, service.
type Told = (&'static str, u16, u16);

/// Sets of sources: the first denies some, the second gives some to another service's cells.
const SETS: [(u32, &[Told]); 2] = [
    (
        1,
        &[
            ("10.0.1.0/24", 0, 5),
            ("10.0.1.11/32", Source::DENIED, 5),
            ("0.0.0.0/0", Source::DENIED, 5),
            ("fd00:1::/64", 0, 6),
            ("fd00:1::c/128", Source::DENIED, 6),
        ],
    ),
    (
        2,
        &[("10.0.1.0/25", 0, 7), ("10.0.1.10/32", 0, 5), ("198.51.100.0/24", 0, 40), ("fd00:1::a/127", 0, 8)],
    ),
];

fn vip_entry(id: u16) -> EndEntry {
    EndEntry { kind: EndKind::Vip as u16, service: id, id: 100 + id, ..EndEntry::default() }
}

/// 100 ports of the VIP, as many behind each backend's own, and all others for another service.
fn spans(twin: &mut Twin<'_>, id: u16) {
    let (addr, _) = vip(id);
    let first = |port: u16| end((addr, port), id);
    twin.set_ends(Ends { first: first(8000), more: 99 }, vip_entry(id));
    twin.set_ends(Ends { first: first(0), more: u16::MAX }, vip_entry(if is_v6(id) { 8 } else { 7 }));
    for number in backends(id) {
        let entry = EndEntry {
            kind: EndKind::NatBackend as u16,
            service: id,
            id: number,
            vip_port: 8000u16.to_be(),
            vip: addr.into(),
            ..EndEntry::default()
        };
        twin.set_ends(Ends { first: end(backend(id, number), id), more: 99 }, entry);
    }
}

impl World {
    /// Fills both.
    pub fn build(twin: &mut Twin<'_>, random: &mut Random) -> Self {
        let (a, b) = (twin.rig.a, twin.rig.b);
        for (index, ifindex, flags, mac) in [
            (1, b, 0, MAC_B),
            (2, a, Port::TX, MAC_A),
            (3, b, Port::STACK, MAC_B),
            (4, 9999, 0, MAC_B),
            (5, a, 0, MAC_A),
        ] {
            // Narrow ones, so that not only long packets are too large.
            let mtu = if index % 2 == 0 { 0 } else { 700 };
            twin.set_port(index, Port { ifindex, flags, mac, tags: 0, mtu });
        }
        for (index, tags) in [(6, traffic::vlans(0)), (7, traffic::vlans(1))] {
            twin.set_port(index, Port { ifindex: b, flags: 0, mac: MAC_B, tags, mtu: 0 });
        }
        twin.limit_quotas([24, 24, 24]);
        let mut world = Self { known: vec![] };
        for id in 1..=SERVICES {
            let per_group = 1 + u32::from(id % 3);
            twin.write_service(
                id,
                Service {
                    commit: 0,
                    key: KEY,
                    groups: 4,
                    per_group,
                    affinity: random.of(&[Affinity::Flow, Affinity::Client, Affinity::ClientVersion]) as u32,
                    udp_idle: zdd_common::time::ticks(TIMES.udp_idle),
                    ..Service::default()
                },
            );
            for number in backends(id) {
                let (addr, port) = backend(id, number);
                let (source, spread) = outer_source(id, number);
                twin.write_backend(
                    number,
                    Backend {
                        addr: addr.into(),
                        next_hop: 0,
                        port: port.to_be(),
                        mode: mode(id, number) as u16,
                        service: id.into(),
                        source: source.into(),
                        spread,
                        ..Backend::default()
                    },
                );
                hop(twin, random, number);
            }
            let cells = vec![Cell::settled(backends(id).start); 4 * per_group as usize];
            let since = vec![0; cells.len()];
            world.known.push(Known { cells, since, generation: 0, alive: false, last_wipe: 0 });
            world.add(twin, id);
        }
        for id in [SPANNED, SPANNED6] {
            spans(twin, id);
        }
        for (set, prefixes) in SETS {
            let source = |(prefix, flags, service): &Told| {
                (prefix.parse().expect("a prefix"), Source { flags: *flags, service: *service })
            };
            twin.write_sources(set, &prefixes.iter().map(source).collect());
        }
        for id in LOST {
            let entry = EndEntry { kind: EndKind::Vip as u16, service: id, id: 99, ..EndEntry::default() };
            twin.set_end(end(vip(id), id), entry);
        }
        world
    }

    fn add(&mut self, twin: &mut Twin<'_>, id: u16) {
        self.publish(twin, id);
        // Some follow none of their flows, some all, some every other one.
        let rate = Rate((id % 3) as u8);
        twin.set_end(end(vip(id), id), vip_entry(id).with_rate(rate));
        for number in backends(id).filter(|number| replies_to_us(id, *number)) {
            let (addr, port) = vip(id);
            let entry = EndEntry {
                kind: if mode(id, number) == Mode::Nat { EndKind::NatBackend } else { EndKind::SnatBackend }
                    as u16,
                service: id,
                id: number,
                vip_port: port.to_be(),
                vip: Addr::from(addr),
                // Flows that a VIP has mapped find back, also when it maps no others any more.
                mapped: 1,
                ..EndEntry::default()
            };
            twin.set_end(end(backend(id, number), id), entry.with_rate(rate));
        }
        self.known[usize::from(id) - 1].alive = true;
    }

    fn remove(&mut self, twin: &mut Twin<'_>, random: &mut Random, id: u16) {
        // VIP and commit go one by one: a packet may see either state.
        if random.chance(70) {
            twin.remove_end(end(vip(id), id));
            for number in backends(id) {
                twin.remove_end(end(backend(id, number), id));
            }
        }
        twin.commit(id, Commit(0));
        self.known[usize::from(id) - 1].alive = false;
    }

    fn publish(&mut self, twin: &mut Twin<'_>, id: u16) {
        let known = &mut self.known[usize::from(id) - 1];
        known.generation += 1;
        let row = row(id, known.generation);
        assert!(row as usize + known.cells.len() <= CELLS);
        twin.write_row(row, &known.cells);
        twin.commit(id, Commit::new(row, known.generation));
    }

    /// One change of the tables, as the agent (or chance) makes them.
    pub fn change(&mut self, twin: &mut Twin<'_>, random: &mut Random) {
        let id = 1 + random.below(SERVICES.into()) as u16;
        let now = coarse_now();
        match random.below(16) {
            0..4 => self.shift(twin, random, id, now),
            4..6 => self.settle(twin, id, now),
            6 if random.chance(50) => {
                // As if a UDP flow's idle time had passed since a change, with room for all: then new ones follow the weights.
                let id = random.of(&[3, 4]);
                twin.limit_quotas([32; 3]);
                twin.forget_failures(id);
                self.shift(twin, random, id, now);
                self.each_cell(twin, id, |cell| Cell(cell.0 & !Cell::ARMED));
                for later in [now + 3000 * MS, now + 3000 * MS + 2 * TIMES.grace] {
                    self.sweep(twin, false, later);
                }
            }
            6 => self.each_cell(twin, id, rules::forget),
            7 => {
                let removed = random.of(&backends(id).collect::<Vec<_>>());
                self.each_cell(twin, id, |cell| rules::remove(cell, removed));
                sweep(twin, |_, word| rules::purge(word, removed, now).unwrap_or(Sweep::Keep));
            }
            8..11 => {
                // Sometimes as if much time had passed, so that every age is met.
                let later = now + random.of(&[0, 0, 400, 1000, 3000]) * MS;
                self.sweep(twin, random.chance(30), later);
                // What died then is free a grace period later.
                self.sweep(twin, false, later + 2 * TIMES.grace);
                let scarce = random.chance(50);
                for now in [later, later + 2 * TIMES.grace] {
                    twin.sweep_mappings(|mapping| mapping::sweep(mapping, &MAPPED, scarce, now));
                }
            }
            11 => {
                let number = random.of(&backends(id).collect::<Vec<_>>());
                hop(twin, random, number);
            }
            12 if random.chance(40) => {
                self.remove(twin, random, id);
            }
            12 => self.arbitrary(twin, random, id),
            13 => {
                let limit = [0; 3].map(|_| random.of(&[0u64, 3, 16, 24, 24, 32, 32, 32, 32, 32]));
                twin.limit_quotas(limit);
            }
            14 if random.chance(20) => {
                twin.wipe();
                for known in &mut self.known {
                    known.last_wipe = now;
                }
                for id in 1..=SERVICES {
                    self.each_cell(twin, id, rules::wiped);
                }
            }
            14 if random.chance(30) => {
                // Each set in turn, or none.
                let sources = random.of(&[0, 0, SETS[0].0, SETS[1].0]);
                let id = random.of(&[5, SPANNED6]);
                let entry = EndEntry { sources, ..vip_entry(id) };
                if self.known[usize::from(id) - 1].alive {
                    twin.set_end(end(vip(id), id), entry);
                }
            }
            14 if random.chance(30) => {
                // Its `nat` backends are reached by mapping, or not.
                let id = random.of(&[1, 3, SPANNED6, 7]);
                let entry = EndEntry { mapped: random.below(2) as u32, ..vip_entry(id) };
                if self.known[usize::from(id) - 1].alive {
                    twin.set_end(end(vip(id), id), entry);
                }
            }
            14 if random.chance(30) => {
                let burst = random.of(&[1, 2, 10]);
                let pace = random.of(&[Pace::default(), Pace::new(20, burst), Pace::new(1000, burst)]);
                twin.set_pace(random.of(&[2, 5]), pace);
            }
            14 => {
                let locals = [neighbour4(Link::A, 12), neighbour6(Link::A, 12)];
                twin.set_locals(if random.chance(50) { &locals } else { &[] });
            }
            _ => {
                for id in 1..=SERVICES {
                    if !self.known[usize::from(id) - 1].alive {
                        self.add(twin, id);
                    }
                }
            }
        }
    }

    fn shift(&mut self, twin: &mut Twin<'_>, random: &mut Random, id: u16, now: u64) {
        let to = random.of(&backends(id).collect::<Vec<_>>());
        let known = &mut self.known[usize::from(id) - 1];
        for (cell, since) in known.cells.iter_mut().zip(&mut known.since) {
            if random.chance(50) {
                let (changed, starts) = rules::change(*cell, to);
                *cell = changed;
                if starts {
                    *since = now;
                }
            }
        }
        if known.alive {
            self.publish(twin, id);
        }
    }

    fn settle(&mut self, twin: &mut Twin<'_>, id: u16, now: u64) {
        let facts = twin.rig.plane.facts(id);
        let known = &mut self.known[usize::from(id) - 1];
        let facts =
            Facts { last_fail: facts.last_fail, udp_fail: facts.udp_fail, last_wipe: known.last_wipe };
        for (cell, since) in known.cells.iter_mut().zip(&known.since) {
            *cell = rules::settle(*cell, *since, facts, &TIMES, now);
        }
        if known.alive {
            self.publish(twin, id);
        }
    }

    fn each_cell(&mut self, twin: &mut Twin<'_>, id: u16, rule: impl Fn(Cell) -> Cell) {
        let known = &mut self.known[usize::from(id) - 1];
        for cell in &mut known.cells {
            *cell = rule(*cell);
        }
        if known.alive {
            self.publish(twin, id);
        }
    }

    /// Cells that no agent would make: both sides must still agree.
    fn arbitrary(&mut self, twin: &mut Twin<'_>, random: &mut Random, id: u16) {
        let known = &mut self.known[usize::from(id) - 1];
        for cell in &mut known.cells {
            let mut pick = || {
                if random.chance(5) {
                    random.of(&[0, 63, 64])
                } else {
                    random.of(&backends(id).collect::<Vec<_>>())
                }
            };
            let (base, current) = (pick(), pick());
            *cell = Cell::new(base, current, (random.bits() & 7) << 32);
        }
        if known.alive {
            self.publish(twin, id);
        }
    }

    fn sweep(&self, twin: &mut Twin<'_>, pressure: bool, now: u64) {
        let views: Vec<_> = (1..=SERVICES).map(|id| twin.model.services[&id].view()).collect();
        sweep(twin, |key, word| {
            let id = key.vip().wrapping_sub(100);
            let Some(known) = self.known.get(usize::from(id).wrapping_sub(1)) else { return Sweep::Keep };
            let cell = place(&views[usize::from(id) - 1], key).cell;
            rules::sweep(word, known.cells[cell as usize], is_udp(id), pressure, &TIMES, now)
        });
    }
}

fn sweep(twin: &mut Twin<'_>, rule: impl Fn(&zdd_common::entries::FlowKey, Word) -> Sweep) {
    twin.sweep(rule);
}

fn hop(twin: &mut Twin<'_>, random: &mut Random, number: u16) {
    let mac = neighbour_mac(Link::B, 10 + (number % 8) as u8);
    let port = random.of(&[0, 1, 1, 1, 2, 2, 3, 4, 5, 6, 7, 77, 5000]);
    twin.set_next_hop(number, if port == 0 { NextHop(0) } else { NextHop::new(mac, port) });
}
