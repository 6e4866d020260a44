//! The `[agent]` section.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::problems::Sink;
use super::reader::{At, Table, wrong_type};
use super::{api, value};
use crate::desired::{AgentSpec, ApiSpec, AttachMode, EncapSources, Limits, PageSpec};
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
    pub limits: Limits,
    pub syn_memory: Duration,
    sample_events: u32,
    pub encap: EncapSources,
    probe_budget: ProbeBudget,
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
            limits: self.limits,
            syn_memory: self.syn_memory,
            sample_events: self.sample_events,
            encap: self.encap,
            probe_budget: self.probe_budget,
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
    let syn_memory = table.duration("syn_memory", Duration::from_secs(1)..=Duration::from_secs(600), sink);
    if let Some(At { value, span }) = &syn_memory
        && *value < SYN_MEMORY
    {
        let message = "`syn_memory` is shorter than a handshake may take (64s): a late retransmission during a shift may break it";
        sink.warning(Some(span.clone()), message.to_owned());
    }
    let sample_events = table.integer("sample_events", 0..=u32::MAX, sink);
    let encap = EncapSources {
        v4: encap_source(&mut table, "encap_source", true, sink)
            .unwrap_or_else(|| EncapSources::default().v4),
        v6: encap_source(&mut table, "encap_source6", false, sink)
            .unwrap_or_else(|| EncapSources::default().v6),
    };
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
        limits,
        syn_memory: value(syn_memory).unwrap_or(SYN_MEMORY),
        sample_events: value(sample_events).unwrap_or(0),
        encap,
        probe_budget,
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
        flows: 262_144,
        syn_filter: 4 << 20,
        direct: 65_536,
    };
    let Some(mut table) = agent.table("limits", "[agent.limits]", sink) else { return limits };
    for (key, limit, range) in [
        ("services", &mut limits.services, 1..=65_535),
        ("backends", &mut limits.backends, 1..=zdd_common::limits::BACKENDS_MAX),
        ("cells", &mut limits.cells, 2_048..=1 << 28),
        ("flows", &mut limits.flows, 64..=1 << 26),
        ("syn_filter", &mut limits.syn_filter, 4_096..=1 << 30),
        ("direct", &mut limits.direct, 64..=1 << 24),
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
