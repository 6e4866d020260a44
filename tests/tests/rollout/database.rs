//! Database steps, with a real PostgreSQL: what the old version needs is there until nobody of it is left.

use zdd_tests::apps::Postgres;
use zdd_tests::rig::Result;
use zdd_tests::world::{Setup, World, as_before, unharmed};

use crate::page::Page;
use crate::{GOOD, analyses, asked, lines, wait_rollout};

fn columns(postgres: &Postgres) -> String {
    let said = postgres.run(
        "SELECT string_agg(column_name, ' ' ORDER BY column_name) FROM information_schema.columns WHERE table_name = 'users'",
    );
    String::from_utf8_lossy(&said.stdout).trim().to_owned()
}

fn hook(postgres: &Postgres, on: &str, statement: &str) -> String {
    let argv: Vec<String> = postgres.argv(statement).iter().map(|word| format!("{word:?}")).collect();
    format!("[[service.rollout.hook]]\non = \"{on}\"\nexec = [{}]\nretries = 1\n", argv.join(", "))
}

#[test]
fn the_column_of_the_old_version_stays_while_one_of_its_sessions_lives() -> Result<()> {
    let mut world = World::new(Setup::default())?;
    let postgres = Postgres::start(&world.rig, "postgres")?;
    let made = postgres.run("CREATE TABLE users (id int PRIMARY KEY, name text)");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = format!(
        "[service.rollout]\nstrategy = \"blue-green\"\nauto_promote = true\nreversible = false\nsoak = \"500ms\"\n{}{}{}",
        analyses(),
        hook(&postgres, "expand", "ALTER TABLE users ADD COLUMN IF NOT EXISTS full_name text"),
        hook(&postgres, "contract", "ALTER TABLE users DROP COLUMN IF EXISTS name"),
    );
    world.setup.rollout = Some(text);
    world.write_config()?;
    world.start_agent()?;
    world.wait_healthy()?;
    let _page = Page::start(&world.rig, GOOD)?;
    assert_eq!(columns(&postgres), "id name");
    let load = world.load(1)?;
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    let drains =
        |r: &serde_json::Value| r["waits_for"][0].as_str().is_some_and(|w| w.contains("v1 to be drained"));
    wait_rollout(&world, "the drain", drains)?;
    assert_eq!(asked(&world, "v2")?, 1.0);
    assert_eq!(columns(&postgres), "full_name id name", "expand came before the traffic");
    // For longer than a session may be silent, and over a kill: one that speaks holds it.
    world.kill_agent();
    world.start_agent()?;
    let since = wait_rollout(&world, "the drain to go on", drains)?["watched_ms"].as_u64();
    let idle = u64::from(world.setup.idle_ms);
    let report = wait_rollout(&world, "more than the idle timeout to pass", |r| {
        r["watched_ms"].as_u64() > since.map(|since| since + 2 * idle)
    })?;
    assert!(drains(&report), "{report:#}");
    assert_eq!(columns(&postgres), "full_name id name", "one old session lives");
    as_before(&load)?;
    unharmed(&load.finish());
    let report = wait_rollout(&world, "the end", |r| r["phase"] == "promoted")?;
    assert_eq!(columns(&postgres), "full_name id", "{report:#}");
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
