//! The way back: from every state, by one commit, also when the old version drains already.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aya::maps::MapData;
use zdd_agent::api::client::Client;
use zdd_agent::control::{RolloutAct, RolloutAsk};
use zdd_agent::rollout::report::RolloutReport;
use zdd_tests::bpf::Mapped;
use zdd_tests::rig::{Error, Result, wait_for};
use zdd_tests::world::{PATIENCE, Setup, World, as_before, unharmed};

use crate::page::Page;
use crate::{GOOD, WAITS, analyses, asked, canary, rollout, wait_rollout, wait_weight, with};

/// Everything is v1's again.
fn undone(world: &World) -> Result<()> {
    world.zdd().run(&["rollout", "undo", "web", "--reason", "no"])?;
    assert_eq!(asked(world, "v1")?, 1.0, "{:#}", rollout(world)?);
    Ok(())
}

#[test]
fn undo_is_one_commit_from_a_step_a_pause_and_a_gate() -> Result<()> {
    let setup = Setup { rollout: Some(canary("", WAITS)), ..Setup::default() };
    let world = World::running(setup)?;
    let _page = Page::start(&world.rig, GOOD)?;
    let load = world.load(10)?;
    for state in [&[][..], &["rollout", "pause", "web"], &["gate", "close", "web"]] {
        world.zdd().run(&["rollout", "start", "web", "v2"])?;
        wait_weight(&world, 0.1)?;
        if !state.is_empty() {
            world.zdd().run(state)?;
        }
        undone(&world)?;
        assert_eq!(rollout(&world)?["phase"], "rolled-back");
        world.zdd().run(&["gate", "open", "web"])?;
    }
    assert_eq!(world.commits("rollout undo web")?, [1; 3], "commits");
    as_before(&load)?;
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn an_old_version_that_drains_takes_everything_back_at_once() -> Result<()> {
    let text = format!("[service.rollout]\nstrategy = \"blue-green\"\nauto_promote = true\n{}", analyses());
    let (world, _page) = with(text)?;
    let load = world.load(10)?;
    let drains =
        |r: &serde_json::Value| r["waits_for"][0].as_str().is_some_and(|w| w.contains("v1 to be drained"));
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    wait_rollout(&world, "the drain", drains)?;
    undone(&world)?;
    assert_eq!(rollout(&world)?["phase"], "rolled-back");
    world.avoids(&load, &[3, 4])?;
    as_before(&load)?;
    unharmed(&load.finish());
    // With nobody left on v1 it ends, and v1 still drains.
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    wait_rollout(&world, "the end", |r| r["phase"] == "promoted")?;
    undone(&world)?;
    Ok(())
}

/// Whence the way back is taken.
#[derive(Clone, Copy, Debug)]
enum State {
    /// The first step.
    Step,
    /// The second.
    SecondStep,
    /// `zdd rollout pause`.
    Paused,
    /// `zdd gate close`.
    GateClosed,
    /// `zdd shift` by hand.
    Displaced,
    /// All steps taken, promoted.
    Promoted,
    /// An analysis has failed.
    Frozen,
    /// The old version drains.
    Draining,
}

/// A thread that sees commits as packets do: the first word of each service, in the map that the program reads.
pub(super) struct Commits {
    seen: Arc<Mutex<Vec<Instant>>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Commits {
    pub(super) fn of(world: &World) -> Commits {
        let services = MapData::from_pin(world.pin_dir().join("SERVICES")).expect("it is pinned");
        // 64 bytes each, and as many as the world's limits say.
        let words: Mapped<[u64; 8]> = Mapped::new(services.fd().as_fd(), 8).expect("mapped");
        let seen: Arc<Mutex<Vec<Instant>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (told, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            // SAFETY: within the mapping; an aligned word that others store whole.
            let read =
                || [0, 1, 2, 3, 4, 5, 6, 7].map(|id| unsafe { words.at(id).cast::<u64>().read_volatile() });
            let mut before = read();
            while !stopped.load(Ordering::Relaxed) {
                let now = read();
                if now != before {
                    told.lock().expect("no holder panics").push(Instant::now());
                    before = now;
                }
                std::thread::sleep(Duration::from_micros(20));
            }
        });
        Commits { seen, stop, thread: Some(thread) }
    }

    /// How long after `since` the first one was seen: some time after a change comes that of a cell that needs less. It may be seen late,
    /// because the thread does not always run.
    pub(super) fn after(&self, since: Instant) -> Duration {
        let first = wait_for("a commit", PATIENCE, Duration::from_millis(1), || {
            let seen = self.seen.lock().expect("no holder panics");
            Ok::<_, Error>(seen.iter().find(|at| **at > since).copied())
        });
        first.expect("what was answered is committed") - since
    }
}

impl Drop for Commits {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// An agent, and what it is asked on one connection, as programs do.
pub(super) struct Asked<'w> {
    world: &'w World,
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Asked<'_> {
    pub(super) fn of(world: &World) -> Asked<'_> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = runtime.block_on(Client::connect(world.zdd().socket())).expect("the agent answers");
        Asked { world, runtime, client }
    }

    pub(super) fn act(&mut self, act: RolloutAct) -> RolloutReport {
        let ask = RolloutAsk { act, revision: None, reason: String::new(), break_glass: false };
        self.runtime.block_on(self.client.rollout("web", ask)).expect("done")
    }

    /// Cells that have not settled.
    fn dirty(&mut self) -> u32 {
        let status = self.runtime.block_on(self.client.status()).expect("a status");
        status.services.iter().find(|service| service.name == "web").expect("it is there").dirty_cells
    }

    fn gate(&mut self, closed: bool) {
        self.world.zdd().run(&["gate", if closed { "close" } else { "open" }, "web"]).expect("done");
    }

    /// Brings a rollout of v2 there.
    fn reach(&mut self, state: State) -> Result<()> {
        let report = self.act(RolloutAct::Start { version: "v2".to_owned(), replace: Vec::new() });
        match state {
            State::Step => assert_eq!(report.weight, 0.1),
            State::SecondStep => assert_eq!(self.act(RolloutAct::Promote { full: false }).weight, 0.5),
            State::Paused => assert!(self.act(RolloutAct::Pause).paused.is_some()),
            State::GateClosed => self.gate(true),
            State::Displaced => {
                let weights = [("v2".to_owned(), 3_300)];
                self.runtime.block_on(self.client.shift("web", &weights, false)).expect("shifted");
            }
            State::Promoted => assert_eq!(self.act(RolloutAct::Promote { full: true }).phase, "promoted"),
            State::Frozen => drop(wait_rollout(self.world, "a freeze", |r| r["phase"] == "frozen")?),
            State::Draining => drop(wait_rollout(self.world, "the drain", |r| {
                r["waits_for"][0].as_str().is_some_and(|waits| waits.contains("v1 to be drained"))
            })?),
        }
        Ok(())
    }

    /// Undoes it: how long from the request to the commit that packets see, and to the answer. What was dirty stays so.
    fn undo(&mut self, state: State, commits: &Commits) -> (Duration, Duration) {
        let before = self.dirty();
        let since = Instant::now();
        let report = self.act(RolloutAct::Undo { to: None });
        let took = since.elapsed();
        let seen = commits.after(since);
        let after = self.dirty();
        assert!(after >= before && before > 0, "{state:?}: from {before} dirty cells to {after}");
        if !matches!(state, State::Promoted) {
            assert_eq!((report.weight, report.phase.as_str()), (0.0, "rolled-back"), "{state:?}");
        }
        if matches!(state, State::GateClosed) {
            self.gate(false);
        }
        (seen, took)
    }
}

