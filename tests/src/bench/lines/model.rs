//! The world of a case, as `ours` makes it in the kernel.

use zdd_common::entries::{Affinity, Cell, Commit, EndEntry, EndKind, Mode, Service};
use zdd_common::flows::Bucket;
use zdd_common::hash::{HashKey, fold};
use zdd_common::model::Model;
use zdd_common::net::{End, TCP, UDP};
use zdd_common::snat::mapping;

use super::FLOWS;
use super::tables::Lined;
use crate::bench::cases::{Case, FORWARDS, State};
use crate::bench::frame::{self, PORT, vip};
use crate::bench::namespace::LOOPBACK;
use crate::bench::ours::{self, BOUNCE};

/// Backends.
const BACKENDS: u16 = 100;
/// Cells of each service: fewer than in the kernel, of which a packet touches one as well.
const CELLS: u32 = 1024;

/// The tables for a case's packets.
pub(super) fn of(case: &Case) -> Lined {
    let mut model = Model::new(1024, u64::MAX / 2);
    // As full as the kernel's with a million flows: a quarter.
    model.buckets = vec![Bucket::default(); FLOWS as usize];
    // Half an epoch of the SYN filter on: in the first eighth, a SYN touches the next epoch's line too.
    model.now_ns = (1 << 40) + (((1u64 << model.epoch_shift) / 2) << zdd_common::time::TICK_SHIFT);
    model.ingress = LOOPBACK;
    model.ports.insert(BOUNCE, ours::port());
    if FORWARDS[case.forward].1 == Mode::Snat {
        model.pool = ours::pool();
        model.mappings = vec![mapping::Bucket::default(); model.pool.table() as usize];
    }
    for id in 1..=BACKENDS {
        model.backends.insert(id, ours::backend(id.into(), case.v6, FORWARDS[case.forward].1));
    }
    if case.state != State::NotVip {
        for n in 0..case.services {
            service(&mut model, case, frame::service(case) + n, n * CELLS);
        }
    }
    Lined(model)
}

fn service(model: &mut Model, case: &Case, n: u32, row: u32) {
    for index in 0..CELLS {
        let pick = |salt| 1 + (fold(salt, index.into()) % u64::from(BACKENDS)) as u16;
        model.cells.push(match case.state {
            State::Transition => Cell::new(pick(1), pick(2), Cell::DIRTY | Cell::LOOKUP),
            _ => Cell::settled(pick(1)),
        });
    }
    let service = Service {
        commit: Commit::new(row, 1).0,
        key: HashKey { k0: 11, k1: 12 },
        groups: CELLS,
        per_group: 1,
        affinity: Affinity::Flow as u32,
        udp_idle: 400,
        ..Service::default()
    };
    model.services.insert(n as u16, service);
    for proto in [TCP, UDP] {
        let end = End::new(vip(n, case.v6).into(), PORT.to_be(), proto);
        let id = (2 * n + u32::from(proto == UDP)) as u16;
        let entry = EndEntry { kind: EndKind::Vip as u16, service: n as u16, id, ..EndEntry::default() };
        model.ends.insert(end, entry);
    }
}
