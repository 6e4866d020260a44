//! What a shift would move: the shift's own code, on a state that is put back.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use zdd_common::entries::{BackendId, FlowKey};
use zdd_common::rules::{self, Sweep};
use zdd_common::steer;

use super::Reconciler;
use super::explain::dialled;
use super::service::Service;
use crate::control::Refused;
use crate::desired::{BasisPoints, FULL};
use crate::report::{CellMove, ClientMove, VersionMove, WhoMoves};
use crate::weights;

impl Reconciler {
    pub(super) fn who_moves(
        &mut self,
        name: &str,
        asked: &[(String, BasisPoints)],
        clients: &[SocketAddr],
        port: Option<u16>,
    ) -> Result<WhoMoves, Refused> {
        let index = self.index_of(name)?;
        let spec = &self.services[index].saved.spec;
        if let Some(client) = clients.iter().find(|client| !spec.vips.iter().any(|vip| vip.serves(client))) {
            return Err(Refused::invalid(format!(
                "{client} is not of the address family of {name}'s VIP {}",
                spec.dialled()
            )));
        }
        for client in clients {
            dialled(name, &spec.vips, client, port)?;
        }
        let weights: Vec<(String, BasisPoints)> =
            spec.versions.iter().map(|v| (v.name.clone(), v.weight)).collect();
        let new = weights::complete(&weights, asked)
            .map_err(|error| Refused::invalid(format!("{name}: {error}")))?;
        let mut notes = Vec::new();
        if let Err(refused) =
            self.guard_health(index, &new, false, &mut notes).and_then(|()| self.guard_filter(false))
        {
            let why = refused.message.lines().next().unwrap_or_default().to_owned();
            notes.push(format!("this shift would be refused without --force: {why}"));
        }

        let service = &mut self.services[index];
        // The cells of all faces, one after the other.
        let cells = |service: &Service| -> Vec<_> {
            service.faces.iter().flat_map(|face| face.cells.iter().copied()).collect()
        };
        let cells_before = cells(service);
        let before: Vec<BackendId> = cells_before.iter().map(|cell| cell.current()).collect();
        // As if. Nothing between here and putting it back can fail or return.
        let saved = service.saved.clone();
        let moved_groups = service.give_weights(&new, &mut notes);
        let rows = service.rows(&self.health);
        service.saved = saved;
        let service = &self.services[index];
        let mut currents = Vec::with_capacity(before.len());
        for (face, (usable, row)) in service.faces.iter().zip(rows) {
            notes.extend(usable.alarm.filter(|_| face.main()));
            currents.extend(row);
        }
        let leading = service.saved.spec.cohorts.iter().filter_map(|cohort| {
            let version = service.saved.rollouts.leads(&cohort.name)?;
            Some(format!(
                "clients of cohort {} stay: their new flows go to {version}, whatever the weights",
                cohort.name
            ))
        });
        notes.extend(leading);
        let previews = service.faces.iter().filter(|face| face.at.preview).filter_map(|face| {
            let version = &service.saved.slots[service.preview_slot(face)?];
            Some(format!(
                "the preview VIP {} stays: its new flows go to {version}, whatever the weights",
                face.at.vip
            ))
        });
        notes.extend(previews);
        // Shares are those of everybody else.
        let row_len = service.saved.spec.cells as usize;
        let counts = |cell: usize| service.faces[cell / row_len].main();
        let all = (0..before.len()).filter(|cell| counts(*cell)).count();

        let after: Vec<BackendId> = cells_before
            .iter()
            .zip(currents)
            .map(|(cell, current)| rules::change(*cell, current).0.current())
            .collect();
        let version_of: BTreeMap<BackendId, &str> =
            service.saved.backends.iter().map(|b| (b.id, b.version.as_str())).collect();
        let version = |id: BackendId| version_of.get(&id).copied();
        let moves = |cell: usize| version(before[cell]) != version(after[cell]);
        let mut pairs: BTreeMap<(Option<&str>, Option<&str>), u32> = BTreeMap::new();
        let mut other_backend_cells = 0;
        for cell in (0..before.len()).filter(|cell| counts(*cell)) {
            if moves(cell) {
                *pairs.entry((version(before[cell]), version(after[cell]))).or_default() += 1;
            } else if before[cell] != after[cell] {
                other_backend_cells += 1;
            }
        }
        let moved_cells: u32 = pairs.values().sum();
        let (live_flows, kept_flows) = self.flows_in(index, moves);
        let told = clients.iter().map(|from| {
            let cell = cell_of(service, *from, port);
            let name = |row: &[BackendId]| {
                cell.and_then(|cell| row.get(cell)).and_then(|id| version(*id)).map(str::to_owned)
            };
            ClientMove { from: *from, before: name(&before), after: name(&after) }
        });
        Ok(WhoMoves {
            service: name.to_owned(),
            generation: service.generation(),
            cells: all as u32,
            moved_cells,
            moved_groups,
            moved_share: fraction(moved_cells as usize, all),
            other_backend_cells,
            versions: weights
                .iter()
                .zip(&new)
                .map(|((name, old), new)| {
                    let share = |row: &[BackendId]| {
                        let of_it = |(cell, id): &(usize, &BackendId)| {
                            counts(*cell) && version(**id) == Some(name.as_str())
                        };
                        fraction(row.iter().enumerate().filter(of_it).count(), all)
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
                let ours = service.mains().any(|face| face.at.vip_id == scan.key.vip());
                let client = SocketAddr::new(scan.key.client.into(), 0);
                if ours
                    && let Some(face) = service.face_of(&client)
                    && scan.word.live()
                {
                    live += 1;
                    let cell = steer::place(&view, &scan.key).cell as usize;
                    kept += u64::from(moves(face * service.saved.spec.cells as usize + cell));
                }
                Sweep::Keep
            });
        }
        (live, kept)
    }
}

/// Place of a client's cell among the cells of all faces.
fn cell_of(service: &Service, from: SocketAddr, port: Option<u16>) -> Option<usize> {
    let number = service.face_of(&from)?;
    let at = &service.faces[number].at;
    let (port, _) = dialled(service.name(), &service.saved.spec.vips, &from, port).ok()?;
    let key = FlowKey::new(from.ip().into(), from.port().to_be(), port.to_be(), at.vip_id);
    let cell = steer::place(&service.view(), &key).cell as usize;
    Some(number * service.saved.spec.cells as usize + cell)
}

fn fraction(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
