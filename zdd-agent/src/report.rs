//! What the agent tells: the serde types behind `--json`, and what the API carries. Plain data; no map, no socket.
//!
//! The names of fields and values are a promise to scripts: add, never rename.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::desired::{Affinity, AttachMode, Forward};

/// What every view shows: `zdd status`, the API, metrics and the page, all from the same moment of the loop.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When it was taken, in milliseconds since 1970 by the clock of this machine.
    pub unix_ms: u64,
    /// What `zdd status` shows.
    pub status: Status,
    /// The rollout under way, or the last one, of each service that has had any.
    pub rollouts: Vec<crate::rollout::report::RolloutReport>,
}

/// Of a [`Snapshot`] what the page's chart keeps: cheap to take, also when nobody looks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Splits {
    /// When they were taken, as in the snapshot.
    pub unix_ms: u64,
    /// By service and version, in the order of the configuration.
    pub services: Vec<(String, Vec<VersionSplit>)>,
}

/// Name of a version, share asked for, share in the table, flows begun since the maps were made.
pub type VersionSplit = (String, f64, f64, u64);

/// `zdd status`: everything at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version and build of the running agent.
    pub build: String,
    /// Process id of the agent.
    pub pid: u32,
    /// Services in the order of the configuration.
    pub services: Vec<ServiceStatus>,
    /// The table of remembered flows.
    pub flow_table: FlowTableStatus,
    /// The SYN filter.
    pub syn_filter: SynFilterStatus,
    /// What `snat` gives out: one for each address family that it has a source of.
    #[serde(default)]
    pub snat: Vec<SnatStatus>,
    /// Packets by the reason of their verdict; every packet is in exactly one.
    pub reasons: BTreeMap<String, u64>,
    /// Interfaces that the program is, or should be, attached to.
    pub interfaces: Vec<InterfaceStatus>,
    /// Health checks that were made since the agent began.
    pub probes: u64,
    /// Those among them that had to wait for `agent.probe_budget`.
    pub probes_late: u64,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Name.
    pub name: String,
    /// What clients dial, as `10.0.0.10:80/tcp`; the first of `vips`.
    pub vip: String,
    /// Every VIP: one, or one of each address family.
    pub vips: Vec<String>,
    /// Which hash chooses.
    pub affinity: Affinity,
    /// Forwarding mode of versions without one of their own.
    pub forward: Forward,
    /// Number of the committed state; grows by one with each commit.
    pub generation: u64,
    /// Cells, of all VIPs, their cohorts and preview VIPs.
    pub cells: u32,
    /// Groups: the unit in which shares are given.
    pub groups: u32,
    /// Cells that have not settled since their last change.
    pub dirty_cells: u32,
    /// What needs somebody's attention now, or nothing.
    pub alarm: Option<String>,
    /// What is worth knowing: a share that went elsewhere, a change that waits.
    pub notes: Vec<String>,
    /// Sums over all its packets.
    pub counters: ServiceCounters,
    /// Its cohorts, in the order in which they lead.
    #[serde(default)]
    pub cohorts: Vec<CohortStatus>,
    /// What testers and probes dial; `None`: nothing.
    #[serde(default)]
    pub preview: Option<PreviewStatus>,
    /// Prefixes of sources that may dial, and that may not; `None`: everybody may.
    #[serde(default)]
    pub access: Option<AccessStatus>,
    /// How many new connections one source may open; `None`: any number.
    #[serde(default)]
    pub new_per_source: Option<NewPerSourceStatus>,
    /// Versions in the order of the configuration.
    pub versions: Vec<VersionStatus>,
}

/// The preview VIPs of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviewStatus {
    /// One, or one of each address family, as `10.0.0.11:80/tcp`.
    pub vips: Vec<String>,
    /// The version that all new flows go to; nothing: none has a backend that takes any.
    pub version: Option<String>,
    /// What new flows suffer from there, or nothing.
    pub alarm: Option<String>,
}

/// One cohort of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CohortStatus {
    /// Name.
    pub name: String,
    /// Prefixes that are in force, of all VIPs; those that lie in an earlier cohort count there.
    pub prefixes: u32,
    /// The version that its new flows go to, whatever the weights; nothing: they go by the weights.
    pub version: Option<String>,
    /// Why its members are not yet those of the configuration.
    pub waits: Option<String>,
    /// Flows that its clients began, whoever leads.
    #[serde(default)]
    pub new_flows: u64,
}

