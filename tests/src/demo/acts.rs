//! The acts: what is done to the balancer, and what is looked at after each.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::plan::{Pace, opening};
use super::scene::{Scene, V1, V2};
use super::stage::Stage;
use super::verdict::{Cost, Drain, Findings, LongLived, Short, Udp, median};
use super::view::View;
use super::{Options, default_binary};
use crate::rig::{Agent, Rig, Zdd, client_address};
use crate::traffic::{Incident, Ledger, Load, Prober, Servers, Slope, first_new_ms, flipped_back};

/// Everybody in the house while the show is on.
#[derive(Clone, Copy, Debug)]
pub struct House<'a> {
    /// The traffic.
    pub load: &'a Load,
    /// What is on.
    pub stage: &'a Stage,
    /// Who tells the audience.
    pub view: &'a View,
}

/// The show: what it needs and what it has found out.
#[derive(Debug)]
pub struct Show<'a> {
    pub(super) options: &'a Options,
    pub(super) pace: &'a Pace,
    pub(super) scene: &'a Scene,
    pub(super) rig: &'a Rig,
    pub(super) servers: &'a Servers,
    pub(super) binary: PathBuf,
    pub(super) next_binary: PathBuf,
    pub(super) config: PathBuf,
    pub(super) agent: Option<Agent>,
    pub(super) found: Findings,
    /// The stretch that is on, without its end.
    slope: Option<(u64, u8)>,
    slopes: Vec<Slope>,
    /// Share of v2, in percent, asked for last.
    pub(super) asked: f64,
}

type Act<'a> = (&'static str, fn(&mut Show<'a>, &House<'_>) -> Result<()>);

impl<'a> Show<'a> {
    /// Writes the configuration and the second build. Starts nothing.
    pub fn new(
        options: &'a Options,
        pace: &'a Pace,
        scene: &'a Scene,
        rig: &'a Rig,
        servers: &'a Servers,
    ) -> Result<Self> {
        let mut show = Self {
            options,
            pace,
            scene,
            rig,
            servers,
            binary: PathBuf::new(),
            next_binary: PathBuf::new(),
            config: rig.scratch().path("zdd.toml"),
            agent: None,
            found: Findings {
                forward: options.forward.name(),
                affinity: options.affinity.name(),
                direct: options.direct,
                ..Findings::default()
            },
            slope: None,
            slopes: Vec::new(),
            asked: 0.0,
        };
        if options.direct {
            return Ok(show);
        }
        show.binary = match &options.zdd {
            Some(path) => {
                path.canonicalize().with_context(|| format!("there is no zdd at {}", path.display()))?
            }
            None => default_binary()?,
        };
        show.next_binary = match &options.zdd_next {
            Some(path) => path
                .canonicalize()
                .with_context(|| format!("there is no second zdd at {}", path.display()))?,
            None => {
                let copy = rig.scratch().path("zdd-next");
                std::fs::copy(&show.binary, &copy).with_context(|| {
                    format!("cannot copy {} to {}", show.binary.display(), copy.display())
                })?;
                copy
            }
        };
        let text = scene.config(options, pace, rig.scratch());
        std::fs::write(&show.config, text)
            .with_context(|| format!("cannot write {}", show.config.display()))?;
        Ok(show)
    }

    /// The command line, unless there is no agent at all.
    pub fn zdd(&self) -> Option<Zdd> {
        (!self.options.direct).then(|| Zdd::new(&self.binary, self.rig.scratch()))
    }

    pub(super) fn cli(&self) -> Result<Zdd> {
        self.zdd().context("there is no agent to talk to")
    }

