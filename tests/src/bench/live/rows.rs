//! From turns to rows: medians, spreads, ratios.

use serde::Serialize;

use super::scene::Work;
use crate::bench::rows::{median, quantile};

/// One of what is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Unit {
    Packet,
    Gigabyte,
    Request,
    Connection,
}

impl Unit {
    /// How many of the counted make one.
    fn size(self) -> f64 {
        if self == Self::Gigabyte { 1e9 } else { 1.0 }
    }
}

/// One contender's rounds.
#[derive(Debug)]
pub(super) struct Series {
    name: &'static str,
    /// Seconds on the clock, the number of things done, CPU time.
    rounds: Vec<(f64, u64, Work)>,
}

impl Series {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, rounds: vec![] }
    }

    pub(super) fn push(&mut self, round: (f64, u64, Work)) {
        self.rounds.push(round);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rounds.is_empty()
    }

    fn each(&self, unit: Unit, of: impl Fn(&(f64, u64, Work)) -> f64) -> Vec<f64> {
        self.rounds.iter().map(|round| of(round) * unit.size() / round.1 as f64).collect()
    }

    fn clock(&self, unit: Unit) -> Vec<f64> {
        self.each(unit, |round| round.0 * 1e9)
    }

    /// Of frames, the balancer's part is all that is told.
    fn cpu(&self, unit: Unit) -> Vec<f64> {
        self.each(unit, |round| if unit == Unit::Packet { round.2.balancer } else { round.2.all } as f64)
    }
}

/// One contender in one case. The first seven are the names that the bench's other rows have.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    /// What was sent, by whom.
    pub(super) case: &'static str,
    /// What it went through.
    pub(super) program: &'static str,
    /// Flows, or `new`.
    pub(super) flows: &'static str,
    /// Nanoseconds on the clock per unit: median of the rounds.
    pub(super) median_ns: f64,
    /// Between the rounds' quartiles.
    pub(super) spread_ns: f64,
    /// Of the clock: to frames that are redirected and nothing else; of TCP to the direct way.
    pub(super) ratio_to_floor: f64,
    /// Of the clock, frames only: to the stateless floor.
    pub(super) ratio_to_stateless: Option<f64>,
    /// One of what.
    pub(super) unit: Unit,
    /// Units per second, median.
    pub(super) per_second: f64,
    /// CPU nanoseconds per unit: of frames the balancer's, else of client, balancer and server, kernel included.
    pub(super) cpu_ns: f64,
    /// Between the rounds' quartiles.
    pub(super) cpu_spread_ns: f64,
    /// CPU nanoseconds of the balancer alone; `None`: there is none.
    pub(super) balancer_ns: Option<f64>,
    /// As `ratio_to_floor`, of CPU time.
    pub(super) cpu_ratio_to_floor: f64,
    /// As `ratio_to_stateless`, of CPU time.
    pub(super) cpu_ratio_to_stateless: Option<f64>,
}

/// Everything that a run found out.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    /// CPUs of this machine.
    pub(super) cpus: usize,
    /// Its load before and after.
    pub(super) load: [f64; 2],
    /// All rows.
    pub(super) rows: Vec<Row>,
}

fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(f64::NAN)
}

impl Report {
    pub(super) fn begin() -> Self {
        Self { cpus: super::cpu::cpus().len(), load: [load(), f64::NAN], rows: vec![] }
    }

    pub(super) fn end(&mut self) {
        self.load[1] = load();
    }

    /// Rows of one case. `floor` and `stateless`: names among the series.
    pub(super) fn add(
        &mut self,
        case: &'static str,
        flows: &'static str,
        unit: Unit,
        all: Vec<Series>,
        floor: &str,
        stateless: Option<&str>,
    ) {
        let of = |name: &str| all.iter().find(|series| series.name == name);
        let Some(floor) = of(floor) else { return };
        let stateless = stateless.and_then(of);
        let rows: Vec<Row> = all
            .iter()
            .map(|series| {
                let (clock, cpu) = (series.clock(unit), series.cpu(unit));
                let spread = |values: &[f64]| quantile(values, 0.75) - quantile(values, 0.25);
                let balancer = median(&series.each(unit, |round| round.2.balancer as f64));
                Row {
                    case,
                    program: series.name,
                    flows,
                    median_ns: round(median(&clock)),
                    spread_ns: round(spread(&clock)),
                    ratio_to_floor: round(ratio(&clock, &floor.clock(unit))),
                    ratio_to_stateless: stateless.map(|other| round(ratio(&clock, &other.clock(unit)))),
                    unit,
                    per_second: round(1e9 / median(&clock)),
                    cpu_ns: round(median(&cpu)),
                    cpu_spread_ns: round(spread(&cpu)),
                    balancer_ns: (balancer > 0.0).then(|| round(balancer)),
                    cpu_ratio_to_floor: round(ratio(&cpu, &floor.cpu(unit))),
                    cpu_ratio_to_stateless: stateless.map(|other| round(ratio(&cpu, &other.cpu(unit)))),
                }
            })
            .collect();
        self.rows.extend(rows);
    }
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// The median of the rounds' ratios.
fn ratio(a: &[f64], b: &[f64]) -> f64 {
    median(&a.iter().zip(b).map(|(a, b)| a / b).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &'static str, seconds: &[f64], all: u64) -> Series {
        let rounds = seconds.iter().map(|s| (*s, 1000, Work { balancer: all / 2, all })).collect();
        Series { name, rounds }
    }

    #[test]
    fn a_slow_moment_of_the_machine_does_not_change_a_ratio() {
        let mut report = Report::begin();
        let all = vec![series("a", &[1.0, 9.0, 1.0], 500_000), series("b", &[2.0, 18.0, 2.0], 1_500_000)];
        report.add("x", "1", Unit::Request, all, "a", None);
        let b = &report.rows[1];
        assert_eq!((b.ratio_to_floor, b.cpu_ratio_to_floor), (2.0, 3.0));
        assert_eq!((b.median_ns, b.per_second, b.cpu_ns), (2e6, 500.0, 1500.0));
        assert_eq!(b.balancer_ns, Some(750.0));
    }

    #[test]
    fn what_has_no_balancer_tells_no_work_of_it() {
        let mut report = Report::begin();
        let direct = Series { name: "direct", rounds: vec![(1.0, 10, Work { balancer: 0, all: 10 })] };
        report.add("x", "1", Unit::Connection, vec![direct], "direct", None);
        assert_eq!(report.rows[0].balancer_ns, None);
    }
}
