//! Kernel and model side by side: every change of a table is made in both, every frame goes through both.

use std::collections::HashMap;

use zdd_agent::dataplane::{Dataplane, Ends, SourceSet};
use zdd_common::atomic::{Atomics as _, Host};
use zdd_common::entries::{
    Backend, BackendId, Cell, Commit, EndEntry, EndKind, Facts, FlowKey, NextHop, Port, Positions, Service,
    Word,
};
use zdd_common::flows::{self, Bucket, Slot};
use zdd_common::limits::WAYS;
use zdd_common::maps::{Counters, Refusals};
use zdd_common::model::Model;
use zdd_common::net::{Addr, End};
use zdd_common::pace::{Pace, PaceKey};
use zdd_common::process::{Verdict, process};
use zdd_common::reason::{REASONS, Reason};
use zdd_common::rules::Sweep;
use zdd_common::signals::table::SIGNAL_WAYS;
use zdd_common::signals::{EVENTS, Event, SignalCounters};
use zdd_common::snat::mapping::{self, Mapping};
use zdd_common::spans::Span;
use zdd_common::tables::Route;
use zdd_common::time::{Tick, ticks};

use crate::frames::assert_sums_kept;
use crate::rig::{
    BACKENDS, BUCKETS, CELLS, FAR, FAR6, KEY, LINES, Link, MAC_A, MAC_B, NEIGHBOURS, Rig, SERVICES,
    SIGNAL_FLOWS, SNAT_BUCKETS, SYN_MEMORY, neighbour_mac, neighbour4, neighbour6,
};

/// What the frames did, for whoever reads the output.
#[derive(Default)]
pub struct Told {
    /// Frames.
    pub frames: u64,
    /// Frames during which the clock stepped.
    pub stepped: u64,
    /// Of these: the program had read both times, and the model was set to what the kernel had.
    pub synced: u64,
    /// Frames by reason.
    pub reasons: HashMap<Reason, u64>,
    /// Frames by reason and the backend that they reached, or came from.
    pub by_backend: HashMap<(Reason, BackendId), u64>,
}

/// Both.
pub struct Twin<'a> {
    pub rig: &'a mut Rig,
    pub model: Model,
    pub told: Told,
    /// Counters of the kernel at the start; they cannot be set to 0.
    first: (Vec<u64>, Vec<Counters>, Vec<Counters>, Vec<Refusals>),
    /// The kernel's packets by reason, after the last frame.
    reasons: Vec<u64>,
}

/// The clock of `bpf_ktime_get_coarse_ns`.
pub fn coarse_now() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid buffer.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

impl<'a> Twin<'a> {
    /// Empty tables.
    pub fn new(rig: &'a mut Rig) -> Self {
        rig.reset();
        let mut model = Model::new(BUCKETS * WAYS, 0);
        model.filter = vec![Default::default(); LINES];
        model.epoch_shift = zdd_common::syn_filter::epoch_shift(ticks(SYN_MEMORY.as_nanos() as u64));
        model.cells = vec![Cell::default(); CELLS];
        model.backends = (0..BACKENDS as u16).map(|id| (id, Backend::default())).collect();
        model.services = (0..SERVICES as u16).map(|id| (id, Service::default())).collect();
        // The map has more slots than anybody names; they are all 0.
        model.ports = (0..4096).map(|index| (index, Port::default())).collect();
        model.routes = routes(rig);
        model.pool = *rig.plane.pool();
        model.mappings = vec![Default::default(); SNAT_BUCKETS];
        model.redirects = [rig.a, rig.b].into();
        model.signal_flows = vec![Default::default(); SIGNAL_FLOWS / SIGNAL_WAYS];
        // Some cells name one beyond.
        model.backends_max = Some(BACKENDS as u16 - 1);
        model.hash_start = Some(KEY.k0);
        model.signal_secret = Dataplane::signal_secret_of(KEY);
        let reasons = rig.reasons();
        let mut twin = Self { rig, model, told: Told::default(), first: Default::default(), reasons };
        twin.first = twin.counters();
        twin
    }

    fn counters(&self) -> (Vec<u64>, Vec<Counters>, Vec<Counters>, Vec<Refusals>) {
        let plane = &self.rig.plane;
        (
            self.rig.reasons(),
            (0..SERVICES as u16).map(|id| plane.service_counters(id)).collect(),
            (0..BACKENDS as u16).map(|id| plane.backend_counters(id)).collect(),
            (0..SERVICES as u16).map(|id| plane.refusals(id)).collect(),
        )
    }

