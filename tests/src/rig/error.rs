//! What can go wrong while a rig is built or used.

use std::path::PathBuf;
use std::process::ExitStatus;

/// Why a rig could not do what was asked.
#[derive(thiserror::Error)]
pub enum Error {
    /// A system call or file operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with the name it was tried on.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A program ran and failed.
    #[error("`{command}` ended with {status}: {stderr}")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to standard error, trimmed.
        stderr: String,
    },
    /// Something that was waited for did not happen.
    #[error("waited {waited_ms} ms for {what}{detail}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long, in milliseconds.
        waited_ms: u128,
        /// The last thing seen, empty or beginning with a separator.
        detail: String,
    },
    /// A process that should run has ended.
    #[error("{name} ended with {status}; the end of its log {log}:\n{tail}")]
    Died {
        /// Which process.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// Where its output went.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// A program answered with something that is not the JSON it promised.
    #[error("`{command}` did not print JSON: {source}; it printed: {output}")]
    Json {
        /// The command line.
        command: String,
        /// Why it could not be read.
        source: serde_json::Error,
        /// What it printed.
        output: String,
    },
    /// The rig needs root.
    #[error("network namespaces need root; run this as root (sudo)")]
    NotRoot,
}

/// A test that returns an error prints it so: for people, with its lines as lines.
impl std::fmt::Debug for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl Error {
    /// Wraps an I/O error with what was tried.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Result of everything in the rig.
pub type Result<T> = std::result::Result<T, Error>;
