//! Finding a packet's mapping, or making it.

use super::mapping::{Bucket, Mapping, State};
use super::pool::{self, Place, Pool};
use super::table::{self, Found, Wanted};
use super::{Job, Kind, Mappings, Order};
use crate::entries::FlowKey;
use crate::limits::SNAT_SOURCES_MAX;
use crate::net::{Addr, TCP};
use crate::odd::{Done, Trail, done, leave_trail};
use crate::process::Fate;
use crate::reason::Reason;
use crate::steer::follow;
use crate::tables::Tables;
use crate::time::Tick;

/// How often a packet looks again when another CPU changes its mapping, or makes it, at the same moment.
const TRIES: usize = 3;

/// An address of ours by its number.
#[inline(always)]
fn source(pool: &Pool, v6: bool, number: u32) -> Addr {
    pool.sources[v6 as usize][number as usize & (SNAT_SOURCES_MAX - 1)]
}

/// What a client's packet's two ends become: of a later fragment, from its trail; else what is to be looked for is told.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn aim<T: Tables + Mappings>(tables: &mut T, order: &Order, job: &mut Job) -> Done {
    job.dst = job.backend.addr;
    job.dst_port = job.backend.port;
    if order.is(Kind::OutLater) {
        if let Some(pool) = tables.pool()
            && order.source != 0
        {
            job.src = source(pool, order.v6 != 0, order.source as u32 - 1);
            job.go = true;
        }
        return done();
    }
    let error = order.is(Kind::OutError);
    let key = if error {
        FlowKey::new(order.quote_dst, order.quote_dst_port, order.quote_src_port, order.vip_id)
    } else {
        FlowKey::new(order.src, order.src_port, order.dst_port, order.vip_id)
    };
    job.fate = if error { Fate::pass(Reason::PassNoMapping) } else { Fate::drop(Reason::DropNoPort) };
    let now = Tick::from_ns(tables.now_ns());
    let Some(pool) = tables.pool() else { return done() };
    job.plane = pool.plane(job.backend.addr, job.backend.port);
    if job.plane.buckets == 0 {
        return done();
    }
    let hash = pool.hash(&key);
    job.homes = pool::homes(job.plane, hash);
    let udp = if error { order.quote_proto } else { order.proto } != TCP;
    let word = Mapping::new(order.backend, udp, hash >> 16, now);
    job.now = now;
    job.wanted = Wanted { key, vip: order.dst, word, reached: order.seq, turn: (hash >> 40) as u32 };
    job.seeks = true;
    done()
}

/// Finds the mapping, or makes it: sets `at`, twice the way's number, plus 1 in the second bucket.
///
/// For an ICMP error nothing is made or changed.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn claim<T: Tables + Mappings>(tables: &mut T, order: &Order, job: &mut Job) -> Done {
    let (Some(one), Some(two)) = (tables.bucket(job.homes[0]), tables.bucket(job.homes[1])) else {
        return done();
    };
    let homes = [one, two];
    let looks = order.is(Kind::OutError);
    for _ in 0..TRIES {
        // SAFETY: buckets of the table.
        match unsafe { table::find::<T::Words>(&homes, &job.wanted) } {
            Found::Here(second, way, word) => {
                job.at = (way as u64) << 1 | second as u64;
                let bucket = if second == 0 { one } else { two };
                // What others keep changing, they keep alive.
                job.go = true;
                // SAFETY: as above.
                if looks || unsafe { sent::<T>(bucket, way, word, &job.wanted, order, job.now) } {
                    return done();
                }
            }
            Found::None if looks => return done(),
            Found::None => {
                job.go = false;
                // SAFETY: as above.
                if let Some((second, way)) = unsafe { table::make::<T::Words>(&homes, &job.wanted) } {
                    job.at = (way as u64) << 1 | second as u64;
                    job.go = true;
                    return done();
                }
            }
            Found::Busy => job.go = false,
        }
    }
    done()
}

/// The address and port of ours that the mapping stands for.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn name<T: Tables + Mappings>(tables: &mut T, order: &Order, job: &mut Job) -> Done {
    let bucket = if job.at & 1 == 0 { job.homes[0] } else { job.homes[1] };
    let place = Place { bucket, way: (job.at >> 1) as u32 };
    let Some(pool) = tables.pool() else { return done() };
    let (number, port) = pool.end_at(job.plane, place);
    job.src = source(pool, order.v6 != 0, number);
    job.src_port = port;
    if order.first != 0 {
        trail(tables, order, Trail::BACKEND, number, 0);
    }
    done()
}

