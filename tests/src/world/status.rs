//! Reading what `zdd status --json` said. A test that looks for what is not there is wrong, so these panic.

use serde_json::Value;

/// The service of that name.
///
/// # Panics
/// When there is none.
pub fn service<'v>(status: &'v Value, name: &str) -> &'v Value {
    named(&status["services"], "name", name)
}

/// The version of that name in a service.
///
/// # Panics
/// When there is none.
pub fn version<'v>(status: &'v Value, service_name: &str, name: &str) -> &'v Value {
    named(&service(status, service_name)["versions"], "name", name)
}

/// The backend of that address in a service.
///
/// # Panics
/// When there is none.
pub fn backend<'v>(status: &'v Value, service_name: &str, address: &str) -> &'v Value {
    match find_backend(status, service_name, address) {
        Some(found) => found,
        None => panic!("{service_name} has no backend {address}: {}", service(status, service_name)),
    }
}

/// The same, `None` when there is none.
pub fn find_backend<'v>(status: &'v Value, service_name: &str, address: &str) -> Option<&'v Value> {
    let versions = service(status, service_name)["versions"].as_array()?;
    versions.iter().filter_map(|v| v["backends"].as_array()).flatten().find(|b| b["address"] == address)
}

/// The interface of that name, `None` when the agent does not list it.
pub fn interface<'v>(status: &'v Value, name: &str) -> Option<&'v Value> {
    status["interfaces"].as_array()?.iter().find(|i| i["name"] == name)
}

/// A number.
///
/// # Panics
/// When it is none.
pub fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("no number {key:?} in {value}"))
}

/// A counter.
///
/// # Panics
/// When it is none.
pub fn count(value: &Value, pointer: &str) -> u64 {
    value
        .pointer(pointer)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("no count {pointer:?} in {value}"))
}

/// Notes of a service in one string, its alarm first.
pub fn told(service: &Value) -> String {
    let notes = service["notes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    service["alarm"].as_str().into_iter().chain(notes).collect::<Vec<_>>().join("\n")
}

fn named<'v>(list: &'v Value, key: &str, name: &str) -> &'v Value {
    match list.as_array().and_then(|all| all.iter().find(|v| v[key] == name)) {
        Some(found) => found,
        None => panic!("status has no {name:?}: {list}"),
    }
}

/// What was asked of one service. Not its generation, which settling and health raise by themselves.
#[derive(Clone, Debug, PartialEq)]
pub struct Intent {
    /// Service.
    pub service: String,
    /// Per version: name, asked share, whether it drains, and the states of its backends.
    pub versions: Vec<(String, f64, bool, Vec<String>)>,
}

/// What must outlive an agent: weights, drains, and counters.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Per service.
    pub intent: Vec<Intent>,
    /// Per service: comparable where nothing settles and no backend's health changes.
    pub generations: Vec<u64>,
    /// Per service: packets, bytes, new flows; then new flows and packets of each version.
    pub counters: Vec<u64>,
}

impl Kept {
    /// Reads it from a status.
    ///
    /// # Panics
    /// When the status is not one.
    pub fn of(status: &Value) -> Self {
        let mut kept = Self { intent: Vec::new(), generations: Vec::new(), counters: Vec::new() };
        for service in status["services"].as_array().into_iter().flatten() {
            let mut versions = Vec::new();
            for key in ["packets", "bytes", "new_flows"] {
                kept.counters.push(count(service, &format!("/counters/{key}")));
            }
            for version in service["versions"].as_array().into_iter().flatten() {
                let backends = version["backends"].as_array().into_iter().flatten();
                let states = backends.map(|b| format!("{} {}", b["address"], b["state"])).collect();
                let name = version["name"].as_str().unwrap_or_default().to_owned();
                versions.push((name, number(version, "asked"), version["draining"] == true, states));
                kept.counters.extend([count(version, "/new_flows"), count(version, "/packets")]);
            }
            let name = service["name"].as_str().unwrap_or_default().to_owned();
            kept.generations.push(count(service, "/generation"));
            kept.intent.push(Intent { service: name, versions });
        }
        kept
    }
}
