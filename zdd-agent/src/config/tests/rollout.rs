//! `[service.rollout]`: what is valid, and every mistake.

use std::time::Duration;

use super::*;
use crate::desired::FULL;
use crate::rollout::spec::{HookKind, OnFailure, Step, Strategy};
use crate::rollout::stages::{Stage, stages};

pub(super) const ROLLOUT: &str = r#"[service.rollout]
strategy = "canary"
steps = [{ weight = 1 }, { pause = "2m" }, { weight = "10%" }, { pause = "until-promoted" }]
[[service.rollout.analysis]]
name = "errors"
web = { url = "http://10.0.0.9/stats", json = "$.errors", success = "<= 0.01" }
"#;

pub(super) fn rollout(text: &str) -> String {
    mistakes(&format!("{BASE}{text}"))
}

fn replaced(from: &str, to: &str) -> String {
    assert!(ROLLOUT.contains(from), "{from} is not in the text");
    rollout(&ROLLOUT.replacen(from, to, 1))
}

pub(super) fn analysis(line: &str) -> String {
    rollout(&format!("{ROLLOUT}{line}\n"))
}

fn hook(lines: &str) -> String {
    rollout(&format!("{ROLLOUT}[[service.rollout.hook]]\n{lines}\n"))
}

#[test]
fn a_canary_and_its_defaults() {
    let (desired, warnings) = valid(&format!("{BASE}{ROLLOUT}"));
    assert!(warnings.iter().all(|warning| !warning.contains("rollout")), "{warnings:?}");
    let rollout = desired.services[0].rollout.as_ref().unwrap();
    let two_minutes = Duration::from_secs(120);
    let steps =
        vec![Step::Weight(100), Step::Pause(two_minutes), Step::Weight(1_000), Step::PauseUntilPromoted];
    assert_eq!(rollout.strategy, Strategy::Canary { steps });
    assert_eq!(rollout.on_failure, OnFailure::Rollback);
    let analysis = &rollout.analyses[0];
    assert_eq!((analysis.interval, analysis.count), (Duration::from_secs(60), 1));
    let limits = (analysis.failure_limit, analysis.inconclusive_limit, analysis.consecutive_error_limit);
    assert_eq!(limits, (0, 3, 4));
    let line = [
        Stage::Weight(100),
        Stage::Pause(two_minutes),
        Stage::Proof,
        Stage::Weight(1_000),
        Stage::Await,
        Stage::Proof,
        Stage::Weight(FULL),
    ];
    assert_eq!(stages(rollout), line);
}

