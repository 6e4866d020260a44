//! The ports of `snat`: CPUs that map the same flows, or compete for few ports, and a sweep that takes them away.

use std::collections::{HashMap, HashSet};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use zdd_common::entries::{Backend, Cell, Commit, EndEntry, EndKind, Mode, NextHop};
use zdd_common::net::{Addr, End, TCP};
use zdd_common::reason::Reason;
use zdd_common::snat::mapping::{Fate, Mapping, State, over};

use super::{SERVICE, Stop, TIME, VIP, build, mac, packet, pin};
use crate::frames::{ACK, L4, Pkt, SYN};
use crate::rig::{self, Link, Rig, SNAT_BUCKETS, SNAT_PORT, SNAT_SOURCE, neighbour4};

const BACKEND: u16 = 1;
const BACKEND_PORT: u16 = 8080;
const WAYS: usize = 8;
/// Ports of our IPv4 address.
const PORTS: usize = SNAT_BUCKETS / 2 * WAYS;
/// XDP actions.
const DROP: u32 = 1;
const PASS: u32 = 2;
const REDIRECT: u32 = 4;
/// Clients' ports begin here.
const FIRST: u16 = 4000;

fn backend() -> (std::net::IpAddr, u16) {
    (neighbour4(Link::B, 11), BACKEND_PORT)
}

/// The one service settled on one `snat` backend.
fn scene(rig: &mut Rig) {
    build(rig, 1);
    let (addr, port) = backend();
    let end = Backend {
        addr: addr.into(),
        next_hop: NextHop::new(mac(BACKEND), 1).0,
        port: port.to_be(),
        mode: Mode::Snat as u16,
        ..Backend::default()
    };
    rig.plane.write_backend(BACKEND, &end);
    let kind = EndKind::SnatBackend as u16;
    let entry = EndEntry { kind, service: SERVICE, id: BACKEND, ..EndEntry::default() };
    rig.plane.set_end(End::new(addr.into(), port.to_be(), TCP), entry, "a backend").expect("room");
    rig.plane.write_row(0, &[Cell::settled(BACKEND)]);
    rig.plane.commit(SERVICE, Commit::new(0, 1));
}

/// Sends a client's packet; answers the port of ours that it left from.
fn send(rig: &Rig, client: u16, flags: u8, seq: u32) -> Option<u16> {
    let (action, frame) = rig.runner.run(rig.a, &packet(client, flags, seq), 1);
    if action == DROP {
        return None;
    }
    assert_eq!(action, REDIRECT, "{frame:02x?}");
    Some(u16::from_be_bytes([frame[34], frame[35]]))
}

/// The backend answers one of our ports; answers which client's port it came to.
fn answer(rig: &Rig, ours: u16) -> Option<u16> {
    let l4 = L4::Tcp(SYN | ACK, 7000);
    let pkt = Pkt { l4, ..Pkt::tcp(backend(), (SNAT_SOURCE.into(), ours), 0, 0) };
    let (action, frame) = rig.runner.run(rig.b, &pkt.bytes(), 1);
    if action == PASS {
        return None;
    }
    assert_eq!(action, REDIRECT, "{frame:02x?}");
    Some(u16::from_be_bytes([frame[36], frame[37]]))
}

/// Which client has which of our ports. Every mapping is whole, and every client has one.
fn census(rig: &Rig) -> Result<HashMap<u16, u16>, String> {
    let client_address = Addr::from(neighbour4(Link::A, 10));
    let mut given = HashMap::new();
    for (index, bucket) in rig.mappings.all().iter().enumerate() {
        for way in 0..WAYS {
            let word = Mapping(bucket.words[way]);
            if word.0 == 0 {
                continue;
            }
            let ours = SNAT_PORT + (index * WAYS + way) as u16;
            if !word.is(State::Live) && !word.is(State::Dead) {
                return Err(format!("port {ours} is left half given: {word:x?}"));
            }
            let [client, vip] =
                [bucket.ports[way] as u16, (bucket.ports[way] >> 16) as u16].map(u16::from_be);
            let whole = word.backend() == BACKEND
                && bucket.clients[way] == client_address
                && bucket.vips[way] == Addr::from(std::net::IpAddr::from(VIP.0))
                && vip == VIP.1;
            if !whole || index * WAYS >= PORTS {
                return Err(format!("port {ours} is nobody's: {word:x?}, client {client}"));
            }
            if let Some(other) = given.insert(client, ours) {
                return Err(format!("client {client} has ports {other} and {ours}"));
            }
        }
    }
    Ok(given)
}