/// `ZDD_UNDOS`: how often; more of them say more of the 99th percentile, with an agent that was built for release.
#[test]
fn undo_from_any_state_is_one_commit_and_in_force_as_soon_as_a_shift_is() -> Result<()> {
    let times: usize = std::env::var("ZDD_UNDOS").ok().and_then(|text| text.parse().ok()).unwrap_or(48);
    let plan = |more: &str, analysis: &str| {
        format!(
            "[service.rollout]\nstrategy = {more}\n[[service.rollout.analysis]]\nname = \"exec\"\ninterval = {analysis}\n"
        )
    };
    let steps = "\"canary\"\nsteps = [{ weight = 10 }, { pause = \"until-promoted\" }, { weight = 50 }, { pause = \"until-promoted\" }]";
    // Measured once a day: nothing keeps a step waiting.
    let unproven = plan(steps, "\"1d\"\ndry_run = true\nexec = { argv = [\"/bin/true\"] }");
    let failing =
        plan(&format!("{steps}\non_failure = \"freeze\""), "\"100ms\"\nexec = { argv = [\"/bin/false\"] }");
    let blue_green = plan(
        "\"blue-green\"\nauto_promote = true",
        "\"1d\"\ndry_run = true\nexec = { argv = [\"/bin/true\"] }",
    );
    // As many cells as by default, also in all. Nothing settles and no backend fails meanwhile: those would be commits of their own.
    let setup = Setup {
        rollout: Some(unproven),
        idle_ms: 600_000,
        cells: 16_384,
        all_cells: 2_097_152,
        health: None,
        ..Setup::default()
    };
    let mut world = World::running_unchecked(setup)?;
    let load = world.load(10)?;
    let cheap =
        [State::Step, State::SecondStep, State::Paused, State::GateClosed, State::Displaced, State::Promoted];
    let seen = Commits::of(&world);
    let mut took: Vec<(State, (Duration, Duration))> = Vec::new();
    for (states, text, share) in [
        (&cheap[..], None, 6),
        (&[State::Frozen][..], Some(failing), 1),
        (&[State::Draining][..], Some(blue_green), 1),
    ] {
        if let Some(text) = text {
            world.setup.rollout = Some(text);
            world.write_config()?;
            world.zdd().run(&["apply", &world.config().display().to_string()])?;
        }
        let mut agent = Asked::of(&world);
        for state in states.iter().cycle().take((times * share).div_ceil(8)) {
            agent.reach(*state)?;
            took.push((*state, agent.undo(*state, &seen)));
        }
    }
    assert_eq!(world.commits("rollout undo web")?, vec![1; took.len()], "commits of each undo");
    let mut agent = Asked::of(&world);
    let mut shifts: Vec<Duration> = Vec::new();
    for round in 0..times as u32 {
        let weights = [("v2".to_owned(), (round + 1) % 2 * 1_000)];
        let since = Instant::now();
        agent.runtime.block_on(agent.client.shift("web", &weights, false)).expect("shifted");
        shifts.push(seen.after(since));
    }
    agent.runtime.block_on(agent.client.shift("web", &[("v2".to_owned(), 0)], false)).expect("shifted");
    let worst = took.iter().max_by_key(|(_, (committed, _))| *committed).copied();
    let mut undos: Vec<Duration> = took.iter().map(|(_, (committed, _))| *committed).collect();
    let mut answers: Vec<Duration> = took.iter().map(|(_, (_, answered))| *answered).collect();
    for all in [&mut undos, &mut answers, &mut shifts] {
        all.sort_unstable();
    }
    let at = |all: &[Duration], percent: usize| all[(all.len() * percent).div_ceil(100) - 1];
    let told = |what: &str, all: &[Duration]| {
        println!(
            "{what}: {:?} median, {:?} 95th, {:?} 99th percentile",
            at(all, 50),
            at(all, 95),
            at(all, 99)
        );
    };
    println!("{} undos from {} states; the slowest: {worst:?}", undos.len(), cheap.len() + 2);
    told("from the request to the commit that packets see", &undos);
    told("from the request to the answer, when it is on the disk", &answers);
    told("from the request of a shift to its commit", &shifts);
    assert!(at(&undos, 50) < 4 * at(&shifts, 50), "{:?} {:?}", at(&undos, 50), at(&shifts, 50));
    assert_eq!(asked(&world, "v1")?, 1.0);
    unharmed(&load.finish());
    Ok(())
}
