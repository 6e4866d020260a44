//! `[[service.rollout.analysis]]`: how often, and how much is tolerated.

use std::collections::HashSet;
use std::time::Duration;

use super::{DAY, SECOND, provider};
use crate::config::problems::Sink;
use crate::config::reader::{At, Table};
use crate::config::value;
use crate::rollout::spec::{AnalysisSpec, When};
use crate::text::Unreadable;

pub(super) fn names(analyses: &[At<AnalysisSpec>], sink: &mut Sink<'_>) {
    let mut seen = HashSet::new();
    for at in analyses {
        if !seen.insert(&at.value.name) {
            let message = format!("analysis `{}` is there already", at.value.name);
            sink.error(Some(at.span.clone()), message, "give each analysis a name of its own");
        }
    }
}

pub(super) fn read(mut table: Table<'_, '_>, canary: bool, sink: &mut Sink<'_>) -> Option<AnalysisSpec> {
    let letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    let name = crate::config::service::name(&mut table, "an analysis", letters, sink);
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
    let dry_run = table.boolean("dry_run", sink);
    let provider = provider::read(&mut table, sink);
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
