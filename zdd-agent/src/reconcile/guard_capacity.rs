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
        let Self { services, dataplane, loads, cohort_loads, .. } = self;
        for service in services.iter() {
            if service.saved.spec.capacity.is_none_or(|capacity| capacity.new_flows.is_none()) {
                continue;
            }
            let live = service.saved.backends.iter().map(|b| dataplane.backend_counters(b.id).new_flows);
            let retired = service.saved.retired.values().map(|retired| retired.counters().new_flows);
            loads.entry(service.name().to_owned()).or_default().look(now, live.chain(retired).sum());
            for cohort in &service.saved.spec.cohorts {
                let key = (service.name().to_owned(), cohort.name.clone());
                let begun = service.begun_by(&cohort.name, dataplane);
                cohort_loads.entry(key).or_default().look(now, begun);
            }
        }
        loads.retain(|name, _| services.iter().any(|service| service.name() == name));
        let known = |of: &str, name: &str| {
            let mut services = services.iter().filter(|service| service.name() == of);
            services.any(|service| service.saved.spec.cohorts.iter().any(|cohort| cohort.name == name))
        };
        cohort_loads.retain(|(of, name), _| known(of, name));
    }

    /// Refuses a rise of a weight that the version's usable backends could not bear. `leading`: the cohorts whose flows come to the
    /// candidate besides.
    pub(super) fn guard_capacity(
        &self,
        index: usize,
        (vip, leading): (&Vip, &[String]),
        new: &[BasisPoints],
        force: bool,
        notes: &mut Vec<String>,
    ) -> Result<(), Refused> {
        let service = &self.services[index];
        let Some(capacity) = &service.saved.spec.capacity else { return Ok(()) };
        let load = self.loads.get(service.name()).and_then(capacity::Load::per_second);
        let of =
            |name: &String| self.cohort_loads.get(&(service.name().to_owned(), name.clone()))?.per_second();
        let led: f64 = leading.iter().filter_map(of).sum();
        let rest = load.map(|load| (load - led).max(0.0));
        let candidate = service.saved.rollouts.active().map(|rollout| rollout.plan.candidate.as_str());
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
            let besides = if candidate == Some(version.name.as_str()) { led } else { 0.0 };
            let Some(why) = capacity::too_much(capacity, (able, all), *weight, rest, besides) else {
                continue;
            };
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
