//! `health` of a service.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde_json_path::JsonPath;
use toml::de::DeValue;

use super::problems::Sink;
use super::reader::{At, Span, Table, integer, wrong_type};
use super::rollout::argv;
use super::rollout::provider::parse_condition;
use super::value;
use crate::desired::{
    Dependency, DnsCheck, GrpcCheck, HealthSpec, HttpCheck, JsonAssertion, Probe, UdpCheck,
};
use crate::health::probe::{self, RCODES, TYPES};
use crate::text::Unreadable;
use crate::tls::TlsSpec;

/// What a check can ask, each with the keys that mean something to it alone.
const KINDS: [(&str, &[&str]); 8] = [
    ("tcp", &[]),
    ("http", &["status", "host", "expect_headers", "body_contains", "body_matches", "json", "depends"]),
    ("https", &["status", "host", "expect_headers", "body_contains", "body_matches", "json", "depends"]),
    ("grpc", &["host", "watch", "tls"]),
    ("udp", &["answer", "answer_hex", "answer_matches"]),
    ("udp_hex", &["answer", "answer_hex", "answer_matches"]),
    ("dns", &["type", "rcode", "answer"]),
    ("exec", &[]),
];
/// Keys of a check over TLS.
const OF_TLS: [&str; 5] = ["server_name", "ca", "client_cert", "client_key", "insecure"];
/// Assertions, headers and dependencies of one check, each.
const MOST: usize = 32;

pub(super) fn read(mut table: Table<'_, '_>, sink: &mut Sink<'_>) -> Option<HealthSpec> {
    let kinds: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).filter(|kind| table.has(kind)).collect();
    let probe = match kinds.as_slice() {
        [kind] => {
            let others = foreign(&table, kind, sink);
            let probe = probe(&mut table, kind, sink);
            // Asked for, so that they are not told a second time as unknown.
            for key in others {
                table.take(key);
            }
            probe
        }
        kinds => {
            for key in KINDS.iter().flat_map(|(kind, keys)| keys.iter().chain([kind])).chain(&OF_TLS) {
                table.take(key);
            }
            let help = "write http = \"/health\", https, grpc, tcp = true, udp, dns or exec";
            let message = match kinds {
                [] => "a health check does not say what to ask".to_owned(),
                [first, others @ ..] => {
                    format!(
                        "a health check asks one thing, not both `{first}` and `{}`",
                        others.join("` and `")
                    )
                }
            };
            sink.error(Some(table.span.clone()), message, help);
            None
        }
    };
    let depends = depends(&mut table, sink);
    let ms = Duration::from_millis;
    let interval = table.duration("interval", ms(10)..=ms(3_600_000), sink);
    let fast_interval = table.duration("fast_interval", ms(10)..=ms(3_600_000), sink);
    let timeout = table.duration("timeout", ms(1)..=ms(60_000), sink);
    let rise = table.integer("rise", 1..=1000, sink);
    let fall = table.integer("fall", 1..=1000, sink);
    let jitter = fraction(&mut table, "jitter", "a fraction of the interval, as 0.2", 0.0..=1.0, sink);
    let threshold = "a share of the backends, as 0.5";
    let panic_threshold = fraction(&mut table, "panic_threshold", threshold, 0.0..=1.0, sink);
    let port = table.integer("port", 1..=65_535, sink);
    let span = table.span.clone();
    table.finish(sink);
    let at = fast_interval.as_ref().map(|at| at.span.clone());
    let interval = value(interval).unwrap_or(ms(1000));
    let timeout = value(timeout).unwrap_or(ms(500));
    let fast_interval = value(fast_interval);
    let say = humantime::format_duration;
    if let Some(fast) = fast_interval.filter(|fast| *fast > interval) {
        let message =
            format!("`fast_interval` is {}, longer than the interval ({})", say(fast), say(interval));
        sink.error(at, message, "make it shorter, or leave it out");
    }
    if timeout > interval {
        let message = format!(
            "the health check's timeout ({}) is longer than its interval ({}): a hanging backend is noticed late",
            say(timeout),
            say(interval)
        );
        sink.warning(Some(span), message);
    }
    Some(HealthSpec {
        probe: probe?,
        interval,
        fast_interval,
        timeout,
        rise: value(rise).unwrap_or(2),
        fall: value(fall).unwrap_or(3),
        jitter: jitter.unwrap_or(0.2),
        port: value(port).and_then(|port| u16::try_from(port).ok()),
        depends,
        panic_threshold,
    })
}

