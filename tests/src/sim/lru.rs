//! A connection table that forgets whom it has not seen for longest: what other balancers keep.

use std::collections::HashMap;

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    key: u64,
    backend: u16,
    before: u32,
    after: u32,
}

/// Least recently used out first.
#[derive(Clone, Debug)]
pub struct Lru {
    capacity: usize,
    at: HashMap<u64, u32>,
    links: Vec<Link>,
    newest: u32,
    oldest: u32,
}

impl Lru {
    /// An empty table for `capacity` flows.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), at: HashMap::new(), links: Vec::new(), newest: NONE, oldest: NONE }
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// The backend of a flow, which becomes the newest.
    pub fn get(&mut self, key: u64) -> Option<u16> {
        let index = *self.at.get(&key)?;
        self.unlink(index);
        self.link(index);
        Some(self.links[index as usize].backend)
    }

    /// Remembers a flow; the oldest goes when there is no room.
    pub fn put(&mut self, key: u64, backend: u16) {
        let index = if self.links.len() < self.capacity {
            self.links.push(Link { key, backend, before: NONE, after: NONE });
            self.links.len() as u32 - 1
        } else {
            let oldest = self.oldest;
            self.unlink(oldest);
            self.at.remove(&self.links[oldest as usize].key);
            let link = &mut self.links[oldest as usize];
            (link.key, link.backend) = (key, backend);
            oldest
        };
        self.at.insert(key, index);
        self.link(index);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::new(self.capacity);
    }

    fn unlink(&mut self, index: u32) {
        let Link { before, after, .. } = self.links[index as usize];
        match before {
            NONE => self.newest = after,
            before => self.links[before as usize].after = after,
        }
        match after {
            NONE => self.oldest = before,
            after => self.links[after as usize].before = before,
        }
    }

    fn link(&mut self, index: u32) {
        let newest = self.newest;
        (self.links[index as usize].before, self.links[index as usize].after) = (NONE, newest);
        match newest {
            NONE => self.oldest = index,
            newest => self.links[newest as usize].before = index,
        }
        self.newest = index;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_not_seen_for_longest_goes_first() {
        let mut lru = Lru::new(3);
        for key in 1..=3 {
            lru.put(key, key as u16);
        }
        assert_eq!(lru.get(1), Some(1));
        lru.put(4, 4);
        assert_eq!((lru.get(2), lru.get(1), lru.get(3), lru.get(4)), (None, Some(1), Some(3), Some(4)));
        lru.put(5, 5);
        assert_eq!((lru.get(1), lru.get(3), lru.len()), (None, Some(3), 3));
    }
}
