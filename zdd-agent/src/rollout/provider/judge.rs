//! From an answer to an outcome. What is no number, or not there, is inconclusive: never a success, and never a failure.

use serde_json::Value;
use serde_json_path::JsonPath;

use super::shown;
use crate::rollout::runs::Outcome;
use crate::rollout::spec::{Comparison, Condition, Operand};

/// One value against its condition.
pub fn judge(value: &Value, condition: &Condition) -> Outcome {
    let text = || shown(value);
    let holds = match (&condition.with, value) {
        (_, Value::Null) => return Outcome::Inconclusive("the value is null".to_owned()),
        (Operand::Number(with), Value::Number(_) | Value::String(_)) => {
            // Metrics often come as text, "NaN" among them.
            let number = value.as_f64().or_else(|| value.as_str().and_then(|text| text.trim().parse().ok()));
            let Some(number) = number else {
                return Outcome::Inconclusive(format!("{} is no number", text()));
            };
            if !number.is_finite() {
                return Outcome::Inconclusive(format!("{number}: there is no data"));
            }
            compare(condition.op, number.partial_cmp(with))
        }
        (Operand::Bool(with), Value::Bool(is)) => compare(condition.op, Some(is.cmp(with))),
        (Operand::Text(with), Value::String(is)) => compare(condition.op, Some(is.as_str().cmp(with))),
        _ => return Outcome::Inconclusive(format!("{} cannot be compared with what is expected", text())),
    };
    if holds { Outcome::Success(text()) } else { Outcome::Failure(text()) }
}

fn compare(op: Comparison, order: Option<std::cmp::Ordering>) -> bool {
    use std::cmp::Ordering::{Equal, Greater, Less};
    match op {
        Comparison::Less => order == Some(Less),
        Comparison::AtMost => matches!(order, Some(Less | Equal)),
        Comparison::More => order == Some(Greater),
        Comparison::AtLeast => matches!(order, Some(Greater | Equal)),
        Comparison::Equal => order == Some(Equal),
        Comparison::Differs => matches!(order, Some(Less | Greater)),
    }
}

/// The value that a JSONPath names in a document; `Ok(None)`: it names nothing.
///
/// # Errors
/// The path is none, or names several values.
pub fn named<'a>(document: &'a Value, path: &str) -> Result<Option<&'a Value>, String> {
    let path = JsonPath::parse(path).map_err(|_| format!("`{path}` is no JSONPath"))?;
    match path.query(document).all().as_slice() {
        [] => Ok(None),
        [value] => Ok(Some(*value)),
        several => Err(format!("{path} names {} values, one is needed", several.len())),
    }
}

/// The one value that a JSONPath names in a document.
pub(super) fn from_json(body: &[u8], path: &str, condition: &Condition) -> Outcome {
    let document: Value = match serde_json::from_slice(body) {
        Ok(document) => document,
        Err(error) => return Outcome::Error(format!("the answer is not JSON: {error}")),
    };
    match named(&document, path) {
        Ok(Some(value)) => judge(value, condition),
        Ok(None) => Outcome::Inconclusive(format!("{path} names nothing in the answer")),
        Err(why) => Outcome::Error(why),
    }
}

/// The one number of an instant query's answer.
pub(super) fn from_prometheus(body: &[u8], condition: &Condition) -> Outcome {
    let answer: Value = match serde_json::from_slice(body) {
        Ok(answer) => answer,
        Err(error) => return Outcome::Error(format!("the answer is not JSON: {error}")),
    };
    if answer["status"] != "success" {
        let why = answer["error"].as_str().unwrap_or("its status is not success");
        return Outcome::Error(format!("the query failed: {why}"));
    }
    let (kind, result) = (&answer["data"]["resultType"], &answer["data"]["result"]);
    let value = match (kind.as_str(), result.as_array().map(Vec::as_slice)) {
        (Some("scalar"), Some([_, value])) => value,
        (Some("vector"), Some([])) => return Outcome::Inconclusive("the query gives nothing".to_owned()),
        (Some("vector"), Some([one])) => &one["value"][1],
        (Some("vector"), Some(several)) => {
            return Outcome::Error(format!(
                "the query gives {} values, one is needed: aggregate",
                several.len()
            ));
        }
        _ => return Outcome::Error(format!("the query gives a {}, no number", shown(kind))),
    };
    judge(value, condition)
}
