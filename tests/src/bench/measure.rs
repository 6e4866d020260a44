//! One case: all programs in turn, round by round.

use anyhow::{Result, bail, ensure};
use zdd_common::bench::Drive;
use zdd_common::entries::Mode;
use zdd_common::reason::REASONS;

use super::cases::{Case, FORWARDS, Flows, Kind, State};
use super::frame;
use super::lab::{BASE, Lab, OTHER, OURS};
use super::options::Options;
use super::rows;

/// XDP actions.
const ABORTED: u32 = 0;
const PASS: u32 = 2;
const TX: u32 = 3;

/// Nanoseconds per packet of one program, one number a round.
pub(super) struct Series {
    /// The program; of ours in the case's peer, [`PEER`].
    pub(super) name: String,
    pub(super) ns: Vec<f64>,
}

/// What a case came to.
pub(super) struct Measured {
    pub(super) series: Vec<Series>,
    /// What most packets of ours were counted as.
    pub(super) reason: &'static str,
}

impl Measured {
    /// One program's figures.
    pub(super) fn of(&self, name: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.name == name)
    }
}

/// Name of ours in the case that a case is compared with.
pub(super) const PEER: &str = "zdd (peer)";

/// One program's part in a case.
struct Turn {
    name: String,
    station: usize,
    drive: Drive,
    frame: Vec<u8>,
    /// The action that each packet must end in; a stranger's may be any.
    action: Option<u32>,
    packets: u32,
    /// Nanoseconds of each turn, its start included.
    took: Vec<u64>,
}

/// Packets of a turn that is all start. Little where the driver stays in the kernel's dispatcher (see
/// [`super::lab`]); 0.3 to 0.5 ms where it does not, however many packets follow.
const FEWEST: u32 = 2;
/// Flows at the most whose entries may be expected in a cache.
const FLOWS_WARM: u32 = 1 << 16;

/// Measures a case.
///
/// # Errors
/// When a program does not do what the case says.
pub(super) fn measure(lab: &mut Lab, case: &Case, options: &Options) -> Result<Measured> {
    lab.forget(case);
    let mut turns = turns(lab, case)?;
    for turn in &mut turns {
        let fill = match (case.state, case.flows) {
            (State::Transition, Flows::Some(flows)) if turn.of_ours() => flows.max(1 << 10),
            _ => 1 << 10,
        };
        turn.run(lab, fill)?;
        let ns = turn.run(lab, 4096)? as f64 - turn.start(lab)?;
        let each = ns.max(1.0) / f64::from(4096 - FEWEST);
        turn.packets = ((options.turn_ns() / each) as u32).clamp(500, 2_000_000);
    }
    let before = lab.ours.reasons()?;
    let mut starts = vec![];
    for round in 0..options.rounds() {
        let count = turns.len();
        // Nobody's turn: what follows is measured without it.
        starts.push(turns[round % count].start(lab)?);
        for n in 0..count {
            // Nobody comes always after the same one.
            let turn = &mut turns[(n + round) % count];
            let warm = if options.cold { 0 } else { turn.warm(case) };
            if turn.of_ours() && case.kind == Kind::Syn {
                lab.make_room(u64::from(warm + turn.packets));
            }
            if warm > 0 {
                turn.run(lab, warm)?;
            }
            let ns = turn.run(lab, turn.packets)?;
            turn.took.push(ns);
        }
    }
    let reason = reason(case, &before, &lab.ours.reasons()?)?;
    let start = rows::median(&starts);
    Ok(Measured { series: turns.into_iter().map(|turn| turn.series(start)).collect(), reason })
}

fn turns(lab: &Lab, case: &Case) -> Result<Vec<Turn>> {
    let work = if case.state == State::NotVip { "pass" } else { "stateless" };
    let peer = case.peer();
    let mut turns = vec![];
    for name in ["tx", "mac", work, OURS, PEER, BASE, OTHER] {
        let (station, case) = match (name, &peer) {
            (PEER, Some(peer)) => (OURS, peer),
            (PEER, None) => continue,
            _ => (name, case),
        };
        let Some(station) = lab.station(station) else { continue };
        let action = match (name, case.state) {
            (OTHER, _) => None,
            ("tx" | "mac", _) => Some(TX),
            (_, State::NotVip) => Some(PASS),
            _ => Some(TX),
        };
        let (drive, frame) = (frame::drive(case), frame::bytes(case));
        turns.push(Turn { name: name.to_owned(), station, drive, frame, action, packets: 0, took: vec![] });
    }
    ensure!(turns.len() >= 4, "a station is missing");
    Ok(turns)
}

