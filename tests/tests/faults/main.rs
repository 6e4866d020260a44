//! Faults of a candidate in the middle of its rollout, with real servers and databases: each ends as configured within three
//! measurements, and nobody beyond the candidate's share notices. Needs root, and what `scripts/setup.sh --tests` installs.

mod applications;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use applications::{PORT, Postgres};
use serde_json::Value;
use zdd_tests::rig::{Error, Proc, Result, backend_address, client_address, v4, wait_for};
use zdd_tests::traffic::{Load, Member, ServerSpec, Servers};
use zdd_tests::world::status::{number, version};
use zdd_tests::world::{ECHO_PORT, HEALTH_PORT, LOOK_EVERY, Setup, World, goes_on};

/// For things that take some intervals on a busy machine.
const LONG: Duration = Duration::from_secs(60);
/// The candidate's share.
const SHARE: f64 = 0.2;
/// Measurements from the fault to the decision, at the most.
const INTERVALS: u64 = 3;

/// A world in the middle of a canary: v1 (b1, b2) with servers of the load, v2 (b3, b4) with its own, the application beside each
/// of them. v2 alone needs the database.
struct Scene {
    load: Load,
    // Dropped in this order: the applications before their databases.
    v2: Option<Servers>,
    _v1: Servers,
    apps: Vec<Proc>,
    _redis: Proc,
    postgres: Postgres,
    silent: Vec<TcpListener>,
    world: World,
}

fn servers(world: &World, version: &str, members: &[u8]) -> Result<Servers> {
    let any = |port| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
    let spec = |i: &u8| ServerSpec {
        role: format!("b{i}"),
        member: Member { version: version.to_owned(), backend: format!("b{i}") },
        tcp: any(world.setup.backend_port()),
        udp: vec![v4(backend_address(*i), ECHO_PORT)],
        health: any(HEALTH_PORT),
    };
    Servers::start(&world.rig, &members.iter().map(spec).collect::<Vec<_>>())
}

impl Scene {
    /// Everything is well, and v2 has its share.
    fn begin(on_failure: &str) -> Result<Scene> {
        let rollout = format!(
            "[service.rollout]\nstrategy = \"canary\"\non_failure = \"{on_failure}\"\n\
             steps = [{{ weight = 20 }}, {{ pause = \"until-promoted\" }}]\n\
             [[service.rollout.analysis]]\nname = \"health\"\ninterval = \"1s\"\n\
             builtin = {{ metric = \"healthy-share\", success = \">= 1\" }}\n"
        );
        let health = format!(
            "{{ http = \"/health\", port = {PORT}, json = ['$.db == \"ok\"', '$.redis == \"ok\"'], depends = [{{ name = \"db\", path = \"$.db\" }}], \
             interval = \"300ms\", fast_interval = \"100ms\", timeout = \"300ms\", rise = 2, fall = 2 }}"
        );
        let setup =
            Setup { health: Some(health), echo_health: None, rollout: Some(rollout), ..Setup::default() };
        let mut world = World::without_servers(setup)?;
        let (v1, v2) = (servers(&world, "v1", &[1, 2])?, servers(&world, "v2", &[3, 4])?);
        let postgres = Postgres::start()?;
        let (redis, cache) = applications::redis(&world)?;
        let database = postgres.socket();
        let mut apps = Vec::new();
        for i in 1..=4 {
            apps.push(applications::flask(&world, i, &cache, (i > 2).then_some(database.as_path()))?);
        }
        for (i, app) in (1..).zip(&mut apps) {
            applications::answers(&world, app, i)?;
        }
        world.start_agent()?;
        world.wait_healthy()?;
        let load = world.idle_load()?;
        // Before v2 has anything: all of them are on v1.
        load.open_long(20);
        load.set_rate(50);
        world.zdd().run(&["rollout", "start", "web", "v2"])?;
        wait_for("v2 to have its share", LONG, LOOK_EVERY, || {
            let report: Value = world.zdd().json(&["rollout", "status", "web"])?;
            Ok((report["weight"] == SHARE).then_some(()))
        })?;
        world.comes_to(&load, 3)?;
        world.comes_to(&load, 4)?;
        goes_on(&load)?;
        assert_eq!(load.ledger().counts.short_failed, 0, "{:#?}", load.ledger().incidents);
        Ok(Scene { load, v2: Some(v2), _v1: v1, apps, _redis: redis, postgres, silent: Vec::new(), world })
    }

