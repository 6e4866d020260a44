//! What a packet of either end finds, and what it may change of it.

use super::mapping::{Mapping, State};
use super::pool::Place;
use super::table;
use super::tests::{key, map, world};
use super::{Job, Kind, Order, lookup};
use crate::atomic::Host;
use crate::model::Model;
use crate::net::{Addr, TCP, UDP};
use crate::time::TICK_SHIFT;

const FIN: u8 = 2;
const RST: u8 = 4;

/// A mapping of client 1's towards backend 1, in the only plane, and where it is.
struct Scene {
    model: Model,
    port: u16,
    place: Place,
}

fn scene() -> Scene {
    let mut model = world(64, 1);
    let (source, port) = map(&mut model, key(1, 4000), 1).expect("room");
    let backend = model.backends[&1];
    let plane = model.pool.plane(backend.addr, backend.port);
    let place = model.pool.place_of(plane, source, port).expect("a place");
    Scene { model, port, place }
}

impl Scene {
    fn read(&mut self) -> (Mapping, u64) {
        let bucket = &raw mut self.model.mappings[self.place.bucket as usize];
        // SAFETY: a bucket of the model.
        let (word, reached, _) = unsafe { table::read::<Host>(bucket, self.place.way) };
        (word, reached)
    }

    /// A packet from a backend to the mapping's port: whether it is somebody's answer.
    fn back(&mut self, backend: u16, proto: u8, flags: u8, seq: u32) -> bool {
        let mut order = Order {
            kind: Kind::Back as u8,
            dst: self.model.pool.sources[0][0],
            dst_port: self.port,
            backend,
            proto,
            flags,
            seq,
            ..Order::default()
        };
        let mut job = Job { backend: self.model.backends[&backend], ..Job::default() };
        lookup::back(&mut self.model, &mut order, &mut job);
        job.go
    }

    /// A packet of the client's: whether it has a port.
    fn out(&mut self, flags: u8, seq: u32) -> bool {
        let order = Order {
            kind: Kind::Out as u8,
            src: Addr::v4([0, 0, 0, 1]),
            src_port: 4000u16.to_be(),
            dst: Addr::v4([10, 9, 0, 1]),
            dst_port: 80u16.to_be(),
            vip_id: 9,
            backend: 1,
            proto: TCP,
            flags,
            seq,
            ..Order::default()
        };
        let mut job = Job { backend: self.model.backends[&1], ..Job::default() };
        lookup::aim(&mut self.model, &order, &mut job);
        lookup::claim(&mut self.model, &order, &mut job);
        job.go
    }
}

#[test]
fn only_the_mappings_own_backend_answers_by_its_protocol() {
    let mut scene = scene();
    let before = scene.read();
    // In a plane that both share, another backend's packet may come for the same port.
    assert!(!scene.back(2, TCP, 0, 9000), "another backend's");
    assert!(!scene.back(1, UDP, 0, 0), "another protocol's");
    assert_eq!(scene.read(), before, "nor do they change it");
    assert!(scene.back(1, TCP, 0, 9000));
    assert!(scene.read().0.has_answer());
}

#[test]
fn a_blind_fin_or_reset_moves_neither_ends_position() {
    let mut scene = scene();
    assert!(scene.out(0, 5) && scene.back(1, TCP, 0, 9000) && scene.out(0, 6));
    let (_, reached) = scene.read();
    for flags in [FIN, RST] {
        // Ahead of where the ends are, and behind.
        for seq in [1 << 28, 1 << 31, 3 << 30] {
            // Later: what changes nothing of the word is not noted at all.
            scene.model.now_ns += 10 << TICK_SHIFT;
            assert!(scene.back(1, TCP, flags, 9000 + seq) && scene.out(flags, 6 + seq));
        }
    }
    let (word, now) = scene.read();
    assert_eq!((now, word.finished()), (reached, false));
}

#[test]
fn a_flow_whose_port_is_over_has_it_back_alive() {
    let mut scene = scene();
    let (word, _) = scene.read();
    let bucket = &raw mut scene.model.mappings[scene.place.bucket as usize];
    // SAFETY: a bucket of the model.
    assert!(unsafe { table::update::<Host>(bucket, scene.place.way, word, word.with_state(State::Dead)) });
    assert!(scene.out(0, 7000));
    let (word, reached) = scene.read();
    assert!(word.is(State::Live) && !word.has_answer());
    assert_eq!(reached as u32, 7000, "it begins where it is now");
    let live = scene.model.mappings.iter().flat_map(|bucket| bucket.words).filter(|word| *word != 0);
    assert_eq!(live.count(), 1, "no second port");
}
