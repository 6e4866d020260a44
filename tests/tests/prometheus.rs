//! The alert rules and the dashboard against a real Prometheus that scrapes a live agent. Needs root and prometheus (with promtool).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use zdd_tests::rig::{Proc, Result, run, wait_for};
use zdd_tests::world::{PATIENCE, Setup, World, curl, unharmed};

const SERVER: &str = "http://127.0.0.1:9090";
/// Prometheus' own start, and its first scrapes, on a busy machine.
const LONG: Duration = Duration::from_secs(180);
const CANARY: &str = "[service.rollout]\nstrategy = \"canary\"\nsteps = [{ cohort = \"staff\" }, { weight = 25 }, { pause = \"until-promoted\" }]\n";

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts")
}

fn promtool(args: &[&str]) -> Result<String> {
    let mut command = Command::new("promtool");
    command.args(args).current_dir(scripts().join("prometheus"));
    run(command)
}

/// Our own files, with a scrape each second and everything below `dir`.
fn start(world: &World) -> Result<Proc> {
    let dir = world.rig.scratch().path("prometheus");
    std::fs::create_dir_all(&dir).expect("a directory");
    let own =
        std::fs::read_to_string(scripts().join("prometheus/prometheus.yml")).expect("our configuration");
    let config = own.replace("interval: 15s", "interval: 1s");
    assert_ne!(own, config);
    std::fs::write(dir.join("prometheus.yml"), config).expect("written");
    std::fs::copy(scripts().join("prometheus/zdd.rules.yml"), dir.join("zdd.rules.yml")).expect("copied");
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", dir.join("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
    command.arg("--web.listen-address=127.0.0.1:9090");
    let server = world.rig.ns("lb").spawn_logged(command, &world.rig.scratch().path("prometheus.log"))?;
    wait_for("Prometheus to be ready", LONG, Duration::from_millis(100), || {
        Ok::<_, zdd_tests::rig::Error>(curl(world.rig.ns("lb"), None, &format!("{SERVER}/-/ready")).ok())
    })?;
    Ok(server)
}

/// An instant query's result.
fn query(world: &World, expression: &str) -> Result<Vec<Value>> {
    let text = world.rig.ns("lb").run(&[
        "curl",
        "--silent",
        "--show-error",
        "--max-time",
        "20",
        "--data-urlencode",
        &format!("query={expression}"),
        &format!("{SERVER}/api/v1/query"),
    ])?;
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(answer["status"], "success", "{expression}: {answer}");
    Ok(answer["data"]["result"].as_array().expect("a vector").clone())
}

/// What an expression selects: names with their matchers.
fn selectors(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut rest = expression;
    while let Some(at) = ["zdd_", "process_", "up{"].iter().filter_map(|name| rest.find(name)).min() {
        let whole = &rest[at..];
        let name = whole.find(|c| !letter(c)).unwrap_or(whole.len());
        let end = match whole[name..].strip_prefix('{') {
            Some(matchers) => name + 1 + matchers.find('}').expect("a closing brace") + 1,
            None => name,
        };
        found.insert(whole[..end].to_owned());
        rest = &whole[end..];
    }
    found
}

/// The queries of the dashboard, with what Grafana puts into them.
fn dashboard() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(scripts().join("grafana/zdd.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let mut all = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a title");
        assert!(panel["description"].as_str().is_some_and(|told| !told.is_empty()), "{title} says nothing");
        for target in panel["targets"].as_array().expect("queries") {
            let text = target["expr"].as_str().expect("an expression");
            let text =
                text.replace("$instance", ".*").replace("$service", ".*").replace("$__rate_interval", "20s");
            assert!(!text.contains('$'), "{text}");
            all.push((title.to_owned(), text));
        }
    }
    all
}

#[test]
fn the_rules_are_in_order_and_each_trouble_has_its_alert() -> Result<()> {
    let checked = promtool(&["check", "rules", "zdd.rules.yml"])?;
    assert!(checked.contains("SUCCESS"), "{checked}");
    let checked = promtool(&["check", "config", "prometheus.yml"])?;
    assert!(checked.contains("SUCCESS"), "{checked}");
    let tested = promtool(&["test", "rules", "zdd.rules.test.yml"])?;
    assert!(tested.contains("SUCCESS"), "{tested}");
    // None is left out of the tests.
    let read = |name: &str| std::fs::read_to_string(scripts().join("prometheus").join(name)).expect("a file");
    let tests = read("zdd.rules.test.yml");
    for line in read("zdd.rules.yml").lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("alertname=\"{line}\"")), "{line} is not tested");
    }
    Ok(())
}

