//! Two CPUs at once: one publishes while the other's packets are on their way, and both race for the same entries.

mod snat;
mod sweep;

use std::collections::HashMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use zdd_common::atomic::{Atomics as _, Host};
use zdd_common::entries::{
    Affinity, Backend, Cell, Commit, EndEntry, EndKind, Mode, NextHop, Port, Service, State, Word,
};
use zdd_common::flows::{self, Bucket};
use zdd_common::limits::WAYS;
use zdd_common::net::{End, TCP};
use zdd_common::reason::Reason;

use crate::frames::{ACK, FIN, L4, Pkt, RST, SYN};
use crate::rig::{self, BUCKETS, Link, MAC_B, Rig, neighbour4};

/// How long each hammering goes on.
const TIME: Duration = Duration::from_secs(2);
const SERVICE: u16 = 1;
const VIP: ([u8; 4], u16) = ([10, 9, 0, 1], 80);
/// Where a packet ends up that saw what was never published.
const POISON: u16 = 60;

/// Packets of one bulk.
const BULK: u32 = 1 << 14;

/// Binds the calling thread to one CPU; with a single one there is nothing to hammer.
fn pin(cpu: usize) {
    // SAFETY: a set on the stack, all zero is the empty one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: a CPU number below the set's size.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: a valid set; 0 is the calling thread.
    let done = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    assert_eq!(done, 0, "CPU {cpu}: {}", std::io::Error::last_os_error());
}

/// MAC address of a backend: says its number.
fn mac(backend: u16) -> [u8; 6] {
    let [high, low] = backend.to_be_bytes();
    [2, 0, 0, 0xbb, high, low]
}

/// The backend that a frame was sent to.
fn sent_to(frame: &[u8]) -> u16 {
    assert_eq!(frame[..4], mac(0)[..4], "sent to no backend of ours: {frame:02x?}");
    u16::from_be_bytes([frame[4], frame[5]])
}

fn packet(port: u16, flags: u8, seq: u32) -> Vec<u8> {
    Pkt { l4: L4::Tcp(flags, seq), ..Pkt::tcp((neighbour4(Link::A, 10), port), (VIP.0.into(), VIP.1), 0, 0) }
        .bytes()
}

/// One service of `cells` groups with `l2` backends up to [`POISON`].
fn build(rig: &mut Rig, cells: u32) {
    rig.plane.set_port(1, Port { ifindex: rig.b, flags: 0, mac: MAC_B, tags: 0, mtu: 0 }).expect("a port");
    for id in 1..=POISON {
        let next_hop = NextHop::new(mac(id), 1).0;
        rig.plane.write_backend(id, &Backend { next_hop, mode: Mode::L2 as u16, ..Backend::default() });
    }
    let affinity = Affinity::Flow as u32;
    let service = Service { groups: cells, per_group: 1, affinity, udp_idle: 10, ..Service::default() };
    rig.plane.write_service(SERVICE, &service);
    let entry = EndEntry { kind: EndKind::Vip as u16, service: SERVICE, id: 7, ..EndEntry::default() };
    let end = End::new(std::net::IpAddr::from(VIP.0).into(), VIP.1.to_be(), TCP);
    rig.plane.set_end(end, entry, "the VIP").expect("room");
}