/// Reports the keys that mean nothing to this kind of check.
fn foreign(table: &Table<'_, '_>, kind: &str, sink: &mut Sink<'_>) -> Vec<&'static str> {
    let own = KINDS.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, keys)| keys);
    let tls = matches!(kind, "https" | "grpc");
    let mut others: Vec<&'static str> = KINDS.iter().flat_map(|(_, keys)| keys.iter().copied()).collect();
    others.extend(OF_TLS.iter().filter(|_| !tls));
    others.sort_unstable();
    others.dedup();
    others.retain(|key| !own.contains(key) && table.has(key));
    if !others.is_empty() {
        let mean = if others.len() == 1 { "means" } else { "mean" };
        let message = format!("`{}` {mean} nothing to a check with `{kind}`", others.join("`, `"));
        let help = match (kind, own) {
            ("tcp", _) => "remove them, or ask http = \"/\" instead of tcp = true".to_owned(),
            (_, []) => "remove them".to_owned(),
            (_, own) => format!("remove them; such a check knows {}", own.join(", ")),
        };
        sink.error(Some(table.span.clone()), message, help);
    }
    others
}

fn probe(table: &mut Table<'_, '_>, kind: &str, sink: &mut Sink<'_>) -> Option<Probe> {
    match kind {
        "tcp" => {
            let given = table.take("tcp")?;
            if given.get_ref().as_bool() == Some(true) {
                return Some(Probe::Tcp);
            }
            let help = "write tcp = true, or http = \"/health\", or remove the health check";
            sink.error(Some(given.span()), "`tcp` can only be true".to_owned(), help);
            None
        }
        "http" | "https" => http(table, kind == "https", sink).map(Probe::Http),
        "grpc" => grpc(table, sink).map(Probe::Grpc),
        "udp" | "udp_hex" => udp(table, sink).map(Probe::Udp),
        "dns" => dns(table, sink).map(Probe::Dns),
        _ => argv(table, "exec", sink).map(|argv| Probe::Exec { argv }),
    }
}

fn http(table: &mut Table<'_, '_>, tls: bool, sink: &mut Sink<'_>) -> Option<HttpCheck> {
    let path = table.parsed(if tls { "https" } else { "http" }, sink, |path| {
        let fits = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
        let wrong =
            || Unreadable(format!("`{path}` is no path; begin with / and encode blanks, as \"/health\""));
        fits.then(|| path.to_owned()).ok_or_else(wrong)
    });
    let headers = table.parsed_all("expect_headers", sink, |text| {
        let pair = text.split_once(':').map(|(name, value)| (name.trim(), value.trim()));
        pair.filter(|(name, _)| hyper::header::HeaderName::from_bytes(name.as_bytes()).is_ok())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .ok_or_else(|| Unreadable(format!("`{text}` is no header; write \"x-ready: yes\"")))
    });
    let contains = value(table.parsed("body_contains", sink, |text| match text {
        "" => Err(Unreadable("it is empty; write what the body contains".to_owned())),
        text => Ok(text.to_owned()),
    }));
    let json = table.parsed_all("json", sink, json_assertion);
    for (key, count) in [("expect_headers", headers.len()), ("json", json.len())] {
        too_many(table, key, count, sink);
    }
    let check = HttpCheck {
        status: statuses(table, sink).unwrap_or_default(),
        host: host(table, sink),
        headers: headers.into_iter().map(|at| at.value).collect(),
        contains,
        matches: expression(table, "body_matches", sink),
        json: json.into_iter().map(|at| at.value).collect(),
        tls: tls.then(|| tls_of(table, sink)),
        path: String::new(),
    };
    Some(HttpCheck { path: path?.value, ..check })
}

fn too_many(table: &Table<'_, '_>, key: &str, count: usize, sink: &mut Sink<'_>) {
    if count > MOST {
        let help = format!("keep {MOST} at the most");
        sink.error(Some(table.span.clone()), format!("there are {count} of `{key}`"), help);
    }
}

/// `$.db == "ok"`: a JSONPath, and what follows its last comparison. Filters in the path have comparisons too, and texts may hold
/// any sign: the first split from the right that leaves both sides whole is the one that was meant.
fn json_assertion(text: &str) -> Result<JsonAssertion, Unreadable> {
    let starts = text.char_indices().filter(|(_, sign)| "<>=!".contains(*sign)).map(|(at, _)| at);
    for at in starts.rev() {
        let (path, condition) = text.split_at(at);
        if let (Ok(_), Ok(is)) = (JsonPath::parse(path.trim()), parse_condition(condition)) {
            return Ok(JsonAssertion { path: path.trim().to_owned(), is });
        }
    }
    Err(Unreadable(format!(
        "`{text}` is no assertion; write a JSONPath (RFC 9535) and a comparison, as '$.db == \"ok\"' or \"$.lag <= 10\""
    )))
}

