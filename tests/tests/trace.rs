//! `zdd trace` beside real traffic, and what tshark makes of it. Needs root and tshark.

use std::net::UdpSocket;
use std::num::NonZero;
use std::process::{Command, Stdio};

use aya::maps::MapData;
use serde_json::Value;
use zdd_agent::api::client::Client;
use zdd_agent::trace::{RATE, SNAP, TraceFilter};
use zdd_tests::rig::{Proc, Result, VIP, wait_for};
use zdd_tests::terminal::Top;
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

/// Until when the program is asked for packets, in nanoseconds since boot; 0: nobody asks.
fn asked_until(world: &World) -> u64 {
    // It is not pinned: no other agent shall find it.
    let pid = world.status().expect("an agent")["pid"].as_u64().expect("a process");
    let open = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("a living agent").flatten();
    let ids = open.filter_map(|fd| {
        let text = std::fs::read_to_string(fd.path()).ok()?;
        text.lines().find_map(|line| line.strip_prefix("map_id:")?.trim().parse::<u32>().ok())
    });
    let mut maps = ids.filter_map(|id| MapData::from_id(id).ok());
    let map = maps
        .find(|map| map.info().is_ok_and(|info| info.name_as_str() == Some("TRACE")))
        .expect("the agent has it open");
    let map = aya::maps::Array::<_, [u64; 8]>::try_from(aya::maps::Map::Array(map)).expect("an array");
    map.get(&0, 0).expect("its word")[0]
}

/// The programs that are attached, by their ids.
fn attached(world: &World) -> Result<Vec<String>> {
    let shown = world.rig.ns("lb").run(&["ip", "-o", "link", "show"])?;
    let ids = shown.lines().filter_map(|line| line.split_once("prog/xdp id ").map(|(_, id)| id.to_owned()));
    Ok(ids.map(|id| id.split_whitespace().next().unwrap_or_default().to_owned()).collect())
}

#[test]
fn nobody_who_looks_at_numbers_asks_anything_of_the_packets() -> Result<()> {
    let world =
        World::running(Setup { agent_lines: "page = \"127.0.0.1:9178\"".to_owned(), ..Setup::default() })?;
    let programs = attached(&world)?;
    assert!(!programs.is_empty() && asked_until(&world) == 0, "{programs:?}");
    // The page's stream, the screen, a status that goes on, and a scrape: all of them at once.
    let size = |n| NonZero::new(n).expect("not 0");
    let mut top = Top::start(&world);
    let mut watch =
        Top::start_command(&world, &["status", "--watch"], "xterm-256color", (size(50), size(160)));
    let page = world.rig.scratch().path("page");
    let mut stream = Command::new("curl");
    stream.args(["--silent", "--no-buffer", "http://127.0.0.1:9178/api/v1/events"]);
    let stream = world.rig.ns("lb").spawn_logged(stream, &page)?;
    top.shows("the screen", &["connected", "web"])?;
    watch.shows("the status", &["web", "flow table:"])?;
    wait_for("the page's stream", PATIENCE, LOOK_EVERY, || {
        let heard = std::fs::read_to_string(&page).expect("a file");
        Ok::<_, zdd_tests::rig::Error>(heard.contains("data:").then_some(()))
    })?;
    zdd_tests::world::curl(world.rig.ns("lb"), None, "http://127.0.0.1:9177/metrics")?;
    assert_eq!((asked_until(&world), attached(&world)?), (0, programs.clone()));
    // A trace does ask, and nothing is left of that when it has ended.
    let (trace, _) = start(&world, "trace", &["web"])?;
    wait_for("the trace", PATIENCE, LOOK_EVERY, || {
        Ok::<_, zdd_tests::rig::Error>((asked_until(&world) > 0).then_some(()))
    })?;
    trace.kill();
    ended(&world)?;
    assert_eq!((asked_until(&world), attached(&world)?), (0, programs));
    stream.kill();
    // Whoever has seen enough presses Ctrl-C.
    watch.press("\x03");
    assert!(watch.ends()?.success(), "the end of a look is no failure");
    top.press("q");
    assert!(top.ends()?.success());
    Ok(())
}

#[test]
fn as_many_may_trace_as_there_may_be_and_the_next_one_is_told_so() -> Result<()> {
    let world = World::running(Setup::default())?;
    let filter = || TraceFilter { service: None, reasons: u64::MAX, from: None, rate: RATE, snap: SNAP };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut client = Client::connect(world.zdd().socket()).await.expect("an agent");
        let mut looking = Vec::new();
        for _ in 0..16 {
            looking.push(client.trace(&filter()).await.expect("there is room"));
        }
        let refused = world.refused(&["trace", "--count", "1"])?;
        refused.says(1, &["16 traces are under way", "help: end one of them; `zdd events`"]);
        // One that ends makes room.
        drop(looking.pop());
        let zdd = world.zdd().clone();
        // On a thread of its own: that it has ended must be told meanwhile.
        let room = tokio::task::spawn_blocking(move || {
            wait_for("room for another one", PATIENCE, LOOK_EVERY, || {
                let trace = zdd.output(&["trace", "--count", "1"])?;
                Ok::<_, zdd_tests::rig::Error>(trace.status.success().then_some(()))
            })
        });
        room.await.expect("it does not panic")?;
        drop(looking);
        Ok::<_, zdd_tests::rig::Error>(())
    })?;
    world.refused(&["trace", "--count", "0"])?.says(2, &["invalid value '0' for '--count <N>'"]);
    Ok(())
}

