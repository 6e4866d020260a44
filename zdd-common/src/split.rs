//! Which group belongs to which version.
//!
//! Groups are ranked once by a keyed permutation. With two versions the candidate always holds the lowest ranks, so the
//! clients of a smaller weight are among those of every larger one, whatever happened between. With more, groups move
//! only from versions that lose weight to versions that gain.

use crate::hash::{HashKey, fold};

/// All of a service's weight, in basis points.
pub const FULL: u32 = 10_000;

/// Groups in the order of their ranks.
pub fn order(key: &HashKey, groups: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..groups).collect();
    // Another start than the maps' hashes, so that rank says nothing about which backend a group has.
    order.sort_by_cached_key(|group| (fold(fold(key.k1, key.k0), u64::from(*group) | 1 << 63), *group));
    order
}

/// How many groups each version holds: the weights' share, exact to one group (largest remainders; ties to the first).
pub fn counts(weights: &[u32], groups: u32) -> Vec<u32> {
    let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    if total == 0 {
        return vec![0; weights.len()];
    }
    let share = |weight: u32| u64::from(weight) * u64::from(groups);
    let mut counts: Vec<u32> = weights.iter().map(|w| (share(*w) / total) as u32).collect();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by_key(|i| (std::cmp::Reverse(share(weights[*i]) % total), *i));
    let missing = groups - counts.iter().sum::<u32>();
    for index in by_remainder.into_iter().take(missing as usize) {
        counts[index] += 1;
    }
    counts
}

/// Moves groups between versions until each holds its count; returns how many moved.
///
/// `assignment[g]` is the index of group g's version; `order` is [`order`]'s. An index beyond `weights` has weight 0.
/// Weights that sum to 0 move nothing.
pub fn reassign(assignment: &mut [u8], order: &[u32], weights: &[u32]) -> u32 {
    if weights.iter().all(|weight| *weight == 0) {
        return 0;
    }
    let versions = assignment.iter().map(|v| usize::from(*v) + 1).max().unwrap_or(0).max(weights.len());
    let mut weights = weights.to_vec();
    weights.resize(versions, 0);
    let target = counts(&weights, assignment.len() as u32);
    let mut have = vec![0u32; versions];
    for version in assignment.iter() {
        have[usize::from(*version)] += 1;
    }
    let mut moved = 0;
    for gainer in 0..versions {
        for loser in 0..versions {
            let need = target[gainer].saturating_sub(have[gainer]);
            let n = have[loser].saturating_sub(target[loser]).min(need);
            if n == 0 {
                continue;
            }
            let take = |assignment: &mut [u8], group: u32| {
                let slot = &mut assignment[group as usize];
                let is = usize::from(*slot) == loser;
                if is {
                    *slot = gainer as u8;
                }
                is
            };
            let mut left = n;
            let mut each = |group: &u32| {
                if left > 0 && take(assignment, *group) {
                    left -= 1;
                }
            };
            // Up takes the lowest ranks, down gives the highest back: with two versions the sets are nested.
            if gainer > loser {
                order.iter().for_each(&mut each)
            } else {
                order.iter().rev().for_each(&mut each)
            }
            have[gainer] += n;
            have[loser] -= n;
            moved += n;
        }
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: HashKey = HashKey { k0: 11, k1: 22 };

    fn held(assignment: &[u8], version: u8) -> Vec<usize> {
        assignment.iter().enumerate().filter(|(_, v)| **v == version).map(|(g, _)| g).collect()
    }

    /// Of every weight and the next one, so of every two. Also on the way down, and each share exact to one group.
    #[test]
    fn every_weight_holds_the_clients_of_every_smaller_one() {
        let groups = 1024;
        let order = order(&KEY, groups);
        let (mut up, mut steps) = (vec![0u8; groups as usize], Vec::new());
        for w in 0..=FULL {
            let before = up.clone();
            reassign(&mut up, &order, &[FULL - w, w]);
            assert!(before.iter().zip(&up).all(|(small, large)| small <= large), "{w}");
            let held = up.iter().filter(|version| **version == 1).count() as i64;
            let off = held * i64::from(FULL) - i64::from(w) * i64::from(groups);
            assert!(off.abs() < i64::from(FULL), "{w}: {held} groups");
            steps.push(up.clone());
        }
        for w in (0..=FULL).rev() {
            reassign(&mut up, &order, &[FULL - w, w]);
            assert!(up == steps[w as usize], "{w} on the way down is {w} on the way up");
        }
    }

    proptest! {
        #[test]
        fn with_two_versions_the_clients_of_a_smaller_weight_are_among_those_of_a_larger(
            steps in prop::collection::vec(0u32..=FULL, 2..12)
        ) {
            let groups = 1024;
            let order = order(&KEY, groups);
            let mut assignment = vec![0u8; groups as usize];
            let mut seen: Vec<(u32, Vec<usize>)> = Vec::new();
            for w in steps {
                reassign(&mut assignment, &order, &[FULL - w, w]);
                let mine = held(&assignment, 1);
                let want = (f64::from(w) * f64::from(groups) / f64::from(FULL)) as i64;
                prop_assert!((mine.len() as i64 - want).abs() <= 1);
                for (other, theirs) in &seen {
                    let (small, large) = if *other <= w { (theirs, &mine) } else { (&mine, theirs) };
                    prop_assert!(small.iter().all(|g| large.contains(g)));
                }
                seen.push((w, mine));
            }
        }

        #[test]
        fn only_losers_give_and_only_gainers_take(a in weights(), b in weights()) {
            let order = order(&KEY, 1024);
            let mut assignment = vec![0u8; 1024];
            reassign(&mut assignment, &order, &a);
            let before = assignment.clone();
            let moved = reassign(&mut assignment, &order, &b);
            let (old, new) = (counts(&a, 1024), counts(&b, 1024));
            let least: u32 = old.iter().zip(&new).map(|(o, n)| n.saturating_sub(*o)).sum();
            prop_assert_eq!(moved, least);
            for (from, to) in before.iter().zip(&assignment).filter(|(from, to)| from != to) {
                prop_assert!(new[usize::from(*from)] < old[usize::from(*from)]);
                prop_assert!(new[usize::from(*to)] > old[usize::from(*to)]);
            }
            for (version, count) in new.iter().enumerate() {
                prop_assert_eq!(held(&assignment, version as u8).len() as u32, *count);
            }
        }
    }

    fn weights() -> impl Strategy<Value = Vec<u32>> {
        prop::collection::vec(0u32..=FULL, 4).prop_map(|mut w| {
            w[0] += 1;
            w
        })
    }
}
