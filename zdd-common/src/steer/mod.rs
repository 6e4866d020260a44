//! Which backend gets this packet: the decision table, as one function over [`SteerTables`].
//!
//! Invariants that it keeps together with [`crate::rules`]: a live flow without an entry is at its cell's base; a live
//! flow with an entry is at the entry's backend or alt, told apart by its sequence number; nothing that is not surely a
//! new connection goes to `current`.

#[cfg(test)]
mod contended;
#[cfg(test)]
mod copies;
mod glance;
mod peek;
mod position;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use crate::entries::{Affinity, BackendId, Cell, Class, Commit, FlowKey, Positions, ServiceView, Word};
use crate::flows;
use crate::hash;
use crate::pace::PaceKey;
use crate::reason::Reason;
use crate::tables::{Rule, SteerTables};

pub(crate) use glance::glance;
pub use peek::peek;
pub use position::{belongs, follow, near, own_syn};

/// How often a packet tries again when another changes its entry at the same moment. After that it goes where the entry
/// says and leaves the entry to the others, who keep it fresh.
const TRIES: usize = 2;

/// What steering needs to know of a packet's transport header.
// With a tag of its own: the kernel refuses type information about a tag that hides in a payload's bits.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A TCP segment.
    Tcp(Segment),
    /// A UDP datagram.
    Udp,
}

/// What steering needs to know of a TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Segment {
    /// SYN without ACK: the first packet of a connection. Other bits, options and payload do not matter.
    pub syn: bool,
    /// FIN.
    pub fin: bool,
    /// RST.
    pub rst: bool,
    /// Sequence number, host order.
    pub seq: u32,
}

/// The decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steered {
    /// Where the packet goes; 0: nowhere.
    pub backend: BackendId,
    /// Why.
    pub reason: Reason,
    /// Whether this packet begins a flow, as far as can be told.
    pub new_flow: bool,
}

impl Steered {
    #[inline(always)]
    const fn to(backend: BackendId, reason: Reason) -> Self {
        Self { backend, reason, new_flow: false }
    }

    #[inline(always)]
    const fn new_flow(self, yes: bool) -> Self {
        Self { new_flow: yes, ..self }
    }
}

/// Where a flow lies: its group, its cell within the row, and its hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Group: decides the version.
    pub group: u32,
    /// Cell within the row.
    pub cell: u32,
    /// Hash for flow table and SYN filter.
    pub table_hash: u64,
}

/// Finds a flow's place. Group and place within it come from independent bits (one more round of mixing): were they shared, a 1 %
/// canary would load its own backends 1.2 times apart.
#[inline(always)]
pub fn place(service: &ServiceView, key: &FlowKey) -> Place {
    let (group, cell, flow) = spread(service, key, service.key.k0);
    Place { group, cell, table_hash: flows::table_hash(flow, key.vip()) }
}

/// Group, cell, and the flow's hash: all that a packet of a settled cell needs. `start`: [`SteerTables::hash_start`].
#[inline(always)]
fn spread(service: &ServiceView, key: &FlowKey, start: u64) -> (u32, u32, u64) {
    let client = hash::client(start, key.client);
    // Without the VIP's number, which every node gives out for itself.
    let flow = hash::flow(client, key.ports & 0xffff_ffff);
    let by_client = service.affinity != Affinity::Flow as u32;
    let group = hash::range(if by_client { client } else { flow }, service.groups);
    let within = if service.per_group > 1 {
        let spread = if service.affinity == Affinity::Client as u32 { client } else { flow };
        hash::range(hash::fold(spread, !service.key.k1), service.per_group)
    } else {
        0
    };
    (group, group * service.per_group + within, flow)
}

/// Decides where a packet of a service goes, and keeps the flow table.
///
/// `id` is the service's number. SYN with FIN or RST is the caller's to drop.
#[inline(always)]
pub fn steer<T: SteerTables>(tables: &mut T, id: u16, key: &FlowKey, transport: Transport) -> Steered {
    let mut query = Query::default();
    query.ask(id, key, transport);
    decide(tables, &mut query);
    query.answer
}

