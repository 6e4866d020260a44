//! `[[alert]]`.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::problems::Sink;
use super::reader::{Table, wrong_type};
use super::rollout::web;
use super::value;
use crate::alert::{AlertSpec, Channel, Kind};
use crate::redact::Url;
use crate::text::Unreadable;

const MINUTE: Duration = Duration::from_secs(60);

pub(super) fn read(top: &mut Table<'_, '_>, sink: &mut Sink<'_>) -> Option<Vec<AlertSpec>> {
    let mut names = HashSet::new();
    let mut all = Vec::new();
    let mut whole = true;
    for table in top.tables("alert", sink).unwrap_or_default() {
        let span = table.span.clone();
        match one(table, sink) {
            Some(alert) => {
                if !names.insert(alert.name.clone()) {
                    let message = format!("alert `{}` is there already", alert.name);
                    sink.error(
                        Some(span),
                        message,
                        "give each alert a name of its own: what was told is remembered by it",
                    );
                }
                all.push(alert);
            }
            None => whole = false,
        }
    }
    whole.then_some(all)
}

fn one(mut table: Table<'_, '_>, sink: &mut Sink<'_>) -> Option<AlertSpec> {
    let letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    let name = super::service::name(&mut table, "an alert", letters, sink);
    if let Some(name) = &name {
        table.name = format!("alert `{}`", name.value);
    }
    let webhook = table.parsed("webhook", sink, url);
    let alertmanager = table.parsed("alertmanager", sink, url);
    let slack = table.parsed("format", sink, |text| match text {
        "generic" => Ok(false),
        "slack" => Ok(true),
        _ => Err(Unreadable(format!("`{text}` is no format; write \"generic\" or \"slack\""))),
    });
    let given = [table.has("webhook"), table.has("alertmanager")];
    if given[0] == given[1] {
        let message = format!("{} names either a `webhook` or an `alertmanager`", table.name);
        let help = "write webhook = \"https://hooks.example/...\" or alertmanager = \"http://10.0.0.9:9093\"";
        sink.error(Some(table.span.clone()), message, help);
    } else if let (Some(slack), true) = (&slack, given[1]) {
        let message = "`format` means nothing to an Alertmanager".to_owned();
        sink.error(Some(slack.span.clone()), message, "remove it");
    }
    let repeat = table.duration("repeat", Duration::from_secs(1)..=30 * 24 * 60 * MINUTE, sink);
    let timeout = super::rollout::timeout(&mut table, 10, sink);
    let only = table.parsed_all("only", sink, |text| {
        let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        let known = Kind::ALL.into_iter().find(|kind| kind.name() == text);
        known.ok_or_else(|| {
            Unreadable(format!("`{text}` is no kind of alert; write one of {}", names.join(", ")))
        })
    });
    let labels = labels(&mut table, sink);
    let https = [&webhook, &alertmanager].into_iter().flatten().any(|at| at.value.0.starts_with("https:"));
    if !https && let Some(key) = super::health::OF_TLS.iter().find(|key| table.has(key)) {
        let message = format!("`{key}` means nothing without TLS");
        sink.error(Some(table.span.clone()), message, "write an https address, or remove it");
    }
    let tls = super::health::tls_of(&mut table, sink);
    table.finish(sink);
    let slack = value(slack).unwrap_or(false);
    let (channel, repeats) = match (webhook, alertmanager) {
        (Some(url), None) if slack => (Channel::Slack(url.value), 240 * MINUTE),
        (Some(url), None) => (Channel::Webhook(url.value), 240 * MINUTE),
        (None, Some(url)) => (Channel::Alertmanager(url.value), MINUTE),
        _ => return None,
    };
    Some(AlertSpec {
        name: name?.value,
        channel,
        tls,
        repeat: value(repeat).unwrap_or(repeats),
        timeout,
        only: only.into_iter().map(|at| at.value).collect(),
        labels,
    })
}

/// An address that is never repeated in a message: what follows its host may be a secret.
fn url(text: &str) -> Result<Url, Unreadable> {
    web(text, "https://host:port/path").map(Url)
}

fn labels(table: &mut Table<'_, '_>, sink: &mut Sink<'_>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let Some(given) = table.take("labels") else { return labels };
    let Some(pairs) = given.get_ref().as_table() else {
        wrong_type("labels", given, "a table of texts, as { cluster = \"a\" }", sink);
        return labels;
    };
    for (name, text) in pairs.iter() {
        // What Prometheus takes as the name of a label.
        let fits = |(at, letter): (usize, char)| {
            letter.is_ascii_alphabetic() || letter == '_' || (at > 0 && letter.is_ascii_digit())
        };
        let key = name.get_ref().as_ref();
        match text.get_ref().as_str() {
            Some(value) if key.chars().enumerate().all(fits) => {
                drop(labels.insert(key.to_owned(), value.to_owned()))
            }
            Some(_) => {
                let help = "begin with a letter or _, go on with those and digits";
                sink.error(Some(name.span()), format!("`{key}` is no name of a label"), help);
            }
            None => wrong_type("labels", text, "each value as a text", sink),
        }
    }
    labels
}
