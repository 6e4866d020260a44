//! No weight rises beyond what the version's healthy backends bear.

use std::time::Instant;

use super::Reconciler;
use crate::capacity;
use crate::control::Refused;
use crate::desired::{BasisPoints, Vip};

impl Reconciler {
    /// Looks at how many new flows services have whose backends bear only so many.
    pub(super) fn look_at_load(&mut self) {
        let now = Instant::now();
        let Self { services, dataplane, loads, .. } = self;
        for service in services.iter() {
            if service.saved.spec.capacity.is_none_or(|capacity| capacity.new_flows.is_none()) {
                continue;
            }
            let live = service.saved.backends.iter().map(|b| dataplane.backend_counters(b.id).new_flows);
            let retired = service.saved.retired.values().map(|retired| retired.counters().new_flows);
            loads.entry(service.name().to_owned()).or_default().look(now, live.chain(retired).sum());
        }
        loads.retain(|name, _| services.iter().any(|service| service.name() == name));
    }

    /// Refuses a rise of a weight that the version's usable backends could not bear.
    pub(super) fn guard_capacity(
        &self,
        index: usize,
        vip: &Vip,
        new: &[BasisPoints],
        force: bool,
        notes: &mut Vec<String>,
    ) -> Result<(), Refused> {
        let service = &self.services[index];
        let Some(capacity) = &service.saved.spec.capacity else { return Ok(()) };
        let load = self.loads.get(service.name()).and_then(capacity::Load::per_second);
        let usable = service.usable(vip, &self.health);
        for (version, weight) in service.saved.spec.versions.iter().zip(new) {
            if *weight <= version.weight {
                continue;
            }
            let slot = service.saved.slots.iter().position(|name| *name == version.name);
            let able = slot.and_then(|slot| usable.backends.get(slot)).map_or(0, Vec::len);
            let own = |b: &&crate::state::SavedBackend| {
                b.version == version.name && !b.removed && service.serves(vip, &b.address)
            };
            let all = service.saved.backends.iter().filter(own).count();
            let Some(why) = capacity::too_much(capacity, able, all, *weight, load) else { continue };
            let what = format!(
                "{}/{} could not bear {}: {why}",
                service.name(),
                version.name,
                crate::text::percent(*weight)
            );
            if !force {
                return Err(Refused::refused(format!("{what}\nhelp: mend or add backends, or use --force")));
            }
            notes.push(what);
        }
        Ok(())
    }
}
