//! About the chosen service: its rollout as a tree, and how long its handshakes take.

use ratatui::style::{Color, Style};
use ratatui::text::Line;

use super::model::Model;
use super::view::{bars, bold, coloured, percent};
use crate::rollout::report::{AnalysisReport, RolloutReport};

/// At most `room` lines; none where there is nothing to tell.
pub fn lines(model: &Model, room: usize) -> Vec<Line<'static>> {
    let times = handshakes(model);
    let mut lines = match model.rollout() {
        Some(rollout) => tree(rollout, room.saturating_sub(times.len())),
        None => Vec::new(),
    };
    lines.extend(times);
    lines.truncate(room);
    lines
}

/// The rollout, its steps, and below the present one what is measured and what it waits for. Where there is no room for all steps,
/// those around the present one are shown.
fn tree(rollout: &RolloutReport, room: usize) -> Vec<Line<'static>> {
    let held = [
        rollout.paused.as_ref().map(|who| format!(", paused {who}")),
        rollout.gate_closed.then(|| ", gate closed".to_owned()),
        rollout.stopped.as_ref().map(|why| format!(", {why}")),
        rollout.why.as_ref().map(|why| format!(": {why}")),
    ];
    let held: String = held.into_iter().flatten().collect();
    let head = format!(
        "ROLLOUT {} of {}: {} -> {}, {}, {} at {}{held}",
        rollout.id,
        rollout.service,
        rollout.stable,
        rollout.candidate,
        rollout.strategy,
        rollout.phase,
        percent(rollout.weight)
    );
    let style = match rollout.phase.as_str() {
        "frozen" | "rolling-back" => coloured(Color::Red),
        "rolled-back" => coloured(Color::Yellow),
        _ => bold(),
    };
    let mut below = Vec::new();
    let mut now = 0;
    let last = rollout.steps.len().saturating_sub(1);
    for (at, step) in rollout.steps.iter().enumerate() {
        let (mark, style) = match step.state.as_str() {
            "done" => ("done", coloured(Color::Green)),
            "now" => ("NOW ", bold()),
            _ => ("next", Style::new()),
        };
        let (branch, trunk) = if at == last { ("└─", "  ") } else { ("├─", "│ ") };
        below.push(Line::styled(format!(" {branch} {mark}  {}", step.what), style));
        if step.state == "now" {
            now = below.len();
            let waits = rollout.waits_for.iter().map(|what| format!("waits for {what}"));
            let twigs = rollout.analyses.iter().map(measured).chain(waits);
            below.extend(twigs.map(|twig| Line::from(format!(" {trunk}    └─ {twig}"))));
        }
    }
    let room = room.saturating_sub(1);
    // One step before the present one, and as many as fit after it.
    let skip = now.saturating_sub(2).min(below.len().saturating_sub(room));
    let shown = below.into_iter().skip(skip).take(room);
    std::iter::once(Line::styled(head, style)).chain(shown).collect()
}

fn measured(run: &AnalysisReport) -> String {
    let AnalysisReport { name, proven, count, failures, failure_limit, dry_run, last, .. } = run;
    let dry = if *dry_run { " (dry run)" } else { "" };
    let last = last.as_ref().map(|last| format!("; last {last}")).unwrap_or_default();
    format!(
        "{name}{dry}: {proven} successes here, {count} needed; {failures} failures, {failure_limit} tolerated{last}"
    )
}

/// Mean times of each version whose flows are followed, over the last reports.
fn handshakes(model: &Model) -> Vec<Line<'static>> {
    let Some(service) = model.chosen() else { return Vec::new() };
    let followed = service.versions.iter().filter(|version| version.signals.is_some());
    let lines = followed.map(|version| {
        let handshake = model.times(&service.name, &version.name, |signals| &signals.handshake);
        let first_byte = model.times(&service.name, &version.name, |signals| &signals.first_byte);
        Line::from(format!(
            "{}/{}  handshake {}   first byte {}",
            service.name,
            version.name,
            spark(&handshake),
            spark(&first_byte)
        ))
    });
    lines.collect()
}

/// `0.42 ms ▁▂▃`: the last one that is known, and all of them.
fn spark(times: &[Option<f64>]) -> String {
    let known: Vec<f64> = times.iter().flatten().copied().collect();
    match known.last() {
        Some(last) => format!("{:.2} ms {}", last * 1e3, bars(&known)),
        None => "-".to_owned(),
    }
}
