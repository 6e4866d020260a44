//! `zdd-demo`: see [`zdd_tests::demo`].

use std::process::ExitCode;

use clap::Parser;
use zdd_tests::demo;

fn main() -> ExitCode {
    match demo::run(&demo::Options::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("zdd-demo: {e:#}");
            ExitCode::FAILURE
        }
    }
}
