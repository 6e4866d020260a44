//! The grammar as people read it: `zdd --help` lists the commands by what somebody wants to do.

use std::fmt::Write as _;

use clap::{Command, CommandFactory};

use super::args::Args;

/// Every command that is shown, by what it is for; within a group, in the order in which one comes to need them.
const GROUPS: [(&str, &[&str]); 6] = [
    ("Set up", &["check", "lint", "doctor", "agent", "decap", "completions"]),
    ("See what is", &["status", "top", "events"]),
    ("Ask why", &["explain", "who-moves", "trace", "log", "support-bundle"]),
    ("Move traffic", &["shift", "rollback", "drain", "undrain", "backend", "apply"]),
    ("Move it step by step, watched", &["rollout", "train", "gate"]),
    ("Take it away", &["detach"]),
];

/// The grammar of the command line.
pub fn grammar() -> Command {
    let command = Args::command();
    let mut listed = String::new();
    for (what, names) in GROUPS {
        // Writing to a String cannot fail.
        let _ = writeln!(listed, "{what}:");
        for name in names {
            let about = command.find_subcommand(name).and_then(Command::get_about);
            let _ = writeln!(listed, "  {name:<15} {}", about.map(ToString::to_string).unwrap_or_default());
        }
        listed.push('\n');
    }
    command.help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{listed}`zdd COMMAND --help` tells more, with examples.\n\nOptions:\n{{options}}{{after-help}}"
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_command_that_is_shown_is_in_one_group() {
        let command = Args::command();
        let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
        let shown: BTreeSet<&str> = shown.map(Command::get_name).collect();
        let grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        assert_eq!(grouped.iter().copied().collect::<BTreeSet<_>>(), shown);
        assert_eq!(grouped.len(), shown.len(), "one is listed twice");
        let help = grammar().render_help().to_string();
        assert!(help.contains("\n  shift           Change the versions' shares"), "{help}");
    }

    #[test]
    fn what_all_commands_have_stands_apart_from_what_is_their_own() {
        let mut grammar = grammar();
        grammar.build();
        let shift = grammar.find_subcommand_mut("shift").expect("it is there");
        let help = shift.render_help().to_string();
        let at = |text: &str| help.find(text).unwrap_or_else(|| panic!("no {text}: {help}"));
        assert!(at("--force") < at("Which agent:") && at("Which agent:") < at("--socket"), "{help}");
        assert!(at("Changing safely:") < at("--if-generation") && at("Examples:") > at("--reason"), "{help}");
    }

    /// An example that is none would be worse than none.
    #[test]
    fn every_example_is_a_command() {
        let grammar = grammar();
        let mut seen = 0;
        for command in grammar.get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let Some((_, examples)) = help.split_once("Examples:\n") else { continue };
            for line in examples.lines() {
                // What stands two blanks further to the right explains it; what is piped after it is another program's.
                let line = line.trim_start().split("  ").next().unwrap_or_default();
                let line = line.split(" | ").next().unwrap_or_default();
                let parsed = grammar.clone().try_get_matches_from(line.split_whitespace());
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
                seen += 1;
            }
        }
        assert!(seen > 20, "{seen} examples");
    }
}
