//! What a small world consists of: its bounds, its clock and which rule is taken out of it.

use zdd_common::rules::Timeouts;
use zdd_common::steer::Segment;
use zdd_common::tables::Rule;
use zdd_common::time::TICK_SHIFT;

/// Most cells of a world.
pub const CELLS: usize = 2;
/// Most ways of its flow table.
pub const SLOTS: usize = 2;
/// Most connections.
pub const FLOWS: usize = 3;
/// Most packets on the wire at once.
pub const FLIGHT: usize = 2;
/// Most packets within the program at once.
pub const MIDS: usize = 2;
/// Most balancer nodes.
pub const NODES: usize = 2;
/// Most services.
pub const SERVICES: usize = 2;
/// Most different SYNs, forged ones included.
pub const MARKS: usize = 5;

/// One connection that a client may open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSpec {
    /// Its tuple (0 or 1). A later flow of the same tuple begins only after the earlier one is gone.
    pub tuple: u8,
    /// Its initial sequence number.
    pub isn: u32,
}

/// A packet that an attacker may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgery {
    /// The victim's tuple.
    pub tuple: u8,
    /// What it says.
    pub segment: Segment,
}

/// Durations in steps of the abstract clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// A SYN is surely remembered for this long.
    pub filter_min: u8,
    /// A SYN is surely forgotten after this long; between the two, either happens.
    pub filter_max: u8,
    /// The client gives up a handshake of which nothing is heard for longer.
    pub handshake: u8,
    /// [`Timeouts::half_life`].
    pub half_life: u8,
    /// [`Timeouts::idle`].
    pub idle: u8,
    /// [`Timeouts::udp_idle`].
    pub udp_idle: u8,
    /// [`Timeouts::grace`], and for how long the agent waits before it relies on a commit.
    pub grace: u8,
    /// [`Timeouts::fin_linger`].
    pub fin_linger: u8,
    /// Life of a packet on the wire.
    pub flight: u8,
    /// For how long a packet may be within the program.
    pub inside: u8,
}

impl Clock {
    /// The shortest that keeps the order of the real timeouts.
    pub const SHORT: Self = Self {
        filter_min: 1,
        filter_max: 1,
        handshake: 1,
        half_life: 1,
        idle: 2,
        udp_idle: 1,
        grace: 1,
        fin_linger: 1,
        flight: 1,
        inside: 1,
    };

    /// With a filter that forgets at its own time, and retransmissions across a step.
    pub const LONG: Self = Self {
        filter_min: 2,
        filter_max: 3,
        handshake: 3,
        half_life: 3,
        idle: 4,
        udp_idle: 2,
        ..Self::SHORT
    };

    /// As the agent's rules want them.
    pub fn timeouts(&self) -> Timeouts {
        let ns = |steps: u8| u64::from(steps) << TICK_SHIFT;
        Timeouts {
            idle: ns(self.idle),
            udp_idle: ns(self.udp_idle),
            half_life: ns(self.half_life),
            grace: ns(self.grace),
            fin_linger: ns(self.fin_linger),
        }
    }

    /// An age beyond which nothing distinguishes ages.
    pub fn forever(&self) -> u8 {
        self.idle.max(self.udp_idle) + self.grace.max(self.inside) + 1
    }
}

/// How often the rarer events may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Budget {
    /// Changes of a cell's current.
    pub changes: u8,
    /// Forged packets.
    pub forged: u8,
    /// Agent restarts.
    pub restarts: u8,
    /// Losses of the whole flow table.
    pub wipes: u8,
    /// Backends removed at their deadline.
    pub removals: u8,
    /// SYNs that the filter wrongly knows.
    pub lies: u8,
    /// Packets on the wire that arrive and stay there as a copy.
    pub copies: u8,
    /// UDP flows that begin again after their idle timeout.
    pub again: u8,
    /// Times that a client comes to be steered by the other row. With any, the two cells are one cell of two rows: of a VIP and of a
    /// cohort; every tuple begins in the first.
    pub joins: u8,
    /// Times that routers send a connection's next packets to the other node.
    pub reroutes: u8,
}

/// A rule taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// One inside `steer`.
    Steer(Rule),
    /// The SYN filter knows nothing.
    Filter,
    /// An expired entry with alt_seen is deleted, not restored.
    AltRestore,
    /// A failed insert does not restart the settle clock.
    FailClock,
    /// A rollback publishes the row from before the change.
    StickyDirty,
    /// The sweep deletes what it saw, whatever it has become.
    ConditionalDelete,
    /// Half-open entries live shorter than a handshake may take.
    HalfLife,
    /// A wipe does not restart the settle clock.
    WipeClock,
    /// A wipe does not arm UDP again.
    WipeArm,
    /// A failed insert does not arm UDP again.
    UdpRearm,
    /// UDP is not armed by a change.
    UdpArm,
    /// Redundant entries go on dirty cells too.
    KeepRedundant,
    /// A restarted agent takes unknown clocks for old.
    SinceRestart,
    /// The agent does not wait for packets inside the program.
    Grace,
    /// LOOKUP goes without a scan.
    ForgetScan,
    /// Clients change rows while their cells are changing or differ.
    JoinClean,
    /// Clients change rows though only one of them looks entries up.
    JoinLookup,
    /// A failed insert restarts the settle clock of another service.
    OwnFacts,
    /// A SYN is remembered before it is known whether its source may open a connection.
    AskFirst,
}

