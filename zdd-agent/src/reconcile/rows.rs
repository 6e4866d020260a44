//! Which cells of the map belong to whom: each service has one live row, and whoever publishes takes a spare one, which
//! becomes the live one. The old one is spare again after a grace period.
//!
//! A commit must never fail for want of room, or a rollback could. So each size of row that is in use has a *reserve*: one
//! row that only publishing takes. It is either here, or the row that it replaced is on its way back; so there is always
//! one to wait for. Whatever else is free serves as spare too, so that several publishes need not wait.

use std::collections::{BTreeMap, HashMap};

/// Rows by where they begin. Sizes are powers of two.
#[derive(Debug)]
pub(super) struct Rows {
    capacity: u32,
    /// First cell and size of whatever is not free.
    used: BTreeMap<u32, u32>,
    /// By size: how many services have such a row, and the reserve.
    sizes: HashMap<u32, Size>,
    /// Replaced rows with the epoch after which nobody reads them, in the order of the epochs.
    leaving: Vec<(u64, u32, u32)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Size {
    services: u32,
    reserve: Option<u32>,
}

/// There is no room. How much there would have to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom {
    /// Cells that are in use, reserves included.
    pub(super) used: u32,
}

impl Rows {
    /// All free.
    pub(super) fn new(capacity: u32) -> Self {
        Self { capacity, used: BTreeMap::new(), sizes: HashMap::new(), leaving: Vec::new() }
    }

    /// Notes a row that is live already: of a map that was adopted. Its size has no reserve before [`Rows::reserve`].
    pub(super) fn adopt(&mut self, start: u32, len: u32) {
        self.used.insert(start, len);
        self.sizes.entry(len).or_default().services += 1;
    }

    /// Makes sure that every size in use has its reserve.
    pub(super) fn reserve(&mut self) -> Result<(), NoRoom> {
        let missing: Vec<u32> =
            self.sizes.iter().filter(|(_, size)| size.reserve.is_none()).map(|(len, _)| *len).collect();
        for len in missing {
            let start = self.free(len).ok_or(self.no_room())?;
            self.used.insert(start, len);
            self.sizes.entry(len).or_default().reserve = Some(start);
        }
        Ok(())
    }

    /// A row for a new service, and the reserve of its size. Nobody has read it since `over` epochs.
    pub(super) fn add(&mut self, len: u32, over: impl Fn(u64) -> bool) -> Result<u32, NoRoom> {
        self.collect(over);
        let start = self.free(len).ok_or(self.no_room())?;
        self.used.insert(start, len);
        let first = !self.sizes.contains_key(&len);
        self.sizes.entry(len).or_default().services += 1;
        if first && let Err(error) = self.reserve() {
            self.sizes.remove(&len);
            self.used.remove(&start);
            return Err(error);
        }
        Ok(start)
    }

    /// A spare row to publish a service of this size in. `Err`: the epoch to wait for, after which there is one.
    pub(super) fn spare(&mut self, len: u32, over: impl Fn(u64) -> bool) -> Result<u32, u64> {
        self.collect(over);
        if let Some(start) = self.free(len) {
            self.used.insert(start, len);
            return Ok(start);
        }
        if let Some(start) = self.sizes.get_mut(&len).and_then(|size| size.reserve.take()) {
            return Ok(start);
        }
        // The reserve was taken for a row that is on its way back.
        Err(self.leaving.iter().find(|(_, _, size)| *size == len).map_or(0, |(epoch, _, _)| *epoch))
    }

    /// A row that was replaced: spare once `epoch` is over.
    pub(super) fn retire(&mut self, start: u32, len: u32, epoch: u64) {
        self.leaving.push((epoch, start, len));
    }

    /// A service of this size is gone, with its row.
    pub(super) fn remove(&mut self, start: u32, len: u32, epoch: u64) {
        self.retire(start, len, epoch);
        let Some(size) = self.sizes.get_mut(&len) else { return };
        size.services -= 1;
        if size.services == 0 {
            if let Some(reserve) = size.reserve {
                self.used.remove(&reserve);
            }
            self.sizes.remove(&len);
        }
    }

