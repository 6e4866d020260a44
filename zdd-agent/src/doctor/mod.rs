//! Is this host fit for zdd? Looks at everything that has kept somebody's packets from arriving, and says the way out of each.
//!
//! Nothing is changed, and nothing is attached. The kernel is asked to resolve the backends' neighbours, as the agent asks it.

mod host;
mod interfaces;
mod netns;
mod network;
pub(crate) mod sysctl;

use std::time::Duration;

use serde::Serialize;

use crate::dataplane::probe;
use crate::desired::Desired;
use crate::links::LinkWatcher;

/// How bad a finding is. The order is from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing to do.
    Ok,
    /// zdd runs, but slower, or not in every case.
    Warning,
    /// zdd does not start, or some packets are lost.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, one word; a promise to scripts.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found, in a sentence.
    pub what: String,
    /// A command or a setting that mends it.
    pub fix: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn ok(check: &'static str, what: impl Into<String>) -> Finding {
        Finding { check, level: Level::Ok, what: what.into(), fix: None }
    }

    /// Something to know.
    pub fn warning(check: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { check, level: Level::Warning, what: what.into(), fix: Some(fix.into()) }
    }

    /// Something to mend.
    pub fn problem(check: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { check, level: Level::Problem, what: what.into(), fix: Some(fix.into()) }
    }
}

/// Capabilities that an agent needs and this process lacks.
pub fn lacking_rights() -> Vec<&'static str> {
    host::lacking_rights()
}

/// What a running agent has given up, as the kernel tells it of process `pid`.
pub fn sandbox(pid: i32) -> Finding {
    host::sandbox(pid)
}

/// What is true of the machine whatever the configuration says.
pub fn machine() -> Vec<Finding> {
    let mut findings = host::kernel();
    findings.push(host::privileges());
    findings.push(host::memlock());
    findings.push(host::clock());
    findings.push(host::conntrack());
    findings
}

/// What follows from a configuration: file system, pins, interfaces, settings, neighbours.
pub async fn configured(desired: &Desired) -> Vec<Finding> {
    let pinned = probe::pinned(&desired.agent);
    let mut findings = vec![host::bpffs(&desired.agent.pin_dir), host::pins(&desired.agent.pin_dir, &pinned)];
    match LinkWatcher::start().await {
        Ok((watcher, _events)) => {
            let (links, locals) = (watcher.links(), watcher.locals().borrow().clone());
            findings.extend(interfaces::look(desired, &links, &pinned).await);
            findings.extend(interfaces::peers(desired, &links));
            findings.extend(network::settings(desired, &links, &locals).await);
            findings.extend(network::neighbours(desired).await);
        }
        Err(error) => findings.push(Finding::problem(
            "interfaces",
            error.to_string(),
            "run it as root in the host's network namespace",
        )),
    }
    findings
}

/// What an agent asks before it attaches: only what takes next to no time, and what it does not find out by itself.
/// Gives up after `patience`, with nothing found.
pub async fn before_start(desired: &Desired, patience: Duration) -> Vec<Finding> {
    let look = async {
        let mut findings = vec![host::clock(), host::conntrack()];
        if let Ok((watcher, _events)) = LinkWatcher::start().await {
            let (links, locals) = (watcher.links(), watcher.locals().borrow().clone());
            findings.extend(interfaces::mtu(desired, &links));
            findings.extend(interfaces::redirects(desired, &links));
            findings.extend(network::settings(desired, &links, &locals).await);
        }
        findings.retain(|finding| finding.level > Level::Ok);
        findings
    };
    tokio::time::timeout(patience, look).await.unwrap_or_default()
}
