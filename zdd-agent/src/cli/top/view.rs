//! From the model to the screen; nothing else.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row as TableRow, Table, TableState, Wrap};

use super::details;
use super::model::{Dialog, Model, Row, service};
use crate::report::{Health, Role, ServiceStatus, Status, VersionStatus};

const KEYS: &str = "q quit  up/down choose  s shift  d drain  u undrain  r rollback  ? help";
/// The same for 40 columns: `?` tells the rest.
const FEW_KEYS: &str = "q quit  s shift  r rollback  ? more keys";
const HELP: &str = "\
ASKED     share of new flows that was asked for
TABLE     share of the cells that the version really has
OBSERVED  share of the new flows of the last ten seconds
NEW/s     packets that began a flow, per second
PKT/s     packets, per second
LIVE      remembered flows: exact while cells change, 0 in steady state

s  shift the chosen version to a weight   d  drain it
u  undrain it                             r  roll its service back
up, down (k, j)  choose                   q  quit

Each asks first, and says what it would move.
Any key closes this.";

pub(super) fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

pub(super) fn coloured(colour: Color) -> Style {
    Style::new().fg(colour)
}

/// Lines below which only the tables and one line each above and below them are shown.
const ROOM: u16 = 12;

/// Draws everything that there is room for.
pub fn draw(model: &Model, frame: &mut Frame<'_>) {
    let area = frame.area();
    let roomy = area.height >= ROOM;
    let reasons = model.status().map_or(0, |status| status.reasons.values().filter(|n| **n > 0).count());
    let lines = if area.width < TWO_REASONS { reasons } else { reasons.div_ceil(2) };
    let counted = if roomy { (lines as u16 + 1).min(area.height / 4) } else { 0 };
    let details = if roomy { details::lines(model, usize::from(area.height / 3)) } else { Vec::new() };
    let edge = if roomy { 2 } else { 1 };
    let [head, main, told, counts, foot] = Layout::vertical([
        Constraint::Length(edge),
        Constraint::Min(1),
        Constraint::Length(details.len() as u16),
        Constraint::Length(counted),
        Constraint::Length(edge),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(header(model)), head);
    services(model, frame, main);
    frame.render_widget(Paragraph::new(details), told);
    frame.render_widget(Paragraph::new(packets(model, usize::from(counted), area.width)), counts);
    frame.render_widget(Paragraph::new(footer(model, roomy, area.width)), foot);
    if let Some(dialog) = &model.dialog {
        popup(dialog, frame);
    }
}

fn header(model: &Model) -> Vec<Line<'static>> {
    let mut first = match model.status() {
        Some(status) => vec![
            Span::styled(format!("zdd {}", status.build), bold()),
            format!("  pid {}  ", status.pid).into(),
        ],
        None => vec![Span::styled("zdd", bold()), "  ".into()],
    };
    first.push(match &model.lost {
        Some(why) => Span::styled(format!("NO AGENT, reconnecting: {why}"), coloured(Color::Red)),
        None => Span::styled("connected", coloured(Color::Green)),
    });
    let second = model.status().map(|status| {
        let (table, filter) = (&status.flow_table, &status.syn_filter);
        let off = status.interfaces.iter().filter(|interface| !interface.attached).count();
        // Before what may be cut off.
        let interfaces = if off == 0 { String::new() } else { format!("INTERFACES NOT ATTACHED: {off}  ") };
        let snat = status.snat.iter().map(|pool| {
            let family = if pool.sources.iter().any(|source| source.contains(':')) { "6" } else { "" };
            format!("  snat{family} {}/{}", pool.live + pool.finished, pool.capacity)
        });
        let rest = format!(
            "flows {} of {} ({} half-open)  syn filter {:.1}%{}",
            table.entries,
            table.capacity,
            table.half,
            filter.fill * 100.0,
            snat.collect::<String>()
        );
        Line::from(vec![Span::styled(interfaces, coloured(Color::Red)), rest.into()])
    });
    vec![Line::from(first), second.unwrap_or_default()]
}

pub(super) fn percent(fraction: f64) -> String {
    format!("{:.2}%", fraction * 100.0)
}

/// `12.3`, `4.6k`, `7.8M`: as wide as six letters at the most.
fn short(rate: f64) -> String {
    match rate {
        r if r >= 1e6 => format!("{:.1}M", r / 1e6),
        r if r >= 1e4 => format!("{:.1}k", r / 1e3),
        r if r >= 100.0 || r == 0.0 => format!("{r:.0}"),
        r => format!("{r:.1}"),
    }
}

