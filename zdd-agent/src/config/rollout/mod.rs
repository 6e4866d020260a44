//! `[service.rollout]`: the strategy, and what all of its parts are read with.

mod analysis;
mod hook;
pub(super) mod provider;
mod rolling;
mod steps;

use std::time::Duration;

use super::problems::Sink;
use super::reader::{At, Table, wrong_type};
use super::value;
use crate::rollout::spec::{AnalysisSpec, Count, HookKind, OnFailure, RolloutSpec, Strategy};
use crate::rollout::windows::{Window, Windows};
use crate::text::Unreadable;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Steps, analyses and hooks of one rollout, each.
const MOST: usize = 64;

pub(super) fn read(mut table: Table<'_, '_>, sink: &mut Sink<'_>) -> Option<RolloutSpec> {
    let strategy = table.parsed("strategy", sink, |text| match text {
        "canary" | "blue-green" | "rolling" => Ok(text.to_owned()),
        _ => Err(Unreadable(format!(
            "`{text}` is no strategy; write \"canary\", \"blue-green\" or \"rolling\""
        ))),
    });
    table.missing(
        "strategy",
        "write \"canary\" (step by step), \"blue-green\" (all at once) or \"rolling\" (backend by backend)",
        sink,
    );
    let canary = strategy.as_ref().is_none_or(|at| at.value == "canary");
    let blue_green = strategy.as_ref().is_some_and(|at| at.value == "blue-green");
    let steps = steps::read(&mut table, canary, sink);
    let rolls = strategy.as_ref().is_some_and(|at| at.value == "rolling");
    let batch = rolling::count(&mut table, "batch", sink);
    let max_unavailable = rolling::count(&mut table, "max_unavailable", sink);
    let min_ready = table.duration("min_ready", Duration::ZERO..=DAY, sink);
    let auto_promote = table.boolean("auto_promote", sink);
    let bake = table.duration("bake", Duration::ZERO..=30 * DAY, sink);
    let on_failure = table.parsed("on_failure", sink, |text| match text {
        "rollback" => Ok(OnFailure::Rollback),
        "freeze" => Ok(OnFailure::Freeze),
        _ => Err(Unreadable(format!("`{text}` is no way to act; write \"rollback\" or \"freeze\""))),
    });
    let progress_deadline = table.duration("progress_deadline", SECOND..=30 * DAY, sink);
    let drain_deadline = table.duration("drain_deadline", SECOND..=30 * DAY, sink);
    let freeze = windows(&mut table, sink);
    let soak = table.duration("soak", Duration::ZERO..=30 * DAY, sink);
    let train = table.parsed("train", sink, |text| {
        let fits = (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        fits.then(|| text.to_owned())
            .ok_or_else(|| Unreadable(format!("`{text}` is no name; use a-z, 0-9 and -, up to 63 of them")))
    });
    let reversible = table.boolean("reversible", sink);
    let analyses =
        several(&mut table, "analysis", sink, |table, sink| analysis::read(table, !blue_green, sink));
    let hooks = several(&mut table, "hook", sink, hook::read);
    analysis::names(&analyses, sink);
    let span = table.span.clone();
    let kind = strategy.as_ref().map_or("canary", |at| at.value.as_str());
    for (key, given, of) in [
        ("auto_promote", auto_promote.is_some(), "blue-green"),
        ("bake", bake.is_some(), "blue-green"),
        ("batch", batch.is_some(), "rolling"),
        ("max_unavailable", max_unavailable.is_some(), "rolling"),
        ("min_ready", min_ready.is_some(), "rolling"),
    ] {
        if given && kind != of {
            let help = format!("remove it, or write strategy = \"{of}\"");
            sink.error(Some(span.clone()), format!("`{key}` means nothing to {}", rolling::told(kind)), help);
        }
    }
    if let Some(train) = train.as_ref().filter(|_| rolls) {
        let help = "remove it: a train moves weights, and a rolling rollout has none";
        sink.error(Some(train.span.clone()), "`train` means nothing to a rolling rollout".to_owned(), help);
    }
    for hook in hooks.iter().filter(|_| strategy.is_some()) {
        let on = hook.value.on;
        if rolls && rolling::moves_weights(on) || !rolls && on == HookKind::Restart {
            let message = format!("a {} hook means nothing to {}", on.name(), rolling::told(kind));
            sink.error(Some(hook.span.clone()), message, "remove it: it would never be called");
        }
    }
    if let Some(at) = soak.as_ref().filter(|_| !hooks.iter().any(|hook| hook.value.on == HookKind::Contract))
    {
        let help = "remove it, or add a [[service.rollout.hook]] with on = \"contract\"";
        sink.error(
            Some(at.span.clone()),
            "`soak` is the time before contract, and there is no such hook".to_owned(),
            help,
        );
    }
    if let Some(at) =
        on_failure.as_ref().filter(|at| at.value == OnFailure::Rollback && reversible == Some(false))
    {
        let help = "write on_failure = \"freeze\", or leave it out: that is what reversible = false means";
        sink.error(Some(at.span.clone()), "what is not reversible cannot be rolled back".to_owned(), help);
    }
    table.finish(sink);
    let decides = |at: &At<AnalysisSpec>| !at.value.dry_run;
    if !analyses.iter().any(decides) {
        let message = "the rollout has no analysis that decides: a bad candidate is noticed only by people";
        sink.warning(Some(span.clone()), message.to_owned());
    }
    let strategy = match strategy?.value.as_str() {
        "canary" => Strategy::Canary { steps: steps? },
        "blue-green" => Strategy::BlueGreen {
            auto_promote: auto_promote.unwrap_or(false),
            bake: value(bake).unwrap_or_default(),
        },
        _ => Strategy::Rolling {
            batch: value(batch).unwrap_or(Count::Number(1)),
            max_unavailable: value(max_unavailable),
            min_ready: value(min_ready).unwrap_or_default(),
            batches: Vec::new(),
        },
    };
    Some(RolloutSpec {
        strategy,
        on_failure: value(on_failure).unwrap_or(match reversible {
            Some(false) => OnFailure::Freeze,
            _ => OnFailure::Rollback,
        }),
        progress_deadline: value(progress_deadline).unwrap_or(10 * 60 * SECOND),
        drain_deadline: value(drain_deadline),
        analyses: analyses.into_iter().map(|at| at.value).collect(),
        hooks: hooks.into_iter().map(|at| at.value).collect(),
        freeze,
        soak: value(soak).unwrap_or_default(),
        train: value(train),
    })
}

fn windows(table: &mut Table<'_, '_>, sink: &mut Sink<'_>) -> Windows {
    let zone = table.parsed("time_zone", sink, Windows::known_zone);
    let example = "an array, as [\"fri 16:00 to mon 08:00\", \"2026-12-20 to 2027-01-06\"]";
    let items = table.array("freeze", example, sink);
    if let Some(zone) = zone.as_ref().filter(|_| items.is_none()) {
        let help = "remove it, or write freeze = [...]";
        sink.error(
            Some(zone.span.clone()),
            "`time_zone` is that of `freeze`, and there is none".to_owned(),
            help,
        );
    }
    let mut windows = Vec::new();
    for item in items.map(|at| at.value).into_iter().flatten() {
        match item.get_ref().as_str() {
            Some(text) => match Window::parse(text) {
                Ok(window) => windows.push(window),
                Err(why) => sink.error(Some(item.span()), why.to_string(), "mend or remove it"),
            },
            None => wrong_type("freeze", item, "each window as a string", sink),
        }
    }
    Windows { zone: value(zone).unwrap_or_else(|| Windows::default().zone), windows }
}

fn several<T>(
    table: &mut Table<'_, '_>,
    key: &'static str,
    sink: &mut Sink<'_>,
    mut read: impl FnMut(Table<'_, '_>, &mut Sink<'_>) -> Option<T>,
) -> Vec<At<T>> {
    let tables = table.tables(key, sink).unwrap_or_default();
    if tables.len() > MOST {
        let help = format!("keep {MOST} at the most");
        sink.error(Some(table.span.clone()), format!("there are {} of `{key}`", tables.len()), help);
    }
    tables
        .into_iter()
        .filter_map(|table| {
            let span = table.span.clone();
            read(table, sink).map(|value| At::new(value, span))
        })
        .collect()
}

pub(super) fn timeout(table: &mut Table<'_, '_>, default_s: u64, sink: &mut Sink<'_>) -> Duration {
    let range = Duration::from_millis(10)..=Duration::from_secs(600);
    value(table.duration("timeout", range, sink)).unwrap_or(Duration::from_secs(default_s))
}

/// An address that the agent can ask.
pub(super) fn http(text: &str) -> Result<String, Unreadable> {
    web(text, "http://host:port/path")
}

/// An address of HTTP. It is not repeated in a message: paths of webhooks are secrets, and this is logged.
pub(in crate::config) fn web(text: &str, example: &str) -> Result<String, Unreadable> {
    let uri = text.parse::<hyper::Uri>().ok();
    let uri = uri.filter(|uri| uri.host().is_some_and(|host| !host.is_empty()));
    let named = |uri: &hyper::Uri| uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    match uri.as_ref().map(|uri| (uri.scheme_str(), named(uri))) {
        Some((Some("http" | "https"), false)) => Ok(text.to_owned()),
        Some((Some("http" | "https"), true)) => Err(Unreadable(
            "names and passwords are not sent; put a secret into the path, as webhooks do".to_owned(),
        )),
        _ => Err(Unreadable(format!("it is no address; write \"{example}\""))),
    }
}

pub(super) fn argv(table: &mut Table<'_, '_>, key: &'static str, sink: &mut Sink<'_>) -> Option<Vec<String>> {
    let example = "an array of program and arguments, as [\"/usr/local/bin/check\", \"v2\"]";
    let At { value: items, span } = table.array(key, example, sink)?;
    let mut argv = Vec::new();
    for item in items {
        match item.get_ref().as_str().filter(|text| !text.contains('\0')) {
            Some(text) => argv.push(text.to_owned()),
            None => {
                wrong_type(key, item, "each argument as a string", sink);
                return None;
            }
        }
    }
    if argv.first().is_none_or(|program| !program.starts_with('/')) {
        let help = "begin with the absolute path of a program: there is no shell and no PATH";
        sink.error(Some(span), format!("`{key}` names no program"), help);
        return None;
    }
    Some(argv)
}
