//! Manual pages from the grammar of the command line.

use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;

use super::Outcome;
use super::args::Args;

/// Writes `zdd.1`, `zdd-status.1` and so on into `dir`.
///
/// # Errors
/// The directory cannot be written.
pub fn write(dir: &Path) -> anyhow::Result<Outcome> {
    // Its list of commands has what the reader can use, and no more.
    clap_mangen::generate_to(Args::command(), dir)
        .with_context(|| format!("cannot write to {}\nhelp: the directory must be there", dir.display()))?;
    Ok(Outcome::Done)
}
