//! Where frames go when neighbours change, and what becomes of UDP when a backend dies. Needs root.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use zdd_tests::rig::{
    Error, Families, Forward, Result, VIP, VIP6, backend_address, client_address, client_address6, v4,
    wait_for,
};
use zdd_tests::traffic::{Counts, Ledger, Member, ServerSpec, Servers};
use zdd_tests::world::status::{backend, count, service, told};
use zdd_tests::world::{
    ECHO_PORT, HEALTH_PORT, LOOK_EVERY, PATIENCE, Setup, World, as_before, ask_from, goes_on, unanswered,
    unharmed,
};

/// No connection broke or moved and none failed; frames that were under way to a neighbour that changed are repeated by TCP.
fn held(ledger: &Ledger) {
    let Counts { short_failed, wrong_source, .. } = ledger.counts;
    assert_eq!(ledger.counts.broken() + short_failed + wrong_source, 0, "{:#?}", ledger.incidents);
}

#[test]
fn a_neighbour_that_the_kernel_forgets_under_traffic_is_not_missed() -> Result<()> {
    for forward in [Forward::Nat, Forward::L2] {
        let world = World::running(Setup { forward, v2_percent: 50, ..Setup::default() })?;
        let load = world.load(20)?;
        for round in 1..=4u8 {
            let (address, device) = (backend_address(round).to_string(), format!("zlb{round}"));
            world.rig.ns("lb").run(&["ip", "neigh", "del", &address, "dev", &device])?;
            goes_on(&load)?;
        }
        unharmed(&load.finish());
    }
    Ok(())
}

/// Traffic goes on when a backend's MAC address changes and it says so, as a failover does.
fn a_new_mac(forward: Forward, families: Families) -> Result<()> {
    let mut world = World::running(Setup { forward, families, ..Setup::default() })?;
    let load = world.load(20)?;
    let b1 = world.rig.ns("b1");
    // Gratuitous ARP, unsolicited neighbour advertisement.
    b1.sysctl("net/ipv4/conf/b0/arp_notify", "1")?;
    if families.v6() {
        b1.sysctl("net/ipv6/conf/b0/ndisc_notify", "1")?;
    }
    b1.run(&["ip", "link", "set", "b0", "address", "02:00:00:00:be:ef"])?;
    let address = world.address(1);
    world.wait_status("the new MAC to be b1's next hop", |s| {
        let hop = backend(s, "web", &address)["next_hop"].as_str()?;
        hop.contains("02:00:00:00:be:ef").then_some(())
    })?;
    world.comes_to(&load, 1)?;
    goes_on(&load)?;
    held(&load.finish());
    Ok(())
}

#[test]
fn a_backend_whose_mac_changes_is_found_again_under_nat() -> Result<()> {
    a_new_mac(Forward::Nat, Families::V4)
}

#[test]
fn a_backend_whose_mac_changes_is_found_again_under_l2() -> Result<()> {
    a_new_mac(Forward::L2, Families::V4)
}

#[test]
fn an_ipv6_backend_whose_mac_changes_is_found_again() -> Result<()> {
    a_new_mac(Forward::Nat, Families::V6)
}

#[test]
fn a_backend_behind_a_router_is_reached_through_it() -> Result<()> {
    let mut world = World::running(Setup { v2: vec![], ..Setup::default() })?;
    world.rig.add_namespace("x")?;
    let rig = &world.rig;
    rig.wire(("b4", "bx"), ("x", "x0"))?;
    rig.ns("b4").sysctl("net/ipv4/ip_forward", "1")?;
    rig.ns("b4").ip_batch(&["addr add 10.91.0.1/30 dev bx".into()])?;
    rig.ns("x")
        .ip_batch(&["addr add 10.91.0.2/30 dev x0".into(), "route add default via 10.91.0.1".into()])?;
    rig.ns("lb").run(&["ip", "route", "add", "10.91.0.0/30", "via", "10.81.4.2"])?;
    let any = |port| v4(std::net::Ipv4Addr::UNSPECIFIED, port);
    let spec = ServerSpec {
        role: "x".into(),
        member: Member { version: "v2".into(), backend: "x".into() },
        tcp: any(8080),
        udp: vec![],
        health: any(HEALTH_PORT),
    };
    let _server = Servers::start(rig, &[spec])?;
    world.zdd().run(&["backend", "add", "web", "v2", "10.91.0.2:8080"])?;
    world.wait_status("the far backend to be healthy", |s| {
        (backend(s, "web", "10.91.0.2:8080")["health"] == "healthy").then_some(())
    })?;
    world.zdd().run(&["shift", "web", "v2=100%"])?;
    for i in 0..10 {
        let met = ask_from(world.rig.ns("c"), client_address(i), 0, world.web())?;
        assert_eq!((met.backend.as_str(), met.version.as_str()), ("x", "v2"));
        assert!(met.source.starts_with(&format!("{}:", client_address(i))), "{met:?}");
    }
    let status = world.status()?;
    let router = world.rig.ns("lb").run(&["ip", "neigh", "show", "10.81.4.2"])?;
    let mac = router.split_whitespace().skip_while(|word| *word != "lladdr").nth(1).expect("resolved");
    let hop = backend(&status, "web", "10.91.0.2:8080")["next_hop"].as_str().expect("text");
    assert!(hop.contains(mac), "the router's: {hop}");
    Ok(())
}

