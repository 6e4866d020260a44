//! A configuration file applied to a running service. Needs root.

use std::net::SocketAddr;

use zdd_tests::rig::{Result, VIP, client_address};
use zdd_tests::traffic::Load;
use zdd_tests::world::ask_from;
use zdd_tests::world::status::{Kept, backend, find_backend, number, service, version};
use zdd_tests::world::{Setup, World, as_before, goes_on, unharmed};

fn begin() -> Result<(World, Load)> {
    let world = World::running(Setup { v2: vec![3], v2_percent: 10, ..Setup::default() })?;
    let load = world.load(20)?;
    Ok((world, load))
}

fn edited(world: &World, change: impl Fn(&mut Setup)) -> Result<String> {
    let mut setup = world.setup.clone();
    change(&mut setup);
    let path = world.write("edited.toml", &setup.toml(world.rig.scratch().dir()))?;
    Ok(path.display().to_string())
}

#[test]
fn a_dry_run_shows_the_difference_and_changes_nothing() -> Result<()> {
    let (world, load) = begin()?;
    let before = (Kept::of(&world.status()?).intent, world.changes()?);
    let file = edited(&world, |s| (s.v2_percent, s.v2) = (25, vec![3, 4]))?;
    let text = world.zdd().run(&["apply", &file, "--dry-run"])?;
    for word in ["web/v2 weight", "10% -> 25%", "+ web/v2 backend 10.81.4.2:8080", "nothing was changed"] {
        assert!(text.contains(word), "{word:?} is missing in {text}");
    }
    assert_eq!((Kept::of(&world.status()?).intent, world.changes()?), before);
    world.avoids(&load, &[4])?;
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn apply_does_what_the_dry_run_showed() -> Result<()> {
    let (mut world, load) = begin()?;
    let file = edited(&world, |s| (s.v2_percent, s.v2) = (50, vec![3, 4]))?;
    let shown = world.zdd().json(&["apply", &file, "--dry-run"])?;
    let done = world.zdd().json(&["apply", &file])?;
    assert_eq!((&shown["changes"], &shown["applied"]), (&done["changes"], &false.into()));
    assert_eq!(done["applied"], true, "{done}");
    world.wait_healthy()?;
    let status = world.status()?;
    assert!((number(version(&status, "web", "v2"), "share") - 0.5).abs() < 0.001, "{status}");
    assert_eq!(backend(&status, "web", &world.address(4))["state"], "active");
    world.comes_to(&load, 4)?;
    assert!(world.zdd().run(&["apply", &file])?.contains("nothing differs"));
    // And back: what the file no longer names drains.
    let file = edited(&world, |_| ())?;
    world.zdd().run(&["apply", &file])?;
    world.avoids(&load, &[4])?;
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn affinity_and_cells_cannot_change_under_traffic() -> Result<()> {
    let (world, load) = begin()?;
    let before = (Kept::of(&world.status()?).intent, world.changes()?);
    let file = edited(&world, |s| s.affinity = "flow")?;
    world.refused(&["apply", &file])?.says(1, &["affinity", "web", "help: "]);
    let file = edited(&world, |s| s.cells = 8192)?;
    world.refused(&["apply", &file])?.says(1, &["cells", "web", "help: "]);
    assert_eq!((Kept::of(&world.status()?).intent, world.changes()?), before);
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_restart_does_not_smuggle_an_affinity_in() -> Result<()> {
    let (mut world, load) = begin()?;
    let explained = world.explained("web", 20)?;
    world.kill_agent();
    world.setup.affinity = "flow";
    world.write_config()?;
    // Refused, or started with the old one and told: in no case are live connections remapped.
    match world.start_agent() {
        Ok(()) => {
            let status = world.status()?;
            let web = zdd_tests::world::status::service(&status, "web");
            assert_eq!(web["affinity"], "client", "{web}");
            assert!(zdd_tests::world::status::told(web).contains("affinity"), "{web}");
            assert_eq!(world.explained("web", 20)?, explained);
        }
        Err(e) => assert!(e.to_string().contains("affinity"), "{e}"),
    }
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_file_with_mistakes_is_refused_as_a_whole() -> Result<()> {
    let (world, load) = begin()?;
    let before = (Kept::of(&world.status()?).intent, world.changes()?);
    let right = world.setup.toml(world.rig.scratch().dir());
    let cases: [(&str, &str, &[&str]); 6] = [
        (
            "weight = 10\n",
            "weight = 20\n",
            &["the weights of service `web` sum to 110%", "help: make them sum to 100%"],
        ),
        ("weight = 90\n", "wieght = 90\n", &["wieght"]),
        ("name = \"echo\"", "name = \"web\"", &["service `web` is there already, in line"]),
        ("10.81.3.2:8080", "[2001:db8::3]:8080", &["is IPv6, the VIP", "is IPv4"]),
        (":5353/udp", ":80/tcp", &["belongs to service `web` already"]),
        ("cells = 131072", "cells = 4096", &["agent.limits.cells = 4096", "help: raise agent.limits.cells"]),
    ];
    for (from, to, words) in cases {
        assert!(right.contains(from), "{from:?} is not in {right}");
        let file = world.write("wrong.toml", &right.replace(from, to))?.display().to_string();
        world.refused(&["apply", &file])?.says(1, words).says(1, &["wrong.toml:"]);
        world.refused(&["check", &file])?.says(1, words);
    }
    assert_eq!((Kept::of(&world.status()?).intent, world.changes()?), before);
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn one_backend_in_two_services_is_refused_under_nat() -> Result<()> {
    let (world, load) = begin()?;
    let other = world.setup.service("other", "10.80.255.10:81/tcp", 8080);
    let text = world.setup.toml(world.rig.scratch().dir()) + &other;
    let file = world.write("shared.toml", &text)?.display().to_string();
    world.refused(&["apply", &file])?.says(
        1,
        &["backend 10.81.1.2:8080", "is in service `web` already", "help: nat and snat know a reply"],
    );
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

/// The file with another service, whose versions have these backends at the port of `web`'s.
fn with_other(world: &World, web: &[u8], other: (&[u8], &[u8])) -> Result<String> {
    let setup = Setup { v1: web.to_vec(), ..world.setup.clone() };
    let own = Setup { v1: other.0.to_vec(), v2: other.1.to_vec(), v2_percent: 0, ..world.setup.clone() };
    let text = setup.toml(world.rig.scratch().dir())
        + &own.service("other", &format!("{VIP}:81/tcp"), world.setup.backend_port());
    Ok(world.write("other.toml", &text)?.display().to_string())
}

#[test]
fn a_backend_with_live_connections_is_not_taken_over_by_another_service() -> Result<()> {
    let (mut world, load) = begin()?;
    let before = (Kept::of(&world.status()?).intent, world.changes()?);
    let file = with_other(&world, &[1], (&[2], &[4]))?;
    let words = ["10.81.2.2:8080", "other/v1", "web/v1", "help: ", "zdd backend list web"];
    world.refused(&["apply", &file, "--dry-run"])?.says(1, &words);
    world.refused(&["apply", &file])?.says(1, &words);
    assert_eq!((Kept::of(&world.status()?).intent, world.changes()?), before);
    as_before(&load)?;
    // Nor while it drains.
    let without = edited(&world, |s| s.v1 = vec![1])?;
    world.zdd().run(&["apply", &without])?;
    world.refused(&["apply", &file])?.says(1, &["10.81.2.2:8080", "still drains from web/v1"]);
    as_before(&load)?;
    unharmed(&load.finish());
    // The way out that it named.
    let address = world.address(2);
    world.wait_status("it to be forgotten", |s| find_backend(s, "web", &address).is_none().then_some(()))?;
    world.zdd().run(&["apply", &file])?;
    world.wait_healthy()?;
    let at = SocketAddr::from((VIP, 81));
    assert_eq!(ask_from(world.rig.ns("c"), client_address(1), 0, at)?.backend, "b2");
    Ok(())
}

#[test]
fn a_backend_does_not_change_its_version_under_live_connections() -> Result<()> {
    let (world, load) = begin()?;
    let file = edited(&world, |s| (s.v1, s.v2) = (vec![1], vec![2, 3]))?;
    let words = ["10.81.2.2:8080", "web/v2", "one of web/v1", "help: "];
    world.refused(&["apply", &file, "--dry-run"])?.says(1, &words);
    world.refused(&["apply", &file])?.says(1, &words);
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

/// What affinity, cells and forward ask for: the same VIP and backends under another name.
#[test]
fn a_service_under_a_new_name_serves_from_the_moment_of_the_apply() -> Result<()> {
    let mut world = World::running(Setup::default())?;
    let asks = |world: &World| -> Result<()> {
        for client in 1..=20 {
            ask_from(world.rig.ns("c"), client_address(client), 0, world.web())?;
        }
        Ok(())
    };
    asks(&world)?;
    world.setup.affinity = "flow";
    world.write_config()?;
    let config = world.config();
    let text = std::fs::read_to_string(&config).expect("a configuration");
    std::fs::write(&config, text.replace("\"web\"", "\"web2\"").replace("\"echo\"", "\"echo2\""))
        .expect("written");
    world.zdd().run(&["apply", &config.display().to_string()])?;
    asks(&world)?;
    assert_eq!(service(&world.status()?, "web2")["affinity"], "flow");
    Ok(())
}

#[test]
fn a_refused_change_takes_nothing_from_a_service_that_it_would_have_replaced() -> Result<()> {
    let (world, load) = begin()?;
    let text = world.setup.toml(world.rig.scratch().dir()).replace("\"web\"", "\"web2\"");
    // As many as there may be: with those that would go there are too many while they change.
    let more: Vec<String> = (1..=6)
        .map(|n| world.setup.service(&format!("s{n}"), &format!("{VIP}:{}/tcp", 100 + n), 9000 + n))
        .collect();
    let file = world.write("full.toml", &(text + &more.concat()))?.display().to_string();
    world.refused(&["apply", &file])?.says(1, &["agent.limits.services"]);
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_version_that_the_file_drops_is_seen_until_nobody_is_left_on_it() -> Result<()> {
    let mut world = World::running(Setup { v2: vec![3], v2_percent: 50, ..Setup::default() })?;
    let load = world.load(20)?;
    assert!(load.ledger().live_long[1] > 0, "v2 has connections");
    let text = world.setup.toml(world.rig.scratch().dir()).replace("weight = 50", "weight = 100");
    let services = text.split("\n[[service]]\n");
    let without: Vec<&str> = services
        .map(|text| text.split("[[service.version]]\nname = \"v2\"").next().unwrap_or_default())
        .collect();
    let file = world.write("edited.toml", &without.join("\n[[service]]\n"))?.display().to_string();
    let told = world.zdd().run(&["apply", &file])?;
    assert!(told.contains("- web/v2: 50%"), "{told}");
    world.wait_status("its flows to be counted", |status| {
        let v2 = version(status, "web", "v2");
        assert_eq!((&v2["draining"], number(v2, "share")), (&true.into(), 0.0), "{v2}");
        (number(v2, "flows") > 0.0).then_some(())
    })?;
    let address = world.address(3);
    assert_eq!(backend(&world.status()?, "web", &address)["state"], "removed");
    let list = world.zdd().run(&["backend", "list", "web"])?;
    assert!(list.lines().any(|line| line.contains("v2 ") && line.contains(&address)), "{list}");
    as_before(&load)?;
    // It can be waited for by its name, like any other, and does not come back by itself.
    world.refused(&["undrain", "web/v2"])?.says(1, &["the file has dropped web/v2", "help: `zdd apply`"]);
    let zdd = world.zdd();
    let (status, said) = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| zdd.json_any(&["drain", "web/v2", "--wait", "--deadline", "120s"]));
        let early = world.zdd().json(&["drain", "web/v2"]);
        assert!(early.is_ok_and(|early| early["drained"] == false && number(&early, "left") > 0.0));
        assert!(!waiting.is_finished(), "it returned while connections were alive");
        unharmed(&load.finish());
        waiting.join().expect("no panic")
    })?;
    assert_eq!(
        (status.code(), &said["drained"], &said["left"]),
        (Some(0), &true.into(), &0.into()),
        "{said}"
    );
    world.wait_status("it to be forgotten", |s| find_backend(s, "web", &address).is_none().then_some(()))?;
    let versions = service(&world.status()?, "web")["versions"].as_array().map(Vec::len);
    assert_eq!(versions, Some(1));
    Ok(())
}

/// How packets reach a backend outlives its version, also in an agent that starts.
#[test]
fn a_version_that_the_file_drops_is_reached_as_before() -> Result<()> {
    let agent_lines = format!("snat_source = \"{VIP}\"\n");
    let mut world =
        World::new(Setup { v2: vec![3], v2_percent: 50, agent_lines, idle_ms: 10_000, ..Setup::default() })?;
    let text = world.setup.toml(world.rig.scratch().dir());
    let v2 = "name = \"v2\"\nweight = 50\n";
    let own = text.replacen(v2, &format!("{v2}forward = \"snat\"\n"), 1);
    std::fs::write(world.config(), &own).expect("written");
    world.start_agent()?;
    world.wait_healthy()?;
    let load = world.load(20)?;
    goes_on(&load)?;
    assert!(load.ledger().live_long[1] > 0, "v2 has connections");
    // Only `web` loses it.
    let (web, echo) = own.split_once("\n[[service]]\nname = \"echo\"").expect("two services");
    let (kept, _) = web.rsplit_once("[[service.version]]").expect("two versions");
    let kept = kept.replace("weight = 50", "weight = 100");
    std::fs::write(world.config(), format!("{kept}\n[[service]]\nname = \"echo\"{echo}")).expect("written");
    world.zdd().run(&["apply", &world.config().display().to_string()])?;
    goes_on(&load)?;
    world.kill_agent();
    world.start_agent()?;
    goes_on(&load)?;
    assert!(load.ledger().live_long[1] > 0, "v2 has connections");
    let counts = load.finish().counts;
    assert_eq!((counts.broken(), counts.short_failed), (0, 0), "{counts:?}");
    Ok(())
}
