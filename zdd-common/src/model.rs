//! All tables in memory: the same decisions, the same flow table and filter code, without a kernel.

use std::collections::{HashMap, HashSet};
use std::marker::PhantomData;

use crate::atomic::{Atomics, Host};
use crate::entries::{
    Backend, BackendId, Cell, Class, Commit, EndEntry, Facts, FlowKey, Port, Positions, Service, ServiceView,
    VipWord, Word,
};
use crate::flows::{self, Bucket, Slot};
use crate::limits::WAYS;
use crate::maps::{Counters, Refusals};
use crate::net::{Addr, DirectKey, End};
use crate::odd::{DatagramKey, Trail};
use crate::pace::{Pace, PaceKey};
use crate::reason::{REASONS, Reason};
use crate::signals::{self, SignalBucket, SignalCounters, SignalTables};
use crate::snat::{self, Mappings, Order, pool::Pool};
use crate::sources::Source;
use crate::spans::Span;
use crate::syn_filter::{self, Line};
use crate::tables::{Found, Route, SteerTables, Tables};
use crate::time::Tick;

/// The tables. All fields are open: a test teaches the model what it should know.
///
/// `W`: how the words of `snat`'s mappings are touched; the model checker stops before each of these operations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model<W = Host> {
    /// Nanoseconds since boot.
    pub now_ns: u64,
    /// Known ends.
    pub ends: HashMap<End, EndEntry>,
    /// The largest backend id that the program's maps have room for; `None`: no matter.
    pub backends_max: Option<BackendId>,
    /// Where hashes of clients begin, as the program has it; `None`: as each service says.
    pub hash_start: Option<u64>,
    /// Services by number; `commit` is live here.
    pub services: HashMap<u16, Service>,
    /// All cells.
    pub cells: Vec<Cell>,
    /// Backends by id.
    pub backends: HashMap<BackendId, Backend>,
    /// Ports by index.
    pub ports: HashMap<u16, Port>,
    /// Addresses of this host.
    pub locals: HashSet<Addr>,
    /// Conversations with backends' own addresses.
    pub direct: HashSet<DirectKey>,
    /// Ends of many ports, by first and last port (host order); the narrowest is the one.
    pub spans: Vec<(End, (u16, u16), Span)>,
    /// Sets of source prefixes: set, first address, bits of it as in an IPv6 address.
    pub sources: HashMap<(u32, Addr, u8), Source>,
    /// Buckets of sources with limited connections.
    pub paces: HashMap<PaceKey, u64>,
    /// Ways of fragmented datagrams.
    pub trails: HashMap<DatagramKey, Trail>,
    /// There is no room for another of them, nor to replace one: other CPUs hold what is free.
    pub trails_full: bool,
    /// Routes by destination; `fits` not 0: of a route that takes no larger packets.
    pub routes: HashMap<Addr, Route>,
    /// Interfaces that frames can be redirected to.
    pub redirects: HashSet<u32>,
    /// What `snat` may give out.
    pub pool: Pool,
    /// What it has given out: as many buckets as [`Pool::table`] says.
    pub mappings: Vec<snat::mapping::Bucket>,
    /// The order for [`snat::process`].
    pub handed: Order,
    /// Interface of the frame at hand.
    pub ingress: u32,
    /// Flow buckets; a power of two.
    pub buckets: Vec<Bucket>,
    /// SYN filter lines; a power of two.
    pub filter: Vec<Line>,
    /// See [`syn_filter::epoch_shift`].
    pub epoch_shift: u32,
    /// Entries per class.
    pub used: [u64; 3],
    /// Quota per class.
    pub quota: [u64; 3],
    /// Facts by service.
    pub facts: HashMap<u16, Facts>,
    /// Counters by service.
    pub by_service: HashMap<u16, Counters>,
    /// What was turned away, by service.
    pub refused: HashMap<u16, Refusals>,
    /// Counters by backend.
    pub by_backend: HashMap<BackendId, Counters>,
    /// Packets by reason.
    pub reasons: HashMap<Reason, u64>,
    /// Where flows are followed: buckets, a power of two; none: nothing is.
    pub signal_flows: Vec<SignalBucket>,
    /// What they tell, by backend.
    pub signals: HashMap<BackendId, Box<SignalCounters>>,
    /// Chooses them.
    pub signal_secret: u64,
    /// Nothing: names a type.
    pub words: PhantomData<W>,
}

impl Model {
    /// An empty model with room for `flows` entries in all and `quota` of each class.
    pub fn new(flows: usize, quota: u64) -> Self {
        Self {
            buckets: vec![Bucket::default(); flows.div_ceil(WAYS).next_power_of_two()],
            filter: vec![Line::default(); 1024],
            epoch_shift: syn_filter::epoch_shift(crate::time::ticks(64_000_000_000)),
            quota: [quota; 3],
            ..Self::default()
        }
    }
}

