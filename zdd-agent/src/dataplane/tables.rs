//! What the reconciler does with the maps. Ids, rows and orders are its business; here one call is one write or read.

use std::net::IpAddr;
use std::os::fd::AsFd as _;

use aya::maps::PerCpuValues;
use zdd_common::atomic::{Atomics as _, Host};
use zdd_common::entries::{
    Backend, BackendId, Commit, EndEntry, EndKind, Facts, FlowKey, NextHop, Port, Positions, Service, State,
    VipWord, Word,
};
use zdd_common::flows::{self, Place, Recount};
use zdd_common::limits::WAYS;
use zdd_common::maps::{Counters, Quotas, Refusals, Repliers};
use zdd_common::net::{Addr, End};
use zdd_common::pace::Pace;
use zdd_common::reason::REASONS;
use zdd_common::rules::Sweep;
use zdd_common::syn_filter;

use super::DataplaneError;
use super::fault::{self, Write};
use super::mapped::Mapped;
use super::object::{Dataplane, Plain};
use super::per_cpu;

/// Entries of the flow table by state, as one scan saw them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowTotals {
    /// Half-open.
    pub half: u64,
    /// Established (pending ones included).
    pub established: u64,
    /// Expired, not yet free.
    pub dead: u64,
}

/// What a scan tells about one entry.
#[derive(Clone, Copy, Debug)]
pub struct FlowScan {
    /// Its key.
    pub key: FlowKey,
    /// Its word.
    pub word: Word,
}

impl Dataplane {
    // --- services ---------------------------------------------------------------------------------------------------

    /// Writes a service's fixed fields, with a commit word of 0: nothing is steered before [`Dataplane::commit`]. Its key is the host's,
    /// whatever `service` says: the program knows no other.
    pub fn write_service(&self, id: u16, service: &Service) {
        fault::before(Write::Service);
        let service = Service { key: self.key, ..*service };
        // SAFETY: a mapped value; no packet uses a service that has no VIP.
        unsafe { self.services.at(id.into()).write(service) };
    }

    /// A service as it stands.
    pub fn service(&self, id: u16) -> Service {
        // SAFETY: a mapped value.
        unsafe { self.services.at(id.into()).read_volatile() }
    }

    /// Changes how many new connections one source of the service may open.
    pub fn set_pace(&self, id: u16, pace: Pace) {
        fault::before(Write::Pace);
        // SAFETY: a mapped value; two aligned numbers, each read whole. Whoever sees one of them before and one after meets a limit
        // between the two for a moment.
        unsafe {
            let service = self.services.at(id.into());
            (&raw mut (*service).new_burst).write_volatile(pace.burst);
            (&raw mut (*service).new_interval).write_volatile(pace.interval);
        }
    }

    /// Changes after how many ticks of silence a UDP flow of the service is gone.
    pub fn set_udp_idle(&self, id: u16, ticks: u32) {
        fault::before(Write::IdleTime);
        // SAFETY: a mapped value; one aligned number, which packets read whole.
        unsafe { (&raw mut (*self.services.at(id.into())).udp_idle).write_volatile(ticks) };
    }

    /// The commit point: one aligned word. Everything that the row names must be written before.
    pub fn commit(&self, id: u16, commit: Commit) {
        fault::before(Write::Commit);
        // SAFETY: a mapped value; the word is the first field.
        unsafe { Host::store(self.services.at(id.into()).cast(), commit.0) };
    }

    /// What packets told about a service.
    pub fn facts(&self, id: u16) -> Facts {
        // SAFETY: a mapped value; each word is read whole.
        unsafe {
            let facts = self.facts.at(id.into());
            Facts {
                last_fail: Host::load(&raw const (*facts).last_fail),
                udp_fail: Host::load(&raw const (*facts).udp_fail),
                fails: Host::load(&raw const (*facts).fails),
                reserved: [0; 5],
            }
        }
    }

    // --- backends ---------------------------------------------------------------------------------------------------

    /// Writes a backend that no cell names yet.
    pub fn write_backend(&self, id: BackendId, backend: &Backend) {
        fault::before(Write::Backend);
        // SAFETY: a mapped value that nobody reads yet.
        unsafe { self.backends.at(id.into()).write(*backend) };
    }

    /// Changes a backend's next hop: one word.
    pub fn set_next_hop(&self, id: BackendId, hop: NextHop) {
        fault::before(Write::NextHop);
        // SAFETY: a mapped value.
        unsafe { Host::store(&raw mut (*self.backends.at(id.into())).next_hop, hop.0) };
    }

    /// A backend's next hop as it stands.
    pub fn next_hop(&self, id: BackendId) -> NextHop {
        // SAFETY: a mapped value.
        NextHop(unsafe { Host::load(&raw const (*self.backends.at(id.into())).next_hop) })
    }

