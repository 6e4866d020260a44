//! `cargo xtask frames`: the test "model == kernel" on as many random frames as one likes, in batches with a seed each.
//!
//! A batch begins with empty tables and a world of its own, and can be repeated by its seed alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::vm::{build, target_dir};

/// Compares kernel and model on random frames. Exit status 1: they differ; the output says on which frame.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Frames, all batches together
    #[arg(long, default_value_t = 1_000_000)]
    frames: u64,
    /// Seed of the first batch; the next one has the next number
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Frames of a batch
    #[arg(long, default_value_t = 250_000, value_parser = clap::value_parser!(u64).range(1..))]
    batch: u64,
    /// No batch begins after so many minutes; the last line tells how far it came
    #[arg(long)]
    minutes: Option<u64>,
    /// Use the debug build, which may be there already: about half as quick
    #[arg(long)]
    debug: bool,
}

/// # Errors
/// When the test cannot be built or started, or its output is not what this reads.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    // A copy of its own: hours may pass, and a build meanwhile must not change what runs.
    let test = target_dir().join("frames-test");
    std::fs::copy(build(!arguments.debug)?, &test).with_context(|| format!("write {}", test.display()))?;
    let begun = Instant::now();
    let patience = arguments.minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let (mut done, mut batches) = (0, 0);
    let mut reasons = BTreeMap::<String, u64>::new();
    while done < arguments.frames && patience.is_none_or(|patience| begun.elapsed() < patience) {
        let (seed, frames) = (arguments.seed + batches, arguments.batch.min(arguments.frames - done));
        let (good, said) = batch(&test, seed, frames)?;
        if !good {
            println!("{said}");
            println!(
                "kernel and model differ: `cargo xtask frames --seed {seed} --frames {frames} --batch {frames}` repeats it"
            );
            println!("{batches} passed, 1 failed");
            return Ok(ExitCode::FAILURE);
        }
        let (ran, by_reason) = read(&said);
        ensure!(ran == frames, "the test says that it ran {ran} frames of {frames}:\n{said}");
        for (reason, count) in by_reason {
            *reasons.entry(reason).or_default() += count;
        }
        done += frames;
        batches += 1;
        let (rate, left) = pace(done, arguments.frames - done, begun.elapsed());
        println!(
            "{done} of {} frames agree, seeds {} to {seed}, {rate:.0}/s, {} min left",
            arguments.frames,
            arguments.seed,
            left.as_secs().div_ceil(60)
        );
    }
    for (reason, count) in reasons.iter().filter(|(name, _)| !name.contains('@')) {
        println!("{reason:>24} {count}");
    }
    print!("{}", table(&reasons));
    let minutes = begun.elapsed().as_secs_f32() / 60.0;
    println!(
        "{done} frames agreed in verdict, bytes and tables, in {minutes:.1} min, of {} asked for",
        arguments.frames
    );
    println!("{batches} passed, 0 failed");
    Ok(if batches > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs one batch: whether it held, and what the test said.
fn batch(test: &Path, seed: u64, frames: u64) -> Result<(bool, String)> {
    let out = Command::new(test)
        .args(["--exact", "model::kernel_and_model_agree_on_random_frames", "--nocapture"])
        .env("ZDD_FRAMES", frames.to_string())
        .env("ZDD_SEED", seed.to_string())
        .output()
        .with_context(|| format!("cannot start {}", test.display()))?;
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    Ok((out.status.success(), said))
}

/// Frames that a batch says it ran, and by reason: `20000 frames, seed 1, 4.0 s; ...`, then lines of a name and a number.
fn read(said: &str) -> (u64, Vec<(String, u64)>) {
    let mut frames = 0;
    let mut reasons = vec![];
    for line in said.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Some(at) = words.iter().position(|word| *word == "frames,")
            && at > 0
        {
            frames = words[at - 1].parse().unwrap_or(0);
        } else if let [name, count] = words[..]
            && let Ok(count) = count.parse()
        {
            reasons.push((name.to_owned(), count));
        }
    }
    (frames, reasons)
}

/// Those that reached a backend or came from one, `reason@way`: a line for each way (mode, family, protocol), a column for each reason.
fn table(reasons: &BTreeMap<String, u64>) -> String {
    let cells: Vec<(&str, &str, u64)> = reasons
        .iter()
        .filter_map(|(name, count)| name.split_once('@').map(|(reason, way)| (reason, way, *count)))
        .collect();
    let columns: BTreeSet<&str> = cells.iter().map(|(reason, ..)| *reason).collect();
    let rows: BTreeSet<&str> = cells.iter().map(|(_, way, _)| *way).collect();
    let mut text = format!("{:>12}", "");
    columns.iter().for_each(|reason| text += &format!(" {reason:>10}"));
    text.push('\n');
    for row in rows {
        text += &format!("{row:>12}");
        for column in &columns {
            let count = cells.iter().find(|(reason, way, _)| (reason, way) == (column, &row));
            let width = column.len().max(10);
            text += &format!(" {:>width$}", count.map_or(0, |(.., count)| *count));
        }
        text.push('\n');
    }
    text
}

/// Frames per second so far, and how long the rest takes at that rate.
fn pace(done: u64, rest: u64, spent: Duration) -> (f64, Duration) {
    let rate = done as f64 / spent.as_secs_f64().max(1e-3);
    (rate, Duration::from_secs_f64(rest as f64 / rate.max(1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_read() {
        let said = "running 1 test\ntest x ... 20000 frames, seed 1, 4.0 s; the clock stepped during 104, 0 of them read both times\n             settled 17\n       syn_retransmitted 3\ntest result: ok. 1 passed\n";
        let (frames, reasons) = read(said);
        assert_eq!(frames, 20_000);
        assert_eq!(reasons, [("settled".to_owned(), 17), ("syn_retransmitted".to_owned(), 3)]);
        assert_eq!(read("panicked").0, 0);
    }

    #[test]
    fn what_reached_a_backend_is_told_by_its_way() {
        let reasons = [("settled@nat-v4-tcp", 7), ("icmp_error@l2-v6-udp", 3), ("settled", 9)];
        let said = table(&reasons.map(|(name, count)| (name.to_owned(), count)).into());
        let lines: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines,
            [vec!["icmp_error", "settled"], vec!["l2-v6-udp", "3", "0"], vec!["nat-v4-tcp", "0", "7"]]
        );
    }

    #[test]
    fn the_rest_takes_as_long_as_what_was_done() {
        let (rate, left) = pace(1000, 3000, Duration::from_secs(2));
        assert!((rate - 500.0).abs() < 1e-6);
        assert_eq!(left, Duration::from_secs(6));
    }
}