impl<W> Model<W> {
    /// Counts a verdict's reason, as the program's exit does.
    pub fn count(&mut self, reason: Reason) {
        *self.reasons.entry(reason).or_default() += 1;
    }

    /// Packets counted in all.
    pub fn packets(&self) -> u64 {
        REASONS.iter().filter_map(|reason| self.reasons.get(reason)).sum()
    }

    fn filter_shape(&self) -> syn_filter::Shape {
        syn_filter::Shape { lines: self.filter.len() as u32, epoch_shift: self.epoch_shift }
    }

    fn filter_lines(&mut self) -> impl Fn(u32) -> Option<*mut Line> + use<W> {
        let (lines, number) = (self.filter.as_mut_ptr(), self.filter.len());
        // SAFETY: below the number of lines.
        move |line| ((line as usize) < number).then(|| unsafe { lines.add(line as usize) })
    }

    fn homes(&mut self, hash: u64) -> [*mut Bucket; 2] {
        let (a, b) = flows::homes(hash, self.buckets.len() as u32);
        let buckets = self.buckets.as_mut_ptr();
        // SAFETY: homes are below the number of buckets.
        unsafe { [buckets.add(a as usize), buckets.add(b as usize)] }
    }
}

impl<W> SteerTables for Model<W> {
    type Slot = Slot;

    fn now_ns(&mut self) -> u64 {
        self.now_ns
    }

    fn service(&mut self, id: u16) -> Option<ServiceView> {
        self.services.get(&id).map(Service::view)
    }

    fn hash_start(&mut self, service: &ServiceView) -> u64 {
        self.hash_start.unwrap_or(service.key.k0)
    }

    fn commit(&mut self, id: u16) -> Commit {
        Commit(self.services.get(&id).map_or(0, |service| service.commit))
    }

    fn cell(&mut self, index: u32) -> Option<Cell> {
        self.cells.get(index as usize).copied()
    }

    fn syn_seen(&mut self, hash: u64, now: Tick) -> bool {
        // SAFETY: the filter's lines, which stay where they are.
        unsafe { syn_filter::remember::<Host>(self.filter_shape(), hash, now, self.filter_lines()) }
    }

    fn syn_seen_before(&mut self, hash: u64, now: Tick) -> bool {
        // SAFETY: as above.
        unsafe { syn_filter::known_before::<Host>(self.filter_shape(), hash, now, self.filter_lines()) }
    }

    fn syn_known(&mut self, hash: u64, now: Tick) -> bool {
        // SAFETY: as above.
        unsafe { syn_filter::known::<Host>(self.filter_shape(), hash, now, self.filter_lines()) }
    }

    fn may_begin(&mut self, key: &PaceKey, pace: Pace, now_ns: u64) -> bool {
        let word = self.paces.entry(*key).or_default();
        let next = pace.next(*word, now_ns);
        if next != 0 {
            *word = next;
        }
        next != 0
    }

    fn udp_fail(&mut self, service: u16) -> u64 {
        self.facts.get(&service).map_or(0, |facts| facts.udp_fail)
    }

    fn note_failure(&mut self, service: u16, now_ns: u64, udp: bool) {
        let facts = self.facts.entry(service).or_default();
        facts.last_fail = now_ns;
        facts.fails += 1;
        if udp {
            facts.udp_fail = now_ns;
        }
    }

    fn glance(&mut self, key: &FlowKey, hash: u64) -> (Slot, Word, Positions) {
        let homes = self.homes(hash);
        // SAFETY: homes returns valid buckets.
        unsafe { flows::glance::<Host>(&homes, key, hash) }
    }

    fn find(&mut self, key: &FlowKey, hash: u64) -> Found<Slot> {
        let homes = self.homes(hash);
        // SAFETY: homes returns valid buckets.
        unsafe { flows::find::<Host>(&homes, key, hash) }
    }

    fn insert(&mut self, key: &FlowKey, hash: u64, word: Word, positions: Positions) -> bool {
        let homes = self.homes(hash);
        // SAFETY: homes returns valid buckets.
        unsafe { flows::insert::<Host>(&homes, key, hash, word, positions) }
    }

    fn update(&mut self, slot: Slot, old: Word, new: Word) -> bool {
        // SAFETY: slots come from find and buckets do not move.
        unsafe { flows::update::<Host>(slot, old, new) }
    }

    fn advance(&mut self, slot: Slot, old: Positions, new: Positions) {
        // SAFETY: as above.
        unsafe { flows::advance::<Host>(slot, old, new) }
    }

    fn replace(&mut self, slot: Slot, old: Word, new: Word, positions: Positions) -> bool {
        // SAFETY: as above.
        unsafe { flows::replace::<Host>(slot, old, new, positions) }
    }

    fn take(&mut self, class: Class) -> bool {
        let room = self.used[class as usize] < self.quota[class as usize];
        self.used[class as usize] += u64::from(room);
        room
    }

    fn give(&mut self, class: usize) {
        self.used[class] -= 1;
    }
}

