//! The `[agent]` section.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use zdd_common::limits::{FLOWS_DEFAULT, SNAT_SOURCES_MAX, SNAT_WAYS, SYN_FILTER_DEFAULT};

use super::problems::Sink;
use super::reader::{At, Table, wrong_type};
use super::{api, value};
use crate::alert::AlertSpec;
use crate::desired::{AgentSpec, ApiSpec, AttachMode, EncapSources, Limits, PageSpec, SnatSpec};
use crate::health::ProbeBudget;
use crate::prefix::Prefix;
use crate::text::{Unreadable, parse_socket};

/// `[agent]` as it was read; what is `None` was missing or wrong and has been reported.
pub(super) struct AgentRead {
    interfaces: Option<Vec<String>>,
    mode: Option<At<AttachMode>>,
    pin_dir: PathBuf,
    state_dir: PathBuf,
    key_file: Option<PathBuf>,
    socket: PathBuf,
    metrics: Option<SocketAddr>,
    page: Option<PageSpec>,
    otlp: Option<String>,
    log_json: bool,
    seccomp: bool,
    pub limits: Limits,
    pub syn_memory: Duration,
    pub encap: EncapSources,
    pub snat: SnatSpec,
    probe_budget: ProbeBudget,
    alerts: Option<Vec<AlertSpec>>,
    api: ApiSpec,
}

impl AgentRead {
    pub fn into_spec(self) -> Option<AgentSpec> {
        Some(AgentSpec {
            interfaces: self.interfaces?,
            mode: value(self.mode).unwrap_or(AttachMode::Native),
            pin_dir: self.pin_dir,
            state_dir: self.state_dir,
            key_file: self.key_file,
            socket: self.socket,
            metrics: self.metrics,
            page: self.page,
            otlp: self.otlp,
            log_json: self.log_json,
            seccomp: self.seccomp,
            limits: self.limits,
            syn_memory: self.syn_memory,
            encap: self.encap,
            snat: self.snat,
            probe_budget: self.probe_budget,
            alerts: self.alerts?,
            api: self.api,
        })
    }
}

/// As long as a handshake lives.
const SYN_MEMORY: Duration = Duration::from_secs(64);
/// What the kernel takes for the path of a unix socket, its end mark and our temporary suffix left out.
const SOCKET_PATH_MAX: usize = 96;
/// The kernel's IFNAMSIZ without its end mark.
const INTERFACE_NAME_MAX: usize = 15;

const INTERFACES_HELP: &str =
    "name at least one, as interfaces = [\"eth0\"]; * and ? stand for any text and any letter";