    /// Plays all acts, or as many as go well.
    pub fn play(&mut self, house: &House<'_>) {
        let full: &[Act<'a>] = &[
            ("v2 at 0 %: everybody on v1", Self::baseline),
            ("shift to 1, 10, 50, 100 %", Self::ramp),
            ("roll back to 0 %", Self::roll_back),
            ("shift and rollback, over and over", Self::pairs),
            ("to 100 % again", Self::all_in),
            ("kill -9 in the middle of a shift", Self::kill_the_agent),
            ("replace the agent by another build", Self::upgrade),
            ("a v2 backend fails its health check", Self::sickness),
            ("drain v1", Self::drain),
        ];
        let direct: &[Act<'a>] = &[("clients dial the backends", Self::baseline)];
        let acts = if self.options.direct { direct } else { full };
        for (i, (name, act)) in acts.iter().enumerate() {
            let title = format!("{}/{} {name}", i + 1, acts.len());
            house.stage.act(&title);
            house.view.say(&format!("--- act {title}"));
            let before = house.load.ledger().counts;
            let (problems, off) = (self.found.problems.len(), self.found.off_explain());
            if let Err(e) = act(self, house) {
                self.found.problems.push(format!("act \"{name}\": {e:#}"));
            }
            let spent = house.load.ledger().counts.since(&before);
            let cost = Cost::of(&spent);
            for problem in &self.found.problems[problems..] {
                house.view.say(&format!("    {problem}"));
            }
            if cost.broken + cost.failed > 0 {
                house.view.say(&format!("    {} broken or moved, {} failed", cost.broken, cost.failed));
            }
            let bad = cost.broken + cost.failed + spent.wrong_source > 0
                || self.found.problems.len() > problems
                || self.found.off_explain() > off;
            if bad && !self.options.keep_going && i + 1 < acts.len() {
                self.found
                    .problems
                    .push(format!("stopped after act \"{name}\"; --keep-going plays the rest"));
                break;
            }
        }
        self.end_slope(house.load.now_us());
    }

    /// What was found out, with the final accounts of the traffic.
    pub fn findings(mut self, ledger: &Ledger, peak_entries: u64) -> Findings {
        let mut c = ledger.counts;
        // What the probers of the pairs saw is not in the ledger.
        c.wrong_source += self.found.counts.wrong_source;
        self.found.counts = c;
        self.found.long_lived =
            LongLived { total: c.long_opened, broken: c.long_broken, moved: c.long_moved };
        self.found.short = Short {
            total: c.short_total + self.found.short.total,
            failed: c.short_failed + self.found.short.failed,
        };
        self.found.udp = Udp { total: c.udp_total, moved: c.udp_moved };
        self.found.flow_entries_peak = peak_entries;
        if self.options.affinity.by_client() {
            let mut flipped = std::collections::BTreeSet::new();
            for record in self.slopes.iter().flat_map(|slope| flipped_back(&ledger.shorts, *slope)) {
                flipped.insert(record.client);
                let backend = &self.scene.fleet.members()[usize::from(record.place.backend)].backend;
                let what = format!("{}:{} fell back to {backend}", record.client, record.port);
                self.found.incidents.push(Incident { at_us: record.started_us, what });
            }
            self.found.flipped_back = u64::try_from(flipped.len()).unwrap_or(u64::MAX);
        }
        self.found
    }

    /// From now until the next call the weight of `falling` only falls.
    pub(super) fn begin_slope(&mut self, now_us: u64, falling: u8) {
        self.end_slope(now_us);
        self.slope = Some((now_us, falling));
    }

    fn end_slope(&mut self, to_us: u64) {
        if let Some((from_us, falling)) = self.slope.take() {
            self.slopes.push(Slope { from_us, to_us, falling });
        }
    }

    pub(super) fn pause(&self, time: Duration) {
        // Watching traffic for a while is the point; there is no event to wait for.
        std::thread::sleep(time);
    }

    /// Opens its part of the long-lived connections and UDP flows.
    fn open_part(&self, house: &House<'_>, first: bool) {
        let part = |total| {
            let (begin, part) = opening(total, 4);
            if first { begin } else { part }
        };
        house.load.open_long(part(self.options.long_lived));
        house.load.open_udp(part(self.options.udp));
    }

    fn baseline(&mut self, house: &House<'_>) -> Result<()> {
        if self.options.direct {
            house.load.open_long(self.options.long_lived);
            house.load.open_udp(self.options.udp);
            self.pause(self.pace.window);
            return Ok(());
        }
        self.open_part(house, true);
        let from = house.load.now_us();
        self.observe(house, from)
    }

    fn ramp(&mut self, house: &House<'_>) -> Result<()> {
        self.begin_slope(house.load.now_us(), V1);
        for percent in [1.0, 10.0, 50.0, 100.0] {
            house.view.say(&format!("    v2 = {percent} %"));
            let from = self.shift(house, percent)?;
            self.observe(house, from)?;
            self.open_part(house, false);
        }
        Ok(())
    }

    fn roll_back(&mut self, house: &House<'_>) -> Result<()> {
        self.begin_slope(house.load.now_us(), V2);
        let zdd = self.cli()?;
        for service in ["echo", "web"] {
            zdd.json(&["rollback", service])?;
        }
        self.asked = 0.0;
        let from = house.load.now_us();
        house.stage.event(from, "roll back");
        self.observe(house, from)
    }

    fn all_in(&mut self, house: &House<'_>) -> Result<()> {
        self.begin_slope(house.load.now_us(), V1);
        let from = self.shift(house, 100.0)?;
        self.observe(house, from)
    }

    /// How soon a change shows: v2 to 100 % and back, connections back to back from one client. At 0 and 100 % every tuple moves, and
    /// `explain` is asked once to say so.
    fn pairs(&mut self, house: &House<'_>) -> Result<()> {
        self.end_slope(house.load.now_us());
        let zdd = self.cli()?;
        let prober = Prober::new(self.rig, self.scene.fleet.clone(), self.scene.web(self.options));
        house.stage.event(house.load.now_us(), format!("{} x there and back", self.pace.pairs));
        let (mut up, mut down) = (Vec::new(), Vec::new());
        for pair in 0..self.pace.pairs {
            let client = client_address(pair * 7 % usize::from(self.options.clients));
            for (version, times) in [(V2, &mut up), (V1, &mut down)] {
                let arguments: &[&str] =
                    if version == V2 { &["shift", "web", "v2=100%"] } else { &["rollback", "web"] };
                let (all, answer, at) =
                    prober.during(client, version, self.pace.patience, || zdd.json(arguments))?;
                answer?;
                let failed = all.iter().filter(|p| p.place.is_none()).count();
                self.found.short.total += u64::try_from(all.len()).unwrap_or(0);
                self.found.short.failed += u64::try_from(failed).unwrap_or(0);
                let foreign = all.iter().filter(|p| p.place.is_some() && !p.own_source).count();
                self.found.counts.wrong_source += u64::try_from(foreign).unwrap_or(0);
                let late = all
                    .iter()
                    .filter(|p| p.started >= at && p.place.is_some_and(|p| p.version != version))
                    .count();
                ensure!(
                    late == 0,
                    "{late} connections from {client} began after `zdd {}` had returned and followed the old weights",
                    arguments.join(" ")
                );
                let ms = first_new_ms(&all, at, version);
                times.push(ms.with_context(|| format!("no connection from {client} on the new weights"))?);
                if pair == 0 {
                    let said = self.explain(&zdd, "web", client.into(), 9)?;
                    let expected = &self.scene.fleet.versions()[usize::from(version)];
                    ensure!(
                        said == *expected,
                        "explain names {said} for {client} where every connection goes to {expected}"
                    );
                }
            }
        }
        self.found.shift_to_first_new_ms = median(&up);
        self.found.rollback_ms = median(&down);
        Ok(())
    }

    /// Asks for `percent` of v2 in both services. Returns when `web` followed, on the clock of the load.
    pub(super) fn shift(&mut self, house: &House<'_>, percent: f64) -> Result<u64> {
        let zdd = self.cli()?;
        let weight = format!("v2={percent}%");
        for service in ["echo", "web"] {
            zdd.json(&["shift", service, &weight])?;
        }
        self.asked = percent;
        let at = house.load.now_us();
        house.stage.event(at, format!("v2 = {percent} %"));
        Ok(at)
    }
}

impl Findings {
    /// Clients off explain, over all steps.
    fn off_explain(&self) -> u64 {
        self.steps.iter().map(|s| s.clients_off_explain).sum()
    }

    /// Adds a drain of several services: as long as the longest, as full as all together.
    pub(super) fn add_drain(&mut self, waited_ms: u64, left: u64) {
        let drain = self.drain.get_or_insert(Drain::default());
        drain.waited_ms = drain.waited_ms.max(waited_ms);
        drain.left += left;
    }
}
