//! Where a flow goes, and why: the same hashes, cells and entries that the packets use.

use std::net::SocketAddr;

use zdd_common::entries::{BackendId, FlowKey, State};
use zdd_common::steer;
use zdd_common::time::{TICK_SHIFT, Tick};

use super::Reconciler;
use crate::clock;
use crate::control::Refused;
use crate::report::{Explain, FlowEntry};

impl Reconciler {
    pub(super) fn explain(&self, name: &str, from: SocketAddr) -> Result<Explain, Refused> {
        let index = self.index_of(name)?;
        let service = &self.services[index];
        let spec = &service.saved.spec;
        let Some(face) = service.faces.iter().find(|face| face.at.vip.serves(&from)) else {
            let family = if from.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(Refused::invalid(format!(
                "{name} has no {family} VIP that {from} could dial: it has {}",
                spec.dialled()
            )));
        };
        let vip_port = face.at.vip.port.to_be();
        let key = FlowKey::new(from.ip().into(), from.port().to_be(), vip_port, face.at.vip_id);
        let place = steer::place(&service.view(), &key);
        let cell = face.cells[place.cell as usize];
        let entry = self.dataplane.find_flow(&key, place.table_hash);
        let find = |id: BackendId| service.saved.backends.iter().find(|b| b.id == id);
        let address = |id: BackendId| find(id).map(|b| b.address);
        let (chosen, why) = match entry {
            Some(word) => (
                word.backend(),
                format!(
                    "this flow has an entry, so it stays there{}",
                    if word.single() { "" } else { "; packets of an older connection of the same tuple go to alt" }
                ),
            ),
            None if cell.dirty() && cell.base() != cell.current() => (
                cell.current(),
                "a new flow goes to current; one that began before the change, and has not spoken since, is at base".to_owned(),
            ),
            None if cell.dirty() => (cell.current(), "its cell is changing, but not its backend".to_owned()),
            None => (cell.current(), "its cell is settled: new and old flows without an entry go to base".to_owned()),
        };
        let now = Tick::from_ns(clock::now_ns());
        Ok(Explain {
            service: name.to_owned(),
            from,
            version: find(chosen).map(|b| b.version.clone()),
            backend: address(chosen),
            cell: place.cell,
            group: place.group,
            base: address(cell.base()),
            current: address(cell.current()),
            dirty: cell.dirty(),
            entry: entry.map(|word| FlowEntry {
                state: if word.is(State::Half) { "half-open" } else { "established" }.to_owned(),
                backend: address(word.backend()),
                alt: if word.single() { None } else { address(word.alt()) },
                last_seen_ms: (u64::from(now.since(word.seen())) << TICK_SHIFT) / 1_000_000,
            }),
            why,
        })
    }
}