/// Notes a client's packet on its mapping. False: another CPU changed it meanwhile.
#[inline(always)]
unsafe fn sent<T: Mappings>(
    bucket: *mut Bucket,
    way: u32,
    word: Mapping,
    wanted: &Wanted,
    order: &Order,
    now: Tick,
) -> bool {
    let segment = order.segment();
    // SAFETY: the caller's promise.
    let reached = unsafe { table::reached::<T::Words>(bucket, way) };
    let before = reached as u32;
    let begins = !word.is(State::Live) || (segment.syn && word.finished());
    let new = match () {
        // It had ended, and the port is still its own.
        () if !word.is(State::Live) => wanted.word,
        () if word.udp() => word.datagram(false, now),
        () => word.sent(segment, before, now),
    };
    if new == word {
        return true;
    }
    // SAFETY: as above.
    if !unsafe { table::update::<T::Words>(bucket, way, word, new) } {
        return false;
    }
    let after = moved(before, order, begins);
    // SAFETY: as above.
    unsafe { table::reach::<T::Words>(bucket, way, reached & !0xffff_ffff | after as u64) };
    true
}

/// The sequence number that an end has reached after a packet of it. Neither a SYN on a live connection nor a blind FIN or RST
/// moves it: they may be forged.
#[inline(always)]
fn moved(before: u32, order: &Order, begins: bool) -> u32 {
    let segment = order.segment();
    let blind = (segment.fin || segment.rst) && !crate::steer::near(before, segment.seq);
    match () {
        () if begins => segment.seq,
        () if segment.syn || blind => before,
        () => follow(before, segment.seq),
    }
}

/// A packet from a backend: whose answer it is.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn back<T: Tables + Mappings>(tables: &mut T, order: &mut Order, job: &mut Job) -> Done {
    let local = tables.is_local(&order.dst);
    // The agent's probes, and whatever else is spoken with the backend's own address.
    job.fate = Fate::pass(if local { Reason::PassLocal } else { Reason::PassDirect });
    let now = Tick::from_ns(tables.now_ns());
    let error = order.is(Kind::BackError);
    let our_port = if error { order.quote_src_port } else { order.dst_port };
    let Some(pool) = tables.pool() else { return done() };
    let number = pool.number_of(&order.dst);
    let plane = pool.plane(job.backend.addr, job.backend.port);
    let Some(place) = pool.place_of(plane, number, our_port) else { return done() };
    job.fate = Fate::pass(Reason::PassNoMapping);
    let Some(bucket) = tables.bucket(place.bucket) else { return done() };
    // SAFETY: a bucket of the table.
    let (word, reached, peer) = unsafe { table::read::<T::Words>(bucket, place.way) };
    let proto = if error { order.quote_proto } else { order.proto };
    let ours = word.is(State::Live) || word.is(State::Dead);
    if !ours || word.backend() != order.backend || word.udp() == (proto == TCP) {
        return done();
    }
    if order.is(Kind::Back) && word.is(State::Live) {
        // SAFETY: as above.
        unsafe { answered::<T>(bucket, place.way, word, reached, order, now) };
    }
    job.src = peer.vip;
    job.src_port = peer.vip_port;
    job.dst = peer.client;
    job.dst_port = peer.client_port;
    job.go = true;
    if order.first != 0 {
        trail(tables, order, Trail::MAPPED, number, our_port);
    }
    done()
}

/// Notes a backend's packet on its mapping. When another CPU changes it as often meanwhile, it is fresh without us, and what a FIN
/// or RST would have told is told by the next. A SYN and ACK may have no next one for long: copies of the SYN on the other side
/// change the word at most twice while a packet is inside, once on either side of a tick, so the third try is its own.
#[inline(always)]
unsafe fn answered<T: Mappings>(
    bucket: *mut Bucket,
    way: u32,
    word: Mapping,
    reached: u64,
    order: &Order,
    now: Tick,
) {
    let segment = order.segment();
    let before = (reached >> 32) as u32;
    let mut word = word;
    for _ in 0..TRIES {
        let new = if word.udp() { word.datagram(true, now) } else { word.answered(segment, before, now) };
        if new == word {
            return;
        }
        // SAFETY: the caller's promise.
        unsafe {
            if table::update::<T::Words>(bucket, way, word, new) {
                let after = moved(before, order, !word.has_answer());
                table::reach::<T::Words>(bucket, way, reached & 0xffff_ffff | (after as u64) << 32);
                return;
            }
            word = table::word::<T::Words>(bucket, way);
        }
        if !word.is(State::Live) {
            return;
        }
    }
}

/// Leaves the trail of a first fragment, which later ones follow.
#[inline(always)]
fn trail<T: Tables>(tables: &mut T, order: &Order, to: u16, source: u32, port: u16) {
    let made = Tick::from_ns(tables.now_ns()).0;
    let trail = Trail {
        to,
        service: order.service,
        backend: order.backend,
        port,
        made,
        covered: order.covered,
        proto: order.proto,
        source: source as u8 + 1,
    };
    leave_trail(tables, &order.datagram(), &trail);
}
