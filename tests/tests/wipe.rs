//! Everything that is remembered of flows is lost at once, under load. Needs root.

use std::os::fd::{AsFd, AsRawFd};

use aya::maps::MapData;
use zdd_tests::rig::{Error, Result};
use zdd_tests::world::status::{count, service};
use zdd_tests::world::{Setup, World, as_before, unharmed};

/// Zeroes the pinned flow table through its memory, as no agent ever would.
fn wipe(world: &World) -> Result<usize> {
    let map = MapData::from_pin(world.pin_dir().join("FLOWS")).expect("the flow table is pinned");
    let info = map.info().expect("the kernel knows it");
    let bytes = usize::try_from(info.max_entries() * info.value_size()).expect("fits");
    let fd = map.fd();
    // SAFETY: a fresh shared mapping of a map whose size the kernel has just told.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            fd.as_fd().as_raw_fd(),
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(Error::io("map FLOWS")(std::io::Error::last_os_error()));
    }
    let words = start.cast::<u64>();
    let mut lost = 0;
    for i in 0..bytes / 8 {
        // SAFETY: within the mapping; the kernel writes there as well, which is the point, so every access is volatile.
        unsafe {
            let word = words.add(i);
            if word.read_volatile() != 0 {
                lost += 1;
                word.write_volatile(0);
            }
        }
    }
    // SAFETY: unmaps what was mapped above.
    unsafe { libc::munmap(start, bytes) };
    Ok(lost)
}

fn entries(world: &World) -> Result<u64> {
    Ok(count(&world.status()?, "/flow_table/entries"))
}

#[test]
fn a_settled_service_does_not_need_its_flow_table() -> Result<()> {
    let mut world = World::running(Setup { v2_percent: 50, ..Setup::default() })?;
    let load = world.load(60)?;
    // Connections from before a shift and after it, so that cells have a history.
    world.zdd().run(&["shift", "web", "v2=20%"])?;
    world.zdd().run(&["shift", "echo", "v2=20%"])?;
    load.open_long(20);
    as_before(&load)?;
    assert!(entries(&world)? > 0, "a shift is what entries are made for");
    // A service that never changed is settled as well; here all flows that a change could have moved end first.
    unharmed(&load.finish());
    world.wait_settled("web")?;
    world.wait_settled("echo")?;
    let load = world.load(60)?;
    for _ in 0..5 {
        wipe(&world)?;
        as_before(&load)?;
    }
    // And the table works as before.
    world.zdd().run(&["shift", "web", "v2=60%"])?;
    load.open_long(10);
    as_before(&load)?;
    assert!(entries(&world)? > 0);
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn in_the_middle_of_a_shift_a_wipe_only_harms_what_was_an_exception() -> Result<()> {
    let world = World::running(Setup { v2_percent: 50, ..Setup::default() })?;
    let load = world.load(60)?;
    world.zdd().run(&["shift", "web", "v2=40%"])?;
    as_before(&load)?;
    // Flows that began before the shift are where their cell's base is: the table only says the same.
    let lost = wipe(&world)?;
    assert!(lost > 0, "there was something to lose");
    load.set_rate(0);
    let live = load.ledger().counts;
    zdd_tests::rig::wait_for("lines", zdd_tests::world::PATIENCE, zdd_tests::world::LOOK_EVERY, || {
        Ok::<_, Error>((load.ledger().counts.since(&live).long_lines > 600).then_some(()))
    })?;
    let counts = load.ledger().counts;
    assert_eq!((counts.long_broken, counts.long_moved), (0, 0), "{:#?}", load.ledger().incidents);
    assert_eq!(service(&world.status()?, "web")["alarm"], serde_json::Value::Null);
    drop(load.finish());
    Ok(())
}

#[test]
fn what_was_an_exception_is_lost_with_the_table() -> Result<()> {
    // The price that the design names, and the proof that the wipe above is a real one: connections that began on v2 while their cells
    // still belonged to v1 are known by their entries alone.
    let world = World::running(Setup { idle_ms: 20_000, ..Setup::default() })?;
    let load = world.load(20)?;
    world.zdd().run(&["shift", "web", "v2=100%"])?;
    load.open_long(20);
    as_before(&load)?;
    assert_eq!(load.ledger().live_long, [20, 20]);
    load.set_rate(0);
    wipe(&world)?;
    zdd_tests::rig::wait_for(
        "v2's to break",
        zdd_tests::world::PATIENCE,
        zdd_tests::world::LOOK_EVERY,
        || Ok::<_, Error>((load.ledger().live_long == [20, 0]).then_some(())),
    )?;
    assert_eq!(load.ledger().counts.long_moved, 0, "they end, they do not go on with somebody else");
    Ok(())
}