pub(super) fn read(top: &mut Table<'_, '_>, sink: &mut Sink<'_>) -> AgentRead {
    let empty = toml::de::DeTable::new();
    let mut table = match top.table("agent", "[agent]", sink) {
        Some(table) => table,
        None => Table::new(&empty, top.span.clone(), "[agent]"),
    };
    let interfaces = interfaces(&mut table, sink);
    let mode = table.parsed("mode", sink, |text| match text {
        "native" => Ok(AttachMode::Native),
        "generic" => Ok(AttachMode::Generic),
        _ => Err(Unreadable(format!("`{text}` is no attach mode; write \"native\" or \"generic\""))),
    });
    let pin_dir = path(&mut table, "pin_dir", "/sys/fs/bpf/zdd", sink);
    let state_dir = path(&mut table, "state_dir", "/var/lib/zdd", sink);
    let key_file = value(table.parsed("key_file", sink, |text| absolute("key_file", text)));
    let socket = path(&mut table, "socket", "/run/zdd/zdd.sock", sink);
    let metrics = table.parsed("metrics", sink, |text| listen("metrics", text));
    let metrics = value(metrics).unwrap_or_else(|| Some(SocketAddr::from(([127, 0, 0, 1], 9177))));
    let page = page(&mut table, sink);
    let otlp = table.parsed("otlp", sink, collector);
    let log_json = table.parsed("log", sink, |text| match text {
        "text" => Ok(false),
        "json" => Ok(true),
        _ => Err(Unreadable(format!("`{text}` is no form of log; write \"text\" or \"json\""))),
    });
    let seccomp = table.parsed("seccomp", sink, |text| match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(Unreadable(format!("`{text}` is neither; write \"on\" or \"off\""))),
    });
    if let Some(At { value: false, span }) = &seccomp {
        let message =
            "`seccomp` is off: whoever takes over the agent, a probe or a hook may make every system call";
        sink.warning(Some(span.clone()), message.to_owned());
    }
    let syn_memory = table.duration("syn_memory", Duration::from_secs(1)..=Duration::from_secs(600), sink);
    if let Some(At { value, span }) = &syn_memory
        && *value < SYN_MEMORY
    {
        let message = "`syn_memory` is shorter than a handshake may take (64s): a late retransmission during a shift may break it";
        sink.warning(Some(span.clone()), message.to_owned());
    }
    let encap = EncapSources {
        v4: encap_source(&mut table, "encap_source", true, sink)
            .unwrap_or_else(|| EncapSources::default().v4),
        v6: encap_source(&mut table, "encap_source6", false, sink)
            .unwrap_or_else(|| EncapSources::default().v6),
    };
    let alerts = super::alert::read(top, sink);
    let snat = snat(&mut table, sink);
    let limits = limits(&mut table, sink);
    let probe_budget = probe_budget(&mut table, sink);
    let api = api::read(&mut table, sink);
    table.finish(sink);
    AgentRead {
        interfaces,
        mode,
        pin_dir,
        state_dir,
        key_file,
        socket,
        metrics,
        page,
        otlp: value(otlp).flatten(),
        log_json: value(log_json).unwrap_or(false),
        seccomp: value(seccomp).unwrap_or(true),
        limits,
        syn_memory: value(syn_memory).unwrap_or(SYN_MEMORY),
        encap,
        snat,
        probe_budget,
        alerts,
        api,
    }
}

fn interfaces(table: &mut Table<'_, '_>, sink: &mut Sink<'_>) -> Option<Vec<String>> {
    let Some(array) = table.array("interfaces", "an array of names, as [\"eth0\"]", sink) else {
        table.missing("interfaces", INTERFACES_HELP, sink);
        return None;
    };
    if array.value.is_empty() {
        sink.error(Some(array.span), "`interfaces` is empty".to_owned(), INTERFACES_HELP);
        return None;
    }
    let mut names = Vec::new();
    for item in array.value {
        let Some(name) = item.get_ref().as_str() else {
            wrong_type("interfaces", item, "a name in quotes", sink);
            continue;
        };
        let fits = (1..=INTERFACE_NAME_MAX).contains(&name.len())
            && !name.contains(|c: char| c == '/' || c.is_whitespace());
        if !fits {
            let help = "a name has 1 to 15 letters, no slash and no blank";
            sink.error(Some(item.span()), format!("`{name}` is no interface name"), help);
        } else if names.iter().any(|known| known == name) {
            sink.error(Some(item.span()), format!("interface `{name}` is named twice"), "remove one of them");
        } else {
            names.push(name.to_owned());
        }
    }
    Some(names)
}

fn path(table: &mut Table<'_, '_>, key: &'static str, default: &str, sink: &mut Sink<'_>) -> PathBuf {
    let read = table.parsed(key, sink, |text| absolute(key, text));
    value(read).unwrap_or_else(|| PathBuf::from(default))
}

pub(super) fn absolute(key: &str, text: &str) -> Result<PathBuf, Unreadable> {
    match text {
        _ if !text.starts_with('/') => {
            Err(Unreadable(format!("`{text}` is not absolute; write the path from / on")))
        }
        _ if key == "socket" && text.len() > SOCKET_PATH_MAX => Err(Unreadable(format!(
            "the path has {} bytes, a socket's may have {SOCKET_PATH_MAX}; choose a shorter one",
            text.len()
        ))),
        _ => Ok(PathBuf::from(text)),
    }
}