fn grpc(table: &mut Table<'_, '_>, sink: &mut Sink<'_>) -> Option<GrpcCheck> {
    let service = table.parsed("grpc", sink, |text| {
        let fits = text.len() <= 255 && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| text.to_owned()).ok_or_else(|| {
            Unreadable(format!(
                "`{text}` is no service; write \"my.package.Service\", or \"\" for the whole server"
            ))
        })
    });
    let watch = table.boolean("watch", sink).unwrap_or(false);
    let tls = table.boolean("tls", sink).unwrap_or(false);
    let host = host(table, sink);
    if !tls && let Some(key) = OF_TLS.iter().find(|key| table.has(key)) {
        let message = format!("`{key}` means nothing without TLS");
        sink.error(Some(table.span.clone()), message, "write tls = true, or remove it");
    }
    let spec = tls_of(table, sink);
    Some(GrpcCheck { service: service?.value, watch, host, tls: tls.then_some(spec) })
}

fn udp(table: &mut Table<'_, '_>, sink: &mut Sink<'_>) -> Option<UdpCheck> {
    let send = bytes(table, "udp", "udp_hex", sink);
    let answer = bytes(table, "answer", "answer_hex", sink).unwrap_or_default();
    let matches = expression(table, "answer_matches", sink);
    let send = send?;
    if send.len() > 1200 {
        let message = format!("the datagram has {} bytes", send.len());
        sink.error(Some(table.span.clone()), message, "send 1200 at the most: they fit every path");
    }
    Some(UdpCheck { send, answer, matches })
}

/// Bytes as text, or as hexadecimal digits under another key.
fn bytes(
    table: &mut Table<'_, '_>,
    text: &'static str,
    hex: &'static str,
    sink: &mut Sink<'_>,
) -> Option<Vec<u8>> {
    let plain = table.parsed(text, sink, |text| Ok(text.as_bytes().to_vec()));
    let digits = table.parsed(hex, sink, |text| {
        let digits: String = text.split_whitespace().collect();
        let bytes = (0..digits.len()).step_by(2).map(|at| {
            let pair = digits.get(at..at + 2).filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit()));
            pair.and_then(|pair| u8::from_str_radix(pair, 16).ok())
        });
        bytes.collect::<Option<Vec<u8>>>().ok_or_else(|| {
            Unreadable(format!(
                "`{text}` is not bytes in hexadecimal; write two digits for each, as \"0a ff\""
            ))
        })
    });
    if plain.is_some() && digits.is_some() {
        let message = format!("both `{text}` and `{hex}` are given");
        sink.error(Some(table.span.clone()), message, "keep one of them");
    }
    value(plain.or(digits))
}

fn dns(table: &mut Table<'_, '_>, sink: &mut Sink<'_>) -> Option<DnsCheck> {
    let name = table.parsed("dns", sink, |text| {
        let name = text.strip_suffix('.').unwrap_or(text);
        let fits = !name.is_empty() && probe::askable(name);
        fits.then(|| name.to_owned())
            .ok_or_else(|| Unreadable(format!("`{text}` is no name; write \"example.org\"")))
    });
    let kind = table.parsed("type", sink, |text| {
        let known = TYPES.iter().map(|(name, _)| *name).find(|name| name.eq_ignore_ascii_case(text));
        let names: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
        known.map(str::to_owned).ok_or_else(|| {
            Unreadable(format!("`{text}` is no type that a check knows; write one of {}", names.join(", ")))
        })
    });
    let rcode = table.parsed("rcode", sink, |text| {
        let known = RCODES.iter().position(|name| name.eq_ignore_ascii_case(text));
        known.map(|code| code as u16).ok_or_else(|| {
            Unreadable(format!("`{text}` is no response code; write one of {}", RCODES.join(", ")))
        })
    });
    let answer = table.parsed("answer", sink, |text| Ok(text.strip_suffix('.').unwrap_or(text).to_owned()));
    if let (Some(rcode), Some(answer)) = (&rcode, &answer)
        && rcode.value != 0
    {
        let message = format!("`answer` is expected of an answer with {}", RCODES[usize::from(rcode.value)]);
        sink.error(Some(answer.span.clone()), message, "remove one of them: only NOERROR brings records");
    }
    let kind = value(kind).unwrap_or_else(|| "A".to_owned());
    Some(DnsCheck { name: name?.value, kind, rcode: value(rcode).unwrap_or(0), answer: value(answer) })
}