#[test]
fn ctrl_c_ends_every_look_and_leaves_a_drain_as_it_is() -> Result<()> {
    let world = World::running(Setup { idle_ms: 60_000, ..Setup::default() })?;
    let size = (NonZero::new(24).expect("not 0"), NonZero::new(100).expect("not 0"));
    for (args, shown) in
        [(&["events", "--follow"][..], "agent"), (&["trace"], "bytes"), (&["top"], "connected")]
    {
        let mut look = Top::start_command(&world, args, "xterm-256color", size);
        look.shows("something to look at", &[shown])?;
        look.press("\x03");
        assert!(look.ends()?.success(), "{args:?}");
    }
    let waits = ["drain", "web/v1", "--wait"];
    let mut wait = Top::start_command(&world, &waits, "xterm-256color", size);
    let drains = |world: &World| -> Result<bool> {
        let status = world.status()?;
        Ok(zdd_tests::world::status::version(&status, "web", "v1")["draining"] == true)
    };
    wait_for("the drain", PATIENCE, LOOK_EVERY, || {
        Ok::<_, zdd_tests::rig::Error>(drains(&world)?.then_some(()))
    })?;
    wait.press("\x03");
    wait.ends()?;
    assert!(drains(&world)?, "who waits has gone, the drain goes on");
    Ok(())
}

#[test]
fn who_looks_or_waits_when_the_agent_goes_is_told_that_nothing_is_lost() -> Result<()> {
    let rollout = "[service.rollout]\nstrategy = \"canary\"\nsteps = [{ weight = 25 }, { pause = \"until-promoted\" }]\n";
    let mut world =
        World::running(Setup { idle_ms: 60_000, rollout: Some(rollout.to_owned()), ..Setup::default() })?;
    let load = world.load(5)?;
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    let looks: [&[&str]; 6] = [
        &["events", "--follow"],
        &["status", "--watch"],
        &["rollout", "status", "web", "--watch"],
        &["rollout", "status", "web", "--wait"],
        &["trace", "web"],
        &["drain", "echo/v2", "--wait"],
    ];
    // Killed, and told to end: the first time connections break, the second time streams just end.
    for killed in [true, false] {
        let mut going = Vec::new();
        for (n, look) in looks.iter().enumerate() {
            let (out, err) = (format!("look-{killed}-{n}"), format!("look-{killed}-{n}.err"));
            let (out, err) = (world.rig.scratch().path(&out), world.rig.scratch().path(&err));
            let mut command = world.zdd().command(look);
            let file = |path: &std::path::Path| std::fs::File::create(path).expect("a file");
            command.stdout(file(&out)).stderr(file(&err));
            going.push((look, command.spawn().expect("zdd starts"), out, err));
        }
        for (look, _, out, err) in &going {
            // Who waits says so, who looks sees something; `rollout --wait` is silent.
            wait_for("something to look at", PATIENCE, LOOK_EVERY, || {
                let size = |path: &std::path::Path| path.metadata().map_or(0, |file| file.len());
                let silent = look.contains(&"--wait") && look[0] == "rollout";
                Ok::<_, zdd_tests::rig::Error>((silent || size(out) + size(err) > 0).then_some(()))
            })?;
        }
        if killed {
            world.kill_agent();
        } else {
            world.stop_agent()?;
        }
        for (look, mut child, _, err) in going {
            let status = wait_for("its end", PATIENCE, LOOK_EVERY, || {
                Ok::<_, zdd_tests::rig::Error>(child.try_wait().expect("a child"))
            })?;
            let said = std::fs::read_to_string(err).expect("a file");
            assert_eq!(status.code(), Some(1), "{look:?}, killed: {killed}: {said}");
            assert!(said.contains("help: "), "{look:?}, killed: {killed}: {said}");
            let told = ["the agent went away", "traffic goes on without it", "or the agent stops"];
            assert!(told.iter().any(|told| said.contains(told)), "{look:?}, killed: {killed}: {said}");
            assert!(!said.contains("before it answered"), "{look:?}, killed: {killed}: {said}");
        }
        world.start_agent()?;
    }
    unharmed(&load.finish());
    Ok(())
}
