//! Which cells of the map belong to whom: each VIP has one live row, and whoever publishes takes a spare one, which
//! becomes the live one. The old one is spare again after a grace period.
//!
//! A commit must never fail for want of room, or a rollback could. So each size of row that is in use has a *reserve*: rows
//! that only publishing takes, as many as one service publishes together (one for each of its VIPs). Each is either here, or
//! the row that it replaced is on its way back; so there is always one to wait for. Whatever else is free serves as spare
//! too, so that several publishes need not wait.

use std::collections::{BTreeMap, HashMap};

/// Rows by where they begin. Sizes are powers of two.
#[derive(Debug)]
pub(crate) struct Rows {
    capacity: u32,
    /// First cell and size of whatever is not free.
    used: BTreeMap<u32, u32>,
    /// By size: how many VIPs have such a row, and the reserve.
    sizes: HashMap<u32, Size>,
    /// Replaced rows with the epoch after which nobody reads them, in the order of the epochs.
    leaving: Vec<(u64, u32, u32)>,
}

#[derive(Clone, Debug, Default)]
struct Size {
    /// How many VIPs have such a row, by their place among those of their service: from 1.
    faces: BTreeMap<u32, u32>,
    reserve: Vec<u32>,
}

impl Size {
    /// How many rows of it one service publishes together at most.
    fn together(&self) -> usize {
        self.faces.last_key_value().map_or(0, |(place, _)| *place as usize)
    }
}

/// There is no room. How much there would have to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoRoom {
    /// Cells that are in use, reserves included.
    pub(crate) used: u32,
}

impl Rows {
    /// All free.
    pub(crate) fn new(capacity: u32) -> Self {
        Self { capacity, used: BTreeMap::new(), sizes: HashMap::new(), leaving: Vec::new() }
    }

    /// Notes a row that is live already: of a map that was adopted. `place`: of its VIP among those of its service, from 1.
    /// Its size may have no reserve before [`Rows::reserve`].
    pub(crate) fn adopt(&mut self, start: u32, len: u32, place: u32) {
        self.used.insert(start, len);
        *self.sizes.entry(len).or_default().faces.entry(place).or_default() += 1;
    }

    /// Makes sure that every size in use has its reserve. Large ones first: what is left by a large row still takes small ones.
    pub(crate) fn reserve(&mut self) -> Result<(), NoRoom> {
        let mut lens: Vec<u32> = self.sizes.keys().copied().collect();
        lens.sort_unstable_by(|a, b| b.cmp(a));
        lens.into_iter().try_for_each(|len| {
            let size = &self.sizes[&len];
            self.reserve_more(len, size.together().saturating_sub(size.reserve.len()))
        })
    }

    /// All of them or none.
    fn reserve_more(&mut self, len: u32, more: usize) -> Result<(), NoRoom> {
        let mut new = Vec::with_capacity(more);
        for _ in 0..more {
            let Some(start) = self.free(len) else {
                let error = self.no_room();
                for start in new {
                    self.used.remove(&start);
                }
                return Err(error);
            };
            self.used.insert(start, len);
            new.push(start);
        }
        self.sizes.entry(len).or_default().reserve.extend(new);
        Ok(())
    }

    /// A row for a new VIP, and what it adds to the reserve of its size. `place`: its place among the VIPs of its service,
    /// from 1. Nobody has read the row since `over` epochs.
    pub(crate) fn add(&mut self, len: u32, place: u32, over: impl Fn(u64) -> bool) -> Result<u32, NoRoom> {
        self.collect(over);
        let start = self.free(len).ok_or(self.no_room())?;
        let before = self.sizes.get(&len).map_or(0, Size::together);
        self.adopt(start, len, place);
        let more = self.sizes[&len].together() - before;
        if let Err(error) = self.reserve_more(len, more) {
            self.used.remove(&start);
            self.less(len, place);
            return Err(error);
        }
        Ok(start)
    }

    /// A spare row to publish a service of this size in. `Err`: the epoch to wait for, after which there is one.
    pub(crate) fn spare(&mut self, len: u32, over: impl Fn(u64) -> bool) -> Result<u32, u64> {
        self.collect(over);
        if let Some(start) = self.free(len) {
            self.used.insert(start, len);
            return Ok(start);
        }
        if let Some(start) = self.sizes.get_mut(&len).and_then(|size| size.reserve.pop()) {
            return Ok(start);
        }
        // The reserve was taken for a row that is on its way back.
        Err(self.leaving.iter().find(|(_, _, size)| *size == len).map_or(0, |(epoch, _, _)| *epoch))
    }

    /// A row that was replaced: spare once `epoch` is over.
    pub(crate) fn retire(&mut self, start: u32, len: u32, epoch: u64) {
        self.leaving.push((epoch, start, len));
    }

    /// A spare row that was not written after all, or nobody got to see.
    pub(crate) fn give_back(&mut self, start: u32, len: u32) {
        let Self { used, sizes, .. } = self;
        match sizes.get_mut(&len) {
            Some(size) if size.reserve.len() < size.together() => size.reserve.push(start),
            _ => drop(used.remove(&start)),
        }
    }

    /// A VIP with a row of this size is gone; `place` as it was given when it came.
    pub(crate) fn remove(&mut self, start: u32, len: u32, place: u32, epoch: u64) {
        self.retire(start, len, epoch);
        self.less(len, place);
    }

