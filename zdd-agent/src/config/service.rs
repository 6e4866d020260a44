//! `[[service]]` and what is in it.

use std::net::SocketAddr;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::problems::Sink;
use super::reader::{At, Span, Table, readable, wrong_type};
use super::value;
use crate::admission::{AccessSpec, NewPerSource};
use crate::capacity::Capacity;
use crate::cohort::CohortSpec;
use crate::desired::{
    Affinity, BackendSpec, BasisPoints, FULL, Forward, HealthSpec, Protocol, ServiceSpec, SignalSpec,
    UdpPolicy, VersionSpec, Vip,
};
use crate::text::{Unreadable, parse_backend};

/// A service as it was read; what is `None` was missing or wrong and has been reported.
pub(super) struct ServiceRead {
    pub span: Span,
    pub name: Option<At<String>>,
    /// Empty: missing or wrong.
    pub vips: Vec<At<Vip>>,
    pub preview: Vec<At<Vip>>,
    pub preview_version: Option<At<String>>,
    affinity: Affinity,
    pub forward: Option<Forward>,
    pub idle_timeout: Duration,
    udp_idle_timeout: Duration,
    udp: Option<At<UdpPolicy>>,
    drain_timeout: Option<Duration>,
    capacity: Option<Capacity>,
    slow_start: Duration,
    pub cells: At<u32>,
    pub health: Option<HealthSpec>,
    signals: Option<Option<SignalSpec>>,
    pub rollout: Option<crate::rollout::RolloutSpec>,
    access: AccessSpec,
    new_per_source: Option<NewPerSource>,
    pub versions: Vec<VersionRead>,
}

fn read_capacity(mut table: Table<'_, '_>, sink: &mut Sink<'_>) -> Capacity {
    let min_healthy = table.percent("min_healthy", sink);
    let new_flows = table.integer("new_flows", 1..=1_000_000_000, sink);
    if !table.has("min_healthy") && !table.has("new_flows") {
        let help = "write capacity = { min_healthy = \"50%\", new_flows = 200 }, or one of the two";
        sink.error(Some(table.span.clone()), "`capacity` asks for nothing".to_owned(), help);
    }
    table.finish(sink);
    Capacity { min_healthy: value(min_healthy).unwrap_or(0), new_flows: value(new_flows) }
}

/// A version as it was read.
pub(super) struct VersionRead {
    pub span: Span,
    pub name: Option<At<String>>,
    /// `None`: not given; `Some(None)`: given, and wrong.
    pub weight: Option<Option<At<BasisPoints>>>,
    forward: Option<Forward>,
    pub backends: Vec<At<BackendSpec>>,
}

impl ServiceRead {
    /// For messages: the name, or the place that stands for it.
    pub fn label(&self) -> &str {
        self.name.as_ref().map_or("?", |name| &name.value)
    }

    /// The protocol of its VIPs, if it is known.
    pub fn protocol(&self) -> Option<Protocol> {
        self.vips.first().map(|vip| vip.value.protocol)
    }

    /// How many cohorts its rollout names.
    pub fn cohorts(&self) -> usize {
        self.rollout.as_ref().map_or(0, |rollout| rollout.cohorts().count())
    }

    /// How many rows of cells it has: one for each VIP, one more for each of its cohorts, and one for each preview VIP.
    pub fn rows(&self) -> usize {
        self.vips.len().max(1) * (1 + self.cohorts()) + self.preview.len()
    }

    /// All that is dialled: VIPs, then preview VIPs.
    pub fn all_vips(&self) -> impl Iterator<Item = &At<Vip>> {
        self.vips.iter().chain(&self.preview)
    }

    /// How many ports follow a backend's own: as many as the VIP that it serves has.
    pub fn more_ports(&self, backend: &SocketAddr) -> u16 {
        let mut vips = self.vips.iter().map(|vip| vip.value);
        let serves = |vip: &Vip| self.vips.len() == 1 || vip.serves(backend);
        vips.find(serves).map_or(0, |vip| vip.more)
    }

