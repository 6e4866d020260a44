//! What the fake loop answers: one service in the middle of a shift.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use zdd_agent::control::{Refused, Request};
use zdd_agent::desired::{Affinity, AttachMode, Forward};
use zdd_agent::report::*;
use zdd_agent::rollout::report::StoppedLine;

pub fn status() -> Status {
    let backend = |address: &str, health, reason: Option<&str>, state, next_hop: &str| BackendStatus {
        address: address.parse().unwrap(),
        weight: 1,
        health,
        reason: reason.map(str::to_owned),
        state,
        flows: 3,
        packets: 100,
        bytes: 6_400,
        new_flows: 7,
        next_hop: next_hop.to_owned(),
        last_failure: None,
        last_failure_ms_ago: None,
        depends: Vec::new(),
    };
    let healthy =
        backend("10.1.0.1:8080", Health::Healthy, None, BackendState::Active, "02:00:00:00:00:01%eth0");
    let ill = backend(
        "10.2.0.1:8080",
        Health::Unhealthy,
        Some("timeout"),
        BackendState::Draining,
        "unresolved: no answer from 10.2.0.1 on eth0",
    );
    let version = |name: &str, role, asked, share, draining, backends| VersionStatus {
        name: name.to_owned(),
        role,
        asked,
        share,
        draining,
        flows: 3,
        new_flows: 7,
        packets: 100,
        bytes: 6_400,
        signals: None,
        backends,
    };
    Status {
        build: "0.1.0".to_owned(),
        pid: 42,
        services: vec![ServiceStatus {
            name: "web".to_owned(),
            vip: "10.0.0.10:80/tcp".to_owned(),
            vips: vec!["10.0.0.10:80/tcp".to_owned()],
            affinity: Affinity::ClientVersion,
            forward: Forward::Nat,
            generation: 7,
            cells: 16_384,
            groups: 1_024,
            dirty_cells: 12,
            alarm: Some("every backend of v2 fails its check".to_owned()),
            notes: vec!["the share of v2 goes to v1".to_owned()],
            preview: None,
            cohorts: vec![CohortStatus {
                name: "staff".to_owned(),
                prefixes: 3,
                version: Some("v2".to_owned()),
                waits: Some("12 of 32768 cells have not settled since the last change".to_owned()),
                new_flows: 3,
            }],
            counters: ServiceCounters {
                packets: 200,
                bytes: 12_800,
                new_flows: 14,
                learned: 2,
                insert_failed: 1,
                fallback: 3,
                denied: 4,
                limited: 5,
                no_backend: 0,
            },
            access: Some(zdd_agent::report::AccessStatus { allow: 2, deny: 1 }),
            new_per_source: Some(zdd_agent::report::NewPerSourceStatus { rate: 100, burst: 200 }),
            versions: vec![
                version("v1", Role::Stable, 0.9, 0.90002, false, vec![healthy]),
                version("v2", Role::Candidate, 0.1, 0.09998, true, vec![ill]),
            ],
        }],
        flow_table: FlowTableStatus {
            capacity: 262_144,
            entries: 6,
            half: 1,
            established: 4,
            dead: 1,
            quotas: Quotas {
                half: Quota { used: 1, limit: 65_536 },
                learned: Quota { used: 2, limit: 32_768 },
                promoted: Quota { used: 3, limit: 131_072 },
            },
        },
        snat: vec![SnatStatus {
            sources: vec!["10.0.0.2".to_owned()],
            ports: "61000-65535".to_owned(),
            capacity: 36_288,
            per_backend: 4_536,
            live: 12,
            finished: 3,
        }],
        syn_filter: SynFilterStatus { bytes: 4 << 20, fill: 0.0123 },
        reasons: BTreeMap::from([("base".to_owned(), 190), ("not_a_vip".to_owned(), 10)]),
        interfaces: vec![
            InterfaceStatus {
                name: "eth0".to_owned(),
                index: 2,
                mode: AttachMode::Native,
                attached: true,
                note: None,
            },
            InterfaceStatus {
                name: "eth1".to_owned(),
                index: 3,
                mode: AttachMode::Generic,
                attached: false,
                note: Some("a program of somebody else is there: id 17".to_owned()),
            },
        ],
        probes: 40,
        probes_late: 2,
    }
}

