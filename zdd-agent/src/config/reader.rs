//! Typed access to TOML tables. What is asked for is what is known: every other key is reported.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problems::Sink;
use crate::text::{Unreadable, parse_duration, parse_percent};

pub(super) type Span = Range<usize>;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub value: T,
    pub span: Span,
}

impl<T> At<T> {
    pub fn new(value: T, span: Span) -> Self {
        At { value, span }
    }
}

/// One table, while it is read.
pub(super) struct Table<'a, 't> {
    table: &'a DeTable<'t>,
    /// Where it begins, for what is missing in it.
    pub span: Span,
    /// What messages call it.
    pub name: String,
    known: Vec<&'static str>,
}

impl<'a, 't> Table<'a, 't> {
    pub fn new(table: &'a DeTable<'t>, span: Span, name: impl Into<String>) -> Self {
        Table { table, span, name: name.into(), known: Vec::new() }
    }

    /// The value of a key; from now on the key is known.
    pub fn take(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'t>>> {
        self.known.push(key);
        self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    /// Whether a key is there, whatever is in it.
    pub fn has(&self, key: &str) -> bool {
        self.table.iter().any(|(name, _)| name.get_ref() == key)
    }

    /// Reports that `key` is missing, unless it is there (and then something else was wrong with it).
    pub fn missing(&self, key: &str, help: &str, sink: &mut Sink<'_>) {
        if !self.has(key) {
            sink.error(Some(self.span.clone()), format!("`{key}` is missing in {}", self.name), help);
        }
    }

    /// Reports every key that nobody asked for.
    pub fn finish(self, sink: &mut Sink<'_>) {
        for (key, _) in self.table.iter() {
            if !self.known.contains(&key.get_ref().as_ref()) {
                let near = self.known.iter().filter(|known| distance(known, key.get_ref()) <= 2);
                let help = match near.min_by_key(|known| distance(known, key.get_ref())) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("{} knows {}", self.name, self.known.join(", ")),
                };
                sink.error(
                    Some(key.span()),
                    format!("unknown key `{}` in {}", key.get_ref(), self.name),
                    help,
                );
            }
        }
    }

    /// Text that `parse` understands; its error says what was expected.
    pub fn parsed<T>(
        &mut self,
        key: &'static str,
        sink: &mut Sink<'_>,
        parse: impl FnOnce(&str) -> Result<T, Unreadable>,
    ) -> Option<At<T>> {
        self.text(key, "a string in quotes", sink, parse)
    }

