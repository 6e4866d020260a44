//! The agent dies before any one of its writes into the kernel's tables, whatever it was about to do, and comes back: traffic does not
//! notice, and what was asked for is done. Needs root, and an agent of a debug build: only that one can be made to die so.
//!
//! Each kind of write ([`Write`]) is died before at least once. `ZDD_WRITES=all cargo test -p zdd-tests --test writes` dies before every single
//! write of a shift, of a file's application and of a start: hours. `ZDD_WRITES=start:140-200/3` dies before every third of some writes of one
//! act; each part may be left out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;
use zdd_agent::dataplane::Write;
use zdd_tests::rig::{Error, Forward, Result, VIP, wait_for};
use zdd_tests::traffic::Load;
use zdd_tests::world::status::{number, version};
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World, as_before, unharmed};

/// More writes than any act takes; an act that takes more has lost its end.
const MANY: u32 = 2000;

/// Something that is done again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Shift,
    Apply,
    Start,
}

/// Before which writes `ZDD_WRITES` wants an agent to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    /// Of which act; `None`: of each.
    act: Option<Act>,
    from: u32,
    to: u32,
    step: u32,
}

impl Asked {
    /// `all`, or `[ACT:]FROM-[TO][/STEP]`; TO is the last.
    fn read(text: &str) -> Option<Self> {
        let (act, rest) = match text.split_once(':') {
            Some(("shift", rest)) => (Some(Act::Shift), rest),
            Some(("apply", rest)) => (Some(Act::Apply), rest),
            Some(("start", rest)) => (Some(Act::Start), rest),
            Some(_) => return None,
            None => (None, text),
        };
        let (range, step) = rest.split_once('/').unwrap_or((rest, "1"));
        let (from, to) = if range == "all" { ("0", "") } else { range.split_once('-')? };
        let to = if to.is_empty() { MANY } else { to.parse().ok()? };
        let step = step.parse().ok().filter(|step| *step > 0)?;
        Some(Self { act, from: from.parse().ok()?, to, step })
    }

    /// How many writes of an act the agent may make in a turn; `None`: it is not asked about.
    fn before(self, act: Act, turn: u32) -> Option<u32> {
        self.act.is_none_or(|only| only == act).then_some(self.from + turn * self.step)
    }
}

/// Lets agents of a world die: the file tells them how many writes they may make or before what they die, and they what they died before.
struct Deaths {
    file: PathBuf,
    asked: Option<Asked>,
    orders: u32,
    met: BTreeMap<String, u32>,
}

impl Deaths {
    fn of(world: &mut World) -> Self {
        let file = world.rig.scratch().path("writes");
        world.environment.push(("ZDD_DIE_BEFORE_WRITE".to_owned(), file.display().to_string()));
        let asked = std::env::var("ZDD_WRITES").ok();
        let asked = asked.map(|text| Asked::read(&text).unwrap_or_else(|| panic!("ZDD_WRITES: {text:?}")));
        Self { file, asked, orders: 0, met: BTreeMap::new() }
    }

    fn order(&mut self, text: &str) {
        // Whole, or not there: the agent may be reading.
        let next = self.file.with_extension("next");
        std::fs::write(&next, text).expect("written");
        std::fs::rename(next, &self.file).expect("renamed");
    }

    /// Once in a turn: before a write of a kind that nobody has died before; or, if so asked, before the one that comes after so many.
    fn arm(&mut self, act: Act, turn: u32) {
        self.orders += 1;
        let text = if let Some(made) = self.asked.and_then(|asked| asked.before(act, turn)) {
            format!("{made} {}", self.orders)
        } else {
            let new = Write::ALL.iter().map(|kind| kind.name()).filter(|name| !self.met.contains_key(*name));
            new.collect::<Vec<_>>().join("\n")
        };
        self.order(&text);
    }

    /// What the agent died before, if it did; from now on it lives.
    fn disarm(&mut self) -> Option<String> {
        let left = std::fs::read_to_string(&self.file).expect("armed before");
        std::fs::remove_file(&self.file).expect("removed");
        let write = left.strip_prefix("died before ")?.to_owned();
        *self.met.entry(write.clone()).or_default() += 1;
        Some(write)
    }

