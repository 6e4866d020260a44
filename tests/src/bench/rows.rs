//! From times to rows: medians, spreads, ratios.

use anyhow::{Result, ensure};
use aya::programs::ProgramFd;
use serde::Serialize;

use super::Objects;
use super::cases::{self, Case, State};
use super::lab::{BASE, FLOORS, Lab, OURS, Size};
use super::lines::{self, Lines};
use super::measure::{Measured, PEER, Series, measure};
use super::memory::{self, Memory};
use super::options::Options;
use super::targets::{self, Target};

/// One program in one case.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// See [`Case::name`].
    pub case: String,
    /// The program.
    pub program: String,
    /// Number of flows, or `new`.
    pub flows: String,
    /// Nanoseconds per packet, driver included: median of the rounds.
    pub median_ns: f64,
    /// Between the rounds' quartiles.
    pub spread_ns: f64,
    /// To parse + MAC swap; of what is not for a VIP, to parse + VIP lookup + pass.
    pub ratio_to_floor: f64,
    /// To the stateless floor.
    pub ratio_to_stateless: Option<f64>,
    /// Nanoseconds above the driver with XDP_TX at once.
    pub net_ns: f64,
    /// [`Row::ratio_to_floor`] without the driver.
    pub net_ratio_to_floor: Option<f64>,
    /// [`Row::ratio_to_stateless`] without the driver.
    pub net_ratio_to_stateless: Option<f64>,
    /// Of ours: to the same case over IPv4, or with one service.
    pub ratio_to_peer: Option<f64>,
    /// Of ours: to the other revision.
    pub ratio_to_base: Option<f64>,
    /// Of ours: what most packets were counted as.
    pub reason: Option<&'static str>,
    /// Of ours: cache lines that a packet touches.
    pub lines: Option<Lines>,
}

/// Everything that a run found out.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How large the programs are.
    pub sizes: Vec<Size>,
    /// The driver's own cost, ns: median over cases of the driver with XDP_TX at once.
    pub driver_ns: f64,
    /// What memory costs.
    pub memory: Vec<Memory>,
    /// Rounds of each case.
    pub rounds: usize,
    /// All rows.
    pub rows: Vec<Row>,
    /// What was aimed at, and what was reached.
    pub targets: Vec<Target>,
    /// Cases in which ours is more than 10 % slower than the other revision.
    pub slower: Vec<String>,
}

/// From here on a difference is no noise.
const SLOWER: f64 = 1.10;

/// Measures all cases asked for.
pub(super) fn all(objects: &Objects, other: Option<&ProgramFd>, options: &Options) -> Result<Report> {
    let cases: Vec<Case> = cases::all()
        .into_iter()
        .filter(|case| options.wants(&format!("{} {}", case.name(), case.flows())))
        .collect();
    ensure!(!cases.is_empty(), "no case is named so; --list names all");
    let (mut rows, mut slower, mut driver) = (vec![], vec![], vec![]);
    let mut labs: Vec<(u32, Lab)> = vec![];
    for (n, case) in cases.iter().enumerate() {
        let entries = case.entries();
        if labs.iter().all(|(size, _)| *size != entries) {
            labs.push((entries, Lab::new(objects, other, entries)?));
        }
        let Some((_, lab)) = labs.iter_mut().find(|(size, _)| *size == entries) else { continue };
        eprint!("\r\x1b[K{}/{} {}, {} flows", n + 1, cases.len(), case.name(), case.flows());
        let mut measured = measure(lab, case, options)?;
        if exceeds(&measured) {
            // A second look, twice as long: a neighbour's burst is not a regression.
            let longer = Options { rounds: Some(2 * options.rounds()), ..options.clone() };
            measured = measure(lab, case, &longer)?;
            if exceeds(&measured) {
                slower.push(format!("{}, {} flows", case.name(), case.flows()));
            }
        }
        driver.extend(measured.of(FLOORS[0]).map(|tx| median(&tx.ns)));
        rows.extend(of_case(case, &measured));
    }
    eprint!("\r\x1b[K");
    let targets = targets::reached(&rows);
    let driver_ns = median(&driver);
    let sizes = labs.first().map(|(_, lab)| lab.sizes.clone()).unwrap_or_default();
    let memory = memory::measure()?;
    Ok(Report { sizes, driver_ns, memory, rounds: options.rounds(), rows, targets, slower })
}

