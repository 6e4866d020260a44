//! The command line: thin clients of the API, and the start of the agent.
//!
//! What a command found goes to stdout, everything else to stderr, and the exit code says which of [`Outcome`]'s kinds it was.

mod args;
mod bundle;
mod commands;
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

use std::io::Write;
use std::process::ExitCode;

use clap::FromArgMatches;

use crate::api::client::{At, Client, ClientError};
use crate::config::ConfigErrors;
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
    // Usage errors exit with 2 here; --help and --version with 0.
    let mut grammar = grammar();
    let args = Args::from_arg_matches(&grammar.get_matches_mut());
    let args = args.unwrap_or_else(|error| error.format(&mut grammar).exit());
    let outcome = match run(args) {
        Ok(outcome) => outcome,
        Err(error) => {
            let outcome = outcome_of(&error);
            complain(&error);
            outcome
        }
    };
    ExitCode::from(outcome as u8)
}

fn outcome_of(error: &anyhow::Error) -> Outcome {
    if error.is::<output::ReaderGone>() {
        // `zdd status | head` has what it wanted.
        return Outcome::Done;
    }
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Unreachable { .. }) => Outcome::Unreachable,
        _ => Outcome::Failed,
    }
}

/// `error: ...` and, where a way out is known, `help: ...` on a line of its own.
fn complain(error: &anyhow::Error) {
    if !error.is::<output::ReaderGone>() {
        // With stderr closed there is nobody to tell; the exit code still says it.
        drop(std::io::stderr().write_all(complaint(error).as_bytes()));
    }
}

fn complaint(error: &anyhow::Error) -> String {
    let whole = error.to_string();
    let (help, mut what): (Vec<&str>, Vec<&str>) = whole.lines().partition(|line| line.starts_with("help: "));
    if error.is::<ConfigErrors>() {
        // A file may have many mistakes: each is an error of its own, with its own way out below it.
        let mark = |line: &str| {
            if line.starts_with("help: ") { format!("{line}\n") } else { format!("error: {line}\n") }
        };
        return whole.lines().map(mark).collect();
    }
    // Causes that the message does not tell by itself.
    let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
    what.extend(causes.iter().filter(|cause| !whole.contains(cause.as_str())).map(String::as_str));
    let mut text = format!("error: {}\n", what.join(": "));
    for line in help {
        text.push_str(&format!("{line}\n"));
    }
    if let Some(ClientError::Unreachable { at, source }) = error.downcast_ref::<ClientError>() {
        text.push_str(if let At::Server(_) = at {
            "help: an agent listens there when agent.api.listen says so; --ca must be the authority of its certificate, and its client_ca that of yours\n"
        } else if source.kind() == std::io::ErrorKind::PermissionDenied {
            "help: only root, the agent's own user and members of agent.api.socket_group may use the socket; run the command as one of them\n"
        } else {
            "help: start one with `zdd agent --config FILE`, or name another socket with --socket PATH or ZDD_SOCKET\n"
        });
    }
    text
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

async fn over_the_api(command: Command, at: &At, out: &mut Output) -> anyhow::Result<Outcome> {
    let client = match (Client::connect_to(at).await, &command) {
        (Err(ClientError::Unreachable { .. }), Command::Detach { pin_dir, config })
            if pin_dir.is_some() || config.is_some() =>
        {
            return detach::without_agent(pin_dir.as_deref(), config.as_deref(), out);
        }
        (client, _) => client?,
    };
    commands::ask(command, client, out).await
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_cause_is_told_once_and_the_way_out_comes_last() {
        let cause = || std::io::Error::other("no room");
        let told = anyhow::Error::new(cause()).context("cannot write: no room\nhelp: make room");
        assert_eq!(complaint(&told), "error: cannot write: no room\nhelp: make room\n");
        let untold = Err::<(), _>(cause()).context("cannot write\nhelp: make room").unwrap_err();
        assert_eq!(complaint(&untold), "error: cannot write: no room\nhelp: make room\n");
    }
}
