//! Every command: what it asks, what it prints, how it exits.

use serde_json::Value;

use crate::answers::{Asked, CONFIG, agreeing, status};
use crate::rig::Agent;

fn agent() -> (Agent, Asked) {
    let asked = Asked::default();
    (Agent::start(agreeing(asked.clone())), asked)
}

fn last(asked: &Asked) -> String {
    asked.lock().unwrap().last().cloned().unwrap_or_default()
}

#[tokio::test]
async fn status_is_a_table_or_everything_as_json() {
    let (agent, _) = agent();
    insta::assert_snapshot!(agent.run(&["status"]).await.all(), @"
    exit 0
    zdd 0.1.0, pid 42

    web  10.0.0.10:80/tcp  client-version  nat  generation 7  16384 cells in 1024 groups, 12 not settled
      ALARM: every backend of v2 fails its check
      note: the share of v2 goes to v1
      cohort staff (3 prefixes): new flows go to v2
      members of cohorts wait: 12 of 32768 cells have not settled since the last change
      200 packets, 12.5 KiB; 14 new flows, 2 learned, 1 not remembered
      packets 4 denied, 5 over the limit of new connections, 3 sent as before for want of room
      access: 2 prefixes allowed, 1 denied; new connections per source: 100/s, 200 at once
      VERSION  ROLE       ASKED   SHARE  FLOWS  NEW  PACKETS    BYTES
      v1       stable    90.00%  90.00%      3    7      100  6.2 KiB
      v2       draining  10.00%  10.00%      3    7      100  6.2 KiB
      VERSION  BACKEND        WEIGHT  HEALTH               STATE     FLOWS  NEW  PACKETS  NEXT HOP
      v1       10.1.0.1:8080       1  healthy              active        3    7      100  02:00:00:00:00:01%eth0
      v2       10.2.0.1:8080       1  unhealthy (timeout)  draining      3    7      100  unresolved: no answer from 10.2.0.1 on eth0

    flow table: 6 of 262144 entries (1 half-open, 4 established, 1 dead); quotas: half 1/65536, learned 2/32768, promoted 3/131072
    syn filter: 4.0 MiB, 1.23% full
    snat from 10.0.0.2 ports 61000-65535: 15 of 36288 in use (12 live, 3 ended), 4536 at most towards one backend
    packets: base 190, not_a_vip 10
    dropped: none
    interface eth0 (2): attached, native
    interface eth1 (3): not attached, generic: a program of somebody else is there: id 17
    ");
    let said = agent.run(&["status", "--json"]).await;
    assert_eq!(said.code, Some(0));
    let json: zdd_agent::report::Status = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(json, status());
    assert!(!said.stdout.contains('\x1b'));
}

#[tokio::test]
async fn the_json_of_status_has_the_promised_shape() {
    let (agent, _) = agent();
    let json: Value = serde_json::from_str(&agent.run(&["--json", "status"]).await.stdout).unwrap();
    insta::assert_snapshot!(serde_json::to_string_pretty(&json).unwrap(), @r#"
    {
      "build": "0.1.0",
      "flow_table": {
        "capacity": 262144,
        "dead": 1,
        "entries": 6,
        "established": 4,
        "half": 1,
        "quotas": {
          "half": {
            "limit": 65536,
            "used": 1
          },
          "learned": {
            "limit": 32768,
            "used": 2
          },
          "promoted": {
            "limit": 131072,
            "used": 3
          }
        }
      },
      "interfaces": [
        {
          "attached": true,
          "index": 2,
          "mode": "native",
          "name": "eth0",
          "note": null
        },
        {
          "attached": false,
          "index": 3,
          "mode": "generic",
          "name": "eth1",
          "note": "a program of somebody else is there: id 17"
        }
      ],
      "pid": 42,
      "probes": 40,
      "probes_late": 2,
      "reasons": {
        "base": 190,
        "not_a_vip": 10
      },
      "services": [
        {
          "access": {
            "allow": 2,
            "deny": 1
          },
          "affinity": "client-version",
          "alarm": "every backend of v2 fails its check",
          "cells": 16384,
          "cohorts": [
            {
              "name": "staff",
              "new_flows": 3,
              "prefixes": 3,
              "version": "v2",
              "waits": "12 of 32768 cells have not settled since the last change"
            }
          ],
          "counters": {
            "bytes": 12800,
            "denied": 4,
            "fallback": 3,
            "insert_failed": 1,
            "learned": 2,
            "limited": 5,
            "new_flows": 14,
            "no_backend": 0,
            "packets": 200
          },
          "dirty_cells": 12,
          "forward": "nat",
          "generation": 7,
          "groups": 1024,
          "name": "web",
          "new_per_source": {
            "burst": 200,
            "rate": 100
          },
          "notes": [
            "the share of v2 goes to v1"
          ],
          "preview": null,
          "versions": [
            {
              "asked": 0.9,
              "backends": [
                {
                  "address": "10.1.0.1:8080",
                  "bytes": 6400,
                  "depends": [],
                  "flows": 3,
                  "health": "healthy",
                  "last_failure": null,
                  "last_failure_ms_ago": null,
                  "new_flows": 7,
                  "next_hop": "02:00:00:00:00:01%eth0",
                  "packets": 100,
                  "reason": null,
                  "state": "active",
                  "weight": 1
                }
              ],
              "bytes": 6400,
              "draining": false,
              "flows": 3,
              "name": "v1",
              "new_flows": 7,
              "packets": 100,
              "role": "stable",
              "share": 0.90002,
              "signals": null
            },
            {
              "asked": 0.1,
              "backends": [
                {
                  "address": "10.2.0.1:8080",
                  "bytes": 6400,
                  "depends": [],
                  "flows": 3,
                  "health": "unhealthy",
                  "last_failure": null,
                  "last_failure_ms_ago": null,
                  "new_flows": 7,
                  "next_hop": "unresolved: no answer from 10.2.0.1 on eth0",
                  "packets": 100,
                  "reason": "timeout",
                  "state": "draining",
                  "weight": 1
                }
              ],
              "bytes": 6400,
              "draining": true,
              "flows": 3,
              "name": "v2",
              "new_flows": 7,
              "packets": 100,
              "role": "candidate",
              "share": 0.09998,
              "signals": null
            }
          ],
          "vip": "10.0.0.10:80/tcp",
          "vips": [
            "10.0.0.10:80/tcp"
          ]
        }
      ],
      "snat": [
        {
          "capacity": 36288,
          "finished": 3,
          "live": 12,
          "per_backend": 4536,
          "ports": "61000-65535",
          "sources": [
            "10.0.0.2"
          ]
        }
      ],
      "syn_filter": {
        "bytes": 4194304,
        "fill": 0.0123
      }
    }
    "#);
}

#[tokio::test]
async fn shift_takes_percentages_and_shows_the_share_really_reached() {
    let (agent, asked) = agent();
    insta::assert_snapshot!(agent.run(&["shift", "web", "v2=10%"]).await.all(), @"
    exit 0
    web: generation 8, 102 groups moved
      VERSION   ASKED   SHARE
      v1       90.00%  90.00%
      v2       10.00%  10.00%
    ");
    assert_eq!(last(&asked), r#"shift web [("v2", 1000)] force=false"#);
    let json = agent.run(&["shift", "web", "v1=99.75", "v2=0.25%", "--force", "--json"]).await.stdout;
    assert_eq!(last(&asked), r#"shift web [("v1", 9975), ("v2", 25)] force=true"#);
    insta::assert_snapshot!(json, @r#"{"service":"web","generation":8,"versions":[{"name":"v1","asked":0.9,"share":0.9},{"name":"v2","asked":0.1,"share":0.1}],"moved_groups":102,"notes":[]}"#);
}

#[tokio::test]
async fn rollback_shows_what_it_did() {
    let (agent, asked) = agent();
    insta::assert_snapshot!(agent.run(&["rollback", "web"]).await.all(), @"
    exit 0
    web: generation 8, 102 groups moved
      VERSION    ASKED    SHARE
      v1       100.00%  100.00%
      v2         0.00%    0.00%
    ");
    assert_eq!(last(&asked), "rollback web force=false");
}

#[tokio::test]
async fn backends_are_added_removed_and_listed() {
    let (agent, asked) = agent();
    insta::assert_snapshot!(agent.run(&["backend", "add", "web", "v2", "10.2.0.2:8080", "--weight", "3"]).await.all(), @"
    exit 0
    web: 10.2.0.2:8080 added to v2, generation 9
      note: its next hop is being resolved
    ");
    assert_eq!(last(&asked), "add web v2 10.2.0.2:8080 3");
    insta::assert_snapshot!(agent.run(&["backend", "remove", "web", "10.2.0.2:8080", "--deadline", "2m"]).await.all(), @"
    exit 0
    web: 10.2.0.2:8080 drains and is then removed, generation 9
      note: 3 flows left
    ");
    assert_eq!(last(&asked), "remove web 10.2.0.2:8080 Some(120s)");
    insta::assert_snapshot!(agent.run(&["backend", "list"]).await.all(), @"
    exit 0
    SERVICE  VERSION  BACKEND        WEIGHT  HEALTH               STATE     FLOWS  NEW  PACKETS  NEXT HOP
    web      v1       10.1.0.1:8080       1  healthy              active        3    7      100  02:00:00:00:00:01%eth0
    web      v2       10.2.0.1:8080       1  unhealthy (timeout)  draining      3    7      100  unresolved: no answer from 10.2.0.1 on eth0
    ");
    let json: Value =
        serde_json::from_str(&agent.run(&["backend", "list", "web", "--json"]).await.stdout).unwrap();
    assert_eq!(json[1]["version"], "v2");
    assert_eq!(json[1]["address"], "10.2.0.1:8080");
    insta::assert_snapshot!(agent.run(&["backend", "list", "shop"]).await.all(), @"
    exit 1
    error: there is no service `shop`
    help: the agent has web
    ");
}

#[tokio::test]
async fn drain_answers_at_once_or_waits_with_an_exit_code() {
    let (agent, asked) = agent();
    insta::assert_snapshot!(agent.run(&["drain", "web/v1", "--deadline", "500ms"]).await.all(), @"
    exit 0
    web/v1: drains, 3 flows are known; `zdd drain web/v1 --wait` returns when none is left
    ");
    assert_eq!(last(&asked), r#"drain Version { service: Some("web"), version: "v1" } Some(500ms)"#);
    insta::assert_snapshot!(agent.run(&["drain", "v1", "--wait"]).await.all(), @"
    exit 0
    v1: drained after 2.3 s
    note: v1 drains, 3 flows are known; waiting until none is left (Ctrl-C ends the waiting, not the drain)
    ");
    insta::assert_snapshot!(agent.run(&["drain", "v2", "--wait", "--deadline", "5s"]).await.all(), @"
    exit 3
    v2: the deadline passed after 5.0 s, 2 flows were left
    note: v2 drains, 3 flows are known; waiting until none is left (Ctrl-C ends the waiting, not the drain)
    ");
    insta::assert_snapshot!(agent.run(&["drain", "v2", "--wait", "--json"]).await.all(), @r#"
    exit 3
    {"drained":false,"left":2,"waited_ms":5000,"deadline_passed":true}
    "#);
    insta::assert_snapshot!(agent.run(&["drain", "v3", "--wait"]).await.all(), @"
    exit 1
    note: v3 drains, 3 flows are known; waiting until none is left (Ctrl-C ends the waiting, not the drain)
    error: the drain of v3 was undone, or the agent stops
    help: look at `zdd status`, then drain again
    ");
    insta::assert_snapshot!(agent.run(&["undrain", "10.1.0.1:8080"]).await.all(), @"
    exit 0
    web: 10.1.0.1:8080 takes new flows again, generation 9
      note: it is healthy
    ");
    assert_eq!(last(&asked), "undrain Backend { service: None, address: 10.1.0.1:8080 }");
}

#[tokio::test]
async fn apply_shows_the_plan_as_a_diff() {
    let (agent, asked) = agent();
    let file = agent.dir.file("zdd.toml", CONFIG);
    let file = file.to_str().unwrap();
    insta::assert_snapshot!(agent.run(&["apply", file, "--dry-run"]).await.all(), @"
    exit 0
    + web/v2 backend 10.2.0.2:8080: weight 2
    ~ web/v1 weight: 100% -> 90%
    - web/v1 backend 10.1.0.9:8080
    3 to apply (dry run, nothing was changed)
    ");
    assert_eq!(last(&asked), "apply 1 services dry_run=true");
    insta::assert_snapshot!(agent.run(&["apply", file]).await.all(), @"
    exit 0
    + web/v2 backend 10.2.0.2:8080: weight 2
    ~ web/v1 weight: 100% -> 90%
    - web/v1 backend 10.1.0.9:8080
    3 applied
    ");
    insta::assert_snapshot!(agent.run(&["apply", file, "--json"]).await.all(), @r#"
    exit 0
    {"changes":[{"op":"+","what":"web/v2 backend 10.2.0.2:8080","from":null,"to":"weight 2"},{"op":"~","what":"web/v1 weight","from":"100%","to":"90%"},{"op":"-","what":"web/v1 backend 10.1.0.9:8080","from":null,"to":null}],"applied":true,"warnings":[]}
    "#);
}

#[tokio::test]
async fn explain_says_which_backend_and_why() {
    let (agent, asked) = agent();
    insta::assert_snapshot!(agent.run(&["explain", "web", "--from", "192.0.2.7:5555"]).await.all(), @"
    exit 0
    192.0.2.7:5555 -> web v1 10.1.0.1:8080
      why:   the flow has an entry and stays on its backend
      cohort: staff
      cell:  4711 (group 4711), not settled: base 10.1.0.1:8080, current 10.2.0.1:8080
      entry: est on 10.1.0.1:8080, or 10.2.0.1:8080, last seen 1.2 s ago
    ");
    assert_eq!(last(&asked), "explain web 192.0.2.7:5555");
    let said = agent.run(&["explain", "web", "--from", "192.0.2.7:5555", "--port", "8005"]).await;
    assert!(said.stdout.contains("\n  port:  8005 is dialled\n"), "{}", said.stdout);
    assert_eq!(last(&asked), "explain web 192.0.2.7:5555 port 8005");
    let said = agent.run(&["explain", "web", "--from", "192.0.2.7:5555", "--preview"]).await;
    assert!(said.stdout.contains("\n  preview: 10.0.0.11:80/tcp is dialled\n"), "{}", said.stdout);
    assert_eq!(last(&asked), "explain web 192.0.2.7:5555 preview");
    insta::assert_snapshot!(agent.run(&["explain", "web", "--from", "192.0.2.7:5555", "--json"]).await.all(), @r#"
    exit 0
    {"service":"web","from":"192.0.2.7:5555","version":"v1","backend":"10.1.0.1:8080","cell":4711,"group":4711,"base":"10.1.0.1:8080","current":"10.2.0.1:8080","dirty":true,"entry":{"state":"est","backend":"10.1.0.1:8080","alt":"10.2.0.1:8080","last_seen_ms":1250},"why":"the flow has an entry and stays on its backend","cohort":"staff"}
    "#);
}

#[tokio::test]
async fn detach_says_what_was_removed() {
    let (agent, _) = agent();
    insta::assert_snapshot!(agent.run(&["detach"]).await.all(), @"
    exit 0
    - link on eth0
    - map cells
    ");
}

#[tokio::test]
async fn check_and_completions_need_no_agent() {
    let (agent, _) = agent();
    let dir = agent.stop().await;
    let file = dir.file("zdd.toml", CONFIG);
    let said = crate::rig::run(&dir, &dir.0.join("none"), &["check", file.to_str().unwrap()]).await;
    insta::assert_snapshot!(said.all(), @"
    exit 0
    DIR/zdd.toml: valid: services 1, versions 2, backends 3
    ");
    for shell in ["bash", "zsh", "fish"] {
        let said = crate::rig::run(&dir, &dir.0.join("none"), &["completions", shell]).await;
        assert_eq!(said.code, Some(0));
        assert!(said.stdout.contains("rollback"), "{shell} knows no rollback");
    }
}

#[tokio::test]
async fn who_moves_tells_shares_and_clients_and_that_connections_stay() {
    let (agent, asked) = agent();
    let said = agent.run(&["who-moves", "web", "v2=10%", "--from", "192.0.2.2:40000"]).await;
    assert_eq!(last(&asked), "who-moves web [(\"v2\", 1000)]");
    insta::assert_snapshot!(said.all(), @"
    exit 0
    web: 9.96% of new clients would get another version (1632 of 16384 cells, 102 groups)
      v2: 0.00% -> 9.96% of new flows (asked: 0.00% -> 10.00%)
      v1 -> nobody: 1632 cells
      16 cells keep their version and get another of its backends
      live connections stay where they are: 12 have entries now, 3 of them in cells that move; the others get one at their next packet
      192.0.2.2:40000: v1 -> v2
      note: a note
    ");
    let said = agent.run(&["who-moves", "web", "v2=10%", "--json"]).await;
    let json: zdd_agent::report::WhoMoves = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((json.moved_cells, json.kept_flows, json.clients.len()), (1_632, 3, 0));
}