    // --- ends, ports, addresses ---------------------------------------------------------------------------------------

    /// Makes an end known, or changes what it is.
    ///
    /// A VIP's address becomes known with it, and before it.
    pub fn set_end(&mut self, end: End, entry: EndEntry, doing: &str) -> Result<(), DataplaneError> {
        if entry.is(EndKind::Vip) {
            let entry = EndEntry { kind: EndKind::Address as u16, ..EndEntry::default() };
            self.write_end(address_of(end), entry, doing)?;
        }
        self.write_end(end, entry, doing)
    }

    pub(super) fn write_end(&mut self, end: End, entry: EndEntry, doing: &str) -> Result<(), DataplaneError> {
        let limit = self.limit_ends;
        let quick = VipWord::of(&entry).filter(|_| self.has_line(&end));
        if quick.is_none() {
            self.note_replier(&end, &entry);
        }
        fault::before(Write::End);
        let inserted = self.ends.insert(&Plain(end), &Plain(entry), 0).map_err(|error| match errno(&error) {
            Some(libc::E2BIG) => {
                DataplaneError::Full { map: "ENDS", limit, doing: doing.to_owned(), knob: "backends" }
            }
            _ => DataplaneError::kernel(format!("cannot write {doing}"), error),
        });
        // Only what the table of ends says as well, so that both always agree on whose a packet is.
        match (&inserted, quick) {
            (Ok(()), Some(word)) => self.tell_line(&end, word),
            (Ok(()), None) => self.retire_line(&end),
            (Err(_), Some(_)) => self.unclaim_line(&end),
            (Err(_), None) => {}
        }
        inserted
    }

    /// An end that has no line of its own is looked up only if the sketch knows it, so it is told first. Nothing is taken out
    /// again: a bit too many costs a lookup.
    fn note_replier(&self, end: &End, entry: &EndEntry) {
        if !entry.is(EndKind::Address) {
            self.note_end(end);
        }
    }

    pub(super) fn note_end(&self, end: &End) {
        note_in(&self.repliers, end);
    }

    /// Tells the sketch of all backends: the maps may be of an agent that had none.
    pub(super) fn note_repliers(&self) {
        for end in self.ends() {
            if let Some(entry) = self.end(end).filter(|entry| !entry.is(EndKind::Vip)) {
                self.note_replier(&end, &entry);
            }
        }
    }

    /// What is known of an end.
    pub fn end(&self, end: End) -> Option<EndEntry> {
        self.ends.get(&Plain(end), 0).ok().map(|entry| entry.0)
    }

    /// Forgets an end. Unknown is fine. With the last VIP of an address goes the address, and before it: after a crash in
    /// between the VIP is still there to be removed.
    pub fn remove_end(&mut self, end: End) {
        let is_vip = |end: End| self.end(end).is_some_and(|entry| entry.is(EndKind::Vip));
        if is_vip(end) {
            self.forget_address(end, |other| other != end);
        }
        // Until it is gone it is looked up as others are: who ends here leaves a VIP that still answers.
        self.note_end(&end);
        self.retire_line(&end);
        fault::before(Write::EndEnd);
        let _ = self.ends.remove(&Plain(end));
    }

    /// Forgets the address of a VIP, unless another one has it: one of those that `counts`, or one of many ports.
    pub(super) fn forget_address(&mut self, vip: End, counts: impl Fn(End) -> bool) {
        let is_vip = |end: End| self.end(end).is_some_and(|entry| entry.is(EndKind::Vip));
        let shares = |other: &End| counts(*other) && other.addr == vip.addr && is_vip(*other);
        if !self.ends().iter().any(shares) && !self.has_vip_span(vip.addr) {
            fault::before(Write::Address);
            let _ = self.ends.remove(&Plain(address_of(vip)));
        }
    }

    /// All known VIPs and backends.
    pub fn ends(&self) -> Vec<End> {
        self.ends.keys().flatten().map(|key| key.0).filter(|end| *end != address_of(*end)).collect()
    }

    /// Writes a port's slot.
    pub fn set_port(&mut self, index: u16, port: Port) -> Result<(), DataplaneError> {
        fault::before(Write::Port);
        self.ports
            .set(index.into(), &Plain(port), 0)
            .map_err(|error| DataplaneError::kernel(format!("cannot write port {index}"), error))
    }

    /// A port's slot as it stands.
    pub fn port(&self, index: u16) -> Port {
        self.ports.get(&index.into(), 0).map_or_else(|_| Port::default(), |plain| plain.0)
    }

    /// Number of port slots.
    pub fn port_capacity(&self) -> u32 {
        self.ports.len()
    }

