//! Preview VIPs: whoever dials one meets the version that is to be rolled out, and nobody else does.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use zdd_tests::rig::{self, Error, Families, Forward, PREVIEW, PREVIEW6, Result, v4, wait_for};
use zdd_tests::traffic::Load;
use zdd_tests::world::status::service;
use zdd_tests::world::{
    LOOK_EVERY, PATIENCE, Setup, WEB_PORT, World, as_before, ask_from, goes_on, unharmed,
};

use crate::page::Page;
use crate::{GOOD, analyses, asked, wait_rollout};

fn running(forward: Forward, families: Families) -> Result<(World, Page)> {
    let rollout = format!("[service.rollout]\nstrategy = \"blue-green\"\n{}", analyses());
    let setup = Setup { rollout: Some(rollout), forward, families, preview: true, ..Setup::default() };
    let world = World::running(setup)?;
    let page = Page::start(&world.rig, GOOD)?;
    Ok((world, page))
}

/// Versions (from 0) that short connections meet which begin from now on.
fn meets(load: &Load) -> Result<BTreeSet<u8>> {
    let from = load.now_us();
    goes_on(load)?;
    let ledger = load.ledger();
    Ok(ledger.begun(from, u64::MAX).map(|record| record.place.version).collect())
}

fn only(version: u8) -> BTreeSet<u8> {
    BTreeSet::from([version])
}

fn shown(world: &World) -> Result<Value> {
    Ok(service(&world.status()?, "web")["preview"].clone())
}

/// The file, with `from` replaced.
fn apply(world: &World, from: &str, to: &str) -> Result<String> {
    let text = world.setup.toml(world.rig.scratch().dir());
    assert!(text.contains(from), "{text}");
    let file = world.write("edited.toml", &text.replacen(from, to, 1))?.display().to_string();
    world.zdd().run(&["apply", &file])
}

/// Whom testers meet is what they are told before.
fn explained(world: &World, vips: &[String]) -> Result<()> {
    for vip in vips {
        let six = vip.starts_with('[');
        let from = if six { rig::client_address6(1).into() } else { IpAddr::from(rig::client_address(1)) };
        let from = SocketAddr::new(from, 9).to_string();
        let ask = ["explain", "web", "--from", &from];
        let said = |more: &[&str]| world.zdd().json(&[&ask, more].concat());
        let (users, testers) = (said(&[])?, said(&["--preview"])?);
        assert_eq!((&users["version"], users.get("preview")), (&json!("v1"), None));
        assert_eq!((&testers["version"], &testers["preview"]), (&json!("v2"), &json!(vip)));
        assert_ne!(testers["backend"], users["backend"]);
        let text = world.zdd().run(&[&ask[..], &["--preview"]].concat())?;
        assert!(text.contains(&format!("preview: {vip} is dialled")), "{text}");
        let text = world.zdd().run(&["who-moves", "web", "v2=10%", "--from", &from])?;
        let note = format!("the preview VIP {vip} stays: its new flows go to v2, whatever the weights");
        assert!(text.contains(&note), "{text}");
    }
    let plan = world.zdd().json(&["rollout", "plan", "web", "v2"])?;
    assert_eq!(plan["preview"], json!(vips));
    let text = world.zdd().run(&["rollout", "plan", "web", "v2"])?;
    assert!(text.contains(&format!("preview {}: new flows go to v2 from the start on", vips[0])), "{text}");
    Ok(())
}