/// Bars for the points, the highest as high as a line.
pub(super) fn bars(points: &[f64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = points.iter().copied().fold(0.0, f64::max);
    let bar = |point: &f64| match most {
        0.0 => BARS[0],
        _ => BARS[((point / most * 7.0).round() as usize).min(7)],
    };
    points.iter().map(bar).collect()
}

/// The columns, the narrowest terminal that has room for them, and their widths; the first is as wide as names are, the last takes
/// what is left: on 80 columns enough for a backend that fails.
const COLUMNS: [(&str, u16, u16); 9] = [
    ("SERVICE", 0, 0),
    ("ROLE", ROLE_FROM, 9),
    ("ASKED", 0, 8),
    ("TABLE", 56, 8),
    ("OBSERVED", 56, 9),
    ("NEW/s", 72, 7),
    ("PKT/s", 96, 7),
    ("LIVE", 80, 7),
    ("HEALTH", 32, 0),
];
const ROLE_FROM: u16 = 104;

fn services(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let Some(status) = model.status() else { return };
    let shown: Vec<usize> = (0..COLUMNS.len()).filter(|at| area.width >= COLUMNS[*at].1).collect();
    // Two services must not look alike because their names are cut at the same letter, as far as there is room.
    let versions = status.services.iter().flat_map(|service| &service.versions);
    let names = status.services.iter().map(|service| service.name.len());
    let longest = names.chain(versions.map(|version| version.name.len() + 2)).max().unwrap_or(0) as u16;
    let most =
        if area.width < 80 { area.width.saturating_sub(11).clamp(4, 18) } else { (area.width / 4).max(18) };
    let least = if area.width < ROLE_FROM { 7 } else { 18 };
    let names = Constraint::Length(longest.clamp(least.min(most), most) + 2);
    let widths = shown.iter().map(|at| match COLUMNS[*at] {
        ("SERVICE", ..) => names,
        ("HEALTH", ..) => Constraint::Fill(1),
        (_, _, width) => Constraint::Length(width),
    });
    let rows = model.rows().into_iter().filter_map(|row| {
        let cells = match row {
            Row::Service(at) => service_row(model, status.services.get(at)?),
            Row::Version(at, version) => {
                let service = status.services.get(at)?;
                version_row(model, service, service.versions.get(version)?, area.width < ROLE_FROM)
            }
        };
        let cells = cells.into_iter().enumerate().filter(|(at, _)| shown.contains(at));
        Some(TableRow::new(cells.map(|(_, cell)| cell)))
    });
    let heads = shown.iter().map(|at| COLUMNS[*at].0);
    let table = Table::new(rows, widths)
        .header(TableRow::new(heads).style(bold()))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .highlight_symbol("> ");
    let mut state = TableState::new().with_selected(Some(model.selected));
    frame.render_stateful_widget(table, area, &mut state);
}

fn service_row(model: &Model, of: &ServiceStatus) -> [Line<'static>; COLUMNS.len()] {
    let name = of.name.clone();
    let rate = |total: fn(&ServiceStatus) -> u64| {
        short(model.rate(|status| service(status, &name).map_or(0, total)))
    };
    let live: u64 = of.versions.iter().map(|version| version.flows).sum();
    let settled = match of.dirty_cells {
        0 => "settled".to_owned(),
        dirty => format!("{dirty} cells not settled"),
    };
    let refused = |s: &ServiceStatus| s.counters.denied + s.counters.limited + s.counters.no_backend;
    let away = model.rate(|status| service(status, &name).map_or(0, refused));
    let settled = if away > 0.0 { format!("{}/s turned away, {settled}", short(away)) } else { settled };
    let (health, style) = match &of.alarm {
        Some(alarm) => (format!("ALARM: {alarm}"), coloured(Color::Red)),
        None => (format!("{} {settled}", bars(&model.history(&of.name))), Style::new()),
    };
    [
        Line::styled(of.name.clone(), bold()),
        Line::from(format!("gen {}", of.generation)),
        Line::from(""),
        Line::from(""),
        Line::from(""),
        Line::from(rate(|s| s.counters.new_flows)),
        Line::from(rate(|s| s.counters.packets)),
        Line::from(live.to_string()),
        Line::styled(health, style),
    ]
}

/// `roleless`: its column is not shown, and what matters of it must be told elsewhere.
fn version_row(
    model: &Model,
    of: &ServiceStatus,
    version: &VersionStatus,
    roleless: bool,
) -> [Line<'static>; COLUMNS.len()] {
    let (service_name, name) = (of.name.clone(), version.name.clone());
    let rate = |total: fn(&VersionStatus) -> u64| {
        let find = |status: &Status| {
            let versions = &service(status, &service_name)?.versions;
            versions.iter().find(|v| v.name == name).map(total)
        };
        short(model.rate(|status| find(status).unwrap_or(0)))
    };
    let role = match version.role {
        _ if version.draining => "draining",
        Role::Stable => "stable",
        Role::Candidate => "candidate",
    };
    let (health, colour) = health(version);
    let health = if roleless && version.draining { format!("draining, {health}") } else { health };
    [
        Line::from(format!("  {name}")),
        Line::from(role),
        Line::from(percent(version.asked)),
        Line::from(percent(version.share)),
        Line::from(model.observed(of, version).map_or("-".to_owned(), percent)),
        Line::from(rate(|v| v.new_flows)),
        Line::from(rate(|v| v.packets)),
        Line::from(version.flows.to_string()),
        Line::styled(health, coloured(colour)),
    ]
}

/// How many are healthy, and the last failure of the first that is not.
fn health(version: &VersionStatus) -> (String, Color) {
    let all = version.backends.len();
    let ill: Vec<_> = version.backends.iter().filter(|b| b.health == Health::Unhealthy).collect();
    match ill.first() {
        None if all == 0 => ("no backend".to_owned(), Color::Red),
        None => (format!("{all}/{all}"), Color::Green),
        Some(first) => {
            let why = first.reason.as_deref().unwrap_or("no reason told");
            (format!("{}/{all} {}: {why}", all - ill.len(), first.address), Color::Red)
        }
    }
}

/// The narrowest terminal on which two reasons stand beside each other with their numbers.
const TWO_REASONS: u16 = 78;

/// Reasons that packets have ended with, those that come fastest first, in two columns where there is room for both.
fn packets(model: &Model, height: usize, width: u16) -> Vec<Line<'static>> {
    let Some(status) = model.status() else { return Vec::new() };
    let mut all: Vec<(f64, u64, &str)> = status
        .reasons
        .iter()
        .filter(|(_, total)| **total > 0)
        .map(|(name, total)| {
            (model.rate(|status| status.reasons.get(name).copied().unwrap_or(0)), *total, name.as_str())
        })
        .collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(a.2.cmp(b.2)));
    let two = width >= TWO_REASONS;
    let (name, total, gap) = if width < 100 { (19, 10, "  ") } else { (26, 12, "   ") };
    let cells = |first: &str, rate: &str, all: &str| format!("{first:<name$} {rate:>7} {all:>total$}");
    let second = if two { cells("", "/s", "TOTAL") } else { String::new() };
    let head = format!("{}{gap}{second}", cells("PACKETS", "/s", "TOTAL"));
    let mut lines = vec![Line::styled(head, bold())];
    let left = height.saturating_sub(1).max(1);
    let text = |(rate, total, name): &(f64, u64, &str)| cells(name, &short(*rate), &total.to_string());
    for at in 0..left.min(all.len()) {
        let second = all.get(at + left).filter(|_| two).map(text).unwrap_or_default();
        lines.push(Line::from(format!("{}{gap}{second}", text(&all[at]))));
    }
    lines
}

