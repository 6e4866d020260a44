//! From findings to a verdict that a newcomer understands, and to the JSON that a script reads. Pure.

use serde::Serialize;

use crate::traffic::{Counts, Incident};

/// Long-lived connections.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct LongLived {
    /// Opened.
    pub total: u64,
    /// Reset, cut, silent or answered wrongly.
    pub broken: u64,
    /// Answered by another backend than at first.
    pub moved: u64,
}

/// Short connections.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Short {
    /// Finished.
    pub total: u64,
    /// With any error.
    pub failed: u64,
}

/// UDP flows.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Udp {
    /// Opened.
    pub total: u64,
    /// Answered by another backend than at first.
    pub moved: u64,
}

/// One observed weight.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Step {
    /// v2's share as the agent says it was asked for.
    pub asked: f64,
    /// v2's share of the table.
    pub table_share: f64,
    /// v2's share of the new connections.
    pub observed: f64,
    /// New connections observed.
    pub n: u64,
    /// Clients (or connections, under affinity `flow`) whose version is not the one `explain` names.
    pub clients_off_explain: u64,
    /// Size of one group as a share: the table cannot be more exact.
    #[serde(skip)]
    pub group: f64,
}

impl Step {
    /// Under affinity `flow` each new connection is a draw of its own: more than five standard deviations off the table is not chance.
    fn is_no_accident(&self) -> bool {
        let p = self.table_share;
        #[expect(clippy::cast_precision_loss, reason = "connections of one run are far below 2^52")]
        let n = self.n.max(1) as f64;
        (self.observed - p).abs() > 5.0 * (p * (1.0 - p) / n).sqrt() + EPSILON
    }
}

/// What an act cost.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Cost {
    /// Long-lived connections broken or moved, and UDP flows moved.
    pub broken: u64,
    /// Short connections failed.
    pub failed: u64,
}

impl Cost {
    /// Of everything in `counts`.
    pub fn of(counts: &Counts) -> Self {
        Self { broken: counts.broken(), failed: counts.short_failed }
    }
}

/// How the drain went.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Drain {
    /// Milliseconds until it was drained.
    pub waited_ms: u64,
    /// Flows left.
    pub left: u64,
}

/// Everything found out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Findings {
    /// Forwarding mode.
    pub forward: &'static str,
    /// Affinity.
    pub affinity: &'static str,
    /// Long-lived connections.
    pub long_lived: LongLived,
    /// Short connections.
    pub short: Short,
    /// UDP flows.
    pub udp: Udp,
    /// The weights, in order.
    pub steps: Vec<Step>,
    /// Clients that returned to the old version while its weight only fell.
    pub flipped_back: u64,
    /// Median; null if not measured.
    pub shift_to_first_new_ms: Option<f64>,
    /// Median; null if not measured.
    pub rollback_ms: Option<f64>,
    /// The agent's death and return; null if not played.
    pub agent_killed: Option<Cost>,
    /// The agent's replacement; null if not played.
    pub upgrade: Option<Cost>,
    /// Null if not played.
    pub drain: Option<Drain>,
    /// The most entries of the flow table.
    pub flow_entries_peak: u64,
    /// All sums, for the text.
    #[serde(skip)]
    pub counts: Counts,
    /// What else went wrong: acts that could not be played, promises not kept.
    #[serde(skip)]
    pub problems: Vec<String>,
    /// When and where clients flipped back.
    #[serde(skip)]
    pub incidents: Vec<Incident>,
    /// No agent took part.
    #[serde(skip)]
    pub direct: bool,
}

/// The end of the show.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Nothing went wrong.
    pub passed: bool,
    /// One sentence.
    pub headline: String,
    /// Headline and details, several lines.
    pub text: String,
}

/// The targets for a median, in milliseconds. Told, not judged: a busy machine doubles them.
const FIRST_NEW_TARGET_MS: f64 = 5.0;

/// Rounding of shares on their way through text.
const EPSILON: f64 = 1e-9;

