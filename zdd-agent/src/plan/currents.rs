//! Which backend each cell gives its new flows.

use std::collections::HashMap;

use zdd_common::entries::BackendId;
use zdd_common::hash::HashKey;
use zdd_common::maglev::{self, Member};

/// A backend as planning sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Id in the maps.
    pub id: BackendId,
    /// [`maglev::identity`] of its address.
    pub identity: u64,
    /// Relative weight.
    pub weight: u32,
    /// Passes its health checks, or has none, or was not asked yet.
    pub healthy: bool,
    /// Takes no new flows.
    pub draining: bool,
}

/// What of a service can take new flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usable {
    /// By slot: the backends that take new flows, in the order given.
    pub backends: Vec<Vec<Candidate>>,
    /// By slot: the slot that takes its share, if not itself.
    pub stand_in: Vec<Option<usize>>,
    /// What an operator must know: all backends fail their checks and are used all the same.
    pub alarm: Option<String>,
}

/// Decides which backends take new flows.
///
/// `versions[slot]` lists a version's backends; `preference` lists slots, the stable version first. An empty or wholly
/// unhealthy version gives its share to the first usable one of `preference`. If no backend at all passes its checks,
/// something they share is down, most likely: then checks are ignored, with an alarm.
pub fn usable(versions: &[Vec<Candidate>], preference: &[usize]) -> Usable {
    let pick = |ignore_health: bool| -> Vec<Vec<Candidate>> {
        versions
            .iter()
            .map(|all| all.iter().filter(|b| !b.draining && (b.healthy || ignore_health)).copied().collect())
            .collect()
    };
    let mut backends = pick(false);
    let mut alarm = None;
    if backends.iter().all(Vec::is_empty) {
        backends = pick(true);
        let open: usize = backends.iter().map(Vec::len).sum();
        alarm = Some(if open > 0 {
            format!(
                "all {open} backends that take new flows fail their health checks: new flows are spread over them as if they passed"
            )
        } else if versions.iter().any(|all| !all.is_empty()) {
            "every backend drains: new flows have nowhere else to go and stay with them".to_owned()
        } else {
            "there is no backend at all: packets are dropped".to_owned()
        });
        if open == 0 {
            backends = versions.to_vec();
        }
    }
    let fallback = preference.iter().copied().find(|slot| backends.get(*slot).is_some_and(|b| !b.is_empty()));
    let stand_in = backends.iter().map(|own| if own.is_empty() { fallback } else { None }).collect();
    Usable { backends, stand_in, alarm }
}

/// Cache of Maglev tables: a shift changes who owns which group, not the tables. 2 bytes a cell for each version.
#[derive(Debug, Default)]
pub struct Currents {
    tables: HashMap<usize, (Vec<Member>, Vec<u16>)>,
}

impl Currents {
    /// Gives the memory back: whoever asks next has the tables filled anew, in less than a millisecond.
    pub fn clear(&mut self) {
        self.tables = HashMap::new();
    }
}

/// The backend of each cell: `groups[g]` is group g's slot, `per_group` cells each. 0 where there is none.
pub fn currents(
    cache: &mut Currents,
    usable: &Usable,
    groups: &[u8],
    per_group: u32,
    key: &HashKey,
) -> Vec<BackendId> {
    let cells = groups.len() as u32 * per_group;
    let mut ids: Vec<Vec<BackendId>> = Vec::with_capacity(usable.backends.len());
    for (slot, backends) in usable.backends.iter().enumerate() {
        let members: Vec<Member> =
            backends.iter().map(|b| Member { identity: b.identity, weight: b.weight }).collect();
        let fresh =
            cache.tables.get(&slot).is_none_or(|(of, table)| *of != members || table.len() as u32 != cells);
        if fresh && !members.is_empty() {
            let table = maglev::fill(&members, cells, key);
            cache.tables.insert(slot, (members, table));
        }
        ids.push(backends.iter().map(|b| b.id).collect());
    }
    // By slot: whose table and backends answer for it.
    let answers: Vec<Option<(&[u16], &[BackendId])>> = (0..ids.len())
        .map(|own| {
            let slot = usable.stand_in.get(own).copied().flatten().unwrap_or(own);
            let table = cache.tables.get(&slot).map(|(_, table)| table.as_slice())?;
            ids.get(slot).filter(|ids| !ids.is_empty()).map(|ids| (table, ids.as_slice()))
        })
        .collect();
    let answer = |slot: u8, cell: usize| match answers.get(usize::from(slot)).copied().flatten() {
        Some((table, ids)) => ids[usize::from(table[cell])],
        None => 0,
    };
    if per_group == 1 {
        return groups.iter().enumerate().map(|(cell, slot)| answer(*slot, cell)).collect();
    }
    let mut row = Vec::with_capacity(cells as usize);
    for slot in groups {
        let first = row.len();
        row.extend((first..first + per_group as usize).map(|cell| answer(*slot, cell)));
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: HashKey = HashKey { k0: 1, k1: 2 };

    fn backend(id: u16) -> Candidate {
        Candidate { id, identity: u64::from(id) * 77, weight: 1, healthy: true, draining: false }
    }

    fn row(versions: &[Vec<Candidate>], groups: &[u8]) -> (Vec<u16>, Usable) {
        let usable = usable(versions, &[0, 1]);
        (currents(&mut Currents::default(), &usable, groups, 1, &KEY), usable)
    }

    fn halves() -> Vec<u8> {
        (0..1024).map(|g| (g % 2) as u8).collect()
    }

    #[test]
    fn a_wholly_unhealthy_version_gives_its_share_to_the_stable_one() {
        let sick = Candidate { healthy: false, ..backend(3) };
        let (row, usable) = row(&[vec![backend(1), backend(2)], vec![sick]], &halves());
        assert!(row.iter().all(|id| [1, 2].contains(id)));
        assert_eq!(usable.stand_in, [None, Some(0)]);
        assert_eq!(usable.alarm, None);
    }

    #[test]
    fn when_all_fail_their_checks_all_are_used_and_an_alarm_is_raised() {
        let sick = |id| Candidate { healthy: false, ..backend(id) };
        let (row, usable) = row(&[vec![sick(1)], vec![sick(2)]], &halves());
        assert!(usable.alarm.is_some());
        assert!(row.iter().enumerate().all(|(group, id)| *id == 1 + (group % 2) as u16));
    }

    #[test]
    fn a_backend_that_drains_takes_nothing_new_and_the_other_version_is_untouched() {
        let drains = Candidate { draining: true, ..backend(1) };
        let versions = [vec![backend(1), backend(2)], vec![backend(3), backend(4)]];
        let (before, _) = row(&versions, &halves());
        let (after, _) = row(&[vec![drains, backend(2)], versions[1].clone()], &halves());
        assert!(after.iter().all(|id| *id != 1));
        assert!(before.iter().zip(&after).all(|(b, a)| b == a || *b == 1));
    }

    #[test]
    fn nobody_at_all_is_zero_with_an_alarm() {
        let (row, usable) = row(&[vec![], vec![]], &halves());
        assert!(row.iter().all(|id| *id == 0) && usable.alarm.is_some());
    }
}
