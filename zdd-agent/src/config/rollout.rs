//! `[service.rollout]`: steps, analyses and hooks.

use std::collections::HashSet;
use std::time::Duration;

use serde_json_path::JsonPath;
use toml::Spanned;
use toml::de::DeValue;

use super::problems::Sink;
use super::reader::{At, Table, wrong_type};
use super::value;
use crate::desired::FULL;
use crate::rollout::spec::{
    AnalysisSpec, Builtin, Comparison, Condition, HookCall, HookKind, HookSpec, OnFailure, Operand, Provider,
    RolloutSpec, Step, Strategy, When,
};
use crate::text::{Unreadable, parse_duration, percent};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Steps, analyses and hooks of one rollout, each.
const MOST: usize = 64;

pub(super) fn read(mut table: Table<'_, '_>, sink: &mut Sink<'_>) -> Option<RolloutSpec> {
    let strategy = table.parsed("strategy", sink, |text| match text {
        "canary" | "blue-green" => Ok(text.to_owned()),
        _ => Err(Unreadable(format!("`{text}` is no strategy; write \"canary\" or \"blue-green\""))),
    });
    table.missing("strategy", "write \"canary\" (step by step) or \"blue-green\" (all at once)", sink);
    let canary = strategy.as_ref().is_none_or(|at| at.value == "canary");
    let steps = steps(&mut table, canary, sink);
    let auto_promote = boolean(&mut table, "auto_promote", sink);
    let bake = table.duration("bake", Duration::ZERO..=30 * DAY, sink);
    let on_failure = table.parsed("on_failure", sink, |text| match text {
        "rollback" => Ok(OnFailure::Rollback),
        "freeze" => Ok(OnFailure::Freeze),
        _ => Err(Unreadable(format!("`{text}` is no way to act; write \"rollback\" or \"freeze\""))),
    });
    let progress_deadline = table.duration("progress_deadline", SECOND..=30 * DAY, sink);
    let drain_deadline = table.duration("drain_deadline", SECOND..=30 * DAY, sink);
    let analyses = several(&mut table, "analysis", sink, |table, sink| analysis(table, canary, sink));
    let hooks = several(&mut table, "hook", sink, hook);
    names(&analyses, sink);
    let span = table.span.clone();
    if canary {
        for (key, given) in [("auto_promote", auto_promote.is_some()), ("bake", bake.is_some())] {
            if given {
                let help = "remove it, or write strategy = \"blue-green\"";
                sink.error(Some(span.clone()), format!("`{key}` means nothing to a canary"), help);
            }
        }
    }
    table.finish(sink);
    let decides = |at: &At<AnalysisSpec>| !at.value.dry_run;
    if !analyses.iter().any(decides) {
        let message = "the rollout has no analysis that decides: a bad candidate is noticed only by people";
        sink.warning(Some(span.clone()), message.to_owned());
    }
    let strategy = match strategy?.value.as_str() {
        "canary" => Strategy::Canary { steps: steps? },
        _ => Strategy::BlueGreen {
            auto_promote: auto_promote.unwrap_or(false),
            bake: value(bake).unwrap_or_default(),
        },
    };
    Some(RolloutSpec {
        strategy,
        on_failure: value(on_failure).unwrap_or(OnFailure::Rollback),
        progress_deadline: value(progress_deadline).unwrap_or(10 * 60 * SECOND),
        drain_deadline: value(drain_deadline),
        analyses: analyses.into_iter().map(|at| at.value).collect(),
        hooks: hooks.into_iter().map(|at| at.value).collect(),
    })
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

fn steps(table: &mut Table<'_, '_>, canary: bool, sink: &mut Sink<'_>) -> Option<Vec<Step>> {
    let example =
        "an array, as [{ weight = 1 }, { pause = \"2m\" }, { weight = 50 }, { pause = \"until-promoted\" }]";
    let items = table.array("steps", example, sink);
    if !canary {
        if let Some(items) = items {
            let help = "remove them, or write strategy = \"canary\"";
            sink.error(Some(items.span), "`steps` mean nothing to a blue-green rollout".to_owned(), help);
        }
        return None;
    }
    table.missing("steps", &format!("write {example}"), sink);
    let At { value: items, span } = items?;
    if items.len() > MOST {
        let message = format!("there are {} steps", items.len());
        sink.error(Some(span.clone()), message, format!("keep {MOST} at the most"));
    }
    let (mut steps, mut highest, mut whole) = (Vec::new(), 0, true);
    for item in items {
        let Some(step) = step(item, sink) else {
            whole = false;
            continue;
        };
        if let Step::Weight(weight) = step {
            let said = percent(weight);
            if weight == 0 {
                let help = "choose more than 0; before the first weight the candidate has nothing anyway";
                sink.error(Some(item.span()), "a step of 0% is none".to_owned(), help);
            } else if weight <= highest {
                let message = format!("a weight of {said} comes after {}", percent(highest));
                let help = "let the weights rise from step to step; going back is what a rollback is for";
                sink.error(Some(item.span()), message, help);
            }
            highest = highest.max(weight);
        }
        steps.push(step);
    }
    if whole && !steps.iter().any(|step| matches!(step, Step::Weight(_))) {
        let help = "name at least one, as { weight = 10 }";
        sink.error(Some(span), "`steps` name no weight".to_owned(), help);
    }
    whole.then_some(steps)
}

fn step(item: &Spanned<DeValue<'_>>, sink: &mut Sink<'_>) -> Option<Step> {
    let Some(fields) = item.get_ref().as_table() else {
        wrong_type("steps", item, "{ weight = 10 } or { pause = \"5m\" }", sink);
        return None;
    };
    let mut table = Table::new(fields, item.span(), "a step");
    let weight = table.percent("weight", sink);
    let pause = table.parsed("pause", sink, |text| match text {
        "until-promoted" => Ok(Step::PauseUntilPromoted),
        _ => match parse_duration(text) {
            Ok(time) if time <= 30 * DAY => Ok(Step::Pause(time)),
            Ok(_) => Err(Unreadable(format!("`{text}` is longer than 30 days; write \"until-promoted\""))),
            Err(_) => Err(Unreadable(format!("`{text}` is no pause; write \"5m\" or \"until-promoted\""))),
        },
    });
    let given = [table.has("weight"), table.has("pause")];
    table.finish(sink);
    match (given, weight, pause) {
        ([true, false], weight, _) => weight.map(|at| Step::Weight(at.value.min(FULL))),
        ([false, true], _, pause) => value(pause),
        _ => {
            let help = "write { weight = 10 } or { pause = \"5m\" }, one after the other";
            let message = "a step is either a `weight` or a `pause`".to_owned();
            sink.error(Some(item.span()), message, help);
            None
        }
    }
}

fn names(analyses: &[At<AnalysisSpec>], sink: &mut Sink<'_>) {
    let mut seen = HashSet::new();
    for at in analyses {
        if !seen.insert(&at.value.name) {
            let message = format!("analysis `{}` is there already", at.value.name);
            sink.error(Some(at.span.clone()), message, "give each analysis a name of its own");
        }
    }
}

pub(super) fn boolean(table: &mut Table<'_, '_>, key: &'static str, sink: &mut Sink<'_>) -> Option<bool> {
    let value = table.take(key)?;
    let read = value.get_ref().as_bool();
    if read.is_none() {
        wrong_type(key, value, "true or false", sink);
    }
    read
}

fn analysis(mut table: Table<'_, '_>, canary: bool, sink: &mut Sink<'_>) -> Option<AnalysisSpec> {
    let letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    let name = super::service::name(&mut table, "an analysis", letters, sink);
    if let Some(name) = &name {
        table.name = format!("analysis `{}`", name.value);
    }
    let when = table.parsed("on", sink, |text| match text {
        "pre-promotion" => Ok(When::PrePromotion),
        "post-promotion" => Ok(When::PostPromotion),
        _ => Err(Unreadable(format!("`{text}` is no time; write \"pre-promotion\" or \"post-promotion\""))),
    });
    if let Some(at) = when.as_ref().filter(|_| canary) {
        let help = "remove it: the analyses of a canary run from its first weight on";
        sink.error(Some(at.span.clone()), "`on` means nothing to a canary's analysis".to_owned(), help);
    }
    let interval = table.duration("interval", Duration::from_millis(100)..=DAY, sink);
    let initial_delay = table.duration("initial_delay", Duration::ZERO..=DAY, sink);
    let count = table.integer("count", 1..=1_000_000, sink);
    let failure_limit = table.integer("failure_limit", 0..=1_000_000, sink);
    let inconclusive_limit = table.integer("inconclusive_limit", 0..=1_000_000, sink);
    let consecutive_error_limit = table.integer("consecutive_error_limit", 0..=1_000_000, sink);
    let min_samples = table.integer("min_samples", 0..=1_000_000_000, sink);
    let dry_run = boolean(&mut table, "dry_run", sink);
    let provider = provider(&mut table, sink);
    table.finish(sink);
    Some(AnalysisSpec {
        name: name?.value,
        when: value(when).unwrap_or_default(),
        interval: value(interval).unwrap_or(60 * SECOND),
        initial_delay: value(initial_delay),
        count: value(count).unwrap_or(1),
        failure_limit: value(failure_limit).unwrap_or(0),
        inconclusive_limit: value(inconclusive_limit).unwrap_or(3),
        consecutive_error_limit: value(consecutive_error_limit).unwrap_or(4),
        min_samples: value(min_samples).unwrap_or(0),
        dry_run: dry_run.unwrap_or(false),
        provider: provider?,
    })
}

fn provider(table: &mut Table<'_, '_>, sink: &mut Sink<'_>) -> Option<Provider> {
    let web = table.table("web", "web", sink);
    let prometheus = table.table("prometheus", "prometheus", sink);
    let exec = table.table("exec", "exec", sink);
    let builtin = table.table("builtin", "builtin", sink);
    let given = [web.is_some(), prometheus.is_some(), exec.is_some(), builtin.is_some()];
    if given.iter().filter(|given| **given).count() != 1 {
        let message =
            format!("{} needs exactly one of `web`, `prometheus`, `exec` and `builtin`", table.name);
        let help = "say where its value comes from, as web = { url = \"http://10.0.0.9/stats\", json = \"$.errors\", success = \"<= 0.01\" }";
        sink.error(Some(table.span.clone()), message, help);
    }
    let mut read = web.map(|table| from_web(table, sink));
    read = read.or(prometheus.map(|table| from_prometheus(table, sink)));
    read = read.or(exec.map(|mut table| {
        let argv = argv(&mut table, "argv", sink);
        table.missing(
            "argv",
            "name the program and its arguments, as [\"/usr/local/bin/check\", \"v2\"]",
            sink,
        );
        let timeout = timeout(&mut table, 10, sink);
        table.finish(sink);
        Some(Provider::Exec { argv: argv?, timeout })
    }));
    read.or(builtin.map(|table| from_agent(table, sink))).flatten()
}

fn from_web(mut table: Table<'_, '_>, sink: &mut Sink<'_>) -> Option<Provider> {
    let url = table.parsed("url", sink, http);
    table.missing("url", "write \"http://10.0.0.9:8080/stats\"", sink);
    let json = table.parsed("json", sink, |text| match JsonPath::parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(Unreadable(format!(
            "`{text}` is no JSONPath ({}); write one of RFC 9535, as \"$.error_rate\"",
            error.message()
        ))),
    });
    table.missing("json", "write where the value is, as \"$.error_rate\" (JSONPath, RFC 9535)", sink);
    let success = condition(&mut table, sink);
    let timeout = timeout(&mut table, 5, sink);
    table.finish(sink);
    Some(Provider::Web { url: url?.value, json: json?.value, success: success?, timeout })
}

