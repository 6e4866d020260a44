//! The addresses and ports of ours that flows leave from.

use crate::entries::FlowKey;
use crate::hash::{HashKey, fold, range};
use crate::limits::{SNAT_SOURCES_MAX, SNAT_WAYS};
use crate::net::Addr;

/// What there is to give out. One value, the same for as long as any flow is mapped.
///
/// All ports of all addresses of one family make a *plane*: the backends that fall on it share it, and a port of it serves
/// one flow at a time. More planes, more flows in all; towards one backend there are never more than a plane holds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Pool {
    /// Key of the hash that chooses a flow's ports.
    pub key: HashKey,
    /// The first port, host order.
    pub first: u16,
    /// Ports of each address, a multiple of [`SNAT_WAYS`].
    pub ports: u16,
    /// Planes of each family, a power of two; 0: nothing is given out.
    pub planes: u32,
    /// Number of IPv4 and IPv6 addresses.
    pub addresses: [u32; 2],
    /// The addresses: IPv4, then IPv6.
    pub sources: [[Addr; SNAT_SOURCES_MAX]; 2],
}
wire!(Pool, 288, {
    key: HashKey, first: u16, ports: u16, planes: u32, addresses: [u32; 2], sources: [[Addr; SNAT_SOURCES_MAX]; 2],
});

/// Where a mapping is: in which bucket of the whole table, and which of its ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Bucket of the table.
    pub bucket: u32,
    /// Its way.
    pub way: u32,
}

/// The buckets of one family's plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plane {
    /// Bucket of the table at which it begins.
    pub start: u32,
    /// How many there are; 0: the family has no address.
    pub buckets: u32,
}

impl Pool {
    /// Ways as a `u32`.
    const WAYS: u32 = SNAT_WAYS as u32;

    #[inline(always)]
    const fn buckets(&self, v6: bool) -> u32 {
        let addresses = if v6 { self.addresses[1] } else { self.addresses[0] };
        // At most 8 addresses of 65,536 ports: no overflow.
        addresses.wrapping_mul(self.ports as u32) / Self::WAYS
    }

    /// Number of one of our addresses; [`SNAT_SOURCES_MAX`]: it is none.
    #[inline(always)]
    pub fn number_of(&self, addr: &Addr) -> u32 {
        let sources = &self.sources[!addr.is_v4() as usize];
        let mut number = 0;
        while number < SNAT_SOURCES_MAX && sources[number] != *addr {
            number += 1;
        }
        number as u32
    }

    /// Whether an end (port in network byte order) is one of those that are given out.
    #[inline(always)]
    pub fn gives(&self, addr: &Addr, port: u16) -> bool {
        let port = u16::from_be(port).wrapping_sub(self.first);
        port < self.ports && self.number_of(addr) < SNAT_SOURCES_MAX as u32
    }

    /// Buckets of all planes of a family. IPv4's come first.
    pub const fn table_of(&self, v6: bool) -> u32 {
        self.buckets(v6) * self.planes
    }

    /// Buckets of the whole table.
    pub const fn table(&self) -> u32 {
        self.table_of(false) + self.table_of(true)
    }

    /// The plane of a backend; `port` in network byte order.
    #[inline(always)]
    pub const fn plane(&self, backend: Addr, port: u16) -> Plane {
        let v6 = !backend.is_v4();
        let buckets = self.buckets(v6);
        let hash = fold(fold(backend.hi, backend.lo), port as u64);
        let plane = hash as u32 & self.planes.wrapping_sub(1);
        let before = if v6 { self.buckets(false).wrapping_mul(self.planes) } else { 0 };
        Plane { start: before.wrapping_add(plane.wrapping_mul(buckets)), buckets }
    }

    /// A flow's hash: chooses where its port is looked for. Keyed, so that nobody outside can tell or aim (RFC 6056).
    #[inline(always)]
    pub const fn hash(&self, key: &FlowKey) -> u64 {
        fold(fold(fold(self.key.k0, key.client.hi), key.client.lo), key.ports ^ self.key.k1)
    }