/// [`steer`] with its question and answer in room of the caller's.
#[inline(always)]
pub(crate) fn decide<T: SteerTables>(tables: &mut T, query: &mut Query) {
    settled(tables, query);
    changing(tables, query);
}

/// The second step, where the first did not decide: the flow table has a say.
#[inline(always)]
pub(crate) fn changing<T: SteerTables>(tables: &mut T, query: &mut Query) {
    if query.changing {
        match query.transport {
            Transport::Tcp(segment) => tcp::changing(tables, query, segment),
            Transport::Udp => udp::changing(tables, query),
        }
    }
}

/// A packet on its way to a decision.
///
/// In the kernel it lies in a map and the steps are functions of their own: all that they need is more than a BPF stack (512
/// bytes for a whole chain of calls, and Linux 6.1 counts every chain that there could be). Everything travels in this one
/// structure, the answer too: the verifier takes no returned stack pointer and five arguments at most, and the compiler
/// would pass the fields of a read-only reference as arguments of their own.
pub(crate) struct Query {
    id: u16,
    key: FlowKey,
    transport: Transport,
    cell: Cell,
    hash: u64,
    /// The SYN filter knew this SYN.
    replay: bool,
    udp_idle: u32,
    /// The cell is changing, or has changed lately: the flow table has a say.
    changing: bool,
    pub(crate) answer: Steered,
}

impl Default for Query {
    #[inline(always)]
    fn default() -> Self {
        Self {
            id: 0,
            key: FlowKey::default(),
            transport: Transport::Udp,
            cell: Cell::default(),
            hash: 0,
            replay: false,
            udp_idle: 0,
            changing: false,
            answer: Steered::to(0, Reason::PassNoService),
        }
    }
}

impl Query {
    /// Sets what is asked; the rest is [`settled`]'s to set.
    #[inline(always)]
    pub(crate) fn ask(&mut self, id: u16, key: &FlowKey, transport: Transport) {
        self.id = id;
        self.key = *key;
        self.transport = transport;
    }

    /// The transport header, of which [`settle`] needs nothing but a SYN's.
    #[inline(always)]
    pub(crate) fn transport(&mut self) -> &mut Transport {
        &mut self.transport
    }

    #[inline(always)]
    fn no_service(&mut self) {
        self.changing = false;
        self.replay = false;
        self.answer = Steered::to(0, Reason::PassNoService);
    }

    /// Whether [`settle`] left the decision to [`changing`].
    #[inline(always)]
    pub(crate) fn open(&self) -> bool {
        self.changing
    }
}

/// [`settle`], in the kernel a function of its own.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn settled<T: SteerTables>(tables: &mut T, query: &mut Query) {
    let Some((service, commit)) = tables.service_now(query.id) else {
        query.no_service();
        return;
    };
    settle(tables, query, &service, commit);
}

