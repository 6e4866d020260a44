//! Cohorts in practice: each has a row of cells of its own at each VIP, with the VIP's number in the keys of flows, and the VIP's set of
//! sources says whose flows which row steers.
//!
//! A live flow without an entry is at the base of its cell. So a client may change rows only while no cell of either is dirty and
//! their bases are the same: then it is at the same backend by both. Flows that have entries must find them afterwards,
//! so before it both rows look up whatever either does. While a cohort leads the rows differ, and its members stay who they are.

use std::borrow::Cow;
use std::net::SocketAddr;

use zdd_common::entries::Cell;

use super::Reconciler;
use super::face::Face;
use super::grace::Epochs;
use super::service::Service;
use crate::cohort::Members;
use crate::control::Refused;
use crate::dataplane::{Dataplane, DataplaneError};
use crate::events::EventKind;
use crate::report::CohortStatus;
use crate::rollout::machine::Phase;
use crate::state::SavedService;

/// The number that a version has in a service's groups, if all new flows of a cohort go to it now.
fn leading(saved: &SavedService, cohort: Option<&str>) -> Option<u8> {
    let version = saved.rollouts.leads(cohort?)?;
    saved.slots.iter().position(|name| name == version).map(|slot| slot as u8)
}

impl Service {
    /// Its VIPs' own rows, one for each.
    pub(super) fn mains(&self) -> impl Iterator<Item = &Face> {
        self.faces.iter().filter(|face| face.main())
    }

    /// The place of the face whose row steers a client's flows.
    pub(super) fn face_of(&self, client: &SocketAddr) -> Option<usize> {
        let main = self.faces.iter().position(|f| f.main() && f.at.vip.serves(client))?;
        let row = self.faces[main].members.row(client.ip());
        let of_row = |row| self.faces.iter().position(|face| face.at.id == row);
        Some(row.and_then(of_row).unwrap_or(main))
    }

    /// The same of a client that dials the preview VIP.
    pub(super) fn preview_of(&self, client: &SocketAddr) -> Option<usize> {
        self.faces.iter().position(|face| face.at.preview && face.at.vip.serves(client))
    }