/// Runs `write` on one CPU until [`TIME`] is over or it fails, and `read` on the other.
fn hammer(rig: &Rig, mut write: impl FnMut() + Send, mut read: impl FnMut() + Send) {
    let over = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            pin(1);
            let _stop = Stop(over);
            let start = Instant::now();
            while start.elapsed() < TIME && !over.load(Ordering::Relaxed) {
                write();
            }
        });
        let reader = scope.spawn(move || {
            rig.enter();
            pin(0);
            let _stop = Stop(over);
            while !over.load(Ordering::Relaxed) {
                read();
            }
        });
        for thread in [writer, reader] {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

/// Ends the other thread's loop, also by a panic.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The word is one: rows 255 and 256, generations 1 and 256 differ in every byte that they have, and all rows but these
/// two send to [`POISON`].
#[test]
fn a_commit_is_never_seen_half() {
    rig::with(|rig| {
        build(rig, 1);
        rig.plane.write_row(0, &[Cell::settled(POISON); 1024]);
        let rows = [(255, 1, 1), (256, 256, 2)];
        for (row, _, backend) in rows {
            rig.plane.write_row(row, &[Cell::settled(backend)]);
        }
        rig.plane.commit(SERVICE, Commit::new(255, 1));
        let (frame, before) = (packet(4000, ACK, 1), rig.reasons());
        let poisoned = rig.plane.backend_counters(POISON).packets;
        let (mut commits, mut runs, mut seen) = (0u64, 0u64, [0u64; 3]);
        let plane = &rig.plane;
        hammer(
            rig,
            || {
                for (row, generation, _) in rows {
                    plane.commit(SERVICE, Commit::new(row, generation));
                    commits += 1;
                    // Without a pause the word hardly ever leaves this CPU's cache, and the packets crawl.
                    for _ in 0..commits % 64 {
                        std::hint::spin_loop();
                    }
                }
            },
            || {
                // In bulk, and large: the kernel patches its dispatcher for each, which takes milliseconds. The frame comes out
                // as the last one went; whoever went elsewhere is counted below.
                let (_, out) = rig.runner.run(rig.a, &frame, BULK);
                seen[usize::from(sent_to(&out)).min(2)] += 1;
                runs += u64::from(BULK);
            },
        );
        println!("{commits} commits, {runs} packets, last of a bulk to A and B: {} and {}", seen[1], seen[2]);
        assert_eq!(
            rig.plane.backend_counters(POISON).packets,
            poisoned,
            "packets that saw half a commit word"
        );
        let moved: Vec<_> = rig.reasons().iter().zip(&before).map(|(after, before)| after - before).collect();
        assert_eq!(moved[Reason::Settled as usize], runs, "every packet found a service: {moved:?}");
        assert!(seen[1] > 0 && seen[2] > 0, "both rows were seen: {seen:?}");
    });
}

const CELLS: u32 = 1024;
/// Generations go through this many pairs of backends.
const PAIRS: u32 = 7;

/// Base and current of a generation.
fn pair(generation: u32) -> (u16, u16) {
    let n = (generation % PAIRS) as u16;
    (1 + n, 21 + n)
}

/// Rows are rewritten as the agent does it: spare row, commit, grace period. Every packet must see one of the generations
/// that were current while it was on its way, in both of the cell's halves.
#[test]
fn a_packet_sees_one_whole_generation() {
    rig::with(|rig| {
        build(rig, CELLS);
        rig.limit_quotas([64; 3]);
        let row = |generation: u32| generation % 2 * CELLS;
        let cells = |generation: u32| {
            let (base, current) = pair(generation);
            vec![Cell::new(base, current, Cell::DIRTY | Cell::LOOKUP); CELLS as usize]
        };
        rig.plane.write_row(row(1), &cells(1));
        rig.plane.commit(SERVICE, Commit::new(row(1), 1));
        let (begun, done) = (&AtomicU64::new(1), &AtomicU64::new(1));
        let plane = &rig.plane;
        let mut generation = 1u32;
        let (mut packets, mut across, mut port) = (0u64, 0u64, 0u16);
        hammer(
            rig,
            || {
                generation += 1;
                plane.write_row(row(generation), &cells(generation));
                begun.store(generation.into(), Ordering::SeqCst);
                plane.commit(SERVICE, Commit::new(row(generation), generation));
                done.store(generation.into(), Ordering::SeqCst);
                plane.grace().wait().expect("a grace period");
            },
            || {
                port = port.wrapping_add(1);
                let syn = port % 2 == 0;
                let frame = packet(port, if syn { SYN } else { ACK }, packets as u32);
                let first = done.load(Ordering::SeqCst) as u32;
                let (_, out) = rig.runner.run(rig.a, &frame, 1);
                let last = begun.load(Ordering::SeqCst) as u32;
                let to = sent_to(&out);
                let entry = take_entry(&rig.flows).expect("an entry");
                let made = (entry.alt(), entry.backend());
                let ok = (first..=last).any(|generation| {
                    let (base, current) = pair(generation);
                    // A SYN begins at current with base as its second identity; anything else is learned at base, and so is a SYN
                    // whose row changed while it was steered: a copy of it may be under way.
                    let begun = to == current && made == (base, current);
                    let known = to == base && made == (base, base);
                    if syn { begun || (known && first != last) } else { known }
                });
                assert!(ok, "generations {first} to {last}: sent to {to}, entry {made:?}, SYN {syn}");
                give_back(rig, entry);
                // This filter is small: full, it would know every SYN.
                rig.filter.clear();
                packets += 1;
                across += u64::from(first != last);
            },
        );
        println!(
            "{generation} generations of {CELLS} cells, {packets} packets, {across} of them across a commit"
        );
        assert!(generation > 20 && packets > 1000, "too slow to prove anything");
    });
}

/// Takes the one entry out of the table.
fn take_entry(flows: &crate::bpf::Mapped<Bucket>) -> Option<Word> {
    let mut taken = None;
    for index in 0..BUCKETS {
        for way in 0..WAYS {
            // SAFETY: a mapped value; no other thread makes entries.
            let word = unsafe { &raw mut (*flows.at(index)).ways[way].word };
            // SAFETY: as above.
            let found = unsafe { Host::load(word) };
            if found != 0 {
                assert!(taken.replace(Word(found)).is_none(), "one packet, one entry");
                // SAFETY: as above.
                unsafe { Host::store(word, 0) };
            }
        }
    }
    taken
}

fn give_back(rig: &Rig, entry: Word) {
    rig.plane.correct_quota(entry.class_bits(), -1);
}

/// Both CPUs send packets of the same few new tuples, in the same order: SYNs and what follows them. Whoever loses a race
/// must leave nothing behind: no second entry of a key, no half-written one, no lost or doubled quota.
#[test]
fn two_inserters_of_one_flow_make_one_entry() {
    const TUPLES: u16 = 24;
    rig::with(|rig| {
        build(rig, 4);
        let cells = [Cell::new(1, 2, Cell::DIRTY | Cell::LOOKUP); 4];
        rig.plane.write_row(0, &cells);
        rig.plane.commit(SERVICE, Commit::new(0, 1));
        let (start, end) = (&Barrier::new(3), &Barrier::new(3));
        let over = &AtomicBool::new(false);
        let round = &AtomicU64::new(0);
        let before = rig.reasons();
        let (mut rounds, mut packets, mut most) = (0, 0, 0);
        let failed = std::thread::scope(|scope| {
            let (plain, quotas) = (&*rig, &rig.quotas);
            for cpu in 0..2 {
                scope.spawn(move || {
                    plain.enter();
                    pin(cpu);
                    loop {
                        start.wait();
                        if over.load(Ordering::SeqCst) {
                            return;
                        }
                        let round = round.load(Ordering::SeqCst);
                        for port in 0..TUPLES {
                            for (flags, seq) in exchange(round, cpu) {
                                plain.runner.run(plain.a, &packet(port, flags, seq), 1);
                            }
                        }
                        end.wait();
                    }
                });
            }
            let begun = Instant::now();
            let mut failed = None;
            while begun.elapsed() < TIME && failed.is_none() {
                round.store(rounds, Ordering::SeqCst);
                // Full, with little room, and with room for everybody.
                // SAFETY: a mapped value; the threads wait.
                unsafe { (*quotas.at(0)).limit = [[64; 3], [8; 3], [64, 3, 5]][rounds as usize % 3] };
                start.wait();
                end.wait();
                rounds += 1;
                packets += 2 * u64::from(TUPLES) * exchange(round.load(Ordering::SeqCst), 0).len() as u64;
                match census(plain) {
                    Ok(entries) => most = most.max(entries),
                    Err(what) => failed = Some(format!("round {rounds}: {what}")),
                }
                // Every other round meets the entries of the one before: alive, or dead and to be taken over in place.
                match rounds % 4 {
                    0 => clear(plain),
                    2 => kill(plain),
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
            "{rounds} rounds, {packets} packets, up to {most} entries; fallback {}",
            moved[Reason::Fallback as usize]
        );
        assert_eq!(moved.iter().sum::<u64>(), packets, "one reason for each packet");
        assert!(most > 20, "the races were about something: {most}");
    });
}

/// What one CPU sends of each tuple.
fn exchange(round: u64, cpu: usize) -> [(u8, u32); 3] {
    let isn = (round as u32) << 8;
    match round % 5 {
        // Copies of one SYN.
        0 => [(SYN, isn); 3],
        // Two SYNs of one tuple.
        1 => [(SYN, isn + cpu as u32), (SYN, isn + 7), (ACK, isn + 1)],
        // Confirmed by both.
        2 => [(SYN, isn), (ACK, isn + 1), (ACK | FIN, isn + 2)],
        // Learned by both.
        3 => [(ACK, isn), (ACK, isn + 9), (RST, isn)],
        _ => [(ACK, isn + cpu as u32), (SYN, isn + (512 << 20)), (ACK, isn + (512 << 20) + 1)],
    }
}

/// Sees that every key has one entry, that no entry is half written, and that quotas are what is there.
fn census(rig: &Rig) -> Result<usize, String> {
    let mut keys = HashMap::new();
    let mut there = [0u64; 3];
    for (index, bucket) in rig.flows.all().iter().enumerate() {
        for way in 0..WAYS {
            let word = Word(bucket.ways[way].word);
            if word.is(State::Free) {
                if word.0 != 0 {
                    return Err(format!("a free way that is not empty: {word:x?}"));
                }
                continue;
            }
            if !word.is(State::Half) && !word.is(State::Est) && !word.is(State::Dead) {
                return Err(format!("left half written: {word:x?}"));
            }
            there[word.class_bits()] += 1;
            let key = bucket.ways[way].key();
            if let Some(other) = keys.insert(key, (index, way)) {
                return Err(format!("{key:x?} is in bucket and way {other:?} and {:?}", (index, way)));
            }
        }
    }
    let told: Vec<_> = rig.flows.all().iter().map(|bucket| flows::Beyond(bucket.ways[0].beyond)).collect();
    if told != flows::beyond(&rig.flows.all()) {
        return Err(format!("entries that no look would find, or looks for none: {told:x?}"));
    }
    let used = rig.plane.quotas().used;
    if used != there {
        return Err(format!("quotas say {used:?}, the table holds {there:?}"));
    }
    Ok(keys.len())
}

fn clear(rig: &Rig) {
    rig.flows.clear();
    // SAFETY: a mapped value; the threads wait.
    unsafe { (*rig.quotas.at(0)).used = [0; 3] };
}

fn kill(rig: &Rig) {
    for index in 0..BUCKETS {
        for way in 0..WAYS {
            // SAFETY: a mapped value; the threads wait.
            let word = unsafe { &raw mut (*rig.flows.at(index)).ways[way].word };
            // SAFETY: as above.
            let found = Word(unsafe { Host::load(word) });
            if found.live() {
                // SAFETY: as above.
                unsafe { Host::store(word, found.with_state(State::Dead).0) };
            }
        }
    }
}
