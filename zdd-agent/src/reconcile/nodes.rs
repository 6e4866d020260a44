//! All backends on one machine, in all services, drained together before it goes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::Reconciler;
use super::drains::begin;
use crate::control::{Refused, Target};
use crate::health::Health;
use crate::report::{NodeBackend, NodeReport};
use crate::state::SavedService;

impl Reconciler {
    /// Backends on a node that are not removed: index of the service, and address.
    fn on_node(&self, name: &str) -> Result<Vec<(usize, SocketAddr)>, Refused> {
        let nodes = &self.desired.nodes;
        let Some(node) = nodes.iter().find(|node| node.name == name) else {
            let known: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Refused::not_found(format!(
                "there is no node `{name}`; there are: {known}\nhelp: name it with its addresses in [[node]] of the configuration, then `zdd apply`"
            )));
        };
        let of = |(index, service): (usize, &super::Service)| {
            let here = service.saved.backends.iter().filter(|b| !b.removed && node.has(b.address.ip()));
            here.map(|backend| (index, backend.address)).collect::<Vec<_>>()
        };
        Ok(self.services.iter().enumerate().flat_map(of).collect())
    }

    pub(super) fn drain_node(
        &mut self,
        name: &str,
        deadline: Option<Duration>,
        force: bool,
    ) -> Result<NodeReport, Refused> {
        let members = self.on_node(name)?;
        let touched: BTreeSet<usize> = members.iter().map(|(index, _)| *index).collect();
        let mut alone = Vec::new();
        for index in &touched {
            let leaving: Vec<SocketAddr> =
                members.iter().filter(|(of, _)| of == index).map(|(_, address)| *address).collect();
            self.others_can_take(*index, &leaving)?;
            alone.extend(self.left_alone(*index, &leaving));
        }
        if !alone.is_empty() && !force {
            return Err(Refused::refused(format!(
                "node {name} has the last healthy backends of {}\nhelp: add or mend backends elsewhere, shift the weight away, or use --force: other versions stand in",
                alone.join(", ")
            )));
        }
        self.change_node(name, &members, |service, address| {
            let deadline = deadline.or(service.spec.drain_timeout);
            for backend in service.backends.iter_mut().filter(|b| b.address == address) {
                // One that drains already goes on by its own deadline.
                backend.drain.get_or_insert_with(|| begin(deadline));
            }
        })?;
        let mut report = self.node_report(name, &members);
        if members.is_empty() {
            report.notes.push("no service has a backend there".to_owned());
        }
        report.notes.extend(alone.iter().map(|version| format!("{version} has no healthy backend left")));
        Ok(report)
    }

    pub(super) fn undrain_node(&mut self, name: &str) -> Result<NodeReport, Refused> {
        let members = self.on_node(name)?;
        self.change_node(name, &members, |service, address| {
            service.backends.iter_mut().filter(|b| b.address == address).for_each(|b| b.drain = None);
        })?;
        Ok(self.node_report(name, &members))
    }

    /// Changes all members, persists that at once, and then publishes service after service: a kill in between is finished by the restart.
    fn change_node(
        &mut self,
        name: &str,
        members: &[(usize, SocketAddr)],
        change: impl Fn(&mut SavedService, SocketAddr),
    ) -> Result<(), Refused> {
        let touched: BTreeSet<usize> = members.iter().map(|(index, _)| *index).collect();
        let before: Vec<(usize, SavedService)> =
            touched.iter().map(|index| (*index, self.services[*index].saved.clone())).collect();
        for (index, address) in members {
            change(&mut self.services[*index].saved, *address);
        }
        if let Err(refused) = self.save() {
            for (index, saved) in before {
                self.services[index].saved = saved;
            }
            return Err(refused);
        }
        tracing::info!(node = name, services = touched.len(), backends = members.len(), "node");
        touched.into_iter().try_for_each(|index| self.publish(index))
    }

    /// Versions with weight that would have no usable backend for one of their VIPs without those that leave.
    fn left_alone(&self, index: usize, leaving: &[SocketAddr]) -> Vec<String> {
        let service = &self.services[index];
        let mut alone = Vec::new();
        for version in service.saved.spec.versions.iter().filter(|version| version.weight > 0) {
            let usable = |address: &SocketAddr| {
                let known = self.health.get(&(service.name().to_owned(), *address));
                !service.drains(&version.name, *address)
                    && known.map(|(health, _)| *health) != Some(Health::Unhealthy)
            };
            let loses = service.faces.iter().any(|face| {
                let own = service.saved.backends.iter().filter(|b| {
                    b.version == version.name && !b.removed && service.serves(&face.at.vip, &b.address)
                });
                let (go, stay): (Vec<_>, Vec<_>) = own.partition(|b| leaving.contains(&b.address));
                go.iter().any(|b| usable(&b.address)) && !stay.iter().any(|b| usable(&b.address))
            });
            if loses {
                alone.push(format!("{}/{}", service.name(), version.name));
            }
        }
        alone
    }

    fn node_report(&self, name: &str, members: &[(usize, SocketAddr)]) -> NodeReport {
        let mut backends = Vec::new();
        for (index, address) in members {
            let service = &self.services[*index];
            let version = service.saved.backends.iter().find(|b| b.address == *address);
            let target = Target::Backend { service: Some(service.name().to_owned()), address: *address };
            backends.push(NodeBackend {
                service: service.name().to_owned(),
                version: version.map_or(String::new(), |b| b.version.clone()),
                address: *address,
                drain: self.drain_report(*index, &target),
            });
        }
        NodeReport {
            node: name.to_owned(),
            drained: backends.iter().all(|backend| backend.drain.drained),
            left: backends.iter().map(|backend| backend.drain.left).sum(),
            backends,
            notes: Vec::new(),
        }
    }
}
