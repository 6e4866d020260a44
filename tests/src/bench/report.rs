//! The report as text.

use std::fmt::Write as _;

use super::lines::Lines;
use super::memory::Memory;
use super::rows::{Report, Row};

/// The whole report.
pub(super) fn table(report: &Report) -> String {
    let mut text = String::new();
    write(&mut text, report).expect("a String takes everything");
    text
}

fn write(text: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(
        text,
        "Ratios first: they hold on a busy machine, times do not. In brackets: without the driver's own cost"
    )?;
    writeln!(
        text,
        "({:.1} ns, measured against XDP_TX at once). Medians of {} rounds, quartiles' distance as +-.",
        report.driver_ns, report.rounds
    )?;
    writeln!(
        text,
        "Lines: cache lines of map values + of the frame + per-CPU counters that a packet touches, counted on the model; each lookup in\n\
         the kernel's hash tables touches two or more besides.\n"
    )?;
    writeln!(
        text,
        "{:<34} {:>5}  {:<10} {:>14} {:>14} {:>8} {:>6}  {:>6} {:>6}  lines",
        "case", "flows", "program", "to stateless", "to floor", "ns", "+-", "peer", "base"
    )?;
    let mut last = "";
    for row in &report.rows {
        let key = if last == row.case { "" } else { &row.case };
        last = &row.case;
        writeln!(
            text,
            "{:<34} {:>5}  {:<10} {:>14} {:>14} {:>8.1} {:>6.1}  {:>6} {:>6}  {}",
            key,
            row.flows,
            row.program,
            both(row.ratio_to_stateless, row.net_ratio_to_stateless),
            both(Some(row.ratio_to_floor), row.net_ratio_to_floor),
            row.median_ns,
            row.spread_ns,
            one(row.ratio_to_peer),
            one(row.ratio_to_base),
            row.lines.as_ref().map_or_else(String::new, lines),
        )?;
    }
    writeln!(text, "\n{:<10} {:>12} {:>10} {:>13}", "program", "instructions", "verified", "machine code")?;
    for size in &report.sizes {
        writeln!(
            text,
            "{:<10} {:>12} {:>10} {:>11} B",
            size.program, size.instructions, size.verified, size.machine_code
        )?;
    }
    if !report.memory.is_empty() {
        let each = |memory: &Memory| format!("{:.1} ns from {} KiB", memory.ns, memory.bytes >> 10);
        let all: Vec<String> = report.memory.iter().map(each).collect();
        writeln!(text, "\nA load that waits for the one before it: {}", all.join(", "))?;
    }
    if !report.targets.is_empty() {
        writeln!(text, "\n{:<48} {:>8} {:>14}  worst row", "aim", "at most", "reached")?;
    }
    for target in &report.targets {
        let mark = if target.worst <= target.at_most { "" } else { "  MISSED" };
        let reached = both(Some(target.worst), target.net);
        writeln!(text, "{:<48} {:>8.2} {:>14}  {}{mark}", target.what, target.at_most, reached, target.row)?;
    }
    for case in &report.slower {
        writeln!(text, "SLOWER than the other revision by more than 10 %: {case}")?;
    }
    Ok(())
}

fn lines(lines: &Lines) -> String {
    format!("{:.1}+{:.0}+{:.0}, {:.0} lookup", lines.maps, lines.frame, lines.counters, lines.lookups)
}

fn one(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| format!("{value:.2}"))
}

fn both(value: Option<f64>, net: Option<f64>) -> String {
    match (value, net) {
        (Some(value), Some(net)) => format!("{value:.2} ({net:.2})"),
        (value, _) => one(value),
    }
}

/// Rows of one program.
pub(super) fn of<'a>(report: &'a Report, program: &'a str) -> impl Iterator<Item = &'a Row> {
    report.rows.iter().filter(move |row| row.program == program)
}
