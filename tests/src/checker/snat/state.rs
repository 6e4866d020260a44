//! A state of a world. Times are ages, so that states which differ only by the date are one.

use zdd_common::hash::fold;
use zdd_common::snat::mapping::Mapping;
use zdd_common::time::{TICK_SHIFT, Tick};

use super::config::{BACKENDS, Budget, CONNS, Config, FLIGHT, MIDS, PORTS};

/// The present of every state, in ticks.
pub const NOW: u32 = 1000;
/// An age: it never happened. A connection: none of those of the world.
pub const NEVER: u8 = 255;
/// Operations on mappings that one packet makes at the most.
pub const OPERATIONS: usize = 64;

/// Nanoseconds since boot of something `age` steps ago.
pub fn at(age: u8) -> u64 {
    u64::from(NOW - u32::from(age)) << TICK_SHIFT
}

/// One port's mapping, field by field as it lies in memory: word, ports, sequence numbers, client, VIP.
pub type Way = [u64; 7];

/// The word of a way.
pub fn word(way: &Way) -> Mapping {
    Mapping(way[0])
}

const SEEN_SHIFT: u32 = 39;

/// The word one step later: its age grows until it is as good as forever.
fn older(word: u64, forever: u8) -> u64 {
    if word == 0 {
        return 0;
    }
    let age = (Tick(NOW).since(Mapping(word).seen()) + 1).min(forever.into());
    (word & ((1 << SEEN_SHIFT) - 1)) | u64::from(NOW - age) << SEEN_SHIFT
}

/// How far a connection has come at its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Stage {
    /// No socket.
    #[default]
    None,
    /// A SYN has come.
    Received,
    /// Handshake complete.
    Established,
    /// The client has closed.
    Half,
    /// The backend has closed.
    Closed,
    /// The backend has closed after the client: it waits for the last ACK.
    LastAck,
    /// The client has closed after the backend.
    TimeWait,
}

/// A backend's socket with one of our ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Sock {
    /// How far it has come.
    pub stage: Stage,
    /// Whose it is.
    pub conn: u8,
    /// Steps since it last heard or said something.
    pub age: u8,
}

/// How far a connection has come at its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Phase {
    /// Not begun.
    #[default]
    Unborn,
    /// SYN sent.
    Syn,
    /// Handshake complete.
    Est,
    /// It has closed.
    Fin,
    /// Over.
    Gone,
}

/// A client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Flow {
    /// How far it has come.
    pub phase: Phase,
    /// The backend's FIN has come.
    pub got_fin: bool,
    /// A packet of the client's after the handshake has passed.
    pub confirmed: bool,
    /// Routers brought it to another node, which knows nothing of it: nothing is promised any more, though it goes on.
    pub lost: bool,
    /// The node that its packets come to.
    pub node: u8,
    /// Nothing is promised any more: silent for too long, gone without a word, its mapping lost in a wipe, its backend removed.
    pub released: bool,
    /// The port that it has at its backend.
    pub port: u8,
    /// Steps since one of its packets passed.
    pub age: u8,
}

impl Flow {
    /// Whether the promise holds for it.
    pub fn promised(&self) -> bool {
        matches!(self.phase, Phase::Est | Phase::Fin) && !self.lost
    }
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// No packet: the place is free.
    #[default]
    None,
    /// A client's SYN.
    Syn,
    /// A client's ACK, with or without data.
    Ack,
    /// A client's FIN.
    Fin,
    /// A client's RST.
    Rst,
    /// A backend's SYN and ACK.
    SynAck,
    /// A backend's data.
    Data,
    /// A backend's FIN.
    BackFin,
    /// A backend's RST.
    BackRst,
}

impl Kind {
    /// Whether a backend sends it.
    pub fn is_reply(self) -> bool {
        self >= Self::SynAck
    }
}

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Packet {
    /// What it is.
    pub kind: Kind,
    /// Its connection; [`NEVER`] if it is forged, in the first client's name.
    pub conn: u8,
    /// Of a backend's: the port of ours that it is for. Of a client's: the node that it comes to.
    pub port: u8,
    /// Its sequence number.
    pub seq: u32,
    /// Of a backend's: the port was its connection's when it was sent.
    pub owned: bool,
    /// Steps on the wire, or inside the program.
    pub age: u8,
}

/// A packet inside the program: what its operations on mappings have told it so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mid {
    /// The packet; none: the place is free.
    pub packet: Packet,
    /// How many operations.
    pub len: u8,
    /// Which of them read a word with a time, one bit each.
    pub words: u64,
    /// What they told.
    pub log: [u64; OPERATIONS],
}

impl Default for Mid {
    fn default() -> Self {
        Self { packet: Packet::default(), len: 0, words: 0, log: [0; OPERATIONS] }
    }
}

/// A sweep that has read a word and will act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Pending {
    /// There is one.
    pub some: bool,
    /// The port.
    pub port: u8,
    /// The word that was read.
    pub old: u64,
    /// The word to be written.
    pub new: u64,
}

/// The whole state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Mappings.
    pub ways: [Way; PORTS],
    /// Backends' sockets by backend and port.
    pub socks: [[Sock; PORTS]; BACKENDS],
    /// Connections.
    pub flows: [Flow; CONNS],
    /// Wire.
    pub flight: [Packet; FLIGHT],
    /// Inside the program.
    pub mids: [Mid; MIDS],
    /// The sweep.
    pub sweep: Pending,
    /// What may still happen.
    pub left: Budget,
    /// Backend 1 is removed.
    pub removed: bool,
}

