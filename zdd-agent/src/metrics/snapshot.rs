//! The values of one scrape, as plain data.

/// Everything that one scrape shows. Counters are totals since the maps were made; they never fall while those live.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricsSnapshot {
    /// Which build runs, for `zdd_build_info{build}`.
    pub build: String,
    /// Services.
    pub services: Vec<ServiceMetrics>,
    /// The flow table.
    pub flows: FlowMetrics,
    /// What `snat` gives out, by address family.
    pub snat: Vec<SnatMetrics>,
    /// Fill of the SYN filter, 0 to 1.
    pub syn_filter_fill: f64,
    /// One row for every reason a packet can end with.
    pub packets: Vec<ReasonMetrics>,
    /// Interfaces that the configuration names or matches.
    pub interfaces: Vec<InterfaceMetrics>,
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceMetrics {
    /// Name, unique.
    pub service: String,
    /// Packets steered.
    pub packets: u64,
    /// Their bytes, from the Ethernet header on.
    pub bytes: u64,
    /// Flows that began.
    pub new_flows: u64,
    /// Flows that were remembered in the middle of their life.
    pub learned_flows: u64,
    /// Flows that could not be remembered.
    pub insert_failures: u64,
    /// Cells that are not settled.
    pub dirty_cells: u64,
    /// Versions.
    pub versions: Vec<VersionMetrics>,
}

/// One version of a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VersionMetrics {
    /// Name, unique within the service.
    pub version: String,
    /// Share of new flows that was asked for, 0 to 1.
    pub asked: f64,
    /// Share that the table really gives, 0 to 1.
    pub share: f64,
    /// Backends.
    pub backends: Vec<BackendMetrics>,
}

/// One backend of a version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackendMetrics {
    /// Address and port, unique within the version.
    pub backend: String,
    /// Whether it takes new flows as far as its health goes.
    pub healthy: bool,
    /// Packets sent to it.
    pub packets: u64,
    /// Their bytes, from the Ethernet header on.
    pub bytes: u64,
    /// Flows that began on it.
    pub new_flows: u64,
}

/// The flow table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlowMetrics {
    /// Entries that fit.
    pub capacity: u64,
    /// Entries by state, such as `half` or `established`.
    pub entries: Vec<(String, u64)>,
}

/// Ports of one address family that `snat` sends from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SnatMetrics {
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// Flows that can be mapped at a time.
    pub capacity: u64,
    /// Ports of flows that go on.
    pub live: u64,
    /// Ports of flows that have ended, not free yet.
    pub finished: u64,
}

/// Packets that ended with one reason.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReasonMetrics {
    /// The reason's name.
    pub reason: String,
    /// Packets.
    pub packets: u64,
}

/// One interface.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InterfaceMetrics {
    /// Name.
    pub interface: String,
    /// `native` or `generic`.
    pub mode: String,
    /// Whether the program is attached.
    pub attached: bool,
}
