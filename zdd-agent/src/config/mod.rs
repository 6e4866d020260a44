//! The configuration file: TOML in, [`Desired`] out, and every mistake in it told at once with its place and the way out.
//!
//! Nothing is guessed: an unknown key is an error, a value out of range is an error, and nothing outside the file is looked at.

mod admission;
mod agent;
mod alert;
mod api;
mod check;
mod cohort;
mod health;
mod node;
mod preview;
mod problems;
mod ranges;
mod reader;
mod rollout;
mod service;
mod signals;

use std::path::Path;

pub use problems::{ConfigError, ConfigErrors, Warning};

use crate::desired::Desired;
use problems::Sink;
use reader::{At, Table};

/// The reader of configuration files.
#[derive(Debug)]
pub struct Config;

impl Config {
    /// Reads and validates a file.
    ///
    /// # Errors
    /// Every mistake in it, or the one that kept it from being read.
    pub fn load(path: &Path) -> Result<(Desired, Vec<Warning>), ConfigErrors> {
        Self::parse(&Self::read(path)?, &path.display().to_string())
    }

    /// The text of a file, not validated.
    ///
    /// # Errors
    /// The one that kept it from being read.
    pub fn read(path: &Path) -> Result<String, ConfigErrors> {
        std::fs::read_to_string(path).map_err(|error| {
            let help = "check the path and its permissions; the file is UTF-8 text";
            let message = format!("cannot read the configuration: {error}");
            ConfigErrors::single(&path.display().to_string(), message, help)
        })
    }

    /// Validates `text`; `name` is what messages call the file.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(text: &str, name: &str) -> Result<(Desired, Vec<Warning>), ConfigErrors> {
        let mut sink = Sink::new(text, name);
        let (document, mistakes) = toml::de::DeTable::parse_recoverable(text);
        if !mistakes.is_empty() {
            // What is left of the document would only cause complaints about things that are there.
            for mistake in mistakes {
                let help = "see https://toml.io for the syntax; strings and addresses need quotes";
                sink.error(mistake.span(), format!("this is not TOML: {}", mistake.message()), help);
            }
            return Err(sink.into_errors());
        }
        let mut top = Table::new(document.get_ref(), 0..0, "the file");
        let agent = agent::read(&mut top, &mut sink);
        let services: Vec<_> = match top.tables("service", &mut sink) {
            Some(tables) => tables.into_iter().map(|table| service::read(table, &mut sink)).collect(),
            None => Vec::new(),
        };
        let nodes = node::read(&mut top, &mut sink);
        let cohorts = cohort::read(&mut top, &mut sink);
        top.finish(&mut sink);
        if services.is_empty() {
            sink.warning(
                None,
                "there is no [[service]]: the agent attaches and passes everything".to_owned(),
            );
        }
        check::all(&agent, &services, &mut sink);
        cohort::check(&cohorts, &services, &mut sink);
        let specs =
            services.into_iter().map(|service| service.into_spec(&cohorts)).collect::<Option<Vec<_>>>();
        match (agent.into_spec(), specs) {
            (Some(agent), Some(services)) if !sink.failed() => {
                Ok((Desired { agent, services, nodes }, sink.into_warnings()))
            }
            _ => Err(sink.into_errors()),
        }
    }
}

/// The value of something that was read, or nothing when it was missing or wrong.
fn value<T>(at: Option<At<T>>) -> Option<T> {
    at.map(|at| at.value)
}

#[cfg(test)]
mod tests;
