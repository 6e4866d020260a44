//! Scrapes over loopback.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::*;
use crate::http::{CONNECTIONS, HEAD_LIMIT};
use crate::shutdown::Trigger;

/// What the agent's own answer would be, in JSON because that is how people read it.
fn sample() -> Snapshot {
    let backend = |address: &str, health: &str, n: u64| {
        serde_json::json!({
            "address": address, "weight": 1, "health": health, "reason": null, "state": "active", "flows": n,
            "packets": 10 * n, "bytes": 1000 * n, "new_flows": n, "next_hop": "",
            "last_failure": null, "last_failure_ms_ago": null, "depends": [],
        })
    };
    let version = |name: &str, asked: f64, share: f64, backends: serde_json::Value| {
        serde_json::json!({
            "name": name, "role": "stable", "asked": asked, "share": share, "draining": false, "flows": 7, "new_flows": 8,
            "packets": 70, "bytes": 7000, "backends": backends,
        })
    };
    let service = serde_json::json!({
        "name": "web", "vip": "", "vips": [], "affinity": "client", "forward": "nat", "generation": 12, "cells": 1024,
        "groups": 512, "dirty_cells": 42, "alarm": "look", "notes": [],
        "cohorts": [{ "name": "staff", "prefixes": 3, "version": "v2", "waits": null, "new_flows": 9 }],
        "preview": { "vips": ["10.0.0.11:80/tcp"], "version": "v2", "alarm": null },
        "counters": { "packets": u64::MAX, "bytes": 10_000, "new_flows": 10, "learned": 3, "insert_failed": 1, "denied": 4 },
        "versions": [
            version("v1", 0.9, 0.90002, serde_json::json!([backend("10.1.0.1:8080", "healthy", 7)])),
            version("v2", 0.1, 0.09998, serde_json::json!([backend("[fd00::1]:8080", "unhealthy", 0)])),
        ],
    });
    let quota = |used: u64| serde_json::json!({ "used": used, "limit": 100 });
    let interface = |name: &str, attached: bool| serde_json::json!({ "name": name, "index": 1, "mode": "native", "attached": attached, "note": null });
    let rollout = serde_json::json!({
        "service": "web", "id": 1, "revision": 1, "strategy": "canary", "stable": "v1", "candidate": "v2", "phase": "running",
        "why": null, "weight": 0.25, "paused": "by hand", "gate_closed": false, "waits_for": [], "steps": [], "analyses": [],
        "started_unix_ms": 0, "watched_ms": 0, "log": [],
    });
    let status = serde_json::json!({
        "build": "zdd 0.1.0 \"test\"", "pid": 1, "services": [service],
        "flow_table": {
            "capacity": 262_144, "entries": 12, "half": 5, "established": 6, "dead": 1,
            "quotas": { "half": quota(5), "learned": quota(2), "promoted": quota(4) },
        },
        "syn_filter": { "bytes": 4096, "fill": 0.25 },
        "reasons": { "settled": 100 },
        "interfaces": [interface("eth0", true), interface("eth1", false)],
        "probes": 77, "probes_late": 6,
    });
    let whole = serde_json::json!({ "unix_ms": 1, "status": status, "rollouts": [rollout] });
    serde_json::from_value(whole).expect("a snapshot")
}

async fn start<S: Source>(source: S) -> (SocketAddr, Trigger, tokio::task::JoinHandle<()>) {
    let server = MetricsServer::bind("127.0.0.1:0".parse().expect("address"), source).await.expect("bound");
    let (trigger, shutdown) = Shutdown::new();
    let address = server.local_addr();
    (address, trigger, tokio::spawn(server.serve(shutdown)))
}

async fn ask(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connect");
    // The server may answer and close before a request that is too large was read.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ =
        tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await.expect("an end");
    String::from_utf8(answer).expect("text")
}

async fn get(address: SocketAddr, path: &str) -> String {
    ask(address, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await
}

/// Samples by name and labels, after checking the text's shape: every sample follows the TYPE line of its family.
fn parse(answer: &str) -> BTreeMap<String, f64> {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    let mut samples = BTreeMap::new();
    let (mut family, mut kind) = (String::new(), String::new());
    for line in body.lines() {
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, of) = typed.split_once(' ').expect("a type");
            (family, kind) = (name.into(), of.into());
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').expect("a sample");
            let bare = name.split('{').next().expect("a name");
            let suffix = match kind.as_str() {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            assert_eq!(bare, format!("{family}{suffix}"), "outside of its family");
            let old = samples.insert(name.to_string(), value.parse().expect("a number"));
            assert_eq!(old, None, "{name} twice");
        }
    }
    samples
}

