//! What holds a rollout: a stopped line, freeze windows, and backends that could not bear it.

use zdd_tests::rig::Result;
use zdd_tests::world::status::{service, told};
use zdd_tests::world::{as_before, unharmed};

use crate::{STEPS, WAITS, asked, canary, lines, rollout, wait_rollout, wait_weight, with};

#[test]
fn a_stopped_line_holds_every_rollout_also_after_a_kill_until_it_is_released() -> Result<()> {
    let (mut world, _page) = with(canary("", STEPS))?;
    let said = world.zdd().run(&["rollout", "stop-the-line", "--reason", "incident 42"])?;
    assert!(said.contains("the line is stopped (incident 42)"), "{said}");
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    for name in ["web", "echo"] {
        assert!(told(service(&world.status()?, name)).contains("incident 42"), "{name} does not tell");
    }
    world.kill_agent();
    world.start_agent()?;
    let report = wait_rollout(&world, "time to pass", |r| r["watched_ms"].as_u64() > Some(1_000))?;
    assert_eq!((report["weight"].as_f64(), asked(&world, "v2")?), (Some(0.0), 0.0), "{report:#}");
    assert!(report["waits_for"][0].as_str().is_some_and(|w| w.contains("incident 42")), "{report:#}");
    world.zdd().run(&["rollout", "release-the-line"])?;
    let report = wait_rollout(&world, "the end", |r| r["phase"] == "promoted")?;
    assert!(lines(&report).iter().any(|line| line.starts_with("not held any more")), "{report:#}");
    Ok(())
}

#[test]
fn in_a_freeze_window_no_weight_rises_unless_the_glass_is_broken_and_then_the_reason_is_kept() -> Result<()> {
    let (world, _page) = with(canary("freeze = [\"2000-01-01 to 2999-12-31\"]", STEPS))?;
    let load = world.load(10)?;
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    let report = wait_rollout(&world, "time to pass", |r| r["watched_ms"].as_u64() > Some(1_000))?;
    assert_eq!(report["weight"], 0.0, "{report:#}");
    assert!(report["waits_for"][0].as_str().is_some_and(|w| w.contains("freeze window")), "{report:#}");
    world.refused(&["rollout", "resume", "web", "--break-glass"])?.says(2, &["--reason"]);
    // Aborting needs no glass.
    world.zdd().run(&["rollout", "abort", "web"])?;
    let glass = [
        "rollout",
        "start",
        "web",
        "v2",
        "--break-glass",
        "--reason",
        "outage 7",
        "--wait",
        "--timeout",
        "5m",
    ];
    let (status, report) = world.zdd().json_any(&glass)?;
    assert_eq!((status.code(), report["phase"].as_str()), (Some(0), Some("promoted")), "{report:#}");
    let history = world.zdd().json(&["rollout", "history", "web"])?;
    let kept = history["rollouts"][1]["log"].to_string();
    assert!(kept.contains("the glass was broken: outage 7"), "{kept}");
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn no_weight_goes_where_too_few_healthy_backends_are_neither_forth_nor_back() -> Result<()> {
    let guarded =
        format!("capacity = {{ min_healthy = \"100%\" }}\n{}", canary("", WAITS).replace(">= 1", ">= 0"));
    let (mut world, _page) = with(guarded)?;
    world.set_health(&[3], false)?;
    let start = ["rollout", "start", "web", "v2"];
    world.refused(&start)?.says(1, &["v2 could not bear 100%", "1 of its 2 backends", "help: "]);
    world.refused(&["shift", "web", "v2=10%"])?.says(1, &["v2 could not bear 10%"]);
    world.set_health(&[3], true)?;
    world.zdd().run(&start)?;
    wait_weight(&world, 0.1)?;
    world.set_health(&[1], false)?;
    world.zdd().run(&["rollout", "abort", "web"])?;
    let report = rollout(&world)?;
    assert_eq!((report["phase"].as_str(), asked(&world, "v2")?), (Some("rolling-back"), 0.1), "{report:#}");
    assert!(report["waits_for"][0].as_str().is_some_and(|w| w.contains("v1 could not bear")), "{report:#}");
    // Mended, it goes back by itself.
    world.set_health(&[1], true)?;
    wait_rollout(&world, "the way back", |r| r["phase"] == "rolled-back")?;
    assert_eq!(asked(&world, "v1")?, 1.0);
    Ok(())
}
