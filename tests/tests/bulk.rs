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

/// How the world differs from the usual one.
struct Way {
    forward: Forward,
    families: Families,
    /// Of all links, at both ends.
    mtu: u32,
    /// Of the link to the backend, seen from the balancer alone. What is too large for it is then told to the client.
    narrow: u32,
    mode: &'static str,
}

fn up_and_down(forward: Forward, families: Families, mtu: u32) -> Result<()> {
    up_and_down_by(&Way { forward, families, mtu: 1500, narrow: mtu, mode: "native" })
}

/// Every link takes packets of so many bytes, and the one to the backend an outer header besides.
fn widen(world: &World, way: &Way) -> Result<()> {
    let tunnel = if way.forward == Forward::Ipip { 40 } else { 0 };
    for (role, device, mtu) in [("c", "c0", way.mtu), ("lb", "zlc", way.mtu)]
        .into_iter()
        .chain([("b1", "b0", way.mtu + tunnel), ("lb", "zlb1", way.mtu + tunnel)])
    {
        world.rig.ns(role).run(&["ip", "link", "set", device, "mtu", &mtu.to_string()])?;
    }
    if way.forward.direct() {
        world.rig.ns("c").run(&["ip", "link", "set", "r1", "mtu", &way.mtu.to_string()])?;
        world.rig.ns("b1").run(&["ip", "link", "set", "r0", "mtu", &way.mtu.to_string()])?;
    }
    Ok(())
}

fn up_and_down_by(way: &Way) -> Result<()> {
    let Way { forward, families, mtu, narrow, mode } = *way;
    let mut world = World::without_servers(Setup {
        forward,
        families,
        v1: vec![1],
        v2: vec![2],
        health: None,
        echo_health: None,
        agent_lines: format!("mode = \"{mode}\"\n"),
        ..Setup::default()
    })?;
    let _server = Server::start(world.rig.ns("b1"), world.setup.backend_port(), 1)?;
    if mtu != 1500 {
        widen(&world, way)?;
    }
    if narrow < mtu {
        world.rig.ns("lb").run(&["ip", "link", "set", "zlb1", "mtu", &narrow.to_string()])?;
    }
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
    assert_eq!((told > 0, count(&status, "/reasons/drop_too_big")), (narrow < mtu, 0), "{status}");
    if mtu > 1500 {
        // Maps that are there go on with programs of their kind.
        world.kill_agent();
        world.start_agent()?;
        assert_eq!(talk.upload(bulk() / 10)?, 1);
    }
    let of = |what: &str| count(&status, &format!("/services/0/counters/{what}"));
    let (bytes, packets) = (of("bytes"), of("packets"));
    // What comes up is as large as the links let it be; ACKs of what goes down are small.
    assert!(mtu < 9000 || bytes > 2000 * packets, "{bytes} bytes in {packets} packets");
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

/// Frames that a driver keeps in several buffers (jumbo frames in native mode, Linux 6.3), and what the stack puts together before generic
/// XDP sees it.
fn jumbo(forward: Forward, families: Families) -> Result<()> {
    for mode in ["native", "generic"] {
        up_and_down_by(&Way { forward, families, mtu: 9000, narrow: 9000, mode })?;
    }
    Ok(())
}

#[test]
fn much_goes_up_and_down_in_jumbo_frames_under_l2() -> Result<()> {
    jumbo(Forward::L2, Families::V4)?;
    jumbo(Forward::L2, Families::V6)
}

#[test]
fn much_goes_up_and_down_in_jumbo_frames_under_ipip() -> Result<()> {
    jumbo(Forward::Ipip, Families::V4)?;
    jumbo(Forward::Ipip, Families::V6)
}

#[test]
fn much_goes_up_and_down_in_jumbo_frames_under_nat() -> Result<()> {
    jumbo(Forward::Nat, Families::V4)?;
    jumbo(Forward::Nat, Families::V6)
}

#[test]
fn much_goes_up_and_down_in_jumbo_frames_under_snat() -> Result<()> {
    jumbo(Forward::Snat, Families::V4)?;
    jumbo(Forward::Snat, Families::V6)
}

/// What does not fit a page is told as what does: the error quotes the beginning of a frame in several buffers.
#[test]
fn a_narrower_link_is_told_to_the_client_for_jumbo_frames() -> Result<()> {
    for forward in [Forward::L2, Forward::Ipip] {
        for families in [Families::V4, Families::V6] {
            up_and_down_by(&Way { forward, families, mtu: 9000, narrow: 5000, mode: "native" })?;
        }
    }
    Ok(())
}
