//! Accounts of what the clients saw. Pure: the clients write, the demo and the tests ask.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::protocol::Place;

/// Versions that are told apart.
pub const VERSIONS: usize = 2;

/// Sums at one moment; subtract two to get what an act cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Long-lived connections ever opened.
    pub long_opened: u64,
    /// Those that ended in a reset, an end of stream, 20 s of silence or a wrong answer.
    pub long_broken: u64,
    /// Those that were answered by another backend than at first.
    pub long_moved: u64,
    /// Lines exchanged on them.
    pub long_lines: u64,
    /// Short connections finished, well or not.
    pub short_total: u64,
    /// Those with any error, or more than 10 s.
    pub short_failed: u64,
    /// Good ones that took more than 900 ms: a SYN had to be repeated.
    pub short_slow: u64,
    /// UDP flows ever opened.
    pub udp_total: u64,
    /// Those that were answered at least once.
    pub udp_answered: u64,
    /// Those that were answered by another backend than at first.
    pub udp_moved: u64,
    /// Datagrams sent.
    pub udp_sent: u64,
    /// Datagrams never answered.
    pub udp_lost: u64,
    /// Connections whose server saw another source address than the client's.
    pub wrong_source: u64,
}

impl Counts {
    /// Long-lived connections that broke or moved, and UDP flows that moved.
    pub fn broken(&self) -> u64 {
        self.long_broken + self.long_moved + self.udp_moved
    }

    /// What was added since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            long_opened: self.long_opened - earlier.long_opened,
            long_broken: self.long_broken - earlier.long_broken,
            long_moved: self.long_moved - earlier.long_moved,
            long_lines: self.long_lines - earlier.long_lines,
            short_total: self.short_total - earlier.short_total,
            short_failed: self.short_failed - earlier.short_failed,
            short_slow: self.short_slow - earlier.short_slow,
            udp_total: self.udp_total - earlier.udp_total,
            udp_answered: self.udp_answered - earlier.udp_answered,
            udp_moved: self.udp_moved - earlier.udp_moved,
            udp_sent: self.udp_sent - earlier.udp_sent,
            udp_lost: self.udp_lost - earlier.udp_lost,
            wrong_source: self.wrong_source - earlier.wrong_source,
        }
    }
}

/// A short connection that went well. Times are microseconds since the load began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortRecord {
    /// The client's address.
    pub client: IpAddr,
    /// The client's port.
    pub port: u16,
    /// Before its SYN.
    pub started_us: u64,
    /// After its answer.
    pub ended_us: u64,
    /// Who answered.
    pub place: Place,
}

/// One thing that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// Microseconds since the load began.
    pub at_us: u64,
    /// What it was, with the client's address where it helps.
    pub what: String,
}

/// Incidents kept with their text; the counters count all of them.
const INCIDENTS_MAX: usize = 50;

/// The accounts.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Sums.
    pub counts: Counts,
    /// Long-lived connections alive now, per version.
    pub live_long: [u32; VERSIONS],
    /// UDP flows alive now, per version.
    pub live_udp: [u32; VERSIONS],
    /// Every good short connection, in the order in which they ended.
    pub shorts: Vec<ShortRecord>,
    /// Clients of whose short connections one failed.
    pub harmed: BTreeSet<IpAddr>,
    /// The first things that went wrong.
    pub incidents: Vec<Incident>,
}

/// Observed among new connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// Fraction that landed on the version, 0 when there were none.
    pub share: f64,
    /// How many there were.
    pub n: u64,
}

impl Ledger {
    /// Writes down something that went wrong.
    pub fn incident(&mut self, at_us: u64, what: String) {
        if self.incidents.len() < INCIDENTS_MAX {
            self.incidents.push(Incident { at_us, what });
        }
    }

    /// Short connections begun in `from_us..to_us`.
    pub fn begun(&self, from_us: u64, to_us: u64) -> impl Iterator<Item = &ShortRecord> {
        // They are in the order of their ends; none takes longer than 10 s, and none ends before it begins.
        let first = self.shorts.partition_point(|r| r.ended_us < from_us);
        self.shorts[first..].iter().filter(move |r| (from_us..to_us).contains(&r.started_us))
    }

