//! `zdd doctor`: each finding is shown by making the fault, and is gone when the fault is. Needs root.

use serde_json::Value;
use zdd_tests::rig::{Forward, Result, XdpPass};
use zdd_tests::world::{Setup, World};

/// A host on which the doctor has nothing to say.
fn well() -> Result<World> {
    let world = World::without_servers(Setup { backends: 2, v1: vec![1], v2: vec![2], ..Setup::default() })?;
    world.rig.ns("lb").sysctl("net/ipv4/conf/all/accept_local", "1")?;
    Ok(world)
}

/// Exit status and findings. The timeouts of the tests' worlds are short, of which `zdd check` rightly warns.
fn doctor(world: &World) -> Result<(i32, Vec<Value>)> {
    let text = std::fs::read_to_string(world.config()).expect("a configuration");
    let text =
        [("\"1s\"\n", "\"64s\"\n"), ("\"3000ms\"", "\"350s\""), ("timeout = \"5s\"", "timeout = \"100ms\"")]
            .iter()
            .fold(text, |text, (short, long)| text.replace(short, long));
    let config = world.write("doctor.toml", &text)?;
    let mut command = world.zdd().command(&["doctor", "--json", "--config"]);
    command.arg(config);
    let out = world.rig.ns("lb").enter(|| {
        // A child inherits the namespace of the thread that starts it.
        command.output()
    })?;
    let out = out.expect("it ran");
    let code = out.status.code().unwrap_or(-1);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let report: Value = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&out.stderr)));
    Ok((code, report["findings"].as_array().cloned().unwrap_or_default()))
}

fn bad(findings: &[Value]) -> Vec<&Value> {
    findings.iter().filter(|finding| finding["level"] != "ok").collect()
}

