//! What a decision may ask for. The XDP program answers from BPF maps, the host from collections.

use crate::entries::{
    Backend, BackendId, Cell, Class, Commit, EndEntry, FlowKey, Port, Positions, ServiceView, VipWord, Word,
};
use crate::net::{Addr, DirectKey, End};
use crate::odd::{DatagramKey, Trail};
use crate::pace::{Pace, PaceKey};
use crate::reason::Reason;
use crate::signals::SignalTables;
use crate::snat::Order;
use crate::sources::Source;
use crate::spans::Span;
use crate::time::Tick;

/// Answer of a flow lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<S> {
    /// A live entry; word and positions belong together.
    Live(S, Word, Positions),
    /// An expired entry of the same key, which may be taken over in place.
    Dead(S, Word),
    /// No entry.
    None,
    /// Somebody is writing an entry that may be this key's: nobody else may insert.
    Busy,
}

/// Rules of [`crate::steer`] that the model checker takes out, one at a time, to show that each is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Packets are told apart by their sequence numbers.
    Positions,
    /// Of two positions within reach, the nearer wins.
    NearestWins,
    /// A flow whose first packet on a dirty cell is a FIN gets an entry too.
    FinLearned,
    /// A FIN that confirms a SYN closes nothing yet.
    FinAfterSyn,
    /// A new flow on a dirty cell gets an entry even if current is base.
    InsertAtBase,
    /// A SYN during whose steering the row changed is a known one.
    SameRow,
    /// Without room, a new flow goes to base, or to its tuple's backend, not to current.
    Fallback,
}

/// What [`crate::steer`] needs: cells, flows, SYN filter and the failure facts.
pub trait SteerTables {
    /// Handle of a flow entry, valid for one packet. The default is the handle of none.
    type Slot: Copy + Default + PartialEq;

    /// Nanoseconds since boot, coarse.
    fn now_ns(&mut self) -> u64;
    /// A service's fixed fields, or `None` beyond the map.
    fn service(&mut self, id: u16) -> Option<ServiceView>;
    /// Where the hashes of a service's clients begin: [`crate::hash::HashKey::k0`] of its key. One key is all services' on a host; who
    /// knows it without the service lets the hash be computed while the service is still being fetched.
    #[inline(always)]
    fn hash_start(&mut self, service: &ServiceView) -> u64 {
        service.key.k0
    }
    /// The service's commit word, read now and whole.
    fn commit(&mut self, id: u16) -> Commit;
    /// Both in one look.
    #[inline(always)]
    fn service_now(&mut self, id: u16) -> Option<(ServiceView, Commit)> {
        let service = self.service(id)?;
        Some((service, self.commit(id)))
    }
    /// A cell by its index over all rows, read whole; `None` beyond the map.
    fn cell(&mut self, index: u32) -> Option<Cell>;
    /// Remembers a SYN by its hash and tells whether it was remembered already, by what was remembered lately or by all. Ordered before
    /// every later read.
    fn syn_seen(&mut self, hash: u64, now: Tick) -> bool;
    /// Whether a SYN that [`SteerTables::syn_seen`] just did not know is remembered from earlier.
    fn syn_seen_before(&mut self, _hash: u64, _now: Tick) -> bool {
        false
    }
    /// Says that [`SteerTables::find`] comes soon, with this hash, and, if the flow is `new`, perhaps [`SteerTables::insert`]: what they
    /// will touch may be fetched meanwhile.
    fn expect_flow(&mut self, _hash: u64, _new: bool) {}
    /// Says that [`SteerTables::syn_seen`] comes soon, with these, or, if it is about what was `earlier`,
    /// [`SteerTables::syn_seen_before`].
    fn expect_syn(&mut self, _hash: u64, _now: Tick, _earlier: bool) {}
    /// When a UDP entry of the service last could not be made, ns since boot; 0: never.
    fn udp_fail(&mut self, service: u16) -> u64;
    /// Records that an entry could not be made.
    fn note_failure(&mut self, service: u16, now_ns: u64, udp: bool);
    /// Whether a SYN is remembered, without remembering it. Asked only where new connections are limited.
    fn syn_known(&mut self, _hash: u64, _now: Tick) -> bool {
        false
    }
    /// Takes one new connection of a source from its bucket; false: it has none left.
    fn may_begin(&mut self, _key: &PaceKey, _pace: Pace, _now_ns: u64) -> bool {
        true
    }

