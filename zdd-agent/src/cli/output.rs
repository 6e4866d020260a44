//! Where results go: text for people or JSON for programs, one or the other.

use std::io::{self, ErrorKind, IsTerminal, Write};

use ratatui::crossterm;
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
        self.print(report, |report| match crossterm::terminal::size() {
            Ok((columns, rows)) if clear => format!("\x1b[H\x1b[2J{}", fitting(&text(report), columns, rows)),
            _ if clear => format!("\x1b[H\x1b[2J{}", text(report)),
            _ => text(report) + "\n",
        })
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

/// What fits on a screen that was cleared, from the top: of what is longer, its beginning would scroll away at once.
fn fitting(text: &str, columns: u16, rows: u16) -> String {
    let columns = usize::from(columns.max(1));
    // The cursor stands on a line of its own below.
    let room = usize::from(rows).saturating_sub(1);
    let height = |line: &str| visible(line).div_ceil(columns).max(1);
    if text.lines().map(height).sum::<usize>() <= room {
        return text.to_owned();
    }
    let all = text.lines().count();
    let (mut used, mut shown, mut out) = (0, 0, String::new());
    for line in text.lines() {
        used += height(line);
        // One line is for what is said below.
        if used >= room {
            break;
        }
        shown += 1;
        out.push_str(line);
        out.push('\n');
    }
    let more = format!("... {} more lines; without --watch all", all - shown);
    out + &more.chars().take(columns).collect::<String>() + "\n"
}

/// Letters of a line that a terminal shows: without what sets colours.
fn visible(line: &str) -> usize {
    let mut letters = line.chars();
    let mut count = 0;
    while let Some(letter) = letters.next() {
        match letter {
            '\x1b' => drop(letters.find(|letter| *letter == 'm')),
            _ => count += 1,
        }
    }
    count
}

/// A warning or a note, on stderr: stdout holds nothing but the result.
pub fn remark(kind: &str, text: &str) {
    // With stderr closed there is nobody to tell.
    drop(writeln!(io::stderr(), "{kind}: {text}"));
}

#[cfg(test)]
mod tests {
    use super::fitting;

    #[test]
    fn what_is_longer_than_the_screen_is_shown_from_its_beginning() {
        let text = "one\n\x1b[32mtwo\x1b[0m\nthree\n";
        assert_eq!(fitting(text, 80, 4), text, "three lines and the cursor's");
        assert_eq!(fitting(text, 80, 3), "one\n... 2 more lines; without --watch all\n");
        // A line that the terminal breaks takes as many; colours take none.
        assert_eq!(fitting(text, 3, 5), text);
        assert_eq!(fitting(text, 3, 4), "one\n\x1b[32mtwo\x1b[0m\n...\n");
        assert_eq!(fitting(text, 0, 0), ".\n");
    }
}