    /// Makes something happen upon which the agent writes this by itself some time later, and dies before it; unless it did so before.
    fn by_itself(
        &mut self,
        world: &mut World,
        kind: Write,
        provoke: impl FnOnce(&World) -> Result<()>,
    ) -> Result<()> {
        if self.met.contains_key(kind.name()) {
            return Ok(());
        }
        self.order(kind.name());
        provoke(world)?;
        wait_for(&format!("the agent to write {}", kind.name()), PATIENCE, LOOK_EVERY, || {
            let left = std::fs::read_to_string(&self.file).map_err(Error::io("read what was died before"))?;
            Ok(left.starts_with("died").then_some(()))
        })?;
        self.disarm();
        world.agent_ends()?;
        world.start_agent()
    }

    /// Does something again and again, with an agent that dies one write later each time, until it lives through it. A turn may have
    /// two parts, of which the second undoes the first; each is died in by itself.
    fn each(
        &mut self,
        world: &mut World,
        load: &Load,
        (what, parts): (Act, u32),
        mut act: impl FnMut(&mut World, u32, u32) -> Result<()>,
        done: impl Fn(&Value, u32, u32) -> bool,
    ) -> Result<u32> {
        let mut deaths = 0;
        for turn in 0..MANY {
            let made = self.asked.and_then(|asked| asked.before(what, turn));
            if made.is_some_and(|made| self.asked.is_some_and(|asked| made > asked.to)) {
                return Ok(deaths);
            }
            let mut lived = true;
            for part in 0..parts {
                self.arm(what, turn);
                // An agent that dies answers nobody.
                let said = act(world, turn, part);
                let died = self.disarm();
                if died.is_some() {
                    (deaths, lived) = (deaths + 1, false);
                    world.agent_ends()?;
                    world.start_agent()?;
                } else {
                    said?;
                }
                let status = world.status()?;
                assert!(done(&status, turn, part), "turn {turn}, died before {died:?}: {status}");
                if let Some(made) = made {
                    println!("{what:?}, {part}, after {made} writes: died before {died:?}");
                }
                unharmed(&load.ledger());
            }
            if lived {
                return Ok(deaths);
            }
        }
        panic!("{MANY} writes are not all that one act takes");
    }
}

/// A weight that is never that of the turn before.
fn share(turn: u32) -> f64 {
    f64::from(20 + turn * 37 % 60) / 100.0
}

fn named(status: &Value) -> usize {
    status["services"].as_array().expect("a list").len()
}

/// The file, with or without three more services, which have among them what a service can have, one of them at a VIP that never was.
fn file(world: &World, more: Option<u32>) -> Result<()> {
    let mut text = world.setup.toml(world.rig.scratch().dir());
    if let Some(turn) = more {
        let lists = "access = { allow = [\"10.80.0.0/16\"], deny = [\"10.66.0.0/16\"] }\n\
                     new_per_source = { rate = 1000, burst = 1000 }\n";
        let setup = Setup { preview: false, ..world.setup.clone() };
        let lists_first = |text: String| text.replace("affinity = ", &format!("{lists}affinity = "));
        text += &lists_first(setup.service("lists", &format!("{VIP}:9000/tcp"), 9000));
        let new = 9200 + turn as u16;
        text += &setup.service("plain", &format!("{VIP}:{new}/tcp"), new);
        text += &setup.service("ports", "10.80.255.12:9100-9107/tcp", 9100);
    }
    world.write("zdd.toml", &text).map(drop)
}

