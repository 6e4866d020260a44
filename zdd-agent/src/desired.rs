//! What the operator wants: the validated form of the configuration file, and of every later change by command.
//! No text, no maps, no I/O: `config` makes it from TOML, `plan` compares it with what is there.

mod api;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::admission::{AccessSpec, NewPerSource};
pub use crate::health::spec::{
    Dependency, DnsCheck, GrpcCheck, HealthSpec, HttpCheck, JsonAssertion, Probe, UdpCheck,
};
use crate::prefix::{ENCAP_SOURCES, Prefix};
use crate::text;
pub use api::{Access, ApiSpec, RemoteSpec, RoleRule};

/// A share of new flows in basis points: 10_000 is all of them, 1 is 0.01 %.
pub type BasisPoints = u32;

/// All of it.
pub const FULL: BasisPoints = 10_000;

/// Everything that a configuration file says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Desired {
    /// The agent itself: where it attaches, keeps its things and listens.
    pub agent: AgentSpec,
    /// The services, in the order of the file. Names are unique.
    pub services: Vec<ServiceSpec>,
    /// Machines that backends run on.
    #[serde(default)]
    pub nodes: Vec<NodeSpec>,
}

/// A machine that backends run on, by their addresses: all of them are drained together before it goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Unique name, as a host's.
    pub name: String,
    /// Backends with an address in one of these are on it.
    pub addresses: Vec<Prefix>,
}

impl NodeSpec {
    /// Whether an address is one of its.
    pub fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|prefix| prefix.contains(address))
    }
}

/// How the agent runs. Read at start; changing it needs a restart of the agent, never of the traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentSpec {
    /// Interface names or patterns (`*` and `?`), also of interfaces that appear later.
    pub interfaces: Vec<String>,
    /// Native, or generic only when the configuration says so.
    pub mode: AttachMode,
    /// Directory below a BPF file system for maps and links. Default `/sys/fs/bpf/zdd`.
    pub pin_dir: PathBuf,
    /// Directory for `state.json`. Default `/var/lib/zdd`.
    pub state_dir: PathBuf,
    /// File with the key of all hashes, see [`crate::state::read_key`]: hosts that share it map every client alike. `None`: each
    /// state directory has a key of its own.
    pub key_file: Option<PathBuf>,
    /// The gRPC socket. Default `/run/zdd/zdd.sock`.
    pub socket: PathBuf,
    /// Where Prometheus metrics are served; loopback only. Default `127.0.0.1:9177`; `"off"` turns it off.
    pub metrics: Option<SocketAddr>,
    /// The page in a browser. Default off.
    pub page: Option<PageSpec>,
    /// The OpenTelemetry collector that traces of rollouts go to, as `http://127.0.0.1:4318`. Default none.
    pub otlp: Option<String>,
    /// The log is lines of JSON. Default: text.
    pub log_json: bool,
    /// The agent gives up system calls that it does not need, for itself and for what it starts. Default true.
    #[serde(default = "yes")]
    pub seccomp: bool,
    /// Sizes of the kernel's tables.
    pub limits: Limits,
    /// How long a SYN is remembered at the least. Default 64 s, as long as a handshake lives.
    pub syn_memory: Duration,
    /// Where outer headers of `ipip` come from.
    pub encap: EncapSources,
    /// Where `snat` sends from.
    #[serde(default)]
    pub snat: SnatSpec,
    /// What all health checks may cost together.
    #[serde(default)]
    pub probe_budget: crate::health::ProbeBudget,
    /// Who is told when something is wrong.
    #[serde(default)]
    pub alerts: Vec<crate::alert::AlertSpec>,
    /// Who may talk to the agent.
    #[serde(default)]
    pub api: ApiSpec,
}

fn yes() -> bool {
    true
}

/// What `snat` gives out: addresses of this host, or routed to it, and a range of ports that nobody else uses there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnatSpec {
    /// The addresses; none: no version can use `snat`.
    pub sources: Vec<IpAddr>,
    /// The first port. Default 61000: above what Linux gives out by itself.
    pub first: u16,
    /// The last one. Default 65535.
    pub last: u16,
}

impl Default for SnatSpec {
    fn default() -> Self {
        Self { sources: Vec::new(), first: 61_000, last: u16::MAX }
    }
}

