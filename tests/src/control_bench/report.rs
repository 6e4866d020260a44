//! What was measured, as a table and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use super::quantile;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Time.
    Seconds,
    /// Memory.
    Bytes,
    /// A part of one CPU's time.
    Cores,
    /// A number of things.
    Count,
}

impl Unit {
    /// A value for people.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Seconds if value < 1e-6 => format!("{:.0} ns", value * 1e9),
            Self::Seconds if value < 1e-3 => format!("{:.1} us", value * 1e6),
            Self::Seconds if value < 1.0 => format!("{:.2} ms", value * 1e3),
            Self::Seconds => format!("{value:.2} s"),
            Self::Bytes if value >= 1024.0 * 1024.0 => format!("{:.1} MiB", value / 1024.0 / 1024.0),
            Self::Bytes => format!("{value:.1} B"),
            Self::Cores if value < 0.1 => format!("{:.2} %", value * 100.0),
            Self::Cores => format!("{:.1} %", value * 100.0),
            Self::Count => format!("{value:.2}"),
        }
    }
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was done.
    pub case: String,
    /// To how much.
    pub size: String,
    /// Seconds, bytes, a fraction of a core, or a number of things.
    pub unit: Unit,
    /// The middle of all rounds.
    pub median: f64,
    /// The least of all rounds.
    pub best: f64,
    /// How many rounds there were.
    pub rounds: usize,
    /// The most it may be.
    pub target: Option<f64>,
    /// Whether the median is below the target.
    pub holds: Option<bool>,
}

/// How one figure grows.
#[derive(Clone, Debug, Serialize)]
pub struct Growth {
    /// What was done.
    pub case: String,
    /// What x counts.
    pub of: String,
    /// Of the figures.
    pub unit: Unit,
    /// Size and figure (the best of all rounds, which other work on the machine disturbs least).
    pub points: Vec<(f64, f64)>,
    /// Exponent between first and last point: 1 is linear.
    pub exponent: f64,
    /// The exponent's name.
    pub slope: &'static str,
}

/// Memory of one kind of thing.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// Name of the map, or of what was counted.
    pub what: String,
    /// One of what.
    pub per: &'static str,
    /// How many there is room for.
    pub room: u64,
    /// Bytes that the kernel accounts for all.
    pub bytes: u64,
    /// Bytes of each.
    pub each: f64,
}

/// Everything.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Fewer rounds were made.
    pub quick: bool,
    /// CPUs of this machine.
    pub cpus: usize,
    /// Its load (processes that want to run, over a minute) before and after: above the number of CPUs, medians lie.
    pub load: [f64; 2],
    /// Figures.
    pub rows: Vec<Row>,
    /// How they grow.
    pub growth: Vec<Growth>,
    /// Memory of maps.
    pub memory: Vec<Memory>,
    /// What else there is to know.
    pub notes: Vec<String>,
}

fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(f64::NAN)
}

impl Report {
    pub(super) fn begin(quick: bool) -> Self {
        let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZeroUsize::get);
        Self { quick, cpus, load: [load(); 2], rows: vec![], growth: vec![], memory: vec![], notes: vec![] }
    }

    /// A figure from sorted rounds. Returns the least of them.
    pub(super) fn row(
        &mut self,
        case: &str,
        size: impl Into<String>,
        unit: Unit,
        sorted: &[f64],
        target: Option<f64>,
    ) -> f64 {
        let median = quantile(sorted, 0.5);
        let best = quantile(sorted, 0.0);
        let holds = target.map(|target| median < target);
        self.load[1] = load();
        self.rows.push(Row {
            case: case.to_owned(),
            size: size.into(),
            unit,
            median,
            best,
            rounds: sorted.len(),
            target,
            holds,
        });
        best
    }

    pub(super) fn growth(&mut self, case: &str, of: &str, unit: Unit, points: Vec<(f64, f64)>) {
        let exponent = exponent(&points);
        let (case, of) = (case.to_owned(), of.to_owned());
        self.growth.push(Growth { case, of, unit, points, exponent, slope: slope(exponent) });
    }

    /// As tables.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{} CPUs, load {:.1} before and {:.1} after{}\n",
            self.cpus,
            self.load[0],
            self.load[1],
            if self.quick { ", --quick" } else { "" }
        );
        if !self.rows.is_empty() {
            let _ = writeln!(text, "{:42} {:36} {:>10} {:>10} {:>10}", "", "", "median", "best", "target");
        }
        for row in &self.rows {
            let show = |value| row.unit.show(value);
            let _ = writeln!(
                text,
                "{:42} {:36} {:>10} {:>10} {:>10} {}",
                row.case,
                row.size,
                show(row.median),
                show(row.best),
                row.target.map_or(String::new(), show),
                match row.holds {
                    Some(true) => "held",
                    Some(false) => "MISSED",
                    None => "",
                }
            );
        }
        for note in &self.notes {
            let _ = writeln!(text, "{note}");
        }
        if !self.growth.is_empty() {
            let _ = writeln!(text, "\n{:42} {:40} slope", "how it grows", "");
        }
        for growth in &self.growth {
            let points: Vec<String> =
                growth.points.iter().map(|(x, y)| format!("{x}: {}", growth.unit.show(*y))).collect();
            let _ = writeln!(
                text,
                "{:42} {:10} {}  -> {} (exponent {:.2})",
                growth.case,
                growth.of,
                points.join(", "),
                growth.slope,
                growth.exponent
            );
        }
        if !self.memory.is_empty() {
            let _ =
                writeln!(text, "\n{:24} {:22} {:>12} {:>12} {:>10}", "memory", "per", "room", "all", "each");
        }
        for memory in &self.memory {
            let _ = writeln!(
                text,
                "{:24} {:22} {:>12} {:>12} {:>8.1} B",
                memory.what,
                memory.per,
                memory.room,
                Unit::Bytes.show(memory.bytes as f64),
                memory.each
            );
        }
        text
    }
}

/// Of y over x between the first and the last point.
fn exponent(points: &[(f64, f64)]) -> f64 {
    match (points.first(), points.last()) {
        (Some((x0, y0)), Some((x1, y1))) if x1 > x0 => (y1 / y0).ln() / (x1 / x0).ln(),
        _ => f64::NAN,
    }
}

/// Its name.
fn slope(exponent: f64) -> &'static str {
    match exponent {
        e if e.is_nan() => "unknown",
        e if e < 0.15 => "constant",
        e if e < 0.85 => "less than linear",
        e if e <= 1.25 => "linear",
        _ => "more than linear",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_named_by_their_exponent() {
        let grow =
            |power: i32| slope(exponent(&[(1.0, 5.0), (10.0, 5.0), (100.0, 5.0 * 100f64.powi(power))]));
        assert_eq!((grow(0), grow(1), grow(2)), ("constant", "linear", "more than linear"));
        assert_eq!(slope(exponent(&[(1.0, 1.0), (100.0, 10.0)])), "less than linear");
        assert_eq!(slope(exponent(&[])), "unknown");
    }

    #[test]
    fn a_target_is_held_by_the_median_and_not_by_the_best() {
        let mut report = Report::begin(true);
        report.row("x", "1", Unit::Seconds, &[1.0, 3.0, 4.0], Some(2.0));
        assert_eq!(report.rows[0].holds, Some(false));
        assert!(report.text().contains("MISSED"));
    }
}
