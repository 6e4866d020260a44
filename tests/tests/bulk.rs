//! Much data up and down over 1500 bytes, whole, without a storm of retransmissions; `ipip` does it in the test `encap`. Needs root.
//!
//! `ZDD_BULK_MIB=1024` makes it a gigabyte each way in every mode.

#[path = "encap/echo.rs"]
mod echo;

use std::time::Instant;

use echo::{Server, Talk, bulk, retransmitted};
use zdd_tests::rig::{Families, Forward, Result, wait_for};
use zdd_tests::world::status::count;
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World};

/// `mtu`: of the link to the backend, seen from the balancer alone. What is too large for it is then told to the client.
fn up_and_down(forward: Forward, families: Families, mtu: u32) -> Result<()> {
    let mut world = World::without_servers(Setup {
        forward,
        families,
        v1: vec![1],
        v2: vec![2],
        health: None,
        echo_health: None,
        ..Setup::default()
    })?;
    let _server = Server::start(world.rig.ns("b1"), world.setup.backend_port(), 1)?;
    world.rig.ns("lb").run(&["ip", "link", "set", "zlb1", "mtu", &mtu.to_string()])?;
    world.start_agent()?;
    wait_for("the way to the backend", PATIENCE, LOOK_EVERY, || {
        let status = world.status()?;
        let backends = &status["services"][0]["versions"][0]["backends"];
        let hop = backends[0]["next_hop"].as_str().unwrap_or_default().to_owned();
        Ok((!hop.is_empty() && !hop.starts_with("unresolved")).then_some(()))
    })?;
    let mut talk = Talk::open(world.rig.ns("c"), world.web())?;
    let begin = Instant::now();
    assert_eq!(talk.upload(bulk())?, 1);
    let up = begin.elapsed();
    assert_eq!(talk.download(bulk())?, 1);
    let down = begin.elapsed() - up;
    for role in ["c", "b1"] {
        let (again, sent) = retransmitted(world.rig.ns(role))?;
        println!("{}, {families:?}, {role}: {again} of {sent} segments again", forward.name());
        assert!(again * 50 < sent, "{role}: {again} of {sent} segments were sent again");
    }
    let status = world.status()?;
    let told = count(&status, "/reasons/too_big");
    assert_eq!((told > 0, count(&status, "/reasons/drop_too_big")), (mtu < 1500, 0), "{status}");
    println!("{}, {families:?}: {} MiB up in {up:.1?}, down in {down:.1?}", forward.name(), bulk() >> 20);
    Ok(())
}

#[test]
fn much_goes_up_and_down_under_l2() -> Result<()> {
    up_and_down(Forward::L2, Families::V4, 1500)?;
    up_and_down(Forward::L2, Families::V6, 1500)
}

/// Nobody's MSS knows of it: the kernel drops a redirected frame that is too large, so who sends has to be told.
#[test]
fn a_narrower_link_to_the_backend_is_told_to_the_client_under_l2() -> Result<()> {
    up_and_down(Forward::L2, Families::V4, 1400)?;
    up_and_down(Forward::L2, Families::V6, 1400)
}

#[test]
fn much_goes_up_and_down_under_nat() -> Result<()> {
    up_and_down(Forward::Nat, Families::V4, 1500)?;
    up_and_down(Forward::Nat, Families::V6, 1500)
}

#[test]
fn much_goes_up_and_down_under_snat() -> Result<()> {
    up_and_down(Forward::Snat, Families::V4, 1500)?;
    up_and_down(Forward::Snat, Families::V6, 1500)
}
