//! `[[service.rollout.hook]]`: who is asked or told.

use std::time::Duration;

use super::{DAY, SECOND, argv, http, timeout};
use crate::config::problems::Sink;
use crate::config::reader::Table;
use crate::config::value;
use crate::rollout::spec::{HookCall, HookKind, HookSpec};
use crate::text::Unreadable;

pub(super) fn read(mut table: Table<'_, '_>, sink: &mut Sink<'_>) -> Option<HookSpec> {
    use HookKind::*;
    let all = [
        ConfirmRollout,
        PreRollout,
        Expand,
        Rollout,
        ConfirmPromotion,
        PostRollout,
        Contract,
        Rollback,
        Event,
    ];
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
