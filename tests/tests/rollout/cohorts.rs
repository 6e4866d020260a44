//! Cohorts first: chosen clients get the candidate before any percentage does.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use zdd_tests::rig::{self, Error, Families, Result, wait_for};
use zdd_tests::traffic::Load;
use zdd_tests::world::status::service;
use zdd_tests::world::{
    LOOK_EVERY, PATIENCE, Setup, World, as_before, ask_from, goes_on, unanswered, unharmed,
};

use crate::page::Page;
use crate::{GOOD, analyses, asked, lines, rollout, wait_rollout, wait_weight};

/// The first fifteen of a hundred clients.
const STAFF: &str = "\"10.80.1.0/28\", \"fd80:0:0:1::/124\"";
/// The first thirty-one.
const MORE: &str = "\"10.80.1.0/27\", \"fd80:0:0:1::/123\"";

const FIRST: &str =
    "{ cohort = \"staff\" }, { pause = \"until-promoted\" }, { weight = 10 }, { pause = \"until-promoted\" }";

fn setup(steps: &str, staff: &str, families: Families) -> Setup {
    let rollout = format!(
        "[service.rollout]\nstrategy = \"canary\"\nsteps = [{steps}]\nprogress_deadline = \"5m\"\n{}",
        analyses()
    );
    let api = format!("[cohort.staff]\ncidrs = [{staff}]\n[cohort.beta]\ncidrs = [\"10.80.1.32/28\"]\n");
    Setup { rollout: Some(rollout), api, families, ..Setup::default() }
}

fn with(steps: &str, families: Families) -> Result<(World, Page)> {
    let world = World::running(setup(steps, STAFF, families))?;
    let page = Page::start(&world.rig, GOOD)?;
    Ok((world, page))
}

fn is_staff(client: IpAddr) -> bool {
    let staff: Vec<zdd_agent::prefix::Prefix> =
        STAFF.split(", ").map(|text| text.trim_matches('"').parse().expect("a prefix")).collect();
    staff.iter().any(|prefix| prefix.contains(client))
}

fn leads(world: &World, cohorts: &[&str]) -> Result<Value> {
    wait_rollout(world, &format!("{cohorts:?} to lead"), |r| r["cohorts"] == json!(cohorts))
}

/// Short connections that begin from now on: by whether their clients are staff, the versions (from 0) that they meet.
fn meets(load: &Load) -> Result<[BTreeSet<u8>; 2]> {
    let from = load.now_us();
    let both = |load: &Load| {
        let ledger = load.ledger();
        let mut met = [BTreeSet::new(), BTreeSet::new()];
        for record in ledger.begun(from, u64::MAX) {
            met[usize::from(is_staff(record.client))].insert(record.place.version);
        }
        met
    };
    goes_on(load)?;
    goes_on(load)?;
    wait_for("connections of staff and of others", PATIENCE, LOOK_EVERY, || {
        Ok::<_, Error>(both(load).iter().all(|versions| !versions.is_empty()).then_some(()))
    })?;
    Ok(both(load))
}

fn only(version: u8) -> BTreeSet<u8> {
    BTreeSet::from([version])
}

fn cohort(world: &World) -> Result<Value> {
    Ok(service(&world.status()?, "web")["cohorts"][0].clone())
}

/// The file with other members of `staff`.
fn apply(world: &World, staff: &str) -> Result<String> {
    let text = world.setup.toml(world.rig.scratch().dir()).replace(STAFF, staff);
    let file = world.write("edited.toml", &text)?.display().to_string();
    world.zdd().run(&["apply", &file])
}

