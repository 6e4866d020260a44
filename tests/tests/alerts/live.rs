//! Kinds of trouble that take an agent, time and traffic: each fires, and ends.

use serde_json::Value;
use zdd_tests::rig::Result;
use zdd_tests::world::status::version;
use zdd_tests::world::{Setup, World};

use crate::receiver::Receiver;
use crate::{count, told, webhook};

/// An interface of the balancer's that nothing passes.
const SPARE: &str = "zx0";

fn rollout(bad: &str) -> String {
    format!(
        "[service.rollout]\nstrategy = \"canary\"\nsteps = [{{ weight = 20 }}, {{ pause = \"until-promoted\" }}, {{ weight = 50 }}, \
         {{ pause = \"until-promoted\" }}]\non_failure = \"freeze\"\n\
         [[service.rollout.analysis]]\nname = \"file\"\ninterval = \"200ms\"\n\
         exec = {{ argv = [\"/bin/sh\", \"-c\", \"! test -e {bad}\"] }}\n"
    )
}

/// Makes v2 of `web` fail its checks, or pass them; `echo` has none.
fn sick(world: &mut World, sick: bool) -> Result<()> {
    for backend in ["b3", "b4"] {
        world.servers().set_healthy(backend, !sick);
    }
    let health = if sick { "unhealthy" } else { "healthy" };
    world.wait_status(&format!("v2 to be {health}"), |status| {
        let mut backends = version(status, "web", "v2")["backends"].as_array()?.iter();
        backends.all(|backend: &Value| backend["health"] == health).then_some(())
    })
}

#[test]
fn a_rollout_that_is_stuck_or_frozen_a_passed_deadline_a_full_table_and_a_lost_interface_are_told()
-> Result<()> {
    // Sixteen entries of each kind, and two interfaces by name.
    let setup = Setup { flows: 64, echo_health: None, ..Setup::default() };
    let mut world = World::new(setup)?;
    let spare = |what: &[&str]| world.rig.ns("lb").run(&[&["ip", "link"], what].concat());
    let add = ["add", SPARE, "type", "veth", "peer", "name", "zx1"];
    spare(&add)?;
    spare(&["set", SPARE, "up"])?;
    let bad = world.rig.scratch().path("bad").display().to_string();
    let mut setup = world.setup.clone();
    setup.rollout = Some(rollout(&bad));
    setup.interfaces = format!("{}\", \"{SPARE}", setup.interfaces);
    let text = setup.toml(world.rig.scratch().dir()) + &webhook();
    world.write("zdd.toml", &text)?;
    let receiver = Receiver::start(&world.rig)?;
    world.start_agent()?;
    sick(&mut world, false)?;
    let load = world.load(40)?;
    assert_eq!(receiver.lines(), [] as [String; 0], "nothing is wrong");

    // A step to a version that has got sick is refused for as long as it is.
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    sick(&mut world, true)?;
    world.zdd().run(&["rollout", "promote", "web"])?;
    // Its cells have changed: more flows than there is room for would have to be remembered.
    told(&receiver, "firing flow-table-full class=", 1)?;
    told(&receiver, "firing flows-not-remembered cluster=a service=web", 1)?;

    world.rig.ns("lb").run(&["ip", "link", "del", SPARE])?;
    told(&receiver, "firing detached cluster=a interface=zx0", 1)?;
    world.rig.ns("lb").run(&[&["ip", "link"], &add[..]].concat())?;
    world.rig.ns("lb").run(&["ip", "link", "set", SPARE, "up"])?;

    // Flows that go on speaking outlast the deadline.
    world.zdd().run(&["shift", "echo", "v2=100%"])?;
    world.zdd().run(&["drain", "echo/v1", "--deadline", "1s"])?;
    told(&receiver, "firing drain-deadline-passed cluster=a service=echo target=v1", 1)?;
    told(&receiver, "resolved detached cluster=a interface=zx0", 1)?;

    let stuck = "firing rollout-stuck cluster=a rollout=1 service=web version=v2";
    told(&receiver, stuck, 1)?;
    sick(&mut world, false)?;
    told(&receiver, &stuck.replace("firing", "resolved"), 1)?;
    world.write("bad", "")?;
    let frozen = "firing rollout-frozen cluster=a rollout=1 service=web version=v2";
    told(&receiver, frozen, 1)?;
    world.zdd().run(&["rollout", "abort", "web", "--reason", "enough"])?;
    let lines = told(&receiver, &frozen.replace("firing", "resolved"), 1)?;
    assert_eq!((count(&lines, stuck), count(&lines, frozen)), (1, 1), "{lines:#?}");

    let counts = load.finish().counts;
    assert_eq!((counts.long_broken, counts.long_moved, counts.short_failed), (0, 0, 0), "{counts:?}");
    Ok(())
}
