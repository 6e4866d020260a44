//! The gate against slow packets: instruction counts and ratios of one short run, never times. Bounds are wide, since other
//! work on the machine moves ratios, too; what they catch is a lookup or a copy too many on the settled path.

use zdd_tests::bench::{Options, Report, measure};

/// Instructions of the floors, at most: one that grew would flatter ours.
const FLOORS: [(&str, u32); 4] = [("tx", 4), ("mac", 120), ("pass", 100), ("stateless", 360)];

/// Instructions of ours, at most. A packet meets few of them: the express way is there four times, for each family and for SYNs and all
/// else, and most others are off it: changing cells, entries, signals, traces, ports in ranges, access, limits.
const OURS: u32 = 16_900;

/// Words of a case's name, its flows, and the most that its ratio may be: to the stateless floor, or to its own where that does
/// not apply.
const RATIOS: [(&str, &str, f64); 5] = [
    ("v4 ACK settled l2", "64k", 1.6),
    ("v4 ACK settled ipip", "64k", 1.9),
    ("v4 SYN settled l2", "new", 2.4),
    ("v4 ACK transition l2", "64k", 6.2),
    ("v4 ACK not-a-VIP", "64k", 1.3),
];

/// Runs on a machine that may be busy: a ratio is too high when it is so every time.
const TRIES: usize = 3;

fn report() -> Report {
    let only = RATIOS.iter().map(|(case, flows, _)| format!("{case} {flows}")).collect();
    let options = Options { quick: true, rounds: Some(15), only, ..Options::default() };
    measure(&options).unwrap_or_else(|error| panic!("{error:#}"))
}

fn too_slow(report: &Report) -> Vec<String> {
    let mut found = vec![];
    for (case, flows, at_most) in RATIOS {
        let row =
            report.rows.iter().find(|row| row.program == "zdd" && row.case == case && row.flows == flows);
        let row = row.unwrap_or_else(|| panic!("no row {case}, {flows}"));
        let ratio = row.ratio_to_stateless.unwrap_or(row.ratio_to_floor);
        println!("{case}, {flows} flows: {ratio:.2}, at most {at_most}");
        if ratio > at_most {
            found.push(format!("{case}, {flows} flows: {ratio:.2} instead of at most {at_most}"));
        }
    }
    found
}

#[test]
fn packets_stay_near_their_floors() {
    let mut slow = vec![];
    for _ in 0..TRIES {
        let report = report();
        for size in &report.sizes {
            println!("{}: {} instructions, {} verified", size.program, size.instructions, size.verified);
            let floor = FLOORS.iter().find(|(name, _)| *name == size.program);
            let at_most = floor.map_or(OURS, |(_, most)| *most);
            assert!(size.instructions <= at_most, "{} has more than {at_most} instructions", size.program);
        }
        slow = too_slow(&report);
        if slow.is_empty() {
            return;
        }
    }
    panic!("{slow:#?}; cargo xtask bench --base REV shows since when");
}
