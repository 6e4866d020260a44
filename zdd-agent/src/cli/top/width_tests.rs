//! What narrow terminals show: 80 columns is what most windows begin with, 40 is a phone.

use std::time::Duration;

use super::model::Model;
use super::tests::{model, screen, status};
use crate::desired::AttachMode;
use crate::report::{InterfaceStatus, SnatStatus};

#[test]
fn eighty_columns_have_room_for_why_a_backend_fails() {
    let shown = screen(&model(), 80, 24);
    for words in ["HEALTH", "OBSERVED", "LIVE", "0/1 10.1.0.3:8080", "q quit  up/down choose", "? help"] {
        assert!(shown.contains(words), "{words}:\n{shown}");
    }
}

#[test]
fn forty_columns_show_health_and_how_to_get_out() {
    let shown = screen(&model(), 40, 24);
    for words in ["ASKED", "HEALTH", "90.00%", "2/2", "0/1", "q quit", "r rollback", "? more keys"] {
        assert!(shown.contains(words), "{words}:\n{shown}");
    }
}

#[test]
fn each_packet_reason_stands_with_its_numbers_at_every_width() {
    for width in [40, 60, 77, 78, 80, 99, 100, 200] {
        let mut model = Model::default();
        for seconds in 1..3 {
            let mut now = status(seconds);
            now.reasons.clear();
            now.reasons.extend(
                zdd_common::reason::REASONS.iter().map(|of| (of.name().to_owned(), 4_000_000_007 * seconds)),
            );
            model.report(now, Duration::from_secs(seconds));
        }
        let shown = screen(&model, width, 60);
        let told: Vec<&str> = shown.lines().skip_while(|line| !line.starts_with("PACKETS")).skip(1).collect();
        let columns = if width < 78 { 1 } else { 2 };
        assert!(told.len() > 10, "{width}:\n{shown}");
        for line in told.iter().take(10) {
            let numbers = line.split_whitespace().filter(|word| *word == "8000000014").count();
            assert_eq!(numbers, columns, "{width}: {line}\n{shown}");
        }
    }
}

#[test]
fn an_interface_that_is_not_attached_is_told_before_anything_is_cut_off() {
    let mut model = Model::default();
    let mut now = status(1);
    let pool = |source: &str| SnatStatus {
        sources: vec![source.to_owned()],
        ports: "61000-65535".to_owned(),
        capacity: 65_536,
        per_backend: 4_536,
        live: 7,
        finished: 0,
    };
    now.snat = vec![pool("10.0.0.1"), pool("fd00::1")];
    let device = InterfaceStatus {
        name: "eth0".to_owned(),
        index: 2,
        mode: AttachMode::Native,
        attached: false,
        note: None,
    };
    now.interfaces = vec![device];
    model.report(now.clone(), Duration::ZERO);
    let shown = screen(&model, 40, 24);
    assert!(shown.contains("INTERFACES NOT ATTACHED: 1"), "{shown}");
    // Each family by its name, and both within 80 columns.
    now.interfaces.clear();
    model.report(now, Duration::from_secs(1));
    let shown = screen(&model, 80, 24);
    assert!(shown.contains("  snat 7/65536  snat6 7/65536\n"), "{shown}");
}

#[test]
fn that_a_version_drains_is_told_at_every_width_with_health() {
    for width in [40, 56, 80, 100, 120] {
        let mut model = Model::default();
        let mut now = status(1);
        now.services[0].versions[0].draining = true;
        model.report(now, Duration::ZERO);
        let shown = screen(&model, width, 24);
        let row = shown.lines().find(|line| line.contains("  v1 ")).unwrap();
        assert!(row.contains("draining"), "{width}:\n{shown}");
    }
}
