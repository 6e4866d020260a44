//! `zdd lint`: what is allowed and unwise. Pure findings over the validated configuration; nothing is asked.

use std::path::Path;

use serde::Serialize;

use super::Outcome;
use super::output::Output;
use crate::config::Config;
use crate::desired::{Desired, ServiceSpec};
use crate::rollout::spec::{Builtin, OnFailure, Provider, RolloutSpec, Step, Strategy};

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A word for programs; never renamed.
    pub rule: &'static str,
    /// Service.
    pub service: String,
    /// What may go wrong.
    pub finding: String,
    /// What to write.
    pub fix: String,
}

#[derive(Debug, Serialize)]
struct LintReport {
    findings: Vec<Finding>,
}

/// Reads a file and prints what is unwise in it; exit 1 when there is something.
pub fn lint(file: &Path, out: &mut Output) -> anyhow::Result<Outcome> {
    let (desired, _) = Config::load(file)?;
    let report = LintReport { findings: findings(&desired) };
    out.print(&report, |report| {
        let told = report.findings.iter().map(|found| {
            format!("{}: {} [{}]\n  fix: {}\n", found.service, found.finding, found.rule, found.fix)
        });
        let count = report.findings.len();
        told.collect::<String>() + &format!("{}: {count} findings\n", file.display())
    })?;
    Ok(if report.findings.is_empty() { Outcome::Done } else { Outcome::Failed })
}

/// All findings, service by service.
pub fn findings(desired: &Desired) -> Vec<Finding> {
    let mut all = Vec::new();
    for service in &desired.services {
        let mut find = |rule, finding: String, fix: &str| {
            all.push(Finding { rule, service: service.name.clone(), finding, fix: fix.to_owned() });
        };
        of_service(service, &mut find);
        if let Some(rollout) = &service.rollout {
            of_rollout(service, rollout, &mut find);
        }
    }
    all
}

fn of_service(service: &ServiceSpec, find: &mut impl FnMut(&'static str, String, &str)) {
    if service.health.is_none() {
        let what = "no health check: a dead backend goes on taking new connections".to_owned();
        find("no-health", what, "health = { http = \"/health\" } or { tcp = true }");
    }
    if service.drain_timeout.is_none() {
        let what = "no drain_timeout: one connection that never ends keeps a drain open for ever".to_owned();
        find("no-drain-deadline", what, "drain_timeout = \"1h\"");
    }
    if service.versions.len() > 1 && service.rollout.is_none() {
        let what = "several versions and no [service.rollout]: shifts are watched by nobody".to_owned();
        find("no-rollout", what, "[service.rollout] with a strategy, steps and an analysis");
    }
    for version in &service.versions {
        if version.weight > 0 && version.backends.len() == 1 {
            let what =
                format!("version {} has a single backend: there is no other when it fails", version.name);
            find("single-backend", what, "add a second backend to the version");
        }
    }
}

fn of_rollout(
    service: &ServiceSpec,
    rollout: &RolloutSpec,
    find: &mut impl FnMut(&'static str, String, &str),
) {
    if matches!(rollout.strategy, Strategy::BlueGreen { .. }) && service.preview.is_empty() {
        let what =
            "blue-green without a preview VIP: nobody can look at the new version before everybody meets it"
                .to_owned();
        find(
            "no-preview",
            what,
            "preview = \"10.0.0.11:80/tcp\" in the service: another address, or port, that testers dial",
        );
    }
    if rollout.analyses.iter().all(|analysis| analysis.dry_run) {
        let what = "no analysis decides: a bad candidate is noticed only by people".to_owned();
        let fix = "[[service.rollout.analysis]] with name = \"health\" and builtin = { metric = \"healthy-share\", success = \">= 1\" }";
        find("no-analysis", what, fix);
    }
    for analysis in &rollout.analyses {
        if signals_needed(&analysis.provider) && service.signals.is_none() {
            let what = format!(
                "analysis {} asks for signals, and none of the service's flows are followed: it is never conclusive",
                analysis.name
            );
            find("blind-analysis", what, "signals = { sample = \"1/4\" } in the service");
        }
        if let Provider::Builtin { metric: Builtin::Rate(metric), .. } = &analysis.provider
            && !metric.seen_under(service.forward)
        {
            let what = format!(
                "analysis {} asks for {}, which nobody sees under {}: replies go around this host",
                analysis.name,
                metric.name(),
                service.forward
            );
            find("blind-analysis", what, "builtin = { metric = \"unanswered-rate\", success = \"<= 0.01\" }");
        }
        if matches!(analysis.provider, Provider::Builtin { metric: Builtin::HealthyShare, .. })
            && service.health.is_none()
        {
            let what = format!(
                "analysis {} asks for health, and there is no health check: it is never conclusive",
                analysis.name
            );
            find("blind-analysis", what, "health = { http = \"/health\" } in the service");
        }
        if !analysis.dry_run && analysis.failure_limit > 10 {
            let what = format!(
                "analysis {} tolerates {} failures: a bad candidate stays for {}",
                analysis.name,
                analysis.failure_limit,
                humantime::format_duration(analysis.interval.saturating_mul(analysis.failure_limit))
            );
            find("late-analysis", what, "failure_limit = 2");
        }
    }
    match &rollout.strategy {
        Strategy::Canary { steps } => {
            let first =
                steps.iter().find_map(|step| if let Step::Weight(w) = step { Some(*w) } else { None });
            if first.is_some_and(|weight| weight > 2_500) {
                let what = format!(
                    "the first step is {}: so many meet an unknown version at once",
                    crate::text::percent(first.unwrap_or(0))
                );
                find("steep-start", what, "steps = [{ weight = 1 }, { pause = \"5m\" }, ...]");
            }
            let pauses = steps.iter().any(|step| !matches!(step, Step::Weight(_)));
            let watched = rollout.analyses.iter().any(|analysis| !analysis.dry_run);
            if !pauses && !watched {
                let what = "no pause and no analysis: all steps are taken at once".to_owned();
                find("no-pause", what, "{ pause = \"5m\" } between the weights");
            }
        }
        Strategy::BlueGreen { .. } if rollout.drain_deadline.is_none() && service.drain_timeout.is_none() => {
            let what =
                "blue-green without a deadline: the rollout ends only when the old version has nobody left"
                    .to_owned();
            find("endless-drain", what, "drain_deadline = \"1h\"");
        }
        Strategy::Rolling { .. } if rollout.drain_deadline.is_none() && service.drain_timeout.is_none() => {
            let what =
                "rolling without a deadline: one connection that never ends keeps a batch out for ever"
                    .to_owned();
            find("endless-drain", what, "drain_deadline = \"1h\"");
        }
        Strategy::BlueGreen { .. } | Strategy::Rolling { .. } => {}
    }
    if rollout.on_failure == OnFailure::Freeze {
        let told = rollout.hooks.iter().any(|hook| hook.on == crate::rollout::spec::HookKind::Event);
        if !told {
            let what = "on_failure is freeze and no event hook tells anybody: a frozen rollout waits unseen"
                .to_owned();
            find("silent-freeze", what, "[[service.rollout.hook]] with on = \"event\" and webhook or exec");
        }
    }
}

/// Whether it knows nothing without flows that are followed.
fn signals_needed(provider: &Provider) -> bool {
    match provider {
        Provider::Compare(_) => true,
        Provider::Builtin { metric, .. } => *metric != Builtin::HealthyShare,
        _ => false,
    }
}