/// The prefix that outer headers of one family come from.
fn encap_source(
    table: &mut Table<'_, '_>,
    key: &'static str,
    v4: bool,
    sink: &mut Sink<'_>,
) -> Option<Prefix> {
    let read = table.parsed(key, sink, |text| {
        let prefix: Prefix = text.parse()?;
        let (family, shortest) = if v4 { ("IPv4", 8) } else { ("IPv6", 32) };
        if prefix.addr.is_ipv4() != v4 {
            let other = if v4 { "encap_source6" } else { "encap_source" };
            return Err(Unreadable(format!("`{text}` is not an {family} prefix; write it as {other}")));
        }
        let addr = prefix.addr;
        if addr.is_multicast() || addr.is_loopback() || prefix.length < shortest {
            return Err(Unreadable(format!(
                "`{text}` cannot be what packets come from; write a prefix of /{shortest} or longer that is yours and that \
                 nobody else uses"
            )));
        }
        Ok(prefix)
    });
    value(read)
}

/// What `snat` gives out.
fn snat(table: &mut Table<'_, '_>, sink: &mut Sink<'_>) -> SnatSpec {
    let mut spec = SnatSpec::default();
    for (key, v4) in [("snat_source", true), ("snat_source6", false)] {
        let read = table.parsed_all(key, sink, |text| snat_source(text, v4));
        if let Some(above) = read.get(SNAT_SOURCES_MAX) {
            let message =
                format!("`{key}` has {} addresses, at most {SNAT_SOURCES_MAX} are used", read.len());
            sink.error(Some(above.span.clone()), message, "leave some out, or widen snat_ports");
        }
        for At { value, span } in read {
            if spec.sources.contains(&value) {
                sink.error(Some(span), format!("{value} is there twice"), "remove one of them");
            } else {
                spec.sources.push(value);
            }
        }
    }
    if let Some((first, last)) = value(table.parsed("snat_ports", sink, snat_ports)) {
        (spec.first, spec.last) = (first, last);
    }
    spec
}

fn snat_source(text: &str, v4: bool) -> Result<IpAddr, Unreadable> {
    let other = if v4 { "snat_source6" } else { "snat_source" };
    let family = if v4 { "IPv4" } else { "IPv6" };
    let addr: IpAddr =
        text.parse().map_err(|_| Unreadable(format!("`{text}` is not an {family} address")))?;
    let unusable = match addr {
        IpAddr::V4(addr) => addr.is_broadcast(),
        IpAddr::V6(addr) => addr.to_ipv4_mapped().is_some() || addr.is_unicast_link_local(),
    };
    match addr {
        _ if addr.is_ipv4() != v4 => {
            Err(Unreadable(format!("`{text}` is not an {family} address; write it as {other}")))
        }
        _ if unusable || addr.is_unspecified() || addr.is_multicast() || addr.is_loopback() => {
            Err(Unreadable(format!(
                "`{text}` cannot be what packets come from; write an address of this host, or one routed to it"
            )))
        }
        _ => Ok(addr),
    }
}

fn snat_ports(text: &str) -> Result<(u16, u16), Unreadable> {
    let wrong = || {
        Unreadable(format!(
            "`{text}` is no range of ports; write the first and the last, from 1024 on and 8 at least, as \"61000-65535\""
        ))
    };
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let (first, last): (u16, u16) =
        (first.trim().parse().map_err(|_| wrong())?, last.trim().parse().map_err(|_| wrong())?);
    if first < 1024 || last < first || last - first < SNAT_WAYS as u16 - 1 {
        return Err(wrong());
    }
    Ok((first, last))
}

/// Where something is served that has no password, or nowhere.
fn listen(key: &str, text: &str) -> Result<Option<SocketAddr>, Unreadable> {
    if text == "off" {
        return Ok(None);
    }
    let port = if key == "page" { 9178 } else { 9177 };
    let address = parse_socket(text).map_err(|_| {
        Unreadable(format!("`{text}` is not an address; write \"127.0.0.1:{port}\" or \"off\""))
    })?;
    if !address.ip().is_loopback() {
        let (what, instead) = match key {
            "page" => ("the page has no password", "forward the port by ssh -L"),
            _ => ("metrics have no password", "put a proxy in front"),
        };
        return Err(Unreadable(format!(
            "`{text}` is not a loopback address; {what}: write 127.0.0.1:{} and {instead}, or \"off\"",
            address.port()
        )));
    }
    Ok(Some(address))
}