/// The doctor says exactly this one thing, and how to mend it.
fn says(world: &World, check: &str, level: &str, words: &[&str]) -> Result<()> {
    let (code, findings) = doctor(world)?;
    let bad = bad(&findings);
    let [finding] = bad.as_slice() else { panic!("one finding expected of {check}: {bad:#?}") };
    assert_eq!((&finding["check"], &finding["level"]), (&check.into(), &level.into()), "{finding}");
    let all = format!("{} {}", finding["what"], finding["fix"]);
    for word in words {
        assert!(all.contains(word), "{word:?} is missing in {finding}");
    }
    assert!(finding["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "{finding}");
    assert_eq!(code, if level == "warning" { 1 } else { 2 });
    Ok(())
}

fn is_well(world: &World) -> Result<()> {
    let (code, findings) = doctor(world)?;
    assert_eq!(bad(&findings), Vec::<&Value>::new());
    assert_eq!(code, 0);
    Ok(())
}

#[test]
fn a_host_that_is_fit_has_no_finding_and_every_check_was_made() -> Result<()> {
    let world = well()?;
    let (code, findings) = doctor(&world)?;
    assert_eq!(bad(&findings), Vec::<&Value>::new());
    assert_eq!(code, 0);
    let checks: Vec<&str> = findings.iter().filter_map(|finding| finding["check"].as_str()).collect();
    for check in [
        "kernel",
        "features",
        "privileges",
        "memlock",
        "clock",
        "conntrack",
        "config",
        "bpffs",
        "pins",
        "interfaces",
        "xdp",
        "foreign",
        "mtu",
        "redirect",
        "offload",
        "vip",
        "forwarding",
        "accept_local",
        "rp_filter",
        "neighbours",
        "agent",
    ] {
        assert!(checks.contains(&check), "{check} is missing in {checks:?}");
    }
    Ok(())
}

#[test]
fn settings_that_the_stack_needs_are_named() -> Result<()> {
    let world = well()?;
    let lb = world.rig.ns("lb");
    lb.sysctl("net/ipv4/ip_forward", "0")?;
    says(&world, "forwarding", "problem", &["sysctl -w net.ipv4.ip_forward=1"])?;
    lb.sysctl("net/ipv4/ip_forward", "1")?;
    lb.sysctl("net/ipv4/conf/all/accept_local", "0")?;
    says(&world, "accept_local", "warning", &["zlc", "sysctl -w net.ipv4.conf.all.accept_local=1"])?;
    lb.sysctl("net/ipv4/conf/all/accept_local", "1")?;
    lb.sysctl("net/ipv4/conf/all/rp_filter", "1")?;
    says(&world, "rp_filter", "warning", &["zlb2", "sysctl -w net.ipv4.conf.all.rp_filter=2"])?;
    lb.sysctl("net/ipv4/conf/all/rp_filter", "2")?;
    is_well(&world)
}

#[test]
fn an_interface_that_is_missing_or_down_is_named() -> Result<()> {
    let mut world = well()?;
    world.setup.interfaces = "zl*\", \"nope0".into();
    world.write_config()?;
    says(&world, "interfaces", "problem", &["nope0", "there are: ", "zlc"])?;
    world.setup.interfaces = "zl*\", \"nope*".into();
    world.write_config()?;
    says(&world, "interfaces", "warning", &["no interface matches nope*"])?;
    world.setup.interfaces = "zl*".into();
    world.write_config()?;
    world.rig.wire(("lb", "zlspare"), ("c", "spare"))?;
    world.rig.ns("c").run(&["ip", "link", "set", "spare", "down"])?;
    says(&world, "interfaces", "warning", &["zlspare has no carrier"])?;
    world.rig.ns("lb").run(&["ip", "link", "del", "zlspare"])?;
    is_well(&world)
}

#[test]
fn a_foreign_program_is_named() -> Result<()> {
    let mut world = well()?;
    let foreign = XdpPass::attach(world.rig.ns("lb"), "zlb2")?;
    says(&world, "foreign", "warning", &["zlb2", "not zdd's", "(id ", "ip link set dev zlb2 xdp off"])?;
    world.setup.interfaces = "zl*\", \"zlb2".into();
    world.write_config()?;
    says(&world, "foreign", "problem", &["zlb2", "zdd does not start"])?;
    drop(foreign);
    Ok(())
}

#[test]
fn mtus_that_differ_are_named() -> Result<()> {
    let world = well()?;
    let lb = world.rig.ns("lb");
    lb.run(&["ip", "link", "set", "zlb1", "mtu", "1400"])?;
    says(&world, "mtu", "warning", &["zlb1 has an MTU of 1400", "of 1500", "mtu 1400"])?;
    lb.run(&["ip", "link", "set", "zlb1", "mtu", "1500"])?;
    is_well(&world)?;
    for device in ["zlc", "zlb1", "zlb2"] {
        lb.run(&["ip", "link", "set", device, "mtu", "9000"])?;
    }
    // The driver of a veth hands over frames in several buffers.
    is_well(&world)
}

/// Programs that take frames in one piece share maps with none that take them in several buffers.
#[test]
fn maps_of_a_start_without_jumbo_frames_are_named() -> Result<()> {
    let mut world = well()?;
    world.start_agent()?;
    for device in ["zlc", "zlb1", "zlb2"] {
        world.rig.ns("lb").run(&["ip", "link", "set", device, "mtu", "9000"])?;
    }
    says(&world, "mtu", "warning", &["made when no interface had jumbo frames", "zdd detach"])?;
    Ok(())
}

#[test]
fn a_peer_without_gro_or_with_checksum_offload_is_named_with_the_command_for_its_namespace() -> Result<()> {
    let world = well()?;
    let b1 = world.rig.ns("b1");
    b1.run(&["ethtool", "-K", "b0", "gro", "off"])?;
    says(&world, "redirect", "warning", &["zlb1", "gro on"])?;
    b1.run(&["ethtool", "-K", "b0", "gro", "on"])?;
    b1.run(&["ethtool", "-K", "b0", "tx", "on"])?;
    let command = format!("ip netns exec {} ethtool -K b0 tx off", b1.name());
    says(&world, "offload", "problem", &["the other end of zlb1", &command])?;
    // As it says, word for word.
    b1.run(&["ethtool", "-K", "b0", "tx", "off"])?;
    is_well(&world)
}

#[test]
fn a_backend_that_does_not_answer_is_named() -> Result<()> {
    let world = well()?;
    let b2 = world.rig.ns("b2");
    b2.run(&["ip", "addr", "flush", "dev", "b0"])?;
    says(&world, "neighbours", "problem", &["10.81.2.2", "ip neigh"])?;
    b2.run(&["ip", "addr", "add", "10.81.2.2/30", "dev", "b0"])?;
    is_well(&world)
}

#[test]
fn pins_and_their_file_system_are_looked_at() -> Result<()> {
    let mut world = World::new(Setup { backends: 2, v1: vec![1], v2: vec![2], ..Setup::default() })?;
    world.rig.ns("lb").sysctl("net/ipv4/conf/all/accept_local", "1")?;
    world.setup.pin_dir = "no-bpffs".into();
    world.write_config()?;
    says(
        &world,
        "bpffs",
        "problem",
        &["no-bpffs is not on a BPF file system", "mount -t bpf bpf /sys/fs/bpf"],
    )?;
    world.setup.pin_dir = Setup::default().pin_dir;
    world.write_config()?;
    is_well(&world)?;
    world.start_agent()?;
    world.wait_healthy()?;
    is_well(&world)?;
    // The agent agrees: `accept_local` of `all` is enough.
    let log = std::fs::read_to_string(world.agent_log()).expect("a log");
    assert!(log.contains("attached") && !log.contains("would be dropped"), "{log}");
    world.kill_agent();
    says(&world, "pins", "warning", &["but no agent", "zdd agent --config"])?;
    let text = world.setup.toml(world.rig.scratch().dir()).replace("flows = 16384", "flows = 32768");
    world.write("zdd.toml", &text)?;
    says(&world, "pins", "problem", &["FLOWS has room for", "put the old limits back"])?;
    world.write_config()?;
    std::fs::remove_file(world.pin_dir().join("LAYOUT")).expect("unpinned");
    says(&world, "pins", "problem", &["but no LAYOUT", "zdd detach --pin-dir"])
}

#[test]
fn a_running_agent_is_asked_how_it_is() -> Result<()> {
    let mut world = World::running(Setup { backends: 2, v1: vec![1], v2: vec![2], ..Setup::default() })?;
    world.rig.ns("lb").sysctl("net/ipv4/conf/all/accept_local", "1")?;
    is_well(&world)?;
    world.set_health(&[2], false)?;
    let (code, findings) = doctor(&world)?;
    let bad = bad(&findings);
    // Both services check the same page.
    assert!(
        bad.len() == 2 && bad.iter().all(|f| f["check"] == "agent" && f["level"] == "warning"),
        "{bad:#?}"
    );
    assert!(
        bad[0]["what"]
            .as_str()
            .is_some_and(|what| what.contains("v2 10.81.2.2") && what.contains("unhealthy")),
        "{bad:#?}"
    );
    assert_eq!(code, 1);
    Ok(())
}

#[test]
fn a_bad_file_and_no_file_at_all_are_findings_and_not_failures() -> Result<()> {
    let world = well()?;
    world.write("zdd.toml", "[agent]\ninterfaces = [\"zl*\"]\nsokcet = \"/x\"\n")?;
    says(&world, "config", "problem", &["doctor.toml:3:", "sokcet"])?;
    let said = world.zdd().output(&["doctor"])?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(text.contains("none is named") && text.contains("findings: "), "{text}");
    Ok(())
}

#[test]
fn every_doubt_about_a_file_is_a_finding() -> Result<()> {
    let world = well()?;
    let text = std::fs::read_to_string(world.config()).expect("a configuration");
    let doubts = text.replacen("[agent]\n", "[agent]\nseccomp = \"off\"\n", 1).replacen(
        "forward = ",
        "udp_idle_timeout = \"60s\"\nforward = ",
        1,
    );
    world.write("zdd.toml", &doubts)?;
    let (code, findings) = doctor(&world)?;
    let said: Vec<&str> = bad(&findings).iter().filter_map(|finding| finding["what"].as_str()).collect();
    let [first, second] = said.as_slice() else { panic!("two findings expected: {said:#?}") };
    assert!(
        first.contains("seccomp") && second.contains("`udp_idle_timeout` counts for udp only"),
        "{said:#?}"
    );
    assert_eq!(code, 1);
    Ok(())
}

#[test]
fn an_agent_tells_what_is_amiss_before_it_attaches_and_starts_all_the_same() -> Result<()> {
    let mut world = well()?;
    world.rig.ns("lb").sysctl("net/ipv4/ip_forward", "0")?;
    world.rig.ns("lb").run(&["ip", "link", "set", "zlb1", "mtu", "1400"])?;
    world.start_agent()?;
    let log = std::fs::read_to_string(world.rig.scratch().path("agent.log")).expect("a log");
    for words in ["this host does not forward", "sysctl -w net.ipv4.ip_forward=1", "zlb1 has an MTU of 1400"]
    {
        assert!(log.contains(words), "{words:?} is missing in {log}");
    }
    Ok(())
}

#[test]
fn what_is_slow_under_nat_is_a_problem_under_l2() -> Result<()> {
    let setup = Setup { forward: Forward::L2, backends: 2, v1: vec![1], v2: vec![2], ..Setup::default() };
    let world = World::without_servers(setup)?;
    is_well(&world)?;
    let b1 = world.rig.ns("b1");
    b1.run(&["ethtool", "-K", "b0", "gro", "off"])?;
    says(&world, "redirect", "problem", &["zlb1", "an l2 service drops them", "gro on"])?;
    b1.run(&["ethtool", "-K", "b0", "gro", "on"])?;
    // Behind a gateway the backend's own hardware address cannot be had.
    let lb = world.rig.ns("lb");
    lb.run(&["ip", "addr", "del", "10.81.2.1/30", "dev", "zlb2"])?;
    lb.run(&["ip", "route", "add", "10.81.2.2/32", "via", "10.81.1.2"])?;
    says(
        &world,
        "neighbours",
        "problem",
        &["10.81.2.2 is behind a gateway", "with replies through this host"],
    )
}
