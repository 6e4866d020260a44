//! The demo without a balancer, from the command line to the JSON. Needs root.

use std::process::Command;

fn demo() -> Command {
    Command::new(env!("CARGO_BIN_EXE_zdd-demo"))
}

fn scratch(name: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("zdd-demo-test-{}-{name}", std::process::id()))
}

#[test]
fn the_direct_demo_ends_with_one_line_of_json_and_a_chart() {
    let svg = scratch("direct.svg");
    let out = demo()
        .args([
            "--direct",
            "--quick",
            "--json",
            "--long-lived",
            "20",
            "--rate",
            "50",
            "--udp",
            "5",
            "--clients",
            "10",
            "--svg",
        ])
        .arg(&svg)
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    let last: serde_json::Value =
        serde_json::from_str(text.lines().last().expect("it prints")).expect("JSON");
    assert_eq!(last["long_lived"], serde_json::json!({"total": 20, "broken": 0, "moved": 0}), "{last}");
    assert_eq!(last["short"]["failed"], 0, "{last}");
    let chart = std::fs::read_to_string(&svg).expect("a chart");
    std::fs::remove_file(&svg).expect("it is removed");
    assert!(chart.starts_with("<svg") && chart.contains("long-lived connections"));
}

#[test]
fn an_agent_that_does_not_start_is_shown_with_its_last_words() {
    let svg = scratch("never.svg");
    let out = demo().args(["--quick", "--zdd", "/bin/ls", "--svg"]).arg(&svg).output().expect("it starts");
    let error = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{error}");
    // The words are those of ls, which knows no --socket.
    assert!(error.contains("/bin/ls") || error.contains("/ls ended"), "{error}");
    assert!(error.contains("--socket"), "{error}");
    assert!(!svg.exists());
}
