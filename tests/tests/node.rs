//! A machine goes and comes back: its backends are drained in all services at once, and nobody notices. Needs root.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use zdd_tests::rig::{Error, Result, wait_for};
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World, as_before, unharmed};

/// Three nodes with a backend of each version of both services.
const NODES: [(&str, [u8; 2]); 3] = [("n1", [1, 4]), ("n2", [2, 5]), ("n3", [3, 6])];

fn setup() -> Setup {
    let nodes = NODES.map(|(name, [a, b])| {
        format!("[[node]]\nname = \"{name}\"\naddresses = [\"10.81.{a}.0/30\", \"10.81.{b}.2/32\"]\n")
    });
    Setup {
        // All clients of this test have one address.
        affinity: "flow",
        backends: 6,
        v1: vec![1, 2, 3],
        v2: vec![4, 5, 6],
        v2_percent: 50,
        idle_ms: 2000,
        api: nodes.concat(),
        ..Setup::default()
    }
}

/// A connection that exchanges a line every 100 ms until it is told to end, and knows whom it met.
struct Long {
    backend: String,
    done: Arc<AtomicBool>,
    thread: JoinHandle<std::result::Result<u32, String>>,
}

impl Long {
    fn open(world: &World) -> Result<Long> {
        let target = world.web();
        let stream = world.rig.in_ns("c", || TcpStream::connect(target))?.map_err(Error::io("connect"))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(Error::io("set a deadline"))?;
        let mut stream = BufReader::new(stream);
        let mut hello = String::new();
        stream.read_line(&mut hello).map_err(Error::io("read a greeting"))?;
        let backend = hello.split_whitespace().nth(2).expect("HELLO version backend").to_owned();
        let (done, end) = (Arc::new(AtomicBool::new(false)), backend.clone());
        let told = done.clone();
        let thread =
            std::thread::spawn(move || talk(stream, &end, &told).map_err(|error| format!("{end}: {error}")));
        Ok(Long { backend, done, thread })
    }

    /// Ends as its protocol says; an error if it broke, or was answered by somebody else, at any time.
    fn finish(self) {
        self.done.store(true, Ordering::Relaxed);
        let lines = self.thread.join().expect("no panic").expect("a connection that was not broken");
        assert!(lines > 0, "it never spoke");
    }
}