impl SnatSpec {
    /// Ports of each address: what fits whole buckets of the table.
    pub fn ports(&self) -> u16 {
        let ways = zdd_common::limits::SNAT_WAYS as u32;
        let ports = u32::from(self.last).saturating_sub(self.first.into()) + 1;
        u16::try_from(ports / ways * ways).unwrap_or(u16::MAX / 8 * 8)
    }

    /// Whether there is an address of the family.
    pub fn serves(&self, v4: bool) -> bool {
        self.sources.iter().any(|addr| addr.is_ipv4() == v4)
    }
}

/// The page in a browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageSpec {
    /// Where it is served; loopback only.
    pub address: SocketAddr,
    /// Whether it can change something, with the token in the state directory. Default: it only shows.
    pub actions: bool,
}

/// Source prefixes of outer headers, one per family. What is behind the prefix differs from flow to flow.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncapSources {
    /// Towards IPv4 backends. Default `10.255.0.0/16`.
    pub v4: Prefix,
    /// Towards IPv6 backends. Default `fd7a:6464::/64`.
    pub v6: Prefix,
}

impl Default for EncapSources {
    fn default() -> Self {
        let [v4, v6] = ENCAP_SOURCES;
        Self { v4, v6 }
    }
}

/// Sizes of the kernel's tables, fixed while the maps live.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Services. Default 256.
    pub services: u32,
    /// Backends of all services together, those that drain included. Default 4096.
    pub backends: u32,
    /// Cells of all services together: each service's own, and a spare row for each size of service at the least. More spare
    /// rows let more services change at once. Default 2_097_152 (16 MiB).
    pub cells: u32,
    /// Remembered flows, rounded up to a power of two. Default 262_144 (12 MiB).
    pub flows: u32,
    /// Bytes of the SYN filter, rounded up to a power of two. Default 2 MiB.
    pub syn_filter: u32,
    /// Flows that talk to a `nat` backend's own address through this host. Default 65_536.
    pub direct: u32,
    /// Flows that are followed for signals, rounded up to a power of two. Default 32_768 (2 MiB).
    pub signals: u32,
    /// Flows that `snat` can map at a time; what `snat_ports` of the sources hold towards one backend comes first. Default 65_536
    /// (3.5 MiB, taken only with a `snat_source`).
    #[serde(default = "snat_mappings")]
    pub snat: u32,
}

/// Default of [`Limits::snat`].
pub fn snat_mappings() -> u32 {
    65_536
}

/// How the XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// In the driver. The default; an interface that cannot is an error.
    Native,
    /// In the stack, after an skb was made: slower, works on every interface.
    Generic,
}

/// One service: its VIPs and the versions behind them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Unique name, `[a-z0-9-]{1,63}`.
    pub name: String,
    /// What clients dial: one VIP, or one of each address family (IPv4 first), of the same protocol. One rollout for both.
    pub vips: Vec<Vip>,
    /// What testers and probes dial to meet the version that is to be rolled out, whatever its weight: none, or one for each of some of
    /// the VIPs' families. Sorted.
    #[serde(default)]
    pub preview: Vec<Vip>,
    /// The version behind it while no rollout says another; `None`: see [`crate::preview::version`].
    #[serde(default)]
    pub preview_version: Option<String>,
    /// Which hash chooses version and backend.
    pub affinity: Affinity,
    /// Forwarding mode of versions that say none of their own.
    pub forward: Forward,
    /// A flow silent for longer counts as gone. Default 350 s.
    pub idle_timeout: Duration,
    /// The same for UDP. Default 60 s.
    pub udp_idle_timeout: Duration,
    /// What a UDP flow does when its cell changes. Default `stick`.
    #[serde(default)]
    pub udp: UdpPolicy,
    /// A drain without a deadline of its own ends after this; `None` (the default) waits for ever.
    pub drain_timeout: Option<Duration>,
    /// How long a backend that begins to take flows takes fewer than its share, a tenth of it at first. Default none.
    #[serde(default)]
    pub slow_start: Duration,
    /// Which clients may dial it.
    #[serde(default)]
    pub access: AccessSpec,
    /// How many new connections one source may open; `None` (the default): any number.
    #[serde(default)]
    pub new_per_source: Option<NewPerSource>,
    /// What a version's healthy backends must bear before it gets more; `None`: one healthy backend is enough.
    #[serde(default)]
    pub capacity: Option<crate::capacity::Capacity>,
    /// Cells of the service: a power of two from 1_024 to 1_048_576. Default 16_384.
    pub cells: u32,
    /// Health check; `None`: every backend counts as healthy.
    pub health: Option<HealthSpec>,
    /// Which flows are followed for signals; `None`: none are.
    #[serde(default)]
    pub signals: Option<SignalSpec>,
    /// How `zdd rollout start` brings a candidate in; `None`: it cannot.
    #[serde(default)]
    pub rollout: Option<crate::rollout::RolloutSpec>,
    /// The cohorts that its rollout names, in the order in which they lead.
    #[serde(default)]
    pub cohorts: Vec<crate::cohort::CohortSpec>,
    /// Versions in the order of the file. The first is the stable one, where the share of an unhealthy version goes.
    pub versions: Vec<VersionSpec>,
}