    /// One text, or an array of texts, that `parse` understands. What it does not is reported and left out.
    pub fn parsed_all<T>(
        &mut self,
        key: &'static str,
        sink: &mut Sink<'_>,
        parse: impl Fn(&str) -> Result<T, Unreadable>,
    ) -> Vec<At<T>> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let expected = "a string in quotes, or an array of them";
        let items: Vec<&Spanned<DeValue<'_>>> = match value.get_ref() {
            DeValue::Array(array) => array.iter().collect(),
            _ => vec![value],
        };
        if items.is_empty() {
            sink.error(Some(value.span()), format!("`{key}` is empty in {}", self.name), "name at least one");
        }
        let read = |item: &Spanned<DeValue<'_>>| match item.get_ref().as_str() {
            Some(text) => readable(key, parse(text), item.span(), sink),
            None => {
                wrong_type(key, item, expected, sink);
                None
            }
        };
        items.into_iter().filter_map(read).collect()
    }

    fn text<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        sink: &mut Sink<'_>,
        parse: impl FnOnce(&str) -> Result<T, Unreadable>,
    ) -> Option<At<T>> {
        let value = self.take(key)?;
        let Some(text) = value.get_ref().as_str() else {
            wrong_type(key, value, expected, sink);
            return None;
        };
        readable(key, parse(text), value.span(), sink)
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, key: &'static str, sink: &mut Sink<'_>) -> Option<bool> {
        let value = self.take(key)?;
        let read = value.get_ref().as_bool();
        if read.is_none() {
            wrong_type(key, value, "true or false", sink);
        }
        read
    }

    /// A whole number within `range`.
    pub fn integer(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u32>,
        sink: &mut Sink<'_>,
    ) -> Option<At<u32>> {
        let value = self.take(key)?;
        let Some(number) = integer(value.get_ref()) else {
            wrong_type(key, value, "a whole number", sink);
            return None;
        };
        match u32::try_from(number).ok().filter(|number| range.contains(number)) {
            Some(number) => Some(At::new(number, value.span())),
            None => {
                let help = format!("choose {} to {}", range.start(), range.end());
                sink.error(Some(value.span()), format!("`{key}` is {number}, out of range"), help);
                None
            }
        }
    }

    /// A duration within `range`.
    pub fn duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
        sink: &mut Sink<'_>,
    ) -> Option<At<Duration>> {
        let at =
            self.text(key, "a duration in quotes, as \"350s\", \"500ms\" or \"2m\"", sink, parse_duration)?;
        if range.contains(&at.value) {
            return Some(at);
        }
        let say = humantime::format_duration;
        let help = format!("choose {} to {}", say(*range.start()), say(*range.end()));
        sink.error(Some(at.span), format!("`{key}` is {}, out of range", say(at.value)), help);
        None
    }

    /// A share: a number or a string, with or without a percent sign.
    pub fn percent(&mut self, key: &'static str, sink: &mut Sink<'_>) -> Option<At<u32>> {
        let value = self.take(key)?;
        let text = match value.get_ref() {
            DeValue::String(text) => text.as_ref(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
            DeValue::Float(number) => number.as_str(),
            _ => {
                wrong_type(key, value, "a percentage, as 10, 12.5 or \"12.5%\"", sink);
                return None;
            }
        };
        readable(key, parse_percent(text), value.span(), sink)
    }

    /// An array; what is in it is for the caller.
    pub fn array(
        &mut self,
        key: &'static str,
        what: &str,
        sink: &mut Sink<'_>,
    ) -> Option<At<Vec<&'a Spanned<DeValue<'t>>>>> {
        let value = self.take(key)?;
        match value.get_ref().as_array() {
            Some(array) => Some(At::new(array.iter().collect(), value.span())),
            None => {
                wrong_type(key, value, what, sink);
                None
            }
        }
    }

    /// A table, inline or with a header.
    pub fn table(
        &mut self,
        key: &'static str,
        name: impl Into<String>,
        sink: &mut Sink<'_>,
    ) -> Option<Table<'a, 't>> {
        let value = self.take(key)?;
        let Some(table) = value.get_ref().as_table() else {
            wrong_type(key, value, "a table", sink);
            return None;
        };
        Some(Table::new(table, value.span(), name))
    }

    /// A table of tables that have names of their own.
    pub fn named_tables(
        &mut self,
        key: &'static str,
        sink: &mut Sink<'_>,
    ) -> Vec<(At<String>, Table<'a, 't>)> {
        let Some(table) = self.table(key, format!("[{key}]"), sink) else { return Vec::new() };
        let mut tables = Vec::new();
        for (name, item) in table.table.iter() {
            let at = At::new(name.get_ref().to_string(), name.span());
            match item.get_ref().as_table() {
                Some(inner) => {
                    let title = format!("[{key}.{}]", at.value);
                    tables.push((at, Table::new(inner, item.span(), title)));
                }
                None => wrong_type(&at.value, item, "a table", sink),
            }
        }
        tables
    }

    /// An array of tables.
    pub fn tables(&mut self, key: &'static str, sink: &mut Sink<'_>) -> Option<Vec<Table<'a, 't>>> {
        let value = self.take(key)?;
        let Some(array) = value.get_ref().as_array() else {
            wrong_type(key, value, "an array of tables: write its header in double brackets", sink);
            return None;
        };
        let mut tables = Vec::new();
        for item in array.iter() {
            match item.get_ref().as_table() {
                Some(table) => tables.push(Table::new(table, item.span(), format!("a {key}"))),
                None => wrong_type(key, item, "a table", sink),
            }
        }
        Some(tables)
    }
}

/// The value of a decimal, hexadecimal, octal or binary number.
pub(super) fn integer(value: &DeValue<'_>) -> Option<i128> {
    let number = value.as_integer()?;
    i128::from_str_radix(number.as_str(), number.radix()).ok()
}

/// Reports a value of the wrong type.
pub(super) fn wrong_type(key: &str, value: &Spanned<DeValue<'_>>, expected: &str, sink: &mut Sink<'_>) {
    let found = value.get_ref().type_str();
    sink.error(Some(value.span()), format!("`{key}` is of type {found}"), format!("write {expected}"));
}

/// Splits an [`Unreadable`] `what; way out` into message and help.
pub(super) fn readable<T>(
    key: &str,
    read: Result<T, Unreadable>,
    span: Span,
    sink: &mut Sink<'_>,
) -> Option<At<T>> {
    match read {
        Ok(value) => Some(At::new(value, span)),
        Err(Unreadable(text)) => {
            let (message, help) =
                text.split_once("; ").unwrap_or((&text, "see the README for the configuration"));
            sink.error(Some(span), format!("`{key}`: {message}"), help);
            None
        }
    }
}

/// Edit distance, for suggestions only.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
