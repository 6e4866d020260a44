//! `zdd detach`: what it is about, and doing it when no agent runs.

use std::path::{Path, PathBuf};

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
    let Some(pin_dir) = named(pin_dir, config)? else {
        anyhow::bail!("no pin directory is named\nhelp: use --pin-dir DIR or --config FILE")
    };
    let report = detach_offline(&pin_dir)?;
    out.print(&report, super::table::detached)?;
    Ok(Outcome::Done)
}

/// The pin directory that the command line names, if it does.
pub fn named(pin_dir: Option<&Path>, config: Option<&Path>) -> anyhow::Result<Option<PathBuf>> {
    Ok(match (pin_dir, config) {
        (Some(pin_dir), _) => Some(std::path::absolute(pin_dir)?),
        (None, Some(config)) => Some(Config::load(config)?.0.agent.pin_dir),
        (None, None) => None,
    })
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
