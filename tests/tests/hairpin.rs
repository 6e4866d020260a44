//! Backends as clients of their own VIP, and VIPs that are routed to the balancer instead of being addresses of it. Needs root.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use zdd_tests::rig::{
    Families, Forward, Result, SNAT_SOURCE, SNAT_SOURCE6, VIP, VIP6, backend_address, backend_address6,
    client_address, client_address6,
};
use zdd_tests::world::status::count;
use zdd_tests::world::{Setup, WEB_PORT, World, talk, talk_within};

/// How long a backend waits for an answer that cannot come.
const SILENCE: Duration = Duration::from_secs(2);
/// Of so many flows some go to each of four backends, but for one world in 10^12.
const FLOWS: usize = 100;

/// Flows of one client are spread.
fn setup(forward: Forward, families: Families) -> Setup {
    Setup { forward, families, v2_percent: 50, affinity: "flow", ..Setup::default() }
}

fn vip(families: Families) -> SocketAddr {
    SocketAddr::new(if families.v4() { VIP.into() } else { VIP6.into() }, WEB_PORT)
}

/// A backend's own address, any port.
fn own(families: Families, i: u8) -> SocketAddr {
    let addr: IpAddr = if families.v4() { backend_address(i).into() } else { backend_address6(i).into() };
    SocketAddr::new(addr, 0)
}

/// Backends dial their VIP until each has met itself; all are answered, and sit beside others who are as before.
fn every_backend_reaches_itself(world: &World) -> Result<()> {
    let families = world.setup.families;
    for i in [1, 3] {
        let me = format!("b{i}");
        let mut met = vec![];
        while !met.contains(&me) || met.iter().all(|other| *other == me) {
            assert!(met.len() < FLOWS, "{me}, {families:?}: {met:?}");
            met.push(talk(world.rig.ns(&me), own(families, i), vip(families), 3)?.backend);
        }
    }
    Ok(())
}

#[test]
fn a_nat_backend_reaches_itself_by_the_vip_where_ports_are_given_out() -> Result<()> {
    let agent_lines = format!("snat_source = \"{SNAT_SOURCE}\"\nsnat_source6 = \"{SNAT_SOURCE6}\"\n");
    for families in [Families::V4, Families::V6] {
        let world =
            World::running(Setup { agent_lines: agent_lines.clone(), ..setup(Forward::Nat, families) })?;
        every_backend_reaches_itself(&world)?;
        // Others see their client as before.
        let from = own(families, 1);
        let met = (0..FLOWS).map(|_| talk(world.rig.ns("b1"), from, vip(families), 1));
        let other = met.flat_map(Result::ok).find(|met| met.backend != "b1").expect("another backend");
        assert!(other.source.contains(&from.ip().to_string()), "{other:?}");
        let status = world.status()?;
        assert_eq!(count(&status, "/reasons/drop_no_port"), 0, "{}", status["reasons"]);
    }
    Ok(())
}

#[test]
fn without_ports_a_nat_backend_that_is_sent_to_itself_is_counted() -> Result<()> {
    let world = World::running(setup(Forward::Nat, Families::V4))?;
    let ask = |_| talk_within(world.rig.ns("b1"), own(Families::V4, 1), vip(Families::V4), 1, SILENCE);
    // The others answer; nobody answers as b1.
    let met: Vec<_> = (0..12).map(ask).filter_map(Result::ok).map(|met| met.backend).collect();
    assert!(!met.is_empty() && met.iter().all(|backend| backend != "b1"), "{met:?}");
    let dropped = count(&world.status()?, "/reasons/drop_no_port");
    assert!(met.len() == 12 || dropped > 0, "{met:?}, {dropped} dropped");
    Ok(())
}

#[test]
fn a_snat_backend_reaches_itself_by_the_vip() -> Result<()> {
    for families in [Families::V4, Families::V6] {
        let world = World::running(setup(Forward::Snat, families))?;
        // Theirs is a route to our address only.
        for i in [1, 3] {
            let via = if families.v4() { format!("10.81.{i}.1") } else { format!("fd81:0:0:{i}::1") };
            let to = vip(families).ip().to_string();
            world.rig.ns(&format!("b{i}")).run(&["ip", "route", "add", &to, "via", &via])?;
        }
        every_backend_reaches_itself(&world)?;
    }
    Ok(())
}

/// The VIP is the backend's own address, so that it asks nobody else; `ipip` is the same.
#[test]
fn an_l2_backend_answers_itself() -> Result<()> {
    let world = World::running(setup(Forward::L2, Families::V4))?;
    for i in [1, 3] {
        let me = format!("b{i}");
        assert_eq!(talk(world.rig.ns(&me), own(Families::V4, i), vip(Families::V4), 3)?.backend, me);
    }
    Ok(())
}

#[test]
fn a_vip_need_not_be_an_address_of_the_balancer() -> Result<()> {
    for (forward, families) in
        [(Forward::Nat, Families::V4), (Forward::L2, Families::V4), (Forward::Snat, Families::V6)]
    {
        let world = World::running(setup(forward, families))?;
        let to = vip(families);
        let own = if families.v4() { format!("{}/32", to.ip()) } else { format!("{}/128", to.ip()) };
        world.rig.ns("lb").run(&["ip", "addr", "del", &own, "dev", "lo"])?;
        for i in 0..5 {
            let from: IpAddr =
                if families.v4() { client_address(i).into() } else { client_address6(i).into() };
            talk(world.rig.ns("c"), SocketAddr::new(from, 0), to, 3)?;
        }
    }
    Ok(())
}