    // --- tables -------------------------------------------------------------------------------------------------------

    pub fn set_end(&mut self, end: End, entry: EndEntry) {
        self.rig.plane.set_end(end, entry, "an end").expect("room");
        if entry.is(EndKind::Vip) {
            let address = EndEntry { kind: EndKind::Address as u16, ..EndEntry::default() };
            self.model.ends.insert(End::new(end.addr, 0, 0), address);
        }
        self.model.ends.insert(end, entry);
    }

    pub fn remove_end(&mut self, end: End) {
        self.rig.plane.remove_end(end);
        let removed = self.model.ends.remove(&end);
        // Every VIP of this world has an address of its own, but for those of many ports, which stay.
        let vip = removed.is_some_and(|entry| entry.is(EndKind::Vip));
        if vip && !self.model.spans.iter().any(|(of, ..)| of.addr == end.addr) {
            self.model.ends.remove(&End::new(end.addr, 0, 0));
        }
    }

    pub fn set_ends(&mut self, ends: Ends, entry: EndEntry) {
        self.rig.plane.set_ends(ends, entry, "ends").expect("room");
        if entry.is(EndKind::Vip) {
            let address = EndEntry { kind: EndKind::Address as u16, ..EndEntry::default() };
            self.model.ends.insert(End::new(ends.first.addr, 0, 0), address);
        }
        let first = u16::from_be(ends.first.port);
        let span = Span { end: entry, first: ends.first.port, zero: [0; 3] };
        let ports = (first, first.saturating_add(ends.more));
        self.model.spans.retain(|(of, other, _)| (*of, *other) != (ends.first, ports));
        self.model.spans.push((ends.first, ports, span));
    }

    /// Writes the sources of a set.
    pub fn write_sources(&mut self, set: u32, table: &SourceSet) {
        self.rig.plane.write_sources(set, table).expect("room");
        for (prefix, source) in table {
            let bits = prefix.length + if prefix.addr.is_ipv4() { 96 } else { 0 };
            self.model.sources.insert((set, prefix.addr.into(), bits), *source);
        }
    }

    pub fn set_pace(&mut self, id: u16, pace: Pace) {
        self.rig.plane.set_pace(id, pace);
        let service = self.model.services.get_mut(&id).expect("a service");
        (service.new_interval, service.new_burst) = (pace.interval, pace.burst);
    }

    pub fn write_service(&mut self, id: u16, service: Service) {
        self.rig.plane.write_service(id, &service);
        self.model.services.insert(id, service);
    }

    pub fn commit(&mut self, id: u16, commit: Commit) {
        self.rig.plane.commit(id, commit);
        self.model.services.get_mut(&id).expect("a service").commit = commit.0;
    }

    pub fn write_row(&mut self, row: u32, cells: &[Cell]) {
        self.rig.plane.write_row(row, cells);
        self.model.cells[row as usize..][..cells.len()].copy_from_slice(cells);
    }

    pub fn write_backend(&mut self, id: BackendId, backend: Backend) {
        self.rig.plane.write_backend(id, &backend);
        self.model.backends.insert(id, backend);
    }

    pub fn set_next_hop(&mut self, id: BackendId, hop: NextHop) {
        self.rig.plane.set_next_hop(id, hop);
        self.model.backends.get_mut(&id).expect("a backend").next_hop = hop.0;
    }

    pub fn set_port(&mut self, index: u16, port: Port) {
        self.rig.plane.set_port(index, port).expect("a slot");
        self.model.ports.insert(index, port);
    }

    pub fn set_locals(&mut self, addrs: &[std::net::IpAddr]) {
        self.rig.plane.set_locals(addrs).expect("room");
        self.model.locals = addrs.iter().map(|addr| Addr::from(*addr)).collect();
    }

    pub fn limit_quotas(&mut self, limit: [u64; 3]) {
        self.rig.limit_quotas(limit);
        self.model.quota = limit;
    }

    /// A service's failures are long ago.
    pub fn forget_failures(&mut self, id: u16) {
        // SAFETY: a mapped value; no thread runs the program.
        unsafe { self.rig.facts.at(id.into()).write(Facts::default()) };
        self.model.facts.remove(&id);
    }

    /// The flow table is lost.
    pub fn wipe(&mut self) {
        self.rig.flows.clear();
        self.model.buckets.fill(Bucket::default());
        // SAFETY: a mapped value; no thread runs the program.
        unsafe { (*self.rig.quotas.at(0)).used = [0; 3] };
        self.model.used = [0; 3];
    }

