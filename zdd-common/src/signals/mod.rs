//! How versions treat their users, as the packets show it: handshakes, first replies, resets, silence.
//!
//! A keyed sample of a service's TCP flows is followed in a table of fixed size that never steers: a flow that it loses is
//! *unknown*, and nothing else happens. The same flows are chosen on the way there and on the way back, without a look into
//! any map, so a packet of a service without signals pays one test of a byte that is loaded anyway, and an unsampled packet a
//! hash and a mask.
//!
//! Read in this order: [`stage`] (what one packet means, a pure function), [`table`] (where flows are followed),
//! [`counters`] (what is counted per backend), [`expire`] (what silence means; the agent asks), and here (a packet's way
//! through them).
//!
//! Under `nat` both directions pass. Where the reply goes around us (`l2`, `ipip`) the client's acknowledgements tell of it: the
//! one that ends the handshake, and the first that covers bytes of a reply. Resets and FINs of the backend are not seen there.

pub mod counters;
pub mod expire;
pub mod stage;
pub mod table;
#[cfg(test)]
mod tests;

use crate::atomic::Atomics;
use crate::entries::BackendId;
use crate::frame::Frame;
use crate::hash;
use crate::net::{Addr, TCP};
use crate::packet::Packet;
use crate::time::Tick;

pub use counters::{BUCKETS, EVENTS, Event, SignalCounters};
use stage::{Seen, Side, Step};
pub use table::{SignalBucket, SignalFlow};

/// Read-only data of the program, set when it is loaded.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SignalConfig {
    /// Secret that chooses the flows that are followed.
    pub secret: u64,
    /// Buckets of the table that they are followed in, a power of two.
    pub buckets: u32,
    /// 0.
    pub reserved: u32,
}
wire!(SignalConfig, 16, { secret: u64, buckets: u32, reserved: u32 });

/// What signals need of the maps.
pub trait SignalTables {
    /// How shared words are touched.
    type Atomic: Atomics;
    /// Nanoseconds since boot, exact: a handshake in a LAN takes less than a step of the coarse clock.
    fn exact_ns(&mut self) -> u64;
    /// Nanoseconds since boot, coarse.
    fn coarse_ns(&mut self) -> u64;
    /// Secret that chooses the sample; the same for as long as the table lives.
    fn signal_secret(&mut self) -> u64;
    /// The bucket of a hash; `None`: there is no table.
    fn signal_bucket(&mut self, hash: u64) -> Option<*mut SignalBucket>;
    /// A backend's counters.
    fn signal_counters(&mut self, backend: BackendId) -> Option<*mut SignalCounters>;
}

/// How many of a service's flows are followed, in one byte of an entry that every packet loads: 0 none, else n + 1 for one in
/// 2^n.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Rate(pub u8);

impl Rate {
    /// None.
    pub const OFF: Self = Self(0);
    /// Largest n.
    pub const SHIFT_MAX: u8 = 16;

    /// One flow in 2^`shift`.
    pub const fn one_in(shift: u8) -> Self {
        Self((if shift > Self::SHIFT_MAX { Self::SHIFT_MAX } else { shift }) + 1)
    }

    /// Whether a flow of this hash is followed. Samples are nested: whoever is in one of 1/16 is in that of 1/8.
    #[inline(always)]
    pub const fn takes(self, hash: u64) -> bool {
        // The top bits: the bottom ones choose the bucket.
        self.0 != 0 && (hash >> 47) & ((1 << ((self.0 - 1) & 31)) - 1) == 0
    }
}

/// Which flow, as both directions can tell: the client's end, the VIP's port and the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SignalKey {
    /// The client's address.
    pub client: Addr,
    /// Bits 0-15 client port, 16-31 VIP port (both network order as read), 32-47 backend, 48-63: 0.
    pub rest: u64,
}

impl SignalKey {
    /// A key; ports in network byte order.
    #[inline(always)]
    pub const fn new(client: Addr, client_port: u16, vip_port: u16, backend: BackendId) -> Self {
        Self { client, rest: client_port as u64 | (vip_port as u64) << 16 | (backend as u64) << 32 }
    }

    /// The backend.
    #[inline(always)]
    pub const fn backend(&self) -> BackendId {
        (self.rest >> 32) as u16
    }

    /// Keyed, so that nobody can choose ports that are never looked at.
    #[inline(always)]
    pub const fn hash(&self, secret: u64) -> u64 {
        hash::fold(hash::fold(secret ^ self.client.hi, self.client.lo), self.rest)
    }
}