    /// The share of `version` among the short connections begun in `from_us..to_us`.
    pub fn share(&self, version: u8, from_us: u64, to_us: u64) -> Share {
        let (mut n, mut hits) = (0u64, 0u64);
        for record in self.begun(from_us, to_us) {
            n += 1;
            hits += u64::from(record.place.version == version);
        }
        #[expect(clippy::cast_precision_loss, reason = "counts of one run are far below 2^52")]
        let share = if n == 0 { 0.0 } else { hits as f64 / n as f64 };
        Share { share, n }
    }
}

/// A stretch of time in which the weight of one version only fell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slope {
    /// Its beginning, microseconds since the load began.
    pub from_us: u64,
    /// Its end, excluded.
    pub to_us: u64,
    /// The version whose weight fell.
    pub falling: u8,
}

/// Connections to the falling version by clients that had been seen on another one, in a connection that had ended before.
/// `records` may be in any order.
pub fn flipped_back(records: &[ShortRecord], slope: Slope) -> Vec<ShortRecord> {
    use std::collections::BTreeMap;
    let inside = || records.iter().filter(|r| (slope.from_us..slope.to_us).contains(&r.started_us));
    let mut left: BTreeMap<IpAddr, u64> = BTreeMap::new();
    for record in inside().filter(|r| r.place.version != slope.falling) {
        let first = left.entry(record.client).or_insert(record.ended_us);
        *first = (*first).min(record.ended_us);
    }
    inside()
        .filter(|r| r.place.version == slope.falling)
        .filter(|r| left.get(&r.client).is_some_and(|ended| *ended < r.started_us))
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(client: u8, started_us: u64, ended_us: u64, version: u8) -> ShortRecord {
        let place = Place { version, backend: version };
        ShortRecord {
            client: std::net::Ipv4Addr::new(10, 80, 1, client).into(),
            port: 1,
            started_us,
            ended_us,
            place,
        }
    }

    const UP: Slope = Slope { from_us: 100, to_us: 1_000, falling: 0 };

    #[test]
    fn a_client_that_returns_while_the_weight_falls_has_flipped_back() {
        let there_and_back = [record(1, 100, 110, 0), record(1, 200, 210, 1), record(1, 300, 310, 0)];
        assert_eq!(flipped_back(&there_and_back, UP), there_and_back[2..]);
    }

    #[test]
    fn a_client_that_moves_once_has_not() {
        let moved =
            [record(1, 100, 110, 0), record(1, 200, 210, 1), record(1, 300, 310, 1), record(2, 300, 310, 0)];
        assert!(flipped_back(&moved, UP).is_empty());
    }

    #[test]
    fn connections_that_overlap_prove_nothing() {
        // The one on the old version began before the one on the new had ended: the shift may lie between them.
        assert!(flipped_back(&[record(1, 200, 400, 1), record(1, 300, 310, 0)], UP).is_empty());
    }

    #[test]
    fn what_lies_outside_the_slope_does_not_count() {
        assert!(flipped_back(&[record(1, 50, 60, 1), record(1, 300, 310, 0)], UP).is_empty());
        assert!(flipped_back(&[record(1, 200, 210, 1), record(1, 1_000, 1_010, 0)], UP).is_empty());
    }

    #[test]
    fn a_share_counts_what_began_in_its_window() {
        let shorts =
            vec![record(1, 10, 20, 1), record(1, 90, 105, 1), record(1, 100, 110, 0), record(2, 150, 160, 1)];
        let ledger = Ledger { shorts, ..Ledger::default() };
        assert_eq!(ledger.share(1, 100, 200), Share { share: 0.5, n: 2 });
        assert_eq!(ledger.share(1, 500, 600), Share { share: 0.0, n: 0 });
    }

    #[test]
    fn counts_are_told_apart_by_subtraction() {
        let before = Counts { short_total: 10, long_broken: 1, ..Counts::default() };
        let after = Counts { short_total: 15, long_broken: 1, udp_moved: 2, ..Counts::default() };
        let cost = after.since(&before);
        assert_eq!((cost.short_total, cost.broken()), (5, 2));
    }
}