    /// Lets frames be redirected to an interface, or no longer.
    pub fn set_redirect(&mut self, ifindex: u32, yes: bool) -> Result<(), DataplaneError> {
        fault::before(Write::Redirect);
        if yes {
            return self.tx.insert(ifindex, ifindex, None, 0).map_err(|error| {
                DataplaneError::kernel(format!("interface {ifindex} takes no redirects"), error)
            });
        }
        // Unknown is fine: the kernel forgets a device that goes away.
        let _ = self.tx.remove(ifindex);
        Ok(())
    }

    /// Takes the destinations whose neighbour replies were waiting for.
    pub fn take_wanted(&mut self) -> Vec<IpAddr> {
        let all: Vec<Addr> = self.wanted.keys().flatten().map(|key| key.0).collect();
        for addr in &all {
            fault::before(Write::Wanted);
            // Gone already is fine: the map is a small LRU.
            let _ = self.wanted.remove(&Plain(*addr));
        }
        all.into_iter().map(IpAddr::from).collect()
    }

    /// Makes the set of this host's addresses the given one.
    pub fn set_locals(&mut self, addrs: &[IpAddr]) -> Result<(), DataplaneError> {
        let want: std::collections::HashSet<Addr> = addrs.iter().map(|addr| Addr::from(*addr)).collect();
        let have: Vec<Addr> = self.locals.keys().flatten().map(|key| key.0).collect();
        for addr in want.iter().filter(|addr| !have.contains(addr)) {
            fault::before(Write::Local);
            self.locals
                .insert(&Plain(*addr), &1, 0)
                .map_err(|error| DataplaneError::kernel("cannot write a local address", error))?;
        }
        for addr in have.iter().filter(|addr| !want.contains(addr)) {
            fault::before(Write::LocalEnd);
            let _ = self.locals.remove(&Plain(*addr));
        }
        Ok(())
    }

    // --- flows --------------------------------------------------------------------------------------------------------

    /// Ways of the flow table.
    pub fn flow_capacity(&self) -> u64 {
        (self.flows.len() * WAYS) as u64
    }

    /// Sets each class's quota: a quarter of the table, so that a quarter is left for uneven buckets.
    pub(super) fn set_quotas(&self) {
        let share = self.flow_capacity() / 4;
        for class in 0..3 {
            fault::before(Write::QuotaLimit);
            // SAFETY: a mapped value.
            unsafe { Host::store(&raw mut (*self.quotas.at(0)).limit[class], share.max(1)) };
        }
    }

    /// Entries per class.
    pub fn quotas(&self) -> Quotas {
        // SAFETY: a mapped value; figures that may be a moment apart.
        unsafe { self.quotas.at(0).read_volatile() }
    }

    /// Corrects the count of entries per class by the difference between what a scan saw and what was counted before it.
    /// A crash between freeing an entry and counting it leaves one too many.
    pub fn correct_quota(&self, class: usize, difference: i64) {
        fault::before(Write::Quota);
        // SAFETY: a mapped value.
        unsafe { Host::add(&raw mut (*self.quotas.at(0)).used[class], difference as u64) };
    }

    /// Whether any entry is counted.
    pub fn any_flows(&self) -> bool {
        self.quotas().used.iter().any(|used| *used != 0)
    }

    /// Takes the flow table out of this process's memory, which is counted with it; the next sweep brings it back.
    pub fn let_flows_go(&mut self) {
        self.flows.let_go();
    }

    /// Looks at every entry and does with it what `rule` says. `rule` is asked for occupied ways only.
    pub fn sweep(&self, mut rule: impl FnMut(FlowScan) -> Sweep) -> FlowTotals {
        let mut totals = FlowTotals::default();
        let (table, buckets) = (self.flows.at(0), self.flows.len() as u32);
        for index in 0..buckets {
            // SAFETY: a mapped value.
            for way in 0..unsafe { flows::ways::<Host>(self.flows.at(index as usize)) } {
                let place = Place { table, buckets, index, way };
                // SAFETY: mapped values.
                let word = unsafe { place.word::<Host>() };
                if word.is(State::Free) {
                    continue;
                }
                match word {
                    _ if word.is(State::Dead) => totals.dead += 1,
                    _ if word.is(State::Half) => totals.half += 1,
                    _ if word.live() => totals.established += 1,
                    _ => {}
                }
                // SAFETY: as above.
                let fate = rule(FlowScan { key: unsafe { place.key::<Host>() }, word });
                if fate != Sweep::Keep {
                    fault::before(Write::Entry);
                }
                // SAFETY: as above; what is freed has been dead for longer than a packet takes.
                if let Some(Recount { from, to }) = unsafe { flows::apply::<Host>(&place, word, fate) } {
                    self.recount(from, to);
                }
            }
        }
        totals
    }

