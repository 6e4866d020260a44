//! Writes the inputs that fuzzing begins with.
//!
//! `seeds DIRECTORY`

use std::path::Path;

fn main() -> std::io::Result<()> {
    let Some(directory) = std::env::args_os().nth(1) else {
        return Err(std::io::Error::other("usage: seeds DIRECTORY"));
    };
    let directory = Path::new(&directory);
    std::fs::create_dir_all(directory)?;
    let seeds = zdd_fuzz::seeds::all();
    for (name, bytes) in &seeds {
        std::fs::write(directory.join(name), bytes)?;
    }
    println!("{} seeds in {}", seeds.len(), directory.display());
    Ok(())
}
