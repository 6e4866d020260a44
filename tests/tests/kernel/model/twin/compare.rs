//! That both have come to the same tables.

use zdd_common::entries::{Facts, Word};
use zdd_common::flows::Bucket;
use zdd_common::maps::Refusals;
use zdd_common::model::Model;
use zdd_common::pace::PaceKey;
use zdd_common::reason::REASONS;
use zdd_common::signals::{EVENTS, Event, SignalCounters};
use zdd_common::time::Tick;

use super::{Twin, pace_key, plus, words};

impl Twin<'_> {
    /// Whether flow table, filter, quotas and facts are the same, to the last bit.
    pub(super) fn state_same(&self) -> bool {
        self.rig.flows.is(&self.model.buckets)
            && self.rig.mappings.is(&self.model.mappings)
            && self.rig.filter.is(&self.model.filter)
            && self.rig.plane.quotas().used == self.model.used
            && self.facts_same(|a, b| a == b)
            && self.paces_same(|a, b| a == b)
    }

    fn paces_same(&self, same: impl Fn(u64, u64) -> bool) -> bool {
        // Those that the model knows: a walk through the kernel's table costs more than all the rest. `compare_all` takes it.
        let known = |(key, word): (&PaceKey, &u64)| {
            // A source that was refused at once leaves nothing in the kernel.
            same(self.rig.pace(&pace_key(key)).unwrap_or_default(), *word)
        };
        self.model.paces.iter().all(known)
    }

    fn facts_same(&self, same: impl Fn(&Facts, &Facts) -> bool) -> bool {
        let facts = self.rig.facts.all();
        (0u16..).zip(&facts).all(|(id, facts)| match self.model.facts.get(&id) {
            Some(model) => same(facts, model),
            None => *facts == Facts::default(),
        })
    }

    pub(super) fn difference(&self) -> String {
        let mut text = String::new();
        for (index, (a, b)) in self.rig.flows.all().iter().zip(&self.model.buckets).enumerate() {
            if a != b {
                text += &format!("bucket {index}:\nkernel {a:x?}\nmodel  {b:x?}\n");
            }
        }
        for (index, (a, b)) in self.rig.mappings.all().iter().zip(&self.model.mappings).enumerate() {
            if a != b {
                text += &format!("mappings {index}:\nkernel {a:x?}\nmodel  {b:x?}\n");
            }
        }
        for (index, (a, b)) in self.rig.filter.all().iter().zip(&self.model.filter).enumerate() {
            if a != b {
                text += &format!("filter line {index}:\nkernel {a:x?}\nmodel  {b:x?}\n");
            }
        }
        let facts: Vec<_> = (self.rig.facts.all().into_iter().enumerate())
            .filter(|(_, facts)| *facts != Facts::default())
            .collect();
        text + &format!(
            "paces:\nkernel {:x?}\nmodel  {:x?}\nquotas: kernel {:?} model {:?}\nfacts:\nkernel {facts:?}\nmodel  {:?}",
            self.rig.paces(),
            self.model.paces,
            self.rig.plane.quotas().used,
            self.model.used,
            self.model.facts
        )
    }

    /// Takes the kernel's state into the model, after seeing that they differ in times only. `other` is the model by the other time.
    pub(super) fn take_over(
        &mut self,
        (before, after): (u64, u64),
        other: &Model,
        what: &dyn Fn() -> String,
    ) {
        let timeless = |buckets: &[Bucket]| {
            let mut buckets = buckets.to_vec();
            for way in buckets.iter_mut().flat_map(|bucket| &mut bucket.ways) {
                way.word = Word(way.word).with_seen(Tick(0)).0;
            }
            buckets
        };
        let kernel = self.rig.flows.all();
        assert!(timeless(&kernel) == timeless(&self.model.buckets), "{}\n{}", what(), self.difference());
        let near = |a: u64, b: u64| a == b || (a >= before && a <= after && b >= before && b <= after);
        // Buckets are filled by the one time or the other.
        let step = after - before;
        assert!(self.paces_same(|a, b| a.abs_diff(b) <= step), "{}\n{}", what(), self.difference());
        let paces = self.rig.paces();
        for (key, word) in &mut self.model.paces {
            *word = paces[&pace_key(key)];
        }
        let facts = self.facts_same(|a, b| {
            a.fails == b.fails && near(a.last_fail, b.last_fail) && near(a.udp_fail, b.udp_fail)
        });
        assert!(facts, "{}\n{}", what(), self.difference());
        assert_eq!(self.rig.plane.quotas().used, self.model.used, "{}", what());
        // A mapping's position follows its flow when the word is written anew, and that is by the clock as well: every word is as by
        // the one time or by the other.
        let mappings = self.rig.mappings.all();
        let (kernel_has, one, two) = (words(&mappings), words(&self.model.mappings), words(&other.mappings));
        let either =
            kernel_has.iter().zip(one.iter().zip(two)).all(|(word, (one, two))| word == one || word == two);
        assert!(either, "{}\n{}", what(), self.difference());
        self.model.mappings = mappings;
        self.model.buckets = kernel;
        self.model.filter = self.rig.filter.all();
        for (id, facts) in (0u16..).zip(self.rig.facts.all()) {
            if facts != Facts::default() {
                self.model.facts.insert(id, facts);
            }
        }
    }

    /// Compares counters, cells, services, and the remembered conversations: what takes longer.
    pub fn compare_all(&self) {
        let (reasons, services, backends, _) = self.counters();
        for (index, reason) in REASONS.iter().enumerate() {
            let model = self.model.reasons.get(reason).copied().unwrap_or_default();
            assert_eq!(reasons[index] - self.first.0[index], model, "{reason:?} counted");
        }
        for (id, (now, first)) in services.iter().zip(&self.first.1).enumerate() {
            let model = self.model.by_service.get(&(id as u16)).copied().unwrap_or_default();
            assert_eq!(plus(*first, model), *now, "counters of service {id}");
        }
        for (id, first) in (0u16..).zip(&self.first.3) {
            let model = self.model.refused.get(&id).copied().unwrap_or_default();
            assert_eq!(
                Refusals::sum([*first, model]),
                self.rig.plane.refusals(id),
                "turned away of service {id}"
            );
        }
        for (id, (now, first)) in backends.iter().zip(&self.first.2).enumerate() {
            let model = self.model.by_backend.get(&(id as u16)).copied().unwrap_or_default();
            assert_eq!(plus(*first, model), *now, "counters of backend {id}");
        }
        self.compare_signals();
        let cells: Vec<u64> = self.model.cells.iter().map(|cell| cell.0).collect();
        assert!(self.rig.cells.is(&cells), "cells");
        for (id, service) in (0u16..).zip(self.rig.services.all()) {
            assert_eq!(service, self.model.services[&id], "service {id}");
        }
        let direct = self.rig.direct();
        assert_eq!(direct.len(), self.model.direct.len(), "direct conversations");
        for key in &self.model.direct {
            let mut bytes = key.backend.addr.octets().to_vec();
            bytes.extend(key.backend.port.to_ne_bytes());
            bytes.push(key.backend.proto);
            bytes.extend([0; 5]);
            bytes.extend(key.peer.octets());
            bytes.extend(key.peer_port.to_ne_bytes());
            bytes.extend([0; 6]);
            assert!(direct.iter().any(|known| known[..] == bytes[..]), "{key:?}");
        }
        self.compare_trails();
        assert_eq!(self.rig.paces().len(), self.model.paces.len(), "sources whose connections are limited");
        assert!(self.state_same(), "{}", self.difference());
        self.assert_quotas_add_up();
    }

    /// What was counted of flows that are followed, but for how long anything took: the model's clock stands still.
    fn compare_signals(&self) {
        let timed = [Event::HandshakeNs as usize, Event::FirstByteNs as usize];
        for (id, kernel) in (0u16..).zip(self.rig.signals.all()) {
            let model = self.model.signals.get(&id).map(|counters| **counters).unwrap_or_default();
            let events = |of: &SignalCounters| {
                let mut events = of.events;
                timed.iter().for_each(|at| events[*at] = 0);
                let times = |times: &[u64]| times.iter().sum::<u64>();
                (events, times(&of.handshake), times(&of.first_byte))
            };
            assert_eq!(events(&kernel), events(&model), "signals of backend {id}");
        }
    }

    /// How many things happened to flows that are followed.
    pub fn signals(&self) -> Vec<(&'static str, u64)> {
        let of = |event: &Event| self.model.signals.values().map(|counters| counters.of(*event)).sum();
        EVENTS.iter().map(|event| (event.name(), of(event))).collect()
    }

    /// The ways of fragmented datagrams, but for when they were taken: a clock's tick may lie between the two.
    fn compare_trails(&self) {
        let kernel = self.rig.trails();
        assert_eq!(kernel.len(), self.model.trails.len(), "trails of fragmented datagrams");
        for (key, trail) in &self.model.trails {
            let mut bytes = key.src.octets().to_vec();
            bytes.extend(key.dst.octets());
            bytes.extend(key.id.to_ne_bytes());
            bytes.extend([key.proto, 0, 0, 0]);
            let known = kernel.get(&bytes[..]).unwrap_or_else(|| panic!("{key:?}: {trail:?}"));
            let word = |at: usize| u16::from_ne_bytes([known[at], known[at + 1]]);
            let same = [trail.to, trail.service, trail.backend, trail.port, trail.covered];
            assert_eq!([word(0), word(2), word(4), word(6), word(12)], same, "{key:?}");
            assert_eq!(known[14..], [trail.proto, trail.source], "{key:?}");
        }
    }

    /// What is counted is what is there: every way that is not free counts against its class.
    fn assert_quotas_add_up(&self) {
        let mut there = [0; 3];
        for way in self.model.buckets.iter().flat_map(|bucket| bucket.ways).filter(|way| way.word != 0) {
            there[Word(way.word).class_bits()] += 1;
        }
        assert_eq!(self.model.used, there, "quotas against entries");
    }
}