/// The first step, and for a settled cell the only one: filter, commit, cell, base. `commit`: read with the service.
#[inline(always)]
pub(crate) fn settle<T: SteerTables>(
    tables: &mut T,
    query: &mut Query,
    service: &ServiceView,
    mut commit: Commit,
) {
    query.no_service();
    let (_, place, flow) = spread(service, &query.key, tables.hash_start(service));
    query.udp_idle = service.udp_idle;
    let mut syn = false;
    let (mut syn_hash, mut syn_now) = (0, crate::time::Tick(0));
    if let Transport::Tcp(segment) = query.transport
        && segment.syn
    {
        syn = true;
        // Before the commit that counts and the cell are read: whoever sees the new generation afterwards finds this SYN remembered.
        let now_ns = tables.now_ns();
        let now = crate::time::Tick::from_ns(now_ns);
        let table_hash = flows::table_hash(flow, query.key.vip());
        let syn = hash::fold(flow, u64::from(segment.seq) | u64::from(query.key.vip()) << 32);
        // All that is far away is fetched at the same time, and not one after the other with the filter's atomic operation between, which
        // waits for everything before it. Not yet the look at the cell that counts: only whether the flow table will have a say.
        tables.expect_syn(syn, now, false);
        if tables.cell(commit.row().wrapping_add(place)).is_some_and(changing_cell) {
            tables.expect_syn(syn, now, true);
            tables.expect_flow(table_hash, true);
        }
        // Asked before it is remembered: the copy of a SYN that was refused is a new connection like any other.
        if service.pace.limits()
            && !tables.syn_known(syn, now)
            && !tables.may_begin(&PaceKey::of(query.id, &query.key.client), service.pace, now_ns)
        {
            query.answer = Steered::to(0, Reason::DropRate);
            return;
        }
        query.replay = tables.syn_seen(syn, now);
        (syn_hash, syn_now) = (syn, now);
        let before = commit;
        commit = tables.commit(query.id);
        if commit != before && !tables.without(Rule::SameRow) {
            // A copy of it may be on another CPU at this moment, remembered after this one and yet steered by the row before. Whoever saw
            // one and the same row before and after it was remembered first knows that every copy will find it, or see this row too.
            query.replay = true;
        }
    }
    if commit.generation() == 0 {
        return;
    }
    query.answer = Steered::to(0, Reason::DropNoBackend);
    let Some(cell) = tables.cell(commit.row().wrapping_add(place)) else { return };
    query.cell = cell;
    query.changing = changing_cell(cell);
    if query.changing {
        query.hash = flows::table_hash(flow, query.key.vip());
        if !syn {
            tables.expect_flow(query.hash, false);
        }
        // Only here it decides; else it would say which flow is new a little better.
        if syn && !query.replay {
            query.replay = tables.syn_seen_before(syn_hash, syn_now);
        }
    }
    query.answer = Steered::to(cell.base(), Reason::Settled).new_flow(syn && !query.replay);
}

/// Whether the flow table has a say in a cell.
#[inline(always)]
const fn changing_cell(cell: Cell) -> bool {
    cell.0 & (Cell::DIRTY | Cell::LOOKUP) != 0
}

/// Where an entry may be made. Not an `Option`: the compiler would leave the payload of `None` unset in registers, and the
/// verifier lets no unset register be moved.
#[derive(Clone, Copy)]
struct Vacancy<S> {
    /// Anywhere at all: nobody is writing an entry that may be this key's.
    room: bool,
    /// Unless it is the default: in place of a dead entry of the key, with `word`. No flag beside it: the verifier would not tie
    /// that to the pointer.
    slot: S,
    word: Word,
}

impl<S: Default + PartialEq> Vacancy<S> {
    #[inline(always)]
    fn free(room: bool) -> Self {
        Self { room, slot: S::default(), word: Word::default() }
    }

    #[inline(always)]
    fn dead(slot: S, word: Word) -> Self {
        Self { room: true, slot, word }
    }

    #[inline(always)]
    fn is_dead(&self) -> bool {
        self.slot != S::default()
    }
}

/// An entry to be made.
struct Wanted {
    word: Word,
    class: Class,
    positions: Positions,
}

/// Makes an entry: in place of a dead one of the same key, or in free room. False: no quota, no room, or a rival.
// See [`Query`] for why it is a function of its own.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn make<T: SteerTables>(tables: &mut T, query: &Query, place: &Vacancy<T::Slot>, wanted: &Wanted) -> bool {
    if !tables.take(wanted.class) {
        return false;
    }
    let made = if place.is_dead() {
        let made = tables.replace(place.slot, place.word, wanted.word, wanted.positions);
        if made {
            tables.give(place.word.class_bits());
        }
        made
    } else {
        tables.insert(&query.key, query.hash, wanted.word, wanted.positions)
    };
    if !made {
        tables.give(wanted.class as usize);
    }
    made
}