/// Which of a service's TCP flows are followed, and when silence means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalSpec {
    /// One flow in 2^shift is. Default: one in 4 for a service with a rollout, else none.
    pub shift: u8,
    /// A handshake that takes longer has failed. Default 3 s: a SYN was repeated once or twice.
    pub handshake_timeout: Duration,
    /// A connection without a byte of a reply after this is unanswered. Default 5 s.
    pub answer_timeout: Duration,
}

impl Default for SignalSpec {
    fn default() -> Self {
        let s = Duration::from_secs;
        SignalSpec { shift: 2, handshake_timeout: s(3), answer_timeout: s(5) }
    }
}

/// Address, port (or ports) and protocol that clients dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Vip {
    /// Address.
    pub addr: IpAddr,
    /// Port, or the first of a range, host order. 0 only if all ports are meant.
    pub port: u16,
    /// How many ports follow it. 0: one port; 65,535: all, see [`Vip::all_ports`].
    #[serde(default)]
    pub more: u16,
    /// Protocol.
    pub protocol: Protocol,
}

impl Vip {
    /// Whether a backend is of its address family, and so can take what comes to it.
    pub fn serves(&self, backend: &SocketAddr) -> bool {
        self.addr.is_ipv4() == backend.is_ipv4()
    }

    /// The ports, first and last, host order.
    pub fn ports(&self) -> (u16, u16) {
        (self.port, self.port.saturating_add(self.more))
    }

    /// Whether it is every port of its address.
    pub fn all_ports(&self) -> bool {
        self.more == u16::MAX
    }

    /// `IPv4` or `IPv6`.
    pub fn family(&self) -> &'static str {
        if self.addr.is_ipv4() { "IPv4" } else { "IPv6" }
    }
}

impl ServiceSpec {
    /// The protocol of all its VIPs.
    pub fn protocol(&self) -> Protocol {
        self.vips.first().map_or(Protocol::Tcp, |vip| vip.protocol)
    }

    /// The VIP that a backend serves: that of its family; the only one there is, which `ipip` can carry over another family.
    pub fn vip_of(&self, backend: &SocketAddr) -> Option<&Vip> {
        self.vips.iter().find(|vip| self.vips.len() == 1 || vip.serves(backend))
    }

    /// Everything that is dialled: its VIPs, then its preview VIPs.
    pub fn all_vips(&self) -> impl Iterator<Item = &Vip> {
        self.vips.iter().chain(&self.preview)
    }

    /// How many ports follow a backend's own: as many as the VIP that it serves has.
    pub fn more_ports(&self, backend: &SocketAddr) -> u16 {
        self.vip_of(backend).map_or(0, |vip| vip.more)
    }

    /// How packets reach the backends of a version; of one that is not there: the service's way.
    pub fn forward_of(&self, version: &str) -> Forward {
        let own = self.versions.iter().find(|v| v.name == version).and_then(|v| v.forward);
        own.unwrap_or(self.forward)
    }

    /// Whether flows stay where they began when cells change.
    pub fn remembers(&self) -> bool {
        self.protocol() == Protocol::Tcp || self.udp == UdpPolicy::Stick
    }