    /// Address and port (network byte order) at a place of a plane.
    #[inline(always)]
    pub const fn end_at(&self, plane: Plane, place: Place) -> (u32, u16) {
        let slot = place.bucket.wrapping_sub(plane.start).wrapping_mul(Self::WAYS).wrapping_add(place.way);
        let ports = if self.ports == 0 { 1 } else { self.ports as u32 };
        (slot / ports, self.first.wrapping_add((slot % ports) as u16).to_be())
    }

    /// The place of one of our ends in a plane; `port` in network byte order. `None`: the port is none of ours.
    #[inline(always)]
    pub const fn place_of(&self, plane: Plane, source: u32, port: u16) -> Option<Place> {
        let port = u16::from_be(port).wrapping_sub(self.first);
        if port >= self.ports {
            return None;
        }
        let slot = source.wrapping_mul(self.ports as u32).wrapping_add(port as u32);
        let bucket = slot / Self::WAYS;
        if bucket >= plane.buckets {
            return None;
        }
        Some(Place { bucket: plane.start.wrapping_add(bucket), way: slot % Self::WAYS })
    }
}

/// The two buckets of a plane in which a flow's port is looked for.
#[inline(always)]
pub const fn homes(plane: Plane, hash: u64) -> [u32; 2] {
    let first = range(hash, plane.buckets);
    let step = range(fold(hash, 1), plane.buckets.wrapping_sub(1)) + 1;
    // Never the same one twice while there is more than one.
    let second = first.wrapping_add(step);
    let second = if second >= plane.buckets { second.wrapping_sub(plane.buckets) } else { second };
    let second = if second < plane.buckets { second } else { first };
    [plane.start.wrapping_add(first), plane.start.wrapping_add(second)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool(ports: u16, planes: u32, addresses: [u32; 2]) -> Pool {
        Pool { first: 61_000, ports, planes, addresses, ..Pool::default() }
    }

    #[test]
    fn it_gives_its_own_ports_of_its_own_addresses() {
        let mut pool = pool(8, 1, [1, 0]);
        let ours = Addr::v4([10, 0, 2, 1]);
        pool.sources[0][0] = ours;
        for (port, gives) in [(60_999u16, false), (61_000, true), (61_007, true), (61_008, false)] {
            assert_eq!(pool.gives(&ours, port.to_be()), gives, "{port}");
        }
        assert!(!pool.gives(&Addr::v4([10, 0, 2, 2]), 61_000u16.to_be()));
    }

    proptest! {
        #[test]
        fn every_place_has_an_end_of_its_own_and_is_found_by_it(
            ports in 1u16..64, planes in 0u32..4, v4 in 1u32..8, v6: bool, backend: u64, port: u16,
        ) {
            let pool = pool(ports * 8, 1 << planes, [v4, 2]);
            let addr = if v6 { Addr { hi: backend | 1, lo: 9 } } else { Addr::v4(((backend >> 7) as u32).to_be_bytes()) };
            let plane = pool.plane(addr, port);
            prop_assert!(plane.start + plane.buckets <= pool.table());
            let mut seen = std::collections::HashSet::new();
            for bucket in plane.start..plane.start + plane.buckets {
                for way in 0..8 {
                    let place = Place { bucket, way };
                    let (source, port) = pool.end_at(plane, place);
                    prop_assert!(source < pool.addresses[usize::from(v6)] && seen.insert((source, port)));
                    prop_assert_eq!(pool.place_of(plane, source, port), Some(place));
                }
            }
            prop_assert_eq!(pool.place_of(plane, 0, 60_999u16.to_be()), None);
            prop_assert_eq!(pool.place_of(plane, 0, (61_000 + pool.ports).to_be()), None);
        }

        #[test]
        fn homes_lie_in_the_plane_and_differ(buckets in 1u32..5000, start in 0u32..1000, hash: u64) {
            let [a, b] = homes(Plane { start, buckets }, hash);
            prop_assert!([a, b].iter().all(|home| (start..start + buckets).contains(home)));
            prop_assert!(a != b || buckets == 1);
        }
    }
}
