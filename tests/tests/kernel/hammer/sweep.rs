//! The agent's sweep against packets.

use std::collections::HashSet;

use zdd_common::entries::{Cell, Class, Commit, State, Word};
use zdd_common::rules::Sweep;

use super::{SERVICE, build, census, exchange, hammer, packet};
use crate::rig;

/// One CPU sends packets of few flows, the other lets their entries die, restores second identities, and frees what has
/// been dead for a grace period. Nothing may be lost: quotas are what is there, every key has one entry.
#[test]
fn a_sweep_and_packets_leave_a_whole_table() {
    rig::with(|rig| {
        build(rig, 4);
        rig.limit_quotas([64, 20, 12]);
        rig.plane.write_row(0, &[Cell::new(1, 2, Cell::DIRTY | Cell::LOOKUP); 4]);
        rig.plane.commit(SERVICE, Commit::new(0, 1));
        let plane = &rig.plane;
        let (mut sweeps, mut freed, mut restored, mut packets) = (0u64, 0u64, 0u64, 0u64);
        hammer(
            rig,
            || {
                let mut dead = HashSet::new();
                for turn in 0..20u64 {
                    plane.sweep(|scan| {
                        let word = scan.word;
                        if word.is(State::Dead) {
                            dead.insert((scan.key, word));
                        } else if (scan.key.client_port() as u64 + turn).is_multiple_of(3) {
                            if word.is(State::Est) && word.alt_seen() {
                                restored += 1;
                                let alt = word.alt();
                                let whole = Word::new(State::Est, Class::Promoted, alt, alt, word.seen());
                                return Sweep::Restore(whole);
                            }
                            if word.live() && !word.is(State::Pending) {
                                return Sweep::Word(word.with_state(State::Dead));
                            }
                        }
                        Sweep::Keep
                    });
                    sweeps += 1;
                }
                plane.grace().wait().expect("a grace period");
                plane.sweep(|scan| {
                    if dead.contains(&(scan.key, scan.word)) {
                        freed += 1;
                        return Sweep::Free;
                    }
                    Sweep::Keep
                });
            },
            || {
                // Flows fall silent for a while, or none would stay dead for a grace period.
                let set = (packets / 10_000 % 4) as u16 * 12;
                for port in set..set + 12 {
                    for (flags, seq) in exchange(packets / 36, 0) {
                        rig.runner.run(rig.a, &packet(port * 256, flags, seq), 1);
                        packets += 1;
                    }
                }
                // The filter is small: full, it would know every SYN.
                rig.filter.clear();
            },
        );
        println!("{sweeps} sweeps, {packets} packets, {freed} freed, {restored} restored");
        if let Err(what) = census(rig) {
            panic!("{what}");
        }
        assert!(
            freed > 20 && restored > 20,
            "the race was about something: {freed} freed, {restored} restored"
        );
    });
}