    /// Its VIPs for people: `10.0.0.10:80/tcp, [2001:db8::10]:80/tcp`.
    pub fn dialled(&self) -> String {
        self.vips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// Transport protocol of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Which hash chooses version and backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Affinity {
    /// Both from the flow.
    Flow,
    /// Both from the client's address: a client sticks to a backend.
    Client,
    /// The version from the client's address, the backend from the flow.
    ClientVersion,
}

/// What a UDP flow does when its cell changes, or its backend fails its checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UdpPolicy {
    /// It stays where it is: with a backend that fails its checks for one `udp_idle_timeout`, else until it is silent for that long.
    #[default]
    Stick,
    /// It follows at once, live or not. Nothing is remembered.
    Now,
}

/// How a packet reaches its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Forward {
    /// Rewrites the MAC addresses; backends own the VIP and answer directly.
    L2,
    /// Rewrites the destination; replies pass this host and are rewritten back.
    Nat,
    /// Puts an IP header in front; backends take it off, own the VIP and answer directly.
    Ipip,
    /// Rewrites both ends: backends see an address and port of ours and answer there.
    Snat,
}

impl Forward {
    /// Whether a backend at `address` can serve `vip` in this mode; else what is wrong, and the way out.
    pub fn can_reach(self, vip: &Vip, address: SocketAddr) -> Result<(), (String, String)> {
        let family = |v4| if v4 { "IPv4" } else { "IPv6" };
        let (inner, outer) = (family(vip.addr.is_ipv4()), family(address.is_ipv4()));
        if self == Forward::Ipip && inner == "IPv6" && outer == "IPv4" {
            return Err((
                format!("backend {address} is IPv4, the VIP {vip} is IPv6: ipip carries no IPv6 over IPv4"),
                "name the backend's IPv6 address".to_owned(),
            ));
        }
        if self != Forward::Ipip && inner != outer {
            let help = "write a backend of the VIP's family, or name a VIP of each, as vip = [\"10.0.0.10:80/tcp\", \"[2001:db8::10]:80/tcp\"]";
            let ipip = if inner == "IPv4" { "; forward = \"ipip\" carries IPv4 over IPv6" } else { "" };
            let help = format!("{help}{ipip}");
            return Err((format!("backend {address} is {outer}, the VIP {vip} is {inner}"), help));
        }
        if self == Forward::Snat && vip.more != 0 {
            return Err((
                format!("the VIP {vip} has many ports, and backend {address} is under snat"),
                "snat knows one port of a backend: use forward = \"nat\", or a service for each port"
                    .to_owned(),
            ));
        }
        let first = if vip.all_ports() { "*".to_owned() } else { vip.port.to_string() };
        if vip.all_ports() && address.port() != 0 {
            return Err((
                format!("backend {address} has one port, the VIP {vip} has all"),
                format!("write \"{}\": each port goes to the same port", text::at_port(address.ip(), "*")),
            ));
        }
        if !matches!(self, Forward::Nat | Forward::Snat) && address.port() != vip.port {
            return Err((
                format!("backend {address} has another port than the VIP {vip} under {self}"),
                format!("{self} does not rewrite ports: write port {first}, or use forward = \"nat\""),
            ));
        }
        if !vip.all_ports() && address.port() == 0 {
            return Err((
                format!(
                    "backend {address} has no port of its own, and the VIP {vip} does not have all ports"
                ),
                format!("write \"{}\"", text::at_port(address.ip(), &first)),
            ));
        }
        if address.port().checked_add(vip.more).is_none() {
            return Err((
                format!("backend {address} has no room behind its port for the {} ports of the VIP {vip}", u32::from(vip.more) + 1),
                "the VIP's first port goes to the backend's, the second to the next, and so on: choose a lower one".to_owned(),
            ));
        }
        Ok(())
    }
}

/// One release: a set of backends and its share of new flows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VersionSpec {
    /// Unique within the service, `[a-zA-Z0-9._-]{1,63}`.
    pub name: String,
    /// Share of new flows; those of a service sum to [`FULL`].
    pub weight: BasisPoints,
    /// Overrides the service's.
    pub forward: Option<Forward>,
    /// May be empty; then its share goes to the stable version.
    pub backends: Vec<BackendSpec>,
}

/// One address that takes flows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendSpec {
    /// Address and port. Under `l2` and `ipip` the port must be the VIP's.
    pub address: SocketAddr,
    /// Relative to the version's other backends, 1 to 1000. Default 1.
    pub weight: u32,
}
