//! Backends, weights, and the row that follows: the same for every node and every contender.

use zdd_common::entries::BackendId;
use zdd_common::hash::HashKey;
use zdd_common::maglev::{self, Member};
use zdd_common::net::Addr;
use zdd_common::split;

/// Key of all hashes.
pub const KEY: HashKey = HashKey { k0: 0x0123_4567_89ab_cdef, k1: 0xfedc_ba98_7654_3210 };

/// Two versions with their backends, and the groups between them.
#[derive(Clone, Debug)]
pub struct Pool {
    order: Vec<u32>,
    groups: Vec<u8>,
    /// By version: which of its backends take new flows.
    active: [Vec<bool>; 2],
}

impl Pool {
    /// `per_version` backends each, all weight on the first version; one cell per group.
    pub fn new(cells: u32, per_version: usize) -> Self {
        let active = [vec![true; per_version], vec![true; per_version]];
        Self { order: split::order(&KEY, cells), groups: vec![0; cells as usize], active }
    }

    /// Gives the second version this weight, basis points.
    pub fn shift(&mut self, weight: u32) {
        split::reassign(&mut self.groups, &self.order, &[split::FULL - weight, weight]);
    }

    /// A backend takes new flows from now on, or none.
    pub fn toggle(&mut self, version: usize, backend: usize) {
        let all = &mut self.active[version];
        let others = all.iter().filter(|active| **active).count() - usize::from(all[backend]);
        // Half of them always serve.
        if !all[backend] || others * 2 >= all.len() {
            all[backend] = !all[backend];
        }
    }

    /// Backends of a version.
    pub fn size(&self) -> usize {
        self.active[0].len()
    }

    /// The backend of each cell.
    pub fn row(&self) -> Vec<BackendId> {
        let cells = self.groups.len() as u32;
        let tables: Vec<(Vec<BackendId>, Vec<u16>)> = self
            .active
            .iter()
            .enumerate()
            .map(|(version, active)| {
                let ids: Vec<BackendId> = (0..active.len())
                    .filter(|i| active[*i])
                    .map(|i| (version * active.len() + i + 1) as BackendId)
                    .collect();
                let member = |id: &BackendId| {
                    let addr = Addr::v4([10, 1, (*id >> 8) as u8, *id as u8]);
                    Member { identity: maglev::identity(addr, 80), weight: 1 }
                };
                let members: Vec<Member> = ids.iter().map(member).collect();
                let table = maglev::fill(&members, cells, &KEY);
                (ids, table)
            })
            .collect();
        let of = |(cell, version): (usize, &u8)| {
            let (ids, table) = &tables[usize::from(*version)];
            ids[usize::from(table[cell])]
        };
        self.groups.iter().enumerate().map(of).collect()
    }
}
