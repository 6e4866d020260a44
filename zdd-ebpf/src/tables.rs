//! `zdd_common::tables` over the maps.

use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::XdpContext;
use zdd_common::atomic::Atomics as _;
use zdd_common::entries::{
    Backend, BackendId, Cell, Class, Commit, EndEntry, FlowKey, Port, Positions, Service, ServiceView,
    VipWord, Word,
};
use zdd_common::flows::{self, Bucket, Slot};
use zdd_common::maps::Repliers;
use zdd_common::net::{Addr, DirectKey, End};
use zdd_common::odd::{DatagramKey, Trail};
use zdd_common::pace::{Pace, PaceKey};
use zdd_common::reason::Reason;
use zdd_common::signals::{SignalBucket, SignalCounters, SignalTables, table};
use zdd_common::snat::{Mappings, Order, mapping, pool::Pool};
use zdd_common::sources::{BEFORE_ADDR, Source, SourceKey};
use zdd_common::spans::{self, BEFORE_PORT, Span, SpanKey};
use zdd_common::syn_filter;
use zdd_common::tables::{Found, Route, SteerTables, Tables};
use zdd_common::time::Tick;
use zdd_common::vips;

use crate::atomics::Bpf;
use crate::maps::{
    BACKENDS, CELLS, DIRECT, ENDS, FACTS, FLOWS, FRAGMENTS, HANDED, LOCALS, MAPPINGS, PACES, PORTS, QUOTAS,
    REPLIERS, SERVICES, SIGNAL_FLOWS, SIGNALS, SNAT_POOL, SOURCES, SPANS, SYNS, TX, VIPS, config,
    signal_config, vip_lines,
};
use crate::{maps, route, stats};

/// The maps, seen by one packet.
pub(crate) struct Maps<'a> {
    ctx: &'a XdpContext,
}

impl<'a> Maps<'a> {
    #[inline(always)]
    pub(crate) fn of(ctx: &'a XdpContext) -> Self {
        Self { ctx }
    }
}

#[inline(always)]
fn filter() -> syn_filter::Shape {
    let config = config();
    syn_filter::Shape { lines: config.lines, epoch_shift: config.epoch_shift & 31 }
}

#[inline(always)]
fn homes(hash: u64) -> Option<[*mut Bucket; 2]> {
    let (a, b) = flows::homes(hash, config().buckets);
    Some([FLOWS.get_ptr_mut(a)?, FLOWS.get_ptr_mut(b)?])
}

