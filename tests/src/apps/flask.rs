//! The application and what it needs.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Postgres;
use crate::rig::{Proc, Result};
use crate::world::{HEALTH_PORT, World};

/// Databases that backends of one version share.
#[derive(Debug)]
pub struct Needs {
    /// What they cannot do without.
    pub postgres: Postgres,
    /// The other thing that they cannot do without. Dropping it is its death.
    pub redis: Proc,
    socket: PathBuf,
}

impl Needs {
    /// Starts both, for those who call them `name`.
    pub fn start(world: &World, name: &str) -> Result<Self> {
        let postgres = Postgres::start(&world.rig, &format!("postgres-{name}"))?;
        let socket = world.rig.scratch().path(&format!("redis-{name}.sock"));
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no"]);
        command.arg("--dir").arg(world.rig.scratch().dir()).arg("--unixsocket").arg(&socket);
        let log = world.rig.scratch().path(&format!("redis-{name}.log"));
        let redis = Proc::start_logged(command, &log)?;
        Ok(Self { postgres, redis, socket })
    }
}

/// One backend of it: a process of its own. Dropping it is SIGKILL.
#[derive(Debug)]
pub struct App {
    _proc: Proc,
}

impl App {
    /// On backend `i`, as `version`, in the place of the usual server and its health page. It may not answer yet.
    ///
    /// # Panics
    /// When Flask is not installed.
    pub fn start(world: &World, i: u8, version: &str, needs: &Needs) -> Result<Self> {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/python/bin/python");
        assert!(python.exists(), "{} is missing: run scripts/setup.sh --tests", python.display());
        let program = world.write("app.py", include_str!("app.py"))?;
        let mut command = Command::new(python);
        command.arg("-B").arg(program);
        command.args(["--version", version, "--backend", &format!("b{i}")]);
        command.args(["--port", &world.setup.backend_port().to_string()]);
        command.args(["--health-port", &HEALTH_PORT.to_string()]);
        command.arg("--postgres").arg(needs.postgres.dir()).arg("--redis").arg(&needs.socket);
        let log = world.rig.scratch().path(&format!("app-{i}.log"));
        Ok(Self { _proc: world.rig.ns(&format!("b{i}")).spawn_logged(command, &log)? })
    }
}
