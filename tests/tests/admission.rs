//! Who may dial, at which ports, and how often, asked by real clients. Needs root.

use std::net::SocketAddr;
use std::time::Duration;

use zdd_tests::rig::{self, Error, Forward, Result, VIP, v4, wait_for};
use zdd_tests::world::{
    LOOK_EVERY, PATIENCE, Setup, World, as_before, ask_from, status, talk_within, unanswered, unharmed,
};

/// Packets that ended so: of all services, and of `web`, the only one that has limits.
fn counted(world: &World, reason: &str) -> Result<u64> {
    let all = || Ok::<_, Error>(status::count(&world.status()?, &format!("/reasons/{reason}")));
    // One after the other, while packets come.
    let (before, now) = (all()?, world.status()?);
    let own = if reason == "drop_denied" { "denied" } else { "limited" };
    let web = status::count(status::service(&now, "web"), &format!("/counters/{own}"));
    let echo = status::count(status::service(&now, "echo"), &format!("/counters/{own}"));
    let after = all()?;
    assert!(
        (before..=after).contains(&web) && echo == 0,
        "{reason}: {web} of web and {echo} of echo, of {before} to {after}"
    );
    Ok(web)
}

/// The world's file with lines for `web`.
fn with(world: &World, lines: &str) -> String {
    let text = world.setup.toml(world.rig.scratch().dir());
    text.replacen("name = \"web\"\n", &format!("name = \"web\"\n{lines}\n"), 1)
}

fn apply(world: &World, lines: &str) -> Result<String> {
    let file = world.write("edited.toml", &with(world, lines))?.display().to_string();
    world.zdd().run(&["apply", &file])
}

/// A running world whose `web` has another VIP and other ports at its backends.
fn many_ports(setup: Setup, vip: &str, port: &str) -> Result<World> {
    let mut world = World::new(setup)?;
    let own = format!(":{}\"", world.setup.backend_port());
    let text = world.setup.toml(world.rig.scratch().dir());
    let (web, echo) = text.split_once("name = \"echo\"").expect("two services");
    let web = web.replace(":80/tcp", vip).replace(&own, &format!(":{port}\""));
    world.write("zdd.toml", &format!("{web}name = \"echo\"{echo}"))?;
    world.start_agent()?;
    world.wait_healthy()?;
    Ok(world)
}

/// Every version answers at `open`, and refuses at `closed`: the answer comes from the port that was asked.
fn meets(world: &World, vip: &str, open: u16, closed: u16) -> Result<()> {
    let client = rig::client_address(95);
    let web = status::service(&world.status()?, "web").clone();
    assert_eq!(web["vip"], format!("{VIP}{vip}"), "{web}");
    for (command, version) in [("v2=0%", "v1"), ("v2=100%", "v2")] {
        world.zdd().run(&["shift", "web", command])?;
        let met = ask_from(world.rig.ns("c"), client, 4000, v4(VIP, open))?;
        assert_eq!((met.version.as_str(), met.source), (version, format!("{client}:4000")));
        let said = world.zdd().json(&["explain", "web", "--from", &format!("{client}:9")])?;
        assert_eq!(said["version"], version, "{said}");
        match ask_from(world.rig.ns("c"), client, 0, v4(VIP, closed)) {
            Err(Error::Io { source, .. }) => assert_eq!(source.kind(), std::io::ErrorKind::ConnectionRefused),
            other => panic!("{other:?}"),
        }
    }
    Ok(())
}

#[test]
fn a_range_of_ports_goes_to_the_backends_range_under_nat() -> Result<()> {
    // The servers listen on 8080, the 31st port from 8050.
    let world = many_ports(Setup::default(), ":8000-8099/tcp", "8050")?;
    meets(&world, ":8000-8099/tcp", 8030, 8040)
}

#[test]
fn all_ports_stay_as_they_are_under_l2() -> Result<()> {
    let world = many_ports(Setup { forward: Forward::L2, ..Setup::default() }, ":*/tcp", "*")?;
    meets(&world, ":*/tcp", 80, 81)
}

