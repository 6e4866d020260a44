//! A release train: rollouts of several services that go up together, or not at all. Pure, and without a state of its own: what
//! is to be done follows from where its members stand, so an agent that was killed at any point goes on from what it persisted.

use super::machine::{Phase, Plan, Progress};
use super::stages::{Stage, stages};

/// What a member is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Say {
    /// All have met for this time, from 0: go on.
    Cleared(u16),
    /// Another one has gone back.
    Abort(String),
}

/// How often the rollouts of a train meet: each must as often as the others.
pub fn meetings(plan: &Plan) -> u16 {
    stages(&plan.spec).iter().filter(|stage| matches!(stage, Stage::Together(_))).count() as u16
}

/// What follows from where the members stand: whom (by place) to tell what. `members`: the service's name, its plan and progress.
pub fn conduct(members: &[(&str, &Plan, &Progress)]) -> Vec<(usize, Say)> {
    let Some(least) = members.iter().map(|(_, _, progress)| progress.cleared).min() else {
        return Vec::new();
    };
    let arrived = members.iter().all(|(_, plan, progress)| progress.cleared >= meetings(plan));
    let back = |(name, _, progress): &(&str, &Plan, &Progress)| match &progress.phase {
        Phase::RollingBack(why) | Phase::RolledBack(why) => Some(format!("{name} has gone back: {why}")),
        Phase::Running | Phase::Frozen(_) | Phase::Promoted => None,
    };
    // After the last meeting nothing is taken back by itself, and each ends on its own.
    if let Some(why) = members.iter().find_map(back).filter(|_| !arrived) {
        let goes = |progress: &Progress| matches!(progress.phase, Phase::Running | Phase::Frozen(_));
        let others = members.iter().enumerate().filter(|(_, (_, _, progress))| goes(progress));
        return others.map(|(place, _)| (place, Say::Abort(why.clone()))).collect();
    }
    let here = |(_, plan, progress): &(&str, &Plan, &Progress)| {
        let waits = stages(&plan.spec).get(progress.stage) == Some(&Stage::Together(least));
        progress.cleared > least || waits && progress.phase == Phase::Running && !progress.held()
    };
    if !members.iter().all(here) {
        return Vec::new();
    }
    let those = members.iter().enumerate().filter(|(_, (_, _, progress))| progress.cleared == least);
    those.map(|(place, _)| (place, Say::Cleared(least))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::machine::{Effect, Event, Holds, begin, step};
    use super::super::search_tests::{canary, plan};
    use super::super::spec::OnFailure;
    use super::*;
    use crate::desired::BasisPoints;
    use std::collections::{HashSet, VecDeque};

    #[derive(Clone, PartialEq, Eq, Hash)]
    struct Member {
        progress: Progress,
        setting: Option<BasisPoints>,
    }

    fn member_plan() -> Plan {
        let mut plan = plan(canary(), OnFailure::Rollback, &[]);
        plan.spec.analyses.truncate(1);
        plan.spec.train = Some("spring".to_owned());
        plan
    }

    fn setting(effects: &[Effect]) -> Option<BasisPoints> {
        effects.iter().find_map(|e| if let Effect::SetWeights(to) = e { Some(*to) } else { None })
    }

    fn happens(plan: &Plan, member: &Member, event: Event, now: u64) -> Option<Member> {
        let (progress, effects) = step(plan, &member.progress, event, now).ok()?;
        Some(Member { progress, setting: setting(&effects) })
    }

    /// What may happen to one of them next.
    fn events(member: &Member) -> Vec<Event> {
        use super::super::machine::Command;
        use super::super::runs::Outcome;
        if let Some(to) = member.setting {
            return vec![Event::WeightsSet(to), Event::Refused(to, "no".to_owned())];
        }
        let mut all = vec![Event::Operator(Command::Abort, String::new())];
        all.push(Event::Operator(Command::Promote { full: false }, String::new()));
        for (token, _) in member.progress.outstanding() {
            all.push(Event::Measured(token, Outcome::Success("1".to_owned())));
            all.push(Event::Measured(token, Outcome::Failure("1".to_owned())));
        }
        all
    }

    #[test]
    fn in_no_sequence_of_events_is_one_more_than_a_meeting_ahead_or_promoted_while_another_goes_back() {
        let plan = member_plan();
        let (progress, effects) = begin(&plan, Holds::default(), 0);
        let first = Member { progress, setting: setting(&effects) };
        let start = ([first.clone(), first], 0u64);
        let (mut seen, mut queue) = (HashSet::from([start.clone()]), VecDeque::from([(start, 0)]));
        let (mut went_back, mut went_on) = (0, 0);
        while let Some(((members, now), deep)) = queue.pop_front() {
            let cleared = members.iter().map(|m| m.progress.cleared);
            let (least, most) = (cleared.clone().min().unwrap_or(0), cleared.max().unwrap_or(0));
            assert!(most - least <= 1, "{most} and {least}");
            for (one, other) in [(0, 1), (1, 0)] {
                let (one, other) = (&members[one].progress, &members[other].progress);
                let ahead = one.weight > 100 && other.weight == 0 && other.phase == Phase::Running;
                assert!(!ahead, "{one:?} {other:?}");
            }
            went_on += usize::from(least > 0);
            if deep == 7 {
                continue;
            }
            let mut next = Vec::new();
            // The train says something, to one after the other: an agent may die in between.
            let views: Vec<_> = members.iter().map(|m| ("s", &plan, &m.progress)).collect();
            if members.iter().all(|m| m.setting.is_none()) {
                for (place, say) in conduct(&views) {
                    let event = match say {
                        Say::Cleared(time) => Event::Cleared(time),
                        Say::Abort(why) => {
                            went_back += 1;
                            Event::Operator(super::super::machine::Command::Abort, why)
                        }
                    };
                    next.push((place, event, now));
                }
            }
            for (place, member) in members.iter().enumerate() {
                next.extend(events(member).into_iter().map(|event| (place, event, now)));
                next.push((place, Event::Tick, now + 1_000));
            }
            for (place, event, now) in next {
                let Some(member) = happens(&plan, &members[place], event, now) else { continue };
                let mut members = members.clone();
                members[place] = member;
                let state = (members, now);
                if seen.insert(state.clone()) {
                    queue.push_back((state, deep + 1));
                }
            }
        }
        assert!(went_back > 0 && went_on > 0, "{went_back} {went_on} of {}", seen.len());
    }

    #[test]
    fn one_that_is_paused_or_frozen_holds_all_and_one_that_goes_back_takes_all_along() {
        let plan = member_plan();
        let (at_meeting, _) = begin(&plan, Holds::default(), 0);
        let view = |a, b| conduct(&[("web", &plan, a), ("api", &plan, b)]);
        assert_eq!(view(&at_meeting, &at_meeting), [(0, Say::Cleared(0)), (1, Say::Cleared(0))]);
        let changed = |change: fn(&mut Progress)| {
            let mut other = at_meeting.clone();
            change(&mut other);
            other
        };
        let paused = changed(|p| p.paused = Some("lunch".to_owned()));
        let frozen = changed(|p| p.phase = Phase::Frozen("x".to_owned()));
        assert_eq!((view(&at_meeting, &paused), view(&at_meeting, &frozen)), (vec![], vec![]));
        // A kill came between the two: the second one is told what the first one knows.
        let cleared = changed(|p| p.cleared = 1);
        assert_eq!(view(&cleared, &at_meeting), [(1, Say::Cleared(0))]);
        let back = changed(|p| p.phase = Phase::RolledBack("errors".to_owned()));
        assert_eq!(view(&frozen, &back), [(0, Say::Abort("api has gone back: errors".to_owned()))]);
        // The last meeting is over: what one of them does is its own affair.
        let arrived = changed(|p| p.cleared = 4);
        let mut late = arrived.clone();
        late.phase = Phase::RolledBack("by hand".to_owned());
        assert_eq!((meetings(&plan), view(&arrived, &late)), (4, vec![]));
    }
}
