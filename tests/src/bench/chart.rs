//! The report as bars: ours, as multiples of the floor of its case.

use std::fmt::Write as _;

use super::lab::OURS;
use super::report;
use super::rows::Report;

const LEFT: f64 = 330.0;
const WIDTH: f64 = 900.0;
const LINE: f64 = 20.0;
const TOP: f64 = 60.0;

/// An SVG image.
pub(super) fn svg(report: &Report) -> String {
    let rows: Vec<_> = report::of(report, OURS)
        .map(|row| {
            (format!("{}, {}", row.case, row.flows), row.ratio_to_stateless.unwrap_or(row.ratio_to_floor))
        })
        .collect();
    let most = rows.iter().map(|(_, ratio)| *ratio).fold(2.0, f64::max);
    let scale = (WIDTH - LEFT - 60.0) / most;
    let height = TOP + LINE * rows.len() as f64 + 20.0;
    let mut text = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' font-family='sans-serif' font-size='12'>\n\
         <rect width='100%' height='100%' fill='#fff'/>\n\
         <text x='10' y='22' font-size='16'>zdd: cost of a packet, as a multiple of its floor</text>\n\
         <text x='10' y='42' fill='#555'>floor: parse, VIP lookup, table pick, IPIP (not a VIP: parse, VIP lookup, pass); same run, driver included</text>\n"
    );
    for (n, (name, ratio)) in rows.iter().enumerate() {
        let y = TOP + LINE * n as f64;
        let color = if name.contains("transition") { "#c8792b" } else { "#2b7bba" };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "<text x='{}' y='{}' text-anchor='end'>{name}</text><rect x='{LEFT}' y='{}' width='{:.1}' height='{}' fill='{color}'/><text x='{:.1}' y='{}'>{ratio:.2}</text>",
            LEFT - 8.0,
            y + 14.0,
            y + 3.0,
            ratio * scale,
            LINE - 6.0,
            LEFT + ratio * scale + 5.0,
            y + 14.0,
        );
    }
    let one = LEFT + scale;
    let _ = writeln!(
        text,
        "<line x1='{one}' x2='{one}' y1='{TOP}' y2='{height}' stroke='#000' stroke-dasharray='3 3'/>\n</svg>"
    );
    text
}
