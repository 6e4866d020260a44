//! Real servers on the backend, HAProxy before them, and the wait until a client gets its answer.

use std::process::Command;

use anyhow::Result;

use super::config;
use super::scene::{BULK_PORT, LOOK_EVERY, PATIENCE, WEB_PORT, Way};
use crate::rig::{Error, Proc, Rig, v4, wait_for};

/// nginx and iperf3 on the backend.
pub(super) fn start(rig: &Rig) -> Result<Vec<Proc>> {
    let dir = rig.scratch().path("nginx");
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("nginx.conf"), config::nginx(&dir))?;
    let mut nginx = Command::new("nginx");
    // The default error log is opened before the configuration is read.
    nginx.arg("-e").arg(dir.join("error.log")).arg("-p").arg(&dir).arg("-c").arg(dir.join("nginx.conf"));
    let nginx = rig.ns("b1").spawn_logged(nginx, &dir.join("log"))?;
    let mut iperf3 = Command::new("iperf3");
    iperf3.args(["-s", "-p", &BULK_PORT.to_string()]);
    let iperf3 = rig.ns("b1").spawn_logged(iperf3, &rig.scratch().path("iperf3.log"))?;
    Ok(vec![nginx, iperf3])
}

/// HAProxy on the balancer's host.
pub(super) fn haproxy(rig: &Rig) -> Result<Proc> {
    let file = rig.scratch().path("haproxy.cfg");
    std::fs::write(&file, config::haproxy())?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&file);
    Ok(rig.ns("lb").spawn_logged(command, &rig.scratch().path("haproxy.log"))?)
}

/// Until both servers take a connection of the client's.
pub(super) fn wait(rig: &Rig, way: Way) -> Result<()> {
    for port in [WEB_PORT, BULK_PORT] {
        let address = v4(way.dialled(), port);
        wait_for(&format!("{address} to answer a client"), PATIENCE, LOOK_EVERY, || {
            let connect =
                || std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_secs(1)).is_ok();
            Ok::<_, Error>(rig.in_ns("c", connect)?.then_some(()))
        })?;
    }
    Ok(())
}
