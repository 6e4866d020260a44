//! What the agent refuses to start on, who it never replaces, and that it takes everything away when told to. Needs root.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use aya::maps::{Array, Map, MapData};
use zdd_tests::rig::{Error, Result, XdpPass, wait_for};
use zdd_tests::traffic::Load;
use zdd_tests::world::status::interface;
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Refusal, Setup, World, as_before, curl, talk, unharmed};

fn small() -> Setup {
    Setup { backends: 2, v1: vec![1], v2: vec![2], v2_percent: 50, ..Setup::default() }
}

/// A running service, and a second configuration that differs from its own by `change`.
fn refused_beside(change: impl Fn(&mut Setup)) -> Result<(World, Load, Refusal)> {
    let world = World::running(small())?;
    let load = world.load(10)?;
    let mut other =
        Setup { socket: "other.sock", state_dir: "other", pin_dir: "bpf/other".into(), ..small() };
    change(&mut other);
    let config = world.write("other.toml", &other.toml(world.rig.scratch().dir()))?;
    let said = world.refused_start(&config)?;
    as_before(&load)?;
    Ok((world, load, said))
}

fn has_xdp(world: &World, device: &str) -> Result<bool> {
    Ok(world.rig.ns("lb").run(&["ip", "link", "show", device])?.contains("xdp"))
}

