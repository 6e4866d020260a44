//! Floods and full tables, with live connections and new ones going on: nothing breaks, memory does not grow, and the counters
//! and `zdd status` tell what happened. Needs root.

mod pour;

use std::os::fd::{AsFd, AsRawFd};

use std::time::Instant;

use aya::maps::MapData;
use pour::{Kind, NOBODY, NOBODY6, live, pour};
use serde_json::Value;
use zdd_tests::rig::{Error, Families, Forward, Result, wait_for};
use zdd_tests::traffic::{Counts, Ledger, Load};
use zdd_tests::world::status::{count, number, service, told, version};
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World, goes_on};

/// A million frames take 7 s and more.
const MILLION: u64 = 1_000_000;

/// A world whose backends drop what nobody sent, so that a flood tries the balancer and not their TCP.
fn world(flows: u32, idle_ms: u32) -> Result<World> {
    world_of(Setup { flows, idle_ms, ..Setup::default() })
}

fn world_of(setup: Setup) -> Result<World> {
    let world = World::running(setup)?;
    for i in 1..=4 {
        let backend = world.rig.ns(&format!("b{i}"));
        let families = world.setup.families;
        let direct = world.setup.forward.direct();
        // What is local is dropped by a rule that comes before it is looked up: under `l2` and `ipip`, where the VIP is and what comes is
        // answered another way; and over IPv6, which asks for no route back.
        for (family, nobody, so) in [("-4", NOBODY, direct), ("-6", NOBODY6, families.v6())] {
            if so {
                backend.run(&["ip", family, "rule", "add", "pref", "10", "lookup", "local"])?;
                backend.run(&["ip", family, "rule", "del", "pref", "0"])?;
                backend.run(&["ip", family, "rule", "add", "pref", "0", "from", nobody, "blackhole"])?;
            }
        }
        if direct {
            continue;
        }
        backend.run(&["ip", "route", "add", "blackhole", NOBODY])?;
        // The route back is no route: `__fib_validate_source` refuses the packet.
        backend.sysctl("net/ipv4/conf/all/rp_filter", "1")?;
    }
    Ok(world)
}

/// Packets counted by all reasons together, and by one.
fn counted(status: &Value) -> u64 {
    let reasons = status["reasons"].as_object().expect("reasons");
    reasons.values().filter_map(Value::as_u64).sum()
}

fn reason(status: &Value, name: &str) -> u64 {
    count(status, &format!("/reasons/{name}"))
}

/// Resident memory of the agent, KiB.
fn resident(status: &Value) -> u64 {
    let path = format!("/proc/{}/status", count(status, "/pid"));
    let text = std::fs::read_to_string(path).expect("the agent runs");
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number of KiB")
}

/// Bytes that the kernel counts for all pinned maps.
fn map_memory(world: &World) -> u64 {
    let pins = std::fs::read_dir(world.pin_dir()).expect("pins").flatten();
    pins.filter(|pin| pin.path().is_file())
        .filter_map(|pin| MapData::from_pin(pin.path()).ok())
        .map(|map| {
            let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
            let text = std::fs::read_to_string(path).expect("an open map");
            let line = text.lines().find(|line| line.starts_with("memlock:")).expect("memlock");
            line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).expect("bytes")
        })
        .sum()
}

/// Nothing live was broken or moved and no new connection failed. Frames that the rig's wires drop under a flood are repeated by
/// TCP, and are no fault for UDP.
fn held(ledger: &Ledger) {
    let Counts { short_failed, wrong_source, .. } = ledger.counts;
    let harm = ledger.counts.broken() + short_failed + wrong_source;
    assert_eq!(harm, 0, "{:?}\n{:#?}", ledger.counts, ledger.incidents);
}

/// The same, but new connections may have waited for a port in vain.
fn nothing_live_broke(ledger: &Ledger) {
    let harm = ledger.counts.broken() + ledger.counts.wrong_source;
    assert_eq!(harm, 0, "{:?}\n{:#?}", ledger.counts, ledger.incidents);
}

