//! The programs that are measured with and against.

use anyhow::{Result, bail};

use crate::rig;

/// Command, and the Debian package that brings it.
const TOOLS: [(&str, &str); 5] =
    [("iperf3", "iperf3"), ("wrk", "wrk"), ("nginx", "nginx"), ("haproxy", "haproxy"), ("nft", "nftables")];

fn is_there(command: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Servers are in sbin, which a user's path may lack.
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(command).is_file())
}

/// An error that names the way out where one is missing.
pub(super) fn look() -> Result<()> {
    let missing = TOOLS.iter().filter(|(command, _)| !is_there(command));
    let missing: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        let list = missing.join(" ");
        bail!("--live needs {list}: run scripts/setup.sh --bench, or apt-get install {list}");
    }
    if rig::built("zdd").is_none() {
        bail!(
            "there is no zdd beside this binary: cargo xtask bench --live builds it, or build zdd-agent in the same profile"
        );
    }
    Ok(())
}
