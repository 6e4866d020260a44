//! Developer commands. They start the project's binaries and import none of its crates.

mod bench_control;
mod demo;
mod model_check;
mod sim;
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
    /// Measure the control path: planning, publishing, sweeping, starting, probing, and memory (needs root)
    BenchControl(bench_control::Arguments),
    /// Check the steering rules over small worlds, state by state, and show each rule to be needed
    ModelCheck(model_check::Arguments),
    /// Simulate whole balancers under change: what breaks with zdd, a hash alone, and an LRU table
    Sim(sim::Arguments),
    /// Run the kernel tests on other kernels, in virtual machines
    Vm(vm::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::BenchControl(arguments) => bench_control::run(&arguments),
        Command::ModelCheck(arguments) => model_check::run(&arguments),
        Command::Sim(arguments) => sim::run(&arguments),
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