#[test]
fn selectors_are_found_with_their_matchers() {
    let found = selectors("max by (a) (zdd_x{b=\"c\"}) / on (a) zdd_y_total > 0 and up{job=\"zdd\"} == 0");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["up{job=\"zdd\"}", "zdd_x{b=\"c\"}", "zdd_y_total"]);
}

#[test]
fn every_rule_and_panel_finds_its_numbers_in_a_live_agent() -> Result<()> {
    // With everything that has metrics of its own: signals, a cohort, a preview VIP, and with it ports of snat.
    let mut world = World::running(Setup {
        rollout: Some(CANARY.to_owned()),
        preview: true,
        api: "[cohort.staff]\ncidrs = [\"10.80.1.250/32\"]\n".to_owned(),
        idle_ms: 60_000,
        ..Setup::default()
    })?;
    let load = world.load(10)?;
    // A scrape has to be as promtool wants metrics: names, help, units.
    let text = curl(world.rig.ns("lb"), None, "http://127.0.0.1:9177/metrics")?;
    let file = world.write("metrics.txt", &text)?;
    // It reads the older text format, which has no infos and gives counters their whole names.
    let linted = Command::new("sh")
        .args([
            "-c",
            "sed -E '/^# (EOF|UNIT)/d; s/^# TYPE (.*) info$/# TYPE \\1_info gauge/; s/^# TYPE (.*) counter$/# TYPE \\1_total counter/' \"$0\" | promtool check metrics",
            &file.display().to_string(),
        ])
        .output()
        .expect("promtool runs");
    let said =
        String::from_utf8_lossy(&linted.stdout).into_owned() + &String::from_utf8_lossy(&linted.stderr);
    let bad: Vec<&str> = said.lines().filter(|line| !line.contains("no help text")).collect();
    assert_eq!(bad, Vec::<&str>::new(), "promtool check metrics");

    let _server = start(&world)?;
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    let expressions = dashboard();
    assert!(expressions.len() > 40, "{expressions:?}");
    let rules: Value =
        serde_json::from_str(&curl(world.rig.ns("lb"), None, &format!("{SERVER}/api/v1/rules"))?)
            .expect("JSON");
    let rules = rules["data"]["groups"][0]["rules"].as_array().expect("rules").clone();
    assert!(rules.len() >= 17, "{rules:?}");
    // Rates need two scrapes, and new flows of both versions.
    let mut missing = Vec::new();
    let found = wait_for("every panel and every rule to find data", LONG, Duration::from_millis(500), || {
        missing.clear();
        for (title, expression) in &expressions {
            if query(&world, expression)?.is_empty() {
                missing.push(format!("{title}: {expression}"));
            }
        }
        // What an alert compares must be there while there is nothing to alert about.
        for rule in &rules {
            for selector in selectors(rule["query"].as_str().unwrap_or_default()) {
                if query(&world, &selector)?.is_empty() {
                    missing.push(format!("{}: {selector}", rule["name"]));
                }
            }
        }
        Ok::<_, zdd_tests::rig::Error>(missing.is_empty().then_some(()))
    });
    assert!(found.is_ok(), "without data: {missing:#?}");
    // Prometheus' own view of the split is the agent's.
    let asked = query(&world, "zdd_version_asked_ratio{service=\"web\",version=\"v2\"}")?;
    assert_eq!(asked[0]["value"][1], "0.25", "{asked:?}");
    // And of trouble.
    world.set_health(&[3, 4], false)?;
    let alert = "ALERTS{alertname=\"ZddNoHealthyBackend\",service=\"web\",version=\"v2\"}";
    wait_for("an alert about v2", PATIENCE.max(LONG), Duration::from_millis(500), || {
        Ok::<_, zdd_tests::rig::Error>((!query(&world, alert)?.is_empty()).then_some(()))
    })?;
    let failed: Value =
        serde_json::from_str(&curl(world.rig.ns("lb"), None, &format!("{SERVER}/api/v1/rules"))?)
            .expect("JSON");
    for rule in failed["data"]["groups"][0]["rules"].as_array().expect("rules") {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    unharmed(&load.finish());
    Ok(())
}
