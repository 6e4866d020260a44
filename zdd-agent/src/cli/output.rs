//! Where results go: text for people or JSON for programs, one or the other.

use std::io::{self, ErrorKind, IsTerminal, Write};

use serde::Serialize;

/// Nobody reads our output any more.
#[derive(Debug, thiserror::Error)]
#[error("the reader of the output went away")]
pub struct ReaderGone;

/// Standard output.
#[derive(Debug)]
pub struct Output {
    json: bool,
    tty: bool,
}

impl Output {
    /// Text or JSON on stdout.
    pub fn new(json: bool) -> Self {
        Output { json, tty: io::stdout().is_terminal() }
    }

    /// A program reads it.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// A person may be looking: colours and redrawing make sense. `NO_COLOR` in the environment says otherwise.
    pub fn colours(&self) -> bool {
        self.tty && !self.json && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
    }

    /// Prints the report as one line of JSON, or as the text that `text` makes of it.
    pub fn print<T: Serialize>(&mut self, report: &T, text: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
        let text = if self.json { serde_json::to_string(report)? + "\n" } else { text(report) };
        self.write(text.as_bytes())
    }

    /// The same in place of what was printed before, if a person is looking; else below it.
    pub fn redraw<T: Serialize>(
        &mut self,
        report: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        let dumb = std::env::var_os("TERM").is_some_and(|kind| kind == "dumb");
        let clear = self.tty && !self.json && !dumb;
        self.print(
            report,
            |report| if clear { format!("\x1b[H\x1b[2J{}", text(report)) } else { text(report) + "\n" },
        )
    }

    /// Writes bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(ReaderGone.into()),
            other => Ok(other?),
        }
    }
}

/// A warning or a note, on stderr: stdout holds nothing but the result.
pub fn remark(kind: &str, text: &str) {
    // With stderr closed there is nobody to tell.
    drop(writeln!(io::stderr(), "{kind}: {text}"));
}