    /// One VIP less: so much of the reserve is free that nobody can need.
    fn less(&mut self, len: u32, place: u32) {
        let Some(size) = self.sizes.get_mut(&len) else { return };
        if let Some(faces) = size.faces.get_mut(&place) {
            *faces -= 1;
            if *faces == 0 {
                size.faces.remove(&place);
            }
        }
        while size.reserve.len() > size.together() {
            if let Some(reserve) = size.reserve.pop() {
                self.used.remove(&reserve);
            }
        }
        if size.faces.is_empty() {
            self.sizes.remove(&len);
        }
    }

    /// Takes back what nobody reads any more; reserves first.
    fn collect(&mut self, over: impl Fn(u64) -> bool) {
        let mut leaving = std::mem::take(&mut self.leaving);
        leaving.retain(|(epoch, start, len)| {
            let over = over(*epoch);
            if over {
                self.give_back(*start, *len);
            }
            !over
        });
        self.leaving = leaving;
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

    /// Cells from the first to the end of the last that is not free: so large a map would have been enough.
    pub(crate) fn extent(&self) -> u32 {
        self.used.last_key_value().map_or(0, |(start, len)| start + len)
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
        let live: Vec<u32> = (0..3).map(|_| rows.add(1 << 10, 1, NEVER).unwrap()).collect();
        let spare = rows.spare(1 << 10, NEVER).unwrap();
        assert!(!live.contains(&spare));
        rows.retire(live[0], 1 << 10, 7);
        assert_eq!(rows.spare(1 << 10, |epoch| epoch < 7), Err(7));
        assert_eq!(rows.spare(1 << 10, |epoch| epoch <= 7), Ok(live[0]));
    }

    #[test]
    fn a_service_that_would_leave_no_reserve_is_refused() {
        let mut rows = Rows::new(4 << 10);
        assert!(rows.add(1 << 10, 1, NEVER).is_ok());
        assert!(rows.add(2 << 10, 1, NEVER).is_err());
        assert!(rows.add(1 << 10, 1, NEVER).is_ok() && rows.add(1 << 10, 1, NEVER).is_ok());
        assert_eq!(rows.add(1 << 10, 1, NEVER), Err(NoRoom { used: 4 << 10 }));
    }

    #[test]
    fn other_sizes_cannot_take_a_reserve_even_when_it_is_on_its_way_back() {
        let mut rows = Rows::new(8 << 10);
        let big = rows.add(2 << 10, 1, NEVER).unwrap();
        let spare = rows.spare(2 << 10, NEVER).unwrap();
        rows.retire(big, 2 << 10, 1);
        // Small ones may take what is left, but not the row that comes back.
        while rows.add(1 << 10, 1, ALWAYS).is_ok() {}
        let next = rows.spare(2 << 10, ALWAYS).unwrap();
        assert_ne!(next, spare);
    }

    #[test]
    fn adopted_rows_are_not_given_to_others() {
        let mut rows = Rows::new(4 << 10);
        rows.adopt(1 << 10, 1 << 10, 1);
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
        let row = rows.add(1 << 10, 1, NEVER).unwrap();
        rows.remove(row, 1 << 10, 1, 3);
        assert!(rows.add(2 << 10, 1, NEVER).is_err());
        assert_eq!(rows.add(1 << 10, 1, ALWAYS), Ok(0));
    }

    #[test]
    fn two_vips_of_a_service_find_two_spare_rows_at_once() {
        let mut rows = Rows::new(4 << 10);
        let (v4, v6) = (rows.add(1 << 10, 1, NEVER).unwrap(), rows.add(1 << 10, 2, NEVER).unwrap());
        // Whatever else there is room for.
        while rows.add(1 << 9, 1, NEVER).is_ok() {}
        for epoch in 1..4 {
            let spare = [rows.spare(1 << 10, NEVER), rows.spare(1 << 10, NEVER)];
            assert!(spare.iter().all(|row| row.is_ok_and(|row| epoch > 1 || (row != v4 && row != v6))));
            for row in spare {
                rows.retire(row.unwrap(), 1 << 10, epoch);
            }
            assert_eq!(rows.spare(1 << 10, NEVER), Err(epoch));
            rows.collect(ALWAYS);
        }
    }

    #[test]
    fn a_second_vip_needs_a_second_reserve_and_gives_it_back() {
        let mut rows = Rows::new(3 << 10);
        let row = rows.add(1 << 10, 1, NEVER).unwrap();
        assert_eq!(rows.add(1 << 10, 2, NEVER), Err(NoRoom { used: 3 << 10 }));
        // Refused: all as before, so that another service has room.
        let other = rows.add(1 << 10, 1, NEVER).unwrap();
        rows.remove(other, 1 << 10, 1, 1);
        rows.remove(row, 1 << 10, 1, 1);
        let both = (rows.add(1 << 10, 1, ALWAYS), rows.add(1 << 10, 2, ALWAYS));
        assert!(both.0.is_ok() && both.1.is_err());
        let mut rows = Rows::new(4 << 10);
        let both = [1, 2].map(|place| rows.add(1 << 10, place, NEVER).unwrap());
        rows.remove(both[1], 1 << 10, 2, 1);
        // One stays, with one in reserve.
        assert!(rows.add(1 << 10, 1, ALWAYS).is_ok() && rows.add(1 << 10, 1, ALWAYS).is_ok());
        assert!(rows.add(1 << 10, 1, ALWAYS).is_err());
    }

    #[test]
    fn a_row_that_was_not_used_is_in_reserve_again() {
        let mut rows = Rows::new(2 << 10);
        rows.add(1 << 10, 1, NEVER).unwrap();
        let spare = rows.spare(1 << 10, NEVER).unwrap();
        rows.give_back(spare, 1 << 10);
        assert!(rows.add(1 << 10, 1, ALWAYS).is_err());
        assert_eq!(rows.spare(1 << 10, NEVER), Ok(spare));
    }
}
