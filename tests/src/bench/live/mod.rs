//! `--live`: frames on a real wire, and real TCP through real servers, one balancer after the other, turn by turn.
//!
//! Every contender has namespaces of its own of the same shape: clients, the balancer, one backend, veth pairs between them. All
//! wires carry frames of the MTU (transmit offloads off, GRO on), as from a network card. Each interface's packets are received by
//! a kernel thread of its own (threaded NAPI), so that the CPU time of a balancer is that of its interfaces' threads and of its
//! processes, whatever else the machine does; see [`cpu`].

mod config;
mod cpu;
mod frames;
mod report;
mod rows;
mod scene;
mod servers;
mod tcp;
mod tools;

use std::process::ExitCode;

use anyhow::Result;

use super::{binary, options::Options};

/// Measures, prints.
pub(super) fn run(options: &Options) -> Result<ExitCode> {
    tools::look()?;
    let programs = binary("zdd-bench-programs")?;
    let say = |what: &str| eprint!("\r\x1b[K{what}");
    let mut scenes = scene::all(&say)?;
    let mut report = rows::Report::begin();
    frames::measure(&mut scenes, &programs, options, &mut report, &say)?;
    tcp::measure(&mut scenes, options, &mut report, &say)?;
    say("");
    drop(scenes);
    report.end();
    if options.json {
        eprint!("{}", report::table(&report));
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report::table(&report));
    }
    Ok(ExitCode::SUCCESS)
}