fn tls_of(table: &mut Table<'_, '_>, sink: &mut Sink<'_>) -> TlsSpec {
    let server_name = table.parsed("server_name", sink, |text| {
        let fits = rustls::pki_types::ServerName::try_from(text.to_owned()).is_ok();
        fits.then(|| text.to_owned())
            .ok_or_else(|| Unreadable(format!("`{text}` is no name of a server; write \"shop.example\"")))
    });
    let mut file = |key| {
        value(table.parsed(key, sink, |text| {
            let fits = text.starts_with('/');
            fits.then(|| PathBuf::from(text))
                .ok_or_else(|| Unreadable(format!("`{text}` is not absolute; write the path from / on")))
        }))
    };
    let (ca, cert, key) = (file("ca"), file("client_cert"), file("client_key"));
    let insecure = table.boolean("insecure", sink).unwrap_or(false);
    let mut wrong =
        |message: &str, help: &str| sink.error(Some(table.span.clone()), message.to_owned(), help);
    if cert.is_some() != key.is_some() {
        wrong("`client_cert` and `client_key` belong together", "name both, or neither");
    }
    if insecure && ca.is_some() {
        wrong("`insecure` believes everybody, whatever `ca` says", "remove one of them");
    }
    TlsSpec { server_name: value(server_name), ca, client: cert.zip(key), insecure }
}

fn host(table: &mut Table<'_, '_>, sink: &mut Sink<'_>) -> Option<String> {
    value(table.parsed("host", sink, |host| {
        let fits = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| host.to_owned())
            .ok_or_else(|| Unreadable(format!("`{host}` is no host name; write \"example.org\"")))
    }))
}

fn expression(table: &mut Table<'_, '_>, key: &'static str, sink: &mut Sink<'_>) -> Option<String> {
    value(table.parsed(key, sink, |text| match probe::expression_of(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => {
            let error = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            Err(Unreadable(format!("`{text}` is no regular expression: {error}; see https://docs.rs/regex")))
        }
    }))
}

fn depends(table: &mut Table<'_, '_>, sink: &mut Sink<'_>) -> Vec<Dependency> {
    let mut all: Vec<Dependency> = Vec::new();
    let tables = table.tables("depends", sink).unwrap_or_default();
    too_many(table, "depends", tables.len(), sink);
    for mut table in tables {
        let letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
        let name = super::service::name(&mut table, "a dependency", letters, sink);
        let path = table.parsed("path", sink, |text| match JsonPath::parse(text) {
            Ok(_) => Ok(text.to_owned()),
            Err(error) => {
                Err(Unreadable(format!("`{text}` is no JSONPath ({}); write \"$.db\"", error.message())))
            }
        });
        table.missing("path", "write where the answer tells of it, as \"$.db\" (JSONPath, RFC 9535)", sink);
        let shared = table.boolean("shared", sink).unwrap_or(false);
        let success = value(table.parsed("success", sink, parse_condition));
        let span = table.span.clone();
        table.finish(sink);
        let (Some(name), Some(path)) = (name, path) else { continue };
        if all.iter().any(|other| other.name == name.value) {
            let message = format!("dependency `{}` is there already", name.value);
            sink.error(Some(span), message, "give each dependency a name of its own");
        }
        all.push(Dependency { name: name.value, path: path.value, shared, success });
    }
    all
}

fn statuses(table: &mut Table<'_, '_>, sink: &mut Sink<'_>) -> Option<Vec<u16>> {
    let At { value: codes, .. } = table.array("status", "an array of status codes, as [200, 204]", sink)?;
    let mut statuses = Vec::new();
    for item in codes {
        let code = integer(item.get_ref())
            .and_then(|code| u16::try_from(code).ok())
            .filter(|code| (100..=599).contains(code));
        match code {
            Some(code) => statuses.push(code),
            None => {
                sink.error(Some(item.span()), "this is no HTTP status code".to_owned(), "write 100 to 599")
            }
        }
    }
    Some(statuses)
}

fn fraction(
    table: &mut Table<'_, '_>,
    key: &'static str,
    what: &str,
    range: RangeInclusive<f64>,
    sink: &mut Sink<'_>,
) -> Option<f64> {
    let value = table.take(key)?;
    let number = match value.get_ref() {
        DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
        DeValue::Integer(number) => number.as_str().parse::<f64>().ok(),
        _ => {
            wrong_type(key, value, what, sink);
            return None;
        }
    };
    let fraction = number.filter(|number| range.contains(number));
    if fraction.is_none() {
        let help = "choose a fraction of the interval from 0.0 to 1.0";
        let help = if key == "jitter" { help } else { "choose a share from 0.0 to 1.0" };
        let span: Span = value.span();
        sink.error(Some(span), format!("`{key}` is out of range"), help);
    }
    fraction
}
