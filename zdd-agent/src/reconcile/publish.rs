//! How new rows of a service get published: what intent, health and time make of its cells, into spare rows, and the commits.

use zdd_common::entries::{Cell, Facts};
use zdd_common::rules;

use super::grace::Epochs;
use super::service::{HealthMap, Service};
use crate::dataplane::{Dataplane, DataplaneError};

impl Service {
    /// Brings the cells' currents in line with intent and health, and publishes.
    pub(super) fn refresh(
        &mut self,
        dataplane: &Dataplane,
        epochs: &mut Epochs,
        health: &HealthMap,
        now: u64,
    ) -> Result<(), DataplaneError> {
        let name = self.saved.spec.name.clone();
        self.follow_ramp(health, now);
        let new = self.rows(health);
        let mut rows = Vec::new();
        for (face, (usable, currents)) in self.faces.iter_mut().zip(new) {
            if face.at.cohort.is_none() && face.alarm != usable.alarm {
                match &usable.alarm {
                    Some(alarm) => tracing::error!(service = name, vip = %face.at.vip, "{alarm}"),
                    None => tracing::info!(service = name, vip = %face.at.vip, "the alarm is over"),
                }
                face.alarm.clone_from(&usable.alarm);
            }
            rows.push(Some(if self.saved.spec.remembers() {
                face.change(currents, now)
            } else {
                currents.into_iter().map(Cell::settled).collect()
            }));
        }
        self.publish(dataplane, epochs, rows)
    }

    /// What time does to the cells: disarming and settling. Publishes if anything changed.
    pub(super) fn settle(
        &mut self,
        dataplane: &Dataplane,
        epochs: &mut Epochs,
        now: u64,
    ) -> Result<(), DataplaneError> {
        let rows = self
            .faces
            .iter()
            .map(|face| {
                // A row so young that a packet may still be working with the one before is left alone: see rules::settle.
                if face.dirty == 0 || !epochs.over(face.committed) {
                    return None;
                }
                let Facts { last_fail, udp_fail, .. } = dataplane.facts(face.at.id);
                let facts = rules::Facts { last_fail, udp_fail, last_wipe: face.last_wipe };
                let settled =
                    |(cell, since): (&Cell, u64)| rules::settle(*cell, since, facts, &self.times, now);
                Some(face.cells.iter().zip(face.clocks(now)).map(settled).collect())
            })
            .collect();
        self.publish(dataplane, epochs, rows)
    }

    /// Publishes rows, one for each face (`None`: as it is): into spare ones, which no packet can be reading, then
    /// the commits. A change waits for no packet, as in the checker's worlds: what moves a base or takes LOOKUP away does, see
    /// [`Service::settle`] and `sweep`. All that can fail comes before the first commit, and the commits follow each other without anything in
    /// between, so that both families get a change together; a kill between them is finished by the restart.
    pub(super) fn publish(
        &mut self,
        dataplane: &Dataplane,
        epochs: &mut Epochs,
        rows: Vec<Option<Vec<Cell>>>,
    ) -> Result<(), DataplaneError> {
        let changed: Vec<(usize, Vec<Cell>)> = rows
            .into_iter()
            .enumerate()
            .filter_map(|(face, row)| Some((face, row?)))
            .filter(|(face, row)| self.faces[*face].differs(row))
            .collect();
        let mut spare = Vec::with_capacity(changed.len());
        for (face, _) in &changed {
            match self.faces[*face].spare_row(epochs) {
                Ok(row) => spare.push(row),
                Err(error) => {
                    for ((face, _), row) in changed.iter().zip(spare) {
                        self.faces[*face].give_back(epochs, row);
                    }
                    return Err(error);
                }
            }
        }
        let fixed = self.fixed();
        let commits: Vec<_> = changed
            .iter()
            .zip(spare)
            .map(|((face, cells), row)| (*face, self.faces[*face].stage(dataplane, &fixed, row, cells)))
            .collect();
        for (face, commit) in &commits {
            self.faces[*face].commit(dataplane, *commit, epochs);
        }
        for (face, _) in commits {
            self.faces[face].committed_row();
        }
        Ok(())
    }
}
