//! The bench's command line.

use std::path::PathBuf;

use clap::Parser;

/// Measures what a packet costs in the XDP program, beside floors measured in the same run
///
/// Needs root. Works in a network namespace of its own and leaves nothing behind. Ratios count; times depend on the machine
/// and on what else it does.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "zdd-bench", bin_name = "cargo xtask bench")]
pub struct Options {
    /// Fewer and shorter rounds: within a minute
    #[arg(long)]
    pub quick: bool,
    /// One JSON object on standard output; the table goes to standard error
    #[arg(long)]
    pub json: bool,
    /// Write a bar chart
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Measure this loaded XDP program too; its owner fills its maps (VIPs: 10.9.0.0 on, fd09::, port 80)
    #[arg(long, value_name = "pinned:PATH|id:N")]
    pub program: Option<String>,
    /// Compare with another revision of ours; exit status 1 if a case is more than 10 % slower
    #[arg(long, value_name = "REV")]
    pub base: Option<String>,
    /// Only cases whose name and flows contain all of these words; several such lists with commas between
    #[arg(long, value_name = "WORDS", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Rounds of each case instead of 41 (11 with --quick)
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Milliseconds of a program's turn instead of 5 (2 with --quick). Programs displace each other's memory from the caches: the longer
    /// the turns, the more it is as if each ran alone
    #[arg(long, value_name = "MS")]
    pub turn: Option<f64>,
    /// Measure turns from their first packet on. Else, in cases of 64k flows at the most for each of which something is kept, each flow's packet
    /// comes once before the turn, unmeasured
    #[arg(long)]
    pub cold: bool,
    /// Instead: frames on a wire, and TCP of real clients and servers, through zdd, the kernel and HAProxy; about 2.5 minutes
    #[arg(long, conflicts_with_all = ["svg", "program", "base", "only", "list"])]
    pub live: bool,
    /// Name the cases and end
    #[arg(long)]
    pub list: bool,
}

impl Options {
    /// Rounds of a case.
    pub(super) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 11 } else { 41 }).max(3)
    }

    /// How long one turn of one program should take, in nanoseconds.
    pub(super) fn turn_ns(&self) -> f64 {
        self.turn.unwrap_or(if self.quick { 2.0 } else { 5.0 }) * 1e6
    }

    /// Whether a case is asked for.
    pub(super) fn wants(&self, name: &str) -> bool {
        let has =
            |words: &String| words.split_whitespace().all(|word| name.split(' ').any(|part| part == word));
        self.only.is_empty() || self.only.iter().any(has)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_wanted_when_one_list_of_words_is_all_in_its_name() {
        let options = Options { only: vec!["v4 1".into(), "SYN new".into()], ..Options::default() };
        assert!(options.wants("v4 ACK settled l2 1") && options.wants("v6 SYN settled nat new"));
        assert!(!options.wants("v4 ACK settled l2 1M") && !options.wants("v6 SYN settled nat 64k"));
        assert!(Options::default().wants("anything"));
    }
}
