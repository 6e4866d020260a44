//! Whatever the kernel is: what it takes of zdd, what it refuses and where, and that `zdd doctor` and `zdd agent` say so.
//!
//! On a kernel below the floor these tests, and those of the backend's program, are what still holds.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use aya::EbpfLoader;
use aya::programs::{ProgramError, Xdp};
use zdd_agent::dataplane::probe;
use zdd_agent::dataplane::raw;

use crate::rig;

fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc").trim().to_owned()
}

/// Whether the balancer refuses to start here.
fn below() -> bool {
    probe::too_old(&release())
}

/// What the verifier said at last: where it gave up, and why.
fn last_words(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return error.to_string() };
    let log = verifier_log.to_string();
    // What it says at the end of every log, whatever the outcome.
    let told = ["verification time", "stack depth", "processed "];
    let lines: Vec<&str> = log.lines().map(str::trim).collect();
    let said =
        lines.iter().filter(|line| !line.is_empty() && !told.iter().any(|start| line.starts_with(start)));
    let said: Vec<&str> = said.copied().collect();
    format!("{io_error}; the verifier: {}", said[said.len().saturating_sub(3)..].join(" | "))
}

/// Loads each of the balancer's programs by itself: what the kernel said to it.
fn programs() -> Vec<(String, Result<(), String>)> {
    rig::alone();
    let dir = Path::new("/tmp/zdd-floor");
    fs::create_dir(dir).expect("a directory for pins");
    let mut ebpf = EbpfLoader::new()
        .default_map_pin_directory(dir)
        .load(&raw::object())
        .unwrap_or_else(|error| panic!("the maps are refused: {error:?}"));
    println!("{}: takes all {} maps", release(), ebpf.maps().count());
    let mut said = vec![];
    for (name, program) in ebpf.programs_mut() {
        let program: &mut Xdp = program.try_into().expect("an XDP program");
        said.push((name.to_owned(), program.load().map_err(|error| last_words(&error))));
    }
    said.sort();
    said
}

#[test]
fn all_maps_can_be_made_and_each_program_is_taken_or_refused_for_its_atomics() {
    if !below() {
        // The rig has them all.
        rig::with(|_| ());
        return;
    }
    let said = std::thread::spawn(programs).join().expect("a thread");
    for (name, result) in &said {
        match result {
            Ok(()) => println!("{}: takes {name}", release()),
            Err(why) => println!("{}: refuses {name}: {why}", release()),
        }
    }
    assert!(!said.is_empty());
    for (name, result) in said {
        let why = result.expect_err(&format!("{name} has atomics, which this kernel knows nothing of"));
        // Linux 5.10, kernel/bpf/verifier.c, resolve_pseudo_ldimm64: the immediate that names the operation since 5.12 must be 0.
        assert!(why.contains("BPF_STX uses reserved fields"), "{name}: {why}");
    }
}

fn zdd() -> Command {
    let binary = zdd_tests::rig::built("zdd").expect("zdd beside the tests: cargo build -p zdd-agent");
    let mut command = Command::new(binary);
    command.stdin(Stdio::null());
    command
}

#[test]
fn the_doctor_says_what_this_kernel_lacks_and_the_way_out() {
    let out = zdd().args(["--json", "doctor"]).output().expect("zdd doctor");
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
    });
    let findings = report["findings"].as_array().expect("findings");
    let of = |check: &str| findings.iter().filter(|f| f["check"] == check).collect::<Vec<_>>();
    for finding in of("kernel").iter().chain(&of("features")) {
        println!("doctor: {} {} {}", finding["level"], finding["what"], finding["fix"]);
    }
    let problems =
        |check: &str| of(check).into_iter().filter(|f| f["level"] == "problem").collect::<Vec<_>>();
    if !below() {
        assert!(problems("kernel").is_empty() && problems("features").is_empty(), "{report:#}");
        return;
    }
    assert_eq!(out.status.code(), Some(2), "{report:#}");
    let [kernel] = problems("kernel")[..] else { panic!("{report:#}") };
    assert!(kernel["what"].as_str().is_some_and(|what| what.contains(&release())), "{kernel}");
    assert!(kernel["fix"].as_str().is_some_and(|fix| fix.contains("5.15")), "{kernel}");
    let features = problems("features");
    let atomics = features.iter().find(|f| f["what"].to_string().contains("compare-and-swap"));
    let atomics = atomics.unwrap_or_else(|| panic!("atomics are not among {features:?}"));
    assert!(atomics["fix"].to_string().contains("5.12"), "{atomics}");
}

/// Runs it for so long at the most.
fn within(mut command: Command, patience: Duration) -> Output {
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("zdd can be started");
    let begun = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if begun.elapsed() > patience {
            child.kill().expect("our own child");
            panic!("it runs on: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.wait_with_output().expect("its output")
}

#[test]
fn an_agent_that_cannot_run_here_says_why_before_it_touches_anything() {
    if !below() {
        println!("{}: agents run here; `tests/tests` is full of them", release());
        return;
    }
    let dir = std::env::temp_dir().join(format!("zdd-{}-floor", std::process::id()));
    fs::create_dir(&dir).expect("a directory");
    let path = |name: &str| dir.join(name).display().to_string();
    let config = format!(
        r#"
[agent]
interfaces = ["lo"]
mode = "generic"
pin_dir = "{}"
state_dir = "{}"
socket = "{}"
metrics = "off"

[[service]]
name = "web"
vip = "10.0.0.10:80/tcp"
forward = "nat"

[[service.version]]
name = "v1"
backends = ["10.1.0.1:80"]
"#,
        path("pins"),
        path("state"),
        path("sock")
    );
    fs::write(dir.join("zdd.toml"), config).expect("a file");
    let mut command = zdd();
    command.arg("agent").arg("--config").arg(dir.join("zdd.toml"));
    let out = within(command, Duration::from_secs(120));
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    for line in said.lines().filter(|line| line.contains("too old") || line.contains("help: ")) {
        println!("agent: {line}");
    }
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("Linux {} is too old", release())), "{said}");
    assert!(said.contains("5.15") && said.contains("help: "), "{said}");
    assert!(!dir.join("pins").exists(), "nothing is pinned");
    fs::remove_dir_all(&dir).expect("its own directory");
}