/// Both CPUs send SYNs and what follows of the same few new flows, of which some find no port. Whoever gets one is told the same
/// by both, and by the table.
#[test]
fn cpus_that_map_the_same_flows_give_each_one_port() {
    const CLIENTS: u16 = PORTS as u16 + 4;
    rig::with(|rig| {
        scene(rig);
        let (start, end) = (&Barrier::new(3), &Barrier::new(3));
        let over = &AtomicBool::new(false);
        let told = std::sync::Mutex::new(Vec::new());
        let before = rig.reasons();
        let (mut rounds, mut packets, mut drops, mut waited) = (0u64, 0u64, 0u64, 0u64);
        let failed = std::thread::scope(|scope| {
            let (plain, told) = (&*rig, &told);
            for cpu in 0..2 {
                scope.spawn(move || {
                    plain.enter();
                    pin(cpu);
                    loop {
                        start.wait();
                        if over.load(Ordering::SeqCst) {
                            return;
                        }
                        let mut mine = vec![];
                        for client in FIRST..FIRST + CLIENTS {
                            for (flags, seq) in [(SYN, 1000), (ACK, 1001), (ACK, 1002)] {
                                mine.push((client, send(plain, client, flags, seq)));
                            }
                        }
                        told.lock().expect("no panic").append(&mut mine);
                        end.wait();
                    }
                });
            }
            let begun = Instant::now();
            let mut failed = None;
            // A busy machine takes longer for as many rounds.
            let enough = |rounds, drops| rounds > 20 && drops > 100;
            while failed.is_none()
                && (begun.elapsed() < TIME || !enough(rounds, drops) && begun.elapsed() < 30 * TIME)
            {
                start.wait();
                end.wait();
                rounds += 1;
                let told = std::mem::take(&mut *told.lock().expect("no panic"));
                packets += told.len() as u64;
                drops += told.iter().filter(|(_, ours)| ours.is_none()).count() as u64;
                failed = round(plain, &told, &mut waited).err().map(|what| format!("round {rounds}: {what}"));
                // Every other round meets the mappings of the one before, alive or dead.
                match rounds % 3 {
                    0 => plain.mappings.clear(),
                    1 => kill(plain),
                    _ => {}
                }
            }
            over.store(true, Ordering::SeqCst);
            start.wait();
            failed
        });
        assert_eq!(failed, None);
        let moved: Vec<_> = rig.reasons().iter().zip(&before).map(|(after, before)| after - before).collect();
        println!(
            "{rounds} rounds, {packets} packets, {drops} of them found no port; {waited} flows waited for another CPU"
        );
        assert_eq!(moved[Reason::DropNoPort as usize], drops, "{moved:?}");
        assert_eq!(moved.iter().sum::<u64>(), packets, "one reason for each packet");
        assert!(rounds > 20 && drops > 100, "too few to prove anything: {rounds} rounds, {drops} drops");
    });
}

/// What both CPUs were told in a round, against the table.
fn round(rig: &Rig, told: &[(u16, Option<u16>)], waited: &mut u64) -> Result<(), String> {
    let given = census(rig)?;
    let owners: HashSet<_> = given.values().collect();
    if owners.len() != given.len() {
        return Err(format!("a port was given twice: {given:?}"));
    }
    for (client, ours) in told {
        let Some(ours) = ours else { continue };
        if given.get(client) != Some(ours) {
            return Err(format!("client {client} left from {ours}, the table has {:?}", given.get(client)));
        }
    }
    let refused: HashSet<_> =
        told.iter().filter(|(_, ours)| ours.is_none()).map(|(client, _)| client).collect();
    *waited += refused.iter().filter(|client| given.contains_key(client)).count() as u64;
    Ok(())
}

