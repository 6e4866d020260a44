//! What testers and probers on the preview VIP are to a rollout: a word in its decision, and never a user.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use serde_json::{Value, json};
use zdd_tests::rig::{self, Error, Forward, PREVIEW, Result, v4, wait_for};
use zdd_tests::world::status::version;
use zdd_tests::world::{
    LOOK_EVERY, PATIENCE, Setup, WEB_PORT, World, as_before, ask_from, goes_on, unharmed,
};

use crate::page::Page;
use crate::{GOOD, PAGE, asked, wait_rollout};

/// A page that is read for a decision which needs this many new flows of the candidate.
fn read(more: &str, samples: u32) -> String {
    format!(
        "[[service.rollout.analysis]]\nname = \"prober\"\ninterval = \"300ms\"\nmin_samples = {samples}\n\
         inconclusive_limit = 50\n{more}\n\
         web = {{ url = \"http://{PAGE}/prober\", json = \"$.errors\", success = \"<= 0.01\" }}\n"
    )
}

fn sampled(world: &World, name: &str) -> Result<u64> {
    let status = world.status()?;
    let signals = &version(&status, "web", name)["signals"];
    assert!(signals.is_object(), "{status}");
    Ok(signals["counts"]["new"].as_u64().unwrap_or_else(|| panic!("no new flows in {signals}")))
}

/// Many testers are no user: the step that asks for users waits, and the comparison of versions sees none of them.
fn testers_are_no_samples(forward: Forward) -> Result<()> {
    let signals = "[service.signals]\nsample = \"1\"\n";
    let canary = "[service.rollout]\nstrategy = \"canary\"\nsteps = [{ weight = 50 }]\n";
    let rollout = format!("{signals}{canary}{}", read("", 5));
    let setup = Setup { rollout: Some(rollout), forward, preview: true, ..Setup::default() };
    let world = World::running(setup)?;
    let _page = Page::start(&world.rig, GOOD)?;
    let testers = world.preview_load(5, 0)?;
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    let looked = |r: &Value| r["analyses"][0]["inconclusive"].as_u64() >= Some(4);
    let report = wait_rollout(&world, "some looks", looked)?;
    goes_on(&testers)?;
    assert_eq!((report["weight"].as_f64(), &report["analyses"][0]["successes"]), (Some(0.5), &json!(0)));
    let last = report["analyses"][0]["last"].to_string();
    assert!(last.contains("of 0 new flows, 5 are needed"), "{last}");
    assert_eq!((sampled(&world, "v1")?, sampled(&world, "v2")?), (0, 0), "signals are of users");
    // With users it goes on, and they are sampled.
    let users = world.load(5)?;
    wait_rollout(&world, "the end", |r| r["phase"] == "promoted")?;
    assert!(sampled(&world, "v2")? > 0);
    unharmed(&testers.finish());
    unharmed(&users.finish());
    Ok(())
}

#[test]
fn testers_are_nobodys_samples_under_l2() -> Result<()> {
    testers_are_no_samples(Forward::L2)
}

#[test]
fn testers_are_nobodys_samples_under_snat() -> Result<()> {
    testers_are_no_samples(Forward::Snat)
}

/// A prober on the clients' side of the balancer, through XDP, to a version that has no user yet; what it meets is what decides.
#[test]
fn a_prober_on_the_clients_path_decides_before_any_user_meets_the_candidate() -> Result<()> {
    let rollout = format!(
        "[service.rollout]\nstrategy = \"blue-green\"\nauto_promote = true\n{}",
        read("on = \"pre-promotion\"", 1)
    );
    let setup = Setup { rollout: Some(rollout), preview: true, ..Setup::default() };
    let world = World::running(setup)?;
    let page = Page::start(&world.rig, "{\"errors\": null}")?;
    let users = world.load(10)?;
    // The hosts of v2 have lost their way back to whoever is not next to them: health checks pass, and no client would get an answer.
    let way_back = |change: &str| -> Result<()> {
        let lines = [format!("route {change} blackhole 10.80.0.0/16")];
        ["b3", "b4"].iter().try_for_each(|b| world.rig.ns(b).ip_batch(&lines))
    };
    way_back("add")?;
    let (stop, errors) = (AtomicBool::new(false), AtomicU8::new(u8::MAX));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in (0..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                let met = ask_from(world.rig.ns("c"), rig::client_address(i), 0, v4(PREVIEW, WEB_PORT));
                let bad = u8::from(!met.is_ok_and(|met| met.version == "v2"));
                page.says(&format!("{{\"errors\": {bad}}}"));
                errors.store(bad, Ordering::Relaxed);
                std::thread::sleep(LOOK_EVERY);
            }
        });
        let done = (|| {
            world.zdd().run(&["rollout", "start", "web", "v2"])?;
            let report = wait_rollout(&world, "the rollback", |r| r["phase"] == "rolled-back")?;
            assert!(report["why"].as_str().is_some_and(|why| why.contains("prober")), "{report:#}");
            assert_eq!(asked(&world, "v2")?, 0.0);
            assert_eq!(
                world.status()?.to_string().matches("\"unhealthy\"").count(),
                0,
                "nobody else has noticed"
            );
            as_before(&users)?;
            // Mended: the same prober lets it go on, to everybody.
            way_back("del")?;
            wait_for("the prober to be content", PATIENCE, LOOK_EVERY, || {
                Ok::<_, Error>((errors.load(Ordering::Relaxed) == 0).then_some(()))
            })?;
            world.zdd().run(&["rollout", "retry", "web"])?;
            wait_rollout(&world, "the promotion", |r| {
                r["id"] == 2 && asked(&world, "v2").is_ok_and(|w| w == 1.0)
            })?;
            as_before(&users)
        })();
        stop.store(true, Ordering::Relaxed);
        done
    })?;
    unharmed(&users.finish());
    Ok(())
}