pub fn shifted(service: &str, versions: &[(&str, f64)]) -> ShiftReport {
    ShiftReport {
        service: service.to_owned(),
        generation: 8,
        versions: versions
            .iter()
            .map(|(name, asked)| VersionShare { name: (*name).to_owned(), asked: *asked, share: *asked })
            .collect(),
        moved_groups: 102,
        notes: vec![],
    }
}

fn changed(service: &str, note: String) -> ChangeReport {
    ChangeReport { service: service.to_owned(), generation: 9, notes: vec![note] }
}

pub fn explained(service: String, from: std::net::SocketAddr, port: Option<u16>, preview: bool) -> Explain {
    let v1 = Some("10.1.0.1:8080".parse().unwrap());
    let v2 = Some("10.2.0.1:8080".parse().unwrap());
    Explain {
        service,
        from,
        version: Some("v1".to_owned()),
        backend: v1,
        cell: 4_711,
        group: 4_711,
        base: v1,
        current: v2,
        dirty: true,
        entry: Some(FlowEntry { state: "est".to_owned(), backend: v1, alt: v2, last_seen_ms: 1_250 }),
        why: "the flow has an entry and stays on its backend".to_owned(),
        cohort: Some("staff".to_owned()),
        port,
        preview: preview.then(|| "10.0.0.11:80/tcp".to_owned()),
    }
}

/// What was asked, as text.
pub type Asked = Arc<Mutex<Vec<String>>>;