    /// The agent's sweep over the kernel's table, and the same rule over the model's.
    pub fn sweep(&mut self, mut rule: impl FnMut(&FlowKey, Word) -> Sweep) {
        self.rig.plane.sweep(|scan| rule(&scan.key, scan.word));
        for bucket in 0..self.model.buckets.len() {
            for way in 0..WAYS {
                self.sweep_model(bucket, way, &mut rule);
            }
        }
    }

    fn sweep_model(&mut self, bucket: usize, way: usize, rule: &mut impl FnMut(&FlowKey, Word) -> Sweep) {
        let word = Word(self.model.buckets[bucket].words[way]);
        if word.0 & 7 == 0 {
            return;
        }
        let bucket = &raw mut self.model.buckets[bucket];
        // SAFETY: a reference's memory; nobody else has it.
        let (key, slot) = unsafe { (flows::key_at::<Host>(bucket, way), Slot::of(bucket, way)) };
        let class = word.class_bits();
        match rule(&key, word) {
            Sweep::Keep => {}
            // SAFETY: as above.
            Sweep::Word(new) => assert!(unsafe { flows::update::<Host>(slot, word, new) }),
            Sweep::Restore(new) => {
                // SAFETY: as above.
                let alt = Positions(unsafe { Host::load(&raw const (*bucket).positions[way]) }).alt();
                // SAFETY: as above.
                assert!(unsafe { flows::replace::<Host>(slot, word, new, Positions::new(alt, alt)) });
                self.model.used[class] -= 1;
                self.model.used[new.class_bits()] += 1;
            }
            Sweep::Free => {
                // SAFETY: as above.
                assert!(unsafe { flows::update::<Host>(slot, word, Word::default()) });
                self.model.used[class] -= 1;
            }
        }
    }

    /// The agent's sweep over the kernel's mappings, and the same rule over the model's.
    pub fn sweep_mappings(&mut self, rule: impl Fn(Mapping) -> mapping::Fate) {
        self.rig.plane.sweep_mappings(&rule);
        for word in self.model.mappings.iter_mut().flat_map(|bucket| &mut bucket.words) {
            if *word == 0 {
                continue;
            }
            match rule(Mapping(*word)) {
                mapping::Fate::Keep => {}
                mapping::Fate::Over(new) => *word = new.0,
                mapping::Fate::Free => *word = 0,
            }
        }
    }

    // --- frames -------------------------------------------------------------------------------------------------------

    /// Sends a frame through both and compares everything that it can have touched but counters. `from` is its backend, if it is an
    /// answer.
    pub fn run(&mut self, link: Link, frame: &[u8], from: BackendId, what: impl Fn() -> String) {
        let before = self.packets();
        let reason = self.compare(link, frame, what);
        let reached = self.packets().into_iter().zip(before).position(|(after, before)| after != before);
        let answer = matches!(reason, Reason::Reply | Reason::ReplyStackRouted).then_some(from);
        if let Some(backend) = reached.map(|id| id as BackendId).or(answer) {
            *self.told.by_backend.entry((reason, backend)).or_default() += 1;
        }
    }

    /// Packets that reached each backend.
    fn packets(&self) -> [u64; BACKENDS] {
        std::array::from_fn(|id| {
            self.model.by_backend.get(&(id as u16)).map_or(0, |counters| counters.packets)
        })
    }

    fn compare(&mut self, link: Link, frame: &[u8], what: impl Fn() -> String) -> Reason {
        self.told.frames += 1;
        self.model.ingress = self.rig.ifindex(link);
        let before = coarse_now();
        let ran = self.rig.run_after(link, frame, 0, &self.reasons).expect("BPF_PROG_TEST_RUN");
        let (ran, reasons) = ran;
        self.reasons = reasons;
        let after = coarse_now();
        *self.told.reasons.entry(ran.reason).or_default() += 1;
        if ran.action != DROP {
            assert_sums_kept(frame, &ran.frame, &what());
        }
        if before == after {
            let (verdict, out) = decide(&mut self.model, before, frame);
            self.assert_same(verdict, &out, &ran, &what);
            assert!(self.state_same(), "{}: {verdict:?}\n{}", what(), self.difference());
            return ran.reason;
        }
        // The clock stepped: the program read the old time or the new one, and which of them does not matter.
        self.told.stepped += 1;
        let start = self.model.clone();
        for now in [before, after] {
            self.model = start.clone();
            let (verdict, out) = decide(&mut self.model, now, frame);
            let same =
                self.action(verdict) == ran.action && verdict.reason() == ran.reason && out == ran.frame;
            if same && self.state_same() {
                return ran.reason;
            }
        }
        // Or it read both. Such a packet may go either way; what it wrote is taken over.
        self.told.synced += 1;
        let mut both = [before, after].map(|now| {
            let mut model = start.clone();
            let (verdict, out) = decide(&mut model, now, frame);
            (verdict, out, model)
        });
        let [old, new] = &mut both;
        let is_old = self.action(old.0) == ran.action && old.0.reason() == ran.reason && old.1 == ran.frame;
        let (taken, other) = if is_old { (old, new) } else { (new, old) };
        self.assert_same(taken.0, &taken.1, &ran, &what);
        self.model = std::mem::take(&mut taken.2);
        self.take_over((before, after), &other.2, &what);
        ran.reason
    }

