//! Database steps, with a real PostgreSQL: what the old version needs is there until nobody of it is left.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use zdd_tests::rig::{Error, Result, wait_for};
use zdd_tests::world::{LOOK_EVERY, PATIENCE, as_before, unharmed};

use crate::{analyses, asked, lines, wait_rollout, with};

/// A PostgreSQL of its own: one user, a unix socket, no port. Gone when dropped.
struct Postgres {
    dir: PathBuf,
    bin: PathBuf,
    server: std::process::Child,
}

impl Postgres {
    fn start() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("zdd-{}-postgres", std::process::id()));
        let made = || {
            std::fs::create_dir(&dir)?;
            std::os::unix::fs::chown(&dir, Some(65_534), Some(65_534))?;
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755))
        };
        made().map_err(Error::io(format!("make {}", dir.display())))?;
        let bin = installed();
        let data = dir.join("data");
        // It refuses to run as root; nobody owns nothing else.
        let as_nobody = |program: &str| {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(bin.join(program));
            command.current_dir(&dir).arg("-D").arg(&data);
            command
        };
        let made = as_nobody("initdb").args(["-A", "trust", "-U", "zdd", "--no-sync"]).output();
        let made = made.map_err(Error::io("run initdb".to_owned()))?;
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let log = std::fs::File::create(dir.join("log")).map_err(Error::io("make a log".to_owned()))?;
        let server = as_nobody("postgres")
            .arg("-k")
            .arg(&dir)
            .args(["-F", "-c", "listen_addresses="])
            .stderr(log)
            .spawn()
            .map_err(Error::io("run postgres".to_owned()))?;
        let postgres = Self { dir, bin, server };
        wait_for("PostgreSQL to answer", PATIENCE, LOOK_EVERY, || {
            Ok(postgres.run("SELECT 1").status.success().then_some(()))
        })?;
        Ok(postgres)
    }

    /// What a hook runs for one statement.
    fn argv(&self, statement: &str) -> Vec<String> {
        let psql = self.bin.join("psql").display().to_string();
        let dir = self.dir.display().to_string();
        let words =
            [&psql, "-h", &dir, "-U", "zdd", "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-Atc", statement];
        words.map(str::to_owned).to_vec()
    }

    fn run(&self, statement: &str) -> Output {
        let argv = self.argv(statement);
        Command::new(&argv[0]).args(&argv[1..]).output().expect("psql runs")
    }

    fn columns(&self) -> String {
        let said = self.run(
            "SELECT string_agg(column_name, ' ' ORDER BY column_name) FROM information_schema.columns WHERE table_name = 'users'",
        );
        String::from_utf8_lossy(&said.stdout).trim().to_owned()
    }

    fn hook(&self, on: &str, statement: &str) -> String {
        let argv: Vec<String> = self.argv(statement).iter().map(|word| format!("{word:?}")).collect();
        format!("[[service.rollout.hook]]\non = \"{on}\"\nexec = [{}]\nretries = 1\n", argv.join(", "))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

/// Where Debian keeps the newest PostgreSQL's programs: they are not on the path.
fn installed() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    found.retain(|bin: &PathBuf| Path::new(&bin.join("postgres")).exists());
    found.sort();
    found.pop().expect("no PostgreSQL is installed: run scripts/setup.sh --tests")
}

#[test]
fn the_column_of_the_old_version_stays_while_one_of_its_sessions_lives() -> Result<()> {
    let postgres = Postgres::start()?;
    let made = postgres.run("CREATE TABLE users (id int PRIMARY KEY, name text)");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = format!(
        "[service.rollout]\nstrategy = \"blue-green\"\nauto_promote = true\nreversible = false\nsoak = \"500ms\"\n{}{}{}",
        analyses(),
        postgres.hook("expand", "ALTER TABLE users ADD COLUMN IF NOT EXISTS full_name text"),
        postgres.hook("contract", "ALTER TABLE users DROP COLUMN IF EXISTS name"),
    );
    let (mut world, _page) = with(text)?;
    assert_eq!(postgres.columns(), "id name");
    let load = world.load(1)?;
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    let drains =
        |r: &serde_json::Value| r["waits_for"][0].as_str().is_some_and(|w| w.contains("v1 to be drained"));
    wait_rollout(&world, "the drain", drains)?;
    assert_eq!(asked(&world, "v2")?, 1.0);
    assert_eq!(postgres.columns(), "full_name id name", "expand came before the traffic");
    // For longer than a session may be silent, and over a kill: one that speaks holds it.
    world.kill_agent();
    world.start_agent()?;
    let since = wait_rollout(&world, "the drain to go on", drains)?["watched_ms"].as_u64();
    let idle = u64::from(world.setup.idle_ms);
    let report = wait_rollout(&world, "more than the idle timeout to pass", |r| {
        r["watched_ms"].as_u64() > since.map(|since| since + 2 * idle)
    })?;
    assert!(drains(&report), "{report:#}");
    assert_eq!(postgres.columns(), "full_name id name", "one old session lives");
    as_before(&load)?;
    unharmed(&load.finish());
    let report = wait_rollout(&world, "the end", |r| r["phase"] == "promoted")?;
    assert_eq!(postgres.columns(), "full_name id", "{report:#}");
    assert!(lines(&report).iter().any(|line| line.contains("promoted")), "{report:#}");
    // There is no way back by itself any more, and with a reason there is.
    world.refused(&["rollout", "undo", "web"])?.says(1, &["has called contract", "--break-glass"]);
    world.zdd().run(&[
        "rollout",
        "undo",
        "web",
        "--break-glass",
        "--reason",
        "the column is back from the backup",
    ])?;
    assert_eq!(asked(&world, "v1")?, 1.0);
    Ok(())
}