    /// A quick look for a flow's entry: where it lies, its word and positions, or a word that is FREE, which says nothing. `hash` as for
    /// [`SteerTables::find`].
    #[inline(always)]
    fn glance(&mut self, _key: &FlowKey, _hash: u64) -> (Self::Slot, Word, Positions) {
        (Self::Slot::default(), Word::default(), Positions::default())
    }
    /// Looks a flow up. `hash` is the flow's table hash.
    fn find(&mut self, key: &FlowKey, hash: u64) -> Found<Self::Slot>;
    /// Makes an entry for a key that [`SteerTables::find`] answered [`Found::None`] for; false if there is no room or a
    /// rival was quicker.
    fn insert(&mut self, key: &FlowKey, hash: u64, word: Word, positions: Positions) -> bool;
    /// Compare-and-swap of an entry's word.
    fn update(&mut self, slot: Self::Slot, old: Word, new: Word) -> bool;
    /// Compare-and-swap of an entry's positions; losing is harmless, somebody else's packet advanced them.
    fn advance(&mut self, slot: Self::Slot, old: Positions, new: Positions);
    /// Replaces word and positions together. From a dead entry nobody sees anything between; from a live single one,
    /// packets between go to its backend and change nothing. False if the word was no longer `old`.
    fn replace(&mut self, slot: Self::Slot, old: Word, new: Word, positions: Positions) -> bool;
    /// Takes room for one entry of a class; false when its quota is used up.
    fn take(&mut self, class: Class) -> bool;
    /// Gives the room back. `class` is [`Word::class_bits`].
    fn give(&mut self, class: usize);

    /// Whether a rule is taken out; only the model checker ever does. Constant, so that nobody else pays for it.
    #[inline(always)]
    fn without(&self, _rule: Rule) -> bool {
        false
    }
}

/// Where a routed frame leaves: the kernel's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Interface index.
    pub ifindex: u32,
    /// Source and destination MAC of the next hop.
    pub src_mac: [u8; 6],
    /// Destination MAC.
    pub dst_mac: [u8; 6],
    /// 0, or the packet does not fit: bytes of the largest that would. Then the other fields mean nothing.
    pub fits: u32,
}

/// What [`crate::process`] needs beyond steering.
pub trait Tables: SteerTables + SignalTables {
    /// What an end is to us.
    fn end(&mut self, end: &End) -> Option<EndEntry>;
    /// What an end is to us, if it is a VIP that is looked up quickly; `None` says nothing: [`Tables::end`] does.
    fn vip(&mut self, _end: &End) -> Option<VipWord> {
        None
    }
    /// Whether [`Tables::end`] may know an end that [`Tables::vip`] does not; false only if it surely does not.
    fn may_end(&mut self, _end: &End) -> bool {
        true
    }
    /// Whether an address may have ends of many ports; false only if it surely has none.
    fn may_span(&mut self, _addr: &Addr) -> bool {
        false
    }
    /// The most exact end of many ports that an end lies in.
    fn span(&mut self, _end: &End) -> Option<Span> {
        None
    }
    /// What a set says of a source: by its longest prefix.
    fn source(&mut self, _set: u32, _addr: &Addr) -> Option<Source> {
        None
    }
    /// Whether an end may be a `nat` backend; false only if it surely is none.
    fn may_reply(&mut self, _end: &End) -> bool {
        true
    }
    /// A backend by id.
    fn backend(&mut self, id: BackendId) -> Option<Backend>;
    /// A port by index.
    fn port(&mut self, index: u16) -> Option<Port>;
    /// Whether an end (port in network byte order) is one that `snat` sends from.
    fn maps_from(&mut self, addr: &Addr, port: u16) -> bool;
    /// Whether an address is one of this host's.
    fn is_local(&mut self, addr: &Addr) -> bool;
    /// Whether this conversation goes to a backend's own address.
    fn is_direct(&mut self, key: &DirectKey) -> bool;
    /// Remembers that it does.
    fn remember_direct(&mut self, key: &DirectKey);
    /// Where the first fragment of a datagram went.
    fn trail(&mut self, key: &DatagramKey) -> Option<Trail>;
    /// Remembers where it goes; false: there was no room, and what was remembered before is still there.
    fn leave_trail(&mut self, key: &DatagramKey, trail: &Trail) -> bool;
    /// Forgets where it went.
    fn forget_trail(&mut self, key: &DatagramKey);
    /// The kernel's route from the frame's source to its destination, if it is a complete one that can be redirected to.
    fn route(&mut self, src: &Addr, dst: &Addr, proto: u8, length: u16) -> Option<Route>;
    /// Whether frames can be redirected to an interface.
    fn takes_redirects(&mut self, ifindex: u32) -> bool;
    /// Where an order for [`crate::snat::process`] is left.
    fn handed(&mut self) -> Option<&mut Order>;
    /// The interface on which the frame came in.
    fn ingress(&mut self) -> u32;
    /// Adds a packet to a service's and a backend's counters.
    fn count_flow(&mut self, service: u16, backend: BackendId, bytes: u32, reason: Reason, new_flow: bool);
    /// Counts a packet that was turned away, by the service it was for. See [`crate::maps::Refusals`].
    fn count_refused(&mut self, _service: u16, _reason: Reason) {}
}