/// A loop that agrees with everything, and writes down what it was asked.
pub fn agreeing(asked: Asked) -> impl FnMut(Request) + Send + 'static {
    let mut drains = Vec::new();
    move |request| {
        let note = |text: String| asked.lock().unwrap().push(text);
        match request {
            Request::DrainNode { .. } | Request::UndrainNode { .. } => unreachable!("no test asks for it"),
            Request::Change { .. } => unreachable!("the rig takes what goes with it off"),
            Request::Status { reply } => drop(reply.send(Ok(status()))),
            Request::Trace { reply, .. } => {
                drop(reply.send(Err(Refused::refused("there are no packets here"))))
            }
            Request::Troubles { reply } => drop(reply.send(Ok(Vec::new()))),
            Request::Snapshot { reply } => {
                drop(reply.send(Ok(Snapshot { status: status(), ..Snapshot::default() })));
            }
            Request::Splits { reply } => drop(reply.send(Ok(Default::default()))),
            Request::Shift { service, weights, force, reply } => {
                note(format!("shift {service} {weights:?} force={force}"));
                drop(reply.send(Ok(shifted(&service, &[("v1", 0.9), ("v2", 0.1)]))));
            }
            Request::Rollback { service, force, reply } => {
                note(format!("rollback {service} force={force}"));
                drop(reply.send(Ok(shifted(&service, &[("v1", 1.0), ("v2", 0.0)]))));
            }
            Request::BackendAdd { service, version, address, weight, reply } => {
                note(format!("add {service} {version} {address} {weight}"));
                drop(reply.send(Ok(changed(&service, "its next hop is being resolved".to_owned()))));
            }
            Request::BackendRemove { service, address, deadline, reply } => {
                note(format!("remove {service} {address} {deadline:?}"));
                drop(reply.send(Ok(changed(&service, "3 flows left".to_owned()))));
            }
            Request::Drain { target, deadline, reply } => {
                note(format!("drain {target:?} {deadline:?}"));
                drop(reply.send(Ok(DrainReport { left: 3, waited_ms: 1, ..DrainReport::default() })));
            }
            Request::Undrain { target, reply } => {
                note(format!("undrain {target:?}"));
                drop(reply.send(Ok(changed("web", "it is healthy".to_owned()))));
            }
            Request::DrainedWatch { target, reply } => {
                let (sender, receiver) =
                    watch::channel(DrainReport { left: 3, waited_ms: 2, ..DrainReport::default() });
                drop(reply.send(Ok(receiver)));
                let last = match target.to_string().as_str() {
                    "v1" => DrainReport { drained: true, left: 0, waited_ms: 2_345, deadline_passed: false },
                    "v2" => DrainReport { drained: false, left: 2, waited_ms: 5_000, deadline_passed: true },
                    // Undone: the sender goes without a last word.
                    "v3" => return,
                    _ => return drains.push(sender),
                };
                sender.send_replace(last);
            }
            Request::Apply { desired, dry_run, reply } => {
                note(format!("apply {} services dry_run={dry_run}", desired.services.len()));
                let change = |op, what: &str, from: Option<&str>, to: Option<&str>| Change {
                    op,
                    what: what.to_owned(),
                    from: from.map(str::to_owned),
                    to: to.map(str::to_owned),
                };
                let changes = vec![
                    change(Op::Add, "web/v2 backend 10.2.0.2:8080", None, Some("weight 2")),
                    change(Op::Change, "web/v1 weight", Some("100%"), Some("90%")),
                    change(Op::Remove, "web/v1 backend 10.1.0.9:8080", None, None),
                ];
                drop(reply.send(Ok(ApplyReport { changes, applied: !dry_run, warnings: vec![] })));
            }
            Request::Explain { service, from, port, preview, reply } => {
                note(format!(
                    "explain {service} {from}{}{}",
                    port.map_or(String::new(), |port| format!(" port {port}")),
                    if preview { " preview" } else { "" }
                ));
                drop(reply.send(Ok(explained(service, from, port, preview))));
            }
            Request::Rollout { service, ask, reply } => {
                note(format!("rollout {service} {ask:?}"));
                drop(reply.send(Ok(crate::rollout::report("running"))));
            }
            Request::RolloutStatus { service, reply } => {
                let phase = match service.as_str() {
                    "good" => "promoted",
                    "bad" => "rolled-back",
                    "cold" => "frozen",
                    _ => "running",
                };
                let report = crate::rollout::report(phase);
                drop(reply.send(Ok(zdd_agent::rollout::report::RolloutReport { service, ..report })));
            }
            Request::RolloutPlan { service, candidate, reply } => {
                note(format!("plan {service} {candidate}"));
                drop(reply.send(Ok(crate::rollout::plan())));
            }
            Request::RolloutHistory { service, reply } => {
                note(format!("history {service}"));
                drop(reply.send(Ok(crate::rollout::history())));
            }
            Request::Train { train, reply, .. } => {
                drop(reply.send(Ok(zdd_agent::rollout::report::TrainReport { train, rollouts: Vec::new() })));
            }
            Request::Line { stopped, reply } => {
                drop(reply.send(Ok(StoppedLine { stopped, rollouts: vec!["web".to_owned()] })));
            }
            Request::Gate { service, closed, reason, reply } => {
                note(format!("gate {service} closed={closed} {reason:?}"));
                drop(reply.send(Ok(changed(&service, "noted".to_owned()))));
            }
            Request::WhoMoves { service, weights, clients, port: _, reply } => {
                note(format!("who-moves {service} {weights:?}"));
                let answer = WhoMoves {
                    service,
                    generation: 7,
                    cells: 16_384,
                    moved_cells: 1_632,
                    moved_groups: 102,
                    moved_share: 0.0996,
                    other_backend_cells: 16,
                    versions: vec![VersionMove {
                        name: "v2".to_owned(),
                        asked_before: 0.0,
                        asked_after: 0.1,
                        share_before: 0.0,
                        share_after: 0.0996,
                    }],
                    moves: vec![CellMove { from: Some("v1".to_owned()), to: None, cells: 1_632 }],
                    live_flows: 12,
                    kept_flows: 3,
                    clients: clients
                        .into_iter()
                        .map(|from| ClientMove {
                            from,
                            before: Some("v1".to_owned()),
                            after: Some("v2".to_owned()),
                        })
                        .collect(),
                    notes: vec!["a note".to_owned()],
                };
                drop(reply.send(Ok(answer)));
            }
            Request::Detach { reply, .. } => {
                let removed = vec!["link on eth0".to_owned(), "map cells".to_owned()];
                drop(reply.send(Ok(DetachReport { removed })));
            }
        }
    }
}

/// A loop that refuses everything.
pub fn refusing(refused: Refused) -> impl FnMut(Request) + Send + 'static {
    move |request| request.refuse(refused.clone())
}

/// Two versions, valid and without warnings.
pub const CONFIG: &str = r#"
[agent]
interfaces = ["zdd-none0"]
[[service]]
name = "web"
vip = "10.0.0.10:80/tcp"
forward = "nat"
health = { http = "/health" }
[[service.version]]
name = "v1"
weight = 90
backends = ["10.1.0.1:8080", { address = "10.1.0.2:8080", weight = 2 }]
[[service.version]]
name = "v2"
weight = 10
backends = ["10.2.0.1:8080"]
"#;
