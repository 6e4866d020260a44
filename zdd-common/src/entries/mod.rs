//! What the maps hold. Everything that both sides change is one aligned word.

mod flow;

pub use flow::{CLASSES, Class, FlowKey, Positions, State, Word};

use crate::hash::HashKey;
use crate::net::Addr;
use crate::pace::Pace;
use crate::signals::Rate;

/// A backend's dense id; 0 is none and its slot is never filled.
pub type BackendId = u16;

/// Where a service's current row of cells begins, and which generation it is: the commit point, one word.
///
/// Bits 0-31: index of the row's first cell; 32-63: generation, counted from 1. A packet reads it once, so it sees one
/// whole generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Commit(pub u64);

impl Commit {
    /// A commit of the row that begins at cell `row`.
    #[inline(always)]
    pub const fn new(row: u32, generation: u32) -> Self {
        Self(row as u64 | (generation as u64) << 32)
    }

    /// Index of the row's first cell.
    #[inline(always)]
    pub const fn row(self) -> u32 {
        self.0 as u32
    }

    /// Generation, from 1; 0 is a service that was never committed.
    #[inline(always)]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Which hash chooses what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Affinity {
    /// Group and backend from the flow.
    Flow = 0,
    /// Group and backend from the client's address.
    Client = 1,
    /// Group (so version) from the client's address, backend from the flow.
    ClientVersion = 2,
}

/// How packets reach a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Rewrites the MAC addresses.
    L2 = 0,
    /// Rewrites the destination; replies are rewritten on their way back.
    Nat = 1,
    /// Puts an IP header to the backend in front; it takes it off and answers directly.
    Ipip = 2,
    /// Rewrites both ends: the backend sees an address and port of ours.
    Snat = 3,
}

/// One service: a cache line of its own. Only the first word changes while the service lives.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Service {
    /// [`Commit`].
    pub commit: u64,
    /// Key of its hashes: that of all services of the host.
    pub key: HashKey,
    /// Groups A: they decide the version.
    pub groups: u32,
    /// Cells per group B: they spread within a version.
    pub per_group: u32,
    /// [`Affinity`] as a number.
    pub affinity: u32,
    /// A UDP flow silent for this many ticks is gone.
    pub udp_idle: u32,
    /// [`Pace::interval`] of new connections.
    pub new_interval: u32,
    /// [`Pace::burst`] of them.
    pub new_burst: u32,
    /// Room for later fields; 0.
    pub reserved: [u64; 2],
}
wire!(Service, 64, {
    commit: u64, key: HashKey, groups: u32, per_group: u32, affinity: u32, udp_idle: u32, new_interval: u32, new_burst: u32,
    reserved: [u64; 2],
});

/// The fixed fields of a service that steering reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceView {
    /// [`Service::key`].
    pub key: HashKey,
    /// [`Service::groups`].
    pub groups: u32,
    /// [`Service::per_group`].
    pub per_group: u32,
    /// [`Service::affinity`].
    pub affinity: u32,
    /// [`Service::udp_idle`].
    pub udp_idle: u32,
    /// How many new connections one source may open.
    pub pace: Pace,
}

impl Service {
    /// The fields that steering reads.
    #[inline(always)]
    pub const fn view(&self) -> ServiceView {
        let Self { key, groups, per_group, affinity, udp_idle, .. } = *self;
        let pace = Pace { interval: self.new_interval, burst: self.new_burst };
        ServiceView { key, groups, per_group, affinity, udp_idle, pace }
    }
}

/// One cell of a service's row: where a flow without an entry belongs (`base`), where a new one goes (`current`).
///
/// Bits 0-15 base, 16-31 current, 32 DIRTY, 33 LOOKUP, 34 ARMED.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Cell(pub u64);

impl Cell {
    /// Base and current differ or have differed since the cell last settled: new flows get entries.
    pub const DIRTY: u64 = 1 << 32;
    /// Flows of this cell may have entries: look for them. Set with DIRTY, cleared some time after it.
    pub const LOOKUP: u64 = 1 << 33;
    /// A UDP flow without an entry may be an old one: it belongs to base.
    pub const ARMED: u64 = 1 << 34;

    /// A settled cell.
    #[inline(always)]
    pub const fn settled(backend: BackendId) -> Self {
        Self(backend as u64 | (backend as u64) << 16)
    }