/// Counters of one service since its maps were made; they outlive the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCounters {
    /// Packets steered.
    pub packets: u64,
    /// Bytes steered, with Ethernet headers.
    pub bytes: u64,
    /// Packets that began a flow.
    pub new_flows: u64,
    /// Flows learned from a packet in their middle.
    pub learned: u64,
    /// Flows that could not be remembered: table or quota full.
    pub insert_failed: u64,
    /// Packets of such flows that went where their cell's flows went before its change.
    #[serde(default)]
    pub fallback: u64,
    /// Packets dropped because the access list denies their source.
    #[serde(default)]
    pub denied: u64,
    /// New connections dropped because their source has opened more than `new_per_source` allows.
    #[serde(default)]
    pub limited: u64,
    /// Packets dropped because there was no backend at all.
    #[serde(default)]
    pub no_backend: u64,
}

/// The access list of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessStatus {
    /// Prefixes that may dial.
    pub allow: u64,
    /// Prefixes that may not.
    pub deny: u64,
}

/// A limit of new connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewPerSourceStatus {
    /// A second and source.
    pub rate: u32,
    /// At once.
    pub burst: u32,
}

/// Where a version stands in its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The one that takes what others cannot.
    Stable,
    /// One that is being tried.
    Candidate,
}

/// One version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VersionStatus {
    /// Name.
    pub name: String,
    /// Where it stands.
    pub role: Role,
    /// Share of new flows that was asked for, 0 to 1.
    pub asked: f64,
    /// Share of the cells' current picks that it really has, 0 to 1.
    pub share: f64,
    /// It takes no new flows until `undrain`.
    pub draining: bool,
    /// Entries of the flow table; exact while the version's cells are changing, 0 in steady state.
    pub flows: u64,
    /// Packets that began a flow here.
    pub new_flows: u64,
    /// Packets.
    pub packets: u64,
    /// Bytes, with Ethernet headers.
    pub bytes: u64,
    /// What its sampled flows have told; `None`: none are followed.
    pub signals: Option<SignalsStatus>,
    /// Backends in the order of the configuration; those that drain or were added by command follow.
    pub backends: Vec<BackendStatus>,
}

/// What the sampled flows of a version have told, since the maps were made. What its forwarding mode does not show is not there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SignalsStatus {
    /// One flow in this many is followed.
    pub one_in: u32,
    /// Flows by what happened to them; see the README's table.
    pub counts: BTreeMap<String, u64>,
    /// From the SYN to the SYN-ACK; where replies go around this host, to the client's acknowledgement of it.
    pub handshake: TimesStatus,
    /// From the first byte of a question to the first byte of its reply; where replies go around this host, to the client's
    /// acknowledgement of it.
    pub first_byte: TimesStatus,
}

/// A histogram of times.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TimesStatus {
    /// Times.
    pub count: u64,
    /// Their sum in seconds.
    pub sum_s: f64,
    /// Half of them are below this, seconds, up to a quarter too much; `None` without times.
    pub p50_s: Option<f64>,
    /// 99 % of them are.
    pub p99_s: Option<f64>,
    /// By doubling bounds; those beyond the last bound are counted only in `count`.
    pub buckets: Vec<TimeBucket>,
}

/// One bucket of a histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TimeBucket {
    /// Times below this, seconds, and not below the bound before.
    pub below_s: f64,
    /// How many.
    pub count: u64,
}

/// What the probes say of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// It answers.
    Healthy,
    /// It does not; `reason` says how.
    Unhealthy,
    /// Not probed, or not often enough yet.
    Unknown,
}

/// What the operator wants of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// It takes new flows.
    Active,
    /// It keeps its flows and takes no new ones.
    Draining,
    /// It left the configuration and waits until its last flow has gone.
    Removed,
}

/// One backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Address and port.
    pub address: SocketAddr,
    /// Weight relative to the version's other backends.
    pub weight: u32,
    /// What the probes say.
    pub health: Health,
    /// Why it is unhealthy or unknown.
    pub reason: Option<String>,
    /// What the operator wants.
    pub state: BackendState,
    /// Entries of the flow table.
    pub flows: u64,
    /// Packets.
    pub packets: u64,
    /// Bytes, with Ethernet headers.
    pub bytes: u64,
    /// Packets that began a flow here.
    pub new_flows: u64,
    /// `02:00:00:00:00:01%eth0`, or `unresolved: ` and why.
    pub next_hop: String,
    /// Why the last probe that failed did, whatever came after it. Of this run of the agent.
    pub last_failure: Option<String>,
    /// How long ago that was.
    pub last_failure_ms_ago: Option<u64>,
    /// What its answers say of the things that it needs.
    pub depends: Vec<DependencyStatus>,
}

