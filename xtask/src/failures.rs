//! What failed, in few lines: each failed test with what it said and the end of its agent's log, out of the logs of the test run's stages.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

/// Lines for all failures together: what a terminal shows, and what is left of a log that somebody cuts.
const LINES: usize = 40;

/// Lines of a failure at the least.
const LEAST: usize = 4;

/// Lines of a log in which no test is named.
const TAIL: usize = 12;

/// Characters of a line. A status in JSON has thousands; where it begins and where it ends says most.
const WIDTH: usize = 600;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Stages and their logs, each as STAGE=FILE
    #[arg(required = true)]
    logs: Vec<String>,
}

/// Prints them.
///
/// # Errors
/// When a log cannot be read.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut all = Vec::new();
    for one in &arguments.logs {
        let (stage, file) = one.split_once('=').with_context(|| format!("{one} is not STAGE=FILE"))?;
        let file = PathBuf::from(file);
        let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let log = String::from_utf8_lossy(&bytes);
        let failed = failed(&log);
        if failed.is_empty() {
            let said = last(&log, TAIL);
            all.push(Failure { name: format!("{stage}, its log's end"), said, agent: Vec::new() });
        }
        all.extend(failed.into_iter().map(|f| Failure { name: format!("{stage}, {}", f.name), ..f }));
    }
    println!("{}", told(&all).join("\n"));
    Ok(ExitCode::SUCCESS)
}

/// A test that failed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Failure {
    /// Its program and name.
    name: String,
    /// Where it panicked and what was said then.
    said: Vec<String>,
    /// The end of its agent's log.
    agent: Vec<String>,
}

/// Lines without what tells nothing of a failure.
fn last(log: &str, most: usize) -> Vec<String> {
    let progress = ["Compiling", "Checking", "Downloaded", "Downloading", "Fresh", "Running", "Finished"];
    let tells = |line: &&str| {
        let line = line.trim();
        let passed = line.starts_with("test ") && line.ends_with(" ok");
        !line.is_empty() && !passed && !progress.iter().any(|word| line.starts_with(word))
    };
    let lines: Vec<String> = log.lines().filter(tells).map(str::to_owned).collect();
    lines[lines.len().saturating_sub(most)..].to_vec()
}

/// The program of cargo's line `Running tests/a.rs (target/debug/deps/a-0123456789abcdef)`.
fn program(line: &str) -> Option<&str> {
    let path = line.trim_start().strip_prefix("Running ")?.split_once(" (")?.1.strip_suffix(')')?;
    let name = path.rsplit('/').next()?;
    Some(name.rsplit_once('-').map_or(name, |(name, _)| name))
}

/// Which part of what a test printed a line belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// None that is shown.
    Other,
    /// A panic's place and message, or the error that it returned.
    Said,
    /// The end of an agent's log.
    Agent,
}

/// Every failed test of a log in the format of `cargo test`.
fn failed(log: &str) -> Vec<Failure> {
    let (mut all, mut of, mut inside, mut part): (Vec<Failure>, &str, bool, Part) =
        (Vec::new(), "", false, Part::Other);
    for line in log.lines() {
        if let Some(name) = program(line) {
            of = name;
        }
        if let Some(test) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            all.push(Failure { name: format!("{of}: {test}"), ..Failure::default() });
            (inside, part) = (true, Part::Other);
            continue;
        }
        // A program that was killed, or aborted, names no test.
        if line.contains("process didn't exit successfully") && line.contains("signal:") {
            all.push(Failure {
                name: of.to_owned(),
                said: vec![line.trim().to_owned()],
                ..Failure::default()
            });
        }
        if line == "failures:" || line.starts_with("test result: ") {
            inside = false;
        }
        let (true, Some(failure)) = (inside, all.last_mut()) else { continue };
        let panic = line.starts_with("thread '") && line.contains(" panicked at ");
        // An error that a test returned has been told by then.
        if line.contains("the test returned a termination value") {
            failure.said.pop();
            part = Part::Other;
        } else if panic || line.starts_with("Error: ") {
            part = Part::Said;
        } else if line == "the agent's log ends with:" {
            failure.agent.clear();
            part = Part::Agent;
            continue;
        } else if line.starts_with("note: run with `RUST_BACKTRACE") || line == "stack backtrace:" {
            part = Part::Other;
        }
        match part {
            Part::Said if !line.trim().is_empty() => failure.said.push(line.to_owned()),
            Part::Agent if !line.trim().is_empty() => failure.agent.push(line.to_owned()),
            _ => {}
        }
    }
    all
}

