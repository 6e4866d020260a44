//! What is aimed at, as ratios within one run, and what a run reached.

use serde::Serialize;

use super::lab::OURS;
use super::rows::Row;

/// One aim.
#[derive(Clone, Debug, Serialize)]
pub struct Target {
    /// Which rows it is about.
    pub what: &'static str,
    /// The ratio must be at most this.
    pub at_most: f64,
    /// The worst row's ratio.
    pub worst: f64,
    /// The same without the driver, where it is a ratio to a floor.
    pub net: Option<f64>,
    /// The worst row.
    pub row: String,
}

/// Which ratio an aim is about.
#[derive(Clone, Copy)]
enum To {
    Stateless,
    Floor,
    Peer,
}

/// An aim: what it says, the words of its rows' names, their flows (all if empty), the ratio and the most it may be.
type Aim = (&'static str, &'static [&'static str], &'static [&'static str], To, f64);

const AIMS: &[Aim] = &[
    (
        "settled, v4 ACK, to the stateless floor",
        &["v4 ACK settled"],
        &["1", "64k", "1M"],
        To::Stateless,
        1.25,
    ),
    ("settled, v4 SYN, every packet a new flow", &["v4 SYN settled"], &["new"], To::Stateless, 1.6),
    ("not a VIP, to its own floor", &["not-a-VIP"], &[], To::Floor, 1.25),
    ("in transition, v4 ACK, 64k flows with entries", &["v4 ACK transition"], &["64k"], To::Stateless, 3.2),
    ("in transition, v4 SYN, new flows, inserting", &["v4 SYN transition"], &["new"], To::Stateless, 4.0),
    ("flood of new tuples, settled", &["v4", "settled"], &["new"], To::Stateless, 1.6),
    ("v6, to the same case over v4", &["v6"], &[], To::Peer, 1.15),
    ("1,000 services, to one", &["1000-services"], &[], To::Peer, 1.1),
];

/// Keeps an entry for every flow by its nature, so no aim is about it.
const STATEFUL: &str = "snat";

/// What the rows of a run say about each aim that they cover.
pub(super) fn reached(rows: &[Row]) -> Vec<Target> {
    AIMS.iter().filter_map(|aim| reach(aim, rows)).collect()
}

fn reach((what, words, flows, to, at_most): &Aim, rows: &[Row]) -> Option<Target> {
    let many = words.contains(&"1000-services");
    rows.iter()
        .filter(|row| {
            row.program == OURS
                && !row.case.contains(STATEFUL)
                && words.iter().all(|word| row.case.contains(word))
        })
        .filter(|row| many == row.case.contains("1000-services"))
        .filter(|row| flows.is_empty() || flows.contains(&row.flows.as_str()))
        .filter_map(|row| {
            let (worst, net) = match to {
                To::Stateless => (row.ratio_to_stateless?, row.net_ratio_to_stateless),
                To::Floor => (row.ratio_to_floor, row.net_ratio_to_floor),
                To::Peer => (row.ratio_to_peer?, None),
            };
            let row = format!("{}, {}", row.case, row.flows);
            Some(Target { what, at_most: *at_most, worst, net, row })
        })
        .max_by(|a, b| a.worst.total_cmp(&b.worst))
}
