//! The model's tables and a frame, with every access written down.

use zdd_common::entries::{
    Backend, BackendId, Cell, Class, Commit, EndEntry, Facts, FlowKey, Port, Positions, Service, ServiceView,
    VipWord, Word,
};
use zdd_common::flows::{self, Bucket, Slot};
use zdd_common::frame::Frame;
use zdd_common::maps::{Quotas, Repliers};
use zdd_common::model::Model;
use zdd_common::net::{Addr, DirectKey, End};
use zdd_common::odd::{DatagramKey, Trail};
use zdd_common::pace::{Pace, PaceKey};
use zdd_common::reason::Reason;
use zdd_common::signals::{SignalBucket, SignalCounters, SignalTables};
use zdd_common::snat::{Mappings, Order, mapping, pool::Pool};
use zdd_common::sources::Source;
use zdd_common::spans::{self, Span};
use zdd_common::syn_filter;
use zdd_common::tables::{Found, Route, SteerTables, Tables};
use zdd_common::time::Tick;
use zdd_common::vips::{self, VipLine};
use zdd_common::wire::Wire;

use super::super::ours::VIP_LINES;
use super::touched::{self, Words, value};

/// Where a driver puts a frame: XDP_PACKET_HEADROOM bytes into a page.
const HEADROOM: usize = 256;

/// A frame.
pub(super) struct Traced {
    bytes: Vec<u8>,
    start: usize,
}

impl Traced {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, start: HEADROOM }
    }
}

impl Frame for Traced {
    fn length(&self) -> usize {
        self.bytes.len()
    }

    fn read<T: Wire>(&self, offset: usize) -> Option<T> {
        touched::frame(self.start + offset, size_of::<T>());
        self.bytes.read(offset)
    }

    fn write<T: Wire>(&mut self, offset: usize, value: T) -> bool {
        touched::frame(self.start + offset, size_of::<T>());
        self.bytes.write(offset, value)
    }

    fn prepend(&mut self, bytes: usize) -> bool {
        self.start -= bytes;
        self.bytes.prepend(bytes)
    }

    fn strip(&mut self, bytes: usize) -> bool {
        self.start += bytes;
        self.bytes.strip(bytes)
    }

    fn truncate(&mut self, length: usize) -> bool {
        Frame::truncate(&mut self.bytes, length)
    }
}

/// The tables.
pub(super) struct Lined(pub(super) Model);

impl Lined {
    fn homes(&mut self, hash: u64) -> [*mut Bucket; 2] {
        let (a, b) = flows::homes(hash, self.0.buckets.len() as u32);
        [a, b].map(|home| &raw mut self.0.buckets[home as usize])
    }

    fn filter(&mut self) -> (syn_filter::Shape, impl Fn(u32) -> Option<*mut syn_filter::Line> + use<>) {
        let shape = syn_filter::Shape { lines: self.0.filter.len() as u32, epoch_shift: self.0.epoch_shift };
        let lines = self.0.filter.as_mut_ptr();
        // SAFETY: below the number of lines.
        (shape, move |line| (line < shape.lines).then(|| unsafe { lines.add(line as usize) }))
    }
}

fn at<T>(map: &'static str, index: usize) {
    value(map, index * size_of::<T>().next_multiple_of(8), size_of::<T>());
}

impl SteerTables for Lined {
    type Slot = Slot;

    fn now_ns(&mut self) -> u64 {
        self.0.now_ns()
    }

    fn service(&mut self, id: u16) -> Option<ServiceView> {
        at::<Service>("SERVICES", id.into());
        self.0.service(id)
    }

    fn commit(&mut self, id: u16) -> Commit {
        at::<Service>("SERVICES", id.into());
        self.0.commit(id)
    }

    fn cell(&mut self, index: u32) -> Option<Cell> {
        at::<Cell>("CELLS", index as usize);
        self.0.cell(index)
    }

    fn syn_seen(&mut self, hash: u64, now: Tick) -> bool {
        let (shape, at) = self.filter();
        // SAFETY: lines of the model's, which live as long as this.
        unsafe { syn_filter::remember::<Words>(shape, hash, now, at) }
    }

    fn syn_seen_before(&mut self, hash: u64, now: Tick) -> bool {
        let (shape, at) = self.filter();
        // SAFETY: as above.
        unsafe { syn_filter::known_before::<Words>(shape, hash, now, at) }
    }

    fn expect_syn(&mut self, hash: u64, now: Tick, earlier: bool) {
        let (shape, at) = self.filter();
        // SAFETY: as above.
        unsafe { syn_filter::expect::<Words>(shape, hash, now, earlier, at) };
    }

    fn expect_flow(&mut self, hash: u64, new: bool) {
        let homes = self.homes(hash);
        // SAFETY: buckets of the model's, which live as long as this.
        unsafe { flows::expect::<Words>(&homes, new) };
    }

    fn syn_known(&mut self, hash: u64, now: Tick) -> bool {
        let (shape, at) = self.filter();
        // SAFETY: as above.
        unsafe { syn_filter::known::<Words>(shape, hash, now, at) }
    }

    fn may_begin(&mut self, key: &PaceKey, pace: Pace, now_ns: u64) -> bool {
        touched::lookup();
        self.0.may_begin(key, pace, now_ns)
    }

    fn udp_fail(&mut self, service: u16) -> u64 {
        at::<Facts>("FACTS", service.into());
        self.0.udp_fail(service)
    }

    fn note_failure(&mut self, service: u16, now_ns: u64, udp: bool) {
        at::<Facts>("FACTS", service.into());
        self.0.note_failure(service, now_ns, udp);
    }

