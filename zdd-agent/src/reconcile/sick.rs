//! UDP flows of backends that are gone. Nobody resets a UDP flow: one that speaks without end would stay for ever with a backend
//! that does not answer. Under `udp = "stick"` a backend that fails its checks keeps its flows for one `udp_idle_timeout`, so
//! that a false alarm costs nothing; then they are let go. Under `"now"` nothing is remembered, and there is nothing to do.

use zdd_common::entries::{BackendId, Cell};
use zdd_common::rules;

use super::Reconciler;
use crate::desired::{Protocol, UdpPolicy};
use crate::health::Health;

impl Reconciler {
    /// Lets go of the flows of UDP backends that have failed their checks for long.
    pub(super) fn give_up_udp(&mut self, now: u64) {
        for index in 0..self.services.len() {
            let spec = &self.services[index].saved.spec;
            if spec.protocol() == Protocol::Udp && spec.udp == UdpPolicy::Stick {
                self.give_up(index, now);
            } else {
                self.services[index].given_up.clear();
            }
        }
    }

    fn give_up(&mut self, index: usize, now: u64) {
        let Self { services, dataplane, epochs, health, .. } = self;
        let service = &mut services[index];
        let name = service.name().to_owned();
        let failing: Vec<BackendId> = service
            .saved
            .backends
            .iter()
            .filter(|b| health.get(&(name.clone(), b.address)).is_some_and(|h| h.0 == Health::Unhealthy))
            .map(|b| b.id)
            .collect();
        service.failing.retain(|id, _| failing.contains(id));
        for id in failing {
            service.failing.entry(id).or_insert(now);
        }
        // One that new flows go to all the same, because every other one fails as well, keeps its flows.
        let takes = |id: BackendId| service.faces.iter().any(|face| face.held(id) > 0);
        let long = |since: u64| now.saturating_sub(since) >= service.times.udp_idle;
        let given_up: Vec<BackendId> = service
            .failing
            .iter()
            .filter(|(id, since)| long(**since) && !takes(**id))
            .map(|(id, _)| *id)
            .collect();
        let fresh = given_up.iter().filter(|id| !service.given_up.contains(id)).count();
        service.given_up = given_up;
        if fresh == 0 {
            return;
        }
        tracing::warn!(
            service = name,
            backends = fresh,
            "no answer to checks for udp_idle_timeout: UDP flows move"
        );
        let without = |cell: &Cell| service.given_up.iter().fold(*cell, |cell, id| rules::remove(cell, *id));
        let rows = service.faces.iter().map(|face| Some(face.cells.iter().map(without).collect())).collect();
        if let Err(error) = service.publish(dataplane, epochs, rows) {
            tracing::error!(service = name, %error, "its flows stay for now");
            // Tried again at the next tick.
            service.given_up.clear();
        }
    }
}
