//! `zdd trace` beside real traffic, and what tshark makes of it. Needs root and tshark.

use std::net::UdpSocket;
use std::process::{Command, Stdio};

use serde_json::Value;
use zdd_tests::rig::{Proc, Result, VIP, wait_for};
use zdd_tests::world::{ECHO_PORT, LOOK_EVERY, PATIENCE, Setup, World, as_before, unharmed, whole_lines};

/// Starts `zdd trace` with its output in a file of this name.
fn start(world: &World, name: &str, args: &[&str]) -> Result<(Proc, std::path::PathBuf)> {
    let file = world.rig.scratch().path(name);
    let mut all = vec!["trace"];
    all.extend(args);
    let proc = Proc::start_logged(world.zdd().command(&all), &file)?;
    Ok((proc, file))
}

/// The packets of a trace in JSON; notes on standard error come between them.
fn packets(text: &str) -> Vec<Value> {
    let lines = whole_lines(text).filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// The agent says when it has stopped to look; before that another trace may be under way.
fn ended(world: &World) -> Result<()> {
    wait_for("the trace to end", PATIENCE, LOOK_EVERY, || {
        let log = std::fs::read_to_string(world.rig.scratch().path("agent.log")).expect("a log");
        Ok::<_, zdd_tests::rig::Error>(
            (log.rfind("the last trace has ended") > log.rfind("a trace begins")).then_some(()),
        )
    })
}

#[test]
fn packets_are_told_with_their_fate_to_everybody_who_asks() -> Result<()> {
    let world = World::running(Setup { v2_percent: 50, ..Setup::default() })?;
    let load = world.load(10)?;
    let (mut web, web_file) = start(&world, "web", &["web", "--json", "--count", "60", "--rate", "2000"])?;
    let (mut echo, echo_file) =
        start(&world, "echo", &["echo", "--json", "--count", "40", "--rate", "2000"])?;
    assert!(web.wait(PATIENCE)?.success() && echo.wait(PATIENCE)?.success());
    for (service, file, protocol, count) in [("web", web_file, "tcp", 60), ("echo", echo_file, "udp", 40)] {
        let packets = packets(&std::fs::read_to_string(file).expect("its output"));
        assert_eq!(packets.len(), count);
        for packet in &packets {
            assert_eq!(
                (&packet["service"], &packet["protocol"]),
                (&service.into(), &protocol.into()),
                "{packet}"
            );
            assert!(packet["verdict"] == "redirect" || packet["verdict"] == "transmit", "{packet}");
            let backend = packet["backend"].as_str().expect("a backend");
            let v1 = ["10.81.1.2:", "10.81.2.2:"].iter().any(|own| backend.starts_with(own));
            assert_eq!(packet["version"], if v1 { "v1" } else { "v2" }, "{packet}");
            // A reply comes from its backend, everything else goes to the VIP.
            let end = if packet["reason"] == "reply" { &packet["from"] } else { &packet["to"] };
            let known = if packet["reason"] == "reply" { backend } else { "10.80.255.10:" };
            assert!(end.as_str().is_some_and(|end| end.starts_with(known)), "{packet}");
            let frame = packet["frame"].as_str().expect("a frame");
            assert!((28..=192).contains(&frame.len()) && packet["bytes"].as_u64() >= Some(42), "{packet}");
        }
        assert!(packets.iter().any(|packet| packet["reason"] == "reply"));
        assert!(packets.iter().any(|packet| packet["version"] == "v1"));
    }
    // For people: one line each, and a client's packets only.
    let client = "10.80.1.7";
    let said = world.zdd().run(&["trace", "--from", client, "--count", "3"])?;
    for line in said.lines() {
        assert!(line.contains(client) && line.contains("/v") && line.contains(" bytes"), "{said}");
    }
    assert_eq!(said.lines().count(), 3, "{said}");
    ended(&world)?;
    world.refused(&["trace", "nobody"])?.says(1, &["there is no service `nobody`"]);
    world.refused(&["trace", "--reason", "lost"])?.says(1, &["`lost` is no packet reason"]);
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn tshark_reads_the_capture_and_shows_the_verdict() -> Result<()> {
    let world = World::running(Setup::default())?;
    // Packets that must not go on: their last hop is over.
    let socket = world.rig.in_ns("c", || UdpSocket::bind("10.80.1.9:0"))?.expect("a socket");
    socket.set_ttl(1).expect("a plain option");
    let from = socket.local_addr().expect("an address");
    let capture = world.rig.scratch().path("capture.pcapng");
    let path = capture.display().to_string();
    let (mut trace, _) = start(&world, "notes", &["--reason", "drop", "--count", "4", "--write", &path])?;
    wait_for("four drops to be told", PATIENCE, LOOK_EVERY, || {
        socket.send_to(b"late", (VIP, ECHO_PORT)).expect("sent");
        trace.ended().map(|ended| ended.map(|status| assert!(status.success())))
    })?;
    let tshark = |more: &[&str]| {
        let mut argv = vec!["tshark", "-r", &path, "-T", "fields", "-E", "separator=|"];
        argv.extend(more);
        world.rig.ns("c").run(&argv)
    };
    let shown = tshark(&[
        "-e",
        "frame.comment",
        "-e",
        "frame.verdict.ebpf_xdp",
        "-e",
        "frame.interface_name",
        "-e",
        "ip.src",
        "-e",
        "ip.ttl",
        "-e",
        "udp.srcport",
        "-e",
        "udp.dstport",
    ])?;
    assert_eq!(shown.lines().count(), 4, "{shown}");
    for line in shown.lines() {
        let fields: Vec<_> = line.split('|').collect();
        let [comment, verdict, interface, src, ttl, source, destination] = fields[..] else {
            panic!("{line}")
        };
        assert!(
            comment.starts_with(&format!("zdd: drop drop_ttl udp {from} > 10.80.255.10:5353 echo/v1")),
            "{line}"
        );
        // XDP_DROP.
        assert_eq!((verdict, interface), ("1", "zlc"), "{line}");
        assert_eq!((src, ttl, destination), ("10.80.1.9", "1", "5353"), "{line}");
        assert_eq!(source, from.port().to_string(), "{line}");
    }
    // Live, by a pipe.
    let load = world.load(5)?;
    let mut zdd = world.zdd().command(&["trace", "web", "--count", "20", "--write", "-"]);
    let mut zdd = zdd.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("zdd starts");
    let from_zdd = Stdio::from(zdd.stdout.take().expect("its output"));
    let shown = Command::new("tshark")
        .args(["-r", "-", "-Y", "tcp", "-T", "fields", "-e", "frame.comment"])
        .stdin(from_zdd)
        .output()
        .expect("tshark runs");
    assert!(zdd.wait().expect("a child").success());
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert_eq!(shown.lines().count(), 20, "{shown}");
    assert!(
        shown.lines().all(|line| line.starts_with("zdd: ") && line.contains(" web/v1 10.81.")),
        "{shown}"
    );
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_trace_ends_with_the_agent_and_the_next_one_knows_nothing_of_it() -> Result<()> {
    let mut world = World::running(Setup::default())?;
    let load = world.load(10)?;
    let (mut trace, file) = start(&world, "first", &["--json"])?;
    wait_for("the first packets", PATIENCE, LOOK_EVERY, || {
        Ok::<_, zdd_tests::rig::Error>(
            (!packets(&std::fs::read_to_string(&file).expect("a file")).is_empty()).then_some(()),
        )
    })?;
    world.kill_agent();
    let status = trace.wait(PATIENCE)?;
    assert_eq!(status.code(), Some(1), "it says that the agent went away");
    let said = std::fs::read_to_string(&file).expect("a file");
    assert!(said.contains("the agent went away"), "{said}");
    as_before(&load)?;
    world.start_agent()?;
    // A disk without room, and a place that is none, are told with the way out.
    for place in ["/dev/full", "/nowhere/web.pcapng"] {
        let refused = world.refused(&["trace", "web", "--count", "5", "--write", place])?;
        refused.says(1, &[&format!("cannot write {place}"), "help: make room, or name another file"]);
    }
    let said = world.zdd().run(&["trace", "web", "--count", "5"])?;
    assert_eq!(said.lines().count(), 5, "{said}");
    // One whose reader has gone away ends too, and then nobody looks.
    let (trace, _) = start(&world, "second", &["--json"])?;
    wait_for("the second trace", PATIENCE, LOOK_EVERY, || {
        let file = world.rig.scratch().path("second");
        Ok::<_, zdd_tests::rig::Error>(
            (!std::fs::read_to_string(file).expect("a file").is_empty()).then_some(()),
        )
    })?;
    trace.kill();
    ended(&world)?;
    unharmed(&load.finish());
    Ok(())
}