    /// The mode of one of its versions, if it is known.
    pub fn forward_of(&self, version: &VersionRead) -> Option<Forward> {
        version.forward.or(self.forward)
    }

    /// Whether any version's packets get outer headers.
    pub fn tunnels(&self) -> bool {
        self.versions.iter().any(|version| self.forward_of(version) == Some(Forward::Ipip))
    }

    pub fn into_spec(self, cohorts: &[At<CohortSpec>]) -> Option<ServiceSpec> {
        let no_weights = self.versions.iter().all(|version| version.weight.is_none());
        let versions = self.versions.into_iter().enumerate().map(|(at, version)| {
            let weight = match version.weight {
                Some(given) => given?.value,
                None if no_weights && at == 0 => FULL,
                None => 0,
            };
            let backends = version.backends.into_iter().map(|backend| backend.value).collect();
            Some(VersionSpec { name: version.name?.value, weight, forward: version.forward, backends })
        });
        let mut vips: Vec<Vip> = self.vips.into_iter().map(|vip| vip.value).collect();
        vips.sort();
        let mut preview: Vec<Vip> = self.preview.into_iter().map(|vip| vip.value).collect();
        preview.sort();
        let tcp = vips.first().is_some_and(|vip| vip.protocol == Protocol::Tcp);
        Some(ServiceSpec {
            name: self.name?.value,
            vips: (!vips.is_empty()).then_some(vips)?,
            preview,
            preview_version: value(self.preview_version),
            affinity: self.affinity,
            forward: self.forward?,
            idle_timeout: self.idle_timeout,
            udp_idle_timeout: self.udp_idle_timeout,
            udp: value(self.udp).unwrap_or_default(),
            drain_timeout: self.drain_timeout,
            capacity: self.capacity,
            slow_start: self.slow_start,
            cells: self.cells.value,
            health: self.health,
            signals: self
                .signals
                .unwrap_or_else(|| (tcp && self.rollout.is_some()).then(SignalSpec::default)),
            cohorts: super::cohort::of(self.rollout.as_ref(), cohorts),
            rollout: self.rollout,
            access: self.access,
            new_per_source: self.new_per_source,
            versions: versions.collect::<Option<Vec<_>>>()?,
        })
    }
}

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
const CELLS: std::ops::RangeInclusive<u32> = 1_024..=1_048_576;

