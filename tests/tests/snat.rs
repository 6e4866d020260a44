//! `snat`: backends that have no way to the clients, only to one address of the balancer's. Needs root.

#[path = "encap/echo.rs"]
mod echo;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use echo::{Server, Talk};
use zdd_tests::rig::{self, Families, Forward, Result, VIP, client_address, v4, wait_for};
use zdd_tests::traffic::Load;
use zdd_tests::world::status::count;
use zdd_tests::world::{ECHO_PORT, LOOK_EVERY, PATIENCE, Setup, World, as_before, unharmed};

fn setup(families: Families) -> Setup {
    Setup { forward: Forward::Snat, families, ..Setup::default() }
}

/// An echo server over UDP in a namespace.
struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(ns: &rig::Netns, at: SocketAddr) -> Result<Self> {
        let socket = ns.enter(|| UdpSocket::bind(at))?.expect("a server's socket");
        socket.set_read_timeout(Some(LOOK_EVERY)).expect("a timeout");
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !ended.load(Ordering::Relaxed) {
                // What a router says of an answer is told here, at the next call.
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
                drop(socket.send_to(&buffer[..length], peer));
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// A path narrows behind either side of us, and the routers there tell who sent what did not fit: the client, by what it was told about our packet,
/// and the backend, by what it was told about the VIP's. Then both send fragments, which we lead after their first ones.
#[test]
fn routers_on_either_side_tell_client_and_backend_of_a_narrower_path() -> Result<()> {
    let mut world = World::without_servers(Setup {
        udp: "now",
        v2: vec![],
        health: None,
        echo_health: None,
        ..setup(Families::V4)
    })?;
    for role in ["x", "y"] {
        world.rig.add_namespace(role)?;
    }
    let rig = &world.rig;
    for (router, near, far, net, mtu) in
        [("b4", "bx", "x", "10.91.0", 1200), ("c", "cy", "y", "10.92.0", 1000)]
    {
        let dev = format!("{far}0");
        rig.wire((router, near), (far, &dev))?;
        rig.ns(router).sysctl("net/ipv4/ip_forward", "1")?;
        rig.ns(router)
            .ip_batch(&[format!("addr add {net}.1/30 dev {near}"), format!("link set {near} mtu {mtu}")])?;
        rig.ns(far).ip_batch(&[
            format!("addr add {net}.2/30 dev {dev}"),
            format!("link set {dev} mtu {mtu}"),
            format!("route add default via {net}.1"),
        ])?;
    }
    rig.ns("lb").ip_batch(&[
        "route add 10.91.0.0/30 via 10.81.4.2".into(),
        "route add 10.92.0.0/30 via 10.80.0.2".into(),
    ])?;
    let _echo = Echo::start(rig.ns("x"), v4(Ipv4Addr::UNSPECIFIED, ECHO_PORT))?;
    world.start_agent()?;
    world.zdd().run(&["backend", "add", "echo", "v2", &format!("10.91.0.2:{ECHO_PORT}")])?;
    world.zdd().run(&["shift", "echo", "v2=100%"])?;
    // What c asks does not fit on its way to x; what x answers y, not on its way to y, who asks in fragments.
    for (role, size) in [("c", 1400), ("y", 1100)] {
        let asked: Vec<u8> = (0..size).map(|n| ((n * 31) >> 3) as u8).collect();
        let open = || {
            let socket = UdpSocket::bind(v4(Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(v4(VIP, ECHO_PORT))?;
            socket.set_read_timeout(Some(LOOK_EVERY))?;
            std::io::Result::Ok(socket)
        };
        let socket = world.rig.ns(role).enter(open)?.expect("a client's socket");
        let mut answer = vec![0; 65_536];
        wait_for("an echo over the narrow paths", PATIENCE, LOOK_EVERY, || {
            // What was told about an earlier datagram is an error of this one.
            drop(socket.send(&asked));
            let heard = socket.recv(&mut answer).ok();
            Ok::<_, rig::Error>(heard.filter(|length| answer[..*length] == asked).map(drop))
        })?;
    }
    let way = world.rig.ns("c").run(&["ip", "route", "get", &VIP.to_string()])?;
    assert!(way.contains("mtu 1200"), "the client was told: {way}");
    let way = world.rig.ns("x").run(&["ip", "route", "get", &rig::SNAT_SOURCE.to_string()])?;
    assert!(way.contains("mtu 1000"), "the backend was told: {way}");
    let status = world.status()?;
    let reasons = &status["reasons"];
    for reason in ["fragment", "icmp_error"] {
        assert!(count(reasons, &format!("/{reason}")) > 0, "{reason}: {reasons}");
    }
    for reason in ["drop_fragment_early", "pass_no_mapping", "drop_no_port"] {
        assert_eq!(count(reasons, &format!("/{reason}")), 0, "{reason}: {reasons}");
    }
    Ok(())
}

/// Shift, rollback, drain, and an agent that is killed, under connections that must not notice.
fn a_rollout(families: Families) -> Result<()> {
    // Our addresses of each family are shown apart.
    let live = if families == Families::V6 { "/snat/1/live" } else { "/snat/0/live" };
    let mut world = World::running(setup(families))?;
    for b in ["b1", "b2", "b3", "b4"] {
        let way = world.rig.ns(b).run(&["ip", "route", "get", &client_address(0).to_string()]);
        assert!(way.is_err(), "{b} knows a way to the clients, so nothing would be shown: {way:?}");
    }
    let load: Load = world.load(40)?;
    as_before(&load)?;
    let zdd = world.zdd();
    zdd.run(&["shift", "web", "v2=50%"])?;
    zdd.run(&["shift", "echo", "v2=50%"])?;
    as_before(&load)?;
    zdd.run(&["rollback", "web"])?;
    zdd.run(&["rollback", "echo"])?;
    as_before(&load)?;
    zdd.run(&["shift", "web", "v2=30%"])?;
    zdd.run(&["drain", &format!("web/{}", world.address(2))])?;
    as_before(&load)?;
    let status = world.status()?;
    assert!(count(&status, live) >= 40, "{}", status["snat"]);
    world.kill_agent();
    as_before(&load)?;
    world.start_agent()?;
    world.wait_healthy()?;
    as_before(&load)?;
    let status = world.status()?;
    assert!(count(&status, live) >= 40, "{}", status["snat"]);
    for reason in ["drop_no_port", "stack_routed", "pass_no_mapping"] {
        assert_eq!(count(&status, &format!("/reasons/{reason}")), 0, "{reason}: {}", status["reasons"]);
    }
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_rollout_harms_nobody_whose_backends_have_no_way_back() -> Result<()> {
    a_rollout(Families::V4)
}

#[test]
fn nor_over_ipv6() -> Result<()> {
    a_rollout(Families::V6)
}

#[test]
fn when_the_ports_run_out_new_connections_wait_and_live_ones_go_on() -> Result<()> {
    let mut world = World::without_servers(Setup {
        v1: vec![1],
        v2: vec![2],
        snat_ports: "20000-20007",
        health: None,
        echo_health: None,
        ..setup(Families::V4)
    })?;
    let _server = Server::start(world.rig.ns("b1"), world.setup.backend_port(), 1)?;
    world.start_agent()?;
    wait_for("the way to the backend", PATIENCE, LOOK_EVERY, || {
        let status = world.status()?;
        let backends = &status["services"][0]["versions"][0]["backends"];
        let hop = backends[0]["next_hop"].as_str().unwrap_or_default().to_owned();
        Ok((!hop.is_empty() && !hop.starts_with("unresolved")).then_some(()))
    })?;
    let mut talks = Vec::new();
    for _ in 0..8 {
        let mut talk = Talk::open(world.rig.ns("c"), world.web())?;
        assert_eq!(talk.who()?, 1);
        assert_eq!(talk.seen_from()?, rig::SNAT_SOURCE.to_string(), "the backend sees our address");
        talks.push(talk);
    }
    let status = world.status()?;
    assert_eq!(count(&status, "/reasons/drop_no_port"), 0, "{}", status["reasons"]);
    assert_eq!(count(&status, "/snat/0/per_backend"), 8);
    let more = Talk::open_within(world.rig.ns("c"), world.web(), Duration::from_secs(2));
    assert!(more.is_err(), "a ninth connection over eight ports");
    assert!(count(&world.status()?, "/reasons/drop_no_port") > 0);
    // Whoever looks at anything hears of it, with the way out.
    world.wait_status("the note", |status| {
        let notes = status["services"][0]["notes"].as_array()?;
        let told = |note: &serde_json::Value| {
            let text = note.as_str().unwrap_or_default();
            text.contains("no port was free for new flows") && text.contains("widen agent.snat_ports")
        };
        notes.iter().any(told).then_some(())
    })?;
    for talk in &mut talks {
        assert_eq!(talk.who()?, 1, "live ones go on");
    }
    // A connection that is reset gives its port back only after TIME_WAIT, one that is none of ours at once.
    world.kill_agent();
    for talk in &mut talks {
        assert_eq!(talk.who()?, 1, "also without an agent");
    }
    // Another range would give the ports of live connections another meaning.
    world.setup.snat_ports = "30000-30015";
    world.write_config()?;
    let said = world.refused_start(&world.config())?;
    said.says(1, &["flows are mapped there", "help: put the old values back"]);
    for talk in &mut talks {
        assert_eq!(talk.who()?, 1, "a refused start changes nothing");
    }
    world.setup.snat_ports = "20000-20007";
    world.write_config()?;
    world.start_agent()?;
    for talk in &mut talks {
        assert_eq!(talk.who()?, 1, "nor does a restart");
    }
    Ok(())
}
