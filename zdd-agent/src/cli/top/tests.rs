//! What is on the screen, and what keys lead to: without a terminal.

use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::model::{Action, Dialog, Effect, Key, Model};
use super::view;
use crate::desired::{Affinity, Forward};
use crate::report::{
    BackendState, BackendStatus, FlowTableStatus, Health, Role, ServiceCounters, ServiceStatus,
    SignalsStatus, Status, SynFilterStatus, TimesStatus, VersionStatus,
};
use crate::rollout::report::{AnalysisReport, RolloutReport, StepReport};

fn backend(address: &str, ill: Option<&str>) -> BackendStatus {
    BackendStatus {
        address: address.parse().unwrap(),
        weight: 1,
        health: if ill.is_some() { Health::Unhealthy } else { Health::Healthy },
        reason: ill.map(str::to_owned),
        state: BackendState::Active,
        flows: 0,
        packets: 0,
        bytes: 0,
        new_flows: 0,
        next_hop: String::new(),
        last_failure: None,
        last_failure_ms_ago: None,
        depends: Vec::new(),
    }
}

/// One service after `seconds` of 100 new flows and 1,000 packets a second, of which v2 gets a tenth.
pub(super) fn status(seconds: u64) -> Status {
    let version = |name: &str, role, asked, new_flows, backends| VersionStatus {
        name: name.to_owned(),
        role,
        asked,
        share: asked,
        draining: false,
        flows: 30,
        new_flows,
        packets: new_flows * 10,
        bytes: 0,
        signals: None,
        backends,
    };
    let well = vec![backend("10.1.0.1:8080", None), backend("10.1.0.2:8080", None)];
    let ill = vec![backend("10.1.0.3:8080", Some("HTTP 503"))];
    Status {
        build: "0.1.0".to_owned(),
        pid: 42,
        services: vec![ServiceStatus {
            name: "web".to_owned(),
            vip: "10.0.0.10:80/tcp".to_owned(),
            vips: vec!["10.0.0.10:80/tcp".to_owned()],
            affinity: Affinity::Client,
            forward: Forward::Nat,
            generation: 7,
            cells: 16_384,
            groups: 16_384,
            dirty_cells: 1_638,
            alarm: None,
            notes: vec!["v2 waits".to_owned()],
            cohorts: vec![],
            preview: None,
            counters: ServiceCounters {
                packets: seconds * 1_000,
                new_flows: seconds * 100,
                denied: seconds * 20,
                ..ServiceCounters::default()
            },
            access: None,
            new_per_source: None,
            versions: vec![
                version("v1", Role::Stable, 0.9, seconds * 90, well),
                version("v2", Role::Candidate, 0.1, seconds * 10, ill),
            ],
        }],
        snat: vec![],
        flow_table: FlowTableStatus { capacity: 262_144, entries: 60, half: 2, ..FlowTableStatus::default() },
        syn_filter: SynFilterStatus { bytes: 4 << 20, fill: 0.0123 },
        reasons: [("base", seconds * 900), ("new", seconds * 100), ("pass_not_vip", 7), ("reply", 0)]
            .map(|(reason, n)| (reason.to_owned(), n))
            .into(),
        interfaces: vec![],
        probes: 0,
        probes_late: 0,
    }
}

pub(super) fn model() -> Model {
    let mut model = Model::default();
    for second in 0..5 {
        model.report(status(second), Duration::from_secs(second));
    }
    model
}

pub(super) fn screen(model: &Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(model, frame)).unwrap();
    let lines = terminal.backend().to_string();
    lines.lines().map(|line| line.trim_matches('"').trim_end().to_owned() + "\n").collect()
}

fn press(model: &mut Model, keys: &str) -> Effect {
    let key = |c| match c {
        '\n' => Key::Enter,
        '\u{1b}' => Key::Escape,
        '\u{8}' => Key::Backspace,
        'v' => Key::Down,
        '^' => Key::Up,
        c => Key::Char(c),
    };
    keys.chars().map(|c| model.key(key(c))).last().unwrap_or(Effect::None)
}

fn shift(points: u32) -> Action {
    Action::Shift { service: "web".to_owned(), version: "v2".to_owned(), points }
}

