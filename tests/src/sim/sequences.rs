//! What must hold whatever the order of changes: random sequences of them, over a node and its pool.

use zdd_common::split::FULL;

use super::node::Node;
use super::pool::Pool;
use super::traffic::{Kind, Packet, Random, SECOND, Tuple};

const CELLS: u32 = 64;
const PER_VERSION: usize = 4;

fn version(backend: u16) -> usize {
    usize::from(backend - 1) / PER_VERSION
}

#[test]
fn a_pool_change_never_moves_a_client_to_another_version() {
    let mut chance = Random(1);
    for weight in (0..=FULL).step_by(125) {
        let mut pool = Pool::new(CELLS, PER_VERSION);
        pool.shift(weight);
        let before: Vec<usize> = pool.row().into_iter().map(version).collect();
        let share = before.iter().filter(|version| **version == 1).count() as i64;
        let asked = i64::from(CELLS) * i64::from(weight);
        assert!((share * i64::from(FULL) - asked).abs() < i64::from(FULL), "{weight}: {share} groups");
        for _ in 0..50 {
            pool.toggle(chance.below(2) as usize, chance.below(PER_VERSION as u64) as usize);
            let after: Vec<usize> = pool.row().into_iter().map(version).collect();
            assert_eq!(before, after, "weight {weight}");
        }
    }
}

#[test]
fn a_rollback_is_the_exact_inverse_of_what_went_before() {
    let mut chance = Random(2);
    for _ in 0..500 {
        let mut pool = Pool::new(CELLS, PER_VERSION);
        let start = chance.below(u64::from(FULL) + 1) as u32;
        pool.shift(start);
        let before = pool.row();
        for _ in 0..1 + chance.below(5) {
            pool.shift(chance.below(u64::from(FULL) + 1) as u32);
        }
        pool.shift(start);
        assert_eq!(pool.row(), before, "back to {start}");
    }
}

/// A connection and the backend it began on.
struct Live {
    tuple: Tuple,
    seq: u32,
    at: u16,
    spoke: u64,
}

/// Weights, pool, rollbacks, wipes of the clock and time itself in any order: every connection that speaks within the idle timeout stays.
#[test]
fn no_live_flow_moves_in_a_thousand_random_sequences_of_changes() {
    let (mut packets, mut changes, mut elsewhere) = (0u64, 0u64, 0u64);
    for seed in 0..1000 {
        let mut chance = Random(1000 + seed);
        let mut pool = Pool::new(CELLS, PER_VERSION);
        let mut node = Node::new(&pool.row(), 1 << 9, 64);
        let mut live: Vec<Live> = Vec::new();
        let mut now = 1000 * SECOND;
        let mut next = 0u32;
        for _ in 0..30 {
            match chance.below(6) {
                0 => pool.shift(chance.below(u64::from(FULL) + 1) as u32),
                1 => pool.shift(0),
                2 => pool.toggle(chance.below(2) as usize, chance.below(PER_VERSION as u64) as usize),
                _ => {}
            }
            node.change(&pool.row(), now);
            changes += 1;
            for _ in 0..3 {
                let tuple = Tuple { client: 0x0a00_0000 + next / 7, port: 1024 + (next % 7) as u16 };
                next += 1;
                let seq = chance.below(1 << 32) as u32;
                let at = steer(&mut node, tuple, Kind::Syn, seq, now);
                let again = steer(&mut node, tuple, Kind::Data, seq.wrapping_add(1), now);
                assert_eq!(at, again, "seed {seed}: a handshake");
                live.push(Live { tuple, seq: seq.wrapping_add(1), at, spoke: now });
                packets += 2;
            }
            // Up to 170 s, and the agent's work every ten.
            let until = now + (1 + chance.below(17)) * 10 * SECOND;
            while now < until {
                now += 10 * SECOND;
                node.tick(now);
            }
            let row = pool.row();
            for flow in &mut live {
                // Some speak; those who have not for long have to, or they count as gone.
                if chance.below(3) == 0 || now - flow.spoke > 170 * SECOND {
                    flow.seq = flow.seq.wrapping_add(chance.below(5000) as u32);
                    let to = steer(&mut node, flow.tuple, Kind::Data, flow.seq, now);
                    assert_eq!(to, flow.at, "seed {seed}: a live flow moved");
                    flow.spoke = now;
                    packets += 1;
                    elsewhere += u64::from(!row.contains(&to));
                }
            }
            if live.len() > 60 {
                live.drain(..20);
            }
        }
    }
    println!("{packets} packets, {changes} changes; {elsewhere} packets to backends that take nothing new");
    assert!(elsewhere > 1000, "changes were about something: {elsewhere}");
}

fn steer(node: &mut Node, tuple: Tuple, kind: Kind, seq: u32, at: u64) -> u16 {
    node.steer(&Packet { at, flow: 0, kind, seq }, tuple)
}
