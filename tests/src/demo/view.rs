//! The live view: a table in place on a terminal, one line per second elsewhere.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Mutex;

use super::Options;
use super::stage::{Sample, Told};

/// Draws.
#[derive(Debug)]
pub struct View {
    terminal: bool,
    heading: String,
    /// No agent takes part.
    direct: bool,
    /// Lines of the table that stand on the terminal now.
    drawn: Mutex<usize>,
}

impl View {
    /// `terminal`: standard output can move its cursor.
    pub fn new(terminal: bool, options: &Options) -> Self {
        let heading = format!("forward {}, affinity {}", options.forward.name(), options.affinity.name());
        Self { terminal, heading, direct: options.direct, drawn: Mutex::new(0) }
    }

    /// Shows one moment; `turn` counts the samples.
    pub fn show(&self, turn: u64, act: &str, sample: &Sample, told: &Told) {
        if self.terminal {
            let mut text = table(&self.heading, act, sample, told);
            text.push_str(&agent_line(told, self.direct));
            self.write(&text, text.lines().count());
        } else if turn % 2 == 1 {
            println!("{}", line(act, sample, told));
        }
    }

    /// Prints a line that stays, above the table.
    pub fn say(&self, text: &str) {
        if self.terminal {
            self.write(&format!("{text}\n"), 0);
        } else {
            println!("{text}");
        }
    }

    fn write(&self, text: &str, stays: usize) {
        let mut drawn = self.drawn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut out = String::new();
        if *drawn > 0 {
            // Up to the table's first line, and clear from there.
            let _ = write!(out, "\x1b[{}A\x1b[J", *drawn);
        }
        out.push_str(text);
        *drawn = stays;
        let mut stdout = std::io::stdout().lock();
        // Nobody watches any more: not a reason to stop.
        let _ = stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush());
    }
}

fn clock(at_us: u64) -> String {
    let seconds = at_us / 1_000_000;
    format!("{:02}:{:02}", seconds / 60, seconds % 60)
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |s| format!("{:.2} %", s * 100.0))
}

/// Shares that the last half second's connections show, per version.
fn observed(sample: &Sample) -> [Option<f64>; 2] {
    let sum: f64 = sample.new_per_s.iter().sum();
    sample.new_per_s.map(|n| (sum > 0.0).then(|| n / sum))
}

/// No line is wider than 79 columns: one that wraps would spoil the redrawing.
fn table(heading: &str, act: &str, sample: &Sample, told: &Told) -> String {
    let c = &sample.counts;
    let mut out = format!("\n {}  {act:.70}\n        {heading}\n\n", clock(sample.at_us));
    out.push_str("          split of new connections             alive now\n");
    out.push_str("          asked      in table    observed      new/s  long-lived   UDP  entries\n");
    for (i, observed) in observed(sample).into_iter().enumerate() {
        let shares = told.shares(i);
        let _ = writeln!(
            out,
            "   v{}  {:>8}    {:>8}    {:>8}      {:>5.0}  {:>10}  {:>4}  {:>7}",
            i + 1,
            percent(shares.map(|s| s.0)),
            percent(shares.map(|s| s.1)),
            percent(observed),
            sample.new_per_s[i],
            sample.live_long[i],
            sample.live_udp[i],
            told.flows(i),
        );
    }
    let _ = writeln!(
        out,
        "\n   broken {}   moved {}   failed {}   UDP moved {}\n   so far: {} connections, {} lines, {} datagrams",
        c.long_broken, c.long_moved, c.short_failed, c.udp_moved, c.short_total, c.long_lines, c.udp_sent
    );
    out
}

fn agent_line(told: &Told, direct: bool) -> String {
    match told.entries() {
        _ if direct => String::new(),
        Some(entries) => format!("   agent: answers; flow table {entries} entries\n"),
        None => "   agent: away; the kernel goes on by itself\n".to_owned(),
    }
}

fn line(act: &str, sample: &Sample, told: &Told) -> String {
    let c = &sample.counts;
    let shares = told.shares(1);
    format!(
        "{}  {act:<40.40} | v2 asked {:>8} table {:>8} seen {:>8} | new/s {:>3.0}+{:<3.0} long {:>3}+{:<3} udp {:>2}+{:<2} entries {:>5} | broken {} \
         moved {} failed {} udp-moved {}",
        clock(sample.at_us),
        percent(shares.map(|s| s.0)),
        percent(shares.map(|s| s.1)),
        percent(observed(sample)[1]),
        sample.new_per_s[0],
        sample.new_per_s[1],
        sample.live_long[0],
        sample.live_long[1],
        sample.live_udp[0],
        sample.live_udp[1],
        told.entries().map_or_else(|| "-".to_owned(), |n| n.to_string()),
        c.long_broken,
        c.long_moved,
        c.short_failed,
        c.udp_moved,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::Counts;

    fn sample() -> Sample {
        Sample {
            at_us: 65_000_000,
            new_per_s: [375.0, 125.0],
            live_long: [300, 200],
            live_udp: [30, 20],
            counts: Counts { long_broken: 3, short_failed: 4, ..Counts::default() },
        }
    }

    fn told() -> Told {
        let versions = serde_json::json!([
            {"name": "v1", "asked": 0.75, "share": 0.7501, "flows": 7},
            {"name": "v2", "asked": 0.25, "share": 0.2499, "flows": 8}]);
        let status = serde_json::json!({"services": [{"name": "web", "versions": versions}], "flow_table": {"entries": 15}});
        Told { status }
    }

    #[test]
    fn the_table_shows_both_splits_and_what_broke() {
        let text = table("forward nat, affinity client", "act 3: 25 %", &sample(), &told());
        for part in ["01:05", "act 3: 25 %", "25.00 %", "24.99 %", "75.01 %", "broken 3", "failed 4"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(agent_line(&told(), false).contains("15 entries"));
        assert!(text.lines().all(|l| l.chars().count() < 80), "{text}");
    }

    #[test]
    fn without_an_agent_the_line_says_what_is_unknown() {
        let text = line("agent killed", &sample(), &Told::default());
        assert!(text.contains("asked        -"), "{text}");
        assert!(text.contains("seen  25.00 %"), "{text}");
    }
}
