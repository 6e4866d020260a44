//! Single stories that the search is too shallow for, as what is announced.

use super::machine::*;
use super::runs::Outcome;
use super::search_tests::{canary, cohorts_first, plan, rolling};
use super::spec::*;
use crate::desired::FULL;
use std::time::Duration;

/// An agent that does everything at once: weights are set, measurements and hooks answer as `answers` says.
struct Story<'a> {
    plan: &'a Plan,
    progress: Progress,
    now: u64,
    told: Vec<String>,
    measure: fn(u64) -> Outcome,
    call: fn(u64) -> Result<(), String>,
    accept: bool,
}

fn well(_: u64) -> Outcome {
    Outcome::Success("1".to_owned())
}

impl<'a> Story<'a> {
    fn new(plan: &'a Plan) -> Self {
        let (progress, effects) = begin(plan, Holds::default(), 0);
        let mut story =
            Story { plan, progress, now: 0, told: Vec::new(), measure: well, call: |_| Ok(()), accept: true };
        story.act(effects);
        story
    }

    fn act(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            let event = match effect {
                Effect::Announce(text) => {
                    self.told.push(format!("{:>3} {text}", self.now / 1_000));
                    continue;
                }
                Effect::SetWeights(to) if self.accept => Event::WeightsSet(to),
                Effect::SetWeights(to) => Event::Refused(to, "sick".to_owned()),
                Effect::Start(token, Work::Measure(_)) => Event::Measured(token, (self.measure)(self.now)),
                Effect::Start(token, Work::Call(_)) => Event::HookDone(token, (self.call)(self.now)),
                Effect::Stop(_) => continue,
                Effect::Batch(step, number) => Event::Batch(step, number, Ok(())),
                Effect::Drain => Event::Drained,
            };
            self.event(event);
        }
    }

    fn event(&mut self, event: Event) {
        let (progress, effects) = step(self.plan, &self.progress, event, self.now).unwrap();
        self.progress = progress;
        self.act(effects);
    }

    fn seconds(&mut self, seconds: u64) -> &mut Self {
        for _ in 0..seconds {
            self.now += 1_000;
            self.event(Event::Tick);
        }
        self
    }

    fn ask(&mut self, command: Command) -> &mut Self {
        self.event(Event::Operator(command, "tested".to_owned()));
        self
    }

    fn told(&self) -> String {
        self.told.join("\n")
    }
}

