//! What changes both: the kernel's tables and the model's.

use zdd_agent::dataplane::{Ends, SourceSet};
use zdd_common::atomic::Host;
use zdd_common::entries::{
    Backend, BackendId, Cell, Commit, EndEntry, EndKind, Facts, FlowKey, NextHop, Port, Service, State, Word,
};
use zdd_common::flows::{self, Bucket, Place, Recount};
use zdd_common::limits::WAYS;
use zdd_common::net::{Addr, End};
use zdd_common::pace::Pace;
use zdd_common::rules::Sweep;
use zdd_common::snat::mapping::{self, Mapping};
use zdd_common::spans::Span;

use super::Twin;

impl Twin<'_> {
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
        let (table, buckets) = (self.model.buckets.as_mut_ptr(), self.model.buckets.len() as u32);
        for index in 0..buckets {
            for way in 0..WAYS {
                let place = Place { table, buckets, index, way };
                // SAFETY: a vector's memory; nobody else has it.
                let word = unsafe { place.word::<Host>() };
                if word.is(State::Free) {
                    continue;
                }
                // SAFETY: as above.
                let fate = rule(&unsafe { place.key::<Host>() }, word);
                // SAFETY: as above.
                if let Some(Recount { from, to }) = unsafe { flows::apply::<Host>(&place, word, fate) } {
                    self.model.used[from] -= 1;
                    if let Some(to) = to {
                        self.model.used[to] += 1;
                    }
                }
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
}