#[test]
fn an_agent_that_dies_between_any_two_writes_is_not_missed_and_what_was_asked_is_done() -> Result<()> {
    let signals = "signals = { sample = 1, handshake_timeout = \"1s\", answer_timeout = \"1s\" }";
    let mut world = World::new(Setup {
        cells: 1024,
        forward: Forward::Nat,
        preview: true,
        rollout: Some(signals.to_owned()),
        ..Setup::default()
    })?;
    let mut deaths = Deaths::of(&mut world);
    // What is written on a fresh host only.
    for kind in [Write::Pool, Write::Layout] {
        deaths.order(kind.name());
        let said = world.start_agent();
        assert_eq!(deaths.disarm().as_deref(), Some(kind.name()), "{said:?}");
        world.agent_ends()?;
    }
    world.start_agent()?;
    world.wait_healthy()?;
    let load = world.load(30)?;
    let shifts = deaths.each(
        &mut world,
        &load,
        (Act::Shift, 1),
        |world, turn, _| {
            let weight = format!("v2={:.0}%", share(turn) * 100.0);
            world.zdd().run(&["shift", "web", &weight]).map(drop)
        },
        |status, turn, _| (number(version(status, "web", "v2"), "asked") - share(turn)).abs() < 1e-9,
    )?;
    // Services come and go.
    let applied = deaths.each(
        &mut world,
        &load,
        (Act::Apply, 2),
        |world, turn, part| {
            file(world, (part == 0).then_some(turn))?;
            let config = world.config();
            world.zdd().run(&["apply", &config.display().to_string()]).map(drop)
        },
        |status, _, part| named(status) == if part == 0 { 5 } else { 2 },
    )?;
    // Coming back itself.
    let started = deaths.each(
        &mut world,
        &load,
        (Act::Start, 1),
        |world, _, _| {
            world.kill_agent();
            world.start_agent()
        },
        |status, _, _| named(status) == 2,
    )?;
    alone(&mut deaths, &mut world, &load)?;
    as_before(&load)?;
    unharmed(&load.finish());
    let met = &deaths.met;
    println!("died {shifts} times in shifts, {applied} in applies, {started} starting: {met:?}");
    assert!(deaths.asked.is_some() || (shifts > 0 && applied > 0 && started > 0), "{met:?}");
    let never = Write::ALL.iter().filter(|kind| !met.contains_key(kind.name()));
    assert_eq!(never.collect::<Vec<_>>(), Vec::<&Write>::new(), "{met:?}");
    Ok(())
}

#[test]
fn some_of_the_writes_can_be_asked_for() {
    let asked = |act, from, to, step| Some(Asked { act, from, to, step });
    assert_eq!(Asked::read("all"), asked(None, 0, MANY, 1));
    assert_eq!(Asked::read("start:140-"), asked(Some(Act::Start), 140, MANY, 1));
    assert_eq!(Asked::read("apply:3-9/2"), asked(Some(Act::Apply), 3, 9, 2));
    assert_eq!(Asked::read("all/7"), asked(None, 0, MANY, 7));
    for wrong in ["", "some", "stop:all", "1-2/0", "x-"] {
        assert_eq!(Asked::read(wrong), None, "{wrong}");
    }
}

/// What an agent writes that was asked for nothing, or not for long: each is died before.
fn alone(deaths: &mut Deaths, world: &mut World, load: &Load) -> Result<()> {
    let ip = |world: &World, line: &str| world.rig.ns("lb").ip_batch(&[line.to_owned()]);
    let shift = |world: &World| world.zdd().run(&["shift", "web", "v2=33%"]).map(drop);
    let back = |world: &World| world.zdd().run(&["shift", "web", "v2=66%"]).map(drop);
    deaths.by_itself(world, Write::Entry, shift)?;
    deaths.by_itself(world, Write::Quota, back)?;
    deaths.by_itself(world, Write::Local, |world| ip(world, "addr add 10.80.255.99/32 dev lo"))?;
    deaths.by_itself(world, Write::LocalEnd, |world| ip(world, "addr del 10.80.255.99/32 dev lo"))?;
    deaths.by_itself(world, Write::Port, |world| ip(world, "link set zlb1 mtu 1499"))?;
    deaths.by_itself(world, Write::Followed, |_| Ok(()))?;
    // Testers' flows are mapped, and their ports come back.
    deaths.by_itself(world, Write::Mapping, |world| {
        unharmed(&world.preview_load(3, 3)?.finish());
        Ok(())
    })?;
    deaths
        .by_itself(world, Write::Trace, |world| world.zdd().output(&["trace", "--count", "1"]).map(drop))?;
    // What the stack forwards meanwhile must not be dropped there, as the README says.
    world.rig.ns("lb").sysctl("net/ipv4/conf/all/accept_local", "1")?;
    deaths.by_itself(world, Write::Wanted, |world| ip(world, "neigh flush all"))?;
    unharmed(&load.ledger());
    Ok(())
}
