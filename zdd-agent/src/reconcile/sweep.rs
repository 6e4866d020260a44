//! Sweeping as the loop does it: what of the services a sweep must know, what they learn from it, and forgetting that a
//! settled cell may have entries once none was found.

use zdd_common::entries::Cell;
use zdd_common::rules;

use super::Reconciler;
use super::service;
use super::table::{self, Seen, Swept};
use crate::state::SavedBackend;

/// A flow table that nothing has been in for so long is not kept in the agent's memory.
const QUIET_NS: u64 = 10_000_000_000;

impl Reconciler {
    pub(super) fn sweep(&mut self, now: u64) {
        if self.dataplane.any_flows() {
            self.flows_seen = now;
        } else if now.saturating_sub(self.flows_seen) > QUIET_NS {
            self.dataplane.let_flows_go();
        }
        let of: Vec<(usize, usize)> = (0..self.services.len())
            .flat_map(|index| (0..self.services[index].faces.len()).map(move |face| (index, face)))
            .collect();
        let services: Vec<Swept<'_>> = of.iter().map(|of| self.swept(*of)).collect();
        let steady: Vec<bool> = services.iter().map(|service| service.steady).collect();
        let used = self.dataplane.quotas().used;
        let seen = if self.dataplane.any_flows() {
            let all = used.iter().map(|n| *n as i64).sum::<i64>();
            let pressure = all > (self.dataplane.flow_capacity() / 2) as i64;
            let seen = table::sweep(&self.dataplane, &services, pressure, now);
            self.correct_drift(seen.counted, used);
            seen
        } else {
            let seen = Seen::nothing(&services);
            self.drift = [0; 3];
            seen
        };
        self.totals = seen.totals;
        for service in &mut self.services {
            let flows = service.saved.backends.iter().map(|b| (b.id, seen.flows(b.id)));
            service.flows = flows.filter(|(_, flows)| *flows > 0).collect();
            service.swept = now;
        }
        for (of, (kept, steady)) in of.into_iter().zip(seen.kept.iter().zip(steady)) {
            self.forget(of, kept, steady);
        }
    }

    fn swept(&self, (index, face): (usize, usize)) -> Swept<'_> {
        let service = &self.services[index];
        let face = &service.faces[face];
        let gone = |b: &&SavedBackend| self.let_go(index, b) || service.given_up.contains(&b.id);
        Swept {
            vip: face.at.vip_id,
            view: service.view(),
            times: service.times,
            cells: &face.cells,
            udp: service::proto(&service.saved.spec) == zdd_common::net::UDP,
            steady: self.epochs.over(face.committed),
            track: face.lookup,
            let_go: service.saved.backends.iter().filter(gone).map(|b| b.id).collect(),
            row: face.at.id,
            members: face.at.cohort.is_none().then_some(&face.members),
        }
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
        if !steady || !service.faces[face].lookup || !cells.iter().any(forgettable) {
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
