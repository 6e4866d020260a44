//! Release trains put into practice: begun together, and told what follows from where all of them stand.

use super::Reconciler;
use super::drains::unix_ms;
use crate::control::Refused;
use crate::rollout::machine::{Command, Event, Plan};
use crate::rollout::report::{self, TrainReport};
use crate::rollout::train::{Say, conduct, meetings};

impl Reconciler {
    /// Services that the configuration puts into a train.
    fn passengers(&self, train: &str) -> Result<Vec<usize>, Refused> {
        let of_it = |index: &usize| {
            let rollout = self.services[*index].saved.spec.rollout.as_ref();
            rollout.and_then(|rollout| rollout.train.as_deref()) == Some(train)
        };
        let all: Vec<usize> = (0..self.services.len()).filter(of_it).collect();
        if all.is_empty() {
            return Err(Refused::not_found(format!(
                "there is no train `{train}`\nhelp: write train = \"{train}\" into the [service.rollout] of each service that is part of it, and `zdd apply`"
            )));
        }
        Ok(all)
    }

    /// Begins the rollouts of all services of a train, or of none.
    pub(super) fn start_train(
        &mut self,
        train: &str,
        candidates: &[(String, String)],
        reason: &str,
    ) -> Result<TrainReport, Refused> {
        let passengers = self.passengers(train)?;
        for (service, _) in candidates {
            if !passengers.contains(&self.index_of(service)?) {
                return Err(Refused::invalid(format!("{service} is not part of train {train}")));
            }
            if candidates.iter().filter(|(named, _)| named == service).count() > 1 {
                return Err(Refused::invalid(format!(
                    "{service} is named twice\nhelp: say one version for each service"
                )));
            }
        }
        let mut plans: Vec<(usize, Plan)> = Vec::new();
        let run = unix_ms();
        for index in passengers {
            let name = self.services[index].name();
            let Some((_, candidate)) = candidates.iter().find(|(service, _)| service == name) else {
                return Err(Refused::invalid(format!(
                    "train {train} has service {name} too\nhelp: say which version of it goes along, as {name}=v2"
                )));
            };
            let mut plan = self.plan_of(index, candidate)?;
            plan.train_run = run;
            plans.push((index, plan));
        }
        if plans.windows(2).any(|two| meetings(&two[0].1) != meetings(&two[1].1)) {
            return Err(Refused::refused(format!(
                "the services of train {train} have not the same number of weights, so they cannot move together\nhelp: give them steps with as many weights each"
            )));
        }
        let services: Vec<usize> = plans.iter().map(|(index, _)| *index).collect();
        let before: Vec<_> =
            services.iter().map(|index| self.services[*index].saved.rollouts.clone()).collect();
        // Begun in memory, all of them; then persisted at once.
        let mut effects = Vec::new();
        for (index, plan) in plans {
            effects.push((index, self.put_rollout(index, plan, None)));
        }
        if let Err(refused) = self.save() {
            for (index, rollouts) in services.into_iter().zip(before) {
                self.services[index].saved.rollouts = rollouts;
            }
            return Err(refused);
        }
        for (index, rollouts) in services.into_iter().zip(&before) {
            self.trace_rollout(index, rollouts);
        }
        tracing::info!(train, reason, "the train leaves");
        self.follow_previews();
        for (index, effects) in effects {
            self.carry_out(index, effects);
        }
        self.conduct_trains();
        self.train_status(train)
    }

    /// Gives everything of a train back.
    pub(super) fn abort_train(&mut self, train: &str, reason: &str) -> Result<TrainReport, Refused> {
        for index in self.run_of_train(train)? {
            if self.services[index].saved.rollouts.active().is_some() {
                self.rollout_event(index, Event::Operator(Command::Abort, reason.to_owned()))?;
            }
        }
        self.train_status(train)
    }

    /// Where the rollouts of a train stand that left last.
    pub(super) fn train_status(&self, train: &str) -> Result<TrainReport, Refused> {
        let members = self.run_of_train(train)?;
        let rollouts = members.into_iter().filter_map(|index| {
            let service = &self.services[index];
            Some(report::report(service.name(), service.saved.rollouts.current.as_ref()?))
        });
        Ok(TrainReport { train: train.to_owned(), rollouts: rollouts.collect() })
    }

    /// The services whose present rollout left with a train's last run.
    fn run_of_train(&self, train: &str) -> Result<Vec<usize>, Refused> {
        let run_of = |index: usize| {
            let plan = &self.services[index].saved.rollouts.current.as_ref()?.plan;
            (plan.spec.train.as_deref() == Some(train)).then_some(plan.train_run)
        };
        let last = (0..self.services.len()).filter_map(run_of).max();
        let Some(last) = last else {
            self.passengers(train)?;
            return Err(Refused::not_found(format!(
                "train {train} has not left yet\nhelp: `zdd train start {train} SERVICE=VERSION...`"
            )));
        };
        Ok((0..self.services.len()).filter(|index| run_of(*index) == Some(last)).collect())
    }

    /// Tells the members of all trains under way what follows from where they stand.
    pub(super) fn conduct_trains(&mut self) {
        let mut trains: Vec<String> = self
            .services
            .iter()
            .filter_map(|service| service.saved.rollouts.active()?.plan.spec.train.clone())
            .collect();
        trains.sort();
        trains.dedup();
        for train in trains {
            let Ok(members) = self.run_of_train(&train) else { continue };
            let rollouts = members.iter().filter_map(|index| {
                let service = &self.services[*index];
                let rollout = service.saved.rollouts.current.as_ref()?;
                Some((service.name(), &rollout.plan, &rollout.progress))
            });
            let told = conduct(&rollouts.collect::<Vec<_>>());
            for (place, say) in told {
                let event = match say {
                    Say::Cleared(time) => Event::Cleared(time),
                    Say::Abort(why) => Event::Operator(Command::Abort, format!("train {train}: {why}")),
                };
                self.rollout_goes_on(members[place], event);
            }
        }
    }
}