fn talk(mut stream: BufReader<TcpStream>, backend: &str, done: &AtomicBool) -> std::io::Result<u32> {
    let mut lines = 0u32;
    loop {
        let last = done.load(Ordering::Relaxed) && lines > 0;
        lines += 1;
        let line = if last { "Q\n".to_owned() } else { format!("{lines}\n") };
        stream.get_ref().write_all(line.as_bytes())?;
        let mut answer = String::new();
        stream.read_line(&mut answer)?;
        if answer.split_whitespace().last() != Some(backend) {
            return Err(std::io::Error::other(format!("unexpected answer {answer:?} to {line:?}")));
        }
        if last {
            return Ok(lines);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn draining(status: &Value, addresses: &[String]) -> bool {
    let services = status["services"].as_array().expect("services");
    let versions = services.iter().filter_map(|service| service["versions"].as_array()).flatten();
    let backends = versions.filter_map(|version| version["backends"].as_array()).flatten();
    let here = backends.filter(|b| {
        let ip = b["address"].as_str().and_then(|a| a.split(':').next()).unwrap_or_default();
        addresses.iter().any(|address| address.starts_with(&format!("{ip}:")))
    });
    let states: Vec<&Value> = here.map(|backend| &backend["state"]).collect();
    states.len() == 2 * addresses.len() && states.iter().all(|state| *state == "draining")
}

#[test]
fn three_nodes_are_upgraded_one_after_the_other_and_no_connection_breaks() -> Result<()> {
    let mut world = World::running(setup())?;
    let load = world.idle_load()?;
    load.set_rate(100);
    let mut longs = (0..60).map(|_| Long::open(&world)).collect::<Result<Vec<_>>>()?;
    for (name, members) in NODES {
        let addresses: Vec<String> = members.iter().map(|member| world.address(*member)).collect();
        let names: Vec<String> = members.iter().map(|member| format!("b{member}")).collect();
        let zdd = world.zdd();
        let (status, said) = std::thread::scope(|scope| {
            let waiting =
                scope.spawn(|| zdd.json_any(&["drain", "--node", name, "--wait", "--deadline", "10m"]));
            world.wait_status(&format!("{name} to drain"), |s| draining(s, &addresses).then_some(()))?;
            world.avoids(&load, &members)?;
            assert!(!waiting.is_finished(), "it returned while connections were alive");
            // Those that are there live on, and end when they are done; then the node is free.
            let (here, elsewhere): (Vec<_>, Vec<_>) =
                std::mem::take(&mut longs).into_iter().partition(|long| names.contains(&long.backend));
            assert!(!here.is_empty(), "nobody was on {name}");
            here.into_iter().for_each(Long::finish);
            longs = elsewhere;
            waiting.join().expect("no panic")
        })?;
        assert_eq!(status.code(), Some(0), "{said}");
        assert_eq!((&said["drained"], &said["left"]), (&true.into(), &0.into()), "{said}");
        assert_eq!(
            said["backends"].as_array().map(Vec::len),
            Some(4),
            "two backends in two services: {said}"
        );
        // The upgrade: its servers are away for a while.
        world.set_health(&members, false)?;
        world.set_health(&members, true)?;
        world.zdd().run(&["undrain", "--node", name])?;
        for member in members {
            world.comes_to(&load, member)?;
        }
        longs.extend((0..20).map(|_| Long::open(&world)).collect::<Result<Vec<_>>>()?);
    }
    as_before(&load)?;
    longs.into_iter().for_each(Long::finish);
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_node_with_the_last_healthy_backends_of_a_version_is_not_drained() -> Result<()> {
    let mut world = World::running(setup())?;
    world.set_health(&[2, 3], false)?;
    let refusal = world.refused(&["drain", "--node", "n1"])?;
    refusal.says(1, &["the last healthy backends of web/v1, echo/v1", "--force", "other versions stand in"]);
    let before = world.status()?;
    assert!(!before.to_string().contains("\"state\":\"draining\""), "{before}");
    let forced = world.zdd().json(&["drain", "--node", "n1", "--force"])?;
    assert!(forced["notes"].to_string().contains("web/v1 has no healthy backend left"), "{forced}");
    // Nobody is left at all: that is refused whatever is asked.
    for sick in ["b5", "b6"] {
        world.servers().set_healthy(sick, false);
    }
    world.wait_health(&[2, 3, 5, 6])?;
    world.refused(&["drain", "--node", "n2", "--force"])?;
    let unknown = world.refused(&["drain", "--node", "n9"])?;
    unknown.says(1, &["no node `n9`", "n1, n2, n3", "[[node]]"]);
    // A kill in between is finished by the restart: the intent was persisted as a whole.
    world.kill_agent();
    world.start_agent()?;
    let address = [world.address(1), world.address(4)];
    world.wait_status("the drain to go on", |status| draining(status, &address).then_some(()))?;
    Ok(())
}

#[test]
fn a_hook_drains_only_when_the_node_is_marked() -> Result<()> {
    let world = World::running(setup())?;
    let mark = world.rig.scratch().path("leaving").display().to_string();
    let hook = || {
        let mut command = world.zdd().command(&["drain", "--node", "--if-file", &mark]);
        command.env("ZDD_NODE", "n3").output().map_err(Error::io("run the hook"))
    };
    let ignored = hook()?;
    assert!(
        ignored.status.success() && String::from_utf8_lossy(&ignored.stderr).contains("nothing is drained")
    );
    std::fs::write(&mark, "").map_err(Error::io("mark"))?;
    let done = hook()?;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let address = [world.address(3), world.address(6)];
    wait_for("n3 to drain", PATIENCE, LOOK_EVERY, || {
        Ok::<_, Error>(draining(&world.status()?, &address).then_some(()))
    })
}
