//! What a backend's answer says of the things that it needs: a database, a queue, somebody else's API.

use serde_json::Value;

use super::spec::Dependency;
use crate::rollout::Outcome;
use crate::rollout::provider::{judge, named, shown};

/// A dependency as one answer told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DependencyState {
    /// What people call it.
    pub name: String,
    /// Several backends need the same one.
    pub shared: bool,
    /// It is well; `None`: the answer does not say.
    pub well: Option<bool>,
    /// The answer's word for it, or why there is none.
    pub said: String,
}

/// Reads every dependency off an answer; `None`: there was none, or it is no JSON.
pub fn read(depends: &[Dependency], answer: Option<&Value>) -> Vec<DependencyState> {
    let one = |dependency: &Dependency| {
        let (well, said) = match answer.map(|document| named(document, &dependency.path)) {
            None => (None, "no answer in JSON".to_owned()),
            Some(Err(why)) => (None, why),
            Some(Ok(None)) => (None, format!("{} names nothing in the answer", dependency.path)),
            Some(Ok(Some(value))) => (
                match &dependency.success {
                    None => Some(well(value)),
                    Some(condition) => match judge(value, condition) {
                        Outcome::Success(_) => Some(true),
                        Outcome::Failure(_) => Some(false),
                        _ => None,
                    },
                },
                shown(value),
            ),
        };
        DependencyState { name: dependency.name.clone(), shared: dependency.shared, well, said }
    };
    depends.iter().map(one).collect()
}

/// Whether a value is one of those by which frameworks say that all is well: `true`, or one of the texts ok, up, pass
/// and healthy in any case; of an object, its `status`.
pub fn well(value: &Value) -> bool {
    match value {
        Value::Bool(well) => *well,
        Value::String(text) => {
            ["ok", "up", "pass", "healthy"].iter().any(|word| text.trim().eq_ignore_ascii_case(word))
        }
        Value::Object(fields) => {
            fields.get("status").is_some_and(|status| !status.is_object() && well(status))
        }
        _ => false,
    }
}

/// The shared dependencies that fail for everybody: all backends that tell of one say so, and at least half of all backends tell.
/// `backends`: what each backend of a service last told; nothing, where nobody answered.
pub fn outages<'a>(backends: &[&'a [DependencyState]]) -> Vec<&'a str> {
    let mut names: Vec<&str> = backends
        .iter()
        .flat_map(|told| told.iter().filter(|state| state.shared && state.well == Some(false)))
        .map(|state| state.name.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| {
        let told = |backend: &&[DependencyState]| {
            backend.iter().find(|state| state.name == *name).and_then(|state| state.well)
        };
        let told: Vec<bool> = backends.iter().filter_map(told).collect();
        told.iter().all(|well| !well) && told.len() * 2 >= backends.len()
    });
    names
}

/// Whether what a backend told explains its failure by one of these outages.
pub fn explains(told: &[DependencyState], outages: &[&str]) -> bool {
    told.iter().any(|state| state.well == Some(false) && outages.contains(&state.name.as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rollout::spec::{Comparison, Condition, Operand};

    fn dependency(path: &str, success: Option<Condition>) -> Dependency {
        Dependency { name: "db".into(), path: path.into(), shared: true, success }
    }

    #[test]
    fn the_words_of_frameworks_are_known() {
        for good in [json!(true), json!("ok"), json!("UP"), json!("Healthy"), json!({"status": "pass"})] {
            assert!(well(&good), "{good}");
        }
        for bad in [json!(false), json!("down"), json!(null), json!(1), json!({"status": {"status": "ok"}})] {
            assert!(!well(&bad), "{bad}");
        }
    }

    #[test]
    fn what_is_not_told_is_neither_well_nor_ill() {
        let document = json!({"db": {"lag": 7}});
        let state = |path: &str, success| read(&[dependency(path, success)], Some(&document)).remove(0);
        assert_eq!((state("$.redis", None).well, state("$.db.*", None).well), (None, Some(false)));
        let below = |with| Condition { op: Comparison::Less, with: Operand::Number(with) };
        assert_eq!(state("$.db.lag", Some(below(10.0))).well, Some(true));
        assert_eq!(state("$.db.lag", Some(below(5.0))).well, Some(false));
        assert_eq!(state("$.db", Some(below(5.0))).well, None);
        assert_eq!(read(&[dependency("$.db", None)], None)[0].well, None);
    }

    #[test]
    fn an_outage_is_one_that_all_who_answer_tell_of() {
        let told = |well: Option<bool>, shared: bool| {
            vec![DependencyState { name: "db".into(), shared, well, said: String::new() }]
        };
        let names = |all: &[Vec<DependencyState>]| {
            let all: Vec<&[DependencyState]> = all.iter().map(Vec::as_slice).collect();
            outages(&all).len()
        };
        let (up, down, silent) = (told(Some(true), true), told(Some(false), true), told(None, true));
        assert_eq!(names(&[down.clone(), down.clone()]), 1);
        assert_eq!(names(&[down.clone(), up]), 0);
        assert_eq!(names(&[down.clone(), down.clone(), silent.clone(), vec![]]), 1);
        assert_eq!(names(&[down.clone(), silent.clone(), vec![]]), 0, "one of three tells nothing of all");
        assert_eq!(names(&[told(Some(false), false)]), 0, "a backend's own");
        assert!(explains(&down, &["db"]) && !explains(&silent, &["db"]) && !explains(&down, &[]));
    }
}
