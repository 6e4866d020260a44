//! Reports as text: aligned columns, and colours only where somebody looks.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::commands::Listed;
use crate::events::Event;
use crate::report::{
    ApplyReport, BackendState, BackendStatus, ChangeReport, DetachReport, DrainReport, Explain, Health,
    NewPerSourceStatus, Op, Quota, Role, ServiceStatus, ShiftReport, Status,
};

/// The colours that mean something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colour {
    None,
    Red,
    Green,
    Yellow,
    Bold,
}

fn paint(text: &str, colour: Colour, colours: bool) -> String {
    let code = match colour {
        Colour::None => return text.to_owned(),
        Colour::Red => 31,
        Colour::Green => 32,
        Colour::Yellow => 33,
        Colour::Bold => 1,
    };
    if colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// One cell; numbers are aligned to the right.
#[derive(Clone)]
struct Field {
    text: String,
    colour: Colour,
    right: bool,
}

fn word(text: impl Into<String>) -> Field {
    Field { text: text.into(), colour: Colour::None, right: false }
}

fn coloured(text: impl Into<String>, colour: Colour) -> Field {
    Field { text: text.into(), colour, right: false }
}

fn number(text: impl ToString) -> Field {
    Field { text: text.to_string(), colour: Colour::None, right: true }
}

/// Aligns rows below their heads, two blanks between columns, `indent` before.
fn grid(heads: &[&str], rows: Vec<Vec<Field>>, indent: &str, colours: bool) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|field| field.text.chars().count());
        cells.chain([heads[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let right = |column: usize| rows.first().and_then(|row| row.get(column)).is_some_and(|field| field.right);
    let head = heads.iter().enumerate().map(|(column, head)| Field {
        text: (*head).to_owned(),
        colour: Colour::Bold,
        right: right(column),
    });
    let mut out = String::new();
    for row in std::iter::once(head.collect::<Vec<_>>()).chain(rows) {
        let mut line = indent.to_owned();
        for (column, field) in row.iter().enumerate() {
            let fill = " ".repeat(widths[column] - field.text.chars().count());
            let text = paint(&field.text, field.colour, colours);
            let gap = if column + 1 < row.len() { "  " } else { "" };
            let cell = if field.right { format!("{fill}{text}{gap}") } else { format!("{text}{fill}{gap}") };
            line.push_str(&cell);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A fraction as a percentage with two decimals.
fn share(fraction: f64) -> String {
    format!("{:.2}%", fraction * 100.0)
}

/// Bytes with a binary unit.
fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} PiB")
}

fn duration(ms: u64) -> String {
    if ms < 1000 { format!("{ms} ms") } else { format!("{}.{} s", ms / 1000, ms % 1000 / 100) }
}

fn lines(kind: &str, items: &[String]) -> String {
    items.iter().map(|item| format!("  {kind}: {item}\n")).collect()
}

/// `zdd status`.
pub fn status(status: &Status, colours: bool) -> String {
    let mut out = format!("zdd {}, pid {}\n", status.build, status.pid);
    for each in &status.services {
        out.push('\n');
        out.push_str(&service(each, colours));
    }
    let table = &status.flow_table;
    let quota = |quota: Quota| format!("{}/{}", quota.used, quota.limit);
    let _ = write!(
        out,
        "\nflow table: {} of {} entries ({} half-open, {} established, {} dead); quotas: half {}, learned {}, promoted {}\n",
        table.entries,
        table.capacity,
        table.half,
        table.established,
        table.dead,
        quota(table.quotas.half),
        quota(table.quotas.learned),
        quota(table.quotas.promoted)
    );
    let filter = status.syn_filter;
    let _ = writeln!(out, "syn filter: {}, {} full", bytes(filter.bytes), share(filter.fill));
    for snat in &status.snat {
        let _ = writeln!(
            out,
            "snat from {} ports {}: {} of {} in use ({} live, {} ended), {} at most towards one backend",
            snat.sources.join(", "),
            snat.ports,
            snat.live + snat.finished,
            snat.capacity,
            snat.live,
            snat.finished,
            snat.per_backend
        );
    }
    out.push_str(&packets(&status.reasons, colours));
    for interface in &status.interfaces {
        let mode = format!("{:?}", interface.mode).to_lowercase();
        let attached = match interface.attached {
            true => paint("attached", Colour::Green, colours),
            false => paint("not attached", Colour::Red, colours),
        };
        let note = interface.note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
        let _ = writeln!(out, "interface {} ({}): {attached}, {mode}{note}", interface.name, interface.index);
    }
    out
}

/// Packets by reason, those that were met; what was dropped has a line of its own, because that is what one looks for.
fn packets(reasons: &BTreeMap<String, u64>, colours: bool) -> String {
    let met = |dropped: bool| -> Vec<String> {
        let met = reasons.iter().filter(|(name, count)| **count > 0 && name.starts_with("drop_") == dropped);
        met.map(|(name, count)| format!("{name} {count}")).collect()
    };
    let line = |what: &str, met: Vec<String>| match met.as_slice() {
        [] => format!("{what}: none\n"),
        met => format!("{what}: {}\n", met.join(", ")),
    };
    let (passed, dropped) = (met(false), met(true));
    let lost = if dropped.is_empty() { Colour::None } else { Colour::Yellow };
    line("packets", passed) + &line(&paint("dropped", lost, colours), dropped)
}

fn service(service: &ServiceStatus, colours: bool) -> String {
    let settled = match service.dirty_cells {
        0 => "settled".to_owned(),
        dirty => format!("{dirty} not settled"),
    };
    let mut out = format!(
        "{}  {}  {}  {}  generation {}  {} cells in {} groups, {settled}\n",
        paint(&service.name, Colour::Bold, colours),
        service.vips.join(", "),
        service.affinity,
        service.forward,
        service.generation,
        service.cells,
        service.groups
    );
    if let Some(alarm) = &service.alarm {
        let _ = writeln!(out, "  {}: {alarm}", paint("ALARM", Colour::Red, colours));
    }
    out.push_str(&lines("note", &service.notes));
    if let Some(preview) = &service.preview {
        let version = preview.version.as_deref().unwrap_or("nobody");
        let _ = writeln!(out, "  preview {}: new flows go to {version}", preview.vips.join(", "));
        if let Some(alarm) = &preview.alarm {
            let _ = writeln!(out, "  {}: {alarm}", paint("preview", Colour::Yellow, colours));
        }
    }
    for cohort in &service.cohorts {
        let goes = match &cohort.version {
            Some(version) => format!("new flows go to {version}"),
            None => "new flows go by the weights".to_owned(),
        };
        let _ = writeln!(
            out,
            "  cohort {} ({} {}): {goes}",
            cohort.name,
            cohort.prefixes,
            prefixes(cohort.prefixes)
        );
    }
    // The reason is that of all of them.
    if let Some(waits) = service.cohorts.iter().find_map(|cohort| cohort.waits.as_deref()) {
        let _ = writeln!(out, "  {}: {waits}", paint("members of cohorts wait", Colour::Yellow, colours));
    }
    let counters = &service.counters;
    let _ = writeln!(
        out,
        "  {} packets, {}; {} new flows, {} learned, {} not remembered",
        counters.packets,
        bytes(counters.bytes),
        counters.new_flows,
        counters.learned,
        counters.insert_failed
    );
    let turned_away = [
        (counters.denied, "denied"),
        (counters.limited, "over the limit of new connections"),
        (counters.no_backend, "without any backend"),
        (counters.fallback, "sent as before for want of room"),
    ];
    let turned_away = turned_away.iter().filter(|(packets, _)| *packets > 0);
    let turned_away: Vec<_> = turned_away.map(|(packets, why)| format!("{packets} {why}")).collect();
    if !turned_away.is_empty() {
        let _ = writeln!(out, "  packets {}", turned_away.join(", "));
    }
    let mut limits = Vec::new();
    limits.extend(
        service
            .access
            .map(|access| format!("access: {} prefixes allowed, {} denied", access.allow, access.deny)),
    );
    let per_source = |limit: NewPerSourceStatus| {
        format!("new connections per source: {}/s, {} at once", limit.rate, limit.burst)
    };
    limits.extend(service.new_per_source.map(per_source));
    if !limits.is_empty() {
        let _ = writeln!(out, "  {}", limits.join("; "));
    }
    let versions = service.versions.iter().map(|version| {
        let role = match (version.draining, version.role) {
            (true, _) => coloured("draining", Colour::Yellow),
            (false, Role::Stable) => word("stable"),
            (false, Role::Candidate) => word("candidate"),
        };
        vec![
            word(&version.name),
            role,
            number(share(version.asked)),
            number(share(version.share)),
            number(version.flows),
            number(version.new_flows),
            number(version.packets),
            number(bytes(version.bytes)),
        ]
    });
    let heads = ["VERSION", "ROLE", "ASKED", "SHARE", "FLOWS", "NEW", "PACKETS", "BYTES"];
    out.push_str(&grid(&heads, versions.collect(), "  ", colours));
    for version in &service.versions {
        if let Some(signals) = &version.signals {
            let _ = writeln!(out, "  {} signals {}", version.name, signals.line());
        }
    }
    let backends = service.versions.iter().flat_map(|version| {
        version.backends.iter().map(|backend| [vec![word(&version.name)], backend_fields(backend)].concat())
    });
    let backends: Vec<_> = backends.collect();
    if !backends.is_empty() {
        out.push_str(&grid(&[&["VERSION"], &BACKEND_HEADS[..]].concat(), backends, "  ", colours));
    }
    out
}

const BACKEND_HEADS: [&str; 8] =
    ["BACKEND", "WEIGHT", "HEALTH", "STATE", "FLOWS", "NEW", "PACKETS", "NEXT HOP"];

/// A failed probe of a healthy backend is shown for this long.
const RECENT_MS: u64 = 10 * 60 * 1000;

fn backend_fields(backend: &BackendStatus) -> Vec<Field> {
    let (health, colour) = match backend.health {
        Health::Healthy => ("healthy", Colour::Green),
        Health::Unhealthy => ("unhealthy", Colour::Red),
        Health::Unknown => ("unknown", Colour::Yellow),
    };
    let recent = backend.last_failure_ms_ago.filter(|ago| *ago < RECENT_MS);
    let mut health = match (&backend.reason, &backend.last_failure, recent) {
        (Some(reason), _, _) => format!("{health} ({reason})"),
        (None, Some(failure), Some(ago)) => format!("{health} ({} s ago: {failure})", ago / 1000),
        _ => health.to_owned(),
    };
    let depends = backend.depends.iter().map(|dependency| match dependency.well {
        Some(true) => format!("{} well", dependency.name),
        Some(false) => format!("{} fails: {}", dependency.name, dependency.said),
        None => format!("{} unknown", dependency.name),
    });
    let depends: Vec<String> = depends.collect();
    if !depends.is_empty() {
        health = format!("{health} [{}]", depends.join(", "));
    }
    let state = match backend.state {
        BackendState::Active => word("active"),
        BackendState::Draining => coloured("draining", Colour::Yellow),
        BackendState::Removed => coloured("removed", Colour::Yellow),
    };
    let lost = backend.next_hop.starts_with("unresolved");
    vec![
        word(backend.address.to_string()),
        number(backend.weight),
        coloured(health, colour),
        state,
        number(backend.flows),
        number(backend.new_flows),
        number(backend.packets),
        coloured(&backend.next_hop, if lost { Colour::Red } else { Colour::None }),
    ]
}

/// `zdd backend list`.
pub fn backends(backends: &[Listed], colours: bool) -> String {
    let rows = backends.iter().map(|listed| {
        [vec![word(&listed.service), word(&listed.version)], backend_fields(&listed.backend)].concat()
    });
    grid(&[&["SERVICE", "VERSION"], &BACKEND_HEADS[..]].concat(), rows.collect(), "", colours)
}

/// `zdd shift` and `zdd rollback`.
pub fn shift(report: &ShiftReport) -> String {
    let mut out = format!(
        "{}: generation {}, {} groups moved\n",
        report.service, report.generation, report.moved_groups
    );
    let rows = report
        .versions
        .iter()
        .map(|version| vec![word(&version.name), number(share(version.asked)), number(share(version.share))]);
    out.push_str(&grid(&["VERSION", "ASKED", "SHARE"], rows.collect(), "  ", false));
    out + &lines("note", &report.notes)
}

/// `zdd backend add`, `remove` and `zdd undrain`.
pub fn changed(report: &ChangeReport, what: &str) -> String {
    format!("{}: {what}, generation {}\n{}", report.service, report.generation, lines("note", &report.notes))
}

/// `zdd drain`.
pub fn drain(report: &DrainReport, target: &str) -> String {
    let waited = duration(report.waited_ms);
    match (report.drained, report.deadline_passed) {
        (true, _) => format!("{target}: drained after {waited}\n"),
        // Cells settle only when a silent flow would have been given up: until then one may be there that no entry tells of.
        (false, true) if report.left == 0 => format!(
            "{target}: the deadline passed after {waited}; no flow was known to be left, and it was too early to be sure that none was\n"
        ),
        (false, true) => {
            format!("{target}: the deadline passed after {waited}, {} flows were left\n", report.left)
        }
        // Asked at once: what has no entry yet is not counted.
        (false, false) => format!(
            "{target}: drains, {} flows are known; `zdd drain {target} --wait` returns when none is left\n",
            report.left
        ),
    }
}

/// The word for so many.
fn prefixes(many: u32) -> &'static str {
    if many == 1 { "prefix" } else { "prefixes" }
}

/// What somebody who waits is told meanwhile.
pub fn waits_for(report: &DrainReport, target: &str) -> String {
    format!(
        "{target} drains, {} flows are known; waiting until none is left (Ctrl-C ends the waiting, not the drain)",
        report.left
    )
}

/// `zdd apply`.
pub fn plan(report: &ApplyReport, colours: bool) -> String {
    if report.changes.is_empty() {
        return "nothing differs\n".to_owned();
    }
    let mut out = String::new();
    for change in &report.changes {
        let value = match (&change.from, &change.to) {
            (Some(from), Some(to)) => format!(": {from} -> {to}"),
            (Some(one), None) | (None, Some(one)) => format!(": {one}"),
            (None, None) => String::new(),
        };
        let colour = match change.op {
            Op::Add => Colour::Green,
            Op::Remove => Colour::Red,
            Op::Change => Colour::Yellow,
        };
        let line = format!("{} {}{value}", change.op.sign(), change.what);
        let _ = writeln!(out, "{}", paint(&line, colour, colours));
    }
    let count = report.changes.len();
    let _ = writeln!(
        out,
        "{count} {}",
        if report.applied { "applied" } else { "to apply (dry run, nothing was changed)" }
    );
    out
}

/// `zdd explain`.
pub fn explain(report: &Explain) -> String {
    let or_none = |address: Option<std::net::SocketAddr>| {
        address.map_or("none".to_owned(), |address| address.to_string())
    };
    let version = report.version.as_deref().unwrap_or("none");
    let dirty = if report.dirty { ", not settled" } else { "" };
    let mut out = format!("{} -> {} {version} {}\n", report.from, report.service, or_none(report.backend));
    if let Some(preview) = &report.preview {
        let _ = writeln!(out, "  preview: {preview} is dialled");
    }
    if let Some(port) = report.port {
        let _ = writeln!(out, "  port:  {port} is dialled");
    }
    let _ = writeln!(out, "  why:   {}", report.why);
    if let Some(cohort) = &report.cohort {
        let _ = writeln!(out, "  cohort: {cohort}");
    }
    let _ = writeln!(
        out,
        "  cell:  {} (group {}){dirty}: base {}, current {}",
        report.cell,
        report.group,
        or_none(report.base),
        or_none(report.current)
    );
    let _ = match &report.entry {
        None => writeln!(out, "  entry: none"),
        Some(entry) => {
            let alt = match entry.alt {
                alt if alt == entry.backend => String::new(),
                alt => format!(", or {}", or_none(alt)),
            };
            let seen = duration(entry.last_seen_ms);
            writeln!(out, "  entry: {} on {}{alt}, last seen {seen} ago", entry.state, or_none(entry.backend))
        }
    };
    out
}

/// `zdd detach`.
pub fn detached(report: &DetachReport) -> String {
    if report.removed.is_empty() {
        return "nothing was attached or pinned\n".to_owned();
    }
    report.removed.iter().map(|what| format!("- {what}\n")).collect()
}
/// One line for an event.
pub fn event(event: &Event) -> String {
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(event.unix_ms);
    let at = humantime::format_rfc3339_millis(at);
    let missed = if event.missed { "(events before this one are no longer kept)\n" } else { "" };
    let whose = match &event.service {
        Some(service) => format!(" {service} generation {}", event.generation),
        None => String::new(),
    };
    let by = event.by.as_ref().map_or(String::new(), |by| format!(" [{by}]"));
    // One event is one line, whatever somebody gave as a reason.
    let text = event.text.replace(char::is_control, " ");
    format!("{missed}{} {at}{whose}: {text}{by}\n", event.seq)
}
