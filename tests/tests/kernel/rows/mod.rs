//! Packet rows: what comes in, what the tables know, what must come out, and why. Expected frames are built whole by
//! etherparse, from addresses written down here; nothing of `zdd_common::forward` is asked.

mod admission;
mod extension;
mod fragment;
mod hostile;
mod icmp;
mod ipip;
mod jumbo;
mod l2;
mod martian;
mod mtu;
mod nat;
mod parse;
mod path;
mod reply;
pub mod scene;
mod sizes;
mod snat;
mod snat_odd;
mod steer;
mod vlan;

use std::collections::HashSet;

pub use ipip::with_class;

use actions::*;
use zdd_agent::clock;
use zdd_common::maps::{Counters, Refusals};
use zdd_common::reason::{REASONS, Reason};
use zdd_common::syn_filter;
use zdd_common::time::{Tick, ticks};

use crate::frames::{L3, assert_sums_kept};
use crate::rig::{self, BACKENDS, Link, Rig, SERVICES, SYN_MEMORY};

/// XDP actions (include/uapi/linux/bpf.h).
mod actions {
    pub const ABORTED: u32 = 0;
    pub const DROP: u32 = 1;
    pub const PASS: u32 = 2;
    pub const TX: u32 = 3;
    pub const REDIRECT: u32 = 4;
}

/// Changes the scene before the row.
type Set = Box<dyn Fn(&mut Rig)>;

/// One row.
struct Row {
    name: String,
    link: Link,
    set: Vec<Set>,
    /// Frames that come in before.
    first: Vec<(Link, Vec<u8>)>,
    /// Changes the scene between them and the row.
    then: Vec<Set>,
    /// Whether the flow table must be the same afterwards.
    untouched: bool,
    frame: Vec<u8>,
    action: u32,
    /// `None`: unchanged.
    out: Option<Vec<u8>>,
    reason: Reason,
    /// Service and backend whose counters move, and whether a flow begins.
    counted: Option<(u16, u16, bool)>,
    /// There is hardly any room in front of the frame.
    crowded: bool,
}

impl Row {
    fn new(name: impl Into<String>, frame: Vec<u8>) -> Self {
        Self {
            name: name.into(),
            link: Link::A,
            set: vec![],
            first: vec![],
            then: vec![],
            untouched: false,
            frame,
            action: PASS,
            out: None,
            reason: Reason::PassNotIp,
            counted: None,
            crowded: false,
        }
    }

    fn from(self, link: Link) -> Self {
        Self { link, ..self }
    }

    fn with(mut self, set: impl Fn(&mut Rig) + 'static) -> Self {
        self.set.push(Box::new(set));
        self
    }

    fn after(mut self, link: Link, frame: Vec<u8>) -> Self {
        self.first.push((link, frame));
        self
    }

    fn then(mut self, set: impl Fn(&mut Rig) + 'static) -> Self {
        self.then.push(Box::new(set));
        self
    }

    fn untouched(self) -> Self {
        Self { untouched: true, ..self }
    }

    fn shape(self, change: impl Fn(Vec<u8>) -> Vec<u8>) -> Self {
        Self { frame: change(self.frame.clone()), ..self }
    }

    fn pass(self, reason: Reason) -> Self {
        Self { action: PASS, reason, ..self }
    }

    fn drop(self, reason: Reason) -> Self {
        Self { action: DROP, reason, ..self }
    }

    /// The same for an address that is nobody's: it passes, untouched, whatever is wrong with it.
    fn elsewhere(&self) -> Self {
        let at = L3 + if self.frame[12] == 0x86 { 39 } else { 19 };
        let mut frame = self.frame.clone();
        frame[at] ^= 0x80;
        Self::new(format!("{}: for somebody else", self.name), frame).pass(Reason::PassNotVip)
    }

    fn out(self, action: u32, frame: Vec<u8>, reason: Reason) -> Self {
        Self { action, out: Some(frame), reason, ..self }
    }

    fn counts(self, service: u16, backend: u16, new_flow: bool) -> Self {
        Self { counted: Some((service, backend, new_flow)), ..self }
    }

    fn check(&self, rig: &mut Rig) {
        let name = &self.name;
        rig.reset();
        scene::build(rig);
        for set in &self.set {
            set(rig);
        }
        for (link, frame) in &self.first {
            rig.run(*link, frame);
        }
        for set in &self.then {
            set(rig);
        }
        let (before, refused) = (counters(rig), refusals(rig));
        let flows = rig.flows.all();
        let ran = if self.crowded {
            rig.run_crowded(self.link, &self.frame)
        } else {
            Some(rig.run(self.link, &self.frame))
        };
        let Some(ran) = ran else {
            println!("skipped: {name}: this kernel takes too little metadata to fill the room in front");
            return;
        };
        assert!(!self.untouched || rig.flows.is(&flows), "{name}: the flow table changed");
        assert_eq!(ran.reason, self.reason, "{name}");
        assert_eq!(ran.action, self.action, "{name}: XDP action");
        let out = self.out.as_ref().unwrap_or(&self.frame);
        // A verdict to drop may leave anything behind.
        assert!(
            ran.action == DROP || ran.frame == *out,
            "{name}:\n in {:02x?}\nout {:02x?}\nnot {out:02x?}",
            self.frame,
            ran.frame
        );
        if ran.action != DROP {
            assert_sums_kept(&self.frame, &ran.frame, name);
        }
        let want = self.counted.map_or_else(Vec::new, |(service, backend, new_flow)| {
            let mut counters = Counters::default();
            counters.add(self.frame.len() as u32, self.reason_of_steering(), new_flow);
            vec![(0, service, counters), (1, backend, counters)]
        });
        let moved: Vec<_> =
            counters(rig).into_iter().zip(before).filter_map(|(a, b)| difference(a, b)).collect();
        assert_eq!(moved, want, "{name}: counters of services (0) and backends (1)");
        let mut turned_away = refused;
        turned_away.add(self.reason);
        assert_eq!(refusals(rig), turned_away, "{name}: what services turned away");
    }

