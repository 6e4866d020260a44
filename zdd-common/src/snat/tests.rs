//! The table as a whole: a flow keeps its port, a port has one flow towards a backend, and neither gets lost on the way.

use std::collections::HashMap;

use super::mapping::{Fate, Mapping, Timeouts, sweep};
use super::pool::{Pool, homes};
use super::table::{self, Found, Wanted};
use crate::atomic::Host;
use crate::entries::{Backend, EndEntry, EndKind, FlowKey, Mode, NextHop, Port};
use crate::model::Model;
use crate::net::{Addr, End, TCP};
use crate::time::Tick;

const OURS: [u8; 4] = [10, 0, 2, 1];

/// A model with so many ports, and two backends on different planes or not.
pub(super) fn world(ports: u16, planes: u32) -> Model {
    let mut model = Model::new(64, 64);
    model.pool.first = 61_000;
    model.pool.ports = ports;
    model.pool.planes = planes;
    model.pool.addresses = [1, 0];
    model.pool.sources[0][0] = Addr::v4(OURS);
    model.mappings = vec![Default::default(); model.pool.table() as usize];
    model.now_ns = 1_000_000_000_000;
    model.ports.insert(1, Port { ifindex: 7, flags: 0, mac: [2; 6], tags: 0, mtu: 0 });
    for id in 1..=4u16 {
        let addr = Addr::v4([10, 0, 3, id as u8]);
        model.backends.insert(
            id,
            Backend {
                addr,
                next_hop: NextHop::new([3; 6], 1).0,
                port: 8080u16.to_be(),
                mode: Mode::Snat as u16,
                ..Backend::default()
            },
        );
        let entry = EndEntry { kind: EndKind::SnatBackend as u16, service: 1, id, ..EndEntry::default() };
        model.ends.insert(End::new(addr, 8080u16.to_be(), TCP), entry);
    }
    model
}

pub(super) fn key(client: u32, port: u16) -> FlowKey {
    FlowKey::new(Addr::v4(client.to_be_bytes()), port.to_be(), 80u16.to_be(), 9)
}

/// The source that a flow gets towards a backend: made, if it has none.
pub(super) fn map(model: &mut Model, key: FlowKey, id: u16) -> Option<(u32, u16)> {
    let backend = model.backends[&id];
    let pool = model.pool;
    let plane = pool.plane(backend.addr, backend.port);
    let hash = pool.hash(&key);
    let homes = homes(plane, hash);
    let buckets = homes.map(|home| &raw mut model.mappings[home as usize]);
    let word = Mapping::new(id, false, hash >> 16, Tick::from_ns(model.now_ns));
    let wanted = Wanted { key, vip: Addr::v4([10, 9, 0, 1]), word, reached: 5, turn: (hash >> 40) as u32 };
    // SAFETY: buckets of the model, which do not move.
    let (second, way) = unsafe {
        match table::find::<Host>(&buckets, &wanted) {
            Found::Here(second, way, _) => (second, way),
            _ => table::make::<Host>(&buckets, &wanted)?,
        }
    };
    let place = super::pool::Place { bucket: homes[second as usize], way };
    Some(pool.end_at(plane, place))
}

#[test]
fn a_flow_keeps_its_port_and_no_two_share_one_towards_a_backend() {
    let mut model = world(512, 2);
    let mut given = HashMap::new();
    for client in 0..300 {
        for id in [1, 2] {
            let end = map(&mut model, key(client, 4000), id).expect("room");
            assert!(given.insert((id, end), client).is_none(), "{end:?} twice towards {id}");
            assert_eq!(map(&mut model, key(client, 4000), id), Some(end));
        }
    }
}

#[test]
fn most_of_a_plane_can_be_given_out_before_a_flow_finds_none() {
    let mut model = world(4536, 1);
    let refused = (0..).find(|client| map(&mut model, key(*client, 4000), 1).is_none()).expect("an end");
    println!("{refused} of 4536 before the first refusal");
    assert!(refused > 4536 * 8 / 10, "{refused}");
}