#[tokio::test]
async fn a_scrape_shows_every_family_with_its_labels_and_values() {
    let (address, _trigger, _task) = start(|| Ok(sample())).await;
    let answer = get(address, "/metrics").await;
    let samples = parse(&answer);
    for (name, value) in [
        (r#"zdd_service_packets_total{service="web"}"#, u64::MAX as f64),
        (r#"zdd_service_bytes_total{service="web"}"#, 10_000.0),
        (r#"zdd_new_flows_total{service="web"}"#, 10.0),
        (r#"zdd_learned_flows_total{service="web"}"#, 3.0),
        (r#"zdd_insert_failures_total{service="web"}"#, 1.0),
        (r#"zdd_service_fallback_packets_total{service="web"}"#, 0.0),
        (r#"zdd_service_refused_packets_total{service="web",why="denied"}"#, 4.0),
        (r#"zdd_service_refused_packets_total{service="web",why="limited"}"#, 0.0),
        (r#"zdd_dirty_cells{service="web"}"#, 42.0),
        (r#"zdd_cohort_new_flows_total{service="web",cohort="staff"}"#, 9.0),
        (r#"zdd_cohort_prefixes{service="web",cohort="staff"}"#, 3.0),
        (r#"zdd_cohort_leads{service="web",cohort="staff"}"#, 1.0),
        (r#"zdd_preview{service="web",version="v1"}"#, 0.0),
        (r#"zdd_preview{service="web",version="v2"}"#, 1.0),
        (r#"zdd_version_share_ratio{service="web",version="v1"}"#, 0.90002),
        (r#"zdd_version_asked_ratio{service="web",version="v2"}"#, 0.1),
        (r#"zdd_backend_healthy{service="web",version="v1",backend="10.1.0.1:8080"}"#, 1.0),
        (r#"zdd_backend_healthy{service="web",version="v2",backend="[fd00::1]:8080"}"#, 0.0),
        (r#"zdd_backend_packets_total{service="web",version="v1",backend="10.1.0.1:8080"}"#, 70.0),
        (r#"zdd_backend_bytes_total{service="web",version="v1",backend="10.1.0.1:8080"}"#, 7000.0),
        (r#"zdd_backend_new_flows_total{service="web",version="v1",backend="10.1.0.1:8080"}"#, 7.0),
        (r#"zdd_flow_entries{state="half_open"}"#, 5.0),
        (r#"zdd_flow_entries{state="established"}"#, 6.0),
        ("zdd_flow_capacity", 262_144.0),
        ("zdd_syn_filter_fill_ratio", 0.25),
        ("zdd_probes_total", 77.0),
        ("zdd_probes_late_total", 6.0),
        (r#"zdd_packets_total{reason="settled"}"#, 100.0),
        (r#"zdd_flow_quota_used{class="learned"}"#, 2.0),
        (r#"zdd_flow_quota_limit{class="promoted"}"#, 100.0),
        (r#"zdd_service_alarm{service="web"}"#, 1.0),
        (r#"zdd_service_generation{service="web"}"#, 12.0),
        (r#"zdd_version_new_flows_total{service="web",version="v1"}"#, 8.0),
        (r#"zdd_backend_flows{service="web",version="v1",backend="10.1.0.1:8080"}"#, 7.0),
        (r#"zdd_rollout_phase{service="web",phase="running"}"#, 1.0),
        (r#"zdd_rollout_phase{service="web",phase="frozen"}"#, 0.0),
        (r#"zdd_rollout_weight_ratio{service="web"}"#, 0.25),
        (r#"zdd_rollout_held{service="web"}"#, 1.0),
        (r#"zdd_interface_attached{interface="eth0",mode="native"}"#, 1.0),
        (r#"zdd_interface_attached{interface="eth1",mode="native"}"#, 0.0),
        (r#"zdd_build_info{build="zdd 0.1.0 \"test\""}"#, 1.0),
    ] {
        assert_eq!(samples.get(name), Some(&value), "{name} in\n{answer}");
    }
    // Counters are whole numbers, also beyond what a float holds.
    assert!(answer.contains(&format!(" {}\n", u64::MAX)), "{answer}");
    assert!(
        answer.contains("# HELP zdd_service_bytes Bytes steered.\n# TYPE zdd_service_bytes counter\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn single_backends_can_be_left_out() {
    let (address, _trigger, _task) = start(|| Ok(sample())).await;
    let all = parse(&get(address, "/metrics").await);
    let fewer = parse(&get(address, "/metrics?backends=off").await);
    let gone = all.keys().filter(|name| !fewer.contains_key(*name));
    let backends = all.keys().filter(|name| name.starts_with("zdd_backend_"));
    assert!(backends.clone().count() > 5 && gone.eq(backends), "{fewer:?}");
    let other = get(address, "/metrics?backends=no").await;
    assert!(other.starts_with("HTTP/1.1 400") && other.contains("only backends=off"), "{other}");
}

#[tokio::test]
async fn an_agent_without_services_can_be_scraped() {
    let (address, _trigger, _task) = start(|| Ok(Snapshot::default())).await;
    let samples = parse(&get(address, "/metrics").await);
    assert_eq!(samples.get("zdd_flow_capacity"), Some(&0.0));
    assert!(samples["process_resident_memory_bytes"] > 1e6 && samples["process_start_time_seconds"] > 1e9);
    assert!(!samples.keys().any(|name| name.starts_with("zdd_service")), "{samples:?}");
}

#[tokio::test]
async fn a_failed_snapshot_is_a_503_with_its_reason() {
    let (address, _trigger, _task) = start(|| Err("map services cannot be read".to_string())).await;
    let answer = get(address, "/metrics").await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.ends_with("map services cannot be read\n"),
        "{answer}"
    );
}

struct Sick;

impl Source for Sick {
    fn snapshot(&self) -> Result<Snapshot, String> {
        panic!("a bug");
    }

    fn healthy(&self) -> Result<(), String> {
        Err("reconcile stuck".into())
    }
}

#[tokio::test]
async fn healthz_says_how_the_agent_is() {
    let (address, _trigger, _task) = start(|| Ok(sample())).await;
    let answer = get(address, "/healthz").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
    let (address, _trigger, _task) = start(Sick).await;
    let answer = get(address, "/healthz").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("reconcile stuck\n"), "{answer}");
    // A source that panics costs its scrape and nothing more.
    assert!(get(address, "/metrics").await.starts_with("HTTP/1.1 503"));
    assert!(get(address, "/healthz").await.ends_with("reconcile stuck\n"));
}

#[tokio::test]
async fn what_is_not_served_is_refused() {
    let (address, _trigger, _task) = start(|| Ok(sample())).await;
    assert!(get(address, "/").await.starts_with("HTTP/1.1 404"));
    let post = ask(address, b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await;
    assert!(post.starts_with("HTTP/1.1 405") && post.contains("allow: GET"), "{post}");
    let huge = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(4 * HEAD_LIMIT));
    assert!(!ask(address, huge.as_bytes()).await.starts_with("HTTP/1.1 200"));
    assert!(!ask(address, b"\x16\x03\x01\x02\x00 not http\r\n\r\n").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn clients_beyond_the_limit_wait_their_turn_and_scrapes_never_overlap() {
    let running = Arc::new(AtomicUsize::new(0));
    let source = {
        let running = running.clone();
        move || {
            assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "two at the same time");
            // What reading the maps costs: long enough for the others to come in between.
            std::thread::sleep(Duration::from_millis(1));
            running.fetch_sub(1, Ordering::SeqCst);
            Ok(sample())
        }
    };
    let (address, _trigger, _task) = start(source).await;
    let mut clients = JoinSet::new();
    for _ in 0..4 * CONNECTIONS {
        clients.spawn(async move { get(address, "/metrics").await });
    }
    let answers = clients.join_all().await;
    assert_eq!(answers.len(), 4 * CONNECTIONS);
    for answer in answers {
        parse(&answer);
    }
}

#[tokio::test]
async fn an_address_that_is_taken_or_public_is_told_with_the_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = taken.local_addr().expect("address");
    let error = MetricsServer::bind(address, || Ok(sample())).await.err().expect("taken").to_string();
    assert!(
        error.starts_with(&format!("cannot serve metrics on {address}: Address already in use")),
        "{error}"
    );
    assert!(error.contains("agent.metrics"), "{error}");

    let public = "0.0.0.0:0".parse().expect("address");
    let error = MetricsServer::bind(public, || Ok(sample())).await.err().expect("public").to_string();
    assert!(error.contains("0.0.0.0:0 is not a loopback address"), "{error}");
}

#[tokio::test]
async fn the_shutdown_ends_it_also_with_a_silent_client() {
    let (address, trigger, task) = start(|| Ok(sample())).await;
    let _silent = TcpStream::connect(address).await.expect("connect");
    trigger.start();
    tokio::time::timeout(Duration::from_secs(60), task).await.expect("in time").expect("no panic");
}