impl Turn {
    fn of_ours(&self) -> bool {
        [OURS, PEER, BASE].contains(&self.name.as_str())
    }

    /// Packets before a turn that are not measured: each flow's once, where a program keeps something for each, so that what others'
    /// turns displaced from the caches is back as if it ran alone. A million flows fit into none.
    fn warm(&self, case: &Case) -> u32 {
        match case.flows {
            Flows::Some(flows) if flows <= FLOWS_WARM && (case.per_flow() || self.name == OTHER) => flows,
            _ => 0,
        }
    }

    /// Nanoseconds that it takes: of the thread's own time, so that what else runs on the CPU does not count.
    fn run(&mut self, lab: &Lab, packets: u32) -> Result<u64> {
        let start = thread_ns();
        let action = lab.stations[self.station].run(&mut self.drive, &self.frame, packets)?;
        let ns = thread_ns() - start;
        if action == ABORTED || self.action.is_some_and(|wanted| wanted != action) {
            bail!("{} ended in XDP action {action}, {:?} was expected", self.name, self.action);
        }
        Ok(ns)
    }

    /// What a turn's start takes, in nanoseconds.
    fn start(&mut self, lab: &Lab) -> Result<f64> {
        Ok(self.run(lab, FEWEST)? as f64)
    }

    /// Per packet, without what a turn's start takes.
    fn series(self, start: f64) -> Series {
        let each = |took: u64| (took as f64 - start).max(0.0) / f64::from(self.packets);
        Series { name: self.name, ns: self.took.into_iter().map(each).collect() }
    }
}

impl Lab {
    fn forget(&mut self, case: &Case) {
        for ours in std::iter::once(&mut self.ours).chain(&mut self.base) {
            ours.forget();
            if FORWARDS[case.forward].1 == Mode::Snat {
                ours.give_ports_back();
            }
        }
    }

    fn make_room(&mut self, syns: u64) {
        self.ours.make_room(syns);
        if let Some(base) = &mut self.base {
            base.make_room(syns);
        }
    }
}

/// The reason that ours counted, which must be the case's for nearly all packets.
fn reason(case: &Case, before: &[u64], after: &[u64]) -> Result<&'static str> {
    let counts: Vec<u64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    let total: u64 = counts.iter().sum();
    let Some((most, count)) = counts.iter().enumerate().max_by_key(|(_, count)| **count) else {
        bail!("no reasons")
    };
    let name = REASONS[most].name();
    let wanted: &[&str] = match (case.state, case.kind) {
        (State::NotVip, _) => &["pass_not_vip"],
        (State::Settled, _) => &["settled"],
        // A SYN with a new sequence number becomes its entry's second identity, then finds that taken.
        (State::Transition, Kind::Syn) => &["new", "entry", "alt"],
        (State::Transition, _) => &["entry"],
    };
    ensure!(
        wanted.contains(&name) && *count * 20 >= total * 19
            || case.kind == Kind::Syn && wanted.contains(&name),
        "{}, {} flows: {count} of {total} packets were counted as {name}, {wanted:?} was expected",
        case.name(),
        case.flows()
    );
    Ok(name)
}

pub(super) fn thread_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place for the answer; the clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_turn_begins_with_is_no_packets() {
        let turn = Turn {
            name: "tx".into(),
            station: 0,
            drive: Drive::default(),
            frame: vec![],
            action: None,
            packets: 1000,
            took: vec![440_000 + 12_000, 440_000 + 13_500, 439_000],
        };
        assert_eq!(turn.series(440_000.0).ns, [12.0, 13.5, 0.0]);
    }
}
