//! Which backend ids are free. Looking through all backends for each new one makes a start with 20,000 take a minute.

use zdd_common::entries::BackendId;

/// A bit for each id in use; unknown until somebody asks.
#[derive(Debug, Default)]
pub(super) struct Ids(Option<Used>);

#[derive(Debug)]
struct Used {
    ids: Vec<bool>,
    /// All below are in use: between two looks ids are only given out.
    from: usize,
}

impl Ids {
    /// Ids were given back: whoever asks next looks again.
    pub(super) fn forget(&mut self) {
        self.0 = None;
    }

    /// The lowest free id from 1 to `most`, in use from now on. `known`: those in use, looked at only when that has
    /// been forgotten.
    pub(super) fn take(
        &mut self,
        most: BackendId,
        known: impl Iterator<Item = BackendId>,
    ) -> Option<BackendId> {
        let used = self.0.get_or_insert_with(|| {
            let mut ids = vec![false; usize::from(most) + 1];
            for id in known {
                if let Some(used) = ids.get_mut(usize::from(id)) {
                    *used = true;
                }
            }
            Used { ids, from: 1 }
        });
        let id = used.from + used.ids.get(used.from..)?.iter().position(|used| !used)?;
        used.ids[id] = true;
        used.from = id + 1;
        Some(id as BackendId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_given_out_once_until_it_is_forgotten() {
        let mut ids = Ids::default();
        assert_eq!(ids.take(4, [1, 3].into_iter()), Some(2));
        assert_eq!(ids.take(4, std::iter::empty()), Some(4));
        assert_eq!(ids.take(4, std::iter::empty()), None);
        ids.forget();
        assert_eq!(ids.take(4, [1, 2, 3].into_iter()), Some(4));
    }
}
