//! The measurements and calls of a rollout: begun, stopped, and their answers taken in.

use std::time::Duration;

use super::Reconciler;
use super::rollouts::Answer;
use crate::rollout::machine::{Effect, Event, Work};
use crate::rollout::provider::{self, About};
use crate::rollout::runs::Outcome;
use crate::rollout::spec::{Builtin, HookKind, Provider};
use crate::text::percent;

impl Reconciler {
    pub(super) fn about(&self, index: usize, what: &str) -> Option<About> {
        let service = &self.services[index];
        let rollout = service.saved.rollouts.current.as_ref()?;
        Some(About {
            service: service.name().to_owned(),
            stable: rollout.plan.stable.clone(),
            candidate: rollout.plan.candidate.clone(),
            weight: percent(rollout.progress.weight),
            phase: rollout.progress.phase.name().to_owned(),
            rollout: rollout.plan.id.to_string(),
            backends: self.present_batch(index).iter().map(|unit| unit.old.to_string()).collect(),
            what: what.to_owned(),
            traceparent: None,
        })
    }

    pub(super) fn start_work(&mut self, index: usize, effect: &Effect) {
        let Effect::Start(token, work) = *effect else { return };
        let service = &self.services[index];
        let Some(rollout) = &service.saved.rollouts.current else { return };
        let (name, id) = (service.name().to_owned(), rollout.plan.id);
        let spec = &rollout.plan.spec;
        let give = self.rollouts.give.clone();
        let answer = move |event| Answer { service: name, id, event };
        let traced = self.traced_work(index, token);
        let task = match work {
            Work::Measure(at) => {
                let (Some(analysis), Some(about)) = (spec.analyses.get(at), self.about(index, "analysis"))
                else {
                    return;
                };
                if let Provider::Builtin { metric, success } = &analysis.provider {
                    let outcome = match metric {
                        Builtin::HealthyShare => self.healthy_share(index, success),
                        // What it says is asked when the answer is weighed: once for each measurement.
                        _ => Outcome::Inconclusive("not read yet".to_owned()),
                    };
                    // An agent that has just started knows of nobody's health, and that is not the candidate's fault.
                    let patience = match outcome {
                        Outcome::Inconclusive(_) if *metric == Builtin::HealthyShare => {
                            self.until_probed(index)
                        }
                        _ => Duration::ZERO,
                    };
                    let name = format!("measure: {}", analysis.name);
                    tokio::spawn(async move {
                        tokio::time::sleep(patience).await;
                        traced.ended(name, &outcome.told(), matches!(outcome, Outcome::Success(_)));
                        drop(give.send(answer(Event::Measured(token, outcome))).await);
                    })
                } else if matches!(analysis.provider, Provider::Compare(_)) {
                    // What it says is asked when the answer is weighed: once for each measurement.
                    let outcome = Outcome::Inconclusive("not compared yet".to_owned());
                    tokio::spawn(
                        async move { drop(give.send(answer(Event::Measured(token, outcome))).await) },
                    )
                } else {
                    let provider = analysis.provider.clone();
                    let name = format!("measure: {}", analysis.name);
                    let about = About { traceparent: traced.traceparent(), ..about };
                    tokio::spawn(async move {
                        let outcome = provider::measure(&provider, &about).await;
                        traced.ended(name, &outcome.told(), matches!(outcome, Outcome::Success(_)));
                        drop(give.send(answer(Event::Measured(token, outcome))).await);
                    })
                }
            }
            Work::Call(at) => {
                let Some(hook) = spec.hooks.get(at).cloned() else { return };
                let Some(about) = self.about(index, hook.on.name()) else { return };
                let about = About { traceparent: traced.traceparent(), ..about };
                tokio::spawn(async move {
                    let answered = provider::call(&hook, &about).await;
                    let said = answered.as_ref().err().map_or("agreed", String::as_str);
                    traced.ended(format!("hook: {}", hook.on.name()), said, answered.is_ok());
                    drop(give.send(answer(Event::HookDone(token, answered))).await);
                })
            }
        };
        let key = (self.services[index].name().to_owned(), id, token);
        self.rollouts.running.insert(key, task.abort_handle());
    }

    pub(super) fn stop_work(&mut self, index: usize, token: u64) {
        let service = &self.services[index];
        let Some(rollout) = &service.saved.rollouts.current else { return };
        let key = (service.name().to_owned(), rollout.plan.id, token);
        if let Some(task) = self.rollouts.running.remove(&key) {
            task.abort();
        }
    }

    /// `event` hooks hear of everything; nobody waits for them.
    pub(super) fn tell_hooks(&mut self, index: usize, text: &str) {
        let service = &self.services[index];
        let Some(rollout) = &service.saved.rollouts.current else { return };
        let hooks: Vec<_> =
            rollout.plan.spec.hooks.iter().filter(|hook| hook.on == HookKind::Event).cloned().collect();
        for hook in hooks {
            let Some(about) = self.about(index, text) else { return };
            let about = About { traceparent: self.traceparent(index), ..about };
            let Ok(permit) = self.rollouts.events.clone().try_acquire_owned() else {
                tracing::warn!(service = about.service, "an event hook is left out: too many are under way");
                continue;
            };
            tokio::spawn(async move {
                if let Err(why) = provider::call(&hook, &about).await {
                    tracing::warn!(service = about.service, "an event hook failed: {why}");
                }
                drop(permit);
            });
        }
    }

    /// A measurement that waits for health to be known is judged as soon as it is.
    pub(super) fn health_is_known(&mut self, service: &str) {
        let Some(index) = self.services.iter().position(|other| other.name() == service) else { return };
        let Some(rollout) = self.services[index].saved.rollouts.active() else { return };
        let (id, mut ready) = (rollout.plan.id, Vec::new());
        for (token, work) in rollout.progress.outstanding() {
            let Work::Measure(at) = work else { continue };
            if let Some(Provider::Builtin { metric: Builtin::HealthyShare, success }) =
                rollout.plan.spec.analyses.get(at).map(|analysis| &analysis.provider)
            {
                let outcome = self.healthy_share(index, success);
                if !matches!(outcome, Outcome::Inconclusive(_)) {
                    ready.push((token, outcome));
                }
            }
        }
        for (token, outcome) in ready {
            self.stop_work(index, token);
            let event = Event::Measured(token, outcome);
            self.rollout_answer(Answer { service: service.to_owned(), id, event });
        }
    }

    pub(super) fn rollout_answer(&mut self, answer: Answer) {
        let Answer { service, id, event } = answer;
        if let Event::Measured(token, _) | Event::HookDone(token, _) = &event {
            self.rollouts.running.remove(&(service.clone(), id, *token));
        }
        let of_it = |index: &usize| {
            let service_of = &self.services[*index];
            let current = service_of.saved.rollouts.current.as_ref();
            service_of.name() == service && current.is_some_and(|rollout| rollout.plan.id == id)
        };
        if let Some(index) = (0..self.services.len()).find(of_it) {
            let event = match event {
                Event::Measured(token, outcome) => Event::Measured(token, self.weigh(index, token, outcome)),
                other => other,
            };
            self.rollout_goes_on(index, event);
        }
    }
}
