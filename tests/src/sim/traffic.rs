//! Flows: when they begin, how long they live, when they speak.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// One second in the simulation's unit, ns.
pub const SECOND: u64 = 1_000_000_000;

/// A generator of even spread (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Above 0, at most 1.
    pub fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// 0 to `below` - 1.
    pub fn below(&mut self, below: u64) -> u64 {
        self.next() % below.max(1)
    }
}

/// What a packet is to its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first one.
    Syn,
    /// One in between.
    Data,
    /// The last one.
    Fin,
}

/// A packet of flow number `flow`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// When, ns.
    pub at: u64,
    /// Whose.
    pub flow: u32,
    /// What.
    pub kind: Kind,
    /// Sequence number.
    pub seq: u32,
}

/// A flow's identity; distinct for all flows of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// The client's IPv4 address.
    pub client: u32,
    /// The client's port.
    pub port: u16,
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    tuple: Tuple,
    end: u64,
    gap: u64,
    seq: u32,
}

/// All packets of all flows in the order of time.
#[derive(Debug)]
pub struct Traffic {
    random: Random,
    begun: u32,
    flows: u32,
    between: f64,
    next_begin: u64,
    live: BinaryHeap<Reverse<(u64, u32)>>,
    all: Vec<Flow>,
}

/// Shape of the heavy tail: a Pareto distribution of 1.2 from 1 s to an hour. Half the flows end within 2 s, one in a hundred lives
/// for more than 45 s.
const SHAPE: f64 = 1.2;
const LONGEST: f64 = 3600.0;
/// The longest silence of a live flow: below every idle timeout in use.
const SILENCE: u64 = 60 * SECOND;

impl Traffic {
    /// `flows` flows that begin evenly spread over `duration` ns.
    pub fn new(seed: u64, flows: u32, duration: u64) -> Self {
        Self {
            random: Random(seed),
            begun: 0,
            flows,
            between: duration as f64 / f64::from(flows.max(1)),
            next_begin: 0,
            live: BinaryHeap::new(),
            all: Vec::with_capacity(flows as usize),
        }
    }

    /// Identity of a flow that has begun.
    pub fn tuple(&self, flow: u32) -> Tuple {
        self.all[flow as usize].tuple
    }

    /// Flows alive.
    pub fn live(&self) -> usize {
        self.live.len()
    }

    fn begin(&mut self) -> Packet {
        let at = self.next_begin;
        let flow = self.begun;
        let length = (self.random.unit().powf(-1.0 / SHAPE)).min(LONGEST);
        let length = (length * SECOND as f64) as u64;
        // A talkative one speaks every few hundred milliseconds, a quiet one every minute.
        let gap = (SECOND / 4) << self.random.below(8);
        let seq = self.random.next() as u32;
        // Distinct: a permutation of the flow's number (odd multiplier, 2^40).
        let id = (u64::from(flow) * 0x9e_3779_b97f + 1) & 0xff_ffff_ffff;
        let tuple = Tuple { client: 0x0a00_0000 | (id >> 16) as u32 & 0x00ff_ffff, port: id as u16 };
        self.all.push(Flow { tuple, end: at + length, gap: gap.min(SILENCE), seq });
        self.begun += 1;
        self.next_begin = at + (self.between * -self.random.unit().ln()) as u64;
        // The handshake's ACK.
        self.live.push(Reverse((at + SECOND / 20, flow)));
        Packet { at, flow, kind: Kind::Syn, seq }
    }
}

impl Iterator for Traffic {
    type Item = Packet;

    fn next(&mut self) -> Option<Packet> {
        let more = self.begun < self.flows;
        match self.live.peek() {
            Some(Reverse((at, _))) if !more || *at <= self.next_begin => {}
            _ if more => return Some(self.begin()),
            _ => return None,
        }
        let Reverse((at, flow)) = self.live.pop()?;
        let state = &mut self.all[flow as usize];
        state.seq = state.seq.wrapping_add(1400);
        let (seq, end, gap) = (state.seq, state.end, state.gap);
        if at >= end {
            return Some(Packet { at, flow, kind: Kind::Fin, seq });
        }
        let pause = gap / 2 + self.random.below(gap);
        self.live.push(Reverse(((at + pause.min(SILENCE)).min(end.max(at + 1)), flow)));
        Some(Packet { at, flow, kind: Kind::Data, seq })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flow_begins_and_ends_in_order_of_time_and_is_itself() {
        let mut traffic = Traffic::new(7, 5000, 100 * SECOND);
        let (mut last, mut open, mut tuples) = (0, 0i64, std::collections::HashSet::new());
        while let Some(packet) = traffic.next() {
            assert!(packet.at >= last);
            last = packet.at;
            match packet.kind {
                Kind::Syn => {
                    open += 1;
                    let Tuple { client, port } = traffic.tuple(packet.flow);
                    assert!(tuples.insert((client, port)));
                }
                Kind::Data => {}
                Kind::Fin => open -= 1,
            }
        }
        assert_eq!((open, tuples.len()), (0, 5000));
    }
}
