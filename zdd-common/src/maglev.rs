//! Weighted Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4): a table in which every backend holds its share and
//! few entries move when the set changes.
//!
//! The table's size is a power of two, so each backend's permutation steps by an odd number instead of the paper's prime
//! modulus. Weights give a backend more or fewer turns.

use crate::hash::{HashKey, fold};

/// One backend of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Says which backend it is, the same on every node: a hash of its address and port.
    pub identity: u64,
    /// Relative share; 0 takes no part.
    pub weight: u32,
}

/// Identity of a backend from its address and port (network byte order).
pub fn identity(addr: crate::net::Addr, port: u16) -> u64 {
    fold(fold(fold(0, addr.hi), addr.lo), port.into())
}

/// Fills a table: entry i is the index of cell i's member. Empty when no member has weight.
///
/// # Panics
/// If `size` is not a power of two.
pub fn fill(members: &[Member], size: u32, key: &HashKey) -> Vec<u16> {
    assert!(size.is_power_of_two(), "cells come in powers of two");
    let most = members.iter().map(|m| m.weight).max().unwrap_or(0);
    if most == 0 {
        return Vec::new();
    }
    let mask = u64::from(size - 1);
    const NONE: u16 = u16::MAX;
    let mut table = vec![NONE; size as usize];
    struct Turn {
        next: u64,
        step: u64,
        weight: u64,
        credit: u64,
        index: u16,
    }
    let mut turns: Vec<Turn> = members
        .iter()
        .enumerate()
        .filter(|(_, member)| member.weight > 0)
        .map(|(index, member)| {
            let hash = fold(fold(key.k0, member.identity), key.k1);
            Turn {
                next: hash & mask,
                step: hash >> 32 | 1,
                weight: member.weight.into(),
                credit: 0,
                index: index as u16,
            }
        })
        .collect();
    // The order of turns must not depend on the order in which the file names the backends.
    turns.sort_by_key(|turn| members[usize::from(turn.index)].identity);
    let mut left = size;
    while left > 0 {
        for turn in &mut turns {
            turn.credit += turn.weight;
            while turn.credit >= u64::from(most) && left > 0 {
                turn.credit -= u64::from(most);
                while table[turn.next as usize] != NONE {
                    turn.next = (turn.next + turn.step) & mask;
                }
                table[turn.next as usize] = turn.index;
                left -= 1;
            }
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: HashKey = HashKey { k0: 5, k1: 6 };

    fn members(weights: &[u32]) -> Vec<Member> {
        weights.iter().enumerate().map(|(i, w)| Member { identity: fold(7, i as u64), weight: *w }).collect()
    }

    fn count(table: &[u16], index: u16) -> i64 {
        table.iter().filter(|x| **x == index).count() as i64
    }

    #[test]
    fn every_backend_holds_its_weight() {
        let table = fill(&members(&[1, 2, 0, 5]), 1 << 14, &KEY);
        let unit = (1 << 14) / 8;
        for (index, weight) in [(0, 1), (1, 2), (2, 0), (3, 5)] {
            assert!((count(&table, index) - unit * weight).abs() <= 8, "{index}");
        }
    }

    #[test]
    fn the_order_of_the_file_does_not_matter() {
        let forth = members(&[1, 3, 2]);
        let back: Vec<Member> = forth.iter().rev().copied().collect();
        let (a, b) = (fill(&forth, 1024, &KEY), fill(&back, 1024, &KEY));
        assert!(a.iter().zip(&b).all(|(x, y)| forth[usize::from(*x)] == back[usize::from(*y)]));
    }

    #[test]
    fn losing_one_of_ten_moves_little_else() {
        let all = members(&[1; 10]);
        let before = fill(&all, 1 << 14, &KEY);
        let after = fill(&all[..9], 1 << 14, &KEY);
        let moved = before.iter().zip(&after).filter(|(b, a)| **b != 9 && b != a).count();
        assert!(moved < (1 << 14) / 20, "{moved}");
    }

    #[test]
    fn nobody_with_weight_means_an_empty_table() {
        assert!(fill(&members(&[0, 0]), 1024, &KEY).is_empty());
        assert!(fill(&[], 1024, &KEY).is_empty());
    }
}