    /// A packet for the stack keeps its own reason; in counters it is what steering said, here always a settled flow.
    fn reason_of_steering(&self) -> Reason {
        if self.reason == Reason::StackRouted { Reason::Settled } else { self.reason }
    }
}

type Count = (u8, u16, Counters);

fn counters(rig: &Rig) -> Vec<Count> {
    let services = (0..SERVICES as u16).map(|id| (0, id, rig.plane.service_counters(id)));
    services.chain((0..BACKENDS as u16).map(|id| (1, id, rig.plane.backend_counters(id)))).collect()
}

/// What all services have turned away.
fn refusals(rig: &Rig) -> Refusals {
    Refusals::sum((0..SERVICES as u16).map(|id| rig.plane.refusals(id)))
}

fn difference((kind, id, a): Count, (.., b): Count) -> Option<Count> {
    let moved = Counters {
        packets: a.packets - b.packets,
        bytes: a.bytes - b.bytes,
        new_flows: a.new_flows - b.new_flows,
        learned: a.learned - b.learned,
        fallback: a.fallback - b.fallback,
        alt: a.alt - b.alt,
    };
    (moved != Counters::default()).then_some((kind, id, moved))
}

/// Overwrites bytes of a frame.
fn patch(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// Cuts a frame short.
fn cut(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    assert!(length < frame.len());
    frame.truncate(length);
    frame
}

/// How often a row is tried during which the SYN filter's epoch ended.
const TRIES: usize = 5;

/// The SYN filter's epoch.
fn epoch() -> u32 {
    Tick::from_ns(clock::now_ns()).0 >> syn_filter::epoch_shift(ticks(SYN_MEMORY.as_nanos() as u64))
}

/// Those of frames in one piece.
fn rows() -> Vec<Row> {
    let mut rows = parse::rows();
    rows.extend(l2::rows());
    rows.extend(ipip::rows());
    rows.extend(mtu::rows());
    rows.extend(path::rows());
    rows.extend(nat::rows());
    rows.extend(reply::rows());
    rows.extend(steer::rows());
    rows.extend(vlan::rows());
    rows.extend(extension::rows());
    rows.extend(fragment::rows());
    rows.extend(icmp::rows());
    rows.extend(snat::rows());
    rows.extend(snat_odd::rows());
    rows.extend(sizes::rows());
    rows.extend(hostile::rows());
    rows.extend(martian::rows());
    rows.extend(admission::rows());
    rows
}

/// Runs the rows in a rig; the names of those that fail.
fn failing<'a>(rows: &'a [Row], rig: &mut Rig) -> Vec<&'a String> {
    // A settled cell knows the SYNs of the filter's present epoch: a row whose frames came in two of them is tried again.
    let mut fails = |row: &Row| {
        for _ in 0..TRIES {
            let began = epoch();
            let row = std::panic::AssertUnwindSafe(|| row.check(rig));
            if std::panic::catch_unwind(row).is_ok() {
                return false;
            }
            if epoch() == began {
                break;
            }
        }
        true
    };
    rows.iter().filter(|row| fails(row)).map(|row| &row.name).collect()
}

#[test]
fn every_row_holds() {
    let rows = rows();
    let names: HashSet<_> = rows.iter().map(|row| &row.name).collect();
    assert_eq!(names.len(), rows.len(), "every row has a name of its own");
    let failed = rig::with(|rig| failing(&rows, rig));
    println!("{} rows", rows.len());
    assert!(failed.is_empty(), "{} of {} rows failed, see above: {failed:#?}", failed.len(), rows.len());
    let seen: HashSet<_> = rows.iter().map(|row| row.reason).collect();
    let missing: Vec<_> = REASONS.iter().filter(|reason| !seen.contains(reason)).collect();
    assert!(missing.is_empty(), "no row ends in {missing:?}");
}

/// The programs as they are loaded where an interface takes jumbo frames: all that holds of small ones, and frames in several buffers.
#[test]
fn every_row_holds_where_frames_may_come_in_several_buffers() {
    if !zdd_agent::dataplane::raw::redirects_frags() {
        println!(
            "skipped: before Linux 6.3 frames in several buffers are not redirected, and the programs take none"
        );
        return;
    }
    let mut rows = rows();
    let small = rows.len();
    rows.extend(jumbo::rows());
    let failed = rig::with_jumbo(|rig| failing(&rows, rig));
    println!("{} rows, {} of them of frames in several buffers", rows.len(), rows.len() - small);
    assert!(failed.is_empty(), "{} of {} rows failed, see above: {failed:#?}", failed.len(), rows.len());
}