impl SteerTables for Maps<'_> {
    type Slot = Slot;

    #[inline(always)]
    fn now_ns(&mut self) -> u64 {
        // SAFETY: the helper has no conditions (Linux 5.11).
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn service(&mut self, id: u16) -> Option<ServiceView> {
        SERVICES.get(id.into()).map(Service::view)
    }

    #[inline(always)]
    fn commit(&mut self, id: u16) -> Commit {
        match SERVICES.get_ptr(id.into()) {
            // SAFETY: a map value; its first word is read whole.
            Some(service) => Commit(unsafe { Bpf::load(&raw const (*service).commit) }),
            None => Commit::default(),
        }
    }

    #[inline(always)]
    fn hash_start(&mut self, _service: &ServiceView) -> u64 {
        maps::hash_start()
    }

    #[inline(always)]
    fn service_now(&mut self, id: u16) -> Option<(ServiceView, Commit)> {
        // SAFETY: as above.
        SERVICES
            .get(id.into())
            .map(|service| (service.view(), Commit(unsafe { Bpf::load(&raw const service.commit) })))
    }

    #[inline(always)]
    fn cell(&mut self, index: u32) -> Option<Cell> {
        // SAFETY: a map value, read whole.
        CELLS.get_ptr(index).map(|cell| Cell(unsafe { Bpf::load(cell) }))
    }

    #[inline(always)]
    fn syn_seen(&mut self, hash: u64, now: Tick) -> bool {
        // SAFETY: map values. The agent sizes the map as it sizes the index.
        unsafe { syn_filter::remember::<Bpf>(filter(), hash, now, |line| SYNS.get_ptr_mut(line)) }
    }

    #[inline(always)]
    fn syn_seen_before(&mut self, hash: u64, now: Tick) -> bool {
        // SAFETY: as above.
        unsafe { syn_filter::known_before::<Bpf>(filter(), hash, now, |line| SYNS.get_ptr_mut(line)) }
    }

    #[inline(always)]
    fn expect_flow(&mut self, hash: u64, new: bool) {
        if let Some(homes) = homes(hash) {
            // SAFETY: map values.
            unsafe { flows::expect::<Bpf>(&homes, new) }
        }
    }

    #[inline(always)]
    fn expect_syn(&mut self, hash: u64, now: Tick, earlier: bool) {
        // SAFETY: as above.
        unsafe { syn_filter::expect::<Bpf>(filter(), hash, now, earlier, |line| SYNS.get_ptr_mut(line)) }
    }

    #[inline(always)]
    fn syn_known(&mut self, hash: u64, now: Tick) -> bool {
        // SAFETY: as above.
        unsafe { syn_filter::known::<Bpf>(filter(), hash, now, |line| SYNS.get_ptr_mut(line)) }
    }

    #[inline(always)]
    fn may_begin(&mut self, key: &PaceKey, pace: Pace, now_ns: u64) -> bool {
        let Some(word) = PACES.get_ptr_mut(key) else {
            // An LRU map makes room; a failure under contention lets one connection pass uncounted.
            let _ = PACES.insert(key, &pace.next(0, now_ns), 0);
            return true;
        };
        // SAFETY: a map value, read and changed whole. If it was given to another source meanwhile, that one has one more or less.
        unsafe {
            let full = Bpf::load(word);
            let next = pace.next(full, now_ns);
            // Another CPU's connection of the same moment may have been quicker: this one passes uncounted.
            if next != 0 {
                Bpf::cas(word, full, next);
            }
            next != 0
        }
    }

    #[inline(always)]
    fn udp_fail(&mut self, service: u16) -> u64 {
        match FACTS.get_ptr(service.into()) {
            // SAFETY: a map value, read whole.
            Some(facts) => unsafe { Bpf::load(&raw const (*facts).udp_fail) },
            None => 0,
        }
    }

    #[inline(always)]
    fn note_failure(&mut self, service: u16, now_ns: u64, udp: bool) {
        if let Some(facts) = FACTS.get_ptr_mut(service.into()) {
            // SAFETY: a map value; each word written whole.
            unsafe {
                Bpf::store(&raw mut (*facts).last_fail, now_ns);
                Bpf::add(&raw mut (*facts).fails, 1);
                if udp {
                    Bpf::store(&raw mut (*facts).udp_fail, now_ns);
                }
            }
        }
    }

    #[inline(always)]
    fn glance(&mut self, key: &FlowKey, hash: u64) -> (Slot, Word, Positions) {
        match homes(hash) {
            // SAFETY: map values.
            Some(homes) => unsafe { flows::glance::<Bpf>(&homes, key, hash) },
            None => (Slot::default(), Word::default(), Positions::default()),
        }
    }

    #[inline(always)]
    fn find(&mut self, key: &FlowKey, hash: u64) -> Found<Slot> {
        match homes(hash) {
            // SAFETY: map values.
            Some(homes) => unsafe { flows::find::<Bpf>(&homes, key, hash) },
            None => Found::Busy,
        }
    }

    #[inline(always)]
    fn insert(&mut self, key: &FlowKey, hash: u64, word: Word, positions: Positions) -> bool {
        match homes(hash) {
            // SAFETY: map values.
            Some(homes) => unsafe { flows::insert::<Bpf>(&homes, key, hash, word, positions) },
            None => false,
        }
    }

    #[inline(always)]
    fn update(&mut self, slot: Slot, old: Word, new: Word) -> bool {
        // SAFETY: slots come from find.
        unsafe { flows::update::<Bpf>(slot, old, new) }
    }

    #[inline(always)]
    fn advance(&mut self, slot: Slot, old: Positions, new: Positions) {
        // SAFETY: slots come from find.
        unsafe { flows::advance::<Bpf>(slot, old, new) }
    }

    #[inline(always)]
    fn replace(&mut self, slot: Slot, old: Word, new: Word, positions: Positions) -> bool {
        // SAFETY: slots come from find.
        unsafe { flows::replace::<Bpf>(slot, old, new, positions) }
    }

    #[inline(always)]
    fn take(&mut self, class: Class) -> bool {
        let Some(quotas) = QUOTAS.get_ptr_mut(0) else { return false };
        // SAFETY: a map value; classes are below 3.
        unsafe {
            let used = &raw mut (*quotas).used[class as usize];
            if Bpf::add(used, 1) < Bpf::load(&raw const (*quotas).limit[class as usize]) {
                return true;
            }
            Bpf::add(used, u64::MAX);
        }
        false
    }

    #[inline(always)]
    fn give(&mut self, class: usize) {
        if class < 3
            && let Some(quotas) = QUOTAS.get_ptr_mut(0)
        {
            // SAFETY: a map value; the index is checked.
            unsafe {
                Bpf::add(&raw mut (*quotas).used[class], u64::MAX);
            }
        }
    }
}