    /// The version of each group as a face's row shall have it.
    pub(super) fn groups_of<'a>(saved: &'a SavedService, face: &Face) -> Cow<'a, [u8]> {
        match leading(saved, face.at.cohort.as_deref()) {
            Some(slot) => vec![slot; saved.groups.len()].into(),
            None => saved.groups.as_slice().into(),
        }
    }

    /// The faces of one VIP.
    fn rows_of(&self, main: usize) -> impl Iterator<Item = &Face> {
        let vip = self.faces[main].at.vip;
        self.faces.iter().filter(move |face| face.at.vip == vip)
    }

    /// Who shall have which row of a VIP; `Err`: why that is not known.
    fn wanted_members(&self, main: usize) -> Result<Members, String> {
        let own = &self.faces[main].at;
        // Whoever dials a preview VIP has chosen.
        if own.preview {
            return Ok(Members::default());
        }
        let mut rows = Vec::new();
        for cohort in &self.saved.spec.cohorts {
            let prefixes = cohort.prefixes.as_deref().ok_or_else(|| {
                format!(
                    "files of cohort {} could not be read (see the agent's log): mend them and `zdd apply`",
                    cohort.name
                )
            })?;
            let of_it = |face: &&Face| face.at.cohort.as_deref() == Some(cohort.name.as_str());
            let face = self.rows_of(main).find(of_it).ok_or("the agent has no row of cells for it")?;
            rows.push((face.at.id, prefixes));
        }
        Ok(Members::new(rows, own.vip.addr.is_ipv4(), own.id))
    }

    /// Whether a client may change rows without an effect on its live flows; else why not.
    fn rows_agree(&self, main: usize, dataplane: &Dataplane) -> Result<(), String> {
        let own = &self.faces[main];
        let dialled = dataplane.ends_entry(own.ends()).is_some_and(|end| end.id == own.at.vip_id);
        // Nobody flows there yet, or nothing is remembered anyway.
        if !dialled || !self.saved.spec.remembers() {
            return Ok(());
        }
        if let Some(name) = self
            .rows_of(main)
            .find_map(|f| f.at.cohort.as_deref().filter(|c| self.saved.rollouts.leads(c).is_some()))
        {
            return Err(format!(
                "cohort {name} leads a rollout: members change when it is over and has settled"
            ));
        }
        let dirty: u32 = self.rows_of(main).map(|face| face.dirty).sum();
        let cells: usize = self.rows_of(main).map(|face| face.cells.len()).sum();
        if dirty > 0 {
            return Err(format!("{dirty} of {cells} cells have not settled since the last change"));
        }
        let same = |face: &Face| face.cells.iter().map(|c| c.base()).eq(own.cells.iter().map(|c| c.base()));
        if self.rows_of(main).all(same) { Ok(()) } else { Err("its row and the VIP's differ".to_owned()) }
    }

    /// Whoever changes rows finds the entries of its flows there too.
    fn look_up_alike(
        &mut self,
        main: usize,
        dataplane: &Dataplane,
        epochs: &mut Epochs,
    ) -> Result<(), DataplaneError> {
        let vip = self.faces[main].at.vip;
        let mut found = vec![0; self.faces[main].cells.len()];
        for face in self.rows_of(main) {
            // No packet works with the rows before these: what they have in common is what counts.
            epochs.wait_for(face.committed)?;
            for (all, cell) in found.iter_mut().zip(face.cells.iter()) {
                *all |= cell.0 & Cell::LOOKUP;
            }
        }
        let row = |face: &Face| {
            let alike = |(cell, lookup): (&Cell, &u64)| Cell(cell.0 | lookup);
            (face.at.vip == vip).then(|| face.cells.iter().zip(&found).map(alike).collect())
        };
        let rows = self.faces.iter().map(row).collect();
        self.publish(dataplane, epochs, rows)?;
        self.rows_of(main).try_for_each(|face| epochs.wait_for(face.committed))
    }

    /// The members that a VIP may have from now on: those wanted, or as long as that cannot be those in force.
    pub(super) fn next_members(
        &mut self,
        main: usize,
        dataplane: &Dataplane,
        epochs: &mut Epochs,
    ) -> Result<Members, DataplaneError> {
        let wanted = self.wanted_members(main);
        let waits = match &wanted {
            Ok(wanted) if *wanted == self.faces[main].members => None,
            Ok(_) => self.rows_agree(main, dataplane).err(),
            Err(why) => Some(why.clone()),
        };
        self.faces[main].waits.clone_from(&waits);
        match wanted {
            Ok(wanted) if waits.is_none() => {
                if wanted != self.faces[main].members
                    && !self.faces[main].fresh()
                    && self.saved.spec.remembers()
                {
                    self.look_up_alike(main, dataplane, epochs)?;
                }
                Ok(wanted)
            }
            _ => Ok(self.faces[main].members.clone()),
        }
    }

    /// Why members are not those of the configuration.
    pub(super) fn members_wait(&self) -> Option<&str> {
        self.mains().find_map(|face| face.waits.as_deref())
    }

    /// The rows of a cohort.
    fn rows_named(&self, cohort: &str) -> impl Iterator<Item = &Face> {
        self.faces.iter().filter(move |face| face.at.cohort.as_deref() == Some(cohort))
    }

    /// Flows that a cohort's clients have begun.
    pub(super) fn begun_by(&self, cohort: &str, dataplane: &Dataplane) -> u64 {
        self.rows_named(cohort).map(|face| dataplane.service_counters(face.at.id).new_flows).sum()
    }

    /// The cohorts whose new flows go to the candidate now.
    pub(super) fn led(&self) -> Vec<String> {
        let names = self.saved.spec.cohorts.iter().map(|cohort| cohort.name.clone());
        names.filter(|name| self.saved.rollouts.leads(name).is_some()).collect()
    }

    pub(super) fn cohort_status(&self, dataplane: &Dataplane) -> Vec<CohortStatus> {
        let status = |cohort: &crate::cohort::CohortSpec| {
            let count = |face: &Face| {
                let main = self.mains().find(|main| main.at.vip == face.at.vip);
                main.map_or(0, |main| main.members.count(face.at.id))
            };
            CohortStatus {
                name: cohort.name.clone(),
                prefixes: self.rows_named(&cohort.name).map(count).sum::<usize>() as u32,
                version: self.saved.rollouts.leads(&cohort.name).map(str::to_owned),
                waits: self.members_wait().map(str::to_owned),
                new_flows: self.begun_by(&cohort.name, dataplane),
            }
        };
        self.saved.spec.cohorts.iter().map(status).collect()
    }
}