    /// A cell with flags (any of the constants above).
    #[inline(always)]
    pub const fn new(base: BackendId, current: BackendId, flags: u64) -> Self {
        Self(base as u64 | (current as u64) << 16 | flags)
    }

    /// Where a flow without an entry belongs.
    #[inline(always)]
    pub const fn base(self) -> BackendId {
        self.0 as u16
    }

    /// Where a new flow goes.
    #[inline(always)]
    pub const fn current(self) -> BackendId {
        (self.0 >> 16) as u16
    }

    /// Whether DIRTY is set.
    #[inline(always)]
    pub const fn dirty(self) -> bool {
        self.0 & Self::DIRTY != 0
    }

    /// Whether LOOKUP is set.
    #[inline(always)]
    pub const fn lookup(self) -> bool {
        self.0 & Self::LOOKUP != 0
    }

    /// Whether ARMED is set.
    #[inline(always)]
    pub const fn armed(self) -> bool {
        self.0 & Self::ARMED != 0
    }

    /// The flags alone.
    #[inline(always)]
    pub const fn flags(self) -> u64 {
        self.0 >> 32 << 32
    }
}

/// What an [`crate::net::End`] is to us.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct EndEntry {
    /// Bits 0-7 [`EndKind`] as a number, 8-15 [`Rate`] of the service's flows that are followed.
    pub kind: u16,
    /// The service.
    pub service: u16,
    /// VIP: a number of its own, part of every flow key. Backend: its id.
    pub id: u16,
    /// Of a `nat` backend: the VIP's port, network byte order. Of a VIP: 0, or how many ports the packet's is behind the first of
    /// its range, host order ([`crate::spans::Span::at`]).
    pub vip_port: u16,
    /// Of a `nat` backend: the VIP's address.
    pub vip: Addr,
    /// Of a VIP: the set of [`crate::sources`] that its packets are looked up in; 0: none.
    pub sources: u32,
    /// 1: of a VIP, that its flows to `nat` backends are mapped as under `snat`, because such a backend's replies tell only one VIP; of a
    /// `nat` backend, that there is such a VIP, so that what it sends to an end of ours is mapped back. Else 0.
    pub mapped: u32,
}
wire!(EndEntry, 32, {
    kind: u16, service: u16, id: u16, vip_port: u16, vip: Addr, sources: u32, mapped: u32,
});

impl EndEntry {
    /// Whether it is of a kind.
    #[inline(always)]
    pub const fn is(&self, kind: EndKind) -> bool {
        self.kind & 0xff == kind as u16
    }

    /// How many of its flows are followed.
    #[inline(always)]
    pub const fn rate(&self) -> Rate {
        Rate((self.kind >> 8) as u8)
    }

    /// With another rate.
    pub const fn with_rate(self, rate: Rate) -> Self {
        Self { kind: self.kind & 0xff | (rate.0 as u16) << 8, ..self }
    }
}

/// What most packets need of a VIP's [`EndEntry`], in one word: bits 0-15 service, 16-31 id, 32-39 [`Rate`], 40: set, so that
/// no VIP's word is 0; 48-63 are a tag of whoever stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct VipWord(pub u64);

impl VipWord {
    const SET: u64 = 1 << 40;

    /// Of an entry, without a tag; `None` if it is none of a VIP or says more than the word holds.
    pub const fn of(entry: &EndEntry) -> Option<Self> {
        if !entry.is(EndKind::Vip) || entry.sources != 0 || entry.vip_port != 0 || entry.mapped != 0 {
            return None;
        }
        let (service, id, rate) = (entry.service as u64, entry.id as u64, entry.rate().0 as u64);
        Some(Self(service | id << 16 | rate << 32 | Self::SET))
    }

    /// The service.
    #[inline(always)]
    pub const fn service(self) -> u16 {
        self.0 as u16
    }

    /// The VIP's number.
    #[inline(always)]
    pub const fn id(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// How many of its flows are followed.
    #[inline(always)]
    pub const fn rate(self) -> Rate {
        Rate((self.0 >> 32) as u8)
    }

    /// The entry that it is of.
    #[inline(always)]
    pub const fn entry(self) -> EndEntry {
        EndEntry {
            kind: EndKind::Vip as u16 | (self.rate().0 as u16) << 8,
            service: self.service(),
            id: self.id(),
            vip_port: 0,
            vip: Addr { hi: 0, lo: 0 },
            sources: 0,
            mapped: 0,
        }
    }
}

/// Kinds of known ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum EndKind {
    /// A VIP: what arrives for it is steered.
    Vip = 1,
    /// A backend under `nat`: what it sends is rewritten back.
    NatBackend = 2,
    /// An address that a VIP has, under port and protocol 0: tells whose a packet without readable ports may be.
    Address = 3,
    /// A backend under `snat`: what it sends to one of our ports is rewritten back.
    SnatBackend = 4,
}