    /// Clients whose new connections go to v2.
    fn canary(&self) -> Result<BTreeSet<IpAddr>> {
        let explained = self.world.explained("web", 100)?;
        let of_v2 = explained.iter().enumerate().filter(|(_, said)| said.contains("v2"));
        Ok(of_v2.map(|(i, _)| client_address(i).into()).collect())
    }

    fn report(&self) -> Result<Value> {
        self.world.zdd().json(&["rollout", "status", "web"])
    }

    /// The fault happens; the rollout must come to `phase` in time, and what happened to whom must be as promised.
    fn ends(mut self, phase: &str, fault: impl FnOnce(&mut Scene) -> Result<()>) -> Result<()> {
        let canary = self.canary()?;
        assert!((5..=40).contains(&canary.len()), "{} of 100 clients at 20 %", canary.len());
        let before = measured(&self.report()?);
        fault(&mut self)?;
        let report = wait_for(&format!("the rollout to be {phase}"), LONG, LOOK_EVERY, || {
            let report = self.report()?;
            Ok((report["phase"] == phase).then_some(report))
        })?;
        let measurements = measured(&report) - before;
        assert!(measurements <= INTERVALS, "{measurements} measurements: {report:#}");
        // Nobody meets the candidate any more: it has nothing left, or nobody in it is healthy.
        let since = self.load.now_us();
        self.world.avoids(&self.load, &[3, 4])?;
        let asked = number(version(&self.world.status()?, "web", "v2"), "asked");
        assert_eq!(asked, if phase == "frozen" { SHARE } else { 0.0 });
        let accounts = self.load.finish();
        let on_stable: Vec<_> =
            accounts.incidents.iter().filter(|i| i.what.starts_with("long-lived")).collect();
        assert_eq!((accounts.counts.broken(), on_stable.len()), (0, 0), "{:#?}", accounts.incidents);
        for incident in &accounts.incidents {
            let of_canary = canary.iter().any(|client| incident.what.contains(&format!("from {client} ")));
            assert!(of_canary, "{incident:?}: its client had nothing to do with v2");
            // A connection that failed may have begun before the decision: none takes more than 10 s.
            assert!(incident.at_us < since + 10_000_000, "{incident:?}: long after the decision at {since}");
        }
        Ok(())
    }
}

/// Measurements that its analysis has made.
fn measured(report: &Value) -> u64 {
    let analysis = &report["analyses"][0];
    ["successes", "failures", "inconclusive", "errors"]
        .iter()
        .map(|key| analysis[*key].as_u64().unwrap_or(0))
        .sum()
}

#[test]
fn a_candidate_that_dies_goes_back() -> Result<()> {
    Scene::begin("rollback")?.ends("rolled-back", |scene| {
        drop(scene.v2.take());
        scene.apps.drain(2..).for_each(Proc::kill);
        Ok(())
    })
}

#[test]
fn a_candidate_that_dies_is_frozen_where_that_is_asked_for() -> Result<()> {
    Scene::begin("freeze")?.ends("frozen", |scene| {
        drop(scene.v2.take());
        scene.apps.drain(2..).for_each(Proc::kill);
        Ok(())
    })
}

#[test]
fn a_candidate_that_fails_its_health_json_goes_back() -> Result<()> {
    Scene::begin("rollback")?.ends("rolled-back", |scene| {
        let file = applications::broken(&scene.world);
        std::fs::write(file, "").map_err(Error::io("break v2"))?;
        scene.told("$.db is \"migrating\"")
    })
}

