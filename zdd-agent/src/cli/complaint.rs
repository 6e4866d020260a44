//! How a failed command says why: for people `error: ...` and `help: ...`, for programs one line of JSON. Both go to standard error, so
//! that whatever reads standard output meets nothing but results.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use super::{Outcome, output};
use crate::api::client::{At, ClientError};
use crate::config::ConfigErrors;
use crate::control::Refused;
use crate::text::Unreadable;

/// `{"error": {...}}`.
#[derive(Debug, Serialize)]
struct Told<'a> {
    error: Complaint<'a>,
}

/// Why a command failed, for programs. Fields are added, never changed.
#[derive(Debug, Serialize)]
struct Complaint<'a> {
    /// What kind of failure, in one word; see the README.
    kind: &'static str,
    /// The exit code.
    exit: u8,
    message: String,
    /// The way out, where one is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
    /// Of a configuration file: which, and each mistake with its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    mistakes: &'a [crate::config::ConfigError],
}

/// How the command ends by this error, which is told on standard error.
pub fn complain(error: &anyhow::Error, json: bool) -> Outcome {
    if error.is::<output::ReaderGone>() {
        // `zdd status | head` has what it wanted.
        return Outcome::Done;
    }
    let outcome = match error.downcast_ref::<ClientError>() {
        Some(ClientError::Unreachable { .. } | ClientError::NothingToDetach { .. }) => Outcome::Unreachable,
        _ => Outcome::Failed,
    };
    tell(&if json { as_json(error, outcome) } else { as_text(error) });
    outcome
}

/// The same for a command line that makes no sense, and for one that only asks for help or the version.
pub fn usage(error: &clap::Error, json: bool) -> Outcome {
    use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};
    if !json || matches!(error.kind(), DisplayHelp | DisplayVersion) {
        // With stderr closed there is nobody to tell.
        drop(error.print());
        return if error.use_stderr() { Outcome::Usage } else { Outcome::Done };
    }
    let text = error.to_string();
    let (message, help) = match error.kind() {
        clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            ("a command is missing".to_owned(), "`zdd --help` lists them".to_owned())
        }
        _ => {
            let (message, help) = text.split_once("\n\n").unwrap_or((&text, ""));
            (message.trim_start_matches("error: ").to_owned(), help.trim().to_owned())
        }
    };
    let help = Some(help).filter(|help| !help.is_empty());
    tell(&line(Complaint {
        kind: "usage",
        exit: Outcome::Usage as u8,
        message,
        help,
        file: None,
        mistakes: &[],
    }));
    Outcome::Usage
}

fn tell(text: &str) {
    // With stderr closed there is nobody to tell; the exit code still says it.
    drop(std::io::stderr().write_all(text.as_bytes()));
}

fn line(error: Complaint<'_>) -> String {
    // Texts and numbers only: it cannot fail.
    serde_json::to_string(&Told { error }).unwrap_or_default() + "\n"
}

/// What failed, for programs.
fn kind(error: &anyhow::Error) -> &'static str {
    let refused = match error.downcast_ref::<ClientError>() {
        Some(ClientError::Unreachable { .. } | ClientError::NothingToDetach { .. }) => return "unreachable",
        Some(ClientError::Certificate { .. } | ClientError::Doubted(_)) => return "certificate",
        Some(ClientError::Lost(_) | ClientError::Broke(_)) => return "lost",
        Some(ClientError::Malformed(_)) => return "other_build",
        Some(ClientError::Refused(refused)) => Some(refused),
        None => error.downcast_ref::<Refused>(),
    };
    match refused {
        Some(refused) => refused.code.word(),
        None if error.is::<ConfigErrors>() => "configuration",
        None if error.is::<Unreadable>() => "invalid_argument",
        None => "failed",
    }
}

fn as_json(error: &anyhow::Error, outcome: Outcome) -> String {
    let (message, help) = parts(error);
    let help = Some(help.join("\n")).filter(|help| !help.is_empty());
    let of_file = error.downcast_ref::<ConfigErrors>();
    line(Complaint {
        kind: kind(error),
        exit: outcome as u8,
        message,
        help: help.filter(|_| of_file.is_none_or(|of| of.errors.len() == 1)),
        file: of_file.map(|of| of.file.as_str()),
        mistakes: of_file.map_or(&[], |of| &of.errors),
    })
}

fn as_text(error: &anyhow::Error) -> String {
    if error.is::<ConfigErrors>() {
        // A file may have many mistakes: each is an error of its own, with its own way out below it.
        let mark = |line: &str| {
            if line.starts_with("help: ") { format!("{line}\n") } else { format!("error: {line}\n") }
        };
        return error.to_string().lines().map(mark).collect();
    }
    let (message, help) = parts(error);
    let help = help.iter().map(|help| format!("help: {help}\n"));
    format!("error: {message}\n") + &help.collect::<String>()
}

/// What is wrong, with its causes, and the ways out.
fn parts(error: &anyhow::Error) -> (String, Vec<String>) {
    let whole = error.to_string();
    let mut help: Vec<String> =
        whole.lines().filter_map(|line| line.strip_prefix("help: ")).map(str::to_owned).collect();
    let mut what: Vec<&str> = whole.lines().filter(|line| !line.starts_with("help: ")).collect();
    // Causes that the message does not tell by itself.
    let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
    what.extend(causes.iter().filter(|cause| !whole.contains(cause.as_str())).map(String::as_str));
    if let Some(ClientError::Unreachable { at, source }) = error.downcast_ref::<ClientError>() {
        help.push(unreachable(at, source).to_owned());
    }
    (what.join(": "), help)
}

fn unreachable(at: &At, source: &std::io::Error) -> &'static str {
    match at {
        At::Server(_) => {
            "an agent listens there when agent.api.listen says so; --ca must be the authority of its certificate, and its client_ca that of yours"
        }
        At::Socket(_) if source.kind() == std::io::ErrorKind::PermissionDenied => {
            "only root, the agent's own user and members of agent.api.socket_group may use the socket; run the command as one of them"
        }
        At::Socket(_) => {
            "start one with `zdd agent --config FILE`, or name another socket with --socket PATH or ZDD_SOCKET"
        }
    }
}

/// Whether the command line asks for JSON, also one that cannot be read.
pub fn wants_json(args: impl Iterator<Item = std::ffi::OsString>) -> bool {
    args.take_while(|arg| arg != "--").any(|arg| Path::new(&arg) == Path::new("--json"))
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_cause_is_told_once_and_the_way_out_comes_last() {
        let cause = || std::io::Error::other("no room");
        let told = anyhow::Error::new(cause()).context("cannot write: no room\nhelp: make room");
        assert_eq!(as_text(&told), "error: cannot write: no room\nhelp: make room\n");
        let untold = Err::<(), _>(cause()).context("cannot write\nhelp: make room").unwrap_err();
        assert_eq!(as_text(&untold), "error: cannot write: no room\nhelp: make room\n");
        assert_eq!(
            as_json(&untold, Outcome::Failed),
            "{\"error\":{\"kind\":\"failed\",\"exit\":1,\"message\":\"cannot write: no room\",\"help\":\"make room\"}}\n"
        );
    }

    #[test]
    fn what_stands_behind_two_dashes_is_no_flag() {
        let wants = |line: &str| wants_json(line.split(' ').map(Into::into));
        assert!(wants("zdd status --json") && wants("zdd --json shfit"));
        assert!(!wants("zdd status") && !wants("zdd drain -- --json"));
    }
}