#[test]
fn everything_that_can_be_said_is_understood() {
    let (desired, _) = valid(&format!(
        "{BASE}{}",
        r#"[service.rollout]
strategy = "blue-green"
auto_promote = true
bake = "10m"
on_failure = "freeze"
progress_deadline = "5m"
drain_deadline = "1h"
[[service.rollout.analysis]]
name = "before"
on = "pre-promotion"
interval = "10s"
initial_delay = "1s"
count = 3
failure_limit = 1
min_samples = 20
inconclusive_limit = 2
consecutive_error_limit = 5
prometheus = { address = "http://10.0.0.9:9090", query = "rate(x{v=\"{{candidate}}\"}[1m])", success = "< 0.5" }
[[service.rollout.analysis]]
name = "after"
on = "post-promotion"
dry_run = true
exec = { argv = ["/bin/true"], timeout = "3s" }
[[service.rollout.analysis]]
name = "health"
builtin = { metric = "healthy-share", success = ">= 1" }
[[service.rollout.analysis]]
name = "db"
web = { url = "http://10.0.0.9/health", json = "$.db", success = "== 'ok'" }
[[service.rollout.hook]]
on = "confirm-rollout"
webhook = "http://10.0.0.9/confirm"
interval = "30s"
[[service.rollout.hook]]
on = "pre-rollout"
exec = ["/usr/local/bin/smoke", "--fast"]
retries = 2
timeout = "1m"
"#
    ));
    insta::assert_snapshot!(serde_json::to_string_pretty(&desired.services[0].rollout).unwrap(), @r#"
    {
      "strategy": {
        "blue-green": {
          "auto_promote": true,
          "bake": {
            "secs": 600,
            "nanos": 0
          }
        }
      },
      "on_failure": "freeze",
      "progress_deadline": {
        "secs": 300,
        "nanos": 0
      },
      "drain_deadline": {
        "secs": 3600,
        "nanos": 0
      },
      "analyses": [
        {
          "name": "before",
          "when": "pre-promotion",
          "interval": {
            "secs": 10,
            "nanos": 0
          },
          "initial_delay": {
            "secs": 1,
            "nanos": 0
          },
          "count": 3,
          "failure_limit": 1,
          "inconclusive_limit": 2,
          "consecutive_error_limit": 5,
          "min_samples": 20,
          "dry_run": false,
          "provider": {
            "prometheus": {
              "address": "http://10.0.0.9:9090",
              "query": "rate(x{v=\"{{candidate}}\"}[1m])",
              "success": {
                "op": "<",
                "with": 0.5
              },
              "timeout": {
                "secs": 5,
                "nanos": 0
              }
            }
          }
        },
        {
          "name": "after",
          "when": "post-promotion",
          "interval": {
            "secs": 60,
            "nanos": 0
          },
          "initial_delay": null,
          "count": 1,
          "failure_limit": 0,
          "inconclusive_limit": 3,
          "consecutive_error_limit": 4,
          "min_samples": 0,
          "dry_run": true,
          "provider": {
            "exec": {
              "argv": [
                "/bin/true"
              ],
              "timeout": {
                "secs": 3,
                "nanos": 0
              }
            }
          }
        },
        {
          "name": "health",
          "when": "always",
          "interval": {
            "secs": 60,
            "nanos": 0
          },
          "initial_delay": null,
          "count": 1,
          "failure_limit": 0,
          "inconclusive_limit": 3,
          "consecutive_error_limit": 4,
          "min_samples": 0,
          "dry_run": false,
          "provider": {
            "builtin": {
              "metric": "healthy-share",
              "success": {
                "op": ">=",
                "with": 1.0
              }
            }
          }
        },
        {
          "name": "db",
          "when": "always",
          "interval": {
            "secs": 60,
            "nanos": 0
          },
          "initial_delay": null,
          "count": 1,
          "failure_limit": 0,
          "inconclusive_limit": 3,
          "consecutive_error_limit": 4,
          "min_samples": 0,
          "dry_run": false,
          "provider": {
            "web": {
              "url": "http://10.0.0.9/health",
              "json": "$.db",
              "success": {
                "op": "==",
                "with": "ok"
              },
              "timeout": {
                "secs": 5,
                "nanos": 0
              }
            }
          }
        }
      ],
      "hooks": [
        {
          "on": "confirm-rollout",
          "call": {
            "webhook": {
              "url": "http://10.0.0.9/confirm"
            }
          },
          "timeout": {
            "secs": 10,
            "nanos": 0
          },
          "retries": 0,
          "interval": {
            "secs": 30,
            "nanos": 0
          }
        },
        {
          "on": "pre-rollout",
          "call": {
            "exec": {
              "argv": [
                "/usr/local/bin/smoke",
                "--fast"
              ]
            }
          },
          "timeout": {
            "secs": 60,
            "nanos": 0
          },
          "retries": 2,
          "interval": {
            "secs": 10,
            "nanos": 0
          }
        }
      ],
      "freeze": {
        "zone": "UTC",
        "windows": []
      },
      "soak": {
        "secs": 0,
        "nanos": 0
      },
      "train": null
    }
    "#);
}

#[test]
fn strategies_and_their_keys() {
    insta::assert_snapshot!(replaced("strategy = \"canary\"\n", ""), @r#"
    zdd.toml:13:1: `strategy` is missing in [service.rollout]
    help: write "canary" (step by step), "blue-green" (all at once) or "rolling" (backend by backend)
    "#);
    insta::assert_snapshot!(replaced("canary", "ramped"), @r#"
    zdd.toml:14:12: `strategy`: `ramped` is no strategy
    help: write "canary", "blue-green" or "rolling"
    "#);
    insta::assert_snapshot!(replaced("\"canary\"", "\"canary\"\nbake = \"1m\"\nauto_promote = true"), @r#"
    zdd.toml:13:1: `auto_promote` means nothing to a canary
    help: remove it, or write strategy = "blue-green"
    zdd.toml:13:1: `bake` means nothing to a canary
    help: remove it, or write strategy = "blue-green"
    "#);
    insta::assert_snapshot!(replaced("\"canary\"", "\"blue-green\""), @r#"
    zdd.toml:15:9: `steps` mean something to a canary only
    help: remove them, or write strategy = "canary"
    "#);
    insta::assert_snapshot!(replaced("\"canary\"", "\"canary\"\non_failure = \"ignore\"\nprogress_deadline = \"0s\"\nstrategie = 1"), @r#"
    zdd.toml:15:14: `on_failure`: `ignore` is no way to act
    help: write "rollback" or "freeze"
    zdd.toml:16:21: `progress_deadline` is 0s, out of range
    help: choose 1s to 30days
    zdd.toml:17:1: unknown key `strategie` in [service.rollout]
    help: did you mean `strategy`?
    "#);
}

#[test]
fn steps() {
    let steps = |steps: &str| {
        replaced(
            "[{ weight = 1 }, { pause = \"2m\" }, { weight = \"10%\" }, { pause = \"until-promoted\" }]",
            steps,
        )
    };
    insta::assert_snapshot!(steps("[]"), @"
    zdd.toml:15:9: `steps` name no weight
    help: name at least one, as { weight = 10 }
    ");
    insta::assert_snapshot!(steps("[{ weight = 10 }, { weight = 5 }, { weight = 5 }]"), @"
    zdd.toml:15:27: a weight of 5% comes after 10%
    help: let the weights rise from step to step; going back is what a rollback is for
    zdd.toml:15:43: a weight of 5% comes after 10%
    help: let the weights rise from step to step; going back is what a rollback is for
    ");
    insta::assert_snapshot!(steps("[{ weight = 0 }, { weight = 101 }]"), @r#"
    zdd.toml:15:10: a step of 0% is none
    help: choose more than 0; before the first weight the candidate has nothing anyway
    zdd.toml:15:37: `weight`: `101` is not a weight: it is above 100
    help: write a percentage from 0 to 100, as 10, 12.5 or "0.25%"
    "#);
    insta::assert_snapshot!(steps("[{ pause = \"soon\" }, { pause = \"60days\" }, 3, {}]"), @r#"
    zdd.toml:15:20: `pause`: `soon` is no pause
    help: write "5m" or "until-promoted"
    zdd.toml:15:40: `pause`: `60days` is longer than 30 days
    help: write "until-promoted"
    zdd.toml:15:52: `steps` is of type integer
    help: write { weight = 10 } or { pause = "5m" }
    zdd.toml:15:55: a step is either a `cohort`, a `weight` or a `pause`
    help: write { cohort = "staff" }, { weight = 10 } or { pause = "5m" }, one after the other
    "#);
    insta::assert_snapshot!(steps("[{ weight = 1, pause = \"1m\" }, { wait = \"1m\" }]"), @r#"
    zdd.toml:15:10: a step is either a `cohort`, a `weight` or a `pause`
    help: write { cohort = "staff" }, { weight = 10 } or { pause = "5m" }, one after the other
    zdd.toml:15:40: a step is either a `cohort`, a `weight` or a `pause`
    help: write { cohort = "staff" }, { weight = 10 } or { pause = "5m" }, one after the other
    zdd.toml:15:42: unknown key `wait` in a step
    help: a step knows weight, pause, cohort
    "#);
    insta::assert_snapshot!(steps("\"all\""), @r#"
    zdd.toml:15:9: `steps` is of type string
    help: write an array, as [{ weight = 1 }, { pause = "2m" }, { weight = 50 }, { pause = "until-promoted" }]
    "#);
    insta::assert_snapshot!(steps(&format!("[{}]", "{ pause = \"1s\" },".repeat(65))), @"
    zdd.toml:15:9: there are 65 steps
    help: keep 64 at the most
    zdd.toml:15:9: `steps` name no weight
    help: name at least one, as { weight = 10 }
    ");
}

#[test]
fn analyses() {
    insta::assert_snapshot!(analysis("exec = { argv = [\"/bin/true\"] }"), @r#"
    zdd.toml:16:1: analysis `errors` needs exactly one of `web`, `prometheus`, `exec`, `builtin` and `compare`
    help: say where its value comes from, as web = { url = "http://10.0.0.9/stats", json = "$.errors", success = "<= 0.01" }
    "#);
    insta::assert_snapshot!(analysis("on = \"pre-promotion\"\ninterval = \"1ms\"\ncount = 0\ndry_run = 1"), @"
    zdd.toml:19:6: `on` means nothing to a canary's analysis
    help: remove it: the analyses of a canary run from its first weight on
    zdd.toml:20:12: `interval` is 1ms, out of range
    help: choose 100ms to 1day
    zdd.toml:21:9: `count` is 0, out of range
    help: choose 1 to 1000000
    zdd.toml:22:11: `dry_run` is of type integer
    help: write true or false
    ");
    insta::assert_snapshot!(replaced("web = {", "# {"), @r#"
    zdd.toml:16:1: analysis `errors` needs exactly one of `web`, `prometheus`, `exec`, `builtin` and `compare`
    help: say where its value comes from, as web = { url = "http://10.0.0.9/stats", json = "$.errors", success = "<= 0.01" }
    "#);
    insta::assert_snapshot!(replaced("http://10.0.0.9/stats", "ftp://10.0.0.9/stats"), @r#"
    zdd.toml:18:15: `url`: it is no address
    help: write "http://host:port/path"
    "#);
    insta::assert_snapshot!(replaced("http://10.0.0.9/stats", "http://me:hush@10.0.0.9/stats"), @r#"
    zdd.toml:18:15: `url`: names and passwords are not sent
    help: put a secret into the path, as webhooks do
    "#);
    insta::assert_snapshot!(replaced("http://10.0.0.9/stats", "10.0.0.9"), @r#"
    zdd.toml:18:15: `url`: it is no address
    help: write "http://host:port/path"
    "#);
    insta::assert_snapshot!(replaced("$.errors", "errors"), @r#"
    zdd.toml:18:47: `json`: `errors` is no JSONPath (parser error)
    help: write one of RFC 9535, as "$.error_rate"
    "#);
    insta::assert_snapshot!(replaced("<= 0.01", "small"), @r#"
    zdd.toml:18:69: `success`: `small` is no condition: it does not begin with a comparison
    help: compare with <, <=, >, >=, == or !=, as "<= 0.01" or "== 'ok'"
    "#);
    insta::assert_snapshot!(replaced("<= 0.01", "<= NaN"), @r#"
    zdd.toml:18:69: `success`: `<= NaN` is no condition: what it compares with is no number
    help: compare with <, <=, >, >=, == or !=, as "<= 0.01" or "== 'ok'"
    "#);
    insta::assert_snapshot!(replaced("<= 0.01", "< 'ok'"), @r#"
    zdd.toml:18:69: `success`: `< 'ok'` is no condition: only numbers have an order
    help: compare with <, <=, >, >=, == or !=, as "<= 0.01" or "== 'ok'"
    "#);
    insta::assert_snapshot!(analysis("[[service.rollout.analysis]]\nname = \"errors\"\nexec = { argv = [\"check\"] }"), @"
    zdd.toml:21:17: `argv` names no program
    help: begin with the absolute path of a program: there is no shell and no PATH
    ");
    insta::assert_snapshot!(analysis("[[service.rollout.analysis]]\nname = \"errors\"\nbuiltin = { metric = \"luck\", success = \"== 1\" }"), @r#"
    zdd.toml:21:22: `metric`: `luck` is no builtin metric
    help: write one of healthy-share, handshake-failure-rate, syn-retransmission-rate, reset-rate, early-close-rate, unanswered-rate, handshake-time-p99 and first-byte-time-p99
    "#);
    insta::assert_snapshot!(analysis("[[service.rollout.analysis]]\nname = \"errors\"\nbuiltin = { metric = \"healthy-share\", success = \"== 1\" }"), @"
    zdd.toml:19:1: analysis `errors` is there already
    help: give each analysis a name of its own
    ");
}

#[test]
fn hooks() {
    insta::assert_snapshot!(hook("on = \"sometimes\"\nwebhook = \"ftp://x\"\nexec = []"), @r#"
    zdd.toml:19:1: a hook calls either a `webhook` or an `exec`
    help: write webhook = "http://10.0.0.9/hook" or exec = ["/usr/local/bin/hook"]
    zdd.toml:20:6: `on`: `sometimes` is no time for a hook
    help: write one of confirm-rollout, pre-rollout, expand, rollout, restart, confirm-promotion, post-rollout, contract, rollback, event
    zdd.toml:21:11: `webhook`: it is no address
    help: write "http://host:port/path"
    zdd.toml:22:8: `exec` names no program
    help: begin with the absolute path of a program: there is no shell and no PATH
    "#);
    insta::assert_snapshot!(hook("on = \"confirm-rollout\"\nexec = [\"/bin/true\"]\nretries = 3"), @"
    zdd.toml:22:11: `retries` mean nothing to a confirm-rollout hook
    help: remove them; `interval` says how often it is asked
    ");
    insta::assert_snapshot!(hook("timeout = \"2h\""), @r#"
    zdd.toml:19:1: `on` is missing in a hook
    help: say when it is called, as "pre-rollout"
    zdd.toml:19:1: a hook calls either a `webhook` or an `exec`
    help: write webhook = "http://10.0.0.9/hook" or exec = ["/usr/local/bin/hook"]
    zdd.toml:20:11: `timeout` is 2h, out of range
    help: choose 10ms to 10m
    "#);
}

#[test]
fn a_rollout_that_nothing_decides_is_warned_of() {
    let (_, warnings) = valid(&format!("{BASE}{}", ROLLOUT.replace("web = {", "dry_run = true\nweb = {")));
    assert!(warnings.iter().any(|warning| warning.contains("no analysis that decides")), "{warnings:?}");
}

#[test]
fn freeze_windows_database_steps_and_capacity_are_understood() {
    let capacity = "forward = \"nat\"\ncapacity = { min_healthy = \"50%\", new_flows = 200 }";
    let base = BASE.replace("forward = \"nat\"", capacity);
    let text = r#"[service.rollout]
strategy = "blue-green"
reversible = false
soak = "10m"
time_zone = "Europe/Berlin"
freeze = ["fri 16:00 to mon 08:00", "2026-12-20 to 2027-01-06"]
[[service.rollout.hook]]
on = "expand"
exec = ["/usr/local/bin/migrate", "expand"]
[[service.rollout.hook]]
on = "contract"
exec = ["/usr/local/bin/migrate", "contract"]
"#;
    let (desired, _) = valid(&format!("{base}{text}"));
    let service = &desired.services[0];
    let capacity = service.capacity.unwrap();
    assert_eq!((capacity.min_healthy, capacity.new_flows), (5_000, Some(200)));
    let rollout = service.rollout.as_ref().unwrap();
    assert_eq!(
        rollout.on_failure,
        OnFailure::Freeze,
        "what is not reversible is never rolled back by itself"
    );
    assert_eq!((rollout.freeze.zone.as_str(), rollout.freeze.windows.len()), ("Europe/Berlin", 2));
    let line = stages(rollout);
    assert_eq!(line[0], Stage::Hooks(HookKind::Expand));
    let end = [Stage::Drain, Stage::Pause(Duration::from_secs(600)), Stage::Hooks(HookKind::Contract)];
    assert!(line.ends_with(&end), "{line:?}");
}

#[test]
fn mistakes_in_freeze_windows_database_steps_and_capacity_are_told() {
    for (text, says) in [
        (replaced("strategy", "freeze = [\"whenever\"]\nstrategy"), "`whenever` is no window"),
        (replaced("strategy", "freeze = [7]\nstrategy"), "each window as a string"),
        (replaced("strategy", "time_zone = \"UTC\"\nstrategy"), "there is none"),
        (replaced("strategy", "time_zone = \"Mars\"\nfreeze = []\nstrategy"), "`Mars` is no time zone"),
        (replaced("strategy", "soak = \"1m\"\nstrategy"), "there is no such hook"),
        (
            replaced("strategy", "reversible = false\non_failure = \"rollback\"\nstrategy"),
            "what is not reversible cannot be rolled back",
        ),
        (with("capacity = {}"), "`capacity` asks for nothing"),
        (with("capacity = { new_flows = 0 }"), "new_flows"),
    ] {
        assert!(text.contains(says) && text.contains("help: "), "{says} is not in:\n{text}");
    }
}

#[test]
fn a_rolling_rollout_and_the_mistakes_of_one() {
    let text = r#"[service.rollout]
strategy = "rolling"
batch = "25%"
max_unavailable = 2
min_ready = "10s"
[[service.rollout.hook]]
on = "restart"
exec = ["/usr/local/bin/restart"]
"#;
    let (desired, _) = valid(&format!("{BASE}{text}"));
    let strategy = &desired.services[0].rollout.as_ref().unwrap().strategy;
    let Strategy::Rolling { batch, max_unavailable, min_ready, .. } = strategy else {
        panic!("{strategy:?}")
    };
    assert_eq!((batch.of(8), batch.of(3), max_unavailable.map(|m| m.of(8))), (2, 1, Some(2)));
    assert_eq!(*min_ready, Duration::from_secs(10));
    for (line, says) in [
        ("batch = 0", "says nothing"),
        ("batch = \"0%\"", "says nothing"),
        ("batch = true", "a number of backends"),
        ("steps = []", "`steps` mean something to a canary only"),
        ("bake = \"1m\"", "`bake` means nothing to a rolling rollout"),
        ("train = \"spring\"", "`train` means nothing to a rolling rollout"),
    ] {
        let said = rollout(&format!("[service.rollout]\nstrategy = \"rolling\"\n{line}\n"));
        assert!(said.contains(says), "{line}: {said}");
    }
    let said = replaced("strategy = \"canary\"", "strategy = \"canary\"\nbatch = 1\ntrain = \"No Name\"");
    assert!(
        said.contains("`batch` means nothing to a canary") && said.contains("`No Name` is no name"),
        "{said}"
    );
    assert!(
        hook("on = \"restart\"\nexec = [\"/bin/true\"]").contains("restart hook means nothing to a canary")
    );
    let weights = "[service.rollout]\nstrategy = \"rolling\"\n[[service.rollout.hook]]\non = \"contract\"\nexec = [\"/bin/true\"]\n";
    assert!(rollout(weights).contains("a contract hook means nothing to a rolling rollout"));
}
