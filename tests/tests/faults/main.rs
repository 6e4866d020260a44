//! A candidate that is broken in one of many ways, with real servers behind a running agent: each ends in the rollback or the freeze that
//! was configured, within three looks, and nobody but the candidate's own share of clients notices. Needs root, PostgreSQL, redis-server, and
//! Flask in `.tools/python` (`scripts/setup.sh --tests`).
//!
//! `ZDD_FAULTS=all cargo test -p zdd-tests --test faults` takes every fault with both policies under both ways of replies; without it each
//! fault comes once or twice.

mod candidate;
mod clients;
mod scene;
mod shared;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use zdd_tests::rig::{Forward, Result};

/// What is wrong with the candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    /// Nobody listens.
    Refuses,
    /// 5 % of its connections are reset after the handshake.
    Resets,
    /// Its first byte comes 50 ms later.
    Slow,
    /// It accepts, and never answers.
    Mute,
    /// Its health page begins to say that its database is down, with status 200.
    HealthPage,
    /// Its processes are killed in the middle of the canary.
    Dies,
    /// Its PostgreSQL dies in the middle of the canary.
    Database,
}

/// What the plan says is to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Rollback,
    Freeze,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    broken: Broken,
    forward: Forward,
    policy: Policy,
}

use Broken::{Database, Dies, HealthPage, Mute, Refuses, Resets, Slow};
use Forward::{L2, Nat};
use Policy::{Freeze, Rollback};

/// Every fault, both policies and both ways of replies; not their product.
const SOME: [Row; 11] = {
    const fn row(broken: Broken, forward: Forward, policy: Policy) -> Row {
        Row { broken, forward, policy }
    }
    [
        row(Resets, Nat, Rollback),
        row(Resets, L2, Freeze),
        row(Slow, Nat, Freeze),
        row(Slow, L2, Rollback),
        row(Mute, Nat, Rollback),
        row(Mute, L2, Freeze),
        row(Refuses, Nat, Freeze),
        row(Refuses, L2, Rollback),
        row(HealthPage, Nat, Rollback),
        row(Dies, Nat, Rollback),
        row(Database, Nat, Freeze),
    ]
};

fn rows() -> Vec<Row> {
    if std::env::var("ZDD_FAULTS").as_deref() != Ok("all") {
        return SOME.to_vec();
    }
    let mut all = Vec::new();
    for broken in [Refuses, Resets, Slow, Mute, HealthPage, Dies, Database] {
        for forward in [Nat, L2] {
            all.extend([Rollback, Freeze].map(|policy| Row { broken, forward, policy }));
        }
    }
    all
}

/// Worlds at a time: each mostly waits for its next look.
const AT_ONCE: usize = 2;

#[test]
fn a_broken_candidate_ends_as_configured_and_only_its_own_clients_notice() -> Result<()> {
    let rows = rows();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let ended = std::panic::catch_unwind(|| scene::plays(*row));
                    let why = match ended {
                        Ok(Ok(())) => continue,
                        Ok(Err(error)) => error.to_string(),
                        Err(_) => "it panicked, see above".to_owned(),
                    };
                    failed.lock().expect("no holder panics").push(format!("{row:?}: {why}"));
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no holder panics");
    assert!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), rows.len(), failed.join("\n"));
    Ok(())
}
