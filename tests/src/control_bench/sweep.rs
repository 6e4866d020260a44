//! A sweep over a flow table with many entries, and what packets notice of it.

use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use zdd_agent::cohort::Members;
use zdd_agent::reconcile::table::{self, Swept};
use zdd_common::atomic::Host;
use zdd_common::entries::{Cell, Class, Commit, Positions, State, Word};
use zdd_common::flows::{self, Bucket};
use zdd_common::rules::Timeouts;
use zdd_common::steer;
use zdd_common::time::Tick;

use super::kernel::{self, Mapped};
use super::plane::{CELLS, Plane, SERVICE, VIP_ID, flow_key, frame};
use super::report::{Report, Unit};
use super::{quantile, rounds};

const S: u64 = 1_000_000_000;
const TIMES: Timeouts =
    Timeouts { idle: 350 * S, udp_idle: 0, half_life: 104 * S, grace: S, fin_linger: 60 * S };
/// In the middle of a change: every flow has an entry, and each packet looks for it.
const CHANGING: Cell = Cell::new(1, 2, Cell::DIRTY | Cell::LOOKUP);

pub(super) fn measure(plane: &mut Plane, report: &mut Report) -> Result<()> {
    let row = vec![CHANGING; CELLS as usize];
    plane.plane.write_row(0, &row);
    plane.plane.commit(SERVICE, Commit::new(0, 1_000_000));
    let map = plane.map("FLOWS")?;
    let room = plane.plane.flow_capacity();
    let buckets: Mapped<Bucket> = Mapped::new(map.as_fd(), kernel::max_entries(map.as_fd())? as usize)?;
    let now = zdd_agent::clock::now_ns();
    let count = if report.quick { 7 } else { 31 };
    let (mut points, mut filled) = (Vec::new(), Filled::default());
    for entries in [0u32, 10_000, 100_000, 1_000_000] {
        filled.up_to(entries, plane, &buckets, now)?;
        let live = plane.plane.row(0, CELLS);
        let nobody = Members::default();
        let services = [swept(plane, &live, &nobody)];
        let mut seen = 0;
        let times = rounds(count, || {
            let totals = table::sweep(&plane.plane, &services, false, now).totals;
            seen = totals.established;
        });
        ensure!(seen == u64::from(entries), "the sweep saw {seen} of {entries} entries");
        let target = (entries == 1_000_000).then_some(0.25);
        let size = format!("{entries} entries, room for {room}");
        let best = report.row("sweep", size, Unit::Seconds, &times, target);
        if entries > 0 {
            points.push((f64::from(entries), best));
        }
    }
    report.growth("sweep", "entries", Unit::Seconds, points);
    if let Some((first, entries)) = filled.first_refused {
        report.notes.push(format!(
            "flow table: {} of {} flows found both of their buckets full, client {first} first, when {entries} of {room} places were taken",
            filled.refused.len(),
            filled.clients,
        ));
    }
    packets(plane, &filled, report, now)
}

fn swept<'a>(plane: &Plane, cells: &'a [Cell], nobody: &'a Members) -> Swept<'a> {
    Swept {
        vip: VIP_ID,
        view: plane.plane.service(SERVICE).view(),
        times: TIMES,
        cells,
        udp: false,
        steady: true,
        track: true,
        let_go: Vec::new(),
        row: SERVICE,
        members: Some(nobody),
    }
}

/// Clients whose flows were given entries, and those for which there was no room: both of a key's buckets may be full long before
/// the table is.
#[derive(Default)]
struct Filled {
    /// Clients so far, from 0.
    clients: u32,
    refused: HashSet<u32>,
    /// And how many entries there were then.
    first_refused: Option<(u32, u32)>,
}

impl Filled {
    fn entries(&self) -> u32 {
        self.clients - self.refused.len() as u32
    }

    /// Makes entries, as packets would, until there are so many.
    fn up_to(&mut self, entries: u32, plane: &Plane, buckets: &Mapped<Bucket>, now: u64) -> Result<()> {
        let view = plane.plane.service(SERVICE).view();
        let word = Word::new(State::Est, Class::Promoted, 2, 2, Tick::from_ns(now));
        while self.entries() < entries {
            let key = flow_key(self.clients);
            let hash = steer::place(&view, &key).table_hash;
            let (a, b) = flows::homes(hash, buckets.values as u32);
            let homes = [buckets.at(a as usize), buckets.at(b as usize)];
            // SAFETY: mapped values.
            let done = unsafe { flows::insert::<Host>(&homes, &key, hash, word, Positions::new(1000, 1000)) };
            if !done {
                self.first_refused = self.first_refused.or(Some((self.clients, self.entries())));
                self.refused.insert(self.clients);
                ensure!(
                    self.refused.len() < 10_000,
                    "only {} of {entries} flows have room in a table for {}",
                    self.entries(),
                    plane.plane.flow_capacity()
                );
            }
            self.clients += 1;
        }
        Ok(())
    }
}

/// Packets of flows that have entries, by turns while a thread sweeps and while it does not.
fn packets(plane: &Plane, filled: &Filled, report: &mut Report, now: u64) -> Result<()> {
    let slices = if report.quick { 20 } else { 100 };
    let live = plane.plane.row(0, CELLS);
    let nobody = Members::default();
    let services = [swept(plane, &live, &nobody)];
    let (sweeping, stop, sweeps) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let mut seen: [Vec<f64>; 2] = Default::default();
    let program = plane.program.as_fd();
    std::thread::scope(|scope| -> Result<()> {
        let sweeper = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if sweeping.load(Ordering::Relaxed) {
                    table::sweep(&plane.plane, &services, false, now);
                    sweeps.fetch_add(1, Ordering::Relaxed);
                } else {
                    // The same CPU time without memory of its own: else the other hyperthread would be idle only here.
                    for _ in 0..10_000 {
                        std::hint::spin_loop();
                    }
                }
            }
        });
        let mut client = 0u32;
        let outcome = (0..slices).try_for_each(|slice| -> Result<()> {
            let on = slice % 2 == 1;
            sweeping.store(on, Ordering::Relaxed);
            let begin = Instant::now();
            // What was under way ends.
            while begin.elapsed() < Duration::from_millis(40) {
                std::thread::yield_now();
            }
            while begin.elapsed() < Duration::from_millis(140) {
                client = (client + 7919) % filled.clients;
                if filled.refused.contains(&client) {
                    continue;
                }
                let mut packet = frame(client);
                let (_, ns) = kernel::test_run(program, &mut packet)?;
                ensure!(packet[5] == 2, "client {client} went to backend {}, not to its entry's", packet[5]);
                seen[usize::from(on)].push(f64::from(ns) * 1e-9);
            }
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        sweeper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        outcome
    })?;
    let sweeps = sweeps.load(Ordering::Relaxed);
    ensure!(sweeps > 0, "no sweep was made beside the packets");
    // Nobody shall notice: what else is on the machine moves a 99th percentile by so much.
    let mut target = None;
    for (on, times) in seen.iter_mut().enumerate() {
        times.sort_by(f64::total_cmp);
        let when = if on == 1 { format!("during {sweeps} sweeps") } else { "no sweep".to_owned() };
        report.row("packet with an entry, 1M flows", when.clone(), Unit::Seconds, times, None);
        let late = quantile(times, 0.99);
        report.row("the same, 99 of 100", when, Unit::Seconds, &[late], target);
        target = Some(late * 1.25);
    }
    Ok(())
}
