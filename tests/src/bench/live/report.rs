//! The report as text.

use std::fmt::Write as _;

use super::rows::{Report, Row, Unit};

/// The whole report.
pub(super) fn table(report: &Report) -> String {
    let mut text = String::new();
    write(&mut text, report).expect("a String takes everything");
    text
}

fn write(text: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(
        text,
        "Ratios first: they hold on a busy machine, times do not. Less is better. \"CPU\" is CPU time, the rest is the clock.\n\
         {} CPUs, load {:.1} before and {:.1} after. Medians of the rounds, quartiles' distance as +-.",
        report.cpus, report.load[0], report.load[1]
    )?;
    let mut last = "";
    for row in &report.rows {
        if last != row.case {
            head(text, row)?;
            last = row.case;
        }
        writeln!(
            text,
            "{:<34} {:>8.2} {:>8.2}  {:>8} {:>8}  {:>12} {:>10} {:>12} {:>9} {:>12}",
            row.program,
            row.ratio_to_floor,
            row.cpu_ratio_to_floor,
            one(row.ratio_to_stateless),
            one(row.cpu_ratio_to_stateless),
            rate(row),
            percent(row.spread_ns / row.median_ns),
            time(row.cpu_ns, row.unit),
            percent(row.cpu_spread_ns / row.cpu_ns),
            row.balancer_ns.map_or_else(String::new, |ns| time(ns, row.unit)),
        )?;
    }
    writeln!(
        text,
        "\nCPU of frames: of the balancer's receiving thread. CPU of TCP: client, server, balancer, and the threads that receive for all\n\
         interfaces; \"balancer\" is its processes and its interfaces' threads alone. Frames are sent by XDP (live frames), without a socket."
    )
}

fn head(text: &mut String, row: &Row) -> std::fmt::Result {
    let (floor, per) = match row.unit {
        Unit::Packet => ("redirect", "packet"),
        Unit::Gigabyte => ("direct", "GB"),
        Unit::Request => ("direct", "request"),
        Unit::Connection => ("direct", "connection"),
    };
    let stateless = if row.unit == Unit::Packet { ["to st'less", "CPU"] } else { ["", ""] };
    writeln!(
        text,
        "\n{:<34} {:>8} {:>8}  {:>8} {:>8}  {:>12} {:>10} {:>12} {:>9} {:>12}",
        format!("{}, {} flows", row.case, row.flows),
        format!("to {floor}"),
        "CPU",
        stateless[0],
        stateless[1],
        "rate",
        "+-",
        format!("CPU/{per}"),
        "+-",
        "balancer"
    )
}

fn one(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| format!("{value:.2}"))
}

fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

fn rate(row: &Row) -> String {
    match row.unit {
        Unit::Packet => format!("{:.2} Mpps", row.per_second / 1e6),
        Unit::Gigabyte => format!("{:.2} Gbit/s", row.per_second * 8.0),
        Unit::Request | Unit::Connection => format!("{:.1} k/s", row.per_second / 1e3),
    }
}

fn time(ns: f64, unit: Unit) -> String {
    match unit {
        Unit::Packet => format!("{ns:.0} ns"),
        Unit::Gigabyte => format!("{:.2} s", ns / 1e9),
        Unit::Request | Unit::Connection => format!("{:.1} us", ns / 1e3),
    }
}