#[test]
fn every_port_is_found_from_behind() {
    let mut model = world(64, 4);
    let pool: Pool = model.pool;
    for client in 0..40 {
        for id in 1..=4 {
            let Some((source, port)) = map(&mut model, key(client, 4000 + client as u16), id) else {
                continue;
            };
            let backend = model.backends[&id];
            let plane = pool.plane(backend.addr, backend.port);
            let place = pool.place_of(plane, source, port).expect("a place");
            // SAFETY: a bucket of the model.
            let (word, _, peer) =
                unsafe { table::read::<Host>(&raw mut model.mappings[place.bucket as usize], place.way) };
            assert_eq!(word.backend(), id);
            assert_eq!(peer.client, Addr::v4(client.to_be_bytes()));
            assert_eq!(peer.client_port, (4000 + client as u16).to_be());
            assert_eq!((peer.vip_port, peer.vip_id), (80u16.to_be(), 9));
        }
    }
}

#[test]
fn a_port_that_rests_is_given_to_nobody_and_a_free_one_again() {
    let mut model = world(8, 1);
    let s = 1_000_000_000;
    let times = Timeouts {
        idle: 9 * s,
        udp_idle: 9 * s,
        half_life: 9 * s,
        scarce: 9 * s,
        time_wait: 9 * s,
        grace: s,
    };
    for client in 0..8 {
        assert!(map(&mut model, key(client, 1), 1).is_some());
    }
    assert_eq!(map(&mut model, key(8, 1), 1), None);
    let age = |model: &mut Model, by: u64| {
        model.now_ns += by;
        for word in &mut model.mappings[0].words {
            match sweep(Mapping(*word), &times, false, model.now_ns) {
                Fate::Keep => {}
                Fate::Over(new) => *word = new.0,
                Fate::Free => *word = 0,
            }
        }
    };
    age(&mut model, 20 * s);
    assert_eq!(map(&mut model, key(8, 1), 1), None, "they rest");
    age(&mut model, 3 * s);
    assert!(map(&mut model, key(8, 1), 1).is_some());
}

#[test]
fn many_threads_that_map_few_flows_give_each_one_port() {
    const THREADS: u32 = 8;
    for round in 0..200 {
        let mut model = world(16, 1);
        // SAFETY: the threads end before the model, and change the table by atomic operations only.
        let shared: Vec<_> = (0..THREADS).map(|_| model.clone_table()).collect();
        let barrier = std::sync::Barrier::new(THREADS as usize);
        let got: Vec<Vec<_>> = std::thread::scope(|scope| {
            let work = shared.into_iter().map(|mut view| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    (0..6).map(|client| view.map(key(client + round, 7))).collect::<Vec<_>>()
                })
            });
            work.collect::<Vec<_>>().into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        for flow in 0..6 {
            let ends: std::collections::HashSet<_> = got.iter().filter_map(|of| of[flow]).collect();
            assert!(ends.len() <= 1, "one flow, several ports: {ends:?}");
        }
        let words = model.mappings.iter().flat_map(|bucket| bucket.words).filter(|word| *word != 0);
        assert!(words.count() <= 6, "nothing is left over");
    }
}

/// The table of a model, for one of several threads.
struct View {
    pool: Pool,
    backend: Backend,
    table: *mut super::mapping::Bucket,
}

// SAFETY: the table is only touched by atomic operations.
unsafe impl Send for View {}

impl Model {
    fn clone_table(&mut self) -> View {
        View { pool: self.pool, backend: self.backends[&1], table: self.mappings.as_mut_ptr() }
    }
}

impl View {
    fn map(&mut self, key: FlowKey) -> Option<(u32, u16)> {
        let plane = self.pool.plane(self.backend.addr, self.backend.port);
        let hash = self.pool.hash(&key);
        let homes = homes(plane, hash);
        // SAFETY: below the table's length.
        let buckets = homes.map(|home| unsafe { self.table.add(home as usize) });
        let word = Mapping::new(1, false, hash >> 16, Tick(1));
        let wanted =
            Wanted { key, vip: Addr::v4([10, 9, 0, 1]), word, reached: 5, turn: (hash >> 40) as u32 };
        for _ in 0..3 {
            // SAFETY: as above.
            let at = unsafe {
                match table::find::<Host>(&buckets, &wanted) {
                    Found::Here(second, way, _) => Some((second, way)),
                    Found::None => table::make::<Host>(&buckets, &wanted),
                    Found::Busy => None,
                }
            };
            if let Some((second, way)) = at {
                return Some(
                    self.pool.end_at(plane, super::pool::Place { bucket: homes[second as usize], way }),
                );
            }
        }
        None
    }
}