/// A line that is not too long: its beginning and its end.
fn cut(line: &str) -> String {
    let characters: Vec<char> = line.chars().collect();
    if characters.len() <= WIDTH {
        return line.to_owned();
    }
    let (begin, end) = (&characters[..WIDTH * 2 / 3], &characters[characters.len() - WIDTH / 3..]);
    begin.iter().chain(" [...] ".chars().collect::<Vec<_>>().iter()).chain(end).collect()
}

/// All of them within [`LINES`], as far as each has its least.
fn told(all: &[Failure]) -> Vec<String> {
    let each = (LINES / all.len().max(1)).max(LEAST);
    let shown = all.len().min(LINES / LEAST);
    let mut lines = Vec::new();
    for failure in &all[..shown] {
        lines.push(format!("FAILED {}", failure.name));
        // What it said comes first; the log has what is left.
        let said = failure.said.len().min(if failure.agent.is_empty() { each - 1 } else { each / 2 });
        lines.extend(failure.said[..said].iter().map(|line| format!("  {}", cut(line))));
        let left = (each - 1 - said).saturating_sub(1);
        let agent = &failure.agent[failure.agent.len().saturating_sub(left)..];
        if !agent.is_empty() {
            lines.push("  its agent, at last:".to_owned());
            lines.extend(agent.iter().map(|line| format!("    {}", cut(line))));
        }
    }
    if shown < all.len() {
        lines.push(format!("and {} more", all.len() - shown));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "     Running tests/rollout/main.rs (/t/debug/deps/rollout-1cd7cf753354bb5f)

running 3 tests
test good ... ok
test kills::bad ... FAILED
test worse ... FAILED

failures:

---- kills::bad stdout ----
noise of the test
the agent's log ends with:
2026-11-22T00:00:00Z INFO begun
2026-11-22T00:00:01Z WARN odd

thread 'kills::bad' (77) panicked at tests/tests/rollout/kills.rs:98:5:
assertion `left == right` failed: nobody goes back
  left: 3
 right: 0
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace

---- worse stdout ----
Error: waited 90000 ms for b3 to be gone
it was there

thread 'worse' (78) panicked at library/test/src/lib.rs:200:9:
the test returned a termination value with a non-zero status code (1) which indicates a failure


failures:
    kills::bad
    worse

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s
error: test failed, to rerun pass `-p zdd-tests --test rollout`
";

    #[test]
    fn a_failed_test_is_told_with_its_values_and_its_agents_last_lines() {
        assert_eq!(
            told(&failed(LOG)),
            [
                "FAILED rollout: kills::bad",
                "  thread 'kills::bad' (77) panicked at tests/tests/rollout/kills.rs:98:5:",
                "  assertion `left == right` failed: nobody goes back",
                "    left: 3",
                "   right: 0",
                "  its agent, at last:",
                "    2026-11-22T00:00:00Z INFO begun",
                "    2026-11-22T00:00:01Z WARN odd",
                "FAILED rollout: worse",
                "  Error: waited 90000 ms for b3 to be gone",
                "  it was there",
            ]
        );
    }

    #[test]
    fn a_backtrace_takes_no_line() {
        let log = "---- a stdout ----\nthread 'a' (1) panicked at a.rs:1:1:\nno\nstack backtrace:\n   0: one\n             at /rustc/x\n\nfailures:\n";
        assert_eq!(told(&failed(log)), ["FAILED : a", "  thread 'a' (1) panicked at a.rs:1:1:", "  no"]);
    }

    #[test]
    fn a_program_that_was_killed_is_named() {
        let log = "     Running tests/a.rs (/t/debug/deps/a-00)\nrunning 1 test\nCaused by:\n  process didn't exit successfully: `/t/a` (signal: 9, SIGKILL: kill)\n";
        assert_eq!(failed(log)[0].name, "a");
        assert!(failed(log)[0].said[0].contains("SIGKILL"));
    }

    #[test]
    fn many_failures_with_long_lines_stay_short() {
        let one = |n: usize| Failure {
            name: format!("t{n}"),
            said: vec!["x".repeat(9_000); 30],
            agent: vec!["y".to_owned(); 30],
        };
        for n in [1, 2, 5, 10, 200] {
            let lines = told(&(0..n).map(one).collect::<Vec<_>>());
            assert!(lines.len() <= LINES + 1, "{n}: {}", lines.len());
            assert!(lines.iter().all(|line| line.chars().count() < WIDTH + 20));
            assert_eq!(lines.iter().filter(|line| line.starts_with("FAILED")).count(), n.min(10));
        }
    }

    #[test]
    fn of_a_stage_without_tests_the_end_is_told() {
        let log = "   Compiling a v1\nerror: no such thing\n  --> a.rs:1\n\ntest b ... ok\n";
        assert_eq!(last(log, 12), ["error: no such thing", "  --> a.rs:1"]);
        assert_eq!(last(log, 1), ["  --> a.rs:1"]);
    }
}
