//! Developer commands. They start the project's binaries and import none of its crates.

mod demo;
mod failures;
mod frames;
mod fuzz;
mod image;
mod package;
mod program;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer commands of zdd
#[derive(Debug, Parser)]
#[command(name = "xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build everything in release mode and play the demo (needs root)
    Demo(demo::Arguments),
    /// Measure what a packet costs, beside floors measured in the same run (needs root)
    Bench(program::Arguments),
    /// Measure the control path: planning, publishing, sweeping, starting, probing, and memory (needs root)
    BenchControl(program::Arguments),
    /// Check the steering rules over small worlds, state by state, and show each rule to be needed
    ModelCheck(program::Arguments),
    /// Simulate whole balancers under change: what breaks with zdd, a hash alone, and an LRU table
    Sim(program::Arguments),
    /// Search for packets that break something, guided by coverage
    Fuzz(fuzz::Arguments),
    /// Send random frames through the program in the kernel and through the host's model, and compare everything (needs root)
    Frames(frames::Arguments),
    /// Build the binary, manual pages, completions and a Debian package
    Package(package::Arguments),
    /// Build a container image of one static binary, and run it as the DaemonSet would
    Image(image::Arguments),
    /// Tell in few lines what failed, from the logs of a test run
    Failures(failures::Arguments),
    /// Run the kernel tests on other kernels, or the package under systemd, in virtual machines
    Vm(vm::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Bench(arguments) => {
            let needs: &[&str] = if arguments.has("--live") { &["zdd-agent"] } else { &[] };
            program::become_it("zdd-bench", needs, &arguments)
        }
        Command::BenchControl(arguments) => {
            program::become_it("zdd-bench-control", &["zdd-agent"], &arguments)
        }
        Command::ModelCheck(arguments) => program::become_it("zdd-model-check", &[], &arguments),
        Command::Sim(arguments) => program::become_it("zdd-sim", &[], &arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Frames(arguments) => frames::run(&arguments),
        Command::Package(arguments) => package::run(&arguments),
        Command::Image(arguments) => image::run(&arguments),
        Command::Failures(arguments) => failures::run(&arguments),
        Command::Vm(arguments) => vm::run(&arguments),
    };
    match result {
        Ok(code) => code,
        Err(e) => {
            eprintln!("xtask: {e:#}");
            ExitCode::FAILURE
        }
    }
}
