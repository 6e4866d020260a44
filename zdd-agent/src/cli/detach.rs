//! `zdd detach` when no agent runs.

use std::path::Path;

use super::Outcome;
use super::output::Output;
use crate::config::Config;
use crate::report::DetachReport;

/// Finds the pin directory and takes away what is in it.
pub fn without_agent(
    pin_dir: Option<&Path>,
    config: Option<&Path>,
    out: &mut Output,
) -> anyhow::Result<Outcome> {
    let pin_dir = match (pin_dir, config) {
        (Some(pin_dir), _) => pin_dir.to_owned(),
        (None, Some(config)) => Config::load(config)?.0.agent.pin_dir,
        (None, None) => anyhow::bail!("no pin directory is named\nhelp: use --pin-dir DIR or --config FILE"),
    };
    let report = detach_offline(&pin_dir)?;
    out.print(&report, super::table::detached)?;
    Ok(Outcome::Done)
}

/// Detaches the program and removes the pins below `pin_dir`.
fn detach_offline(pin_dir: &Path) -> anyhow::Result<DetachReport> {
    if !pin_dir.exists() {
        return Ok(DetachReport { removed: Vec::new() });
    }
    let links = crate::dataplane::detach(pin_dir)?;
    let mut removed = Vec::new();
    if links > 0 {
        removed.push(format!("XDP program on {links} interface(s)"));
    }
    removed.push(format!("maps in {}", pin_dir.display()));
    Ok(DetachReport { removed })
}