/// A collector's address, or none. In clear only: the one to talk to is on this host, and passes on as it likes. An address with a name
/// and password in it is refused without repeating it: nobody would send them, and status, logs and bundles would have to hide them.
fn collector(text: &str) -> Result<Option<String>, Unreadable> {
    if text == "off" {
        return Ok(None);
    }
    if text.contains('@') {
        return Err(Unreadable(
            "it has a name or password in it, and those are not sent; write the address of a collector on this host, \
             \"http://127.0.0.1:4318\", which adds what the next one wants"
                .to_owned(),
        ));
    }
    let uri = text
        .parse::<hyper::Uri>()
        .ok()
        .filter(|uri| uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty()));
    match uri {
        Some(_) => Ok(Some(text.to_owned())),
        None => {
            Err(Unreadable(format!("`{text}` is no collector; write \"http://127.0.0.1:4318\" or \"off\"")))
        }
    }
}

/// Off unless it is asked for: what nobody uses shall not listen.
fn page(table: &mut Table<'_, '_>, sink: &mut Sink<'_>) -> Option<PageSpec> {
    let read = table.parsed("page", sink, |text| listen("page", text));
    let address = value(read).flatten();
    let asked = table.take("page_actions");
    let actions = asked.and_then(|value| value.get_ref().as_bool());
    match (asked, actions, address) {
        (Some(value), None, _) => wrong_type("page_actions", value, "true or false", sink),
        (Some(value), Some(true), None) => sink.warning(
            Some(value.span()),
            "`page_actions` does nothing: there is no page; write page = \"127.0.0.1:9178\"".to_owned(),
        ),
        _ => {}
    }
    Some(PageSpec { address: address?, actions: actions.unwrap_or(false) })
}

fn limits(agent: &mut Table<'_, '_>, sink: &mut Sink<'_>) -> Limits {
    let mut limits = Limits {
        services: 256,
        backends: 4096,
        cells: 2_097_152,
        flows: FLOWS_DEFAULT,
        syn_filter: SYN_FILTER_DEFAULT,
        direct: 65_536,
        signals: 32_768,
        snat: crate::desired::snat_mappings(),
    };
    let Some(mut table) = agent.table("limits", "[agent.limits]", sink) else { return limits };
    for (key, limit, range) in [
        ("services", &mut limits.services, 1..=65_535),
        ("backends", &mut limits.backends, 1..=zdd_common::limits::BACKENDS_MAX),
        ("cells", &mut limits.cells, 2_048..=1 << 28),
        ("flows", &mut limits.flows, 64..=1 << 26),
        ("syn_filter", &mut limits.syn_filter, 4_096..=1 << 30),
        ("direct", &mut limits.direct, 64..=1 << 24),
        ("signals", &mut limits.signals, 4..=1 << 24),
        ("snat", &mut limits.snat, 8..=1 << 24),
    ] {
        if let Some(at) = table.integer(key, range, sink) {
            *limit = at.value;
        }
    }
    table.finish(sink);
    limits
}

fn probe_budget(agent: &mut Table<'_, '_>, sink: &mut Sink<'_>) -> ProbeBudget {
    let mut budget = ProbeBudget::default();
    let Some(mut table) = agent.table("probe_budget", "[agent.probe_budget]", sink) else { return budget };
    for (key, limit, range) in [
        ("concurrent", &mut budget.concurrent, 1..=65_535),
        ("per_second", &mut budget.per_second, 0..=1_000_000),
    ] {
        if let Some(at) = table.integer(key, range, sink) {
            *limit = at.value;
        }
    }
    table.finish(sink);
    budget
}
