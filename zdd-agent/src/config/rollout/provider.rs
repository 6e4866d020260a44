//! Where an analysis gets its value from, and what the value must be.

use serde_json_path::JsonPath;

use super::{argv, http, timeout};
use crate::config::problems::Sink;
use crate::config::reader::Table;
use crate::config::value;
use crate::rollout::spec::{Builtin, Comparison, Condition, Operand, Provider};
use crate::text::Unreadable;

pub(super) fn read(table: &mut Table<'_, '_>, sink: &mut Sink<'_>) -> Option<Provider> {
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

fn condition(table: &mut Table<'_, '_>, sink: &mut Sink<'_>) -> Option<Condition> {
    let read = table.parsed("success", sink, parse_condition);
    table.missing("success", "say when the value is good, as \"<= 0.01\" or \"== \\\"ok\\\"\"", sink);
    value(read)
}

pub(in crate::config) fn parse_condition(text: &str) -> Result<Condition, Unreadable> {
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
