//! The traffic alone, by plain routing: it must be clean before anything is measured with it. Needs root.

use std::net::Ipv4Addr;
use std::time::Duration;

use zdd_tests::rig::{self, Forward, Rig, RigSpec, v4};
use zdd_tests::traffic::{Fleet, Load, LoadSpec, Member, Prober, ServerSpec, Servers, Target};
use zdd_tests::world::{LOOK_EVERY, PATIENCE};

fn servers() -> Vec<ServerSpec> {
    let spec = |i: u8, version: &str| {
        let any = Ipv4Addr::UNSPECIFIED;
        let member = Member { version: version.into(), backend: format!("b{i}") };
        let (tcp, udp) = (v4(any, 8080), v4(rig::backend_address(i), 5353));
        ServerSpec { role: format!("b{i}"), member, tcp, udp: vec![udp], health: v4(any, 8081) }
    };
    vec![spec(1, "v1"), spec(2, "v2")]
}

struct World {
    // Before the rig: fields are dropped in order.
    servers: Servers,
    fleet: Fleet,
    rig: Rig,
}

impl World {
    fn new(forward: Forward) -> Self {
        let rig =
            Rig::new(RigSpec { forward, backends: 2, clients: 20, ..RigSpec::default() }).expect("a rig");
        let servers = Servers::start(&rig, &self::servers()).expect("servers");
        let fleet = Fleet::new(self::servers().into_iter().map(|s| s.member).collect());
        Self { servers, fleet, rig }
    }

    fn load(&self) -> Load {
        let at = |port| Target::InTurn((1..=2).map(|i| v4(rig::backend_address(i), port)).collect());
        let spec = LoadSpec {
            sources_seen: true,
            tcp: at(8080),
            udp: at(5353),
            fleet: self.fleet.clone(),
            clients: 20,
            short_per_second: 200,
            echo_every: Duration::from_millis(50),
        };
        Load::start(&self.rig, spec).expect("clients")
    }
}

#[test]
fn direct_traffic_breaks_nothing() {
    for forward in [Forward::Nat, Forward::L2] {
        let world = World::new(forward);
        let load = world.load();
        load.open_long(40);
        load.open_udp(10);
        rig::wait_for("much traffic", PATIENCE, LOOK_EVERY, || {
            let counts = load.ledger().counts;
            Ok::<_, rig::Error>((counts.short_total > 400 && counts.long_lines > 40 * 30).then_some(()))
        })
        .expect("it goes on");
        assert_eq!(load.ledger().live_long, [20, 20]);
        let ledger = load.finish();
        let c = ledger.counts;
        assert_eq!(ledger.incidents, []);
        assert_eq!((c.broken(), c.short_failed, c.wrong_source, c.udp_lost), (0, 0, 0, 0), "{c:?}");
        assert_eq!((c.long_opened, c.udp_total), (40, 10));
        assert_eq!(
            world.servers.sources("b1").len(),
            10,
            "every second client address, as the client has it"
        );
    }
}

#[test]
fn a_server_that_dies_shows_as_broken_and_failed() {
    let World { servers, fleet, rig } = World::new(Forward::Nat);
    let world = World { servers, fleet, rig };
    let load = world.load();
    load.open_long(10);
    let World { servers, fleet: _, rig } = world;
    drop(servers);
    rig::wait_for("the first connection to break", PATIENCE, LOOK_EVERY, || {
        let counts = load.ledger().counts;
        Ok::<_, rig::Error>((counts.long_broken == 10 && counts.short_failed > 0).then_some(()))
    })
    .expect("it breaks");
    let ledger = load.finish();
    assert!(!ledger.incidents.is_empty());
    assert_eq!(ledger.live_long, [0, 0]);
    drop(rig);
}

#[test]
fn one_version_can_be_told_to_hang_up() {
    let world = World::new(Forward::Nat);
    let load = world.load();
    load.open_long(10);
    load.open_udp(4);
    load.hang_up(0);
    rig::wait_for("version 0 to be left", PATIENCE, LOOK_EVERY, || {
        let ledger = load.ledger();
        Ok::<_, rig::Error>((ledger.live_long == [0, 5] && ledger.live_udp == [0, 2]).then_some(()))
    })
    .expect("they leave");
    assert_eq!(load.finish().counts.broken(), 0);
}

#[test]
fn the_prober_sees_the_answer_that_follows_a_change() {
    let world = World::new(Forward::Nat);
    let target = Target::InTurn(vec![v4(rig::backend_address(1), 8080)]);
    let prober = Prober::new(&world.rig, world.fleet.clone(), target);
    let (all, answer, at) = prober.during(rig::client_address(0), 0, PATIENCE, || 42).expect("it dials");
    assert_eq!(answer, 42);
    assert!(zdd_tests::traffic::first_new_ms(&all, at, 0).is_some(), "version 0 answers");
    assert_eq!(all.iter().filter(|p| p.started >= at).count(), 1, "the first one ends it: {all:?}");
    assert!(all.iter().all(|p| p.place.is_some()), "{all:?}");
}

#[test]
fn the_health_page_can_be_made_to_fail() {
    let world = World::new(Forward::Nat);
    let get = || {
        use std::io::{Read, Write};
        let address = v4(rig::backend_address(1), 8081);
        world
            .rig
            .in_ns("lb", || -> std::io::Result<String> {
                let mut stream = std::net::TcpStream::connect_timeout(&address, PATIENCE)?;
                stream.write_all(b"GET /health HTTP/1.1\r\nHost: b1\r\n\r\n")?;
                let mut text = String::new();
                stream.read_to_string(&mut text)?;
                Ok(text)
            })
            .expect("entered")
            .expect("answered")
    };
    assert!(get().starts_with("HTTP/1.1 200 "));
    world.servers.set_healthy("b1", false);
    assert!(get().starts_with("HTTP/1.1 503 "));
    assert_eq!(world.servers.probes("b1"), 2);
}