#[test]
fn a_second_agent_on_the_same_pins_is_refused() -> Result<()> {
    let (world, load, said) = refused_beside(|other| other.pin_dir = small().pin_dir)?;
    said.says(1, &["another zdd agent uses", &world.pin_dir().display().to_string(), "help: stop it first"]);
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_second_agent_on_the_same_socket_is_refused() -> Result<()> {
    let (world, load, said) = refused_beside(|other| other.socket = small().socket)?;
    said.says(1, &[&world.zdd().socket().display().to_string(), "help: "]);
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_pin_directory_that_is_not_on_a_bpf_file_system_is_refused() -> Result<()> {
    let (_world, load, said) = refused_beside(|other| other.pin_dir = "no-bpffs".into())?;
    said.says(1, &["no-bpffs is not on a BPF file system", "help: mount -t bpf bpf /sys/fs/bpf"]);
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn an_interface_that_is_not_there_is_refused_by_name() -> Result<()> {
    let (_world, load, said) = refused_beside(|other| other.interfaces = "nope0".into())?;
    said.says(1, &["interface nope0 is not there (there are: ", "zlc", "help: correct agent.interfaces"]);
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn without_privileges_nothing_is_touched() -> Result<()> {
    let world = World::running(small())?;
    let load = world.load(10)?;
    let dir = world.rig.scratch().path("nobody");
    std::fs::create_dir(&dir).expect("made");
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).expect("open to all");
    let other = Setup {
        socket: "nobody/zdd.sock",
        state_dir: "nobody/state",
        pin_dir: "bpf/other".into(),
        ..small()
    };
    let config = world.write("nobody.toml", &other.toml(world.rig.scratch().dir()))?;
    // Where it was built, nobody may be unable to read it.
    let binary = world.rig.scratch().path("zdd-copy");
    std::fs::copy(world.binary(), &binary).expect("copied");
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&binary);
    command.args(["agent", "--config"]).arg(&config);
    let said = world.refused_command(command)?;
    said.says(1, &["this user lacks CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON", "help: run the agent as root"]);
    // Nor may it ask the one that runs.
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&binary);
    command.arg("--socket").arg(world.zdd().socket()).arg("status");
    world
        .refused_command(command)?
        .says(4, &["no agent answers on", "help: only root, the agent's own user"]);
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

fn marker(world: &World) -> Array<MapData, u32> {
    let data = MapData::from_pin(world.pin_dir().join("LAYOUT")).expect("the marker is pinned");
    let map = Map::from_map_data(data).expect("a map");
    Array::try_from(map).expect("an array")
}

#[test]
fn maps_of_another_layout_are_refused_and_left_alone() -> Result<()> {
    let mut world = World::running(small())?;
    let load = world.load(10)?;
    world.kill_agent();
    let ours = marker(&world).get(&0, 0).expect("a number");
    marker(&world).set(0, &999, 0).expect("written");
    let said = world.refused_start(&world.config())?;
    said.says(
        1,
        &[
            "have layout 999",
            &format!("speaks layout {ours}"),
            "help: traffic goes on as it is",
            "zdd detach",
        ],
    );
    as_before(&load)?;
    marker(&world).set(0, &ours, 0).expect("written");
    world.start_agent()?;
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn maps_without_a_layout_are_refused_and_left_alone() -> Result<()> {
    let mut world = World::running(small())?;
    let load = world.load(10)?;
    world.kill_agent();
    std::fs::remove_file(world.pin_dir().join("LAYOUT")).expect("unpinned");
    let said = world.refused_start(&world.config())?;
    said.says(1, &["have layout unknown", "is pinned, but no LAYOUT", "zdd detach --pin-dir"]);
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn limits_that_differ_from_the_pinned_maps_are_refused() -> Result<()> {
    let mut world = World::running(small())?;
    let load = world.load(10)?;
    world.kill_agent();
    let text = world.setup.toml(world.rig.scratch().dir()).replace("flows = 16384", "flows = 32768");
    let config = world.write("grown.toml", &text)?;
    let said = world.refused_start(&config)?;
    said.says(1, &["agent.limits differ from the maps pinned in", "FLOWS", "help: put the old limits back"]);
    as_before(&load)?;
    world.start_agent()?;
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_foreign_xdp_program_is_named_and_never_replaced() -> Result<()> {
    let mut world = World::new(small())?;
    let foreign = XdpPass::attach(world.rig.ns("lb"), "zlb2")?;
    let id = |world: &World| -> Result<String> {
        let shown = world.rig.ns("lb").run(&["ip", "-d", "link", "show", "zlb2"])?;
        Ok(shown.split("prog/xdp id ").nth(1).unwrap_or("none").split(' ').next().unwrap_or("").to_owned())
    };
    let was = id(&world)?;
    assert_ne!(was, "none");
    let words = ["zlb2 already has an XDP program that is not zdd's", "(id ", "zdd never replaces it"];
    // By pattern: the agent runs on the others, and says which one it left out and why.
    world.start_agent()?;
    let status = world.status()?;
    let blocked = interface(&status, "zlb2").unwrap_or_else(|| panic!("zlb2 is not listed: {status}"));
    assert_eq!(blocked["attached"], false, "{blocked}");
    let note = blocked["note"].as_str().unwrap_or_default();
    assert!(words[..2].iter().all(|w| note.contains(w)), "{note:?}");
    assert_eq!(interface(&status, "zlc").map(|i| &i["attached"]), Some(&true.into()), "{status}");
    assert_eq!(id(&world)?, was, "it is still there");
    world.stop_agent()?;
    // By name: it must work, so the agent does not start.
    world.setup.interfaces = "zlc\", \"zlb2".into();
    world.write_config()?;
    world.refused_start(&world.config())?.says(1, &words);
    assert_eq!(id(&world)?, was, "it is still there");
    let target = world.address(2).parse().expect("an address");
    talk(world.rig.ns("c"), "10.80.1.7:0".parse().expect("an address"), target, 3)?;
    drop(foreign);
    Ok(())
}

#[test]
fn an_interface_that_appears_later_is_attached() -> Result<()> {
    let mut world = World::running(small())?;
    let load = world.load(10)?;
    world.rig.wire(("lb", "zlnew"), ("b1", "bnew"))?;
    world.wait_status("zlnew to be attached", |status| {
        (interface(status, "zlnew")?["attached"] == true).then_some(())
    })?;
    assert!(has_xdp(&world, "zlnew")?);
    world.rig.ns("lb").run(&["ip", "link", "del", "zlnew"])?;
    world.wait_status("zlnew to be forgotten", |status| {
        interface(status, "zlnew").is_none_or(|i| i["attached"] == false).then_some(())
    })?;
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

fn nothing_is_left(world: &World) -> Result<()> {
    for device in ["zlc", "zlb1", "zlb2"] {
        // The kernel takes a link that nobody holds any more away a moment later.
        wait_for(&format!("{device} to be without a program"), PATIENCE, LOOK_EVERY, || {
            Ok::<_, Error>((!has_xdp(world, device)?).then_some(()))
        })?;
    }
    assert!(!world.pin_dir().exists(), "{:?}", listing(&world.pin_dir()));
    // Packets pass the host untouched.
    let target = world.address(1).parse().expect("an address");
    talk(world.rig.ns("c"), "10.80.1.7:0".parse().expect("an address"), target, 3)?;
    Ok(())
}

fn listing(dir: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect()
}

#[test]
fn detach_leaves_nothing_and_ends_the_agent() -> Result<()> {
    let mut world = World::running(small())?;
    assert!(has_xdp(&world, "zlc")? && !listing(&world.pin_dir()).is_empty());
    let text = world.zdd().run(&["detach"])?;
    assert!(text.contains("- ") && text.contains("zlc"), "{text}");
    world.agent_ends()?;
    nothing_is_left(&world)?;
    // And it can begin anew.
    world.start_agent()?;
    world.wait_healthy()?;
    let load = world.load(10)?;
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn detach_works_without_an_agent() -> Result<()> {
    let mut world = World::running(small())?;
    world.kill_agent();
    assert!(has_xdp(&world, "zlc")?, "the program outlives the agent");
    world.refused(&["detach"])?.says(4, &["no agent answers on"]);
    let pins = world.pin_dir().display().to_string();
    world.zdd().run(&["detach", "--pin-dir", &pins])?;
    nothing_is_left(&world)
}

#[test]
fn the_metrics_page_is_the_namespaces_own() -> Result<()> {
    let world = World::running(small())?;
    let text = curl(world.rig.ns("lb"), None, "http://127.0.0.1:9177/metrics")?;
    assert!(text.contains("zdd_build_info"), "{text}");
    let outside = curl(world.rig.ns("c"), None, "http://10.80.0.1:9177/metrics");
    assert!(outside.is_err(), "metrics are for loopback only: {outside:?}");
    Ok(())
}

#[test]
fn hosts_with_one_key_file_agree_and_another_key_is_refused() -> Result<()> {
    let mut world = World::running(small())?;
    let load = world.load(10)?;
    world.kill_agent();
    let key = world.write("key", "000102030405060708090a0b0c0d0e0f\n")?;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("made private");
    let with_key = format!("[agent]\nkey_file = \"{}\"\n", key.display());
    let text = world.setup.toml(world.rig.scratch().dir()).replacen("[agent]\n", &with_key, 1);
    let config = world.write("zdd.toml", &text)?;
    world
        .refused_start(&config)?
        .says(1, &["holds another key than", "state.json", "help: leave key_file out"]);
    as_before(&load)?;
    unharmed(&load.finish());
    // Two hosts, one after the other, both from nothing.
    let mut hosts = Vec::new();
    for _ in 0..2 {
        world.zdd().run(&["detach", "--pin-dir", &world.pin_dir().display().to_string()])?;
        std::fs::remove_dir_all(world.rig.scratch().dir().join(world.setup.state_dir)).expect("removed");
        world.start_agent()?;
        world.wait_healthy()?;
        world.zdd().run(&["shift", "web", "v2=50%"])?;
        hosts.push(world.explained("web", 30)?);
        world.kill_agent();
    }
    assert_eq!(hosts[0], hosts[1]);
    Ok(())
}
