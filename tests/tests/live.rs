//! `cargo xtask bench --live`: every contender works and is measured, and nothing is left. Needs root, and Debian's iperf3, wrk, nginx,
//! haproxy and nftables. Times mean nothing here; that the kernel's NAT costs more than ours holds on any machine.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Its process id, and what it printed.
fn bench(change: impl FnOnce(&mut Command)) -> (u32, Output) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zdd-bench"));
    command.args(["--live", "--quick", "--rounds", "1", "--json"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    change(&mut command);
    let child = command.spawn().expect("the command starts");
    (child.id(), child.wait_with_output().expect("it ends"))
}

fn row<'a>(report: &'a Value, case: &str, program: &str) -> &'a Value {
    let mut rows = report["rows"].as_array().expect("rows").iter();
    let found = rows.find(|row| {
        row["case"].as_str().is_some_and(|text| text.contains(case)) && row["program"] == program
    });
    found.unwrap_or_else(|| panic!("no {case}, {program} in {report:#}"))
}

#[test]
fn frames_and_tcp_are_measured_through_everything_and_nothing_is_left() {
    let (pid, out) = bench(|_| {});
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8_lossy(&out.stdout);
    let report: Value =
        serde_json::from_str(text.lines().last().unwrap_or_default()).expect("one JSON object");
    let number = |row: &Value, name: &str| row[name].as_f64().unwrap_or_else(|| panic!("no {name} in {row}"));
    for program in ["floor: XDP_TX", "floor: redirect", "floor: stateless", "forwarding"] {
        assert!(number(row(&report, "live frames", program), "median_ns") > 0.0);
    }
    for case in ["live frames", "iperf3", "kept alive", "one connection each"] {
        for program in ["zdd l2", "zdd ipip", "zdd nat", "nftables DNAT"] {
            let row = row(&report, case, program);
            for name in ["median_ns", "cpu_ns", "balancer_ns", "ratio_to_floor", "cpu_ratio_to_floor"] {
                assert!(number(row, name) > 0.0, "{row}");
            }
        }
    }
    let balancer = |case, program| number(row(&report, case, program), "balancer_ns");
    assert!(balancer("live frames", "zdd nat") < balancer("live frames", "nftables DNAT"));
    assert!(balancer("one connection each", "zdd nat") < balancer("one connection each", "HAProxy (tcp)"));
    assert!(row(&report, "iperf3", "direct")["balancer_ns"].is_null(), "nobody is in the middle");
    let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let own = format!("zdd-{}-", pid);
    let left: Vec<_> =
        names.map(|entry| entry.file_name()).filter(|n| n.to_string_lossy().starts_with(&own)).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_program_that_is_missing_is_named_with_the_way_to_get_it() {
    let (_, out) = bench(|command| {
        command.env("PATH", "/nonexistent");
    });
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success());
    assert!(
        text.contains("iperf3") && text.contains("wrk") && text.contains("scripts/setup.sh --bench"),
        "{text}"
    );
}