/// A packet from a client, steered to `backend`. Answers 1 if it is of a flow that is followed.
// A number, because a function of the program that returns nothing may leave a pointer to its stack as its answer.
#[inline(always)]
pub fn from_client<F: Frame + ?Sized, T: SignalTables>(
    frame: &F,
    tables: &mut T,
    packet: &Packet,
    backend: BackendId,
    rate: Rate,
) -> u64 {
    if packet.proto != TCP || backend == 0 {
        return 0;
    }
    let key = SignalKey::new(packet.src, packet.src_port, packet.dst_port, backend);
    look(frame, tables, packet, &key, Side::Client, rate)
}

/// Whether [`from_client`] has something to do with a packet.
#[inline(always)]
pub fn follows<T: SignalTables>(tables: &mut T, packet: &Packet, backend: BackendId, rate: Rate) -> bool {
    if rate == Rate::OFF || packet.proto != TCP {
        return false;
    }
    let key = SignalKey::new(packet.src, packet.src_port, packet.dst_port, backend);
    rate.takes(key.hash(tables.signal_secret()))
}

/// A backend's reply. `vip_port`: the port that the client dialled, network byte order.
#[inline(always)]
pub fn from_backend<F: Frame + ?Sized, T: SignalTables>(
    frame: &F,
    tables: &mut T,
    packet: &Packet,
    (backend, vip_port): (BackendId, u16),
    rate: Rate,
) -> u64 {
    from_backend_to(
        frame,
        tables,
        packet,
        &SignalKey::new(packet.dst, packet.dst_port, vip_port, backend),
        rate,
    )
}

/// [`from_backend`] where the packet does not say which client it is for.
#[inline(always)]
pub fn from_backend_to<F: Frame + ?Sized, T: SignalTables>(
    frame: &F,
    tables: &mut T,
    packet: &Packet,
    key: &SignalKey,
    rate: Rate,
) -> u64 {
    if packet.proto != TCP {
        return 0;
    }
    look(frame, tables, packet, key, Side::Backend, rate)
}

#[inline(always)]
fn look<F: Frame + ?Sized, T: SignalTables>(
    frame: &F,
    tables: &mut T,
    packet: &Packet,
    key: &SignalKey,
    side: Side,
    rate: Rate,
) -> u64 {
    let hash = key.hash(tables.signal_secret());
    if !rate.takes(hash) {
        return 0;
    }
    match read(frame, packet) {
        Some(seen) => observe(tables, &mut Look { key: *key, hash, seen, side }),
        None => 0,
    }
}

/// What the stages ask of a TCP header. It was parsed before, so it is there.
#[inline(always)]
fn read<F: Frame + ?Sized>(frame: &F, packet: &Packet) -> Option<Seen> {
    let header = frame.read::<[u8; 20]>(packet.l4 as usize)?;
    let ahead = packet.l4 as u32 - crate::packet::L3 as u32 + u32::from(header[12] >> 4) * 4;
    Some(Seen {
        flags: header[13],
        seq: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
        ack: u32::from_be_bytes([header[8], header[9], header[10], header[11]]),
        payload: u32::from(packet.ip_length).saturating_sub(ahead),
    })
}

/// A packet of a flow that is followed. By a reference that may be written: the fields of another would become arguments of their own,
/// of which there are five at most.
pub(crate) struct Look {
    pub(crate) key: SignalKey,
    pub(crate) hash: u64,
    pub(crate) seen: Seen,
    pub(crate) side: Side,
}

/// One packet of a sampled flow. In the kernel a function of its own, with a stack of its own.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn observe<T: SignalTables>(tables: &mut T, look: &mut Look) -> u64 {
    let Look { key, hash, seen, side } = &*look;
    let (hash, side) = (*hash, *side);
    let Some(bucket) = tables.signal_bucket(hash) else { return 0 };
    let Some(counters) = tables.signal_counters(key.backend()) else { return 0 };
    let now = Tick::from_ns(tables.coarse_ns());
    // SAFETY: a map value, valid for as long as the packet is worked on.
    let Some(flow) = (unsafe { table::find::<T::Atomic>(bucket, key) }) else {
        if seen.begins(side) {
            // SAFETY: as above.
            unsafe { begin(tables, bucket, counters, key, seen, now) };
        }
        return 1;
    };
    // Once more if the other direction moved it meanwhile; after that the packet is not counted.
    for _ in 0..2 {
        // SAFETY: as above.
        unsafe {
            let old = T::Atomic::load(&raw const (*flow).word);
            let numbers = T::Atomic::load(&raw const (*flow).numbers);
            let step = stage::step(old, numbers, seen, side, now);
            if step.begins() {
                // The client has taken the tuple for a new connection.
                if T::Atomic::cas(&raw mut (*flow).word, old, stage::BUSY) {
                    counters::count::<T::Atomic>(counters, step.events[0]);
                    fill(tables, flow, counters, key, seen, now);
                }
                return 1;
            }
            if apply(tables, flow, counters, old, numbers, &step) {
                if seen.payload > 0 {
                    let way = if side.is_client() { Event::ClientBytes } else { Event::BackendBytes };
                    counters::add::<T::Atomic>(counters, way, seen.payload.into());
                }
                return 1;
            }
        }
    }
    1
}

