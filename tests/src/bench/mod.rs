//! What a packet costs: programs run by BPF_PROG_TEST_RUN, each fed by a driver program, taking turns in one run.
//!
//! Absolute times of a shared machine mean little, so floors (`zdd-ebpf/src/bench/floors.rs`) are measured in turn with
//! ours, round by round, and ratios come first. A ratio is the median of the rounds' own ratios: whatever slows the machine
//! down for a while slows both.

mod base;
mod cases;
mod chart;
mod frame;
mod lab;
mod lines;
mod live;
mod measure;
mod memory;
mod namespace;
#[path = "../../../zdd-ebpf/build/object.rs"]
mod object;
mod options;
mod ours;
mod report;
mod rows;
mod targets;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

pub use cases::Case;
pub use lab::Size;
pub use lines::Lines;
pub use options::Options;
pub use rows::{Report, Row};

/// Bytes of the objects to be measured.
struct Objects {
    ours: Vec<u8>,
    programs: Vec<u8>,
    base: Option<Vec<u8>>,
}

/// Measures, prints, and says whether a comparison failed.
///
/// # Errors
/// When an object does not build or load, or a case does not take the path that it names.
pub fn run(options: &Options) -> Result<ExitCode> {
    if options.list {
        cases::all().iter().for_each(|case| println!("{} {}", case.name(), case.flows()));
        return Ok(ExitCode::SUCCESS);
    }
    if options.live {
        return live::run(options);
    }
    let report = measure(options)?;
    if options.json {
        eprint!("{}", report::table(&report));
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report::table(&report));
    }
    if let Some(path) = &options.svg {
        std::fs::write(path, chart::svg(&report)).with_context(|| path.display().to_string())?;
        eprintln!("chart: {}", path.display());
    }
    Ok(if report.slower.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Measures everything that the options ask for.
///
/// # Errors
/// See [`run`].
pub fn measure(options: &Options) -> Result<Report> {
    let objects = build(options)?;
    let other = options.program.as_deref().map(lab::find_program).transpose()?;
    let options = options.clone();
    // Namespaces belong to a thread; this one ends, and they with it.
    let thread = std::thread::Builder::new().name("bench".into()).spawn(move || {
        namespace::enter()?;
        rows::all(&objects, other.as_ref(), &options)
    })?;
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn build(options: &Options) -> Result<Objects> {
    let root = root();
    Ok(Objects {
        ours: binary("zdd")?,
        programs: binary("zdd-bench-programs")?,
        base: options.base.as_deref().map(|rev| base::object(&root, rev, &target_dir())).transpose()?,
    })
}

/// Builds one of this revision's objects.
fn binary(name: &str) -> Result<Vec<u8>> {
    let path = object::build(&root(), name, &target_dir())?;
    std::fs::read(&path).with_context(|| path.display().to_string())
}

/// The workspace's directory.
fn root() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.parent().map_or(own.clone(), std::path::Path::to_path_buf)
}

fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), PathBuf::from)
        .join("bench-bpf")
}
