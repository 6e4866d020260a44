//! Mistakes and warnings, collected while the file is read, with line and column.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigError {
    /// Line from 1; 0 when it is about the file as a whole.
    pub line: usize,
    /// Column from 1, in characters; 0 when it is about the file as a whole.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// The way out.
    pub help: String,
}

/// Something that is allowed and perhaps not meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// The file's name as it was given.
    pub file: String,
    /// Line from 1; 0 when it is about the file as a whole.
    pub line: usize,
    /// Column from 1; 0 when it is about the file as a whole.
    pub column: usize,
    /// What it is.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", Place(&self.file, self.line, self.column), self.message)
    }
}

/// Every mistake of a file, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file's name as it was given.
    pub file: String,
    /// At least one.
    pub errors: Vec<ConfigError>,
}

impl ConfigErrors {
    /// One mistake about the file as a whole.
    pub(crate) fn single(file: &str, message: String, help: &str) -> Self {
        let error = ConfigError { line: 0, column: 0, message, help: help.to_owned() };
        ConfigErrors { file: file.to_owned(), errors: vec![error] }
    }
}

impl ConfigErrors {
    /// Where a mistake is: `file:line:column`, or the file alone when it is about all of it.
    pub fn place(&self, error: &ConfigError) -> String {
        Place(&self.file, error.line, error.column).to_string()
    }
}

impl std::error::Error for ConfigErrors {}

/// Two lines for each mistake: `file:line:column: what`, and `help: ` with the way out.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.errors.iter().enumerate() {
            let gap = if at == 0 { "" } else { "\n" };
            let place = Place(&self.file, error.line, error.column);
            write!(f, "{gap}{place}: {}\nhelp: {}", error.message, error.help)?;
        }
        Ok(())
    }
}

/// `file:line:column`, or the file alone.
struct Place<'a>(&'a str, usize, usize);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place(file, line, column) = self;
        if *line == 0 { f.write_str(file) } else { write!(f, "{file}:{line}:{column}") }
    }
}

/// Where the readers and checks put what they find.
pub(super) struct Sink<'t> {
    text: &'t str,
    name: &'t str,
    errors: Vec<ConfigError>,
    warnings: Vec<Warning>,
}

impl<'t> Sink<'t> {
    pub fn new(text: &'t str, name: &'t str) -> Self {
        Sink { text, name, errors: Vec::new(), warnings: Vec::new() }
    }

    pub fn error(&mut self, span: Option<Range<usize>>, message: String, help: impl Into<String>) {
        let (line, column) = self.place(span);
        self.errors.push(ConfigError { line, column, message, help: help.into() });
    }

    pub fn warning(&mut self, span: Option<Range<usize>>, message: String) {
        let (line, column) = self.place(span);
        self.warnings.push(Warning { file: self.name.to_owned(), line, column, message });
    }

    pub fn failed(&self) -> bool {
        !self.errors.is_empty()
    }

    pub fn into_errors(mut self) -> ConfigErrors {
        self.errors.sort_by_key(|error| (error.line, error.column));
        ConfigErrors { file: self.name.to_owned(), errors: self.errors }
    }

    pub fn into_warnings(mut self) -> Vec<Warning> {
        self.warnings.sort_by_key(|warning| (warning.line, warning.column));
        self.warnings
    }

    /// `line:column` of something else, for a message that points at it.
    pub fn line_of(&self, span: &Range<usize>) -> usize {
        self.place(Some(span.clone())).0
    }

    fn place(&self, span: Option<Range<usize>>) -> (usize, usize) {
        // The empty span at the start stands for the file as a whole: nothing can be wrong with no text.
        let Some(span) = span.filter(|span| *span != (0..0)) else { return (0, 0) };
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        (before.matches('\n').count() + 1, line.chars().count() + 1)
    }
}
