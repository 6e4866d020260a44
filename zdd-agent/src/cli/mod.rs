//! The command line: thin clients of the API, and the start of the agent.
//!
//! What a command found goes to stdout, everything else to stderr, and the exit code says which of [`Outcome`]'s kinds it was.

mod args;
mod bundle;
mod commands;
mod complaint;
mod decap;
mod detach;
mod doctor;
mod grammar;
mod lint;
mod man;
mod node;
mod output;
mod rollout;
mod rollout_args;
mod table;
mod top;
mod trace;
mod who_moves;

use std::process::ExitCode;

use clap::FromArgMatches;

use crate::api::client::{At, Client, ClientError};
use args::{Args, Command};
pub use grammar::grammar;
use output::Output;

/// How a command ended; a promise to scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// Done.
    Done = 0,
    /// Refused or failed.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// A deadline passed with flows left.
    DeadlinePassed = 3,
    /// No agent answers on the socket.
    Unreachable = 4,
    /// A rollout that was waited for was rolled back.
    RolledBack = 5,
    /// A rollout that was waited for is frozen: somebody must decide.
    Frozen = 6,
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let mut grammar = grammar();
    let matches = grammar.try_get_matches_from_mut(std::env::args_os());
    let args = matches
        .and_then(|matches| Args::from_arg_matches(&matches).map_err(|error| error.format(&mut grammar)));
    let outcome = match args {
        Ok(args) => {
            let json = args.json;
            run(args).unwrap_or_else(|error| complaint::complain(&error, json))
        }
        Err(error) => complaint::usage(&error, complaint::wants_json(std::env::args_os())),
    };
    ExitCode::from(outcome as u8)
}

fn run(args: Args) -> anyhow::Result<Outcome> {
    let at = args.at();
    let Args { socket, json, command, .. } = args;
    let mut out = Output::new(json);
    match command {
        Command::Agent { config } => commands::agent(&config),
        Command::Check { file } => commands::check(&file, &mut out),
        Command::Lint { file } => lint::lint(&file, &mut out),
        Command::Completions { shell } => commands::completions(shell, &mut out),
        Command::Doctor { config } => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(doctor::run(config.as_deref(), &socket, &mut out))
        }
        Command::Man { dir } => man::write(&dir),
        Command::SupportBundle { file, config, log } => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(bundle::run(file, config, &log, &at, &mut out))
        }
        Command::Top => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(top::run(&at))
        }
        Command::Decap(args) => decap::run(args, &mut out),
        other => {
            // One thread: a command must be quick to start.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(over_the_api(other, &at, &mut out))
        }
    }
}

/// Ctrl-C, for as long as somebody looks. One for the whole look: one for each turn of its loop would miss what comes while a turn's
/// news are printed.
fn interrupts() -> std::io::Result<tokio::signal::unix::Signal> {
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())
}

async fn over_the_api(command: Command, at: &At, out: &mut Output) -> anyhow::Result<Outcome> {
    let client = match (Client::connect_to(at).await, &command) {
        (Err(ClientError::Unreachable { .. }), Command::Detach { pin_dir, config })
            if pin_dir.is_some() || config.is_some() =>
        {
            return detach::without_agent(pin_dir.as_deref(), config.as_deref(), out);
        }
        // The way out is not to start one.
        (Err(ClientError::Unreachable { at, source }), Command::Detach { .. }) => {
            return Err(ClientError::NothingToDetach { at, source }.into());
        }
        (client, _) => client?,
    };
    commands::ask(command, client, out).await
}
