//! `[[node]]` sections.

use super::problems::Sink;
use super::reader::{At, Table};
use crate::desired::NodeSpec;
use crate::prefix::Prefix;
use crate::text::Unreadable;

const ADDRESSES_HELP: &str = "write addresses = [\"10.1.1.0/24\"], or a single address as \"10.1.1.7/32\"";

pub(super) fn read(top: &mut Table<'_, '_>, sink: &mut Sink<'_>) -> Vec<NodeSpec> {
    let mut nodes: Vec<NodeSpec> = Vec::new();
    for mut table in top.tables("node", sink).into_iter().flatten() {
        let name = table.parsed("name", sink, name);
        table.missing("name", "write name = \"worker-1\"", sink);
        let addresses: Vec<At<Prefix>> = table.parsed_all("addresses", sink, str::parse);
        table.missing("addresses", ADDRESSES_HELP, sink);
        for At { value, span } in &addresses {
            if let Some(other) = nodes.iter().find(|node| node.addresses.contains(value)) {
                let message = format!("{value} is on node `{}` already", other.name);
                sink.error(Some(span.clone()), message, "an address is on one node");
            }
        }
        table.finish(sink);
        let Some(At { value: name, span }) = name else { continue };
        if nodes.iter().any(|node| node.name == name) {
            sink.error(Some(span), format!("node `{name}` is there twice"), "give each a name of its own");
        }
        nodes.push(NodeSpec { name, addresses: addresses.into_iter().map(|at| at.value).collect() });
    }
    nodes
}

/// As Kubernetes and DNS spell hosts.
fn name(text: &str) -> Result<String, Unreadable> {
    let fits = (1..=253).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    fits.then(|| text.to_owned()).ok_or_else(|| {
        Unreadable(format!("`{text}` is no name of a node; write 1 to 253 of a-z, A-Z, 0-9, `.`, `_`, `-`"))
    })
}