/// v2 is looked at with 0 %, promoted, drained into, undone; an agent dies in between, and those who live on the preview VIP notice
/// nothing of it.
fn a_blue_green(forward: Forward, families: Families, udp: usize) -> Result<()> {
    let (mut world, _page) = running(forward, families)?;
    let users = world.load(20)?;
    let testers = world.preview_load(20, udp)?;
    let on = |load: &Load| {
        let ledger = load.ledger();
        (ledger.live_long[0], ledger.live_long[1], ledger.live_udp[0], ledger.live_udp[1])
    };
    let here = (0, 20, 0, udp as u32);
    assert_eq!((on(&testers), meets(&testers)?, meets(&users)?), (here, only(1), only(0)));
    let mut vips = vec![];
    vips.extend(families.v4().then(|| format!("{PREVIEW}:{WEB_PORT}/tcp")));
    vips.extend(families.v6().then(|| format!("[{PREVIEW6}]:{WEB_PORT}/tcp")));
    assert_eq!(shown(&world)?, json!({"vips": vips, "version": "v2", "alarm": null}));
    assert!(
        world.zdd().run(&["status"])?.contains(&format!("preview {}: new flows go to v2", vips.join(", ")))
    );
    explained(&world, &vips)?;

    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    wait_rollout(&world, "the waiting", |r| r["waits_for"].to_string().contains("promote"))?;
    world.kill_agent();
    assert_eq!((meets(&testers)?, meets(&users)?), (only(1), only(0)));
    world.start_agent()?;
    world.zdd().run(&["rollout", "promote", "web"])?;
    wait_rollout(&world, "the drain", |r| r["waits_for"].to_string().contains("v1 to be drained"))?;
    assert_eq!((meets(&testers)?, meets(&users)?), (only(1), only(1)));
    world.zdd().run(&["rollout", "abort", "web", "--reason", "ugly"])?;
    assert_eq!((asked(&world, "v2")?, shown(&world)?["version"].clone()), (0.0, json!("v2")));
    assert_eq!((meets(&testers)?, meets(&users)?), (only(1), only(0)));

    // Another version to look at: new ones go there, and those that live stay, also when all has settled.
    apply(&world, "preview = ", "preview_version = \"v1\"\npreview = ")?;
    assert_eq!((shown(&world)?["version"].clone(), meets(&testers)?), (json!("v1"), only(0)));
    world.wait_settled("web")?;
    as_before(&testers)?;
    assert_eq!(on(&testers), here);
    as_before(&users)?;
    unharmed(&testers.finish());
    unharmed(&users.finish());
    Ok(())
}

#[test]
fn testers_meet_the_candidate_at_0_percent_and_stay_there_over_ipv6_under_l2() -> Result<()> {
    a_blue_green(Forward::L2, Families::V6, 0)
}

#[test]
fn testers_meet_the_candidate_at_0_percent_and_stay_there_over_both_families_under_nat() -> Result<()> {
    a_blue_green(Forward::Nat, Families::Both, 10)
}

#[test]
fn testers_meet_the_candidate_at_0_percent_and_stay_there_under_snat() -> Result<()> {
    a_blue_green(Forward::Snat, Families::V4, 10)
}

#[test]
fn a_sick_or_draining_candidate_is_shown_as_it_is_and_a_preview_vip_can_come_and_go() -> Result<()> {
    let (mut world, _page) = running(Forward::L2, Families::V4)?;
    let users = world.load(10)?;
    let ask = |world: &World| {
        ask_from(world.rig.ns("c"), rig::client_address(3), 0, v4(PREVIEW, WEB_PORT)).map(|met| met.version)
    };
    // Nobody stands in for it: whoever measures a version must not measure another one.
    world.set_health(&[3, 4], false)?;
    assert_eq!(ask(&world)?, "v2");
    let alarm = shown(&world)?["alarm"].to_string();
    assert!(alarm.contains("all 2 backends") && alarm.contains("fail their health checks"), "{alarm}");
    assert_eq!(service(&world.status()?, "web")["alarm"], Value::Null);
    world.set_health(&[3, 4], true)?;
    assert_eq!(shown(&world)?["alarm"], Value::Null);
    // One that drains gets nobody, not even testers: its drain ends.
    let drained = world.zdd().json(&["drain", "web/v2", "--wait", "--deadline", "10m"])?;
    assert_eq!((drained["drained"].clone(), ask(&world)?.as_str()), (json!(true), "v1"));
    world.zdd().run(&["undrain", "web/v2"])?;
    wait_for("the preview of v2", PATIENCE, LOOK_EVERY, || {
        Ok::<_, Error>((shown(&world)?["version"] == "v2" && ask(&world)? == "v2").then_some(()))
    })?;
    // It goes, and comes back; also over a restart.
    let line = format!("preview = \"{PREVIEW}:{WEB_PORT}/tcp\"\n");
    apply(&world, &line, "")?;
    assert_eq!(shown(&world)?, Value::Null);
    let explain = ["explain", "web", "--from", "10.80.1.1:9", "--preview"];
    world.refused(&explain)?.says(1, &["web has no preview VIP", "help: "]);
    assert!(ask(&world).is_err(), "it still answers");
    world.kill_agent();
    world.write_config()?;
    world.start_agent()?;
    world.wait_healthy()?;
    assert_eq!((ask(&world)?.as_str(), shown(&world)?["version"].clone()), ("v2", json!("v2")));
    let text = world.setup.toml(world.rig.scratch().dir());
    let taken = text.replacen(&line, &line.replace(&PREVIEW.to_string(), &rig::VIP.to_string()), 1);
    let file = world.write("taken.toml", &taken)?.display().to_string();
    world.refused(&["check", &file])?.says(1, &["belongs to service `web` already"]);
    as_before(&users)?;
    unharmed(&users.finish());
    Ok(())
}
