//! One look at every entry of the flow table: expiry, restoring, purging, counting.

use zdd_common::entries::{BackendId, Cell, FlowKey, ServiceView};
use zdd_common::limits::BACKENDS_MAX;
use zdd_common::rules::{self, Sweep, Timeouts};
use zdd_common::steer;

use crate::cohort::Members;
use crate::dataplane::{Dataplane, FlowScan, FlowTotals};

/// Entries of removed backends that one sweep lets go: their clients reconnect one after another, not all at once.
const PACE: usize = 1000;

/// What a sweep must know of one VIP of a service, or of one of its cohorts.
#[derive(Clone, Debug)]
pub struct Swept<'a> {
    /// Its number.
    pub vip: u16,
    /// The fixed fields of its service.
    pub view: ServiceView,
    /// Its timeouts.
    pub times: Timeouts,
    /// Its live row.
    pub cells: &'a [Cell],
    /// Whether its protocol is UDP.
    pub udp: bool,
    /// The cells may be relied on: their commit is older than a grace period.
    pub steady: bool,
    /// Whether it has to be known which cells have entries.
    pub track: bool,
    /// Backends whose flows are let go.
    pub let_go: Vec<BackendId>,
    /// The number of its row.
    pub row: u16,
    /// Of a VIP's own row: whose flows another row steers. `None`: it is such another one, of a cohort.
    pub members: Option<&'a Members>,
}

/// What a sweep saw.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Entries by state.
    pub totals: FlowTotals,
    /// Entries by class.
    pub counted: [i64; 3],
    /// Live entries by backend id.
    flows: Vec<u32>,
    /// By VIP, in the order given: cells with an entry that says something else than base. Empty without `track`.
    pub kept: Vec<Vec<bool>>,
}

impl Seen {
    /// What a sweep of an empty table sees.
    pub fn nothing(services: &[Swept<'_>]) -> Self {
        let kept = services.iter().map(|s| vec![false; if s.track { s.cells.len() } else { 0 }]).collect();
        Self { totals: FlowTotals::default(), counted: [0; 3], flows: Vec::new(), kept }
    }

    /// Live entries of a backend.
    pub fn flows(&self, id: BackendId) -> u64 {
        self.flows.get(usize::from(id)).copied().unwrap_or(0).into()
    }
}

/// Nobody's VIP.
const UNKNOWN: u32 = u32::MAX;

/// Looks at every entry and does with it what [`rules`] say. `pressure`: the table is more than half full; `now`: ns since
/// boot.
///
/// Indices are looked up in plain arrays: with a million entries, two lookups in a hash map each are half of the time.
pub fn sweep(dataplane: &Dataplane, services: &[Swept<'_>], pressure: bool, now: u64) -> Seen {
    let mut by_vip = vec![UNKNOWN; services.iter().map(|s| usize::from(s.vip) + 1).max().unwrap_or(0)];
    let mut by_row = vec![UNKNOWN; services.iter().map(|s| usize::from(s.row) + 1).max().unwrap_or(0)];
    for (index, service) in services.iter().enumerate() {
        by_row[usize::from(service.row)] = index as u32;
        if service.members.is_some() {
            by_vip[usize::from(service.vip)] = index as u32;
        }
    }
    // Most VIPs have no cohorts, and then the client's address says nothing.
    let of_cohort = |index: usize, key: &FlowKey| {
        let members = services.get(index)?.members.filter(|members| !members.is_empty())?;
        by_row.get(usize::from(members.row(key.client.into())?)).map(|index| *index as usize)
    };
    let mut seen = Seen::nothing(services);
    seen.flows = vec![0; BACKENDS_MAX as usize + 1];
    let Seen { counted, flows, kept, .. } = &mut seen;
    let default_times = services.first().map(|service| service.times);
    let mut paced = 0;
    let totals = dataplane.sweep(|FlowScan { key, word }| {
        counted[word.class_bits().min(2)] += 1;
        let index = by_vip.get(usize::from(key.vip())).copied().unwrap_or(UNKNOWN) as usize;
        let index = of_cohort(index, &key).unwrap_or(index);
        let Some(service) = services.get(index) else {
            // Of a service that is gone: nobody will look for it.
            let Some(times) = default_times else { return Sweep::Free };
            let fate = rules::sweep(word, Cell::settled(0), true, true, &times, now);
            return if fate == Sweep::Keep && word.live() {
                rules::purge(word, word.backend(), now).unwrap_or(Sweep::Keep)
            } else {
                fate
            };
        };
        let cell_index = steer::place(&service.view, &key).cell as usize;
        let cell = service.cells[cell_index];
        let purged = service.let_go.iter().find_map(|id| rules::purge(word, *id, now));
        let fate = match purged {
            Some(fate) if paced < PACE => {
                paced += 1;
                fate
            }
            _ if service.steady => rules::sweep(word, cell, service.udp, pressure, &service.times, now),
            _ => Sweep::Keep,
        };
        let stays = match fate {
            Sweep::Keep => word,
            Sweep::Word(new) | Sweep::Restore(new) => new,
            Sweep::Free => return fate,
        };
        if stays.live() {
            flows[usize::from(stays.backend())] += 1;
            if stays.alt_seen() && !stays.single() {
                flows[usize::from(stays.alt())] += 1;
            }
            if (!stays.single() || stays.backend() != cell.base() || stays.alt_seen())
                && let Some(kept) = kept[index].get_mut(cell_index)
            {
                *kept = true;
            }
        }
        fate
    });
    seen.totals = totals;
    seen
}