    /// Takes back what nobody reads any more; reserves first.
    fn collect(&mut self, over: impl Fn(u64) -> bool) {
        let Self { used, sizes, leaving, .. } = self;
        leaving.retain(|(epoch, start, len)| {
            if !over(*epoch) {
                return true;
            }
            match sizes.get_mut(len) {
                Some(size) if size.reserve.is_none() => size.reserve = Some(*start),
                _ => drop(used.remove(start)),
            }
            false
        });
    }

    /// The first free place: sizes are powers of two and rows begin at multiples of theirs, so that what is free does not
    /// fall into pieces that nobody can use.
    fn free(&self, len: u32) -> Option<u32> {
        let mut start = 0u32;
        for (from, size) in &self.used {
            if start.checked_add(len)? <= *from {
                return Some(start);
            }
            start = start.max((from + size).next_multiple_of(len));
        }
        (start.checked_add(len)? <= self.capacity).then_some(start)
    }

    fn no_room(&self) -> NoRoom {
        NoRoom { used: self.used.values().sum() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: fn(u64) -> bool = |_| false;
    const ALWAYS: fn(u64) -> bool = |_| true;

    #[test]
    fn whoever_publishes_gets_a_row_that_nobody_reads_or_the_epoch_to_wait_for() {
        // Three services and one reserve fill the map.
        let mut rows = Rows::new(4 << 10);
        let live: Vec<u32> = (0..3).map(|_| rows.add(1 << 10, NEVER).unwrap()).collect();
        let spare = rows.spare(1 << 10, NEVER).unwrap();
        assert!(!live.contains(&spare));
        rows.retire(live[0], 1 << 10, 7);
        assert_eq!(rows.spare(1 << 10, |epoch| epoch < 7), Err(7));
        assert_eq!(rows.spare(1 << 10, |epoch| epoch <= 7), Ok(live[0]));
    }

    #[test]
    fn a_service_that_would_leave_no_reserve_is_refused() {
        let mut rows = Rows::new(4 << 10);
        assert!(rows.add(1 << 10, NEVER).is_ok());
        assert!(rows.add(2 << 10, NEVER).is_err());
        assert!(rows.add(1 << 10, NEVER).is_ok() && rows.add(1 << 10, NEVER).is_ok());
        assert_eq!(rows.add(1 << 10, NEVER), Err(NoRoom { used: 4 << 10 }));
    }

    #[test]
    fn other_sizes_cannot_take_a_reserve_even_when_it_is_on_its_way_back() {
        let mut rows = Rows::new(8 << 10);
        let big = rows.add(2 << 10, NEVER).unwrap();
        let spare = rows.spare(2 << 10, NEVER).unwrap();
        rows.retire(big, 2 << 10, 1);
        // Small ones may take what is left, but not the row that comes back.
        while rows.add(1 << 10, ALWAYS).is_ok() {}
        let next = rows.spare(2 << 10, ALWAYS).unwrap();
        assert_ne!(next, spare);
    }

    #[test]
    fn adopted_rows_are_not_given_to_others() {
        let mut rows = Rows::new(4 << 10);
        rows.adopt(1 << 10, 1 << 10);
        rows.reserve().unwrap();
        let mut given = vec![1 << 10];
        while let Ok(start) = rows.spare(1 << 10, NEVER) {
            given.push(start);
        }
        given.sort_unstable();
        assert_eq!(given, [0, 1 << 10, 2 << 10, 3 << 10]);
    }

    #[test]
    fn a_removed_service_gives_row_and_reserve_back() {
        let mut rows = Rows::new(2 << 10);
        let row = rows.add(1 << 10, NEVER).unwrap();
        rows.remove(row, 1 << 10, 3);
        assert!(rows.add(2 << 10, NEVER).is_err());
        assert_eq!(rows.add(1 << 10, ALWAYS), Ok(0));
    }
}
