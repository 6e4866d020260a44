//! `snat`: both ends of a packet become others. The backend sees an address and port of ours and answers there, so it needs no
//! route to the clients, and nothing is set up on it.
//!
//! Which backend a flow goes to is [`crate::steer`]'s to say, as in every mode; here the pair of flow and backend gets a port
//! ([`pool`]), and one entry holds what both directions need ([`mapping`], [`table`]). In the kernel this is a program of its
//! own, reached by a tail call from the two others with an [`Order`], so that other modes pay nothing for it.

pub mod mapping;
pub mod pool;
pub mod table;

#[cfg(test)]
mod answers;
mod lookup;
mod order;
#[cfg(test)]
mod races;
mod send;
#[cfg(test)]
mod tests;

use crate::atomic::Atomics;
use crate::entries::Backend;
use crate::frame::Frame;
use crate::net::Addr;
use crate::odd::{Quote, View};
use crate::packet::Packet;
use crate::process::{Fate, Verdict};
use crate::reason::Reason;
use crate::signals::{self, Rate, SignalKey};
use crate::tables::Tables;
use crate::time::Tick;

pub use order::{Kind, Order};

/// The table of mappings and what it is made of.
pub trait Mappings {
    /// Operations on its words.
    type Words: Atomics;
    /// What there is to give out.
    fn pool(&mut self) -> Option<&pool::Pool>;
    /// A bucket of the table, valid for as long as the packet is worked on.
    fn bucket(&mut self, index: u32) -> Option<*mut mapping::Bucket>;
}

/// A frame on its way through the steps. In the kernel it lies in a map: the stack is for the call chain.
pub struct Job {
    packet: Packet,
    backend: Backend,
    quote: Quote,
    /// What the source becomes, with its port (network byte order).
    src: Addr,
    src_port: u16,
    /// What the destination becomes.
    dst_port: u16,
    dst: Addr,
    fate: Fate,
    /// Both are known.
    go: bool,
    /// What is looked for, or made, and where.
    wanted: table::Wanted,
    now: Tick,
    plane: pool::Plane,
    homes: [u32; 2],
    at: u64,
    seeks: bool,
}

impl Default for Job {
    #[inline(always)]
    fn default() -> Self {
        Self {
            packet: Packet::default(),
            backend: Backend::default(),
            quote: Quote::none(),
            src: Addr::default(),
            src_port: 0,
            dst_port: 0,
            dst: Addr::default(),
            fate: Fate::drop(Reason::DropNoBackend),
            go: false,
            wanted: table::Wanted::default(),
            now: Tick(0),
            plane: pool::Plane { start: 0, buckets: 0 },
            homes: [0; 2],
            at: 0,
            seeks: false,
        }
    }
}

/// Notes what a backend's packet tells of its flow, under the client's name. Before it is rewritten.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn follow<F: Frame, T: Tables>(frame: &mut View<F>, tables: &mut T, order: &Order, job: &Job) -> u64 {
    let key = SignalKey::new(job.dst, job.dst_port, job.src_port, order.backend);
    signals::from_backend_to(frame, tables, &job.packet, &key, Rate(order.rate))
}

/// Does what an order says. `job`: room for the work; what is in it does not matter.
#[inline(always)]
pub fn process<F: Frame, T: Tables + Mappings>(
    frame: F,
    tables: &mut T,
    order: &mut Order,
    job: &mut Job,
) -> Verdict {
    *job = Job::default();
    if order.kind == 0 {
        return job.fate.verdict();
    }
    let mut frame = View::resume(frame, order.skip, order.tags, order.headless());
    job.packet = order.packet();
    let Some(backend) = tables.backend(order.backend) else { return job.fate.verdict() };
    job.backend = backend;
    job.quote = Quote::noted(order);
    let mut steps = 0;
    if order.outward() {
        steps |= lookup::aim(tables, order, job);
        if job.seeks {
            steps |= lookup::claim(tables, order, job);
            if job.go {
                steps |= lookup::name(tables, order, job);
            }
        }
    } else {
        steps |= lookup::back(tables, order, job);
    }
    if job.go && order.is_followed() {
        steps |= follow(&mut frame, tables, order, job);
    }
    if job.go {
        if order.is(Kind::OutError) || order.is(Kind::BackError) {
            steps |= send::quote(&mut frame, order, job);
        }
        if order.outward() {
            steps |= send::to_backend(&mut frame, tables, order, job);
        } else {
            steps |= send::to_client(&mut frame, tables, order, job);
        }
    }
    // Done with: whoever comes by without an order of its own finds none.
    order.kind = 0;
    // Else the compiler would see that nobody asks, and drop the values after all.
    core::hint::black_box(steps);
    job.fate.verdict()
}