/// Pours until `frames` more packets are counted, while the traffic goes on; the status before and after.
fn flooded(world: &World, load: &Load, kind: Kind, frames: u64) -> Result<(Value, Value)> {
    let live = if kind == Kind::Live { live(&world.rig)? } else { vec![] };
    let before = world.status()?;
    let memory = (resident(&before), map_memory(world));
    let begun = load.ledger().counts;
    let families = world.setup.families;
    let mut after = before.clone();
    // A busy machine's wires drop some of them.
    let until = Instant::now() + 3 * PATIENCE;
    for round in 0.. {
        let missing = frames.saturating_sub(counted(&after) - counted(&before));
        if missing > 0 {
            let seed = 0x5eed + round;
            std::thread::scope(|scope| {
                let flood = scope.spawn(|| pour(&world.rig, kind, families, &live, missing, seed));
                // While it pours: lines are exchanged, and new connections begin and end.
                let goes = goes_on(load);
                flood.join().expect("no panic").and(goes)
            })?;
            after = world.status()?;
        }
        if missing == 0 || Instant::now() > until {
            break;
        }
    }
    assert!(counted(&after) - counted(&before) >= frames, "the flood did not arrive: {after}");
    let more = load.ledger().counts.since(&begun);
    assert!(more.short_total > 0 && more.long_lines > 0, "{more:?}");
    if world.setup.forward == Forward::Snat {
        nothing_live_broke(&load.ledger());
    } else {
        held(&load.ledger());
    }
    let grown = (resident(&after).saturating_sub(memory.0), map_memory(world) - memory.1);
    assert!(grown.0 < 4096 && grown.1 == 0, "grew by {} KiB of agent and {} B of maps", grown.0, grown.1);
    Ok((before, after))
}

fn more(pair: &(Value, Value), name: &str) -> u64 {
    reason(&pair.1, name) - reason(&pair.0, name)
}

#[test]
fn a_million_forged_syns_during_a_change_break_nothing() -> Result<()> {
    let mut world = world(16_384, 3_000)?;
    let load = world.load(40)?;
    world.zdd().run(&["shift", "web", "v2=50%"])?;
    load.open_long(20);
    let pair = flooded(&world, &load, Kind::Syn, MILLION)?;
    // The half-open part fills up; what comes then goes to base, and is counted.
    assert!(more(&pair, "new") > 0 && more(&pair, "fallback") > MILLION / 10, "{}", pair.1["reasons"]);
    let quota = &pair.1["flow_table"]["quotas"]["half"];
    assert!(count(quota, "/used") <= count(quota, "/limit") + 64, "{quota}");
    let failed = |status| count(service(status, "web"), "/counters/insert_failed");
    assert!(failed(&pair.1) - failed(&pair.0) >= more(&pair, "fallback") / 2);
    let said = told(service(&pair.1, "web"));
    assert!(said.contains("could not be remembered") && said.contains("half-open"), "{said}");
    // It rolls back, and settles once the flood is over.
    world.zdd().run(&["rollback", "web", "--force"])?;
    goes_on(&load)?;
    wait_for("the cells to settle", PATIENCE, LOOK_EVERY, || {
        Ok::<_, Error>((count(service(&world.status()?, "web"), "/dirty_cells") == 0).then_some(()))
    })?;
    world
        .wait_status("the note to go", |s| (!told(service(s, "web")).contains("remembered")).then_some(()))?;
    let ledger = load.finish();
    held(&ledger);
    Ok(())
}

#[test]
fn forged_acks_resets_datagrams_and_noise_during_a_change_break_nothing() -> Result<()> {
    // What is learned is still there when it is counted, however long the machine takes.
    let world = world(16_384, 600_000)?;
    let load = world.load(40)?;
    for name in ["web", "echo"] {
        world.zdd().run(&["shift", name, "v2=50%"])?;
    }
    load.open_long(20);
    let acks = flooded(&world, &load, Kind::Ack, 200_000)?;
    // One forged ACK is enough for a learned entry; they have a part of the table of their own.
    assert!(more(&acks, "learned") > 0 && more(&acks, "fallback") > 10_000, "{}", acks.1["reasons"]);
    let quota = |of: &str| acks.1["flow_table"]["quotas"][of].clone();
    assert!(count(&quota("learned"), "/used") >= count(&quota("learned"), "/limit") * 9 / 10);
    assert!(count(&quota("half"), "/used") < count(&quota("half"), "/limit") / 2, "new flows have theirs");
    let resets = flooded(&world, &load, Kind::Rst, 200_000)?;
    assert!(more(&resets, "base") > 50_000, "nothing is learned from a RST: {}", resets.1["reasons"]);
    // Cells of UDP settle soon, and then nothing is remembered: change them again.
    world.zdd().run(&["shift", "echo", "v2=60%"])?;
    let datagrams = flooded(&world, &load, Kind::Udp, 200_000)?;
    assert!(more(&datagrams, "fallback") > 10_000, "{}", datagrams.1["reasons"]);
    let noise = flooded(&world, &load, Kind::Noise, 200_000)?;
    for name in ["pass_not_ip", "pass_not_transport", "pass_not_vip", "drop_malformed"] {
        assert!(more(&noise, name) > 100, "{name}: {}", noise.1["reasons"]);
    }
    held(&load.finish());
    Ok(())
}

