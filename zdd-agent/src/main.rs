//! `zdd`: agent and command line.

fn main() -> std::process::ExitCode {
    zdd_agent::cli::main()
}