#[test]
fn staff_meets_the_candidate_and_nobody_else_until_it_is_taken_back() -> Result<()> {
    let (mut world, _page) = with(FIRST, Families::Both)?;
    let load = world.load(40)?;
    let plan = world.zdd().run(&["rollout", "plan", "web", "v2"])?;
    for said in ["new flows of cohort staff to v2", "rollback: new flows of cohort staff to v1"] {
        assert!(plan.contains(said), "{plan}");
    }
    let now = cohort(&world)?;
    assert_eq!((&now["name"], &now["prefixes"]), (&json!("staff"), &json!(2)), "{now}");
    assert_eq!((&now["version"], &now["waits"]), (&Value::Null, &Value::Null), "{now}");
    let before = meets(&load)?;
    assert_eq!(before, [only(0), only(0)]);

    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    leads(&world, &["staff"])?;
    assert_eq!(meets(&load)?, [only(0), only(1)]);
    assert_eq!((asked(&world, "v2")?, cohort(&world)?["version"].clone()), (0.0, json!("v2")));
    for (client, version, of) in [(3, "v1", Value::Null), (2, "v2", json!("staff"))] {
        let client =
            if version == "v2" { rig::client_address(client) } else { rig::client_address(client + 60) };
        let said = world.zdd().json(&["explain", "web", "--from", &format!("{client}:9")])?;
        assert_eq!((&said["version"], &said["cohort"]), (&json!(version), &of), "{said}");
    }
    let moves = world.zdd().json(&[
        "who-moves",
        "web",
        "v2=100%",
        "--from",
        "10.80.1.3:9",
        "--from",
        "10.80.1.60:9",
    ])?;
    let told = |at: usize| (moves["clients"][at]["before"].clone(), moves["clients"][at]["after"].clone());
    assert_eq!((told(0), told(1)), ((json!("v2"), json!("v2")), (json!("v1"), json!("v2"))), "{moves}");
    assert!(moves["notes"].to_string().contains("clients of cohort staff stay"), "{moves}");

    // Those that live began on v1 and stay; new ones of staff begin on v2, and stay when it is taken back.
    // By their numbers the first forty are clients beyond staff's.
    load.open_long(80);
    as_before(&load)?;
    assert!(cohort(&world)?["new_flows"].as_u64().is_some_and(|n| n > 0), "{}", cohort(&world)?);
    let on_v2 = load.ledger().live_long[1];
    assert!(on_v2 > 0, "{:?}", load.ledger().live_long);
    world.zdd().run(&["rollout", "abort", "web", "--reason", "enough"])?;
    assert_eq!(meets(&load)?, [only(0), only(0)]);
    assert_eq!(cohort(&world)?["version"], Value::Null);
    as_before(&load)?;
    world.wait_settled("web")?;
    as_before(&load)?;
    assert_eq!(load.ledger().live_long[1], on_v2);
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_denied_member_stays_denied_and_the_share_of_the_others_is_the_plans() -> Result<()> {
    let (world, _page) = with(FIRST, Families::V4)?;
    let text = world.setup.toml(world.rig.scratch().dir());
    let deny =
        "name = \"web\"\naccess = { deny = [\"10.80.1.0/28\"], allow = [\"10.80.1.4/32\", \"0.0.0.0/0\"] }\n";
    let file = world.write("edited.toml", &text.replacen("name = \"web\"\n", deny, 1))?.display().to_string();
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    leads(&world, &["staff"])?;
    world.zdd().run(&["apply", &file])?;
    let ask = |i| ask_from(world.rig.ns("c"), rig::client_address(i), 0, world.web());
    unanswered(world.rig.ns("c"), rig::client_address(2), world.web());
    assert_eq!((ask(3)?.version, ask(60)?.version), ("v2".to_owned(), "v1".to_owned()));
    // Promoted: by the plan's weights, and staff stays on v2 whatever its cells say.
    world.zdd().run(&["rollout", "promote", "web"])?;
    wait_weight(&world, 0.1)?;
    assert_eq!(ask(3)?.version, "v2");
    world.zdd().run(&["rollout", "promote", "web", "--full"])?;
    let report = wait_rollout(&world, "the end", |r| r["phase"] == "promoted")?;
    let told: Vec<String> = lines(&report).into_iter().filter(|l| l.contains("new flows")).collect();
    assert_eq!(
        told,
        ["new flows of cohort staff go to v2", "v2 has 10% of new flows", "v2 has 100% of new flows"]
    );
    assert_eq!((ask(3)?.version, ask(60)?.version), ("v2".to_owned(), "v2".to_owned()));
    Ok(())
}

#[test]
fn members_change_only_when_no_live_connection_can_notice() -> Result<()> {
    let (mut world, _page) = with(FIRST, Families::V4)?;
    let load = world.load(60)?;
    let prefixes = |world: &World| Ok::<_, Error>(cohort(world)?["prefixes"].clone());
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    leads(&world, &["staff"])?;
    // Settled at v2, where the others are at v1: whoever joined now without an entry would be sent from v1 to v2.
    world.wait_settled("web")?;
    apply(&world, MORE)?;
    let waits = cohort(&world)?["waits"].clone();
    assert!(waits.as_str().is_some_and(|w| w.contains("cohort staff leads a rollout")), "{waits}");
    assert!(world.zdd().run(&["status"])?.contains("members of cohorts wait: cohort staff leads"));
    assert_eq!(meets(&load)?, [only(0), only(1)]);
    as_before(&load)?;
    // Over, and everything at v2 but what began on v1: those connections have entries for as long as they live.
    world.zdd().run(&["rollout", "promote", "web"])?;
    wait_weight(&world, 0.1)?;
    world.zdd().run(&["rollout", "promote", "web", "--full"])?;
    wait_rollout(&world, "the end", |r| r["phase"] == "promoted")?;
    wait_for("what it waits for", PATIENCE, LOOK_EVERY, || {
        let status = world.status()?;
        let web = service(&status, "web");
        let waits = &web["cohorts"][0]["waits"];
        // A machine that stood still meanwhile may have let everything settle.
        assert!(!waits.is_null() || web["dirty_cells"] == 0, "too early: {web}");
        let told = waits.as_str().is_some_and(|w| w.contains("have not settled"));
        Ok::<_, Error>((told || waits.is_null()).then_some(()))
    })?;
    // Restarted meanwhile with the new file, it waits all the same.
    world.kill_agent();
    let text = world.setup.toml(world.rig.scratch().dir()).replace(STAFF, MORE);
    world.write("zdd.toml", &text)?;
    world.start_agent()?;
    wait_for("the members to change", PATIENCE, LOOK_EVERY, || {
        Ok::<_, Error>(cohort(&world)?["waits"].is_null().then_some(()))
    })?;
    assert_eq!(prefixes(&world)?, 1);
    let said = world.zdd().json(&["explain", "web", "--from", "10.80.1.30:9"])?;
    assert_eq!(said["cohort"], "staff", "{said}");
    assert!(load.ledger().live_long[0] > 30, "{:?}", load.ledger().live_long);
    as_before(&load)?;
    // Nobody's entries are given up while a sweep or two looks for what is not needed any more.
    world.wait_settled("web")?;
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn killed_while_cohorts_lead_it_goes_on_and_nobody_goes_back_and_forth() -> Result<()> {
    let steps = "{ cohort = \"staff\" }, { pause = \"300ms\" }, { cohort = \"beta\" }, { pause = \"300ms\" }, { weight = 50 }, { pause = \"300ms\" }";
    let (mut world, _page) = with(steps, Families::V4)?;
    let load = world.load(20)?;
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    let (mut seen, mut weight) = (0, 0.0);
    for kill in 0..8u64 {
        let until = Instant::now() + Duration::from_millis(23 + 171 * kill % 600);
        wait_for("the moment", PATIENCE, Duration::from_millis(1), || {
            Ok((Instant::now() >= until).then_some(()))
        })?;
        world.kill_agent();
        // What was committed goes on without an agent.
        world.start_agent()?;
        let report = rollout(&world)?;
        let now = report["cohorts"].as_array().map_or(0, Vec::len);
        let asked = asked(&world, "v2")?;
        assert!(now >= seen && asked >= weight && report["paused"].is_null(), "{seen} {weight}: {report:#}");
        assert!(asked == 0.0 || now == 2, "a weight before the cohorts: {report:#}");
        (seen, weight) = (now, asked);
        if report["phase"] == "running" && now > 0 {
            let said = world.zdd().json(&["explain", "web", "--from", "10.80.1.3:9"])?;
            assert_eq!(said["version"], "v2", "{said}");
        }
    }
    let report =
        wait_rollout(&world, "the end", |r| r["phase"] == "promoted" || r["phase"] == "rolled-back")?;
    assert_eq!(report["phase"], "promoted", "{report:#}");
    let mut told: Vec<String> = lines(&report).into_iter().filter(|l| l.contains("new flows")).collect();
    told.dedup();
    let all = [
        "new flows of cohort staff go to v2",
        "new flows of cohort beta go to v2",
        "v2 has 50% of new flows",
        "v2 has 100% of new flows",
    ];
    assert_eq!(told, all);
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_list_that_cannot_be_read_changes_nothing() -> Result<()> {
    let (mut world, _page) = with(FIRST, Families::V4)?;
    let list = world.write("staff", "10.80.1.0/28 # the office\n")?;
    let named = world.setup.toml(world.rig.scratch().dir());
    let named = named.replacen(&format!("cidrs = [{STAFF}]"), &format!("list = \"{}\"", list.display()), 1);
    let file = world.write("zdd.toml", &named)?.display().to_string();
    assert!(world.zdd().run(&["apply", "--dry-run", &file])?.contains("web cohorts"));
    world.zdd().run(&["apply", &file])?;
    assert_eq!(cohort(&world)?["prefixes"], 1);
    world.write("staff", "10.80.1.0/33\n")?;
    world.refused(&["apply", &file])?.says(1, &["staff:1: ", "is not an address prefix"]);
    world.refused(&["check", &file])?.says(1, &["staff:1: ", "is not an address prefix"]);
    let now = cohort(&world)?;
    assert_eq!((&now["prefixes"], &now["waits"]), (&json!(1), &Value::Null), "{now}");
    // Nor does it keep an agent from starting.
    world.kill_agent();
    world.start_agent()?;
    world.wait_healthy()?;
    let now = cohort(&world)?;
    assert_eq!(now["prefixes"], 1, "{now}");
    assert!(
        now["waits"].as_str().is_some_and(|w| w.contains("files of cohort staff could not be read")),
        "{now}"
    );
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    let report =
        wait_rollout(&world, "a refusal", |r| r["waits_for"].to_string().contains("could not be read"))?;
    assert_eq!(report["cohorts"], json!([]), "{report:#}");
    world.write("staff", "10.80.1.0/28\n")?;
    world.zdd().run(&["apply", &file])?;
    leads(&world, &["staff"])?;
    let met = ask_from(world.rig.ns("c"), rig::client_address(3), 0, world.web())?;
    assert_eq!(met.version, "v2");
    Ok(())
}