/// # Safety
/// The pointers are valid.
#[inline(always)]
unsafe fn apply<T: SignalTables>(
    tables: &mut T,
    flow: *mut SignalFlow,
    counters: *mut SignalCounters,
    old: u64,
    numbers: u64,
    step: &Step,
) -> bool {
    let now = if step.needs_time() { tables.exact_ns() } else { 0 };
    // SAFETY: the caller's promise.
    unsafe {
        if step.asked() {
            // Before the word says so: a reply on another CPU may follow at once.
            T::Atomic::store(&raw mut (*flow).asked, now);
        }
        if step.numbers != numbers {
            T::Atomic::store(&raw mut (*flow).numbers, step.numbers);
        }
        if step.word != old && !T::Atomic::cas(&raw mut (*flow).word, old, step.word) {
            return false;
        }
        counters::count::<T::Atomic>(counters, step.events[0]);
        counters::count::<T::Atomic>(counters, step.events[1]);
        if step.handshake() {
            let began = T::Atomic::load(&raw const (*flow).began);
            counters::time::<T::Atomic>(
                counters,
                &raw mut (*counters).handshake,
                Event::HandshakeNs,
                now.saturating_sub(began),
            );
        }
        if step.first_byte() {
            let asked = T::Atomic::load(&raw const (*flow).asked);
            counters::time::<T::Atomic>(
                counters,
                &raw mut (*counters).first_byte,
                Event::FirstByteNs,
                now.saturating_sub(asked),
            );
        }
    }
    true
}

/// Follows a new flow, in the place of the one that matters least.
///
/// # Safety
/// The pointers are valid.
#[inline(always)]
unsafe fn begin<T: SignalTables>(
    tables: &mut T,
    bucket: *mut SignalBucket,
    counters: *mut SignalCounters,
    key: &SignalKey,
    seen: &Seen,
    now: Tick,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let victim = table::victim::<T::Atomic>(bucket, now);
        let old = T::Atomic::load(&raw const (*victim).word);
        let of = (T::Atomic::load(&raw const (*victim).rest) >> 32) as u16;
        if old & stage::STAGE == stage::BUSY || !T::Atomic::cas(&raw mut (*victim).word, old, stage::BUSY) {
            // Somebody else is quicker: this flow is not followed.
            counters::count::<T::Atomic>(counters, Event::Missed as u8);
            return;
        }
        if stage::is_live(old)
            && let Some(lost) = tables.signal_counters(of)
        {
            counters::count::<T::Atomic>(lost, Event::Evicted as u8);
        }
        fill(tables, victim, counters, key, seen, now);
    }
}

/// Writes a flow whose word says BUSY.
///
/// # Safety
/// The pointers are valid.
#[inline(always)]
unsafe fn fill<T: SignalTables>(
    tables: &mut T,
    flow: *mut SignalFlow,
    counters: *mut SignalCounters,
    key: &SignalKey,
    seen: &Seen,
    now: Tick,
) {
    let began = tables.exact_ns();
    // SAFETY: the caller's promise; nobody else writes a flow that is BUSY.
    unsafe {
        T::Atomic::store(&raw mut (*flow).client_hi, key.client.hi);
        T::Atomic::store(&raw mut (*flow).client_lo, key.client.lo);
        T::Atomic::store(&raw mut (*flow).rest, key.rest);
        T::Atomic::store(&raw mut (*flow).began, began);
        T::Atomic::store(&raw mut (*flow).asked, 0);
        T::Atomic::store(&raw mut (*flow).numbers, seen.seq.into());
        T::Atomic::store(&raw mut (*flow).word, stage::fresh(now));
        counters::count::<T::Atomic>(counters, Event::New as u8);
        if seen.payload > 0 {
            counters::add::<T::Atomic>(counters, Event::ClientBytes, seen.payload.into());
        }
    }
}
