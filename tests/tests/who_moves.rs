//! `zdd who-moves` says what the shift then does, to the cell and to the client. Needs root.

use serde_json::Value;
use zdd_tests::rig::{Result, client_address};
use zdd_tests::world::status::version;
use zdd_tests::world::{Setup, World, as_before, unharmed};

const CLIENTS: usize = 40;

/// Asks about every client, then shifts, and compares everything that can be seen from outside.
fn agree(world: &World, weights: &[&str]) -> Result<Value> {
    let clients: Vec<String> = (0..CLIENTS).map(|i| format!("{}:9", client_address(i))).collect();
    let mut ask = vec!["who-moves", "web"];
    ask.extend(weights);
    clients.iter().for_each(|client| ask.extend(["--from", client]));
    let before = (world.explained("web", CLIENTS)?, world.changes()?);
    let status = world.status()?;
    let said = world.zdd().json(&ask)?;
    let again = world.zdd().json(&ask)?;
    assert_eq!(again["versions"], said["versions"], "asking changes nothing");
    assert_eq!((world.explained("web", CLIENTS)?, world.changes()?), before, "asking changes nothing");
    let (before, shifted) = before;
    let mut shift = vec!["shift", "web", "--force"];
    shift.extend(weights);
    let done = world.zdd().json(&shift)?;
    let after = world.explained("web", CLIENTS)?;
    assert_eq!(world.changes()?.len(), shifted.len() + 1, "a shift is told, or nothing above was seen");
    assert_eq!(said["moved_groups"], done["moved_groups"]);
    for moved in said["versions"].as_array().expect("versions") {
        let name = moved["name"].as_str().expect("a name");
        let told =
            done["versions"].as_array().and_then(|all| all.iter().find(|v| v["name"] == name)).expect("told");
        assert_eq!(
            (&moved["asked_after"], &moved["share_after"]),
            (&told["asked"], &told["share"]),
            "{name}"
        );
        let was = version(&status, "web", name);
        assert_eq!(
            (&moved["asked_before"], &moved["share_before"]),
            (&was["asked"], &was["share"]),
            "{name}"
        );
    }
    for (i, client) in said["clients"].as_array().expect("clients").iter().enumerate() {
        let of = |explained: &str| explained.split(' ').next().unwrap_or_default().to_owned();
        assert_eq!(
            (client["before"].to_string(), client["after"].to_string()),
            (of(&before[i]), of(&after[i])),
            "{client}"
        );
    }
    let moves: u64 =
        said["moves"].as_array().expect("moves").iter().filter_map(|m| m["cells"].as_u64()).sum();
    assert_eq!(said["moved_cells"].as_u64(), Some(moves));
    Ok(said)
}

#[test]
fn what_is_told_before_a_shift_is_what_the_shift_does() -> Result<()> {
    for affinity in ["client", "client-version", "flow"] {
        let world = World::running(Setup { affinity, ..Setup::default() })?;
        let load = world.load(20)?;
        for (weights, moved) in
            [("v2=10%", 0.10), ("v2=60%", 0.50), ("v2=25%", 0.35), ("v2=25%", 0.0), ("v2=100%", 0.75)]
        {
            let said = agree(&world, &[weights])?;
            let share = said["moved_share"].as_f64().expect("a number");
            assert!((share - moved).abs() < 0.005, "{affinity} {weights}: {share}");
        }
        as_before(&load)?;
        unharmed(&load.finish());
    }
    Ok(())
}

#[test]
fn live_flows_in_moved_cells_are_counted_and_stay() -> Result<()> {
    let world = World::running(Setup::default())?;
    let load = world.load(20)?;
    world.zdd().run(&["shift", "web", "v2=50%"])?;
    as_before(&load)?;
    let said = agree(&world, &["v2=20%"])?;
    let (live, kept) = (said["live_flows"].as_u64(), said["kept_flows"].as_u64());
    // Only cells that changed have entries: of those that go back, the flows learned on v1 and the new ones on v2.
    assert!(live > Some(0) && kept <= live, "{said}");
    assert!(kept > Some(0), "{said}");
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_shift_that_would_be_refused_is_told_with_the_reason() -> Result<()> {
    let mut world = World::running(Setup::default())?;
    world.set_health(&[3, 4], false)?;
    let said = agree(&world, &["v2=30%"])?;
    let notes = said["notes"].to_string();
    assert!(
        notes.contains("would be refused without --force") && notes.contains("no healthy backend"),
        "{notes}"
    );
    // v1 stands in for v2: groups move, clients do not.
    assert_eq!((&said["moved_cells"], said["moved_groups"].as_u64() > Some(0)), (&0.into(), true), "{said}");
    world.refused(&["who-moves", "web", "v9=1%"])?.says(1, &["there is no version `v9`"]);
    world.refused(&["who-moves", "nope", "v2=1%"])?.says(1, &["there is no service `nope`"]);
    let text = world.zdd().run(&["who-moves", "web", "v2=30%"])?;
    assert!(text.contains("web: 0.00% of new clients") && text.contains("live connections stay"), "{text}");
    Ok(())
}
