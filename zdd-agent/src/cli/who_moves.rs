//! `zdd who-moves` as text.

use std::fmt::Write as _;

use crate::report::WhoMoves;

fn percent(fraction: f64) -> String {
    format!("{:.2}%", fraction * 100.0)
}

/// The report, the most important line first.
pub fn text(report: &WhoMoves) -> String {
    let WhoMoves { service, moved_cells, moved_groups, cells, .. } = report;
    let version = |name: &Option<String>| name.clone().unwrap_or_else(|| "nobody".to_owned());
    let mut out = format!(
        "{service}: {} of new clients would get another version ({moved_cells} of {cells} cells, {moved_groups} groups)\n",
        percent(report.moved_share)
    );
    // Writing to a String cannot fail.
    for each in &report.versions {
        let _ = writeln!(
            out,
            "  {}: {} -> {} of new flows (asked: {} -> {})",
            each.name,
            percent(each.share_before),
            percent(each.share_after),
            percent(each.asked_before),
            percent(each.asked_after)
        );
    }
    for each in &report.moves {
        let _ = writeln!(out, "  {} -> {}: {} cells", version(&each.from), version(&each.to), each.cells);
    }
    if report.other_backend_cells > 0 {
        let _ = writeln!(
            out,
            "  {} cells keep their version and get another of its backends",
            report.other_backend_cells
        );
    }
    let _ = writeln!(
        out,
        "  live connections stay where they are: {} have entries now, {} of them in cells that move; the others get one at their next packet",
        report.live_flows, report.kept_flows
    );
    for client in &report.clients {
        let (before, after) = (version(&client.before), version(&client.after));
        let _ = if before == after {
            writeln!(out, "  {}: stays on {before}", client.from)
        } else {
            writeln!(out, "  {}: {before} -> {after}", client.from)
        };
    }
    for note in &report.notes {
        let _ = writeln!(out, "  note: {note}");
    }
    out
}