pub(super) fn read(mut table: Table<'_, '_>, sink: &mut Sink<'_>) -> ServiceRead {
    let name = name(&mut table, "a service", "abcdefghijklmnopqrstuvwxyz0123456789-", sink);
    if let Some(name) = &name {
        table.name = format!("service `{}`", name.value);
    }
    let vips = table.parsed_all("vip", sink, str::parse::<Vip>);
    table.missing("vip", "write what clients dial, as vip = \"10.0.0.10:80/tcp\"", sink);
    let preview = table.parsed_all("preview", sink, str::parse::<Vip>);
    let preview_version = table.parsed("preview_version", sink, |text| Ok(text.to_owned()));
    let affinity = table.parsed("affinity", sink, |text| match text {
        "flow" => Ok(Affinity::Flow),
        "client" => Ok(Affinity::Client),
        "client-version" => Ok(Affinity::ClientVersion),
        _ => Err(Unreadable(format!(
            "`{text}` is no affinity; write \"flow\", \"client\" or \"client-version\""
        ))),
    });
    let forward = table.parsed("forward", sink, forward);
    table.missing(
        "forward",
        "write \"nat\" (replies pass this host), \"snat\" (the same, for backends anywhere), \"l2\" (backends own the VIP and answer directly) or \"ipip\" (the same, across routers)",
        sink,
    );
    let idle_timeout = table.duration("idle_timeout", SECOND..=DAY, sink);
    let udp_idle_timeout = table.duration("udp_idle_timeout", SECOND..=DAY, sink);
    let udp = table.parsed("udp", sink, |text| match text {
        "stick" => Ok(UdpPolicy::Stick),
        "now" => Ok(UdpPolicy::Now),
        _ => Err(Unreadable(format!("`{text}` is no policy; write \"stick\" or \"now\""))),
    });
    let protocol = vips.first().map(|vip| vip.value.protocol);
    for (key, given, of) in [
        ("idle_timeout", &idle_timeout, Protocol::Tcp),
        ("udp_idle_timeout", &udp_idle_timeout, Protocol::Udp),
    ] {
        if let (Some(given), Some(protocol)) = (given, protocol)
            && protocol != of
        {
            let message = format!("`{key}` counts for {of} only: this service carries {protocol}");
            sink.warning(Some(given.span.clone()), message);
        }
    }
    if let (Some(udp), Some(vip)) = (&udp, vips.first())
        && vip.value.protocol == Protocol::Tcp
    {
        let help = "remove it: TCP flows always stay where they began";
        sink.error(Some(udp.span.clone()), format!("`udp` means nothing to {}", vip.value), help);
    }
    let access = super::admission::access(&mut table, &vips, sink);
    let new_per_source = super::admission::new_per_source(&mut table, &vips, sink);
    let drain_timeout = table.duration("drain_timeout", Duration::from_millis(1)..=30 * DAY, sink);
    let cells = table.integer("cells", CELLS, sink).unwrap_or_else(|| At::new(16_384, table.span.clone()));
    if !cells.value.is_power_of_two() {
        let (below, above) = (cells.value.next_power_of_two() / 2, cells.value.next_power_of_two());
        let help = format!("choose {below} or {above}");
        sink.error(Some(cells.span.clone()), format!("`cells` is {}, not a power of two", cells.value), help);
    }
    let slow_start = table.duration("slow_start", Duration::ZERO..=3_600 * SECOND, sink);
    let capacity = table.table("capacity", "capacity", sink).map(|capacity| read_capacity(capacity, sink));
    let health = table.table("health", "health", sink).and_then(|health| super::health::read(health, sink));
    let udp_only = vips.first().is_some_and(|vip| vip.value.protocol == Protocol::Udp);
    let signals = super::signals::read(&mut table, udp_only, sink);
    let rollout = table
        .table("rollout", "[service.rollout]", sink)
        .and_then(|rollout| super::rollout::read(rollout, sink));
    let versions: Option<Vec<_>> = table
        .tables("version", sink)
        .map(|versions| versions.into_iter().map(|version| read_version(version, sink)).collect());
    let help = "add a [[service.version]] below it with its name and backends";
    table.missing("version", help, sink);
    if versions.as_ref().is_some_and(Vec::is_empty) {
        sink.error(Some(table.span.clone()), format!("`version` is empty in {}", table.name), help);
    }
    let span = table.span.clone();
    table.finish(sink);
    ServiceRead {
        span,
        name,
        vips,
        preview,
        preview_version,
        affinity: value(affinity).unwrap_or(Affinity::Client),
        forward: value(forward),
        idle_timeout: value(idle_timeout).unwrap_or(Duration::from_secs(350)),
        udp_idle_timeout: value(udp_idle_timeout).unwrap_or(Duration::from_secs(60)),
        udp,
        drain_timeout: value(drain_timeout),
        capacity,
        slow_start: value(slow_start).unwrap_or_default(),
        cells,
        health,
        signals,
        rollout,
        access,
        new_per_source,
        versions: versions.unwrap_or_default(),
    }
}