impl State {
    /// Nothing has happened yet.
    pub fn first(config: &Config) -> Self {
        Self {
            ways: [[0; 7]; PORTS],
            socks: [[Sock::default(); PORTS]; BACKENDS],
            flows: [Flow { age: NEVER, ..Flow::default() }; CONNS],
            flight: [Packet::default(); FLIGHT],
            mids: [Mid::default(); MIDS],
            sweep: Pending::default(),
            left: config.budget,
            removed: false,
        }
    }

    /// Whether no packet is inside the program.
    pub fn quiet(&self) -> bool {
        self.mids.iter().all(|mid| mid.packet.kind == Kind::None)
    }

    /// One step of time. `None`: packets inside the program cannot wait. Else how many connections fell silent.
    pub fn tick(&mut self, config: &Config) -> Option<u32> {
        let clock = &config.clock;
        let waits = |mid: &Mid| mid.packet.kind == Kind::None || mid.packet.age < clock.inside;
        if self.sweep.some || !self.mids.iter().all(waits) {
            return None;
        }
        let forever = clock.forever();
        for way in &mut self.ways {
            way[0] = older(way[0], forever);
        }
        for mid in self.mids.iter_mut().filter(|mid| mid.packet.kind != Kind::None) {
            mid.packet.age += 1;
            for at in (0..usize::from(mid.len)).filter(|at| mid.words >> at & 1 == 1) {
                mid.log[at] = older(mid.log[at], forever);
            }
        }
        for sock in self.socks.iter_mut().flatten().filter(|sock| sock.stage != Stage::None) {
            sock.age = (sock.age + 1).min(forever);
            let bound = match sock.stage {
                Stage::Received => clock.handshake,
                Stage::TimeWait | Stage::LastAck => clock.wait,
                _ => NEVER,
            };
            if sock.age > bound {
                *sock = Sock::default();
            }
        }
        let mut silent = 0;
        for flow in &mut self.flows {
            if flow.phase == Phase::Unborn || flow.released || flow.age == NEVER {
                continue;
            }
            flow.age += 1;
            // Of one that is over, packets may still come; not after as long a silence, which ends its mapping as well.
            if flow.age > if flow.confirmed { clock.idle } else { clock.handshake } {
                silent += u32::from(flow.phase != Phase::Gone);
                flow.phase = Phase::Gone;
                flow.released = true;
            }
        }
        for packet in self.flight.iter_mut().filter(|packet| packet.kind != Kind::None) {
            packet.age += 1;
            if packet.age > clock.flight {
                *packet = Packet::default();
            }
        }
        Some(silent)
    }

    /// Brings states together that nothing can tell apart.
    pub fn canonical(&mut self) {
        if self.quiet() {
            for way in self.ways.iter_mut().filter(|way| way[0] == 0) {
                *way = [0; 7];
            }
        }
        for mid in &mut self.mids {
            if mid.packet.kind == Kind::None {
                *mid = Mid::default();
            }
        }
        if self.mids[0].packet.kind == Kind::None {
            self.mids.swap(0, 1);
        }
        for flow in self.flows.iter_mut().filter(|flow| flow.phase == Phase::Gone) {
            let Flow { released, confirmed, age, .. } = *flow;
            *flow = Flow { phase: Phase::Gone, released, ..Flow::default() };
            if !released {
                (flow.confirmed, flow.age) = (confirmed, age);
            }
        }
        for packet in self.flight.iter_mut().filter(|packet| packet.kind == Kind::None) {
            *packet = Packet::default();
        }
    }

    /// See [`crate::checker::search::World::fingerprint`].
    pub fn fingerprint(&self) -> u64 {
        let mut hash = 0;
        let mut add = |word: u64| hash = fold(hash, word);
        self.ways.iter().flatten().for_each(|word| add(*word));
        for sock in self.socks.iter().flatten() {
            add(u64::from_le_bytes([sock.stage as u8, sock.conn, sock.age, 1, 0, 0, 0, 0]));
        }
        for flow in &self.flows {
            let flags = u8::from(flow.got_fin)
                | u8::from(flow.confirmed) << 1
                | u8::from(flow.released) << 2
                | u8::from(flow.lost) << 3
                | flow.node << 4;
            add(u64::from_le_bytes([flow.phase as u8, flags, flow.port, flow.age, 2, 0, 0, 0]));
        }
        let mut packet = |p: &Packet| {
            let [a, b, c, d] = p.seq.to_le_bytes();
            add(u64::from_le_bytes([
                p.kind as u8,
                p.conn,
                p.port | u8::from(p.owned) << 4,
                p.age,
                a,
                b,
                c,
                d,
            ]));
        };
        self.flight.iter().for_each(&mut packet);
        self.mids.iter().for_each(|mid| packet(&mid.packet));
        for mid in &self.mids {
            add(u64::from(mid.len) << 8 | 3);
            mid.log[..usize::from(mid.len)].iter().for_each(|told| add(*told));
        }
        add(u64::from(self.sweep.some) | u64::from(self.sweep.port) << 8);
        add(self.sweep.old);
        add(self.sweep.new);
        let left = &self.left;
        let (removed, reroutes) = (self.removed.into(), left.reroutes);
        add(u64::from_le_bytes([left.forged, left.wipes, left.removals, removed, 4, reroutes, 0, 0]));
        hash
    }
}
