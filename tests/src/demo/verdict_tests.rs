use super::*;

fn good() -> Findings {
    Findings {
        forward: "nat",
        affinity: "client",
        long_lived: LongLived { total: 500, broken: 0, moved: 0 },
        short: Short { total: 40_000, failed: 0 },
        udp: Udp { total: 50, moved: 0 },
        steps: vec![Step {
            asked: 0.1,
            table_share: 0.1,
            observed: 0.09,
            n: 2_000,
            clients_off_explain: 0,
            group: 1.0 / 16_384.0,
        }],
        drain: Some(Drain { waited_ms: 9_000, left: 0 }),
        ..Findings::default()
    }
}

#[test]
fn nothing_wrong_passes() {
    let verdict = good().verdict();
    assert!(verdict.passed, "{}", verdict.text);
    assert!(verdict.headline.starts_with("PASSED"));
}

#[test]
fn every_single_fault_fails() {
    type Spoil = fn(&mut Findings);
    let spoil: [(&str, Spoil); 14] = [
        ("broken", |f| f.long_lived.broken = 1),
        ("moved", |f| f.long_lived.moved = 1),
        ("failed", |f| f.short.failed = 1),
        ("UDP moved", |f| f.udp.moved = 1),
        ("flipped back", |f| f.flipped_back = 1),
        ("off explain", |f| f.steps[0].clients_off_explain = 1),
        ("table off by two groups", |f| f.steps[0].table_share += 2.0 / 16_384.0),
        ("left by the drain", |f| f.drain = Some(Drain { waited_ms: 1, left: 1 })),
        ("another source", |f| f.counts.wrong_source = 1),
        ("an act that failed", |f| f.problems.push("the upgrade: no".into())),
        ("UDP never answered", |f| f.counts.udp_total = 1),
        ("nothing observed", |f| f.steps[0].n = 0),
        ("no accident", |f| {
            f.affinity = "flow";
            f.steps[0].observed = 0.2;
        }),
        ("no traffic", |f| f.short.total = 0),
    ];
    for (what, change) in spoil {
        let mut findings = good();
        change(&mut findings);
        let verdict = findings.verdict();
        assert!(!verdict.passed && verdict.headline.starts_with("FAILED"), "{what}: {}", verdict.text);
    }
}

#[test]
fn under_affinity_flow_chance_is_no_fault() {
    let mut findings = good();
    findings.affinity = "flow";
    assert!(findings.verdict().passed, "9 % of 2,000 where the table says 10 %");
}

#[test]
fn one_group_off_is_as_exact_as_the_table_can_be() {
    let mut findings = good();
    findings.steps[0].table_share += 1.0 / 16_384.0;
    assert!(findings.verdict().passed);
}

#[test]
fn the_json_has_the_promised_fields_and_no_others() {
    let findings = good();
    let line = findings.json(&findings.verdict());
    assert!(!line.contains('\n'));
    let value: serde_json::Value = serde_json::from_str(&line).expect("it is JSON");
    let mut keys: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    let promised = [
        "affinity",
        "agent_killed",
        "drain",
        "flipped_back",
        "flow_entries_peak",
        "forward",
        "long_lived",
        "rollback_ms",
        "shift_to_first_new_ms",
        "short",
        "steps",
        "udp",
        "upgrade",
        "verdict",
    ];
    assert_eq!(keys, promised);
    let mut step: Vec<&str> =
        value["steps"][0].as_object().expect("an object").keys().map(String::as_str).collect();
    step.sort_unstable();
    assert_eq!(step, ["asked", "clients_off_explain", "n", "observed", "table_share"]);
}

#[test]
fn the_median_is_in_the_middle() {
    assert_eq!(median(&[]), None);
    assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
}
