//! Sweeping as the loop does it: what of the services a sweep must know, what they learn from it, and forgetting that a
//! settled cell may have entries once none was found.

use zdd_common::entries::Cell;
use zdd_common::rules;

use super::Reconciler;
use super::service;
use super::table::{self, Seen, Swept};

impl Reconciler {
    pub(super) fn sweep(&mut self, now: u64) {
        let services: Vec<Swept<'_>> = (0..self.services.len()).map(|index| self.swept(index)).collect();
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
        for (index, (kept, steady)) in seen.kept.iter().zip(steady).enumerate() {
            self.forget(index, kept, steady);
        }
    }

    fn swept(&self, index: usize) -> Swept<'_> {
        let service = &self.services[index];
        let gone = service.saved.backends.iter().filter(|b| self.let_go(index, b));
        Swept {
            vip: service.saved.vip_id,
            view: service.view(),
            times: service.times,
            cells: &service.cells,
            udp: service::proto(&service.saved.spec) == zdd_common::net::UDP,
            steady: self.epochs.over(service.committed),
            track: service.lookup,
            let_go: gone.map(|b| b.id).collect(),
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
    fn forget(&mut self, index: usize, kept: &[bool], steady: bool) {
        let service = &self.services[index];
        let forgettable = |cell: &Cell| !cell.dirty() && cell.lookup();
        if !steady || !service.lookup || !service.cells.iter().any(forgettable) {
            return;
        }
        let cells: Vec<Cell> = service
            .cells
            .iter()
            .zip(kept)
            .map(|(cell, kept)| if *kept { *cell } else { rules::forget(*cell) })
            .collect();
        let Self { services, dataplane, epochs, .. } = self;
        if let Err(error) = services[index].publish(dataplane, epochs, cells) {
            tracing::error!(service = services[index].name(), %error, "lookups are not switched off");
        }
    }
}
