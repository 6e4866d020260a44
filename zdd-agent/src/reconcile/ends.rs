//! VIPs and backends that go, and what of them another service has from then on.

use std::collections::{HashMap, HashSet};

use super::Reconciler;
use super::face::{Face, Of};
use super::service::Service;
use crate::dataplane::{DataplaneError, Ends};

impl Reconciler {
    /// Takes everything of a service that is not among ours any more out of the maps, except what another has meanwhile.
    pub(super) fn bury(&mut self, service: Service) {
        let spec = &service.saved.spec;
        // The VIPs first: from then on nothing is steered, and the rest is nobody's.
        let vips = service.faces.iter().filter(|face| face.at.cohort.is_none()).map(Face::ends);
        let backends = service.saved.backends.iter().map(|backend| service.backend_ends(&backend.address));
        self.forget_ends(vips.chain(backends).collect());
        service.remove_sets(&mut self.dataplane, &mut self.epochs);
        let epoch = self.epochs.commit();
        for (place, face) in (1..).zip(&service.faces) {
            let (start, len) = face.row();
            self.epochs.rows.remove(start, len, place, epoch);
        }
        self.ids.forget();
        tracing::info!(service = spec.name, "removed: what dials it is not steered any more");
    }

    /// Forgets VIPs and backends, in this order, and sees that what a service of ours has is known as that service's.
    pub(super) fn forget_ends(&mut self, gone: Vec<Ends>) {
        let at = |ends: &Ends| (ends.first.addr, ends.first.proto);
        let ports = |ends: &Ends| {
            let first = u16::from_be(ends.first.port);
            first..=first.saturating_add(ends.more)
        };
        let mut by_address: HashMap<_, Vec<&Ends>> = HashMap::new();
        for ends in &gone {
            by_address.entry(at(ends)).or_default().push(ends);
        }
        let touched = |own: &Ends| {
            let same = by_address.get(&at(own)).map(Vec::as_slice).unwrap_or_default();
            let meets = |other: &&Ends| {
                let (own, other) = (ports(own), ports(other));
                own.start() <= other.end() && other.start() <= own.end()
            };
            same.iter().any(meets)
        };
        let mut kept = HashSet::new();
        let (mut vips, mut backends) = (Vec::new(), Vec::new());
        for (index, service) in self.services.iter().enumerate() {
            for (place, face) in service.faces.iter().enumerate().filter(|(_, f)| f.at.cohort.is_none()) {
                // What was never published is nobody's yet.
                if touched(&face.ends()) && !face.fresh() {
                    kept.insert(face.ends());
                    vips.push((index, place));
                }
            }
            for (place, backend) in service.saved.backends.iter().enumerate() {
                let ends = service.backend_ends(&backend.address);
                if touched(&ends) {
                    kept.insert(ends);
                    backends.push((index, place));
                }
            }
        }
        for ends in gone.iter().filter(|ends| !kept.contains(*ends)) {
            self.dataplane.remove_ends(*ends);
        }
        // Ranges that meet share prefixes, and a backend's word named the one that goes.
        for (index, place) in vips {
            let service = &self.services[index];
            let of = Of { name: service.name(), rate: service.rate(), maps: service.maps() };
            let done = service.faces[place].write_vip(&mut self.dataplane, &of);
            if let Err(error) = done {
                tracing::error!(service = self.services[index].name(), "{error}");
            }
        }
        for (index, place) in backends {
            if let Err(error) = self.write_known_backend(index, place) {
                tracing::error!(service = self.services[index].name(), "{error}");
            }
        }
    }

    /// Makes one of a service's backends known, with the next hop that is known of it.
    pub(super) fn write_known_backend(&mut self, index: usize, place: usize) -> Result<(), DataplaneError> {
        let address = self.services[index].saved.backends[place].address;
        let hop = match self.hops.get(&address.ip()).cloned() {
            Some(state) => self.hop_word(&state),
            None => Default::default(),
        };
        self.services[index].write_backend(&mut self.dataplane, place, hop, &self.desired.agent.encap)
    }
}