#[test]
fn a_candidate_that_accepts_and_never_answers_goes_back() -> Result<()> {
    Scene::begin("rollback")?.ends("rolled-back", |scene| {
        // Stopped, and not ended: the kernel goes on accepting for them.
        scene.apps[2..].iter().for_each(|app| app.signal(libc::SIGSTOP));
        drop(scene.v2.take());
        for i in 3..=4 {
            let address = v4(backend_address(i), scene.world.setup.backend_port());
            let listen = || TcpListener::bind(address);
            let silent = wait_for("the port to be free", LONG, LOOK_EVERY, || {
                Ok::<_, Error>(scene.world.rig.in_ns(&format!("b{i}"), listen)?.ok())
            })?;
            scene.silent.push(silent);
        }
        Ok(())
    })
}

#[test]
fn a_candidate_whose_database_dies_goes_back_and_status_names_it() -> Result<()> {
    Scene::begin("rollback")?.ends("rolled-back", |scene| {
        scene.postgres.dies();
        scene.told("503")?;
        let backend = version(&scene.world.status()?, "web", "v2")["backends"][0].clone();
        let (name, well) = (&backend["depends"][0]["name"], &backend["depends"][0]["well"]);
        assert_eq!((name.as_str(), well.as_bool()), (Some("db"), Some(false)), "{backend:#}");
        Ok(())
    })
}

#[test]
fn a_candidate_whose_database_dies_is_frozen_where_that_is_asked_for() -> Result<()> {
    Scene::begin("freeze")?.ends("frozen", |scene| {
        scene.postgres.dies();
        Ok(())
    })
}

#[test]
fn a_candidate_that_refuses_connections_never_gets_any() -> Result<()> {
    let rollout = "[service.rollout]\nstrategy = \"canary\"\nprogress_deadline = \"2s\"\n\
                   steps = [{ weight = 20 }, { pause = \"until-promoted\" }]\n\
                   [[service.rollout.analysis]]\nname = \"health\"\ninterval = \"1s\"\n\
                   builtin = { metric = \"healthy-share\", success = \">= 1\" }\n";
    let health = "{ tcp = true, interval = \"200ms\", timeout = \"1s\", rise = 2, fall = 2 }";
    let setup = Setup {
        health: Some(health.to_owned()),
        echo_health: None,
        rollout: Some(rollout.to_owned()),
        ..Setup::default()
    };
    let mut world = World::without_servers(setup)?;
    let _v1 = servers(&world, "v1", &[1, 2])?;
    world.start_agent()?;
    world.wait_status("v2 to be refused", |status| {
        let backends = version(status, "web", "v2")["backends"].as_array()?.clone();
        backends
            .iter()
            .all(|b| b["reason"] == "connection refused" && b["health"] == "unhealthy")
            .then_some(())
    })?;
    let load = world.idle_load()?;
    load.open_long(20);
    load.set_rate(50);
    // Whether the start is refused or the step: v2 gets nobody.
    let start = world.zdd().output(&["rollout", "start", "web", "v2"])?;
    if start.status.success() {
        wait_for("the rollout to go back", LONG, LOOK_EVERY, || {
            let report: Value = world.zdd().json(&["rollout", "status", "web"])?;
            Ok((report["phase"] == "rolled-back").then_some(()))
        })?;
    }
    goes_on(&load)?;
    assert_eq!(number(version(&world.status()?, "web", "v2"), "asked"), 0.0);
    let accounts = load.finish();
    assert_eq!((accounts.counts.broken(), accounts.counts.short_failed), (0, 0), "{:#?}", accounts.incidents);
    Ok(())
}

impl Scene {
    /// Waits until `zdd status` says `word` of every backend of v2.
    fn told(&self, word: &str) -> Result<()> {
        wait_for(&format!("status to say {word:?}"), LONG, LOOK_EVERY, || {
            let status = self.world.status()?;
            let backends = version(&status, "web", "v2")["backends"].as_array().cloned().unwrap_or_default();
            let says = |b: &Value| b["last_failure"].as_str().is_some_and(|why| why.contains(word));
            Ok((!backends.is_empty() && backends.iter().all(says)).then_some(()))
        })
    }
}
