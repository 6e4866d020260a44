//! `cargo xtask bench-control`: the figures that do not depend on how busy the machine is. Needs root.

use std::process::Command;

use serde_json::Value;

fn measure(parts: &str) -> Value {
    let out = Command::new(env!("CARGO_BIN_EXE_zdd-bench-control"))
        .args(["--quick", "--json", "--only", parts])
        .output()
        .expect("the command runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("one JSON object")
}

fn figure(report: &Value, case: &str, size: &str) -> f64 {
    let rows = report["rows"].as_array().expect("rows");
    let row = rows
        .iter()
        .find(|row| row["case"] == case && row["size"].as_str().is_some_and(|text| text.contains(size)));
    row.and_then(|row| row["median"].as_f64()).unwrap_or_else(|| panic!("no {case} {size} in {report:#}"))
}

#[test]
fn the_kernel_accounts_nothing_for_settled_connections_and_what_the_readme_says_for_the_rest() {
    let report = measure("memory");
    assert_eq!(figure(&report, "memory: a settled connection", "0 entries"), 0.0);
    let each = |what: &str| figure(&report, &format!("memory: {what}"), "");
    assert!((each("a slot (cell)") - 8.0).abs() < 0.1);
    assert!((each("a flow entry") - 48.0).abs() < 0.1);
    assert!((each("a flow followed for signals") - 64.0).abs() < 1.0);
    assert!((each("a flow mapped by snat") - 56.0).abs() < 1.0);
    assert!((each("signals of a backend") - 1792.0).abs() < 8.0);
    assert!(each("a prefix of an access list") < 2.5 * 64.0);
    // Beside what is the same everywhere, 48 B (a service: 32 B more) for each CPU the kernel may have, and its own records.
    let cpus = report["cpus"].as_f64().expect("a number");
    assert!(each("a service without its cells") < 290.0 + 104.0 * cpus);
    assert!(each("a nat backend") < 210.0 + 64.0 * cpus);
}

#[test]
fn an_idle_agent_maps_what_it_uses_and_not_all_that_its_limits_allow() {
    let report = measure("idle");
    // With the default limits 16 MiB of cells and 7 MiB of signals, of which ten services use a tenth and nothing.
    let mapped = figure(&report, "of that, mapped kernel tables", "");
    assert!(mapped > 1e6 && mapped < 25.0 * 1024.0 * 1024.0, "{mapped} bytes");
    // What a start has needed is given back: kept, it was 14.
    let own = figure(&report, "of that, its own data", "");
    assert!(own > 1e5 && own < 9.0 * 1024.0 * 1024.0, "{own} bytes");
    let woken = figure(&report, "times that it woke in a second", "");
    assert!(woken > 0.0 && woken < 8.0, "{woken} times a second");
    // About eight probes begin together, and so do their answers come: 0.3. Each at its own time it is 1.7.
    let woken = figure(&report, "a probe, times that the agent woke", "30 backends");
    assert!(woken > 0.0 && woken < 0.9, "{woken} times");
}

#[test]
fn a_row_is_published_without_a_system_call_per_cell() {
    // 65,536 system calls take 10 ms of CPU time on any machine; copying the row takes less than half a millisecond in a debug
    // build too.
    let report = measure("publish");
    assert!(figure(&report, "publish: row and commit, 0 system calls", "65536 cells") < 5e-3);
}
