//! `zdd rollout`, `zdd gate` and `zdd lint`: what they ask, what they print, how they exit.

use zdd_agent::rollout::report::*;

use crate::answers::{Asked, CONFIG, agreeing};
use crate::rig::Agent;

fn steps() -> Vec<StepReport> {
    let step = |what: &str, rollback: &str, state: &str| StepReport {
        what: what.to_owned(),
        rollback: rollback.to_owned(),
        state: state.to_owned(),
    };
    vec![
        step("call pre-rollout", "nothing to take back", "done"),
        step("1% of new flows to v2", "all new flows to v1; live ones stay where they are", "now"),
        step("100% of new flows to v2", "all new flows to v1; live ones stay where they are", "next"),
    ]
}

fn lines() -> Vec<LineReport> {
    vec![LineReport { unix_ms: 1_700_000_000_000, text: "rollout 3 of v2 begins (canary)".to_owned() }]
}

pub fn report(phase: &str) -> RolloutReport {
    RolloutReport {
        service: "web".to_owned(),
        id: 3,
        revision: 7,
        strategy: "canary".to_owned(),
        stable: "v1".to_owned(),
        candidate: "v2".to_owned(),
        phase: phase.to_owned(),
        why: (phase == "frozen" || phase == "rolled-back").then(|| "analysis errors: 0.3".to_owned()),
        weight: 0.01,
        cohorts: vec!["staff".to_owned()],
        paused: None,
        gate_closed: false,
        stopped: None,
        broke_glass: None,
        train: None,
        waits_for: vec!["2m to pass".to_owned()],
        steps: steps(),
        analyses: vec![AnalysisReport {
            name: "errors".to_owned(),
            provider: "web".to_owned(),
            dry_run: true,
            proven: 1,
            count: 2,
            successes: 3,
            failures: 4,
            failure_limit: 5,
            inconclusive: 6,
            inconclusive_limit: 7,
            errors_in_row: 8,
            consecutive_error_limit: 9,
            measuring: true,
            last: Some("success: 0.003".to_owned()),
        }],
        started_unix_ms: 1_700_000_000_000,
        watched_ms: 1_500,
        log: lines(),
    }
}

pub fn plan() -> RolloutPlan {
    RolloutPlan {
        preview: vec!["10.0.0.11:80/tcp".to_owned()],
        service: "web".to_owned(),
        strategy: "canary".to_owned(),
        stable: "v1".to_owned(),
        candidate: "v2".to_owned(),
        steps: steps().into_iter().map(|step| StepReport { state: "next".to_owned(), ..step }).collect(),
        on_failure: "rollback".to_owned(),
        refusals: vec!["web/v2 has no healthy backend\nhelp: mend it first".to_owned()],
    }
}

pub fn history() -> RolloutHistory {
    let past = PastRollout {
        id: 2,
        kind: "canary".to_owned(),
        stable: "v1".to_owned(),
        candidate: "v2".to_owned(),
        outcome: "rolled-back".to_owned(),
        why: Some("aborted".to_owned()),
        left: "v1".to_owned(),
        started_unix_ms: 1_700_000_000_000,
        ended_unix_ms: 1_700_000_060_000,
        log: lines(),
    };
    RolloutHistory { service: "web".to_owned(), rollouts: vec![past] }
}

fn agent() -> (Agent, Asked) {
    let asked = Asked::default();
    (Agent::start(agreeing(asked.clone())), asked)
}