fn forward(text: &str) -> Result<Forward, Unreadable> {
    match text {
        "l2" => Ok(Forward::L2),
        "nat" => Ok(Forward::Nat),
        "ipip" => Ok(Forward::Ipip),
        "snat" => Ok(Forward::Snat),
        _ => Err(Unreadable(format!(
            "`{text}` is no forwarding mode; write \"nat\", \"snat\", \"l2\" or \"ipip\""
        ))),
    }
}

pub(super) fn name(
    table: &mut Table<'_, '_>,
    what: &str,
    letters: &str,
    sink: &mut Sink<'_>,
) -> Option<At<String>> {
    let name = table.parsed("name", sink, |text| {
        if (1..=63).contains(&text.len()) && text.chars().all(|c| letters.contains(c)) {
            Ok(text.to_owned())
        } else {
            let shown = if letters.contains('A') { "a-z, A-Z, 0-9, dot, _ and -" } else { "a-z, 0-9 and -" };
            Err(Unreadable(format!("`{text}` cannot name {what}; use 1 to 63 of {shown}")))
        }
    });
    table.missing("name", &format!("every command calls {what} by its name"), sink);
    name
}

fn read_version(mut table: Table<'_, '_>, sink: &mut Sink<'_>) -> VersionRead {
    let letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    let name = name(&mut table, "a version", letters, sink);
    if let Some(name) = &name {
        table.name = format!("version `{}`", name.value);
    }
    let weight = table.percent("weight", sink);
    // Given and wrong is not the same as not given: the sum is not judged then.
    let weight = (weight.is_some() || table.take("weight").is_some()).then_some(weight);
    let forward = table.parsed("forward", sink, forward);
    let backends = match table.array("backends", "an array, as [\"10.1.0.1:8080\"]", sink) {
        Some(backends) => backends.value.into_iter().filter_map(|item| backend(item, sink)).collect(),
        None => Vec::new(),
    };
    let span = table.span.clone();
    table.finish(sink);
    VersionRead { span, name, weight, forward: value(forward), backends }
}

fn backend(item: &Spanned<DeValue<'_>>, sink: &mut Sink<'_>) -> Option<At<BackendSpec>> {
    match item.get_ref() {
        DeValue::String(text) => {
            let address = readable("backends", parse_backend(text), item.span(), sink)?;
            Some(At::new(BackendSpec { address: address.value, weight: 1 }, address.span))
        }
        DeValue::Table(fields) => {
            let mut table = Table::new(fields, item.span(), "a backend");
            let address = table.parsed("address", sink, parse_backend);
            table.missing("address", "write { address = \"10.1.0.1:8080\", weight = 2 }", sink);
            let weight = table.integer("weight", 1..=1000, sink);
            table.finish(sink);
            let At { value: address, span } = address?;
            Some(At::new(BackendSpec { address, weight: value(weight).unwrap_or(1) }, span))
        }
        _ => {
            wrong_type(
                "backends",
                item,
                "\"10.1.0.1:8080\" or { address = \"10.1.0.1:8080\", weight = 2 }",
                sink,
            );
            None
        }
    }
}

/// What is wrong about an address for a VIP or a backend; `None` when it will do. `all_ports`: it is one of all ports, with 0 for
/// its port.
pub(super) fn unusable(address: &SocketAddr, all_ports: bool) -> Option<&'static str> {
    let ip = address.ip();
    if address.port() == 0 && !all_ports {
        Some("port 0 is no port")
    } else if ip.is_unspecified() {
        Some("it is the unspecified address")
    } else if ip.is_multicast() {
        Some("it is a multicast address")
    } else if ip.is_loopback() {
        Some("it is a loopback address, and packets to it never pass an interface")
    } else if matches!(ip, std::net::IpAddr::V4(v4) if v4.is_broadcast()) {
        Some("it is the broadcast address")
    } else if matches!(ip, std::net::IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        Some("it is an IPv4 address written as IPv6")
    } else if matches!(ip, std::net::IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        Some("it is a link-local address, and those are for one link only: nothing is forwarded from them")
    } else {
        None
    }
}