/// Every rule that can be taken out, with its name on the command line.
pub const RULES: &[(&str, Without)] = &[
    ("filter", Without::Filter),
    ("positions", Without::Steer(Rule::Positions)),
    ("nearest-wins", Without::Steer(Rule::NearestWins)),
    ("alt-restore", Without::AltRestore),
    ("fin-learned", Without::Steer(Rule::FinLearned)),
    ("fin-after-syn", Without::Steer(Rule::FinAfterSyn)),
    ("fail-clock", Without::FailClock),
    ("insert-at-base", Without::Steer(Rule::InsertAtBase)),
    ("sticky-dirty", Without::StickyDirty),
    ("conditional-delete", Without::ConditionalDelete),
    ("half-life", Without::HalfLife),
    ("wipe-clock", Without::WipeClock),
    ("wipe-arm", Without::WipeArm),
    ("udp-arm", Without::UdpArm),
    ("udp-rearm", Without::UdpRearm),
    ("keep-redundant", Without::KeepRedundant),
    ("since-restart", Without::SinceRestart),
    ("grace", Without::Grace),
    ("forget-scan", Without::ForgetScan),
    ("join-clean", Without::JoinClean),
    ("join-lookup", Without::JoinLookup),
    ("fallback", Without::Steer(Rule::Fallback)),
    ("ask-first", Without::AskFirst),
    ("own-facts", Without::OwnFacts),
    ("same-row", Without::Steer(Rule::SameRow)),
];

/// One world.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name on the command line.
    pub name: &'static str,
    /// What it is for, one line.
    pub about: &'static str,
    /// UDP instead of TCP.
    pub udp: bool,
    /// Balancer nodes, 1 or 2, each with tables, clocks and an agent of its own. With two, no packet is late or stays inside,
    /// nothing is wiped and no backend is removed.
    pub nodes: u8,
    /// Whether routers move a connection only where it is at base or has an entry; otherwise anywhere: exception (d).
    pub moves_safely: bool,
    /// Cells, 1 or 2; tuple n lies in cell n % cells.
    pub cells: u8,
    /// Whether each cell is of a service of its own (or of its preview VIP, which is one to the program): they share flow table and quotas,
    /// and nothing else.
    pub services: bool,
    /// Whether the second service is the preview VIP of backend 2: it begins settled there.
    pub preview: bool,
    /// Backends, ids 1 to this; cells begin settled on 1.
    pub backends: u8,
    /// Connections.
    pub flows: Vec<FlowSpec>,
    /// Ways of the flow table.
    pub capacity: u8,
    /// Quota per class.
    pub quota: [u8; 3],
    /// Packets on the wire at once. Without any, packets arrive as they are sent.
    pub flight: u8,
    /// Whether other packets than SYNs may be late.
    pub late: bool,
    /// How often a connection's sequence number moves, and by how much.
    pub moves: (u8, u32),
    /// Whether clients half-close (FIN).
    pub fin: bool,
    /// Whether clients reset.
    pub rst: bool,
    /// Packets that an attacker may choose from.
    pub forgeries: Vec<Forgery>,
    /// Whether the attacker waits until the victim has an entry.
    pub forges_on_entry: bool,
    /// Bounds.
    pub budget: Budget,
    /// Packets within the program at once: they have read their cell, or their entry, and finish later. With any, the
    /// sweep too reads first and acts later.
    pub mids: u8,
    /// Whether a SYN may also stop within its first reads: remembered, but with the row that counts still to be read.
    pub early: bool,
    /// Whether receive-side scaling keeps copies of one SYN on one CPU: then they are not inside at the same time.
    pub rss: bool,
    /// Whether closed flows may be reclaimed when the table is more than half full.
    pub pressure: bool,
    /// Whether new connections of a source are limited: any of them may be refused.
    pub limited: bool,
    /// Clock.
    pub clock: Clock,
    /// A documented exception that this world exists to show: it is expected to break.
    pub exception: Option<&'static str>,
    /// The rule taken out, if any.
    pub without: Option<Without>,
}

impl Config {
    /// A world of one TCP connection, one cell, two backends, room for everything, one change.
    pub fn base(name: &'static str, about: &'static str) -> Self {
        Self {
            name,
            about,
            udp: false,
            nodes: 1,
            moves_safely: true,
            cells: 1,
            services: false,
            preview: false,
            backends: 2,
            flows: vec![FlowSpec { tuple: 0, isn: ISN }],
            capacity: 2,
            quota: [2; 3],
            flight: 1,
            late: false,
            moves: (0, 1460),
            fin: false,
            rst: false,
            forgeries: Vec::new(),
            forges_on_entry: false,
            budget: Budget { changes: 1, ..Budget::default() },
            mids: 0,
            early: false,
            rss: true,
            pressure: false,
            limited: false,
            clock: Clock::SHORT,
            exception: None,
            without: None,
        }
    }

    /// With a rule taken out. Half-life and grace are durations: they become 0.
    pub fn ablated(mut self, without: Without) -> Self {
        match without {
            Without::HalfLife => self.clock.half_life = 0,
            Without::Grace => self.clock.grace = 0,
            _ => {}
        }
        self.without = Some(without);
        self
    }

    /// Whether a rule is taken out.
    pub fn is_without(&self, without: Without) -> bool {
        self.without == Some(without)
    }

    /// Index of a SYN among those that the filter may know.
    pub fn mark(&self, tuple: u8, seq: u32) -> Option<usize> {
        let flows = self.flows.iter().map(|flow| (flow.tuple, flow.isn));
        let forged = self.forgeries.iter().filter(|f| f.segment.syn).map(|f| (f.tuple, f.segment.seq));
        flows.chain(forged).position(|syn| syn == (tuple, seq))
    }
}

/// Initial sequence number of a world's first connection.
pub const ISN: u32 = 1_000_000;
/// Far from it: more than 64 MiB away.
pub const FAR: u32 = 2_000_000_000;
/// Farther.
pub const FARTHER: u32 = 3_500_000_000;
/// Within reach of the first connection, but not within the half-open window.
pub const NEAR: u32 = ISN + (1 << 20);
