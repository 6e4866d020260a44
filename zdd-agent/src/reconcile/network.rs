//! Interfaces, next hops and this host's addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use zdd_common::entries::{NextHop, Port};

use super::Reconciler;
use crate::dataplane::{Attached, DataplaneError};
use crate::desired::AttachMode;
use crate::doctor::sysctl;
use crate::events::EventKind;
use crate::links::{Link, LinkEvent, matches, underlying, xdp};
use crate::neighbour::{NextHopChange, NextHopState};

/// How long a client's neighbour is kept warm after a reply asked for it, ns.
const WANTED_FOR: u64 = 60_000_000_000;

/// An interface that the configuration names, or that frames leave by.
#[derive(Clone, Debug)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) attached: bool,
    pub(super) note: Option<String>,
}

impl Reconciler {
    pub(super) fn wanted(&self, name: &str) -> bool {
        self.desired.agent.interfaces.iter().any(|pattern| matches(pattern, name))
    }

    pub(super) async fn on_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Appeared(link) => {
                if let Err(error) = self.attach(&link).await {
                    tracing::error!("{error}");
                }
            }
            LinkEvent::Changed { before, after } => {
                if before.mtu != after.mtu {
                    self.recheck_ports();
                }
                if before.name != after.name || before.mac != after.mac {
                    if self.wanted(&before.name) && !self.wanted(&after.name) {
                        self.release(before.index, &before.name);
                    } else if let Err(error) = self.attach(&after).await {
                        tracing::error!("{error}");
                    }
                }
            }
            LinkEvent::Gone(link) => {
                if self.interfaces.remove(&link.index).is_some() {
                    tracing::info!(interface = link.name, "gone");
                    self.events.note(EventKind::Interface, None, format!("{}: gone", link.name), None);
                    if let Err(error) = self.dataplane.detach_interface(link.index) {
                        tracing::warn!("{error}");
                    }
                }
            }
        }
    }

    /// Tells the resolver which neighbours must be known: backends', gateways', and those that replies asked for.
    pub(super) fn follow_addresses(&mut self) {
        let mut addresses: BTreeSet<IpAddr> =
            self.services.iter().flat_map(|s| s.saved.backends.iter().map(|b| b.address.ip())).collect();
        addresses.extend(self.gateways.borrow_and_update().iter());
        addresses.extend(self.wanted.keys());
        self.resolver.set(addresses);
    }

    /// Replies that met no neighbour ask for it here.
    pub(super) fn follow_wanted(&mut self, now: u64) {
        let asked = self.dataplane.take_wanted();
        let before = self.wanted.len();
        self.wanted.retain(|_, until| *until > now);
        let mut changed = before != self.wanted.len();
        for addr in asked {
            changed |= self.wanted.insert(addr, now + WANTED_FOR).is_none();
        }
        if changed {
            self.follow_addresses();
        }
    }

    fn release(&mut self, index: u32, name: &str) {
        self.interfaces.remove(&index);
        match self.dataplane.detach_interface(index) {
            Ok(()) => tracing::info!(interface = name, "detached: no pattern names it any more"),
            Err(error) => tracing::error!("{error}"),
        }
    }

    /// Attaches to an interface if the configuration names it.
    pub(super) async fn attach(&mut self, link: &Link) -> Result<(), DataplaneError> {
        if !self.wanted(&link.name)
            || self.interfaces.get(&link.index).is_some_and(|i| i.attached && i.name == link.name)
        {
            return Ok(());
        }
        let present = xdp::attached(link.index).await.unwrap_or(None);
        let done = self.dataplane.attach(
            (link.index, &link.name),
            self.desired.agent.mode,
            present.map(|x| x.program),
        );
        let note = match &done {
            Ok(how) => {
                self.check_forwarding(&link.name);
                let what = match how {
                    Attached::New => "attached",
                    Attached::Replaced => "attached already: program replaced without a gap",
                };
                tracing::info!(interface = link.name, mode = ?self.desired.agent.mode, "{what}");
                self.events.note(EventKind::Interface, None, format!("{}: {what}", link.name), None);
                self.allow_redirect(link);
                None
            }
            Err(error) => Some(error.to_string().lines().next().unwrap_or_default().to_owned()),
        };
        let interface = Interface { name: link.name.clone(), attached: done.is_ok(), note };
        self.interfaces.insert(link.index, interface);
        done.map(drop)
    }

    /// Warns of settings under which the stack drops what is left to it: frames whose next hop is not known yet, or whose
    /// interface takes no redirects.
    fn check_forwarding(&self, interface: &str) {
        let nat = |v4: bool| {
            self.services.iter().any(|service| {
                service.saved.backends.iter().any(|b| {
                    b.address.is_ipv4() == v4 && service.mode_of(b) == zdd_common::entries::Mode::Nat
                })
            })
        };
        let forwards = |family: &str| sysctl::read(&format!("net/{family}/conf/{interface}/forwarding"));
        for (v4, family, knob) in
            [(true, "ipv4", "net.ipv4.ip_forward"), (false, "ipv6", "net.ipv6.conf.all.forwarding")]
        {
            if nat(v4) && forwards(family) == Some(0) {
                tracing::warn!(
                    interface,
                    "this host does not forward {family}: replies of nat backends are lost (sysctl -w {knob}=1)"
                );
            }
        }
        if !nat(true) {
            return;
        }
        let locals = self.links.locals();
        let own_vip = self
            .services
            .iter()
            .flat_map(|s| s.saved.spec.all_vips())
            .any(|vip| vip.addr.is_ipv4() && locals.borrow().contains(&vip.addr));
        let combined = |name: &str| sysctl::of_interface(interface, name);
        if own_vip && (combined("accept_local") == Some(0) || combined("rp_filter") == Some(1)) {
            tracing::info!(
                interface,
                "replies that the stack must route would be dropped, because the VIP is an address of this host \
                 (sysctl -w net.ipv4.conf.{interface}.accept_local=1 net.ipv4.conf.{interface}.rp_filter=2 lets them pass)"
            );
        }
    }

    /// Whether frames may be redirected to a device; if so, lets the program do it.
    fn allow_redirect(&mut self, link: &Link) -> bool {
        let can = xdp::takes_redirects(
            link.index,
            link.kind.as_deref(),
            self.desired.agent.mode == AttachMode::Generic,
        );
        let done = self.dataplane.set_redirect(link.index, can);
        if let Err(error) = &done {
            tracing::warn!("{error}: its frames go through the stack");
        }
        can && done.is_ok()
    }

    pub(super) fn on_next_hop(&mut self, change: NextHopChange) {
        let NextHopChange { addr, state } = change;
        if let NextHopState::Unresolved { why } = &state {
            tracing::debug!(%addr, why, "next hop");
        }
        // A hop that was known stays in the maps while the kernel asks again: its frames would be lost otherwise, and most
        // often it answers as before.
        let word = self.hop_word(&state);
        self.hops.insert(addr, state);
        if word.0 == 0 {
            return;
        }
        for service in &self.services {
            for backend in service.saved.backends.iter().filter(|b| b.address.ip() == addr) {
                self.dataplane.set_next_hop(backend.id, word);
            }
        }
    }

    /// The word for a backend's slot; 0 while nothing is known.
    pub(super) fn hop_word(&mut self, state: &NextHopState) -> NextHop {
        let NextHopState::Resolved(hop) = state else { return NextHop::default() };
        match self.port(hop.ifindex, hop.source_mac.0) {
            Some(port) => NextHop::new(hop.mac.0, port),
            None => NextHop::default(),
        }
    }

    /// The slot of an interface and its MAC, made if it is new.
    fn port(&mut self, ifindex: u32, mac: [u8; 6]) -> Option<u16> {
        // A VLAN device's frames leave by the interface below it, with its tag.
        let below = underlying(&self.links.links(), ifindex).map(|(link, tags)| (link.clone(), tags));
        let (link, tags) = match below {
            Some((link, tags)) => (Some(link), tags),
            None => (None, 0),
        };
        let ifindex = link.as_ref().map_or(ifindex, |link| link.index);
        if let Some(index) = self.ports.iter().position(|port| *port == (ifindex, mac, tags)) {
            return Some(index as u16 + 1);
        }
        let index = self.ports.len() as u32 + 1;
        if index >= self.dataplane.port_capacity() {
            tracing::error!(
                "no port slot is left: restart the agent (traffic goes on) to reuse those of gone interfaces"
            );
            return None;
        }
        let redirect = link.as_ref().is_some_and(|link| self.allow_redirect(link));
        let veth = link.as_ref().is_some_and(|link| link.kind.as_deref() == Some("veth"));
        let mut flags = 0;
        if !redirect {
            flags |= Port::STACK;
        } else if !veth {
            flags |= Port::TX;
        }
        let generic = self.desired.agent.mode == AttachMode::Generic;
        let mtu = link.map_or(0, |link| xdp::sends(link.index, link.mtu, generic));
        let port = Port { ifindex, flags, mac, tags, mtu };
        if let Err(error) = self.dataplane.set_port(index as u16, port) {
            tracing::error!("{error}");
            return None;
        }
        self.ports.push((ifindex, mac, tags));
        Some(index as u16)
    }

    /// Looks again which veths take redirected frames, which changes with their peer's GRO and nobody announces, and how
    /// large the packets are that each port sends.
    pub(super) fn recheck_ports(&mut self) {
        let links = self.links.links();
        let generic = self.desired.agent.mode == AttachMode::Generic;
        let veth = |link: &&Link| link.kind.as_deref() == Some("veth");
        for (slot, (ifindex, mac, tags)) in self.ports.clone().into_iter().enumerate() {
            let Some(link) = links.get(&ifindex) else { continue };
            let index = slot as u16 + 1;
            let now = self.dataplane.port(index);
            let flags = match veth(&link) {
                false => now.flags,
                true if xdp::takes_redirects(ifindex, Some("veth"), generic) => 0,
                true => Port::STACK,
            };
            let port = Port { ifindex, flags, mac, tags, mtu: xdp::sends(ifindex, link.mtu, generic) };
            if now == port {
                continue;
            }
            if now.flags != flags {
                tracing::info!(
                    interface = link.name,
                    redirect = flags == 0,
                    "its peer changed: frames go another way"
                );
                self.allow_redirect(link);
            }
            if now.mtu != link.mtu {
                tracing::info!(interface = link.name, mtu = link.mtu, "its MTU changed");
            }
            if let Err(error) = self.dataplane.set_port(index, port) {
                tracing::error!("{error}");
            }
        }
        for (index, interface) in &self.interfaces {
            if let Some(link) = links.get(index).filter(veth)
                && interface.attached
            {
                let can = xdp::takes_redirects(*index, Some("veth"), generic);
                // Said already where it matters, at attaching.
                let _ = self.dataplane.set_redirect(link.index, can);
            }
        }
    }

    pub(super) fn write_locals(&mut self, addrs: &BTreeSet<IpAddr>) {
        let addrs: Vec<IpAddr> = addrs.iter().copied().collect();
        if let Err(error) = self.dataplane.set_locals(&addrs) {
            tracing::error!("{error}");
        }
    }
}
