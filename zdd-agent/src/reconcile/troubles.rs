//! What is wrong now, for those who want to be told.

use super::Reconciler;
use super::drains::unix_ms;
use crate::alert::{Kind, Trouble};
use crate::health::Health;
use crate::rollout::machine::Phase;
use crate::text::percent;

/// A rollout that went back is a trouble for so long, or until the next one begins.
const ROLLED_BACK_MS: u64 = 3_600_000;
/// A step that is refused for longer is one that somebody should look at.
const STUCK_MS: u64 = 30_000;
/// The part of a quota of the flow table that is nearly all of it.
const NEARLY: f64 = 0.9;
/// A flow that could not be remembered is a trouble for so long.
const FORGOTTEN_NS: u64 = 60_000_000_000;

impl Reconciler {
    /// Everything that is wrong at this moment.
    pub(super) fn troubles(&self) -> Vec<Trouble> {
        let mut all = Vec::new();
        for index in 0..self.services.len() {
            self.health_troubles(index, &mut all);
            self.rollout_troubles(index, &mut all);
            self.drain_troubles(index, &mut all);
        }
        self.table_troubles(&mut all);
        self.port_troubles(&mut all);
        self.host_troubles(&mut all);
        all
    }

    fn health_troubles(&self, index: usize, all: &mut Vec<Trouble>) {
        let service = &self.services[index];
        let name = || ("service", service.name().to_owned());
        if let Some(alarm) = service.alarm() {
            all.push(Trouble::new(Kind::ServiceAlarm, [name()], alarm));
        }
        for version in &service.saved.spec.versions {
            let members = service
                .saved
                .backends
                .iter()
                .filter(|b| b.version == version.name && !service.backend_drains(b));
            let (mut count, mut failing) = (0, 0);
            for backend in members {
                count += 1;
                let Some((Health::Unhealthy, reason)) =
                    self.health.get(&(service.name().to_owned(), backend.address))
                else {
                    continue;
                };
                failing += 1;
                let labels =
                    [name(), ("version", version.name.clone()), ("backend", backend.address.to_string())];
                let why = reason.clone().unwrap_or_default();
                all.push(Trouble::new(
                    Kind::BackendDown,
                    labels,
                    format!("it fails its health check: {why}"),
                ));
            }
            if count > 0 && count == failing {
                let labels = [name(), ("version", version.name.clone())];
                let text = format!(
                    "all {count} of its backends fail their health checks; it has {} of new flows",
                    percent(version.weight)
                );
                all.push(Trouble::new(Kind::VersionUnhealthy, labels, text));
            }
        }
    }

    fn rollout_troubles(&self, index: usize, all: &mut Vec<Trouble>) {
        let service = &self.services[index];
        let Some(rollout) = &service.saved.rollouts.current else { return };
        let (plan, progress) = (&rollout.plan, &rollout.progress);
        let labels = || {
            [
                ("service", service.name().to_owned()),
                ("version", plan.candidate.clone()),
                ("rollout", plan.id.to_string()),
            ]
        };
        let last = rollout.log.last().map_or(rollout.started_unix_ms, |line| line.unix_ms);
        match &progress.phase {
            Phase::Frozen(why) => {
                let text = format!("it is frozen at {}: {why}", percent(progress.weight));
                all.push(Trouble::new(Kind::RolloutFrozen, labels(), text));
            }
            Phase::RollingBack(why) | Phase::RolledBack(why)
                if !progress.phase.over() || unix_ms().saturating_sub(last) < ROLLED_BACK_MS =>
            {
                all.push(Trouble::new(Kind::RolloutRolledBack, labels(), format!("it went back: {why}")));
            }
            _ => {}
        }
        if let Some(setting) = progress.setting.as_ref().filter(|_| !progress.phase.over())
            && let Some(refused) = &setting.refused
            && rollout.clock_ms.saturating_sub(setting.since_ms) >= STUCK_MS
        {
            let refused = refused.lines().next().unwrap_or_default();
            let text = format!("its step to {} is refused: {refused}", percent(setting.to));
            all.push(Trouble::new(Kind::RolloutStuck, labels(), text));
        }
    }

    fn drain_troubles(&self, index: usize, all: &mut Vec<Trouble>) {
        let service = &self.services[index];
        let mut passed = |target: String, left: u64| {
            let labels = [("service", service.name().to_owned()), ("target", target)];
            let text = format!(
                "its drain's deadline passed before its last flow had ended; {left} entries are left"
            );
            all.push(Trouble::new(Kind::DrainDeadlinePassed, labels, text));
        };
        let flows = |id| service.flows.get(&id).copied().unwrap_or(0);
        for drain in service.saved.draining.iter().filter(|drain| drain.drain.passed) {
            passed(drain.version.clone(), service.ids_of(&drain.version).into_iter().map(flows).sum());
        }
        for backend in &service.saved.backends {
            if backend.drain.is_some_and(|drain| drain.passed) {
                passed(backend.address.to_string(), flows(backend.id));
            }
        }
    }

    fn table_troubles(&self, all: &mut Vec<Trouble>) {
        let quotas = self.dataplane.quotas();
        for (class, name) in ["half-open", "learned", "confirmed"].into_iter().enumerate() {
            let (used, limit) = (quotas.used[class], quotas.limit[class]);
            if limit > 0 && used as f64 >= NEARLY * limit as f64 {
                let text = format!(
                    "{used} of {limit} {name} entries are used: a flood, or raise agent.limits.flows"
                );
                all.push(Trouble::new(Kind::FlowTableFull, [("class", name.to_owned())], text));
            }
        }
        let now = crate::clock::now_ns();
        for service in &self.services {
            let last = service
                .faces
                .iter()
                .map(|face| self.dataplane.facts(face.at.id).last_fail)
                .max()
                .unwrap_or(0);
            if last != 0 && now.saturating_sub(last) < FORGOTTEN_NS {
                let text = "new flows could not be remembered within the last minute: they stay at their base, and the change waits";
                all.push(Trouble::new(
                    Kind::FlowsNotRemembered,
                    [("service", service.name().to_owned())],
                    text,
                ));
            }
        }
    }

    fn port_troubles(&self, all: &mut Vec<Trouble>) {
        if let Some(text) = self.starved() {
            all.push(Trouble::new(Kind::SnatPortsUsedUp, [], text));
        }
    }

    fn host_troubles(&self, all: &mut Vec<Trouble>) {
        let there = |name: &str| self.interfaces.values().any(|interface| interface.name == *name);
        let named =
            self.desired.agent.interfaces.iter().filter(|name| !name.contains(['*', '?']) && !there(name));
        for name in named {
            let labels = [("interface", name.clone())];
            all.push(Trouble::new(Kind::Detached, labels, "the interface is not there"));
        }
        for interface in self.interfaces.values().filter(|i| !i.attached && self.wanted(&i.name)) {
            let why = interface.note.as_deref().unwrap_or("the program is not attached");
            all.push(Trouble::new(Kind::Detached, [("interface", interface.name.clone())], why));
        }
        if let Some(error) = self.store.failing() {
            all.push(Trouble::new(
                Kind::StateNotWritten,
                [("path", self.store.path().display().to_string())],
                error,
            ));
        }
    }
}