#[test]
fn a_backend_that_nobody_answers_for_is_counted_and_told() -> Result<()> {
    let setup = Setup { forward: Forward::L2, health: None, v2: vec![], ..Setup::default() };
    let mut world = World::running_unchecked(setup)?;
    // On the wire, and nobody's.
    world.rig.ns("lb").run(&["ip", "route", "add", "10.92.0.2/32", "dev", "zlb4"])?;
    world.zdd().run(&["backend", "add", "web", "v2", "10.92.0.2:80"])?;
    world.zdd().run(&["shift", "web", "v2=100%"])?;
    world.wait_status("the silence to be told", |s| {
        let hop = backend(s, "web", "10.92.0.2:80")["next_hop"].as_str()?;
        (hop.contains("unresolved: ") && hop.contains("10.92.0.2")).then_some(())
    })?;
    unanswered(world.rig.ns("c"), client_address(1), world.web());
    let status = world.status()?;
    assert!(count(&status, "/reasons/drop_no_next_hop") > 0, "{}", status["reasons"]);
    world.zdd().run(&["rollback", "web"])?;
    let load = world.load(10)?;
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

/// One UDP flow of a client, for as long as it lives.
struct Flow(UdpSocket);

impl Flow {
    fn new(world: &World, client: usize, port: u16) -> Result<Self> {
        let six = world.setup.families == Families::V6;
        let (from, to): (SocketAddr, SocketAddr) = if six {
            (SocketAddr::new(client_address6(client).into(), port), SocketAddr::new(VIP6.into(), ECHO_PORT))
        } else {
            (v4(client_address(client), port), v4(VIP, ECHO_PORT))
        };
        let socket = world.rig.in_ns("c", || {
            let socket = UdpSocket::bind(from)?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            Ok(socket)
        })?;
        socket.map(Self).map_err(Error::io("a UDP flow"))
    }

    /// Who echoes now; `None`: nobody within 100 ms.
    fn ask(&self) -> Option<String> {
        let mut buffer = [0u8; 64];
        self.0.send(b"1").ok()?;
        let n = self.0.recv(&mut buffer).ok()?;
        let text = std::str::from_utf8(&buffer[..n]).ok()?;
        text.split(' ').nth(2).map(str::to_owned)
    }

    /// The first answer.
    fn answered(&self) -> Result<String> {
        wait_for("an echo", PATIENCE, LOOK_EVERY, || Ok::<_, Error>(self.ask()))
    }
}

/// A flow of b1 that has spoken; b1 then dies: nothing it sends reaches a client, and its checks fail. With a moment before they did.
fn dead(world: &mut World) -> Result<(Flow, Instant)> {
    let ask = |client| Flow::new(world, client, 40_000).and_then(|flow| Ok((flow.answered()?, flow)));
    let mut flow = None;
    for client in 0..40 {
        let (who, found) = ask(client)?;
        if who == "b1" {
            flow = Some(found);
            break;
        }
    }
    let flow = flow.expect("one of forty clients is b1's");
    let clients = if world.setup.families == Families::V6 { "fd80:0:0:1::/64" } else { "10.80.1.0/24" };
    world.rig.ns("b1").run(&["ip", "route", "add", "blackhole", clients])?;
    let before = Instant::now();
    world.set_health(&[1], false)?;
    Ok((flow, before))
}

fn policy(udp: &'static str, families: Families, idle_ms: u32) -> Setup {
    Setup { udp, families, idle_ms, ..Setup::default() }
}

/// Whether the agent has said that it lets UDP flows of a dead backend go.
fn let_go(world: &World) -> Result<bool> {
    Ok(told(service(&world.status()?, "echo")).contains("its UDP flows were let go"))
}

#[test]
fn udp_flows_of_a_dead_backend_move_at_once_under_the_policy_now() -> Result<()> {
    // With a timeout that no test lives to see.
    let mut world = World::running(policy("now", Families::V4, 3_600_000))?;
    let (flow, _) = dead(&mut world)?;
    assert_eq!(flow.answered()?, "b2");
    let status = world.status()?;
    assert_eq!(count(service(&status, "echo"), "/dirty_cells"), 0, "nothing is remembered");
    // It follows the weights as well, live or not.
    world.zdd().run(&["shift", "echo", "v2=100%"])?;
    let who = flow.answered()?;
    assert!(["b3", "b4"].contains(&who.as_str()), "{who}");
    Ok(())
}

fn stuck_for_one_timeout(families: Families) -> Result<()> {
    let mut world = World::running(policy("stick", families, 4000))?;
    let (flow, before) = dead(&mut world)?;
    // A false alarm would cost nothing: until the agent says so it is where it was.
    let who = wait_for("an echo", PATIENCE, LOOK_EVERY, || {
        let who = flow.ask();
        assert!(who.is_none() || let_go(&world)?, "{who:?} answers a flow that was not let go");
        Ok::<_, Error>(who)
    })?;
    assert_eq!(who, "b2");
    assert!(
        before.elapsed() >= Duration::from_millis(4000),
        "after less than one timeout: {:?}",
        before.elapsed()
    );
    Ok(())
}

#[test]
fn udp_flows_of_a_dead_backend_move_after_one_udp_idle_timeout_under_stick() -> Result<()> {
    stuck_for_one_timeout(Families::V4)
}

#[test]
fn ipv6_udp_flows_of_a_dead_backend_move_after_one_udp_idle_timeout_too() -> Result<()> {
    stuck_for_one_timeout(Families::V6)
}

#[test]
fn a_false_alarm_moves_no_udp_flow_under_stick() -> Result<()> {
    let mut world = World::running(policy("stick", Families::V4, 4000))?;
    let load = world.load(10)?;
    world.set_health(&[1], false)?;
    as_before(&load)?;
    world.set_health(&[1], true)?;
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_silent_udp_flow_is_remembered_for_its_timeout_and_no_longer() -> Result<()> {
    const IDLE: Duration = Duration::from_millis(4000);
    // Found by a sweep (each half second), freed a grace period after (2 s); the rest is for a busy machine.
    const GONE: Duration = Duration::from_millis(4000 + 500 + 2000 + 4000);
    let mut world = World::running(policy("stick", Families::V4, IDLE.as_millis() as u32))?;
    let flow = Flow::new(&world, 0, 40_000)?;
    let stable = flow.answered()?;
    world.zdd().run(&["shift", "echo", "v2=100%"])?;
    let from = format!("{}:40000", client_address(0));
    let entry = |world: &World| -> Result<bool> {
        let said = world.zdd().json(&["explain", "echo", "--from", &from])?;
        Ok(!said["entry"].is_null())
    };
    // While it speaks it stays where it is, and is known, long after its cell has settled on the other version.
    let begin = Instant::now();
    let mut settled = false;
    while !settled || begin.elapsed() < 2 * IDLE {
        assert!(begin.elapsed() < PATIENCE, "nothing settles: {}", world.status()?);
        assert!(flow.ask().is_none_or(|who| who == stable), "it moved while it spoke");
        settled = count(service(&world.status()?, "echo"), "/dirty_cells") == 0;
    }
    assert!(entry(&world)?, "its backend is not the cell's, so it must be remembered");
    assert_eq!(flow.answered()?, stable);
    let silent = Instant::now();
    wait_for("its entry to go", PATIENCE, LOOK_EVERY, || Ok::<_, Error>((!entry(&world)?).then_some(())))?;
    let lived = silent.elapsed();
    assert!(lived >= IDLE - Duration::from_millis(100), "gone after {lived:?}");
    world.wait_status("its room to be free", |status| {
        (count(status, "/flow_table/quotas/promoted/used") + count(status, "/flow_table/quotas/learned/used")
            == 0)
            .then_some(())
    })?;
    let freed = silent.elapsed();
    assert!(freed <= GONE, "it took {freed:?}, {lived:?} of it until it was over");
    println!("over after {lived:?}, free after {freed:?}");
    // A new flow by now.
    let who = flow.answered()?;
    assert!(["b3", "b4"].contains(&who.as_str()), "{who}");
    Ok(())
}
