//! What narrow terminals show: 80 columns is what most windows begin with, 40 is a phone.

use std::time::Duration;

use super::model::Model;
use super::tests::{model, screen, status};

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
