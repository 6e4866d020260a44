//! Servers and clients of others: nginx and redis behind the VIP, curl and redis-cli in front of it. Needs root, and Debian's nginx-light,
//! redis-server, redis-tools and curl.

mod others;

use std::sync::atomic::{AtomicBool, Ordering};

use others::{Loop, Redis, Session};
use zdd_tests::rig::{Forward, Result, client_address};
use zdd_tests::world::status::{number, version};
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World, curl};

const CACHE: &str = "10.80.255.10:6379/tcp";

/// nginx on every backend (and redis, under nat), each saying which version and backend it is and whom it saw.
fn begin(forward: Forward) -> Result<(World, Vec<zdd_tests::rig::Proc>)> {
    let health =
        Some("{ tcp = true, interval = \"150ms\", timeout = \"5s\", rise = 2, fall = 2 }".to_owned());
    let setup = Setup { forward, health, backends: 2, v1: vec![1], v2: vec![2], ..Setup::default() };
    let mut world = World::without_servers(setup)?;
    let mut servers = Vec::new();
    let mut text = world.setup.agent(world.rig.scratch().dir());
    text += &world.setup.service("web", "10.80.255.10:80/tcp", world.setup.backend_port());
    for i in 1..=2 {
        servers.push(others::nginx(&world, i, &format!("v{i}"))?);
    }
    if forward == Forward::Nat {
        text += &world.setup.service("cache", CACHE, 6379);
        for i in 1..=2 {
            servers.push(Redis::start(&world, i)?);
        }
    }
    world.write("zdd.toml", &text)?;
    world.start_agent()?;
    world.wait_healthy()?;
    Ok((world, servers))
}

/// The share of v2 among the answers of one request from each of 60 clients.
fn met_v2(world: &World) -> Result<usize> {
    let mut v2 = 0;
    for i in 0..60 {
        let client = client_address(i);
        let body = curl(world.rig.ns("c"), Some(client), "http://10.80.255.10/")?;
        let words: Vec<&str> = body.split_whitespace().collect();
        let [version, backend, seen] = words[..] else { panic!("unexpected body {body:?}") };
        assert_eq!(seen, client.to_string(), "the client's address reaches nginx");
        assert!(matches!((version, backend), ("v1", "b1") | ("v2", "b2")), "{body:?}");
        v2 += usize::from(version == "v2");
    }
    Ok(v2)
}

fn nginx_and_curl(forward: Forward) -> Result<()> {
    let (world, _servers) = begin(forward)?;
    let zdd = world.zdd();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let curls = Loop::start(scope, &world, &stop);
        let result = (|| {
            assert_eq!(met_v2(&world)?, 0);
            zdd.run(&["shift", "web", "v2=50%"])?;
            let half = met_v2(&world)?;
            assert!((12..=48).contains(&half), "{half} of 60 clients at 50 %");
            zdd.run(&["shift", "web", "v2=100%"])?;
            assert_eq!(met_v2(&world)?, 60);
            zdd.run(&["rollback", "web"])?;
            assert_eq!(met_v2(&world)?, 0);
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        let (done, failures) = curls.finish();
        result?;
        assert_eq!(failures, Vec::<String>::new(), "of {done} requests");
        assert!(done > 100, "only {done} requests in the loop");
        Ok(())
    })
}

#[test]
fn nginx_under_nat_loses_no_request_while_versions_change() -> Result<()> {
    nginx_and_curl(Forward::Nat)
}

#[test]
fn nginx_under_l2_loses_no_request_while_versions_change() -> Result<()> {
    nginx_and_curl(Forward::L2)
}

#[test]
fn the_access_log_shows_the_clients_address() -> Result<()> {
    let (world, _servers) = begin(Forward::Nat)?;
    let client = client_address(41);
    curl(world.rig.ns("c"), Some(client), "http://10.80.255.10/logged")?;
    let log = world.rig.scratch().path("nginx-1").join("access.log");
    let line = zdd_tests::rig::wait_for("the request to be logged", PATIENCE, LOOK_EVERY, || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        Ok::<_, zdd_tests::rig::Error>(text.lines().find(|l| l.contains("/logged")).map(str::to_owned))
    })?;
    assert!(line.starts_with(&format!("{client} ")), "{line}");
    Ok(())
}

#[test]
fn a_redis_session_outlives_shift_rollback_and_the_agent() -> Result<()> {
    let (mut world, _servers) = begin(Forward::Nat)?;
    let mut session = Session::open(&world)?;
    let id = session.ask("CLIENT ID")?;
    assert!(id.parse::<u64>().is_ok(), "{id:?}");
    assert_eq!(session.ask("GET version")?, "v1");
    assert_eq!(session.ask("SET only-here 1")?, "OK");
    let mut still_there = |world: &World, when: &str| -> Result<()> {
        for _ in 0..20 {
            assert_eq!(session.ask("CLIENT ID")?, id, "another connection {when}");
            assert_eq!(session.ask("GET version")?, "v1", "another server {when}");
            assert_eq!(session.ask("GET only-here")?, "1", "another server {when}");
        }
        let seen = Redis::connections(world, 1)?;
        let own = seen.lines().find(|l| l.starts_with(&format!("id={id} "))).unwrap_or_default();
        assert!(own.contains(" addr=10.80.0.2:"), "the client's address reaches redis: {seen}");
        Ok(())
    };
    still_there(&world, "before anything")?;
    world.zdd().run(&["shift", "cache", "v2=100%"])?;
    still_there(&world, "after the shift")?;
    assert_eq!(Redis::ask(&world, "GET version")?, "v2", "a new session goes to v2");
    world.zdd().run(&["rollback", "cache"])?;
    still_there(&world, "after the rollback")?;
    assert_eq!(Redis::ask(&world, "GET version")?, "v1", "a new session goes to v1");
    world.zdd().run(&["shift", "cache", "v2=100%"])?;
    world.kill_agent();
    still_there(&world, "while there is no agent")?;
    assert_eq!(Redis::ask(&world, "GET version")?, "v2", "the kernel goes on by itself");
    world.start_agent()?;
    assert_eq!(number(version(&world.status()?, "cache", "v2"), "asked"), 1.0);
    still_there(&world, "after the restart")?;
    world.wait_healthy()?;
    still_there(&world, "when all is well again")?;
    assert_eq!(session.quit()?, 0, "redis-cli ends in order");
    Ok(())
}
