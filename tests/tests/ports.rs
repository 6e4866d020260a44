//! Clients that use one port again and again, as load generators and address translators do. Needs root.

use zdd_tests::rig::{self, Forward, Result};
use zdd_tests::world::{Setup, World, ask_from, unharmed};

/// Every connection from one address and one port, while the cell changes: each must follow the weights, though the entry of
/// the connection before it is still there.
fn follows(forward: Forward) -> Result<()> {
    let mut world = World::running(Setup { forward, ..Setup::default() })?;
    let load = world.load(10)?;
    let client = rig::client_address(95);
    let many = |world: &World, version: &str| -> Result<()> {
        for n in 0..6 {
            let met = ask_from(world.rig.ns("c"), client, 4567, world.web())?;
            assert_eq!(met.version, version, "connection {n} of the same port");
            assert_eq!(met.source, format!("{client}:4567"));
        }
        Ok(())
    };
    many(&world, "v1")?;
    for (command, version) in [
        (["shift", "web", "v2=100%"], "v2"),
        (["shift", "web", "v2=0%"], "v1"),
        (["shift", "web", "v2=100%"], "v2"),
    ] {
        world.zdd().run(&command)?;
        let said = world.zdd().json(&["explain", "web", "--from", &format!("{client}:4567")])?;
        assert_eq!(said["version"], version, "{said}");
        many(&world, version)?;
    }
    // A backend of v2 fails and recovers: the others of v2 take its share, not base.
    for (backend, healthy) in [(3, false), (3, true), (4, false), (4, true)] {
        world.set_health(&[backend], healthy)?;
        many(&world, "v2")?;
    }
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_port_used_again_follows_the_weights_under_nat() -> Result<()> {
    follows(Forward::Nat)
}

#[test]
fn a_port_used_again_follows_the_weights_under_l2() -> Result<()> {
    follows(Forward::L2)
}
