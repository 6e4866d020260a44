//! Where a flow goes, and why: by the very `steer` of the packets, over the live cell and the live entry, keeping nothing.

use std::net::SocketAddr;

use zdd_common::entries::{BackendId, Cell, Class, Commit, FlowKey, Positions, ServiceView, State, Word};
use zdd_common::reason::Reason;
use zdd_common::sources::Source;
use zdd_common::steer::{self, Segment, Transport};
use zdd_common::tables::{Found, SteerTables};
use zdd_common::time::{TICK_SHIFT, Tick};

use super::Reconciler;
use crate::admission;
use crate::clock;
use crate::control::Refused;
use crate::desired::Vip;
use crate::report::{Explain, FlowEntry};

impl Reconciler {
    pub(super) fn explain(
        &self,
        name: &str,
        from: SocketAddr,
        port: Option<u16>,
        preview: bool,
    ) -> Result<Explain, Refused> {
        let index = self.index_of(name)?;
        let service = &self.services[index];
        let spec = &service.saved.spec;
        if preview && spec.preview.is_empty() {
            return Err(Refused::invalid(format!(
                "{name} has no preview VIP\nhelp: write one into its [[service]], as preview = \"10.0.0.11:80/tcp\", and `zdd apply`"
            )));
        }
        let (face, vips, kind) = if preview {
            (service.preview_of(&from), spec.preview.as_slice(), "preview VIP")
        } else {
            (service.face_of(&from), spec.vips.as_slice(), "VIP")
        };
        let Some(face) = face.map(|face| &service.faces[face]) else {
            let family = if from.is_ipv4() { "IPv4" } else { "IPv6" };
            let vips: Vec<String> = vips.iter().map(ToString::to_string).collect();
            return Err(Refused::invalid(format!(
                "{name} has no {family} {kind} that {from} could dial: it has {}",
                vips.join(", ")
            )));
        };
        let (port, behind) = dialled(name, vips, &from, port)?;
        let key = FlowKey::new(from.ip().into(), from.port().to_be(), port.to_be(), face.at.vip_id);
        let place = steer::place(&service.view(), &key);
        let cell = face.cells[place.cell as usize];
        let entry = self.dataplane.find_flow(&key, place.table_hash);
        let find = |id: BackendId| service.saved.backends.iter().find(|b| b.id == id);
        // A backend's port goes with that of the VIP.
        let address = |id: BackendId| {
            let mut address = find(id)?.address;
            address.set_port(address.port().wrapping_add(behind));
            Some(address)
        };
        let mut trial = Trial {
            service: service.view(),
            cell,
            entry,
            now_ns: clock::now_ns(),
            udp_fail: self.dataplane.facts(face.at.id).udp_fail,
        };
        let transport = trial.packet(super::service::proto(spec) == zdd_common::net::UDP);
        let steered = steer::steer(&mut trial, face.at.id, &key, transport);
        let chosen = steered.backend;
        let why = because(steered.reason, cell, transport, entry.is_some());
        let now = Tick::from_ns(clock::now_ns());
        let vip = service.mains().find(|main| main.at.vip == face.at.vip).unwrap_or(face);
        let denied = admission::look_up(&vip.sources.1, from.ip())
            .filter(|(_, source)| source.flags & Source::DENIED != 0)
            .map(|(prefix, _)| prefix);
        // Asked before anything else, by the packets, too.
        let martian = zdd_common::net::Addr::from(from.ip()).is_martian();
        let chosen = if denied.is_some() || martian { 0 } else { chosen };
        Ok(Explain {
            service: name.to_owned(),
            from,
            version: find(chosen).map(|b| b.version.clone()),
            backend: address(chosen),
            cell: place.cell,
            group: place.group,
            base: address(cell.base()),
            current: address(cell.current()),
            dirty: cell.dirty(),
            entry: entry.map(|(word, _)| FlowEntry {
                state: if word.is(State::Half) { "half-open" } else { "established" }.to_owned(),
                backend: address(word.backend()),
                alt: if word.single() { None } else { address(word.alt()) },
                last_seen_ms: (u64::from(now.since(word.seen())) << TICK_SHIFT) / 1_000_000,
            }),
            why: match denied {
                _ if martian => {
                    format!(
                        "every packet from {} is dropped ({}): nothing is forwarded from such an address",
                        from.ip(),
                        Reason::DropMartian.name()
                    )
                }
                Some(prefix) => {
                    format!("its access list denies {prefix}: every packet from there is dropped")
                }
                None => why.to_owned(),
            },
            cohort: face.at.cohort.clone(),
            port: (face.at.vip.more > 0).then_some(port),
            preview: preview.then(|| face.at.vip.to_string()),
        })
    }
}

