//! `zdd-bench`: see [`zdd_tests::bench`].

use std::process::ExitCode;

use clap::Parser;
use zdd_tests::bench;

fn main() -> ExitCode {
    match bench::run(&bench::Options::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("zdd-bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}
