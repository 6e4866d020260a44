//! The report as bars: ours, as multiples of the floor of its case. IPv4 on the left, IPv6 on the right.

use std::fmt::Write as _;

use super::lab::OURS;
use super::report;
use super::rows::{Report, Row};

/// Width of a column, and where in it names end, flows end, and bars begin.
const COLUMN: f64 = 560.0;
const NAMES: f64 = 190.0;
const FLOWS: f64 = 228.0;
const BARS: f64 = 236.0;
/// Height of a bar's line; between two cases there is a little more.
const LINE: f64 = 15.0;
const GAP: f64 = 6.0;
const TOP: f64 = 96.0;

/// What colours mean: a word of the case's name.
const COLORS: [(&str, &str); 3] =
    [("settled", "#2b7bba"), ("transition", "#c8792b"), ("not-a-VIP", "#6b8e4e")];

fn ratio(row: &Row) -> f64 {
    row.ratio_to_stateless.unwrap_or(row.ratio_to_floor)
}

/// An SVG image.
pub(super) fn svg(report: &Report) -> String {
    let rows: Vec<&Row> = report::of(report, OURS).collect();
    let most = rows.iter().map(|row| ratio(row)).fold(2.0, f64::max);
    // Room for the number behind the longest bar.
    let scale = (COLUMN - BARS - 48.0) / most;
    let mut bars = String::new();
    let mut height = TOP;
    for (column, family) in ["v4", "v6"].into_iter().enumerate() {
        let left = column as f64 * COLUMN;
        let mut y = TOP;
        let mut last = "";
        for row in rows.iter().filter(|row| row.case.starts_with(family)) {
            let case = row.case[family.len()..].trim();
            let first = case != last;
            y += if first { LINE + GAP } else { LINE };
            last = case;
            bar(&mut bars, row, if first { case } else { "" }, (left, y), scale);
        }
        height = height.max(y + 24.0);
        column_lines(&mut bars, (left, y + 6.0), family, scale, most);
    }
    let width = 2.0 * COLUMN;
    let mut text = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' font-family='sans-serif' font-size='11'>\n\
         <rect width='100%' height='100%' fill='#fff'/>\n\
         <text x='12' y='24' font-size='16'>zdd: cost of a packet, as a multiple of its floor</text>\n\
         <text x='12' y='42' fill='#555'>floor: parse, VIP lookup, table pick, IPIP (not a VIP: parse, VIP lookup, pass); same run, driver included; the number before a bar: flows</text>\n"
    );
    for (n, (word, color)) in COLORS.into_iter().enumerate() {
        let x = 12.0 + 110.0 * n as f64;
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(
            text,
            "<rect x='{x}' y='54' width='11' height='11' fill='{color}'/><text x='{}' y='64'>{word}</text>",
            x + 16.0
        );
    }
    text + &bars + "</svg>\n"
}

/// One bar; `y` is the base of its words.
fn bar(text: &mut String, row: &Row, name: &str, (left, y): (f64, f64), scale: f64) {
    let color = COLORS.iter().find(|(word, _)| row.case.contains(word)).map_or("#888888", |(_, color)| color);
    let length = ratio(row) * scale;
    let _ = writeln!(
        text,
        "<text x='{}' y='{y}' text-anchor='end'>{name}</text><text x='{}' y='{y}' text-anchor='end' fill='#777'>{}</text>\
         <rect class='bar' x='{}' y='{}' width='{length:.1}' height='{}' fill='{color}'/><text x='{:.1}' y='{y}'>{:.2}</text>",
        left + NAMES,
        left + FLOWS,
        row.flows,
        left + BARS,
        y - 9.5,
        LINE - 4.0,
        left + BARS + length + 4.0,
        ratio(row),
    );
}

/// The column's heading, and lines at its multiples; the floor's own is dashed.
fn column_lines(text: &mut String, (left, bottom): (f64, f64), family: &str, scale: f64, most: f64) {
    let heading = if family == "v4" { "IPv4" } else { "IPv6" };
    let _ = writeln!(
        text,
        "<text x='{}' y='{}' text-anchor='end' font-weight='bold'>{heading}</text>",
        left + NAMES,
        TOP - 8.0
    );
    let step = if most > 8.0 { 2 } else { 1 };
    for multiple in (1..=most as u32).filter(|n| *n == 1 || n % step == 0) {
        let x = left + BARS + f64::from(multiple) * scale;
        let stroke = if multiple == 1 {
            "stroke='#000' stroke-dasharray='3 3'"
        } else {
            "stroke='#000' stroke-opacity='0.12'"
        };
        let _ = writeln!(
            text,
            "<line x1='{x:.1}' x2='{x:.1}' y1='{TOP}' y2='{bottom}' {stroke}/><text x='{x:.1}' y='{}' text-anchor='middle' fill='#777'>{multiple}</text>",
            TOP - 8.0
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(case: &str, flows: &str, ratio: f64) -> Row {
        Row {
            case: case.into(),
            program: OURS.into(),
            flows: flows.into(),
            median_ns: 1.0,
            spread_ns: 0.0,
            ratio_to_floor: ratio,
            ratio_to_stateless: Some(ratio),
            net_ns: 1.0,
            net_ratio_to_floor: None,
            net_ratio_to_stateless: None,
            ratio_to_peer: None,
            ratio_to_base: None,
            reason: None,
            lines: None,
        }
    }

    #[test]
    fn every_row_of_ours_has_a_bar_that_ends_within_its_column() {
        let rows = vec![
            row("v4 ACK settled l2", "1", 1.5),
            row("v4 ACK settled l2", "64k", 12.5),
            row("v6 SYN transition nat", "new", 0.4),
        ];
        let report = Report {
            sizes: vec![],
            driver_ns: 1.0,
            memory: vec![],
            rounds: 3,
            rows,
            targets: vec![],
            slower: vec![],
        };
        let svg = svg(&report);
        assert_eq!(svg.matches("class='bar'").count(), 3);
        assert_eq!(svg.matches(">ACK settled l2<").count(), 1, "a case is named once");
        let number = |text: &str, key: &str| -> f64 {
            let rest = text.split(key).nth(1).expect("the attribute");
            rest.split('\'').next().and_then(|word| word.parse().ok()).expect("a number")
        };
        for (n, bar) in svg.split("class='bar'").skip(1).enumerate() {
            let end = number(bar, " x='") + number(bar, "width='");
            let column = if n < 2 { COLUMN } else { 2.0 * COLUMN };
            assert!(end <= column - 40.0, "{end} of {column}");
        }
    }
}