/// The port that a client dials, of the one of these VIPs of a service that it can dial, and how far behind the VIP's first it is.
pub(super) fn dialled(
    service: &str,
    vips: &[Vip],
    from: &SocketAddr,
    port: Option<u16>,
) -> Result<(u16, u16), Refused> {
    let Some(vip) = vips.iter().find(|vip| vip.serves(from)) else { return Ok((0, 0)) };
    let (first, last) = vip.ports();
    let port = port.unwrap_or(first);
    if port < first || port > last {
        return Err(Refused::invalid(format!("nobody dials port {port} there: {service} has {vip}")));
    }
    Ok((port, port - first))
}

/// One flow's part of the live tables. What `steer` would write is forgotten, and there is room for it.
struct Trial {
    service: ServiceView,
    cell: Cell,
    entry: Option<(Word, Positions)>,
    now_ns: u64,
    udp_fail: u64,
}

impl Trial {
    /// The packet that the answer is about: the next one of a connection that is open, or the first of a new one.
    fn packet(&self, udp: bool) -> Transport {
        match self.entry {
            _ if udp => Transport::Udp,
            Some((word, positions)) if !word.fin_seen() => {
                Transport::Tcp(Segment { seq: positions.backend(), ..Segment::default() })
            }
            // Far from every number that the entry knows.
            Some((_, positions)) => {
                let seq = positions.backend().wrapping_add(1 << 31);
                Transport::Tcp(Segment { syn: true, seq, ..Segment::default() })
            }
            None => Transport::Tcp(Segment { syn: true, ..Segment::default() }),
        }
    }
}

/// The reason in a sentence.
fn because(reason: Reason, cell: Cell, transport: Transport, had_entry: bool) -> &'static str {
    match reason {
        Reason::Settled => "its cell is settled: new and old flows without an entry go to base",
        Reason::Entry => "this flow has an entry, so it stays there",
        Reason::Alt => {
            "packets that are not of the connection that its entry knows go to the older one of the tuple"
        }
        Reason::New if had_entry => "its connection was closed; the next one from this port goes to current",
        Reason::New if cell.base() == cell.current() => "its cell is changing, but not its backend",
        Reason::New => {
            "a new flow goes to current; one that began before the change, and has not spoken since, is at base"
        }
        Reason::Learned if transport == Transport::Udp => {
            "its cell changed less than udp_idle_timeout ago: a UDP flow without an entry may be an old one, so it goes to base, and stays"
        }
        Reason::Base => {
            "its cell has settled; entries of others in it are left, this flow has none and goes to base"
        }
        Reason::DropNoBackend => "its cell names no backend: there is none",
        Reason::PassNoService => "its service was never committed",
        _ => "an entry could not be made, so it goes to base",
    }
}

impl SteerTables for Trial {
    type Slot = ();

    fn now_ns(&mut self) -> u64 {
        self.now_ns
    }

    fn service(&mut self, _id: u16) -> Option<ServiceView> {
        Some(self.service)
    }

    fn commit(&mut self, _id: u16) -> Commit {
        Commit::new(0, 1)
    }

    fn cell(&mut self, _index: u32) -> Option<Cell> {
        Some(self.cell)
    }

    fn syn_seen(&mut self, _hash: u64, _now: Tick) -> bool {
        false
    }

    fn udp_fail(&mut self, _service: u16) -> u64 {
        self.udp_fail
    }

    fn note_failure(&mut self, _service: u16, _now_ns: u64, _udp: bool) {}

    fn find(&mut self, _key: &FlowKey, _hash: u64) -> Found<()> {
        self.entry.map_or(Found::None, |(word, positions)| Found::Live((), word, positions))
    }

    fn insert(&mut self, _key: &FlowKey, _hash: u64, _word: Word, _positions: Positions) -> bool {
        true
    }

    fn update(&mut self, _slot: (), _old: Word, _new: Word) -> bool {
        true
    }

    fn advance(&mut self, _slot: (), _old: Positions, _new: Positions) {}

    fn replace(&mut self, _slot: (), _old: Word, _new: Word, _positions: Positions) -> bool {
        true
    }

    fn take(&mut self, _class: Class) -> bool {
        true
    }

    fn give(&mut self, _class: usize) {}
}