impl SignalTables for Maps<'_> {
    type Atomic = Bpf;

    #[inline(always)]
    fn exact_ns(&mut self) -> u64 {
        // SAFETY: the helper has no conditions.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn coarse_ns(&mut self) -> u64 {
        self.now_ns()
    }

    #[inline(always)]
    fn signal_secret(&mut self) -> u64 {
        signal_config().secret
    }

    #[inline(always)]
    fn signal_bucket(&mut self, hash: u64) -> Option<*mut SignalBucket> {
        SIGNAL_FLOWS.get_ptr_mut(table::home(hash, signal_config().buckets))
    }

    #[inline(always)]
    fn signal_counters(&mut self, backend: BackendId) -> Option<*mut SignalCounters> {
        SIGNALS.get_ptr_mut(backend.into())
    }
}

impl Tables for Maps<'_> {
    #[inline(always)]
    fn end(&mut self, end: &End) -> Option<EndEntry> {
        // SAFETY: entries are replaced whole by the agent and only while no packet needs them; a copy is taken.
        unsafe { ENDS.get(end) }.copied()
    }

    #[inline(always)]
    fn vip(&mut self, end: &End) -> Option<VipWord> {
        let (line, tag) = vips::place(end, vip_lines());
        // SAFETY: a map value.
        VIPS.get_ptr(line).and_then(|line| unsafe { vips::find::<Bpf>(line, end, tag) })
    }

    #[inline(always)]
    fn may_end(&mut self, end: &End) -> bool {
        self.may_reply(end)
    }

    #[inline(always)]
    fn may_span(&mut self, addr: &Addr) -> bool {
        let (word, bit) = spans::sketched(addr);
        match REPLIERS.get_ptr(0) {
            // SAFETY: a map value, a word of it read whole; the index is below their number.
            Some(repliers) => unsafe {
                Bpf::load((&raw const (*repliers).spans).cast::<u64>().add(word)) & bit != 0
            },
            None => true,
        }
    }

    #[inline(always)]
    fn span(&mut self, end: &End) -> Option<Span> {
        SPANS.get(&Key::new(BEFORE_PORT + 16, SpanKey::of(end))).copied()
    }

    #[inline(always)]
    fn source(&mut self, set: u32, addr: &Addr) -> Option<Source> {
        SOURCES.get(&Key::new(BEFORE_ADDR + 128, SourceKey::of(set, addr))).copied()
    }

    #[inline(always)]
    fn may_reply(&mut self, end: &End) -> bool {
        let (word, bit) = Repliers::place(end);
        match REPLIERS.get_ptr(0) {
            // SAFETY: a map value, a word of it read whole; the index is below their number.
            Some(repliers) => unsafe { Bpf::load(repliers.cast::<u64>().add(word)) & bit != 0 },
            None => true,
        }
    }

    #[inline(always)]
    fn backend(&mut self, id: BackendId) -> Option<Backend> {
        BACKENDS.get_ptr(id.into()).map(|backend| {
            // SAFETY: a map value; the one word that changes is read whole, once.
            unsafe {
                Backend {
                    addr: (*backend).addr,
                    next_hop: Bpf::load(&raw const (*backend).next_hop),
                    port: (*backend).port,
                    mode: (*backend).mode,
                    service: (*backend).service,
                    source: (*backend).source,
                    spread: (*backend).spread,
                    reserved: [0; 3],
                }
            }
        })
    }

    #[inline(always)]
    fn port(&mut self, index: u16) -> Option<Port> {
        PORTS.get(index.into()).copied()
    }

    #[inline(always)]
    fn is_local(&mut self, addr: &Addr) -> bool {
        // SAFETY: only presence is looked at.
        unsafe { LOCALS.get(addr) }.is_some()
    }

    #[inline(always)]
    fn maps_from(&mut self, addr: &Addr, port: u16) -> bool {
        SNAT_POOL.get(0).is_some_and(|pool| pool.gives(addr, port))
    }

    #[inline(always)]
    fn is_direct(&mut self, key: &DirectKey) -> bool {
        // SAFETY: only presence is looked at.
        unsafe { DIRECT.get(key) }.is_some()
    }

    #[inline(always)]
    fn remember_direct(&mut self, key: &DirectKey) {
        // SAFETY: only presence is looked at.
        if unsafe { DIRECT.get(key) }.is_none() {
            // An LRU map makes room; a failure under contention heals with the conversation's next packet.
            let _ = DIRECT.insert(key, &0, 0);
        }
    }

    #[inline(always)]
    fn trail(&mut self, key: &DatagramKey) -> Option<Trail> {
        // SAFETY: a copy is taken; at worst of a datagram of the same number that took the place meanwhile.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn leave_trail(&mut self, key: &DatagramKey, trail: &Trail) -> bool {
        // An LRU map makes room; a failure under contention costs this datagram, and is counted with its later fragments.
        FRAGMENTS.insert(key, trail, 0).is_ok()
    }

    #[inline(always)]
    fn forget_trail(&mut self, key: &DatagramKey) {
        // Gone already: as well.
        let _ = FRAGMENTS.remove(key);
    }

    #[inline(always)]
    fn route(&mut self, src: &Addr, dst: &Addr, proto: u8, length: u16) -> Option<Route> {
        route::lookup(self.ctx, src, dst, proto, length)
    }

    #[inline(always)]
    fn takes_redirects(&mut self, ifindex: u32) -> bool {
        TX.get_ifindex(ifindex).is_some()
    }

    #[inline(always)]
    fn handed(&mut self) -> Option<&mut Order> {
        // SAFETY: this CPU's own, and XDP is not preempted by itself.
        HANDED.get_ptr_mut(0).map(|order| unsafe { &mut *order })
    }

    #[inline(always)]
    fn ingress(&mut self) -> u32 {
        self.ctx.ingress_ifindex() as u32
    }

    #[inline(always)]
    fn count_flow(&mut self, service: u16, backend: BackendId, bytes: u32, reason: Reason, new_flow: bool) {
        stats::count_flow(service, backend, bytes, reason, new_flow);
    }

    #[inline(always)]
    fn count_refused(&mut self, service: u16, reason: Reason) {
        core::hint::black_box(stats::count_refused(service, reason));
    }
}

impl Mappings for Maps<'_> {
    type Words = Bpf;

    #[inline(always)]
    fn pool(&mut self) -> Option<&Pool> {
        SNAT_POOL.get(0)
    }

    #[inline(always)]
    fn bucket(&mut self, index: u32) -> Option<*mut mapping::Bucket> {
        MAPPINGS.get_ptr_mut(index)
    }
}
