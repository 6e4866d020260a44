//! One boot, from the first line of its console to the last.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::packages::Emulator;

/// What the console said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub tests_passed: u32,
    pub tests_failed: u32,
    /// What was said for whoever reads it: verified instructions for each program, and what the kernel takes or refuses.
    pub told: Vec<String>,
    /// The test binary ended by itself.
    pub ended: bool,
}

/// What a machine is given: its kernel and file system, further words for the kernel, and MiB of memory.
pub struct Boot<'a> {
    pub image: &'a Path,
    pub initrd: &'a Path,
    pub words: &'a str,
    pub memory: u32,
}

/// Boots, writes the console to `log`, and reads the result there. Ends the machine after `patience`.
pub fn run(emulator: &Emulator, boot: &Boot<'_>, log: &Path, patience: Duration) -> Result<Outcome> {
    let console = File::create(log).with_context(|| format!("write {}", log.display()))?;
    let mut command = Command::new(&emulator.program);
    let libraries = std::env::join_paths(&emulator.libraries)?;
    if !libraries.is_empty() {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    for firmware in &emulator.firmware {
        command.arg("-L").arg(firmware);
    }
    command
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-m", &boot.memory.to_string(), "-smp", "2"])
        .args(["-nodefaults", "-no-user-config", "-nographic", "-serial", "stdio", "-no-reboot"])
        .arg("-kernel")
        .arg(boot.image)
        .arg("-initrd")
        .arg(boot.initrd)
        .args(["-append", &format!("console=ttyS0 quiet panic=-1 mitigations=off {}", boot.words)])
        .stdin(Stdio::null())
        .stdout(console.try_clone()?)
        .stderr(console);
    let mut machine =
        command.spawn().with_context(|| format!("cannot start {}", emulator.program.display()))?;
    let begun = Instant::now();
    while machine.try_wait()?.is_none() {
        if begun.elapsed() > patience {
            machine.kill()?;
            machine.wait()?;
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(read(&String::from_utf8_lossy(&std::fs::read(log)?)))
}

fn read(console: &str) -> Outcome {
    let mut outcome = Outcome::default();
    for line in console.lines().map(str::trim) {
        // `test result: ok. 31 passed; 0 failed; ...`
        if let Some(result) = line.strip_prefix("test result: ") {
            let count = |what: &str| {
                let mut words =
                    result.split([' ', ';', '.']).filter(|word| !word.is_empty()).collect::<Vec<_>>();
                words.reverse();
                let at = words.iter().position(|word| *word == what)?;
                words.get(at + 1)?.parse::<u32>().ok()
            };
            outcome.tests_passed += count("passed").unwrap_or(0);
            outcome.tests_failed += count("failed").unwrap_or(0);
        }
        // The first one of a test comes behind its name.
        let said = line.split_once(" ... ").map_or(line, |(_, said)| said);
        let is_told = ["verified instructions", ": takes ", ": refuses ", "rows of the backend's program"]
            .iter()
            .any(|what| said.contains(what));
        if is_told || ["doctor: ", "agent: "].iter().any(|what| said.starts_with(what)) {
            outcome.told.push(said.to_owned());
        }
        outcome.ended |= line.starts_with("zdd-vm-end ");
    }
    outcome
}

/// The first things that went wrong.
pub fn failures(log: &Path) -> Result<String> {
    let console = String::from_utf8_lossy(&std::fs::read(log)?).into_owned();
    let wrong =
        |line: &&str| line.contains("panicked at") || line.contains("FAILED") || line.contains("error");
    Ok(console.lines().filter(wrong).take(10).collect::<Vec<_>>().join("\n  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_is_read() {
        let console = "x\r\ntest a::b ... one: verified instructions: 7 of 9; y\r\ntwo: verified instructions: 8\r\ntest result: FAILED. 31 passed; 2 failed; 0 ignored\r\n";
        let cut = read(console);
        assert_eq!((cut.tests_passed, cut.tests_failed, cut.ended), (31, 2, false));
        assert_eq!(cut.told, ["one: verified instructions: 7 of 9; y", "two: verified instructions: 8"]);
        assert!(read(&format!("{console}zdd-vm-end 101\r\n")).ended);
    }
}