impl Findings {
    /// Every promise that was broken, in words.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut note = |n: u64, what: &str| {
            if n > 0 {
                faults.push(format!("{n} {what}"));
            }
        };
        note(self.long_lived.broken, "long-lived connections broke");
        note(self.long_lived.moved, "long-lived connections were answered by another backend");
        note(self.short.failed, "new connections failed");
        note(self.udp.moved, "UDP flows were answered by another backend");
        note(self.flipped_back, "clients returned to the old version while its weight only fell");
        note(
            self.counts.wrong_source,
            "connections reached their backend with another source address than the client's",
        );
        for step in &self.steps {
            let asked = step.asked * 100.0;
            note(
                step.clients_off_explain,
                &format!("clients at {asked} % met another version than `zdd explain` names"),
            );
        }
        let silent = self.counts.udp_total.saturating_sub(self.counts.udp_answered);
        note(silent, "UDP flows never got an answer");
        for step in &self.steps {
            if step.n == 0 {
                faults.push(format!("no new connection was observed at {:.2} %", step.asked * 100.0));
            } else if self.affinity == "flow" && step.is_no_accident() {
                faults.push(format!(
                    "at {:.2} % the observed {:.4} is no accident",
                    step.asked * 100.0,
                    step.observed
                ));
            }
            if (step.table_share - step.asked).abs() > step.group + EPSILON {
                faults.push(format!(
                    "asked for {:.4}, the table holds {:.6}: more than one group off",
                    step.asked, step.table_share
                ));
            }
        }
        if let Some(Drain { left, .. }) = self.drain
            && left > 0
        {
            faults.push(format!("{left} flows were left when the drain ended"));
        }
        if self.short.total == 0 || self.long_lived.total == 0 {
            faults.push("there was no traffic, so nothing is proved".to_owned());
        }
        faults.extend(self.problems.iter().cloned());
        faults
    }

    /// The end of the show.
    pub fn verdict(&self) -> Verdict {
        let faults = self.faults();
        let passed = faults.is_empty();
        let headline = match (passed, self.direct) {
            (true, false) => "PASSED: traffic moved from v1 to v2 and back, and nothing broke.".to_owned(),
            (true, true) => {
                "PASSED: without a balancer nothing broke; the machine is fit for the demo.".to_owned()
            }
            (false, _) => format!("FAILED: {}{}", faults[0], more(faults.len() - 1)),
        };
        let mut text = format!("{headline}\n\n");
        for fault in faults.iter().skip(usize::from(faults.len() == 1)) {
            text.push_str(&format!("  - {fault}\n"));
        }
        if faults.len() > 1 {
            text.push('\n');
        }
        text.push_str(&self.details());
        Verdict { passed, headline, text }
    }

    fn details(&self) -> String {
        let c = &self.counts;
        let mut lines = vec![
            format!(
                "{} long-lived connections exchanged {} lines: {} broken, {} moved to another backend.",
                self.long_lived.total, c.long_lines, self.long_lived.broken, self.long_lived.moved
            ),
            format!(
                "{} new connections: {} failed, {} slow (a SYN was repeated).",
                self.short.total, self.short.failed, c.short_slow
            ),
            format!(
                "{} UDP flows sent {} datagrams: {} flows moved, {} datagrams got no answer in time.",
                self.udp.total, c.udp_sent, self.udp.moved, c.udp_lost
            ),
            format!(
                "Every backend saw the clients' own addresses: {}.",
                if c.wrong_source == 0 { "yes" } else { "no" }
            ),
        ];
        if !self.steps.is_empty() {
            lines.push(String::new());
            lines.push("   asked   in table    observed   of new connections   off explain".to_owned());
            for step in &self.steps {
                let percent = |share: f64| format!("{:.2} %", share * 100.0);
                lines.push(format!(
                    "{:>8}   {:>8}    {:>8}   {:>18}   {:>11}",
                    percent(step.asked),
                    percent(step.table_share),
                    percent(step.observed),
                    step.n,
                    step.clients_off_explain
                ));
            }
            lines.push(String::new());
            if self.affinity != "flow" {
                lines.push(format!(
                    "Clients that fell back to the old version while its weight only fell: {}.",
                    self.flipped_back
                ));
            }
        }
        for (what, ms) in [("a shift", self.shift_to_first_new_ms), ("a rollback", self.rollback_ms)] {
            if let Some(ms) = ms {
                let word = if ms < FIRST_NEW_TARGET_MS { "target" } else { "MISSES the target" };
                lines.push(format!(
                    "From the end of {what} to the first connection by the new weights: {ms:.2} ms, median ({word}: under {FIRST_NEW_TARGET_MS:.0} ms)."
                ));
            }
        }
        for (what, cost) in [
            ("The agent was killed and restarted", self.agent_killed),
            ("The agent was replaced by another build", self.upgrade),
        ] {
            if let Some(Cost { broken, failed }) = cost {
                lines.push(format!("{what}: {broken} broken, {failed} failed."));
            }
        }
        if let Some(Drain { waited_ms, left }) = self.drain {
            lines.push(format!(
                "v1 was drained after {:.1} s with {left} flows left.",
                std::time::Duration::from_millis(waited_ms).as_secs_f64()
            ));
        }
        if !self.direct {
            lines.push(format!("The flow table held at most {} entries.", self.flow_entries_peak));
        }
        lines.iter().map(|l| format!("  {l}").trim_end().to_owned() + "\n").collect()
    }

    /// One line of JSON.
    pub fn json(&self, verdict: &Verdict) -> String {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        value["verdict"] = verdict.headline.clone().into();
        value.to_string()
    }
}

fn more(n: usize) -> String {
    match n {
        0 => ".".to_owned(),
        1 => ", and one thing more.".to_owned(),
        n => format!(", and {n} things more."),
    }
}

/// The middle one, or the mean of the middle two.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