    fn action(&self, verdict: Verdict) -> u32 {
        match verdict {
            Verdict::Pass(_) | Verdict::Odd => PASS,
            Verdict::Drop(_) | Verdict::Map => DROP,
            Verdict::Transmit(_) => TX,
            Verdict::Redirect(to, _) if to == self.rig.a || to == self.rig.b => REDIRECT,
            // Not in the map of interfaces that take redirects.
            Verdict::Redirect(..) => ABORTED,
        }
    }

    fn assert_same(&self, verdict: Verdict, out: &[u8], ran: &crate::rig::Ran, what: &dyn Fn() -> String) {
        assert_eq!(ran.reason, verdict.reason(), "{}: kernel's and model's reason", what());
        assert_eq!(ran.action, self.action(verdict), "{}: {verdict:?}", what());
        assert!(ran.frame == out, "{}:\nkernel {:02x?}\nmodel  {out:02x?}", what(), ran.frame);
    }

    /// Whether flow table, filter, quotas and facts are the same, to the last bit.
    fn state_same(&self) -> bool {
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

    fn difference(&self) -> String {
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
    fn take_over(&mut self, (before, after): (u64, u64), other: &Model, what: &dyn Fn() -> String) {
        let timeless = |buckets: &[Bucket]| {
            let mut buckets = buckets.to_vec();
            for word in buckets.iter_mut().flat_map(|bucket| &mut bucket.words) {
                *word = Word(*word).with_seen(Tick(0)).0;
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
        for word in self.model.buckets.iter().flat_map(|bucket| bucket.words).filter(|word| *word != 0) {
            there[Word(word).class_bits()] += 1;
        }
        assert_eq!(self.model.used, there, "quotas against entries");
    }
}

fn pace_key(key: &PaceKey) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..16].copy_from_slice(&key.source.octets());
    bytes[16..18].copy_from_slice(&key.service.to_ne_bytes());
    bytes
}

fn plus(a: Counters, b: Counters) -> Counters {
    Counters::sum([a, b])
}

fn decide(model: &mut Model, now: u64, frame: &[u8]) -> (Verdict, Vec<u8>) {
    let mut out = frame.to_vec();
    model.now_ns = now;
    let verdict = process(&mut out, model);
    model.count(verdict.reason());
    (verdict, out)
}

/// What the namespace's routing tables say.
fn routes(rig: &Rig) -> HashMap<Addr, Route> {
    let mut routes = HashMap::new();
    for (link, src_mac) in [(Link::A, MAC_A), (Link::B, MAC_B)] {
        for host in NEIGHBOURS {
            let route =
                Route { ifindex: rig.ifindex(link), src_mac, dst_mac: neighbour_mac(link, host), fits: 0 };
            routes.insert(neighbour4(link, host).into(), route);
            routes.insert(neighbour6(link, host).into(), route);
        }
    }
    let router = routes[&Addr::from(neighbour4(Link::A, 17))];
    routes.insert(Addr::from(std::net::IpAddr::from(FAR)), router);
    routes.insert(Addr::from(std::net::IpAddr::from(FAR6)), router);
    routes
}

const ABORTED: u32 = 0;
const DROP: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;
const REDIRECT: u32 = 4;

/// The words that mappings consist of.
fn words(buckets: &[mapping::Bucket]) -> &[u64] {
    // SAFETY: a bucket is words and nothing else, without a gap: `wire!` sees to it.
    unsafe { std::slice::from_raw_parts(buckets.as_ptr().cast(), size_of_val(buckets) / 8) }
}