#[test]
fn a_good_candidate_goes_up_step_by_step_and_waits_where_it_shall() {
    let plan = plan(canary(), OnFailure::Rollback, &[]);
    let mut story = Story::new(&plan);
    story.seconds(10).ask(Command::Promote { full: false }).seconds(1);
    insta::assert_snapshot!(story.told(), @"
      0 rollout 1 of v2 begins (canary)
      0 v2 has 1% of new flows
      1 v2 has 10% of new flows
     10 promoted: tested
     10 v2 has 100% of new flows
     10 promoted: v2 has everything
    ");
}

#[test]
fn a_failure_goes_back_or_stays_as_configured() {
    for (on_failure, phase) in [(OnFailure::Rollback, "rolled-back"), (OnFailure::Freeze, "frozen")] {
        let plan = plan(canary(), on_failure, &[]);
        let mut story = Story::new(&plan);
        story.measure = |now| if now > 3_000 { Outcome::Failure("0.3".to_owned()) } else { well(now) };
        story.seconds(4);
        assert_eq!(story.progress.phase.name(), phase);
        let why = "analysis a: 1 failures, 0 are tolerated; the last: failure: 0.3";
        assert_eq!(story.progress.phase.why(), Some(why));
        assert_eq!(story.progress.weight, if phase == "frozen" { 1_000 } else { 0 });
    }
}

#[test]
fn no_data_and_nobody_there_are_never_a_success() {
    for outcome in [Outcome::Inconclusive, Outcome::Error] {
        let plan = plan(canary(), OnFailure::Rollback, &[]);
        let mut story = Story::new(&plan);
        story.measure = if matches!(outcome(String::new()), Outcome::Error(_)) {
            |_| Outcome::Error("refused".to_owned())
        } else {
            |_| Outcome::Inconclusive("NaN".to_owned())
        };
        story.seconds(1);
        assert_eq!(
            (story.progress.weight, story.progress.phase.name()),
            (100, "running"),
            "one is tolerated"
        );
        story.seconds(1);
        assert_eq!(story.progress.phase.name(), "rolled-back");
    }
}

#[test]
fn what_is_nobodys_fault_counts_nowhere_and_proves_nothing() {
    let plan = plan(canary(), OnFailure::Rollback, &[]);
    let mut story = Story::new(&plan);
    story.measure = |now| {
        if now < 60_000 { Outcome::Postponed("db fails for every backend".to_owned()) } else { well(now) }
    };
    story.seconds(59);
    assert_eq!((story.progress.weight, story.progress.phase.name()), (100, "running"));
    let run = &story.progress.runs[0];
    assert_eq!(
        (run.proven, run.successes, run.failures, run.inconclusive, run.errors_in_row),
        (0, 0, 0, 0, 0)
    );
    story.seconds(20);
    assert!(story.progress.weight > 100, "it goes on when that is over");
}

#[test]
fn after_a_freeze_a_retry_goes_on_with_fresh_counts_at_the_same_weight() {
    let plan = plan(canary(), OnFailure::Freeze, &[]);
    let mut story = Story::new(&plan);
    story.measure = |now| if now == 3_000 { Outcome::Failure("0.3".to_owned()) } else { well(now) };
    story.seconds(4);
    assert_eq!(story.progress.phase.name(), "frozen");
    story.ask(Command::Retry).seconds(2);
    assert_eq!((story.progress.phase.name(), story.progress.weight), ("running", 1_000));
    story.ask(Command::Promote { full: false }).seconds(2);
    assert_eq!(story.progress.phase.name(), "promoted");
}

#[test]
fn a_promote_that_comes_too_early_says_what_must_come_first() {
    let plan =
        plan(Strategy::BlueGreen { auto_promote: false, bake: Duration::ZERO }, OnFailure::Rollback, &[]);
    let story = Story::new(&plan);
    let early = Event::Operator(Command::Promote { full: false }, "tested".to_owned());
    let told = step(&plan, &story.progress, early, 0).unwrap_err();
    assert!(told.contains("its analyses prove the present weight first (a 0 of 1"), "{told}");
    assert!(told.contains("help: ask again when"), "{told}");
}

#[test]
fn promote_full_leaves_steps_out_and_no_proof() {
    let plan = plan(canary(), OnFailure::Rollback, &[]);
    let mut story = Story::new(&plan);
    story.ask(Command::Promote { full: true });
    assert_eq!(story.progress.weight, 100, "nothing is known yet");
    story.seconds(1);
    assert_eq!((story.progress.phase.name(), story.progress.weight), ("promoted", 10_000));
}

#[test]
fn a_weight_that_is_refused_for_long_is_a_failure_and_the_way_back_is_tried_until_it_is_taken() {
    let plan = plan(canary(), OnFailure::Rollback, &[]);
    let mut story = Story::new(&plan);
    story.accept = false;
    story.seconds(6);
    assert_eq!(story.progress.phase.name(), "rolling-back");
    story.accept = true;
    story.seconds(2);
    assert_eq!((story.progress.phase.name(), story.progress.weight), ("rolled-back", 0));
}

#[test]
fn a_confirming_hook_is_asked_until_it_agrees_and_a_failing_one_ends_it() {
    let confirming = plan(canary(), OnFailure::Rollback, &[HookKind::ConfirmRollout]);
    let mut story = Story::new(&confirming);
    assert_eq!(story.progress.weight, 100);
    let (progress, _) = begin(&confirming, Holds::default(), 0);
    story.progress = progress;
    story.call = |now| if now < 5_000 { Err("not yet".to_owned()) } else { Ok(()) };
    let token = story.progress.token;
    story.event(Event::HookDone(token, Err("not yet".to_owned())));
    story.seconds(4);
    assert_eq!((story.progress.weight, story.progress.phase.name()), (0, "running"));
    story.seconds(1);
    assert_eq!(story.progress.weight, 100);

    let failing = plan(canary(), OnFailure::Rollback, &[HookKind::Rollout]);
    let (progress, _) = begin(&failing, Holds::default(), 0);
    let mut story = Story { progress, plan: &failing, ..story };
    let token = story.progress.token;
    story.event(Event::HookDone(token, Err("exit 1".to_owned())));
    assert_eq!(story.progress.phase.why(), Some("a rollout hook failed: exit 1"));
}

#[test]
fn a_pause_and_a_closed_gate_hold_the_weights_and_analysis_goes_on() {
    let plan = plan(canary(), OnFailure::Rollback, &[]);
    for hold in [Event::Operator(Command::Pause, String::new()), Event::Gate(true)] {
        let mut story = Story::new(&plan);
        story.event(hold);
        story.seconds(5);
        assert_eq!(story.progress.weight, 100);
        story.measure = |_| Outcome::Failure("0.3".to_owned());
        story.seconds(1);
        assert_eq!(story.progress.phase.name(), "rolled-back", "a failure counts while it is held");
    }
}

#[test]
fn somebody_elses_shift_pauses_and_resume_puts_the_plans_weight_back() {
    let plan = plan(canary(), OnFailure::Rollback, &[]);
    let mut story = Story::new(&plan);
    story.event(Event::Interfered("weights were changed by `zdd shift`".to_owned()));
    story.seconds(3);
    assert!(story.progress.displaced && story.progress.paused.is_some());
    let before = story.told.len();
    story.ask(Command::Resume);
    assert_eq!(story.told[before..], ["  3 resumed: tested", "  3 v2 has 1% of new flows"]);
    assert!(!story.progress.displaced);
}

#[test]
fn a_contract_that_fails_is_never_rolled_back_by_itself() {
    let strategy = Strategy::BlueGreen { auto_promote: true, bake: Duration::ZERO };
    let mut plan = plan(strategy, OnFailure::Rollback, &[HookKind::Contract]);
    plan.spec.analyses.clear();
    plan.spec.soak = Duration::from_secs(2);
    let (progress, effects) = begin(&plan, Holds::default(), 0);
    assert!(effects.contains(&Effect::SetWeights(FULL)), "{effects:?}");
    let event = |progress: &Progress, event, now| step(&plan, progress, event, now).unwrap();
    let (progress, effects) = event(&progress, Event::WeightsSet(FULL), 0);
    assert!(effects.contains(&Effect::Drain) && !progress.contracted, "{effects:?}");
    let (progress, _) = event(&progress, Event::Drained, 1_000);
    let (progress, effects) = event(&progress, Event::Tick, 2_999);
    assert!(!effects.iter().any(|e| matches!(e, Effect::Start(..))), "the soak is not over: {effects:?}");
    let (progress, effects) = event(&progress, Event::Tick, 3_000);
    let Some(Effect::Start(token, Work::Call(0))) = effects.last() else { panic!("{effects:?}") };
    let (progress, effects) = event(&progress, Event::HookDone(*token, Err("locked".to_owned())), 3_000);
    assert!(
        matches!(&progress.phase, Phase::Frozen(why) if why.contains("contract hook failed: locked")),
        "{progress:?}"
    );
    assert!(!effects.iter().any(|e| matches!(e, Effect::SetWeights(_))), "{effects:?}");
    // A retry proves and soaks anew, and calls it again. That it was called once is not forgotten.
    let (progress, _) = event(&progress, Event::Operator(Command::Retry, String::new()), 4_000);
    assert!(progress.contracted, "{progress:?}");
    let (_, effects) = event(&progress, Event::Tick, 6_000);
    assert!(effects.iter().any(|e| matches!(e, Effect::Start(_, Work::Call(0)))), "{effects:?}");
}

#[test]
fn a_rolling_rollout_in_the_words_it_tells_and_what_a_batch_that_stays_sick_does() {
    let plan = plan(rolling(false), OnFailure::Rollback, &[HookKind::Restart]);
    let mut story = Story::new(&plan);
    story.seconds(2);
    assert_eq!(story.progress.stage, 2, "it waits for the first backend: {:?}", story.progress);
    story.event(Event::Healthy(true));
    story.seconds(4);
    story.event(Event::Healthy(true));
    story.seconds(4);
    assert_eq!(story.progress.phase, Phase::Promoted, "{:?}", story.told);
    let told = story.told.join("\n");
    assert!(told.contains("batch 1 takes flows") && told.contains("batch 2 takes flows"), "{told}");
    assert!(told.ends_with("promoted: all batches of v2 are done") && !told.contains("new flows"), "{told}");
    // The plan's progress_deadline is three seconds.
    let mut story = Story::new(&plan);
    story.event(Event::Healthy(true));
    story.event(Event::Healthy(false));
    story.seconds(3);
    let Phase::RolledBack(why) = &story.progress.phase else { panic!("{:?}", story.progress) };
    assert!(why.contains("batch 1: not healthy"), "{why}");
}

#[test]
fn cohorts_go_first_each_is_proved_and_a_failure_takes_them_back() {
    let first = plan(cohorts_first(), OnFailure::Rollback, &[]);
    let mut story = Story::new(&first);
    story.seconds(3).ask(Command::Promote { full: false }).seconds(3);
    insta::assert_snapshot!(story.told(), @"
    0 rollout 1 of v2 begins (canary)
    0 new flows of cohort staff go to v2
    1 new flows of cohort beta go to v2
    3 promoted: tested
    3 v2 has 1% of new flows
    4 v2 has 100% of new flows
    4 promoted: v2 has everything
    ");
    let mut story = Story::new(&first);
    story.measure = |now| if now < 2_000 { well(now) } else { Outcome::Failure("bad".to_owned()) };
    story.seconds(4);
    insta::assert_snapshot!(story.told(), @"
    0 rollout 1 of v2 begins (canary)
    0 new flows of cohort staff go to v2
    1 new flows of cohort beta go to v2
    2 rolling back: analysis a: 1 failures, 0 are tolerated; the last: failure: bad
    2 v2 has 0% of new flows
    2 rolled back: analysis a: 1 failures, 0 are tolerated; the last: failure: bad
    ");
    assert_eq!((story.progress.weight, story.progress.cohorts), (0, 0));
}

#[test]
fn a_cohort_that_cannot_lead_is_tried_again_and_a_measurement_of_the_one_before_proves_nothing_of_it() {
    let first = plan(cohorts_first(), OnFailure::Rollback, &[]);
    let mut story = Story::new(&first);
    story.accept = false;
    story.seconds(2);
    assert_eq!((story.progress.cohorts, story.progress.weight), (1, 0));
    assert!(story.told().contains("cohort beta is refused and tried again: sick"), "{}", story.told());
    story.accept = true;
    story.seconds(1);
    assert_eq!((story.progress.cohorts, story.progress.weight), (2, 0));
    // A measurement begins while one leads, and answers when two do.
    story.measure = |_| Outcome::Inconclusive("later".to_owned());
    let run = story.progress.runs[0].clone();
    story.progress.runs[0].under_way = Some((99, 1 << 16));
    story.event(Event::Measured(99, well(0)));
    assert_eq!(story.progress.runs[0].successes, run.successes + 1);
    assert_eq!(story.progress.runs[0].proven, run.proven);
}
