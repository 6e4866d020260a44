//! Which sources a VIP takes: sets of prefixes that are written whole and then named by the VIP, so that no packet sees half of a
//! change.

use std::collections::BTreeMap;

use super::Reconciler;
use super::face::Of;
use super::grace::Epochs;
use super::service::Service;
use crate::admission::{self, NewPerSource};
use crate::cohort::Members;
use crate::dataplane::{Dataplane, DataplaneError, SourceSet};

/// The numbers of sets: each is used once.
#[derive(Debug, Default)]
pub(super) struct Sets {
    last: u32,
}

impl Sets {
    fn take(&mut self) -> u32 {
        // 0 is none. After four billion changes an old number is long free.
        self.last = self.last.checked_add(1).unwrap_or(1);
        self.last
    }
}

impl Service {
    /// Makes its VIPs known with what they say of sources now. A set that is replaced goes after a grace period.
    pub(super) fn write_vips(
        &mut self,
        dataplane: &mut Dataplane,
        epochs: &mut Epochs,
        sets: &mut Sets,
    ) -> Result<(), DataplaneError> {
        let name = self.saved.spec.name.clone();
        let pace = NewPerSource::pace(self.saved.spec.new_per_source);
        let of = Of { name: &name, rate: self.rate(), maps: self.maps() };
        for main in 0..self.faces.len() {
            dataplane.set_pace(self.faces[main].at.id, pace);
            if self.faces[main].at.cohort.is_some() {
                continue;
            }
            let members = self.next_members(main, dataplane, epochs)?;
            let face = &mut self.faces[main];
            let (v4, row) = (face.at.vip.addr.is_ipv4(), face.at.id);
            let wanted = admission::compile(&self.saved.spec.access, v4, row, &members);
            if wanted == face.sources.1 {
                face.write_vip(dataplane, &of)?;
                face.members = members;
                continue;
            }
            let number = if wanted.is_empty() { 0 } else { sets.take() };
            dataplane.write_sources(number, &wanted)?;
            let (old, table) = std::mem::replace(&mut face.sources, (number, wanted));
            face.write_vip(dataplane, &of)?;
            face.members = members;
            // Before any row changes again, no packet goes by the rows that the old set names.
            let epoch = epochs.commit();
            epochs.wait_for(epoch)?;
            if old != 0 {
                dataplane.remove_sources(old, &table);
            }
        }
        Ok(())
    }

    /// Forgets the sets of its VIPs, which are not known any more.
    pub(super) fn remove_sets(&self, dataplane: &mut Dataplane, epochs: &mut Epochs) {
        let named = self.faces.iter().filter(|face| face.sources.0 != 0);
        for (set, table) in named.map(|face| &face.sources) {
            let epoch = epochs.commit();
            // Without a grace period it stays until the next start.
            if epochs.wait_for(epoch).is_ok() {
                dataplane.remove_sources(*set, table);
            }
        }
    }
}

impl Reconciler {
    /// Finds out which sets the VIPs of adopted maps name, and forgets the others: a kill came in between.
    pub(super) fn recall_sets(&mut self) -> anyhow::Result<()> {
        let mut there: BTreeMap<u32, SourceSet> = self.dataplane.source_sets();
        self.sets.last = there.last_key_value().map_or(0, |(set, _)| *set);
        let faces = self.services.iter_mut().flat_map(|service| &mut service.faces);
        for face in faces.filter(|face| face.at.cohort.is_none()) {
            let entry = self.dataplane.ends_entry(face.ends());
            if let Some(entry) = entry.filter(|entry| entry.id == face.at.vip_id)
                && let Some(table) = there.remove(&entry.sources)
            {
                face.members = Members::of_set(&table, face.at.id);
                face.sources = (entry.sources, table);
            }
        }
        if !there.is_empty() {
            let epoch = self.epochs.commit();
            self.epochs.wait_for(epoch)?;
        }
        for (set, table) in there {
            self.dataplane.remove_sources(set, &table);
        }
        Ok(())
    }
}