#[tokio::test]
async fn reports_are_text_or_json() {
    let (agent, _) = agent();
    insta::assert_snapshot!(agent.run(&["rollout", "status", "web"]).await.all(), @"
    exit 0
    web: rollout 3 (canary) from v1 to v2: running
      weight 1.00%, revision 7
      cohorts on v2: staff
      waits for 2m to pass
      ✔ call pre-rollout
      ▶ 1% of new flows to v2
      · 100% of new flows to v2
      analysis errors (web, dry run): 1/2 here; failures 4/5, inconclusive 6/7, errors in a row 8/9; last: success: 0.003
      2023-11-14T22:13:20Z rollout 3 of v2 begins (canary)
    ");
    insta::assert_snapshot!(agent.run(&["rollout", "plan", "web", "v2"]).await.all(), @"
    exit 0
    web: canary from v1 to v2, on failure rollback
      preview 10.0.0.11:80/tcp: new flows go to v2 from the start on
      · call pre-rollout         rollback: nothing to take back
      · 1% of new flows to v2    rollback: all new flows to v1; live ones stay where they are
      · 100% of new flows to v2  rollback: all new flows to v1; live ones stay where they are
      cannot start now: web/v2 has no healthy backend; help: mend it first
    ");
    insta::assert_snapshot!(agent.run(&["rollout", "history", "web"]).await.all(), @"
    exit 0
       2  2023-11-14T22:14:20Z  canary v1 -> v2: rolled-back (aborted); v1 had everything afterwards
    ");
    let json = agent.run(&["rollout", "status", "web", "--json"]).await.stdout;
    assert_eq!(serde_json::from_str::<RolloutReport>(&json).unwrap(), report("running"));
    let json = agent.run(&["rollout", "plan", "web", "v2", "--json"]).await.stdout;
    assert_eq!(serde_json::from_str::<RolloutPlan>(&json).unwrap(), plan());
    let json = agent.run(&["rollout", "history", "web", "--json"]).await.stdout;
    assert_eq!(serde_json::from_str::<RolloutHistory>(&json).unwrap(), history());
}

#[tokio::test]
async fn what_goes_on_is_asked_with_the_revision_that_was_seen_and_what_goes_back_is_not() {
    let (agent, asked) = agent();
    for words in [
        "start web v2 --reason because",
        "pause web",
        "resume web",
        "promote web",
        "promote web --full --revision 9",
        "abort web --reason broken",
        "retry web",
        "undo web",
        "undo web --to 4",
    ] {
        let args: Vec<&str> = std::iter::once("rollout").chain(words.split(' ')).collect();
        assert_eq!(agent.run(&args).await.code, Some(0), "{words}");
    }
    for number in ["v1", "-1", ""] {
        let said = agent.run(&["rollout", "undo", "web", "--to", number]).await;
        assert!(
            said.code == Some(2) && said.stderr.contains("is no rollout; write its number"),
            "{}",
            said.all()
        );
    }
    assert_eq!(agent.run(&["gate", "close", "web", "--reason", "holiday"]).await.code, Some(0));
    assert_eq!(agent.run(&["gate", "open", "web"]).await.code, Some(0));
    insta::assert_snapshot!(asked.lock().unwrap().join("\n"), @r#"
    rollout web RolloutAsk { act: Start { version: "v2", replace: [] }, revision: None, reason: "because", break_glass: false }
    rollout web RolloutAsk { act: Pause, revision: Some(7), reason: "", break_glass: false }
    rollout web RolloutAsk { act: Resume, revision: Some(7), reason: "", break_glass: false }
    rollout web RolloutAsk { act: Promote { full: false }, revision: Some(7), reason: "", break_glass: false }
    rollout web RolloutAsk { act: Promote { full: true }, revision: Some(9), reason: "", break_glass: false }
    rollout web RolloutAsk { act: Abort, revision: None, reason: "broken", break_glass: false }
    rollout web RolloutAsk { act: Retry, revision: Some(7), reason: "", break_glass: false }
    rollout web RolloutAsk { act: Undo { to: None }, revision: None, reason: "", break_glass: false }
    rollout web RolloutAsk { act: Undo { to: Some(4) }, revision: None, reason: "", break_glass: false }
    gate web closed=true "holiday"
    gate web closed=false ""
    "#);
}

#[tokio::test]
async fn waiting_ends_with_the_rollout_and_the_exit_code_says_how() {
    let (agent, _) = agent();
    for (service, code) in [("good", 0), ("bad", 5), ("cold", 6)] {
        let said = agent.run(&["rollout", "status", service, "--wait"]).await;
        assert_eq!(said.code, Some(code), "{}", said.all());
    }
    let said = agent.run(&["rollout", "status", "web", "--wait", "--timeout", "300ms"]).await;
    assert_eq!(said.code, Some(3), "{}", said.all());
    assert_eq!(agent.run(&["rollout", "status", "web", "--timeout", "1s"]).await.code, Some(2));
    let said = agent.run(&["rollout", "status", "bad", "--watch"]).await;
    assert_eq!(said.code, Some(5), "a watch ends with the rollout");
}

#[tokio::test]
async fn lint_finds_what_is_unwise_and_says_what_to_write() {
    let (agent, _) = agent();
    let file = agent.dir.file("zdd.toml", CONFIG).display().to_string();
    insta::assert_snapshot!(agent.run(&["lint", &file]).await.all(), @r#"
    exit 1
    web: no drain_timeout: one connection that never ends keeps a drain open for ever [no-drain-deadline]
      fix: drain_timeout = "1h"
    web: several versions and no [service.rollout]: shifts are watched by nobody [no-rollout]
      fix: [service.rollout] with a strategy, steps and an analysis
    web: version v2 has a single backend: there is no other when it fails [single-backend]
      fix: add a second backend to the version
    DIR/zdd.toml: 3 findings
    "#);
    let good = CONFIG
        .replace("health = ", "drain_timeout = \"1h\"\nhealth = ")
        .replace("\"10.2.0.1:8080\"", "\"10.2.0.1:8080\", \"10.2.0.2:8080\"");
    let rollout = r#"
[service.rollout]
strategy = "canary"
steps = [{ weight = 1 }, { pause = "5m" }]
[[service.rollout.analysis]]
name = "health"
builtin = { metric = "healthy-share", success = ">= 1" }
"#;
    let file = agent.dir.file("good.toml", &(good.clone() + rollout)).display().to_string();
    insta::assert_snapshot!(agent.run(&["lint", &file]).await.all(), @"
    exit 0
    DIR/good.toml: 0 findings
    ");
    let blue_green =
        rollout.replace("\"canary\"", "\"blue-green\"").replace("steps", "drain_deadline = \"1h\" #");
    let file = agent.dir.file("unseen.toml", &(good.clone() + &blue_green)).display().to_string();
    insta::assert_snapshot!(agent.run(&["lint", &file]).await.all(), @r#"
    exit 1
    web: blue-green without a preview VIP: nobody can look at the new version before everybody meets it [no-preview]
      fix: preview = "10.0.0.11:80/tcp" in the service: another address, or port, that testers dial
    DIR/unseen.toml: 1 findings
    "#);
    let bad = rollout
        .replace("1 }, { pause = \"5m\" }", "50 }")
        .replace("builtin", "dry_run = true\nbuiltin")
        .replace("strategy", "on_failure = \"freeze\"\nstrategy");
    let file = agent
        .dir
        .file("bad.toml", &(CONFIG.replace("health = { http = \"/health\" }\n", "") + &bad))
        .display()
        .to_string();
    insta::assert_snapshot!(agent.run(&["lint", &file]).await.all(), @r#"
    exit 1
    web: no health check: a dead backend goes on taking new connections [no-health]
      fix: health = { http = "/health" } or { tcp = true }
    web: no drain_timeout: one connection that never ends keeps a drain open for ever [no-drain-deadline]
      fix: drain_timeout = "1h"
    web: version v2 has a single backend: there is no other when it fails [single-backend]
      fix: add a second backend to the version
    web: no analysis decides: a bad candidate is noticed only by people [no-analysis]
      fix: [[service.rollout.analysis]] with name = "health" and builtin = { metric = "healthy-share", success = ">= 1" }
    web: analysis health asks for health, and there is no health check: it is never conclusive [blind-analysis]
      fix: health = { http = "/health" } in the service
    web: the first step is 50%: so many meet an unknown version at once [steep-start]
      fix: steps = [{ weight = 1 }, { pause = "5m" }, ...]
    web: no pause and no analysis: all steps are taken at once [no-pause]
      fix: { pause = "5m" } between the weights
    web: on_failure is freeze and no event hook tells anybody: a frozen rollout waits unseen [silent-freeze]
      fix: [[service.rollout.hook]] with on = "event" and webhook or exec
    DIR/bad.toml: 8 findings
    "#);
    let json = agent.run(&["lint", &file, "--json"]).await;
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((json.code, value["findings"][0]["rule"].as_str()), (Some(1), Some("no-health")));
}
