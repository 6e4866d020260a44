//! What only a rolling rollout has.

use super::{Sink, Table};
use crate::config::reader::{At, wrong_type};
use crate::rollout::spec::{Count, HookKind};
use crate::text::{parse_percent, percent};

/// A number of backends, or a share of them in percent.
pub(super) fn count(table: &mut Table<'_, '_>, key: &'static str, sink: &mut Sink<'_>) -> Option<At<Count>> {
    let value = table.take(key)?;
    let span = value.span();
    let number = value.get_ref().as_integer().and_then(|number| number.as_str().parse::<u32>().ok());
    let share = value.get_ref().as_str().and_then(|text| parse_percent(text).ok());
    let count = match (number, share) {
        (Some(number), _) if number > 0 => Count::Number(number),
        (_, Some(share)) if share > 0 && value.get_ref().as_str().is_some_and(|text| text.ends_with('%')) => {
            Count::Share(share)
        }
        (Some(_), _) | (_, Some(_)) => {
            let said = share.map_or("0".to_owned(), percent);
            sink.error(Some(span), format!("`{key}` of {said} says nothing"), "write 1, or \"25%\"");
            return None;
        }
        _ => {
            wrong_type(key, value, "a number of backends, as 1, or a share, as \"25%\"", sink);
            return None;
        }
    };
    Some(At::new(count, span))
}

/// A strategy with its article.
pub(super) fn told(strategy: &str) -> String {
    match strategy {
        "canary" => "a canary".to_owned(),
        other => format!("a {other} rollout"),
    }
}

/// Hooks of strategies that move weights.
pub(super) fn moves_weights(kind: HookKind) -> bool {
    matches!(kind, HookKind::Rollout | HookKind::ConfirmPromotion | HookKind::Expand | HookKind::Contract)
}