    fn glance(&mut self, key: &FlowKey, hash: u64) -> (Slot, Word, Positions) {
        let homes = self.homes(hash);
        // SAFETY: buckets of the model's, which live as long as this.
        unsafe { flows::glance::<Words>(&homes, key, hash) }
    }

    fn find(&mut self, key: &FlowKey, hash: u64) -> Found<Slot> {
        let homes = self.homes(hash);
        // SAFETY: buckets of the model's, which live as long as this.
        unsafe { flows::find::<Words>(&homes, key, hash) }
    }

    fn insert(&mut self, key: &FlowKey, hash: u64, word: Word, positions: Positions) -> bool {
        let homes = self.homes(hash);
        // SAFETY: as above.
        unsafe { flows::insert::<Words>(&homes, key, hash, word, positions) }
    }

    fn update(&mut self, slot: Slot, old: Word, new: Word) -> bool {
        // SAFETY: slots come from find, and buckets do not move.
        unsafe { flows::update::<Words>(slot, old, new) }
    }

    fn advance(&mut self, slot: Slot, old: Positions, new: Positions) {
        // SAFETY: as above.
        unsafe { flows::advance::<Words>(slot, old, new) };
    }

    fn replace(&mut self, slot: Slot, old: Word, new: Word, positions: Positions) -> bool {
        // SAFETY: as above.
        unsafe { flows::replace::<Words>(slot, old, new, positions) }
    }

    fn take(&mut self, class: Class) -> bool {
        at::<Quotas>("QUOTAS", 0);
        self.0.take(class)
    }

    fn give(&mut self, class: usize) {
        at::<Quotas>("QUOTAS", 0);
        self.0.give(class);
    }
}

impl SignalTables for Lined {
    type Atomic = Words;

    fn exact_ns(&mut self) -> u64 {
        self.0.exact_ns()
    }

    fn coarse_ns(&mut self) -> u64 {
        self.0.coarse_ns()
    }

    fn signal_secret(&mut self) -> u64 {
        self.0.signal_secret()
    }

    fn signal_bucket(&mut self, hash: u64) -> Option<*mut SignalBucket> {
        self.0.signal_bucket(hash)
    }

    fn signal_counters(&mut self, backend: BackendId) -> Option<*mut SignalCounters> {
        self.0.signal_counters(backend)
    }
}

impl Tables for Lined {
    fn vip(&mut self, end: &End) -> Option<VipWord> {
        at::<VipLine>("VIPS", vips::place(end, VIP_LINES).0 as usize);
        self.0.vip(end)
    }

    fn may_end(&mut self, end: &End) -> bool {
        self.may_reply(end)
    }

    fn end(&mut self, end: &End) -> Option<EndEntry> {
        touched::lookup();
        self.0.end(end)
    }

    fn may_span(&mut self, addr: &Addr) -> bool {
        let (word, _) = spans::sketched(addr);
        value("REPLIERS", std::mem::offset_of!(Repliers, spans) + 8 * word, 8);
        self.0.may_span(addr)
    }

    fn span(&mut self, end: &End) -> Option<Span> {
        touched::lookup();
        self.0.span(end)
    }

    fn source(&mut self, set: u32, addr: &Addr) -> Option<Source> {
        touched::lookup();
        self.0.source(set, addr)
    }

    fn may_reply(&mut self, end: &End) -> bool {
        let (word, _) = Repliers::place(end);
        value("REPLIERS", 8 * word, 8);
        // The sketch that the bench's program has: of no backend.
        false
    }

    fn backend(&mut self, id: BackendId) -> Option<Backend> {
        at::<Backend>("BACKENDS", id.into());
        self.0.backend(id)
    }

    fn port(&mut self, index: u16) -> Option<Port> {
        at::<Port>("PORTS", index.into());
        self.0.port(index)
    }

    fn is_local(&mut self, addr: &Addr) -> bool {
        touched::lookup();
        self.0.is_local(addr)
    }

    fn maps_from(&mut self, addr: &Addr, port: u16) -> bool {
        touched::lookup();
        self.0.maps_from(addr, port)
    }

    fn is_direct(&mut self, key: &DirectKey) -> bool {
        touched::lookup();
        self.0.is_direct(key)
    }

    fn remember_direct(&mut self, key: &DirectKey) {
        touched::lookup();
        self.0.remember_direct(key);
    }

    fn trail(&mut self, key: &DatagramKey) -> Option<Trail> {
        touched::lookup();
        self.0.trail(key)
    }

    fn leave_trail(&mut self, key: &DatagramKey, trail: &Trail) -> bool {
        touched::lookup();
        self.0.leave_trail(key, trail)
    }

    fn forget_trail(&mut self, key: &DatagramKey) {
        touched::lookup();
        self.0.forget_trail(key);
    }

    fn route(&mut self, src: &Addr, dst: &Addr, proto: u8, length: u16) -> Option<Route> {
        self.0.route(src, dst, proto, length)
    }

    fn takes_redirects(&mut self, ifindex: u32) -> bool {
        touched::lookup();
        self.0.takes_redirects(ifindex)
    }

    fn handed(&mut self) -> Option<&mut Order> {
        self.0.handed()
    }

    fn ingress(&mut self) -> u32 {
        self.0.ingress()
    }

    fn count_flow(&mut self, service: u16, backend: BackendId, bytes: u32, reason: Reason, new_flow: bool) {
        touched::counter();
        touched::counter();
        self.0.count_flow(service, backend, bytes, reason, new_flow);
    }
}

impl Mappings for Lined {
    type Words = Words;

    fn pool(&mut self) -> Option<&Pool> {
        // What is fixed, and one of the addresses.
        value("SNAT_POOL", 0, 2 * 64);
        self.0.pool()
    }

    fn bucket(&mut self, index: u32) -> Option<*mut mapping::Bucket> {
        self.0.bucket(index)
    }
}