fn exceeds(measured: &Measured) -> bool {
    match (measured.of(OURS), measured.of(BASE)) {
        (Some(ours), Some(base)) => ratio(ours, base) > SLOWER,
        _ => false,
    }
}

fn of_case(case: &Case, measured: &Measured) -> Vec<Row> {
    let not_vip = case.state == State::NotVip;
    let (Some(tx), Some(floor)) = (measured.of("tx"), measured.of(if not_vip { "pass" } else { "mac" }))
    else {
        return vec![];
    };
    let stateless = measured.of("stateless");
    let ours = |series: &Series, other| {
        let other = measured.of(other).filter(|_| series.name == OURS)?;
        Some(ratio(series, other))
    };
    measured
        .series
        .iter()
        .filter(|series| series.name != PEER)
        .map(|series| Row {
            case: case.name(),
            program: series.name.clone(),
            flows: case.flows(),
            median_ns: round(median(&series.ns)),
            spread_ns: round(quantile(&series.ns, 0.75) - quantile(&series.ns, 0.25)),
            ratio_to_floor: round(ratio(series, floor)),
            ratio_to_stateless: stateless.map(|floor| round(ratio(series, floor))),
            net_ns: round(net(series, tx)),
            net_ratio_to_floor: net_ratio(series, floor, tx),
            net_ratio_to_stateless: stateless.and_then(|floor| net_ratio(series, floor, tx)),
            ratio_to_peer: ours(series, PEER).map(round),
            ratio_to_base: ours(series, BASE).map(round),
            reason: (series.name == OURS).then_some(measured.reason),
            lines: (series.name == OURS).then(|| lines::count(case)),
        })
        .collect()
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// The median of the rounds' ratios.
fn ratio(a: &Series, b: &Series) -> f64 {
    median(&a.ns.iter().zip(&b.ns).map(|(a, b)| a / b).collect::<Vec<_>>())
}

fn net(a: &Series, driver: &Series) -> f64 {
    median(&a.ns.iter().zip(&driver.ns).map(|(a, driver)| a - driver).collect::<Vec<_>>())
}

/// `None` where the floor itself is too near to nothing.
fn net_ratio(a: &Series, floor: &Series, driver: &Series) -> Option<f64> {
    let floor = net(floor, driver);
    (floor >= 1.0).then(|| round(net(a, driver) / floor))
}

pub(super) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Linear between the neighbours; NaN of nothing.
pub(super) fn quantile(values: &[f64], at: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = at * sorted.len().saturating_sub(1) as f64;
    let (low, high) = (sorted.get(place as usize), sorted.get(place.ceil() as usize));
    match (low, high) {
        (Some(low), Some(high)) => low + (high - low) * place.fract(),
        _ => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(ns: &[f64]) -> Series {
        Series { name: "x".into(), ns: ns.to_vec() }
    }

    #[test]
    fn a_slow_moment_of_the_machine_does_not_change_a_ratio() {
        let (a, b) = (series(&[30.0, 31.0, 90.0, 29.0, 30.0]), series(&[20.0, 20.0, 60.0, 20.0, 20.0]));
        assert!((ratio(&a, &b) - 1.5).abs() < 0.01);
    }

    #[test]
    fn the_driver_is_taken_off_both_sides() {
        let (a, floor, driver) = (series(&[50.0; 3]), series(&[30.0; 3]), series(&[10.0; 3]));
        assert_eq!(net_ratio(&a, &floor, &driver), Some(2.0));
        assert_eq!(net_ratio(&a, &driver, &driver), None);
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        assert_eq!(quantile(&[4.0, 1.0, 3.0, 2.0], 0.5), 2.5);
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 1.0), 3.0);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
