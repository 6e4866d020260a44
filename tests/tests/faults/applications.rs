//! The application and what it needs: Flask, a Redis and a PostgreSQL, all real, each gone with its owner. They talk to their
//! databases by unix sockets, which no network namespace keeps apart.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use zdd_tests::rig::{Error, Proc, Result, backend_address, run, v4, wait_for};
use zdd_tests::world::{LOOK_EVERY, World};

/// Python and PostgreSQL take their time to begin on a busy machine.
const LONG: Duration = Duration::from_secs(90);
/// Where the application answers.
pub const PORT: u16 = 8082;

/// A Redis on a unix socket; it keeps nothing.
pub fn redis(world: &World) -> Result<(Proc, PathBuf)> {
    let socket = world.rig.scratch().path("redis.sock");
    let mut command = Command::new("redis-server");
    command
        .args(["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no", "--unixsocket"])
        .arg(&socket);
    command.arg("--dir").arg(world.rig.scratch().dir());
    let mut proc = Proc::start_logged(command, &world.rig.scratch().path("redis.log"))?;
    wait_for("Redis to listen", LONG, LOOK_EVERY, || {
        proc.must_run()?;
        Ok(std::os::unix::net::UnixStream::connect(&socket).is_ok().then_some(()))
    })?;
    Ok((proc, socket))
}

/// A PostgreSQL of its own on a unix socket, with one user.
pub struct Postgres {
    server: Option<Proc>,
    dir: PathBuf,
}

impl Postgres {
    pub fn start() -> Result<Postgres> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // A directory of its own: the rig's may be closed to others, and PostgreSQL refuses to run as root.
        let dir = std::env::temp_dir().join(format!("zdd-{}-pg-{number}", std::process::id()));
        let made = || {
            std::fs::create_dir(&dir)?;
            std::os::unix::fs::chown(&dir, Some(65_534), Some(65_534))?;
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755))
        };
        made().map_err(Error::io(format!("make {}", dir.display())))?;
        let mut postgres = Postgres { server: None, dir };
        let data = postgres.dir.join("data");
        let mut initdb = postgres.program("initdb");
        initdb.arg("-D").arg(&data).args(["-A", "trust", "-U", "zdd", "--no-sync"]);
        run(initdb)?;
        let mut server = postgres.program("postgres");
        server.arg("-D").arg(&data).arg("-k").arg(&postgres.dir).args(["-F", "-c", "listen_addresses="]);
        let mut server = Proc::start_logged(server, &postgres.dir.join("log"))?;
        let socket = postgres.socket();
        wait_for("PostgreSQL to listen", LONG, LOOK_EVERY, || {
            server.must_run()?;
            Ok(std::os::unix::net::UnixStream::connect(&socket).is_ok().then_some(()))
        })?;
        postgres.server = Some(server);
        Ok(postgres)
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join(".s.PGSQL.5432")
    }

    /// The machine it runs on is gone: SIGKILL. Its children notice and follow.
    pub fn dies(&mut self) {
        if let Some(server) = self.server.take() {
            server.kill();
        }
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(installed().join(name));
        command.current_dir(&self.dir);
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.dies();
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

/// Where Debian keeps the newest PostgreSQL's programs: they are not on the path.
fn installed() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    found.retain(|bin| bin.join("postgres").exists());
    found.sort();
    found.pop().expect("no PostgreSQL is installed: run scripts/setup.sh --tests")
}

/// The application on backend `i`.
pub fn flask(world: &World, i: u8, cache: &Path, database: Option<&Path>) -> Result<Proc> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = tests.join("../.tools/python/bin/python");
    assert!(python.exists(), "Flask is not installed: run scripts/setup.sh --tests");
    let mut command = Command::new(python);
    command.arg(tests.join("tests/faults/app.py")).arg(PORT.to_string()).arg(cache);
    command.arg(database.unwrap_or(Path::new("-"))).arg(if i > 2 {
        broken(world)
    } else {
        PathBuf::from("/nonexistent")
    });
    let log = world.rig.scratch().path(&format!("app-{i}.log"));
    world.rig.ns(&format!("b{i}")).spawn_logged(command, &log)
}

/// While this file is there, the applications say that they are ill. Those of v1 are given another one.
pub fn broken(world: &World) -> PathBuf {
    world.rig.scratch().path("broken")
}

/// Waits until the application on backend `i` answers.
pub fn answers(world: &World, proc: &mut Proc, i: u8) -> Result<()> {
    let address = v4(backend_address(i), PORT);
    wait_for(&format!("the application on b{i} to listen"), LONG, LOOK_EVERY, || {
        proc.must_run()?;
        let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1));
        Ok(world.rig.in_ns(&format!("b{i}"), connect)?.is_ok().then_some(()))
    })
}
