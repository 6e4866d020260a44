//! States are remembered by fingerprint.

use zdd_common::hash::fold;

use super::config::{MARKS, SLOTS};
use super::state::{AllFacts, CellState, Kind, Packet, Side, State, Way};

impl State {
    /// A fingerprint of 64 bits. Two of ten million states share one with a chance of 3 in a million.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = 0;
        let mut add = |word: u64| hash = fold(hash, word);
        let mut tables = |cells: &[CellState], ways: &[Way; SLOTS], marks: [u8; MARKS], facts: AllFacts| {
            for cell in cells {
                add(cell.cell.0 ^ u64::from(cell.since) << 40 ^ u64::from(cell.committed) << 48);
            }
            for way in ways {
                add(way.word.0);
                add(way.positions.0);
            }
            let [a, b, c, d, e] = marks;
            let tuples = ways[0].tuple | ways[1].tuple << 4;
            add(u64::from_le_bytes([a, b, c, d, e, tuples, 0, 0]));
            for [fail, udp, wipe] in facts {
                add(u64::from(fail) | u64::from(udp) << 8 | u64::from(wipe) << 16);
            }
        };
        tables(&self.cells, &self.ways, self.marks, self.facts);
        if let Some(Side { cells, ways, marks, facts }) = &self.other {
            tables(cells, ways, *marks, *facts);
        }
        for flow in &self.flows {
            add(u64::from_le_bytes([
                flow.phase as u8,
                flow.answered,
                flow.uses,
                flow.moves,
                flow.age,
                u8::from(flow.confirmed) | flow.node << 1,
                self.removed,
                self.left.reroutes,
            ]));
        }
        let packet = |p: &Packet| {
            let [a, b, c, d] = p.seq.to_le_bytes();
            u64::from_le_bytes([p.kind as u8, p.flow, p.tuple, p.age, a, b, c, d])
        };
        for flying in &self.flight {
            add(packet(flying));
        }
        for mid in &self.mids {
            if mid.packet.kind == Kind::None {
                add(0);
                continue;
            }
            add(packet(&mid.packet));
            let bits = u64::from_le_bytes([
                1,
                u8::from(mid.replay),
                u8::from(mid.looked),
                mid.slot,
                mid.clock,
                u8::from(mid.early),
                u8::from(mid.stale),
                0,
            ]);
            add(bits);
            add(mid.cell.0);
            add(mid.word.0);
            add(mid.positions.0);
        }
        if self.sweep.what != 0 {
            add(u64::from(self.sweep.what) | u64::from(self.sweep.slot) << 8);
            add(self.sweep.old.0);
            add(self.sweep.new.0);
        }
        let left = &self.left;
        add(u64::from_le_bytes([
            left.changes,
            left.forged,
            left.restarts,
            left.wipes,
            left.removals,
            left.lies,
            left.copies,
            left.again,
        ]));
        add(u64::from(left.joins) | u64::from(self.rows) << 8);
        hash
    }
}
