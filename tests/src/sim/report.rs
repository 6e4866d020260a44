//! Figures as a table, as JSON and as a chart.

use std::fmt::Write;

use serde::Serialize;

/// How one contender did in one scenario.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Score {
    /// Its name.
    pub contender: String,
    /// Flows that broke.
    pub broken: u64,
    /// Of all flows, 0 to 1.
    pub share: f64,
    /// Entries of one node, the mean over nodes and time.
    pub mean_entries: f64,
    /// The most entries that one node held at once.
    pub peak_entries: u64,
}

/// One scenario.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub scenario: String,
    /// In a sentence.
    pub what: String,
    /// Some flow's state is lost in it.
    pub state_lost: bool,
    /// Balancer nodes.
    pub nodes: usize,
    /// Flows.
    pub flows: u32,
    /// Their packets.
    pub packets: u64,
    /// Forged SYNs.
    pub forged: u64,
    /// The most flows alive at once.
    pub live_at_once: u64,
    /// Contenders in their order: ours first.
    pub scores: Vec<Score>,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Of the random generator.
    pub seed: u64,
    /// Scenarios in their order.
    pub rows: Vec<Row>,
    /// Scenarios without loss of state in which ours broke something: there must be none.
    pub violations: Vec<String>,
}

impl Report {
    /// From the rows.
    pub fn new(seed: u64, rows: Vec<Row>) -> Self {
        let wrong = |row: &&Row| !row.state_lost && row.scores.first().is_some_and(|s| s.broken > 0);
        let violations = rows.iter().filter(wrong).map(|row| row.scenario.clone()).collect();
        Self { seed, rows, violations }
    }

    /// As a table.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let Some(first) = self.rows.first() else { return out };
        let _ = write!(out, "{:<16}{:>6}{:>9}", "broken", "nodes", "live");
        for score in &first.scores {
            let _ = write!(out, "{:>13}", score.contender);
        }
        let _ = writeln!(out, "   entries of a node, mean (most): zdd / LRU");
        for row in &self.rows {
            let _ = write!(out, "{:<16}{:>6}{:>9}", row.scenario, row.nodes, row.live_at_once);
            for score in &row.scores {
                let shown =
                    if score.broken == 0 { "0".to_owned() } else { format!("{:.4} %", score.share * 100.0) };
                let _ = write!(out, "{shown:>13}");
            }
            let entries = |at: usize| {
                let score = row.scores.get(at);
                score.map_or(String::new(), |s| format!("{:.0} ({})", s.mean_entries, s.peak_entries))
            };
            let _ = writeln!(
                out,
                "   {:>16} / {:<16}{}",
                entries(0),
                entries(2),
                if row.state_lost { "  state lost" } else { "" }
            );
        }
        out.push('\n');
        for row in &self.rows {
            let _ = writeln!(
                out,
                "{:<16}{} ({} flows, {} packets)",
                row.scenario, row.what, row.flows, row.packets
            );
        }
        out
    }

    /// As SVG: a bar per scenario and contender, on a logarithmic axis that says so.
    pub fn svg(&self) -> String {
        const COLOURS: [&str; 4] = ["#3b6ea8", "#b4b4b4", "#e07b25", "#c0504d"];
        const LEFT: f64 = 170.0;
        const BAR: f64 = 14.0;
        const WIDTH: f64 = 960.0;
        let group = BAR * 4.0 + 22.0;
        let height = 140.0 + group * self.rows.len() as f64;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
             font-family=\"DejaVu Sans, Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"#222\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
             <text x=\"20\" y=\"30\" font-size=\"20\" font-weight=\"bold\">Connections broken, of all</text>\n"
        );
        let names = self.rows.first().map_or(&[][..], |row| &row.scores);
        for (at, score) in names.iter().enumerate() {
            let x = LEFT + at as f64 * 150.0;
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"44\" width=\"12\" height=\"12\" fill=\"{}\"/><text x=\"{}\" y=\"54\">{}</text>",
                COLOURS[at % 4],
                x + 18.0,
                score.contender
            );
        }
        // 0.0001 % to 100 %: six powers of ten.
        let length = |share: f64| {
            if share <= 0.0 { 0.0 } else { ((share * 1e6).log10().max(0.05) / 6.0) * (WIDTH - LEFT - 110.0) }
        };
        let foot = height - 52.0;
        for power in 0..=6 {
            let x = LEFT + f64::from(power) / 6.0 * (WIDTH - LEFT - 110.0);
            let percent = 10f64.powi(power - 4);
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" y1=\"70\" x2=\"{x:.1}\" y2=\"{foot}\" stroke=\"#ddd\"/><text x=\"{x:.1}\" y=\"{}\" \
                 font-size=\"10\" text-anchor=\"middle\">{percent} %</text>",
                foot + 14.0
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"{}\" font-size=\"11\">logarithmic: each line is ten times the one before; no bar: none broke</text>",
            foot + 34.0
        );
        for (row_at, row) in self.rows.iter().enumerate() {
            let top = 80.0 + row_at as f64 * group;
            let _ = writeln!(
                svg,
                "<text x=\"20\" y=\"{}\" font-weight=\"bold\">{}</text>",
                top + 24.0,
                row.scenario
            );
            for (at, score) in row.scores.iter().enumerate() {
                let y = top + at as f64 * BAR;
                let width = length(score.share);
                let _ = writeln!(
                    svg,
                    "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{}\"/><text x=\"{:.1}\" y=\"{}\" \
                     font-size=\"10\">{}</text>",
                    BAR - 3.0,
                    COLOURS[at % 4],
                    LEFT + width + 6.0,
                    y + 9.0,
                    if score.broken == 0 { "0".to_owned() } else { format!("{:.4} %", score.share * 100.0) }
                );
            }
        }
        svg.push_str("</svg>\n");
        svg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_says_that_its_axis_is_logarithmic_and_its_bars_end_where_it_says() {
        let score = |share: f64| Score {
            contender: "one".into(),
            broken: u64::from(share > 0.0),
            share,
            mean_entries: 0.0,
            peak_entries: 0,
        };
        let row = Row {
            scenario: "any".into(),
            what: String::new(),
            state_lost: true,
            nodes: 1,
            flows: 1,
            packets: 1,
            forged: 0,
            live_at_once: 1,
            scores: vec![score(0.01), score(0.0)],
        };
        let svg = Report::new(1, vec![row]).svg();
        assert!(svg.contains("logarithmic"), "{svg}");
        // The line of 1 % is where the bar of 1 % ends; where nothing broke there is none.
        let at = |what: &str, from: &str| -> f64 {
            let rest = &svg[svg.find(what).expect("it is drawn")..];
            let rest = &rest[rest.find(from).expect("a place") + from.len()..];
            rest[..rest.find('"').expect("an end")].parse().expect("a number")
        };
        let line = &svg[..svg.find(">1 %<").expect("a line of 1 %")];
        let line: f64 = at(&line[line.rfind("<line").expect("a line")..], "x1=\"");
        let (left, width) =
            (at("<rect x=\"170\" y=\"80\"", "x=\""), at("<rect x=\"170\" y=\"80\"", "width=\""));
        assert!((left + width - line).abs() < 0.2, "{left} + {width}, {line}");
        assert!(svg.contains("width=\"0.0\""));
    }
}