#[test]
fn everything_is_on_one_screen() {
    insta::assert_snapshot!(screen(&model(), 118, 16), @r"
    zdd 0.1.0  pid 42  connected
    flows 60 of 262144 (2 half-open)  syn filter 1.2%
      SERVICE              ROLE      ASKED    TABLE    OBSERVED  NEW/s   PKT/s   LIVE    HEALTH
    > web                  gen 7                                 100     1000    60      ▁████ 20.0/s turned away, 1638 ce
        v1                 stable    90.00%   90.00%   90.00%    90.0    900     30      2/2
        v2                 candidate 10.00%   10.00%   10.00%    10.0    100     30      0/1 10.1.0.3:8080: HTTP 503





    PACKETS                         /s        TOTAL                                   /s        TOTAL
    base                           900         3600   pass_not_vip                     0            7
    new                            100          400
    web: v2 waits
    q quit  up/down choose  s shift  d drain  u undrain  r rollback  ? help
    ");
}

#[test]
fn a_small_screen_and_no_report_yet_are_drawn_too() {
    for (width, height) in [(1, 1), (10, 3), (40, 5), (300, 100)] {
        screen(&model(), width, height);
        screen(&Model::default(), width, height);
        for keys in ["?", "vvs", "r"] {
            let mut model = model();
            press(&mut model, keys);
            screen(&model, width, height);
        }
    }
}

#[test]
fn a_shift_is_typed_asked_about_and_only_then_done() {
    let mut model = model();
    assert_eq!(press(&mut model, "vvs2x5\u{8}\n"), Effect::Ask(shift(200)));
    model.prospect(&shift(100), "of another question".to_owned());
    model.prospect(&shift(200), "2.00% of new clients get another version".to_owned());
    insta::assert_snapshot!(screen(&model, 90, 14), @r"
    zdd 0.1.0  pid 42  connected
    flows 60 of 262144 (2 half-open)  syn filter 1.2%
      SERVICE   ASKED    TABLE    OBSERVED  NEW/s   LIVE    HEALTH
      web                                   100     60      ▁████ 20.0/s turned away, 1638 cel
        v1      90.00%   90┌ sure? ───────────────────────────────────┐
    >   v2      10.00%   10│ zdd shift web v2=2%                      │3:8080: HTTP 503
                           │ 2.00% of new clients get another version │
                           │ y does it, n gives up                    │
                           └──────────────────────────────────────────┘
    PACKETS                  /s      TOTAL                           /s      TOTAL
    base                    900       3600  pass_not_vip              0          7
    new                     100        400
    web/v2: 0/1 10.1.0.3:8080: HTTP 503
    q quit  up/down choose  s shift  d drain  u undrain  r rollback  ? help
    ");
    assert_eq!(press(&mut model, "x"), Effect::None, "a slip is no answer");
    assert_eq!(press(&mut model, "y"), Effect::Do(shift(200)));
    assert_eq!(model.dialog, None);
    assert_eq!(model.message.as_deref(), Some("zdd shift web v2=2% ..."));
}

#[test]
fn no_and_escape_do_nothing() {
    for answer in ["n", "\u{1b}"] {
        let mut model = model();
        press(&mut model, "r");
        assert_eq!(press(&mut model, answer), Effect::None);
        assert_eq!(
            (model.dialog.is_none(), model.message.as_deref()),
            (true, Some("not done: zdd rollback web"))
        );
    }
    let mut model = model();
    press(&mut model, "vs9\u{1b}");
    assert_eq!(model.dialog, None);
    assert_eq!(press(&mut model, "q"), Effect::Quit);
}

#[test]
fn a_weight_above_all_or_none_is_told_and_can_be_mended() {
    let mut model = model();
    assert_eq!(press(&mut model, "vvs101\n"), Effect::None);
    assert!(matches!(&model.dialog, Some(Dialog::Weight { wrong: Some(_), .. })), "{:?}", model.dialog);
    assert_eq!(press(&mut model, "\u{8}\u{8}.5\n"), Effect::Ask(shift(150)));
    let mut model = self::model();
    press(&mut model, "vvs\n");
    assert!(matches!(&model.dialog, Some(Dialog::Weight { wrong: Some(_), .. })), "{:?}", model.dialog);
}

#[test]
fn what_needs_a_version_says_so_on_a_service() {
    for key in ["s", "d", "u"] {
        let mut model = model();
        assert_eq!(press(&mut model, key), Effect::None);
        assert_eq!((&model.dialog, model.message.as_deref()), (&None, Some("choose a version of web first")));
    }
    let drain = |model: &mut Model| press(model, "vvvvv^vd");
    let of = Action::Drain { service: "web".to_owned(), version: "v2".to_owned() };
    assert_eq!(drain(&mut model()), Effect::Ask(of));
}

#[test]
fn without_an_agent_nothing_is_asked_and_the_last_numbers_stay() {
    let mut model = model();
    model.lost("no agent answers on /run/zdd/zdd.sock".to_owned());
    let shown = screen(&model, 118, 16);
    assert!(
        shown.contains("NO AGENT, reconnecting: no agent answers") && shown.contains("90.00%"),
        "{shown}"
    );
    assert_eq!(press(&mut model, "vvs"), Effect::None);
    assert_eq!((&model.dialog, model.message.as_deref()), (&None, Some("there is no agent to ask")));
    // Counters that began anew make no rates.
    model.report(status(0), Duration::from_secs(9));
    model.report(status(1), Duration::from_secs(10));
    let shown = screen(&model, 118, 16);
    assert!(shown.contains("connected") && shown.contains("1000"), "{shown}");
}

#[test]
fn totals_that_fall_and_services_that_go_are_no_rate() {
    let mut model = model();
    model.selected = 2;
    model.report(status(0), Duration::from_secs(5));
    assert_eq!(model.rate(|status| status.reasons["base"]), 0.0);
    model.report(Status { services: vec![], ..status(0) }, Duration::from_secs(6));
    assert_eq!((model.selected, model.rows().len()), (0, 0));
    screen(&model, 80, 24);
}

fn rollout() -> RolloutReport {
    let step = |what: &str, state: &str| StepReport {
        what: what.to_owned(),
        rollback: String::new(),
        state: state.to_owned(),
    };
    let health = AnalysisReport {
        name: "health".to_owned(),
        count: 1,
        proven: 1,
        failure_limit: 2,
        last: Some("success (1)".to_owned()),
        ..serde_json::from_value(serde_json::json!({
            "name": "", "provider": "builtin", "dry_run": false, "proven": 0, "count": 0, "successes": 0, "failures": 0,
            "failure_limit": 0, "inconclusive": 0, "inconclusive_limit": 0, "errors_in_row": 0,
            "consecutive_error_limit": 0, "measuring": false, "last": null
        }))
        .unwrap()
    };
    RolloutReport {
        service: "web".to_owned(),
        id: 3,
        revision: 9,
        strategy: "canary".to_owned(),
        stable: "v1".to_owned(),
        candidate: "v2".to_owned(),
        phase: "running".to_owned(),
        why: None,
        weight: 0.1,
        cohorts: vec![],
        paused: None,
        gate_closed: true,
        stopped: None,
        broke_glass: None,
        train: None,
        waits_for: vec!["2m to pass".to_owned()],
        steps: vec![
            step("1 % to v2", "done"),
            step("pause 2m", "done"),
            step("10 % to v2", "done"),
            step("pause 2m", "now"),
            step("50 % to v2", "next"),
            step("100 % to v2", "next"),
        ],
        analyses: vec![health],
        started_unix_ms: 0,
        watched_ms: 0,
        log: vec![],
    }
}

/// v1's handshakes take 1 ms longer in each second.
fn followed(seconds: u64) -> Status {
    let mut status = status(seconds);
    let sum_ms: u64 = (0..=seconds).sum();
    let times = |count: u64, sum_s: f64| TimesStatus { count, sum_s, ..TimesStatus::default() };
    status.services[0].versions[0].signals = Some(SignalsStatus {
        one_in: 1,
        handshake: times(seconds * 10, sum_ms as f64 / 100.0),
        ..SignalsStatus::default()
    });
    status
}

#[test]
fn the_chosen_services_rollout_is_a_tree_with_its_handshakes_below() {
    let mut model = Model::default();
    for second in 0..5 {
        model.report(followed(second), Duration::from_secs(second));
    }
    model.rollout_of("another", Some(rollout()));
    assert!(model.rollout().is_none(), "of a service that is not chosen any more");
    model.rollout_of("web", Some(rollout()));
    insta::assert_snapshot!(screen(&model, 100, 30), @r"
    zdd 0.1.0  pid 42  connected
    flows 60 of 262144 (2 half-open)  syn filter 1.2%
      SERVICE   ASKED    TABLE    OBSERVED  NEW/s   PKT/s   LIVE    HEALTH
    > web                                   100     1000    60      ▁████ 20.0/s turned away, 1638 cells
        v1      90.00%   90.00%   90.00%    90.0    900     30      2/2
        v2      10.00%   10.00%   10.00%    10.0    100     30      0/1 10.1.0.3:8080: HTTP 503









    ROLLOUT 3 of web: v1 -> v2, canary, running at 10.00%, gate closed
     ├─ done  1 % to v2
     ├─ done  pause 2m
     ├─ done  10 % to v2
     ├─ NOW   pause 2m
     │     └─ health: 1 successes here, 1 needed; 0 failures, 2 tolerated; last success (1)
     │     └─ waits for 2m to pass
     ├─ next  50 % to v2
     └─ next  100 % to v2
    web/v1  handshake 4.00 ms ▃▄▆█   first byte -
    PACKETS                         /s        TOTAL                                   /s        TOTAL
    base                           900         3600   pass_not_vip                     0            7
    new                            100          400
    web: v2 waits
    q quit  up/down choose  s shift  d drain  u undrain  r rollback  ? help
    ");
    // Where there is little room, the present step stays.
    let small = screen(&model, 100, 15);
    assert!(small.contains("ROLLOUT 3 of web") && small.contains("NOW   pause 2m"), "{small}");
    assert!(small.contains("handshake 4.00 ms"), "{small}");
}

#[test]
fn no_size_of_a_terminal_and_no_name_is_too_odd() {
    let mut model = Model::default();
    for second in 0..3 {
        let mut status = followed(second);
        let more = (0..60).map(|n| {
            let mut service = status.services[0].clone();
            service.name = format!("{}{n:02}", "a".repeat(61));
            service
        });
        let more: Vec<_> = more.collect();
        status.services.extend(more);
        model.report(status, Duration::from_secs(second));
    }
    model.rollout_of("web", Some(rollout()));
    for (width, height) in
        [(1, 1), (2, 2), (5, 20), (20, 5), (20, 11), (20, 12), (80, 24), (500, 200), (1000, 3)]
    {
        for keys in ["", "?", "vvs12345", "r", "vd"] {
            let mut model = Model::default();
            model.report(followed(1), Duration::ZERO);
            model.rollout_of("web", Some(rollout()));
            press(&mut model, keys);
            model.message = (keys.is_empty()).then(|| "x".repeat(400));
            screen(&model, width, height);
        }
        screen(&model, width, height);
    }
    // The smallest usable one still shows what is chosen and what is asked.
    let mut model = self::model();
    let shown = screen(&model, 20, 5);
    assert!(shown.contains("> web") && shown.contains("v1") && shown.contains("90.00%"), "{shown}");
    model.selected = 1;
    assert!(screen(&model, 20, 5).contains("q quit"), "{}", screen(&model, 20, 5));
    press(&mut model, "r");
    model.prospect(&Action::Rollback { service: "web".to_owned() }, "2.00% move".to_owned());
    let shown = screen(&model, 20, 7);
    assert!(shown.contains("zdd rollback") && shown.contains("web"), "{shown}");
    // Long names that differ in their ends can be told apart where there is room.
    let mut model = Model::default();
    let mut wide = status(1);
    let mut other = wide.services[0].clone();
    wide.services[0].name = "checkout-service-production-eu-1".to_owned();
    other.name = "checkout-service-production-eu-2".to_owned();
    wide.services.push(other);
    model.report(wide, Duration::ZERO);
    let shown = screen(&model, 140, 20);
    assert!(shown.contains("production-eu-1") && shown.contains("production-eu-2"), "{shown}");
}

#[test]
fn a_rate_is_that_of_the_last_reports_though_more_are_kept() {
    let mut model = Model::default();
    for second in 0..15 {
        model.report(status(0), Duration::from_secs(second));
    }
    for second in 0..15 {
        model.report(status(second), Duration::from_secs(15 + second));
    }
    assert_eq!(model.rate(|status| status.reasons["base"]), 900.0);
    assert_eq!(model.history("web").len(), 24);
}