fn from_prometheus(mut table: Table<'_, '_>, sink: &mut Sink<'_>) -> Option<Provider> {
    let address = table.parsed("address", sink, http);
    table.missing("address", "write \"http://10.0.0.9:9090\"", sink);
    let query = table.parsed("query", sink, |text| {
        let fits = !text.trim().is_empty();
        fits.then(|| text.to_owned()).ok_or_else(|| Unreadable("it is empty; write PromQL".to_owned()))
    });
    table.missing("query", "write PromQL that gives one number", sink);
    let success = condition(&mut table, sink);
    let timeout = timeout(&mut table, 5, sink);
    table.finish(sink);
    Some(Provider::Prometheus { address: address?.value, query: query?.value, success: success?, timeout })
}

fn from_agent(mut table: Table<'_, '_>, sink: &mut Sink<'_>) -> Option<Provider> {
    let metric = table.parsed("metric", sink, |text| match text {
        "healthy-share" => Ok(Builtin::HealthyShare),
        _ => Err(Unreadable(format!("`{text}` is no builtin metric; write \"healthy-share\""))),
    });
    table.missing(
        "metric",
        "write \"healthy-share\": the share of the candidate's backends that are healthy",
        sink,
    );
    let success = condition(&mut table, sink);
    table.finish(sink);
    Some(Provider::Builtin { metric: metric?.value, success: success? })
}

