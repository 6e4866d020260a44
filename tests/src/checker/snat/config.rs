//! What a world consists of.

use zdd_common::snat::mapping::Timeouts;
use zdd_common::steer::Segment;
use zdd_common::time::TICK_SHIFT;

/// Ports that may be given out at the most.
pub const PORTS: usize = 2;
/// Most connections.
pub const CONNS: usize = 3;
/// Most packets on the wire.
pub const FLIGHT: usize = 1;
/// Most packets inside the program.
pub const MIDS: usize = 2;
/// Backends; they share the ports.
pub const BACKENDS: usize = 2;

/// A connection that a client may open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conn {
    /// Its client's end. A later connection of the same one begins only after the earlier one is gone.
    pub tuple: u8,
    /// Its initial sequence number.
    pub isn: u32,
    /// Its backend, 1 or 2.
    pub backend: u8,
}

/// Durations in steps of the abstract clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Client and backend give up a handshake of which nothing is heard for longer.
    pub handshake: u8,
    /// [`Timeouts::half_life`] and, under pressure, [`Timeouts::scarce`].
    pub half_life: u8,
    /// [`Timeouts::idle`].
    pub idle: u8,
    /// How long the backend is in TIME_WAIT.
    pub wait: u8,
    /// [`Timeouts::time_wait`].
    pub time_wait: u8,
    /// [`Timeouts::grace`].
    pub grace: u8,
    /// Life of a packet on the wire.
    pub flight: u8,
    /// For how long a packet may be inside the program.
    pub inside: u8,
}

impl Clock {
    /// The shortest that keeps the order of the real ones.
    pub const SHORT: Self =
        Self { handshake: 1, half_life: 1, idle: 2, wait: 1, time_wait: 1, grace: 1, flight: 1, inside: 1 };
    /// TIME_WAIT is longer than a grace period and a step of the sweep.
    pub const WAITS: Self = Self { wait: 3, time_wait: 3, idle: 4, ..Self::SHORT };

    /// As the sweep wants them.
    pub fn timeouts(&self) -> Timeouts {
        let ns = |steps: u8| u64::from(steps) << TICK_SHIFT;
        Timeouts {
            idle: ns(self.idle),
            udp_idle: ns(self.idle),
            half_life: ns(self.half_life),
            scarce: ns(self.half_life),
            time_wait: ns(self.time_wait),
            grace: ns(self.grace),
        }
    }

    /// An age beyond which nothing distinguishes ages.
    pub fn forever(&self) -> u8 {
        self.idle.max(self.time_wait).max(self.wait).max(self.half_life) + self.grace + 1
    }
}

/// How often the rarer events may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Budget {
    /// Forged packets.
    pub forged: u8,
    /// Losses of the whole table.
    pub wipes: u8,
    /// Removals of backend 1.
    pub removals: u8,
    /// Times that routers bring a connection's next packets to the other node.
    pub reroutes: u8,
}

/// A rule taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// A mapping goes as soon as its connection has ended.
    TimeWait,
    /// A port is free as soon as its mapping is over.
    Grace,
    /// The sweep writes whatever a packet did meanwhile.
    ConditionalSweep,
    /// Who gives out a port does not look for another CPU that does the same.
    Rival,
    /// A FIN or RST is believed whatever its sequence number.
    Near,
    /// Half-open mappings live shorter than a handshake.
    HalfLife,
    /// Mappings of UDP end sooner than the flow that was answered.
    UdpIdle,
}

/// Every rule that can be taken out, with its name on the command line and the world that shows it.
pub const RULES: &[(&str, Without, &str)] = &[
    ("snat-time-wait", Without::TimeWait, "snat-closed"),
    ("snat-grace", Without::Grace, "snat-inside"),
    ("snat-conditional-sweep", Without::ConditionalSweep, "snat-reuse"),
    ("snat-rival", Without::Rival, "snat-race"),
    ("snat-near", Without::Near, "snat-forged"),
    ("snat-half-life", Without::HalfLife, "snat-one"),
    ("snat-udp-idle", Without::UdpIdle, "snat-udp"),
];

/// A rule by its name on the command line.
pub fn rule(name: &str) -> Option<Without> {
    RULES.iter().find(|(known, ..)| *known == name).map(|(_, rule, _)| *rule)
}

/// One world.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name on the command line.
    pub name: &'static str,
    /// What it is for, one line.
    pub about: &'static str,
    /// UDP instead of TCP: a flow is promised something once it was answered, and ends by silence.
    pub udp: bool,
    /// Balancer nodes, 1 or 2. Each of two gives out one of two ports.
    pub nodes: u8,
    /// Whether nothing is promised to a connection that comes to the other node: exception (d).
    pub moved_is_lost: bool,
    /// Ports that may be given out, 1 or 2, in buckets whose other ports are taken.
    pub ports: u8,
    /// Connections.
    pub conns: Vec<Conn>,
    /// Packets on the wire at once; without any, they arrive as they are sent.
    pub flight: u8,
    /// Packets inside the program at once.
    pub mids: u8,
    /// Whether no time passes.
    pub still: bool,
    /// Whether only SYNs stay inside.
    pub syns_inside: bool,
    /// Whether ends close.
    pub fin: bool,
    /// Whether they reset.
    pub rst: bool,
    /// Whether a FIN or a reset may be late, and come after the whole handshake of the next connection of its client's port: exception (j).
    pub late_ends: bool,
    /// Whether the sweep takes ports for scarce when more than half are used.
    pub pressure: bool,
    /// What an attacker may send in the first client's name.
    pub forgeries: Vec<Segment>,
    /// Bounds.
    pub budget: Budget,
    /// Clock.
    pub clock: Clock,
    /// A documented exception that this world exists to show: it is expected to break.
    pub exception: Option<&'static str>,
    /// The rule taken out, if any.
    pub without: Option<Without>,
}

impl Config {
    /// One connection, one port.
    pub fn base(name: &'static str, about: &'static str) -> Self {
        Self {
            name,
            about,
            udp: false,
            nodes: 1,
            moved_is_lost: true,
            ports: 1,
            conns: vec![Conn { tuple: 0, isn: ISN, backend: 1 }],
            flight: 0,
            mids: 0,
            still: false,
            syns_inside: false,
            fin: false,
            rst: false,
            late_ends: false,
            pressure: false,
            forgeries: Vec::new(),
            budget: Budget::default(),
            clock: Clock::SHORT,
            exception: None,
            without: None,
        }
    }

    /// With a rule taken out; durations become 0.
    pub fn ablated(mut self, without: Without) -> Self {
        match without {
            Without::TimeWait => self.clock.time_wait = 0,
            Without::Grace => self.clock.grace = 0,
            Without::HalfLife => self.clock.half_life = 0,
            _ => {}
        }
        self.without = Some(without);
        self
    }

    /// Whether a rule is taken out.
    pub fn is_without(&self, without: Without) -> bool {
        self.without == Some(without)
    }
}

/// Initial sequence number of a world's first connection.
pub const ISN: u32 = 1_000_000;
/// More than 64 MiB away from it.
pub const FAR: u32 = 2_000_000_000;
