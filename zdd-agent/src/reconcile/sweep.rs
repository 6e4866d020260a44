//! Looking at every entry of the flow table: expiry, restoring, purging, counting; and forgetting that a settled cell
//! may have entries once none was found.

use std::collections::HashMap;

use zdd_common::entries::{BackendId, Cell};
use zdd_common::rules::{self, Sweep};
use zdd_common::steer;

use super::Reconciler;
use super::service;

/// Entries of removed backends that one sweep lets go: their clients reconnect one after another, not all at once.
const PACE: usize = 1000;

/// What a sweep needs of one VIP of a service.
struct Seen {
    /// Place of its service and, there, of its face.
    of: (usize, usize),
    view: zdd_common::entries::ServiceView,
    udp: bool,
    /// The cells may be relied on: their commit is older than a grace period.
    steady: bool,
    let_go: Vec<BackendId>,
    flows: HashMap<BackendId, u64>,
    /// Cells that have an entry which says something else than base.
    kept: Vec<bool>,
}

impl Reconciler {
    pub(super) fn sweep(&mut self, now: u64) {
        let mut seen: Vec<Seen> = (0..self.services.len())
            .flat_map(|index| (0..self.services[index].faces.len()).map(move |face| (index, face)))
            .map(|of| self.prepare(of))
            .collect();
        if self.dataplane.any_flows() {
            self.sweep_table(&mut seen, now);
        } else {
            self.totals = Default::default();
            self.drift = [0; 3];
        }
        for service in &mut self.services {
            service.flows.clear();
            service.swept = now;
        }
        for Seen { of, flows, kept, steady, .. } in seen {
            // A backend serves one family, so that no two faces count the same one.
            self.services[of.0].flows.extend(flows);
            self.forget(of, &kept, steady);
        }
    }

    fn prepare(&self, of: (usize, usize)) -> Seen {
        let (index, face) = of;
        let service = &self.services[index];
        let face = &service.faces[face];
        Seen {
            of,
            view: service.view(),
            udp: service::proto(&service.saved.spec) == zdd_common::net::UDP,
            steady: self.epochs.over(face.committed),
            let_go: service
                .saved
                .backends
                .iter()
                .map(|b| b.id)
                .filter(|id| self.let_go(index, *id) || service.given_up.contains(id))
                .collect(),
            flows: HashMap::new(),
            kept: vec![false; face.cells.len()],
        }
    }

    fn sweep_table(&mut self, seen: &mut [Seen], now: u64) {
        let vip_id = |of: (usize, usize)| self.services[of.0].faces[of.1].at.vip_id;
        let by_vip: HashMap<u16, usize> =
            seen.iter().enumerate().map(|(place, seen)| (vip_id(seen.of), place)).collect();
        let used = self.dataplane.quotas().used;
        let pressure =
            used.iter().map(|n| *n as i64).sum::<i64>() > (self.dataplane.flow_capacity() / 2) as i64;
        let services = &self.services;
        let mut counted = [0i64; 3];
        let mut paced = 0;
        let default_times = services.first().map(|service| service.times);
        self.totals = self.dataplane.sweep(|scan| {
            let word = scan.word;
            counted[word.class_bits().min(2)] += 1;
            let Some(place) = by_vip.get(&scan.key.vip()).copied() else {
                // Of a service that is gone: nobody will look for it.
                let Some(times) = default_times else { return Sweep::Free };
                let nobody = Cell::settled(0);
                let fate = rules::sweep(word, nobody, true, true, &times, now);
                return if fate == Sweep::Keep && word.live() {
                    rules::purge(word, word.backend(), now).unwrap_or(Sweep::Keep)
                } else {
                    fate
                };
            };
            let seen = &mut seen[place];
            let service = &services[seen.of.0];
            let cell_index = steer::place(&seen.view, &scan.key).cell as usize;
            let cell = service.faces[seen.of.1].cells[cell_index];
            let purged = seen.let_go.iter().find_map(|id| rules::purge(word, *id, now));
            let fate = match purged {
                Some(fate) if paced < PACE => {
                    paced += 1;
                    fate
                }
                _ if seen.steady => rules::sweep(word, cell, seen.udp, pressure, &service.times, now),
                _ => Sweep::Keep,
            };
            let stays = match fate {
                Sweep::Keep => word,
                Sweep::Word(new) | Sweep::Restore(new) => new,
                Sweep::Free => return fate,
            };
            if stays.live() {
                *seen.flows.entry(stays.backend()).or_default() += 1;
                if stays.alt_seen() && !stays.single() {
                    *seen.flows.entry(stays.alt()).or_default() += 1;
                }
                if !stays.single() || stays.backend() != cell.base() || stays.alt_seen() {
                    seen.kept[cell_index] = true;
                }
            }
            fate
        });
        self.correct_drift(counted, used);
    }

    /// Entries counted and entries seen differ while packets come and go; a difference that stays the same over two quiet
    /// sweeps is one that a crash left behind.
    fn correct_drift(&mut self, counted: [i64; 3], before: [u64; 3]) {
        let after = self.dataplane.quotas().used;
        for class in 0..3 {
            let quiet = before[class] == after[class];
            let difference = counted[class] - before[class] as i64;
            if quiet && difference != 0 && self.drift[class] == difference {
                tracing::debug!(class, difference, "entries counted wrongly: corrected");
                self.dataplane.correct_quota(class, difference);
                self.drift[class] = 0;
            } else {
                self.drift[class] = if quiet { difference } else { 0 };
            }
        }
    }

    /// Settled cells without an entry of their own need no lookup any more.
    fn forget(&mut self, (index, face): (usize, usize), kept: &[bool], steady: bool) {
        let service = &self.services[index];
        let forgettable = |cell: &Cell| !cell.dirty() && cell.lookup();
        let cells = &service.faces[face].cells;
        if !steady || !cells.iter().any(forgettable) {
            return;
        }
        let without = |(cell, kept): (&Cell, &bool)| if *kept { *cell } else { rules::forget(*cell) };
        let mut rows = vec![None; service.faces.len()];
        rows[face] = Some(cells.iter().zip(kept).map(without).collect());
        let Self { services, dataplane, epochs, .. } = self;
        if let Err(error) = services[index].publish(dataplane, epochs, rows) {
            tracing::error!(service = services[index].name(), %error, "lookups are not switched off");
        }
    }
}
