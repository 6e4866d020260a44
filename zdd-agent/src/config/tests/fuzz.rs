//! Whatever the text is, the answer is a configuration or a list of mistakes, never a panic.

use proptest::prelude::*;

use super::*;

/// Text that gets far into the readers before it goes wrong.
const PIECES: [&str; 22] = [
    "\"",
    "'",
    "[",
    "]",
    "{",
    "}",
    "=",
    "\n",
    ",",
    "0",
    "-",
    "1e9",
    "0x",
    "nan",
    "true",
    "é",
    "\u{0}",
    "1979-05-27",
    "[[service]]",
    "weight = 1",
    "health = {}",
    "99999999999999999999",
];

proptest! {
    #[test]
    fn no_text_panics(edits in prop::collection::vec((0usize..600, 0usize..12, 0usize..PIECES.len()), 1..6)) {
        let mut text = BASE.to_owned() + SECOND;
        for (at, remove, piece) in edits {
            let begin = (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
            let end = (begin + remove).min(text.len());
            let end = (end..=text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
            text.replace_range(begin..end, PIECES[piece]);
        }
        if let Err(errors) = Config::parse(&text, "zdd.toml") {
            prop_assert!(!errors.errors.is_empty(), "refused without a reason: {text}");
            let lines = text.split('\n').count();
            prop_assert!(errors.errors.iter().all(|error| error.line <= lines), "{errors}");
        }
    }
}
