//! What a shift would move: the shift's own code, on a state that is put back.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use zdd_common::entries::{BackendId, FlowKey};
use zdd_common::rules::{self, Sweep};
use zdd_common::steer;

use super::Reconciler;
use super::service::Service;
use crate::control::Refused;
use crate::desired::{BasisPoints, FULL};
use crate::plan;
use crate::report::{CellMove, ClientMove, VersionMove, WhoMoves};
use crate::weights;

impl Reconciler {
    pub(super) fn who_moves(
        &mut self,
        name: &str,
        asked: &[(String, BasisPoints)],
        clients: &[SocketAddr],
    ) -> Result<WhoMoves, Refused> {
        let index = self.index_of(name)?;
        let spec = &self.services[index].saved.spec;
        let vip = spec.vip;
        if let Some(client) = clients.iter().find(|client| client.is_ipv4() != vip.addr.is_ipv4()) {
            return Err(Refused::invalid(format!(
                "{client} is not of the address family of {name}'s VIP {vip}"
            )));
        }
        let weights: Vec<(String, BasisPoints)> =
            spec.versions.iter().map(|v| (v.name.clone(), v.weight)).collect();
        let new = weights::complete(&weights, asked)
            .map_err(|error| Refused::invalid(format!("{name}: {error}")))?;
        let mut notes = Vec::new();
        if let Err(refused) = self.guard(index, &new, false, &mut notes) {
            let why = refused.message.lines().next().unwrap_or_default().to_owned();
            notes.push(format!("this shift would be refused without --force: {why}"));
        }

        let service = &mut self.services[index];
        let before: Vec<BackendId> = service.cells.iter().map(|cell| cell.current()).collect();
        // As if. Nothing between here and putting it back can fail or return.
        let saved = service.saved.clone();
        let moved_groups = service.give_weights(&new, &mut notes);
        let usable = plan::usable(&service.candidates(&self.health), &service.preference());
        let row = service.row(&usable);
        service.saved = saved;
        let service = &self.services[index];
        notes.extend(usable.alarm);

        let after: Vec<BackendId> = service
            .cells
            .iter()
            .zip(row)
            .map(|(cell, current)| rules::change(*cell, current).0.current())
            .collect();
        let version_of: BTreeMap<BackendId, &str> =
            service.saved.backends.iter().map(|b| (b.id, b.version.as_str())).collect();
        let version = |id: BackendId| version_of.get(&id).copied();
        let moves = |cell: usize| version(before[cell]) != version(after[cell]);
        let mut pairs: BTreeMap<(Option<&str>, Option<&str>), u32> = BTreeMap::new();
        let mut other_backend_cells = 0;
        for cell in 0..before.len() {
            if moves(cell) {
                *pairs.entry((version(before[cell]), version(after[cell]))).or_default() += 1;
            } else if before[cell] != after[cell] {
                other_backend_cells += 1;
            }
        }
        let moved_cells: u32 = pairs.values().sum();
        let (live_flows, kept_flows) = self.flows_in(index, moves);
        let told = clients.iter().map(|from| {
            let cell = cell_of(service, *from);
            let name = |row: &[BackendId]| row.get(cell).and_then(|id| version(*id)).map(str::to_owned);
            ClientMove { from: *from, before: name(&before), after: name(&after) }
        });
        Ok(WhoMoves {
            service: name.to_owned(),
            generation: service.generation.into(),
            cells: service.saved.spec.cells,
            moved_cells,
            moved_groups,
            moved_share: fraction(moved_cells as usize, before.len()),
            other_backend_cells,
            versions: weights
                .iter()
                .zip(&new)
                .map(|((name, old), new)| {
                    let share = |row: &[BackendId]| {
                        fraction(
                            row.iter().filter(|id| version(**id) == Some(name.as_str())).count(),
                            row.len(),
                        )
                    };
                    VersionMove {
                        name: name.clone(),
                        asked_before: f64::from(*old) / f64::from(FULL),
                        asked_after: f64::from(*new) / f64::from(FULL),
                        share_before: share(&before),
                        share_after: share(&after),
                    }
                })
                .collect(),
            moves: pairs
                .into_iter()
                .map(|((from, to), cells)| CellMove {
                    from: from.map(str::to_owned),
                    to: to.map(str::to_owned),
                    cells,
                })
                .collect(),
            live_flows,
            kept_flows,
            clients: told.collect(),
            notes,
        })
    }

    /// Live entries of a service, and those among them whose cell is one that `moves`.
    fn flows_in(&self, index: usize, moves: impl Fn(usize) -> bool) -> (u64, u64) {
        let service = &self.services[index];
        let view = service.view();
        let (mut live, mut kept) = (0, 0);
        if self.dataplane.any_flows() {
            self.dataplane.sweep(|scan| {
                if scan.word.live() && scan.key.vip() == service.saved.vip_id {
                    live += 1;
                    kept += u64::from(moves(steer::place(&view, &scan.key).cell as usize));
                }
                Sweep::Keep
            });
        }
        (live, kept)
    }
}

fn cell_of(service: &Service, from: SocketAddr) -> usize {
    let vip = service.saved.spec.vip;
    let key = FlowKey::new(from.ip().into(), from.port().to_be(), vip.port.to_be(), service.saved.vip_id);
    steer::place(&service.view(), &key).cell as usize
}

fn fraction(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
