//! Kernel and model side by side: every change of a table is made in both, every frame goes through both.

mod changes;
mod compare;

use std::collections::HashMap;

use zdd_agent::dataplane::Dataplane;
use zdd_common::entries::{Backend, BackendId, Cell, Port, Service};
use zdd_common::limits::WAYS;
use zdd_common::maps::{Counters, Refusals};
use zdd_common::model::Model;
use zdd_common::net::Addr;
use zdd_common::pace::PaceKey;
use zdd_common::process::{Verdict, process};
use zdd_common::reason::Reason;
use zdd_common::signals::table::SIGNAL_WAYS;
use zdd_common::snat::mapping;
use zdd_common::tables::Route;
use zdd_common::time::ticks;

use crate::frames::assert_sums_kept;
use crate::rig::{
    BACKENDS, BUCKETS, CELLS, FAR, FAR6, KEY, LINES, Link, MAC_A, MAC_B, NARROW, NARROW_MTU, NEIGHBOURS, Rig,
    SERVICES, SIGNAL_FLOWS, SNAT_BUCKETS, SYN_MEMORY, neighbour_mac, neighbour4, neighbour6,
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
    // The namespace has this route too, and a client of a random frame may, seldom, have its address.
    routes.insert(Addr::from(std::net::IpAddr::from(NARROW)), Route { fits: NARROW_MTU, ..router });
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