/// One backend: a cache line. Written before any cell names it; only `next_hop` changes afterwards.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Backend {
    /// Address.
    pub addr: Addr,
    /// [`NextHop`], one word.
    pub next_hop: u64,
    /// Port, network byte order.
    pub port: u16,
    /// [`Mode`] as a number.
    pub mode: u16,
    /// Number of its service, for whoever reads a dump.
    pub service: u32,
    /// `ipip`: source of outer headers, of [`Backend::addr`]'s family; its varied bits are 0.
    pub source: Addr,
    /// `ipip`: the bits of the source's last four bytes that the flow's hash fills, host order.
    pub spread: u32,
    /// 0.
    pub reserved: [u32; 3],
}
wire!(Backend, 64, {
    addr: Addr, next_hop: u64, port: u16, mode: u16, service: u32, source: Addr, spread: u32, reserved: [u32; 3],
});

/// Where frames for a backend go: its MAC in bytes 0-5, a port number (index of [`Port`]) in bytes 6-7, native order;
/// 0 is unresolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NextHop(pub u64);

impl NextHop {
    /// A resolved next hop. Port 0 is never used, so the word is never 0.
    #[inline(always)]
    pub const fn new(mac: [u8; 6], port: u16) -> Self {
        let [a, b, c, d, e, f] = mac;
        let [p, q] = port.to_ne_bytes();
        Self(u64::from_ne_bytes([a, b, c, d, e, f, p, q]))
    }

    /// The MAC address.
    #[inline(always)]
    pub const fn mac(self) -> [u8; 6] {
        let [a, b, c, d, e, f, _, _] = self.0.to_ne_bytes();
        [a, b, c, d, e, f]
    }

    /// Index of the [`Port`].
    #[inline(always)]
    pub const fn port(self) -> u16 {
        let [.., p, q] = self.0.to_ne_bytes();
        u16::from_ne_bytes([p, q])
    }
}

/// An interface that frames leave by. One word is not enough, so a slot is written once and not reused while the agent
/// lives; an interface whose MAC changes gets a new slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Port {
    /// Its MAC address.
    pub mac: [u8; 6],
    /// [`Port::STACK`], [`Port::TX`].
    pub flags: u16,
    /// Interface index.
    pub ifindex: u32,
    /// The VLANs that the next hops behind it are in, as [`crate::frame::Frame::tags`]; 0: untagged. A frame leaves with the
    /// tags that it came with, so only one of the same VLANs may leave here.
    pub tags: u32,
    /// Bytes of the largest IP packet that it sends; 0: not known, nothing is too big.
    pub mtu: u32,
}
wire!(Port, 20, { mac: [u8; 6], flags: u16, ifindex: u32, tags: u32, mtu: u32 });

impl Port {
    /// The device cannot take redirected frames: rewritten packets go up the stack, which forwards them.
    pub const STACK: u16 = 1;
    /// A frame that leaves where it came in is bounced (XDP_TX), not redirected. Not for veths: a bounced frame
    /// vanishes where the peer has no XDP program.
    pub const TX: u16 = 2;
}

/// Facts that the kernel writes about a service; the agent only reads them. Times are nanoseconds since boot, 0: never.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Facts {
    /// An entry could not be made: the settle clock of the service's cells starts again.
    pub last_fail: u64,
    /// The same for UDP: flows without an entry belong to base for one `udp_idle` from then.
    pub udp_fail: u64,
    /// How often.
    pub fails: u64,
    /// 0.
    pub reserved: [u64; 5],
}
wire!(Facts, 64, { last_fail: u64, udp_fail: u64, fails: u64, reserved: [u64; 5] });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_next_hop_keeps_mac_and_port() {
        let hop = NextHop::new([2, 0, 0, 0xfe, 1, 9], 0x1234);
        assert_eq!((hop.mac(), hop.port()), ([2, 0, 0, 0xfe, 1, 9], 0x1234));
    }
}
