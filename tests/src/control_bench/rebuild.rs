//! Planning a service's row anew: what a change of its backends, and what a shift costs before anything is written.

use zdd_agent::plan::{self, Candidate, Currents, Usable};
use zdd_common::entries::Cell;
use zdd_common::hash::{HashKey, fold};
use zdd_common::{rules, split};

use super::report::{Report, Unit};
use super::rounds;

const KEY: HashKey = HashKey { k0: 0x2545_f491_4f6c_dd1d, k1: 0x9e37_79b9_7f4a_7c15 };

/// Backends of one version.
pub(super) fn version(backends: u16) -> Vec<Vec<Candidate>> {
    let one =
        |id: u16| Candidate { id, identity: fold(7, id.into()), weight: 1, healthy: true, draining: false };
    vec![(1..=backends).map(one).collect()]
}

/// Currents for all groups, and the row that they make of the one that is.
fn rebuild(cache: &mut Currents, usable: &Usable, groups: &[u8], cells: &[Cell]) -> Vec<Cell> {
    let currents = plan::currents(cache, usable, groups, 1, &KEY);
    cells.iter().zip(currents).map(|(cell, current)| rules::change(*cell, current).0).collect()
}

pub(super) fn measure(report: &mut Report) {
    let targets = [
        (8_192u32, 10u16, None),
        (65_536, 100, Some(1e-3)),
        (131_072, 1_000, Some(3e-3)),
        (1 << 20, 10_000, None),
    ];
    let count = if report.quick { 15 } else { 101 };
    let mut points = Vec::new();
    for (cells, backends, target) in targets {
        let groups = vec![0u8; cells as usize];
        let mut all = version(backends);
        let full = plan::usable(&all, &[0]);
        let row: Vec<Cell> = plan::currents(&mut Currents::default(), &full, &groups, 1, &KEY)
            .into_iter()
            .map(Cell::settled)
            .collect();
        // One backend fails its checks: the table is filled anew for the others.
        all[0][usize::from(backends) / 2].healthy = false;
        let less = plan::usable(&all, &[0]);
        let times = rounds(count, || {
            let mut cache = Currents::default();
            std::hint::black_box(rebuild(&mut cache, &less, &groups, &row));
        });
        let size = format!("{cells} cells, {backends} backends");
        let best = report.row("rebuild: a backend fails", size, Unit::Seconds, &times, target);
        points.push((f64::from(cells), best));
    }
    report.growth("rebuild: a backend fails", "cells", Unit::Seconds, points);

    let cells = 65_536u32;
    let order = split::order(&KEY, cells);
    let mut two = version(50);
    two.push(version(100)[0][50..].to_vec());
    let usable = plan::usable(&two, &[0, 1]);
    let mut cache = Currents::default();
    let mut groups = vec![0u8; cells as usize];
    split::reassign(&mut groups, &order, &[9_000, 1_000]);
    let row: Vec<Cell> =
        plan::currents(&mut cache, &usable, &groups, 1, &KEY).into_iter().map(Cell::settled).collect();
    let times = rounds(count, || {
        let mut groups = groups.clone();
        split::reassign(&mut groups, &order, &[5_000, 5_000]);
        std::hint::black_box(rebuild(&mut cache, &usable, &groups, &row));
    });
    report.row(
        "rebuild: a shift from 10 to 50 %",
        "65536 cells, 2 x 50 backends",
        Unit::Seconds,
        &times,
        None,
    );
}