/// Every mapping is over, long enough ago or not.
fn kill(rig: &Rig) {
    rig.plane.sweep_mappings(|mapping| over(mapping, 0));
}

/// Both CPUs have flows of their own, more than there are ports, which all the time begin, are answered and fall silent; a sweep ends
/// mappings and frees ports. No answer comes to another client than the one that has the port, and in the end the table is empty.
#[test]
fn ports_that_are_taken_away_and_given_out_again_never_serve_two() {
    rig::with(|rig| {
        scene(rig);
        let over_now = &AtomicBool::new(false);
        // Odd while ports are being freed.
        let frees = &AtomicU64::new(0);
        let (sent, answered, crossed) = (&AtomicU64::new(0), &AtomicU64::new(0), &AtomicU64::new(0));
        let plane = &rig.plane;
        let mut freed = 0u64;
        std::thread::scope(|scope| {
            let plain = &*rig;
            for cpu in 0..2u16 {
                scope.spawn(move || {
                    plain.enter();
                    pin(cpu.into());
                    let _stop = Stop(over_now);
                    let mut turn = 0u32;
                    while !over_now.load(Ordering::Relaxed) {
                        // Some fall silent for a while, or none would stay dead for a grace period.
                        let set = (turn / 64 % 4) as u16 * 4;
                        for client in set..set + 12 {
                            let client = FIRST + cpu * 1000 + client;
                            let first = frees.load(Ordering::SeqCst);
                            let Some(ours) =
                                send(plain, client, if turn.is_multiple_of(2) { SYN } else { ACK }, turn)
                            else {
                                continue;
                            };
                            sent.fetch_add(1, Ordering::Relaxed);
                            let came = answer(plain, ours);
                            let last = frees.load(Ordering::SeqCst);
                            if first == last && first.is_multiple_of(2) {
                                assert_eq!(came, Some(client), "what was for port {ours}");
                                answered.fetch_add(1, Ordering::Relaxed);
                            } else {
                                crossed.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                        turn += 1;
                    }
                });
            }
            let _stop = Stop(over_now);
            let begun = Instant::now();
            while begun.elapsed() < 2 * TIME && !over_now.load(Ordering::Relaxed) {
                let mut dead = HashSet::new();
                for turn in 0..8u64 {
                    plane.sweep_mappings(|mapping| {
                        if mapping.is(State::Dead) {
                            dead.insert(mapping);
                            return Fate::Keep;
                        }
                        // Every third, another third each time.
                        let ends = (mapping.0 >> 23).wrapping_add(turn).is_multiple_of(3);
                        if ends { over(mapping, 0) } else { Fate::Keep }
                    });
                }
                plane.grace().wait().expect("a grace period");
                frees.fetch_add(1, Ordering::SeqCst);
                plane.sweep_mappings(|mapping| {
                    let free = dead.contains(&mapping);
                    freed += u64::from(free);
                    if free { Fate::Free } else { Fate::Keep }
                });
                frees.fetch_add(1, Ordering::SeqCst);
            }
        });
        let (sent, answered, crossed) =
            [sent, answered, crossed].map(|count| count.load(Ordering::SeqCst)).into();
        println!(
            "{sent} packets sent on, {answered} answers, {crossed} across a sweep that frees; {freed} ports freed"
        );
        let given = census(rig).unwrap_or_else(|what| panic!("{what}"));
        let totals = rig.plane.sweep_mappings(|mapping| over(mapping, 0))[0];
        assert_eq!(totals.live + totals.finished + totals.resting, given.len() as u64, "{totals:?}");
        let totals = rig.plane.sweep_mappings(|_| Fate::Free)[0];
        assert_eq!(totals.resting, given.len() as u64, "{totals:?}");
        assert!(census(rig).expect("nothing").is_empty());
        assert!(
            freed > 20 && answered > 1000,
            "too few to prove anything: {freed} freed, {answered} answers"
        );
    });
}
