//! `zdd-bench-control`: see [`zdd_tests::control_bench`].

use std::process::ExitCode;

use clap::Parser;
use zdd_tests::control_bench;

fn main() -> ExitCode {
    match control_bench::run(&control_bench::Options::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("zdd-bench-control: {e:#}");
            ExitCode::FAILURE
        }
    }
}