/// By flow, the port that is dialled has a say: what is told of the first port would be wrong for half of these.
#[test]
fn explain_and_who_moves_tell_of_the_port_that_is_dialled() -> Result<()> {
    let world = many_ports(Setup { affinity: "flow", ..Setup::default() }, ":8000-8099/tcp", "8050")?;
    world.zdd().run(&["shift", "web", "v2=50%"])?;
    let client = rig::client_address(95);
    let mut otherwise = 0;
    for source in 4100..4130 {
        let from = format!("{client}:{source}");
        let first = world.zdd().json(&["explain", "web", "--from", &from])?;
        assert_eq!(first["port"], 8000, "{first}");
        let said = world.zdd().json(&["explain", "web", "--from", &from, "--port", "8030"])?;
        assert!(said["backend"].as_str().is_some_and(|backend| backend.ends_with(":8080")), "{said}");
        let moves = ["who-moves", "web", "v2=100%", "--from", &from, "--port", "8030"];
        assert_eq!(world.zdd().json(&moves)?["clients"][0]["before"], said["version"]);
        let met = ask_from(world.rig.ns("c"), client, source, v4(VIP, 8030))?;
        assert_eq!(said["version"], met.version.as_str(), "{said}");
        otherwise += usize::from(first["version"] != said["version"]);
    }
    assert!(otherwise > 0, "the port has no say, so this shows nothing");
    for port in ["7999", "8100"] {
        for command in [vec!["explain", "web"], vec!["who-moves", "web", "v2=100%"]] {
            let out =
                world.zdd().output(&[command, vec!["--from", "192.0.2.1:4000", "--port", port]].concat())?;
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(!out.status.success() && said.contains("8000-8099"), "{said}");
        }
    }
    Ok(())
}

#[test]
fn lists_change_under_traffic_and_nobody_who_is_allowed_notices() -> Result<()> {
    let world = World::running(Setup::default())?;
    let load = world.load(20)?;
    let outside = "deny = [\"203.0.113.0/24\"]";
    let lists = [
        "access = { allow = [\"10.80.0.0/16\"] }".to_owned(),
        format!("access = {{ allow = [\"10.80.0.0/17\", \"10.80.128.0/17\"], {outside} }}"),
        format!("access = {{ {outside} }}"),
        "access = { allow = [\"10.80.0.0/16\", \"0.0.0.0/1\"], deny = [\"0.0.0.0/0\", \"10.0.0.0/8\"] }"
            .to_owned(),
        String::new(),
    ];
    for lines in lists.iter().chain(&lists) {
        let said = apply(&world, lines)?;
        assert!(said.contains("web access"), "{said}");
    }
    as_before(&load)?;
    assert_eq!(counted(&world, "drop_denied")?, 0);
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn whoever_is_denied_is_denied_at_once_and_after_a_restart() -> Result<()> {
    let mut world = World::running(Setup::default())?;
    let (one, other) = (rig::client_address(95), rig::client_address(96));
    let ask = |world: &World, client| ask_from(world.rig.ns("c"), client, 0, world.web());
    ask(&world, one)?;
    let denied = format!("access = {{ deny = [\"{one}/32\"] }}");
    apply(&world, &denied)?;
    let silent = |world: &World| unanswered(world.rig.ns("c"), one, world.web());
    silent(&world);
    assert!(counted(&world, "drop_denied")? > 0);
    let said =
        world.zdd().json(&["explain", "web", "--from", &SocketAddr::new(one.into(), 9).to_string()])?;
    assert!(said["why"].as_str().is_some_and(|why| why.contains(&format!("{one}/32"))), "{said}");
    ask(&world, other)?;
    world.kill_agent();
    silent(&world);
    // As if it had been an agent that did not count for each service yet: what it has pinned is taken over, and what is new begins.
    std::fs::remove_file(world.pin_dir().join("REFUSED_COUNT")).expect("it was pinned");
    world.write("zdd.toml", &with(&world, &denied))?;
    world.start_agent()?;
    let denied = |world: &World| {
        Ok::<_, Error>(status::count(status::service(&world.status()?, "web"), "/counters/denied"))
    };
    let before = denied(&world)?;
    silent(&world);
    assert!(denied(&world)? > before, "the program that took over counts");
    ask(&world, other)?;
    apply(&world, "")?;
    ask(&world, one)?;
    Ok(())
}

#[test]
fn a_source_opens_no_more_connections_than_its_limit() -> Result<()> {
    let world = World::running(Setup::default())?;
    apply(&world, "new_per_source = { rate = 1, burst = 1 }")?;
    let (one, other) = (rig::client_address(95), rig::client_address(96));
    let web = world.web();
    std::thread::scope(|scope| {
        let ns = world.rig.ns("c");
        for _ in 0..20 {
            // Some get through, when the client repeats its SYN; most do not within its patience.
            scope.spawn(move || drop(talk_within(ns, v4(one, 0), web, 1, Duration::from_secs(5))));
        }
        wait_for("a connection to be refused", PATIENCE, LOOK_EVERY, || {
            Ok::<_, Error>((counted(&world, "drop_rate")? > 0).then_some(()))
        })?;
        ask_from(ns, other, 0, web)
    })?;
    apply(&world, "")?;
    let before = counted(&world, "drop_rate")?;
    for _ in 0..20 {
        ask_from(world.rig.ns("c"), one, 0, web)?;
    }
    assert_eq!(counted(&world, "drop_rate")?, before);
    Ok(())
}