impl<W> SignalTables for Model<W> {
    type Atomic = Host;

    fn exact_ns(&mut self) -> u64 {
        self.now_ns
    }

    fn coarse_ns(&mut self) -> u64 {
        self.now_ns
    }

    fn signal_secret(&mut self) -> u64 {
        self.signal_secret
    }

    fn signal_bucket(&mut self, hash: u64) -> Option<*mut SignalBucket> {
        let at = signals::table::home(hash, self.signal_flows.len().max(1) as u32) as usize;
        self.signal_flows.get_mut(at).map(|bucket| &raw mut *bucket)
    }

    fn signal_counters(&mut self, backend: BackendId) -> Option<*mut SignalCounters> {
        let known = self.backends_max.is_none_or(|max| backend <= max);
        known.then(|| &raw mut **self.signals.entry(backend).or_default())
    }
}

impl<W> Tables for Model<W> {
    fn vip(&mut self, end: &End) -> Option<VipWord> {
        self.ends.get(end).and_then(VipWord::of)
    }

    fn may_end(&mut self, end: &End) -> bool {
        self.ends.contains_key(end)
    }

    fn end(&mut self, end: &End) -> Option<EndEntry> {
        self.ends.get(end).copied()
    }

    fn may_span(&mut self, addr: &Addr) -> bool {
        self.spans.iter().any(|(end, ..)| end.addr == *addr)
    }

    fn span(&mut self, end: &End) -> Option<Span> {
        let port = u16::from_be(end.port);
        let covers = |of: &End, first: u16, last: u16| {
            of.addr == end.addr && of.proto == end.proto && (first..=last).contains(&port)
        };
        let all = self.spans.iter().filter(|(of, (first, last), _)| covers(of, *first, *last));
        all.min_by_key(|(_, (first, last), _)| last - first).map(|(.., span)| *span)
    }

    fn may_reply(&mut self, end: &End) -> bool {
        self.ends.contains_key(end)
    }

    fn source(&mut self, set: u32, addr: &Addr) -> Option<Source> {
        (0..=128u8).rev().find_map(|bits| {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            let first = Addr::v6((u128::from_be_bytes(addr.octets()) & mask).to_be_bytes());
            self.sources.get(&(set, first, bits)).copied()
        })
    }

    fn backend(&mut self, id: BackendId) -> Option<Backend> {
        self.backends.get(&id).copied()
    }

    fn port(&mut self, index: u16) -> Option<Port> {
        self.ports.get(&index).copied()
    }

    fn is_local(&mut self, addr: &Addr) -> bool {
        self.locals.contains(addr)
    }

    fn maps_from(&mut self, addr: &Addr, port: u16) -> bool {
        self.pool.gives(addr, port)
    }

    fn is_direct(&mut self, key: &DirectKey) -> bool {
        self.direct.contains(key)
    }

    fn remember_direct(&mut self, key: &DirectKey) {
        self.direct.insert(*key);
    }

    fn trail(&mut self, key: &DatagramKey) -> Option<Trail> {
        self.trails.get(key).copied()
    }

    fn leave_trail(&mut self, key: &DatagramKey, trail: &Trail) -> bool {
        if !self.trails_full {
            self.trails.insert(*key, *trail);
        }
        !self.trails_full
    }

    fn forget_trail(&mut self, key: &DatagramKey) {
        self.trails.remove(key);
    }

    fn route(&mut self, _src: &Addr, dst: &Addr, _proto: u8, length: u16) -> Option<Route> {
        let route = *self.routes.get(dst)?;
        // As the kernel tells it: the way, or why not.
        if route.fits != 0 && u32::from(length) > route.fits {
            return Some(Route { ifindex: 0, src_mac: [0; 6], dst_mac: [0; 6], fits: route.fits });
        }
        Some(Route { fits: 0, ..route })
    }

    fn takes_redirects(&mut self, ifindex: u32) -> bool {
        self.redirects.contains(&ifindex)
    }

    fn handed(&mut self) -> Option<&mut Order> {
        Some(&mut self.handed)
    }

    fn ingress(&mut self) -> u32 {
        self.ingress
    }

    fn count_flow(&mut self, service: u16, backend: BackendId, bytes: u32, reason: Reason, new_flow: bool) {
        self.by_service.entry(service).or_default().add(bytes, reason, new_flow);
        self.by_backend.entry(backend).or_default().add(bytes, reason, new_flow);
    }

    fn count_refused(&mut self, service: u16, reason: Reason) {
        self.refused.entry(service).or_default().add(reason);
    }
}

impl<W: Atomics> Mappings for Model<W> {
    type Words = W;

    fn pool(&mut self) -> Option<&Pool> {
        Some(&self.pool)
    }

    fn bucket(&mut self, index: u32) -> Option<*mut snat::mapping::Bucket> {
        self.mappings.get_mut(index as usize).map(|bucket| &raw mut *bucket)
    }
}
