//! The ports of `snat`: what there is to give out, and what is given.

use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::Path;

use aya::maps::{Array, Map, MapData};
use zdd_common::atomic::Host;
use zdd_common::hash::HashKey;
use zdd_common::limits::{SNAT_SOURCES_MAX, SNAT_WAYS};
use zdd_common::net::Addr;
use zdd_common::snat::mapping::{Bucket, Fate, Mapping, State};
use zdd_common::snat::pool::Pool;
use zdd_common::snat::table;

use super::DataplaneError;
use super::fault::{self, Write};
use super::mapped::Mapped;
use super::object::{Dataplane, Plain};
use crate::desired::AgentSpec;

/// More planes than this only take memory: backends have long been spread.
const PLANES_MAX: u32 = 64;

/// Mappings by what they are, as one scan saw them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MappingTotals {
    /// Of flows that go on, or have just begun.
    pub live: u64,
    /// Of connections that ended, until nobody can be in TIME_WAIT.
    pub finished: u64,
    /// Over, and about to be free.
    pub resting: u64,
}

/// What the configuration gives out; its key is 0.
pub(super) fn pool_of(agent: &AgentSpec) -> Pool {
    let snat = &agent.snat;
    let mut sources = [[Addr::default(); SNAT_SOURCES_MAX]; 2];
    let mut addresses = [0; 2];
    for addr in &snat.sources {
        let family = usize::from(addr.is_ipv6());
        if let Some(free) = sources[family].get_mut(addresses[family] as usize) {
            *free = Addr::from(*addr);
            addresses[family] += 1;
        }
    }
    let ports = snat.ports();
    let plane = u32::from(ports) * (addresses[0] + addresses[1]);
    let planes = match agent.limits.snat.checked_div(plane) {
        None => 0,
        Some(planes) => 1 << planes.clamp(1, PLANES_MAX).ilog2(),
    };
    Pool { key: HashKey::default(), first: snat.first, ports, planes, addresses, sources }
}

/// Buckets of the table for a pool: at least one, because a map cannot be empty.
pub(super) fn buckets(pool: &Pool) -> u32 {
    pool.table().max(1)
}

/// Before the maps are opened: a table of another size is thrown away if nothing is mapped in it.
pub(super) fn make_room(dir: &Path, pool: &Pool) -> Result<(), DataplaneError> {
    let pin = dir.join("MAPPINGS");
    let Ok(map) = MapData::from_pin(&pin) else { return Ok(()) };
    let has = map.info().map_err(|error| DataplaneError::kernel("MAPPINGS", error))?.max_entries();
    if has == buckets(pool) {
        return Ok(());
    }
    let table: Mapped<Bucket> = Mapped::new(map.fd().as_fd(), has)
        .map_err(|error| DataplaneError::kernel("cannot map MAPPINGS into memory", error))?;
    if !empty(&table) {
        return Err(changed(dir, format!("MAPPINGS has max_entries {has}, asked for {}", buckets(pool))));
    }
    let _ = std::fs::remove_file(dir.join("SNAT_POOL"));
    std::fs::remove_file(&pin).map_err(|error| DataplaneError::kernel("cannot unpin MAPPINGS", error))
}

fn changed(dir: &Path, what: String) -> DataplaneError {
    DataplaneError::PoolInUse { dir: dir.to_owned(), what }
}

/// Whether nothing is mapped.
fn empty(table: &Mapped<Bucket>) -> bool {
    (0..table.len()).all(|index| {
        let bucket = table.at(index);
        // SAFETY: a mapped value, its words read whole.
        (0..SNAT_WAYS as u32).all(|way| unsafe { table::word::<Host>(bucket, way) }.is(State::Free))
    })
}

/// Puts what the configuration gives out into force. What is mapped keeps its meaning: while any is, nothing may differ.
pub(super) fn open_pool(
    map: Map,
    table: &Mapped<Bucket>,
    dir: &Path,
    agent: &AgentSpec,
) -> Result<Pool, DataplaneError> {
    let mut map: Array<MapData, Plain<Pool>> =
        Array::try_from(map).map_err(|error| DataplaneError::kernel("SNAT_POOL", error))?;
    let has = map.get(&0, 0).map_err(|error| DataplaneError::kernel("cannot read SNAT_POOL", error))?.0;
    let fresh = has.key == HashKey::default();
    let key =
        if fresh { HashKey { k0: crate::chance::random(), k1: crate::chance::random() } } else { has.key };
    let pool = Pool { key, ..pool_of(agent) };
    if pool == has {
        return Ok(pool);
    }
    if !fresh && !empty(table) {
        return Err(changed(dir, "its addresses or ports are others".to_owned()));
    }
    fault::before(Write::Pool);
    map.set(0, &Plain(pool), 0).map_err(|error| DataplaneError::kernel("cannot write SNAT_POOL", error))?;
    Ok(pool)
}

impl Dataplane {
    /// What `snat` gives out.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Whether there is anything to give out.
    pub fn gives_ports(&self) -> bool {
        self.pool.ports != 0 && self.pool.addresses != [0; 2]
    }

    /// The addresses of a family that it sends from.
    pub fn snat_sources(&self, v6: bool) -> Vec<IpAddr> {
        let family = usize::from(v6);
        let sources = &self.pool.sources[family][..self.pool.addresses[family] as usize];
        sources.iter().map(|addr| IpAddr::from(*addr)).collect()
    }

    /// Mappings that fit, of each family.
    pub fn mapping_capacity(&self) -> [u64; 2] {
        [false, true].map(|v6| u64::from(self.pool.table_of(v6)) * SNAT_WAYS as u64)
    }

    /// Takes the mappings out of this process's memory, which is counted with it; the next sweep brings them back.
    pub fn let_mappings_go(&mut self) {
        self.mappings.let_go();
    }

    /// Looks at every mapping, IPv4 and IPv6, and does with it what `rule` says, by compare-and-swap: whatever a packet did meanwhile wins, and
    /// the next sweep looks again.
    pub fn sweep_mappings(&self, mut rule: impl FnMut(Mapping) -> Fate) -> [MappingTotals; 2] {
        let mut both = [MappingTotals::default(); 2];
        let first_v6 = self.pool.table_of(false) as usize;
        for index in 0..self.mappings.len() {
            let bucket = self.mappings.at(index);
            let totals = &mut both[usize::from(index >= first_v6)];
            for way in 0..SNAT_WAYS as u32 {
                // SAFETY: a mapped value; its word is read whole.
                let word = unsafe { table::word::<Host>(bucket, way) };
                if word.is(State::Free) {
                    continue;
                }
                match word {
                    _ if !word.is(State::Live) => totals.resting += 1,
                    _ if word.finished() => totals.finished += 1,
                    _ => totals.live += 1,
                }
                let new = match rule(word) {
                    Fate::Keep => continue,
                    Fate::Over(new) => new,
                    Fate::Free => Mapping::default(),
                };
                fault::before(Write::Mapping);
                // SAFETY: as above.
                unsafe { table::update::<Host>(bucket, way, word, new) };
            }
        }
        both
    }
}