fn timeout(table: &mut Table<'_, '_>, default_s: u64, sink: &mut Sink<'_>) -> Duration {
    let range = Duration::from_millis(10)..=Duration::from_secs(600);
    value(table.duration("timeout", range, sink)).unwrap_or(Duration::from_secs(default_s))
}

/// An address that the agent can ask.
fn http(text: &str) -> Result<String, Unreadable> {
    let uri = text.parse::<hyper::Uri>().ok();
    let uri = uri.filter(|uri| uri.host().is_some_and(|host| !host.is_empty()));
    match uri.as_ref().map(|uri| uri.scheme_str()) {
        Some(Some("http")) => Ok(text.to_owned()),
        Some(Some("https")) => Err(Unreadable(format!(
            "`{text}` is https, which the agent does not speak yet; write an http address, or ask with exec = {{ argv = [\"curl\", ...] }}"
        ))),
        _ => Err(Unreadable(format!("`{text}` is no address; write \"http://host:port/path\""))),
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

fn condition(table: &mut Table<'_, '_>, sink: &mut Sink<'_>) -> Option<Condition> {
    let read = table.parsed("success", sink, parse_condition);
    table.missing("success", "say when the value is good, as \"<= 0.01\" or \"== \\\"ok\\\"\"", sink);
    value(read)
}

pub(super) fn parse_condition(text: &str) -> Result<Condition, Unreadable> {
    use Comparison::*;
    let wrong = |why: &str| {
        Unreadable(format!(
            "`{text}` is no condition: {why}; compare with <, <=, >, >=, == or !=, as \"<= 0.01\" or \"== 'ok'\""
        ))
    };
    let signs = [("<=", AtMost), (">=", AtLeast), ("==", Equal), ("!=", Differs), ("<", Less), (">", More)];
    let trimmed = text.trim();
    let found =
        signs.into_iter().find_map(|(sign, op)| trimmed.strip_prefix(sign).map(|rest| (op, rest.trim())));
    let (op, with) = found.ok_or_else(|| wrong("it does not begin with a comparison"))?;
    let quoted =
        ['\'', '"'].into_iter().find_map(|q| with.strip_prefix(q).and_then(|rest| rest.strip_suffix(q)));
    let with = match (quoted, with) {
        (Some(text), _) => Operand::Text(text.to_owned()),
        (None, "true") => Operand::Bool(true),
        (None, "false") => Operand::Bool(false),
        (None, number) => {
            let number = number.parse::<f64>().ok().filter(|number| number.is_finite());
            Operand::Number(number.ok_or_else(|| wrong("what it compares with is no number"))?)
        }
    };
    if !matches!(with, Operand::Number(_)) && !matches!(op, Equal | Differs) {
        return Err(wrong("only numbers have an order"));
    }
    Ok(Condition { op, with })
}

fn hook(mut table: Table<'_, '_>, sink: &mut Sink<'_>) -> Option<HookSpec> {
    use HookKind::*;
    let all = [ConfirmRollout, PreRollout, Rollout, ConfirmPromotion, PostRollout, Rollback, Event];
    let on = table.parsed("on", sink, |text| {
        all.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            let names: Vec<&str> = all.iter().map(|kind| kind.name()).collect();
            Unreadable(format!("`{text}` is no time for a hook; write one of {}", names.join(", ")))
        })
    });
    table.missing("on", "say when it is called, as \"pre-rollout\"", sink);
    let webhook = table.parsed("webhook", sink, http);
    let exec = argv(&mut table, "exec", sink);
    let given = [table.has("webhook"), table.has("exec")];
    let timeout = timeout(&mut table, 10, sink);
    let retries = table.integer("retries", 0..=1_000, sink);
    let interval = table.duration("interval", Duration::from_millis(100)..=DAY, sink);
    let span = table.span.clone();
    if let (Some(on), Some(retries)) = (&on, &retries)
        && (on.value.confirms() || matches!(on.value, Rollback | Event))
        && retries.value > 0
    {
        let message = format!("`retries` mean nothing to a {} hook", on.value.name());
        sink.error(Some(retries.span.clone()), message, "remove them; `interval` says how often it is asked");
    }
    table.finish(sink);
    if given[0] == given[1] {
        let help = "write webhook = \"http://10.0.0.9/hook\" or exec = [\"/usr/local/bin/hook\"]";
        sink.error(Some(span), "a hook calls either a `webhook` or an `exec`".to_owned(), help);
        return None;
    }
    let call = match (webhook, exec) {
        (Some(url), _) => HookCall::Webhook { url: url.value },
        (None, exec) => HookCall::Exec { argv: exec? },
    };
    Some(HookSpec {
        on: on?.value,
        call,
        timeout,
        retries: value(retries).unwrap_or(0),
        interval: value(interval).unwrap_or(10 * SECOND),
    })
}
