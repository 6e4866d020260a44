//! Who talks to a backend's own address must not notice that it also serves a VIP. Needs root.

use std::net::SocketAddr;

use zdd_tests::rig::{self, Forward, Result, v4};
use zdd_tests::world::{Setup, World, as_before, talk, unharmed};

/// Probes go to the very port that serves the VIP's flows.
fn setup(forward: Forward) -> Setup {
    let health =
        Some("{ tcp = true, interval = \"100ms\", timeout = \"5s\", rise = 2, fall = 2 }".to_owned());
    Setup { forward, health, v2_percent: 50, ..Setup::default() }
}

/// Opens `n` connections to each backend's own address from `role`; each must meet that backend, with the source as it was sent.
fn directly(world: &World, role: &str, from: SocketAddr, n: u32) -> Result<()> {
    for i in 1..=4u8 {
        let target = world.address(i).parse().expect("an address");
        for _ in 0..n {
            let met = talk(world.rig.ns(role), from, target, 5)?;
            assert_eq!(met.backend, format!("b{i}"));
            assert!(met.source.starts_with(&format!("{}:", from.ip())), "{met:?} from {from}");
        }
    }
    Ok(())
}

#[test]
fn a_backends_own_address_answers_clients_and_the_balancer_itself() -> Result<()> {
    for forward in [Forward::Nat, Forward::L2] {
        let mut world = World::running(Setup { backends: 4, ..setup(forward) })?;
        let load = world.load(20)?;
        if forward == Forward::Nat {
            directly(&world, "c", v4(rig::client_address(90), 0), 10)?;
        }
        // The same client address as the VIP's own traffic, and this host.
        directly(&world, "c", v4(rig::client_address(3), 0), 10)?;
        for i in 1..=4u8 {
            directly_from_balancer(&world, i)?;
        }
        // During and after a change as well.
        world.zdd().run(&["shift", "web", "v2=80%"])?;
        directly(&world, "c", v4(rig::client_address(3), 0), 5)?;
        world.wait_healthy()?;
        as_before(&load)?;
        unharmed(&load.finish());
    }
    Ok(())
}

fn directly_from_balancer(world: &World, i: u8) -> Result<()> {
    let own = v4(std::net::Ipv4Addr::new(10, 81, i, 1), 0);
    let target = world.address(i).parse().expect("an address");
    for _ in 0..5 {
        let met = talk(world.rig.ns("lb"), own, target, 5)?;
        assert_eq!(met.backend, format!("b{i}"));
        assert!(met.source.starts_with(&format!("10.81.{i}.1:")), "{met:?}");
    }
    Ok(())
}

#[test]
fn long_direct_connections_live_beside_the_vips() -> Result<()> {
    let world = World::running(setup(Forward::Nat))?;
    let load = world.load(20)?;
    let target: SocketAddr = world.address(1).parse().expect("an address");
    std::thread::scope(|scope| {
        let direct = scope.spawn(|| talk(world.rig.ns("c"), v4(rig::client_address(7), 0), target, 20_000));
        let shifts = ["10", "90", "0", "50"].map(|p| world.zdd().run(&["shift", "web", &format!("v2={p}%")]));
        assert!(shifts.iter().all(std::result::Result::is_ok), "{shifts:?}");
        let met = direct.join().expect("no panic").expect("the direct connection lived");
        assert_eq!(met.backend, "b1");
    });
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn probes_reach_the_port_that_serves_the_vip() -> Result<()> {
    let world = World::running(setup(Forward::Nat))?;
    let accepted = |i: u8| world.servers().accepted(&format!("b{i}"));
    let before: Vec<u64> = (1..=4).map(accepted).collect();
    rig::wait_for("probes", zdd_tests::world::PATIENCE, zdd_tests::world::LOOK_EVERY, || {
        Ok::<_, rig::Error>((1..=4u8).zip(&before).all(|(i, was)| accepted(i) > was + 3).then_some(()))
    })?;
    Ok(())
}