/// One thing that a backend needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DependencyStatus {
    /// Name, from the health check.
    pub name: String,
    /// It is well; `None`: the last answer did not tell.
    pub well: Option<bool>,
    /// The answer's word for it, or why there is none.
    pub said: String,
    /// Other backends need the same one.
    pub shared: bool,
}

/// The table of remembered flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowTableStatus {
    /// Entries that fit.
    pub capacity: u64,
    /// Entries in use, dead ones included.
    pub entries: u64,
    /// Half-open ones.
    pub half: u64,
    /// Established ones.
    pub established: u64,
    /// Dead ones that wait to be freed.
    pub dead: u64,
    /// What each kind of entry may use.
    pub quotas: Quotas,
}

/// Addresses and ports of one family that `snat` sends from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnatStatus {
    /// The addresses.
    pub sources: Vec<String>,
    /// The range of ports, as `61000-65535`.
    pub ports: String,
    /// Flows that can be mapped at a time.
    pub capacity: u64,
    /// Towards one backend, at the most.
    pub per_backend: u64,
    /// Ports of flows that go on, or have just begun.
    pub live: u64,
    /// Ports of flows that have ended and may still be in TIME_WAIT somewhere.
    pub finished: u64,
}

/// Quotas of the flow table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quotas {
    /// Half-open entries.
    pub half: Quota,
    /// Entries learned from a packet in a flow's middle.
    pub learned: Quota,
    /// Entries promoted from half-open.
    pub promoted: Quota,
}

/// One quota, in entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Entries in use.
    pub used: u64,
    /// Entries allowed.
    pub limit: u64,
}

/// The SYN filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SynFilterStatus {
    /// Size in bytes.
    pub bytes: u64,
    /// Fraction of its bits that are set, 0 to 1.
    pub fill: f64,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Name.
    pub name: String,
    /// Kernel index.
    pub index: u32,
    /// How the program is, or would be, attached.
    pub mode: AttachMode,
    /// It is attached.
    pub attached: bool,
    /// Why not, or what to know about it.
    pub note: Option<String>,
}

/// `zdd explain`: what a packet of this flow would meet now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explain {
    /// Service.
    pub service: String,
    /// The client's address and port.
    pub from: SocketAddr,
    /// Version; `None` when the service has no backend at all.
    pub version: Option<String>,
    /// Backend that gets the packet.
    pub backend: Option<SocketAddr>,
    /// Cell.
    pub cell: u32,
    /// Group of the cell.
    pub group: u32,
    /// Where a flow without an entry belongs.
    pub base: Option<SocketAddr>,
    /// Where a new flow goes.
    pub current: Option<SocketAddr>,
    /// The cell has not settled since its last change.
    pub dirty: bool,
    /// The flow's entry, if there is one.
    pub entry: Option<FlowEntry>,
    /// The reason in a sentence.
    pub why: String,
    /// The cohort that the client belongs to.
    #[serde(default)]
    pub cohort: Option<String>,
    /// The port of the VIP that is dialled, host byte order, if the VIP has many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The preview VIP that is dialled, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<String>,
}

/// One entry of the flow table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowEntry {
    /// `busy`, `half`, `est` or `dead`.
    pub state: String,
    /// The flow's backend.
    pub backend: Option<SocketAddr>,
    /// Where packets go that do not belong to the flow; the same as `backend` if there is no other.
    pub alt: Option<SocketAddr>,
    /// Milliseconds since its last packet.
    pub last_seen_ms: u64,
}

/// What `shift` and `rollback` did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShiftReport {
    /// Service.
    pub service: String,
    /// Generation that was committed.
    pub generation: u64,
    /// Every version of the service.
    pub versions: Vec<VersionShare>,
    /// Groups whose new flows now go to another version.
    pub moved_groups: u32,
    /// What is worth knowing: a version without healthy backends, a shift that waits.
    pub notes: Vec<String>,
}