    fn recount(&self, from: usize, to: Option<usize>) {
        self.correct_quota(from, -1);
        if let Some(to) = to {
            self.correct_quota(to, 1);
        }
    }

    /// Looks one flow up, for explanations.
    pub fn find_flow(&self, key: &FlowKey, hash: u64) -> Option<(Word, Positions)> {
        let (a, b) = flows::homes(hash, self.flows.len() as u32);
        let homes = [self.flows.at(a as usize), self.flows.at(b as usize)];
        // SAFETY: mapped values.
        match unsafe { flows::find::<Host>(&homes, key, hash) } {
            zdd_common::tables::Found::Live(_, word, positions) => Some((word, positions)),
            _ => None,
        }
    }

    // --- filter and counters ------------------------------------------------------------------------------------------

    /// The SYN filter's size in bytes and the fraction of bits set in its fullest epoch.
    pub fn filter_fill(&self) -> (u64, f64) {
        let ones = (0..self.filter.len()).map(|line| {
            let line = self.filter.at(line);
            (0..syn_filter::WORDS)
                // SAFETY: a mapped value.
                .map(|word| unsafe { Host::load(&raw const (*line).words[word]) }.count_ones())
                .sum()
        });
        let bytes = self.filter.len() * size_of::<syn_filter::Line>();
        (bytes as u64, syn_filter::fill(ones))
    }

    /// Packets by reason, in the order of [`REASONS`]. In one system call: it is asked every second.
    pub fn reasons(&self) -> Result<Vec<u64>, DataplaneError> {
        per_cpu::totals(self.reasons.as_fd(), REASONS.len() as u32, self.cpus)
            .map_err(|error| DataplaneError::kernel("cannot read the reasons' counters", error))
    }

    /// A service's counters.
    pub fn service_counters(&self, id: u16) -> Counters {
        let all = self.service_count.get(&id.into(), 0);
        all.map_or_else(|_| Counters::default(), |values| Counters::sum(values.iter().map(|plain| plain.0)))
    }

    /// What was turned away of a service.
    pub fn refusals(&self, id: u16) -> Refusals {
        let all = self.refused_count.get(&id.into(), 0);
        all.map_or_else(|_| Refusals::default(), |values| Refusals::sum(values.iter().map(|plain| plain.0)))
    }

    /// Sets a service's counters to 0, before its number is used again.
    pub fn clear_service_counters(&mut self, id: u16) -> Result<(), DataplaneError> {
        let failed = |error| DataplaneError::kernel("cannot clear counters", error);
        fault::before(Write::Counters);
        let none = PerCpuValues::try_from(vec![Plain(Counters::default()); self.cpus])
            .map_err(|error| DataplaneError::kernel("cannot clear counters", error))?;
        self.service_count.set(id.into(), none, 0).map_err(failed)?;
        let none = PerCpuValues::try_from(vec![Plain(Refusals::default()); self.cpus])
            .map_err(|error| DataplaneError::kernel("cannot clear counters", error))?;
        self.refused_count.set(id.into(), none, 0).map_err(failed)
    }

    /// A backend's counters.
    pub fn backend_counters(&self, id: BackendId) -> Counters {
        let all = self.backend_count.get(&id.into(), 0);
        all.map_or_else(|_| Counters::default(), |values| Counters::sum(values.iter().map(|plain| plain.0)))
    }

    /// Counters of all backends by id: a system call for thousands, because asking for each costs one each.
    pub fn all_backend_counters(&self) -> Result<Vec<Counters>, DataplaneError> {
        per_cpu::sums(self.backend_count_fd.as_fd(), self.backend_count.len(), self.cpus)
            .map_err(|error| DataplaneError::kernel("cannot read the backends' counters", error))
    }

    /// Sets a backend's counters to 0, before its id is used again.
    pub fn clear_backend_counters(&mut self, id: BackendId) -> Result<(), DataplaneError> {
        fault::before(Write::Counters);
        per_cpu::clear(self.backend_count_fd.as_fd(), id.into(), self.cpus)
            .map_err(|error| DataplaneError::kernel("cannot clear counters", error))
    }
}

/// Under which end the address of a VIP is known.
pub(super) fn address_of(vip: End) -> End {
    End::new(vip.addr, 0, 0)
}

pub(super) fn errno(error: &aya::maps::MapError) -> Option<i32> {
    match error {
        aya::maps::MapError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}

/// Tells the sketch of an end.
pub(super) fn note_in(repliers: &Mapped<Repliers>, end: &End) {
    let (word, bit) = Repliers::place(end);
    fault::before(Write::Sketch);
    // SAFETY: a mapped value; the index is below the words' number.
    unsafe { Host::or(&raw mut (*repliers.at(0)).words[word], bit) };
}
