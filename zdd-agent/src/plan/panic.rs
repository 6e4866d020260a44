//! How many backends health may take out of a version. So many failures at once are more often the check, the network, or something
//! that all of them share; and those that are left could not carry what the others had.

use super::currents::Candidate;

/// A version that keeps backends which fail their checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panic {
    /// The version's slot.
    pub slot: usize,
    /// Backends that fail.
    pub failing: usize,
    /// Backends that take new flows, those included.
    pub all: usize,
}

/// Makes healthy all backends of each version of which more than `threshold` (0 to 1) fail, but not all: a version that fails
/// wholly gives its share to another, see [`super::usable`].
pub fn panic(versions: &mut [Vec<Candidate>], threshold: f64) -> Vec<Panic> {
    let mut kept = Vec::new();
    for (slot, backends) in versions.iter_mut().enumerate() {
        let all = backends.iter().filter(|b| !b.draining).count();
        let failing = backends.iter().filter(|b| !b.draining && !b.healthy).count();
        if failing == 0 || failing == all || failing as f64 <= threshold * all as f64 {
            continue;
        }
        backends.iter_mut().for_each(|backend| backend.healthy = true);
        kept.push(Panic { slot, failing, all });
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(healthy: &[bool]) -> Vec<Candidate> {
        let one = |(at, healthy): (usize, &bool)| Candidate {
            id: at as u16 + 1,
            identity: at as u64,
            weight: 1,
            healthy: *healthy,
            draining: false,
        };
        healthy.iter().enumerate().map(one).collect()
    }

    fn kept(healthy: &[bool], threshold: f64) -> bool {
        let mut versions = vec![version(healthy)];
        let told = panic(&mut versions, threshold);
        assert_eq!(versions[0].iter().all(|b| b.healthy), !told.is_empty() || healthy.iter().all(|h| *h));
        !told.is_empty()
    }

    #[test]
    fn at_most_the_threshold_is_taken_out() {
        assert!(!kept(&[true, true, false, false], 0.5));
        assert!(kept(&[true, false, false, false], 0.5));
        assert!(kept(&[true, true, true, false], 0.0));
        assert!(!kept(&[true, false, false, false], 1.0));
    }

    #[test]
    fn a_version_that_fails_wholly_is_not_kept() {
        assert!(!kept(&[false, false], 0.5));
    }

    #[test]
    fn those_that_drain_do_not_count() {
        let mut versions = vec![version(&[true, false, true, true])];
        versions[0][2].draining = true;
        versions[0][3].draining = true;
        assert_eq!(panic(&mut versions, 0.5), []);
        assert_eq!(panic(&mut versions, 0.4), [Panic { slot: 0, failing: 1, all: 2 }]);
    }
}
