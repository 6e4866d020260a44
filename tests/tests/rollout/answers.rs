//! Hooks that hang, and measurements that say nothing.

use zdd_tests::rig::Result;
use zdd_tests::world::unharmed;

use crate::{STEPS, analyses, canary, lines, wait_rollout, with};

#[test]
fn a_hook_that_hangs_is_given_up_and_everything_stays_where_it_is() -> Result<()> {
    let hook = "[[service.rollout.hook]]\non = \"pre-rollout\"\nexec = [\"/bin/sleep\", \"3600\"]\n\
                timeout = \"10m\"\nretries = 1\ninterval = \"100ms\"\n";
    let (mut world, _page) = with(canary("", STEPS) + hook)?;
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    // While it hangs, the agent answers.
    wait_rollout(&world, "the hook", |r| {
        r["waits_for"][0].as_str().is_some_and(|w| w.contains("pre-rollout"))
    })?;
    world.zdd().run(&["rollout", "abort", "web"])?;
    world.setup.rollout = Some(canary("", STEPS) + &hook.replace("\"10m\"", "\"300ms\""));
    world.write_config()?;
    world.zdd().run(&["apply", &world.config().display().to_string()])?;
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    let report = wait_rollout(&world, "the end", |r| r["phase"] == "rolled-back" && r["id"] == 2)?;
    assert_eq!(report["why"], "a pre-rollout hook failed: no answer within 300ms");
    assert!(lines(&report).iter().all(|line| !line.contains("10%")), "{report:#}");
    Ok(())
}

#[test]
fn what_is_unreachable_or_no_number_is_never_a_success() -> Result<()> {
    let (world, page) = with(canary("", STEPS))?;
    page.says("{\"errors\": \"NaN\"}");
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    let report = wait_rollout(&world, "the limit", |r| r["phase"] == "rolled-back")?;
    let why = report["why"].as_str().unwrap_or_default();
    assert!(why.contains("3 inconclusive, 2 are tolerated") && why.contains("NaN"), "{why}");
    assert_eq!(report["analyses"][0]["successes"], 0);
    drop(page);
    world.zdd().run(&["rollout", "retry", "web"])?;
    let report = wait_rollout(&world, "the limit", |r| r["phase"] == "rolled-back" && r["id"] == 2)?;
    let why = report["why"].as_str().unwrap_or_default();
    assert!(why.contains("3 errors in a row, 2 are tolerated") && why.contains("cannot connect"), "{why}");
    assert!(
        lines(&report).iter().all(|line| !line.contains("50%")),
        "it stayed on the first step: {report:#}"
    );
    Ok(())
}

#[test]
fn without_enough_traffic_a_success_is_inconclusive() -> Result<()> {
    let few = analyses().replace("name = \"errors\"", "name = \"errors\"\nmin_samples = 5");
    // Few clients: so large a share that every hash key gives the candidate some of them.
    let text = format!(
        "[service.rollout]\nstrategy = \"canary\"\nsteps = [{{ weight = 40 }}, {{ pause = \"300ms\" }}]\n{few}"
    );
    let (world, _page) = with(text)?;
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    let report = wait_rollout(&world, "the limit", |r| r["phase"] == "rolled-back")?;
    let why = report["why"].as_str().unwrap_or_default();
    assert!(why.contains("of 0 new flows, 5 are needed"), "{why}");
    let load = world.load(10)?;
    // Some 50 for v2 in each interval, where 5 are needed: a busy machine may begin far fewer than it was told to.
    load.set_rate(300);
    let (status, report) = world.zdd().json_any(&["rollout", "retry", "web", "--wait", "--timeout", "5m"])?;
    assert_eq!(status.code(), Some(0), "{report:#}");
    unharmed(&load.finish());
    Ok(())
}
