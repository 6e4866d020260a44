//! `signals = { sample = "1/16" }`: which flows of a service are followed.

use std::time::Duration;

use super::problems::Sink;
use super::reader::{Table, integer, wrong_type};
use super::value;
use crate::desired::SignalSpec;

/// `None`: it says nothing; `Some(None)`: no flow is followed.
pub(super) fn read(
    service: &mut Table<'_, '_>,
    udp: bool,
    sink: &mut Sink<'_>,
) -> Option<Option<SignalSpec>> {
    let mut table = service.table("signals", "signals", sink)?;
    if udp {
        let help = "remove them: a datagram tells neither of a handshake nor of a reset";
        sink.error(Some(table.span.clone()), "`signals` mean nothing to a UDP service".to_owned(), help);
    }
    let default = SignalSpec::default();
    let shift = sample(&mut table, sink);
    let range = Duration::from_millis(100)..=Duration::from_secs(3600);
    let handshake = table.duration("handshake_timeout", range.clone(), sink);
    let answer = table.duration("answer_timeout", range, sink);
    table.finish(sink);
    let shift = shift.unwrap_or(Some(default.shift));
    Some(shift.map(|shift| SignalSpec {
        shift,
        handshake_timeout: value(handshake).unwrap_or(default.handshake_timeout),
        answer_timeout: value(answer).unwrap_or(default.answer_timeout),
    }))
}

/// `1`, `"1/16"` or `"off"`.
fn sample(table: &mut Table<'_, '_>, sink: &mut Sink<'_>) -> Option<Option<u8>> {
    let given = table.take("sample")?;
    let whole = integer(given.get_ref()) == Some(1);
    let text = given.get_ref().as_str();
    if !whole && text.is_none() {
        wrong_type("sample", given, "1 for every flow, \"1/16\" for one in 16, or \"off\"", sink);
        return None;
    }
    match text {
        Some("off") => return Some(None),
        None | Some("1") => return Some(Some(0)),
        _ => {}
    }
    let one_in = text.and_then(|text| text.strip_prefix("1/")).and_then(|n| n.trim().parse::<u32>().ok());
    let shift = one_in.filter(|n| n.is_power_of_two() && *n <= 1 << zdd_common::signals::Rate::SHIFT_MAX);
    if shift.is_none() {
        let message = format!("`{}` is no sample", text.unwrap_or_default());
        let help = "write 1, \"off\", or \"1/N\" with a power of two up to 65536, as \"1/16\"";
        sink.error(Some(given.span()), message, help);
    }
    shift.map(|n| Some(n.trailing_zeros() as u8))
}