impl Reconciler {
    /// Members that had to wait change as soon as they may.
    pub(super) fn follow_members(&mut self) {
        for index in 0..self.services.len() {
            let Self { services, dataplane, epochs, sets, .. } = self;
            let service = &mut services[index];
            // Files that could not be read are read again by an apply only.
            if service.saved.spec.cohorts.iter().any(|cohort| cohort.prefixes.is_none()) {
                continue;
            }
            let mut ready = false;
            for main in 0..service.faces.len() {
                if service.faces[main].waits.is_some() {
                    let agree = service.rows_agree(main, dataplane);
                    ready |= agree.is_ok();
                    service.faces[main].waits =
                        Some(agree.err().unwrap_or_else(|| "its prefixes are being written".to_owned()));
                }
            }
            if !ready {
                continue;
            }
            let name = service.name().to_owned();
            match service.write_vips(dataplane, epochs, sets) {
                Ok(()) if service.members_wait().is_none() => {
                    tracing::info!(service = name, "the members of its cohorts are in force");
                    let text = "the members of its cohorts are those of the configuration now".to_owned();
                    self.note_event(EventKind::Rollout, index, text);
                }
                Ok(()) => {}
                Err(error) => tracing::error!(service = name, %error, "members of cohorts stay as they were"),
            }
        }
    }

    /// Refuses to let a cohort lead that has not got its members, or to a version that cannot take them.
    pub(super) fn guard_cohorts(&self, index: usize, number: u16, candidate: &str) -> Result<(), Refused> {
        let service = &self.services[index];
        let Some(rollout) = &service.saved.rollouts.current else { return Ok(()) };
        let from = usize::from(rollout.leading);
        let names: Vec<&str> = rollout.plan.spec.cohorts().take(number.into()).skip(from).collect();
        let Some(name) = names.first() else { return Ok(()) };
        if let Some(gone) =
            names.iter().find(|name| service.saved.spec.cohorts.iter().all(|cohort| cohort.name != **name))
        {
            return Err(Refused::refused(format!(
                "cohort {gone} is not in the configuration any more\nhelp: put it back, or abort the rollout"
            )));
        }
        if let Some(why) = service.members_wait() {
            return Err(Refused::refused(format!(
                "the members of cohort {name} are not in force yet: {why}\nhelp: it is tried again; `zdd status` tells how far it is"
            )));
        }
        // As if it had the least weight that there is: somebody must be able to take it.
        let versions = &service.saved.spec.versions;
        let new: Vec<_> =
            versions.iter().map(|v| if v.name == candidate { v.weight.max(1) } else { 0 }).collect();
        let leading: Vec<String> =
            rollout.plan.spec.cohorts().take(number.into()).map(str::to_owned).collect();
        // Leading gives no weight, so it ends no drain.
        self.guard_with(index, &new, &leading, false, &mut Vec::new())
    }

    /// How many cohorts of its rollout get the candidate from now on; not persisted yet. How many did before.
    pub(super) fn lead(&mut self, index: usize, number: u16) -> u16 {
        let rollout = self.services[index].saved.rollouts.current.as_mut();
        rollout.map_or(0, |rollout| std::mem::replace(&mut rollout.leading, number))
    }

    /// How many cohorts a weight that is being set comes with.
    pub(super) fn cohorts_to_lead(&self, index: usize) -> u16 {
        let Some(rollout) = &self.services[index].saved.rollouts.current else { return 0 };
        let progress = &rollout.progress;
        match progress.phase {
            Phase::Running | Phase::Frozen(_) => {
                progress.setting.as_ref().map_or(progress.cohorts, |setting| setting.cohorts)
            }
            Phase::RollingBack(_) | Phase::RolledBack(_) | Phase::Promoted => 0,
        }
    }
}