/// Whoever knows a connection's ends can give its entry a second identity, and does not draw its packets away by a hundred guesses. Thousands
/// for each connection may: README, exception (k).
#[test]
fn forged_packets_of_live_connections_during_a_change_break_none() -> Result<()> {
    let world = world(16_384, 600_000)?;
    let load = world.load(10)?;
    load.open_long(20);
    world.zdd().run(&["shift", "web", "v2=50%"])?;
    goes_on(&load)?;
    let pair = flooded(&world, &load, Kind::Live, 3_000)?;
    // The connections' own packets are told from those of what the SYNs began.
    assert!(more(&pair, "alt") > 100, "{}", pair.1["reasons"]);
    goes_on(&load)?;
    // And to the end: all of it settles, with nobody moved.
    world.zdd().run(&["shift", "web", "v2=100%"])?;
    goes_on(&load)?;
    held(&load.finish());
    Ok(())
}

#[test]
fn a_full_table_sends_new_connections_to_base_and_says_so() -> Result<()> {
    // Sixteen entries of each kind: full with the first line of the real traffic.
    let world = world(64, 3_000)?;
    let load = world.load(40)?;
    let before = world.status()?;
    world.zdd().run(&["shift", "web", "v2=100%"])?;
    wait_for("new connections to fall back", PATIENCE, LOOK_EVERY, || {
        let status = world.status()?;
        Ok::<_, Error>((reason(&status, "fallback") > reason(&before, "fallback") + 200).then_some(()))
    })?;
    goes_on(&load)?;
    held(&load.ledger());
    let status = world.status()?;
    assert!(told(service(&status, "web")).contains("could not be remembered"), "{status}");
    assert_eq!(number(version(&status, "web", "v2"), "share"), 1.0);
    // With room again, new connections follow the weights.
    load.hang_up(0);
    load.set_rate(2);
    let from = load.now_us();
    wait_for("new connections to come to v2", PATIENCE, LOOK_EVERY, || {
        Ok::<_, Error>([3, 4].iter().any(|i| world.begun_on(&load, *i, from) > 0).then_some(()))
    })?;
    held(&load.finish());
    Ok(())
}

/// Frames of each kind in the tests below, half of them of either family: `ZDD_FLOOD`, 60,000 if it is not set.
fn frames() -> u64 {
    std::env::var("ZDD_FLOOD").ok().and_then(|text| text.parse().ok()).unwrap_or(60_000)
}

fn every_kind(forward: Forward) -> Result<()> {
    let world = world_of(Setup { forward, families: Families::Both, ..Setup::default() })?;
    let load = world.load(40)?;
    for name in ["web", "echo"] {
        world.zdd().run(&["shift", name, "v2=50%"])?;
    }
    load.open_long(20);
    for kind in [Kind::Syn, Kind::Ack, Kind::Rst, Kind::Udp, Kind::Noise] {
        let takes_ports = forward == Forward::Snat && kind == Kind::Ack;
        // Twice as many where they shall use up the ports of either family, which come back while they are sent.
        let pair = flooded(&world, &load, kind, frames() * if takes_ports { 2 } else { 1 })?;
        if takes_ports {
            // Each forged flow gets a port of ours, and there are none left: it is told, and what has one goes on.
            assert!(more(&pair, "drop_no_port") > 0, "{}", pair.1["reasons"]);
        }
    }
    let ledger = load.finish();
    if forward == Forward::Snat {
        nothing_live_broke(&ledger)
    } else {
        held(&ledger)
    }
    Ok(())
}

#[test]
fn forged_packets_of_every_kind_break_nothing_under_l2() -> Result<()> {
    every_kind(Forward::L2)
}

#[test]
fn forged_packets_of_every_kind_break_nothing_under_ipip() -> Result<()> {
    every_kind(Forward::Ipip)
}

#[test]
fn forged_packets_of_every_kind_break_nothing_under_nat() -> Result<()> {
    every_kind(Forward::Nat)
}

#[test]
fn forged_packets_of_every_kind_break_nothing_live_under_snat() -> Result<()> {
    every_kind(Forward::Snat)
}