fn footer(model: &Model, roomy: bool, width: u16) -> Vec<Line<'static>> {
    let chosen = model.rows().get(model.selected).copied().zip(model.status());
    let note = chosen.and_then(|(row, status)| {
        let (Row::Service(at) | Row::Version(at, _)) = row;
        let service = status.services.get(at)?;
        if let Row::Version(_, version) = row {
            // In full: its column may be too narrow for the reason.
            let version = service.versions.get(version)?;
            let (text, colour) = health(version);
            return (colour == Color::Red).then(|| format!("{}/{}: {text}", service.name, version.name));
        }
        service.notes.first().map(|note| format!("{}: {note}", service.name))
    });
    let keys = if usize::from(width) < KEYS.len() { FEW_KEYS } else { KEYS };
    let keys = Line::styled(keys, Style::new().add_modifier(Modifier::DIM));
    let message = Line::from(model.message.clone().or(note).unwrap_or_default());
    // Where there is room for one, what was just said counts more.
    if roomy || message.width() > 0 { vec![message, keys] } else { vec![keys] }
}

fn popup(dialog: &Dialog, frame: &mut Frame<'_>) {
    let (title, text) = match dialog {
        Dialog::Weight { service, version, input, wrong } => (
            " shift ",
            format!(
                "new weight of {service}/{version}: {input}_ %\n{}\nEnter goes on, Esc gives up",
                wrong.as_deref().unwrap_or("the others share what is left")
            ),
        ),
        Dialog::Confirm { action, prospect } => (
            " sure? ",
            format!("{}\n{}\ny does it, n gives up", action.command(), prospect.as_deref().unwrap_or("...")),
        ),
        Dialog::Help => (" help ", HELP.to_owned()),
    };
    let area = frame.area();
    let longest = text.lines().map(|line| line.chars().count()).max().unwrap_or(0) as u16;
    let width = (longest + 4).min(area.width);
    let inner = usize::from(width.saturating_sub(4)).max(1);
    // What is asked must be readable before it is answered: long lines go on below.
    let wrapped: usize = text.lines().map(|line| line.chars().count().div_ceil(inner).max(1)).sum();
    // Words are kept whole, which may take one more.
    let slack = usize::from(wrapped > text.lines().count());
    let height = ((wrapped + slack) as u16 + 2).min(area.height);
    let place =
        Rect::new(area.x + (area.width - width) / 2, area.y + (area.height - height) / 2, width, height);
    frame.render_widget(Clear, place);
    let block = Block::bordered().title(title).padding(ratatui::widgets::Padding::horizontal(1));
    frame.render_widget(Paragraph::new(text).block(block).wrap(Wrap { trim: false }), place);
}