/// What one version was asked to take, and what it takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VersionShare {
    /// Name.
    pub name: String,
    /// Asked for, 0 to 1.
    pub asked: f64,
    /// Share of the cells' current picks, 0 to 1.
    pub share: f64,
}

/// What `backend add`, `backend remove` and `undrain` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeReport {
    /// Service.
    pub service: String,
    /// Generation that was committed.
    pub generation: u64,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

/// Where the drain of a node stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Node.
    pub node: String,
    /// All of its backends are drained.
    pub drained: bool,
    /// Flows left on all of them.
    pub left: u64,
    /// Its backends, in all services.
    pub backends: Vec<NodeBackend>,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

/// One backend of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeBackend {
    /// Service.
    pub service: String,
    /// Version.
    pub version: String,
    /// Address and port.
    pub address: SocketAddr,
    /// Where its drain stands.
    pub drain: DrainReport,
}

/// Where a drain stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainReport {
    /// No live flow is left.
    pub drained: bool,
    /// Flows left (entries of the flow table).
    pub left: u64,
    /// Milliseconds since the drain began.
    pub waited_ms: u64,
    /// The deadline has passed: what was left has been given up.
    pub deadline_passed: bool,
}

/// `zdd apply`: what was, or with a dry run would be, changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyReport {
    /// Changes in the order in which they happen; empty: nothing differs.
    pub changes: Vec<Change>,
    /// False after a dry run.
    pub applied: bool,
    /// Warnings about the file, each as `file:line:column: text`.
    pub warnings: Vec<String>,
}

/// One line of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What happens to it.
    pub op: Op,
    /// What it is about: `web/v2 weight`, `web/v2 backend 10.1.0.1:8080`.
    pub what: String,
    /// The old value.
    pub from: Option<String>,
    /// The new value.
    pub to: Option<String>,
}

/// What happens to a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// It comes.
    #[serde(rename = "+")]
    Add,
    /// It goes.
    #[serde(rename = "-")]
    Remove,
    /// It changes.
    #[serde(rename = "~")]
    Change,
}

impl Op {
    /// The sign of the change in a diff.
    pub fn sign(self) -> char {
        match self {
            Op::Add => '+',
            Op::Remove => '-',
            Op::Change => '~',
        }
    }
}

/// `zdd detach`: what was taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetachReport {
    /// One line for each thing: a link with its interface, a pinned map.
    pub removed: Vec<String>,
}

/// `zdd who-moves`: what a shift would move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WhoMoves {
    /// Service.
    pub service: String,
    /// The generation that this was worked out on.
    pub generation: u64,
    /// Cells of the service.
    pub cells: u32,
    /// Cells whose new flows would go to another version.
    pub moved_cells: u32,
    /// Groups that would belong to another version, as [`ShiftReport::moved_groups`].
    pub moved_groups: u32,
    /// Fraction of new clients (of new flows, under `flow` affinity) that would get another version, 0 to 1.
    pub moved_share: f64,
    /// Cells whose new flows would stay with their version and go to another of its backends.
    pub other_backend_cells: u32,
    /// Every version of the service.
    pub versions: Vec<VersionMove>,
    /// How many cells would go from which version to which.
    pub moves: Vec<CellMove>,
    /// Entries of live flows that the service has.
    pub live_flows: u64,
    /// Those among them that are in moved cells: they stay on their backends.
    pub kept_flows: u64,
    /// One for each client that was asked about.
    pub clients: Vec<ClientMove>,
    /// What is worth knowing: why the shift would be refused, who would stand in for whom.
    pub notes: Vec<String>,
}

/// A version's shares before and after a shift, 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VersionMove {
    /// Name.
    pub name: String,
    /// Asked for now.
    pub asked_before: f64,
    /// Asked for then.
    pub asked_after: f64,
    /// Share of the cells' current picks now.
    pub share_before: f64,
    /// The same then.
    pub share_after: f64,
}

/// Cells that go from one version to another; `None`: no backend at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellMove {
    /// Version now.
    pub from: Option<String>,
    /// Version then.
    pub to: Option<String>,
    /// How many.
    pub cells: u32,
}

/// Which version a new flow of one client gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientMove {
    /// The client's address and port.
    pub from: SocketAddr,
    /// Version now.
    pub before: Option<String>,
    /// Version then.
    pub after: Option<String>,
}
