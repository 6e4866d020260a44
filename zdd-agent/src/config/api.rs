//! The `[agent.api]` section.

use std::path::PathBuf;

use super::agent::absolute;
use super::problems::Sink;
use super::reader::{At, Table};
use super::value;
use crate::desired::{Access, ApiSpec, RemoteSpec, RoleRule};
use crate::text::{Unreadable, parse_socket};

const TLS_HELP: &str =
    "a TCP listener needs all of listen, cert, key and client_ca: callers show a certificate too";

pub(super) fn read(agent: &mut Table<'_, '_>, sink: &mut Sink<'_>) -> ApiSpec {
    let Some(mut table) = agent.table("api", "[agent.api]", sink) else { return ApiSpec::default() };
    let socket_group = value(table.parsed("socket_group", sink, account));
    let listen = value(table.parsed("listen", sink, parse_socket));
    let mut file =
        |key: &'static str| -> Option<PathBuf> { value(table.parsed(key, sink, |text| absolute(key, text))) };
    let files = (file("cert"), file("key"), file("client_ca"));
    let any = listen.is_some() || files.0.is_some() || files.1.is_some() || files.2.is_some();
    let remote = match (listen, files) {
        (Some(listen), (Some(cert), Some(key), Some(client_ca))) => {
            Some(RemoteSpec { listen, cert, key, client_ca })
        }
        _ => None,
    };
    if any {
        for key in ["listen", "cert", "key", "client_ca"] {
            table.missing(key, TLS_HELP, sink);
        }
    }
    let mut rules = Vec::new();
    for table in table.tables("role", sink).into_iter().flatten() {
        rules.extend(rule(table, sink));
    }
    if remote.is_some() && rules.iter().all(|rule: &RoleRule| rule.certificates.is_empty()) {
        let message = "no [[agent.api.role]] names a certificate: nobody can do anything over TCP";
        sink.warning(Some(table.span.clone()), message.to_owned());
    }
    table.finish(sink);
    ApiSpec { socket_group, remote, rules }
}

fn rule(mut table: Table<'_, '_>, sink: &mut Sink<'_>) -> Option<RoleRule> {
    "[[agent.api.role]]".clone_into(&mut table.name);
    let access = table.parsed("role", sink, |text| match text {
        "viewer" => Ok(Access::Viewer),
        "operator" => Ok(Access::Operator),
        "admin" => Ok(Access::Admin),
        _ => Err(Unreadable(format!("`{text}` is no role; write \"viewer\", \"operator\" or \"admin\""))),
    });
    table.missing("role", "write role = \"viewer\", \"operator\" or \"admin\"", sink);
    let mut names = |key, parse: fn(&str) -> Result<String, Unreadable>| -> Vec<String> {
        table.parsed_all(key, sink, parse).into_iter().map(|At { value, .. }| value).collect()
    };
    let (users, groups) = (names("users", account), names("groups", account));
    let certificates = names("certificates", certificate);
    if users.is_empty() && groups.is_empty() && certificates.is_empty() {
        let help = "name users, groups (of the unix socket) or certificates (of TCP)";
        sink.error(Some(table.span.clone()), "a role that nobody has".to_owned(), help);
    }
    table.finish(sink);
    Some(RoleRule { access: value(access)?, users, groups, certificates })
}

/// A user or a group: whether it exists is looked up when the agent starts, not here.
fn account(text: &str) -> Result<String, Unreadable> {
    let fits = !text.is_empty() && !text.contains([':', '/', '\0']) && !text.contains(char::is_whitespace);
    fits.then(|| text.to_owned())
        .ok_or_else(|| Unreadable(format!("`{text}` is no user or group; write its name or its number")))
}

fn certificate(text: &str) -> Result<String, Unreadable> {
    let known = ["cn:", "dns:", "uri:", "email:", "ip:"];
    let fits = known.iter().any(|kind| text.strip_prefix(kind).is_some_and(|name| !name.is_empty()));
    fits.then(|| text.to_owned()).ok_or_else(|| {
        Unreadable(format!(
            "`{text}` is no name in a certificate; write \"dns:ci.example.com\", \"uri:spiffe://...\", \"cn:deploy\", \"email:...\" or \"ip:...\""
        ))
    })
}
