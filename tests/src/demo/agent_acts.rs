//! The acts in which something happens to the agent, to a backend, or for good.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::acts::{House, Show};
use super::observe::{service, version};
use super::scene::{PATIENT, V1, V2};
use super::verdict::Cost;
use crate::rig::{Agent, wait_for};

/// Between two looks at a status.
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl Show<'_> {
    /// Starts the agent and waits until every backend is healthy. Nothing to do without one.
    pub fn start_agent(&mut self) -> Result<()> {
        if self.options.direct {
            return Ok(());
        }
        self.agent = Some(Agent::start(self.rig, &self.binary, &self.config, self.pace.patience)?);
        self.wait_for_health(None)
    }

    /// Kills the agent while a shift is on its way, leaves the traffic alone for a while, starts it again.
    pub(super) fn kill_the_agent(&mut self, house: &House<'_>) -> Result<()> {
        let before = house.load.ledger().counts;
        self.begin_slope(house.load.now_us(), V2);
        let zdd = self.cli()?;
        let old = zdd.status()?;
        zdd.json(&["shift", "echo", "v2=60%"])?;
        let mut command = zdd.command(&["shift", "web", "v2=60%", "--json"]);
        let mut shift = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start `zdd shift`")?;
        // About as long as the command needs to reach the agent.
        self.pause(Duration::from_millis(2));
        self.agent.take().context("the agent does not run")?.kill();
        house.stage.event(house.load.now_us(), "shift to 60 %, kill -9");
        let answered = shift.wait().context("cannot wait for `zdd shift`")?.success();
        let word = if answered { "had been answered" } else { "was cut off" };
        house.view.say(&format!("    the agent is dead; the shift {word}; the kernel goes on by itself"));
        self.pause(self.pace.gap);
        self.agent = Some(Agent::start(self.rig, &self.binary, &self.config, self.pace.patience)?);
        house.stage.event(house.load.now_us(), "restarted");
        let new = zdd.status()?;
        self.same_world(&old, &new)?;
        if answered {
            let asked = version(service(&new, "web")?, "v2")?["asked"].as_f64();
            ensure!(
                asked.is_some_and(|a| (a - 0.6).abs() < 1e-6),
                "the shift to 60 % was answered and then forgotten: {asked:?}"
            );
        }
        // A shift towards backends that nobody has probed yet may be refused.
        self.wait_for_health(None)?;
        // Whatever was cut off is asked for once more: the same intent, the same table.
        let from = self.shift(house, 60.0)?;
        self.observe(house, from)?;
        let cost = Cost::of(&house.load.ledger().counts.since(&before));
        self.found.agent_killed = Some(cost);
        self.begin_slope(house.load.now_us(), V1);
        let from = self.shift(house, 100.0)?;
        self.observe(house, from)
    }

    /// Ends the agent politely and starts the second build.
    pub(super) fn upgrade(&mut self, house: &House<'_>) -> Result<()> {
        let before = house.load.ledger().counts;
        let old = self.cli()?.status()?;
        house.stage.event(house.load.now_us(), "upgrade");
        let agent = self.agent.take().context("the agent does not run")?;
        let status = agent.terminate(self.pace.patience)?;
        ensure!(status.success(), "the agent ended with {status} when asked to end");
        self.binary.clone_from(&self.next_binary);
        self.agent = Some(Agent::start(self.rig, &self.binary, &self.config, self.pace.patience)?);
        let new = self.cli()?.status()?;
        self.same_world(&old, &new)?;
        ensure!(old["pid"] != new["pid"], "the old agent still answers");
        house.view.say(&format!("    {} was replaced by {}", text(&old["build"]), text(&new["build"])));
        self.wait_for_health(None)?;
        self.pause(self.pace.window);
        self.found.upgrade = Some(Cost::of(&house.load.ledger().counts.since(&before)));
        Ok(())
    }

    /// Intent and counters must have outlived an agent.
    fn same_world(&self, old: &Value, new: &Value) -> Result<()> {
        for name in ["web", "echo"] {
            let (was, is) = (service(old, name)?, service(new, name)?);
            for pointer in ["/generation", "/counters/packets", "/counters/new_flows"] {
                let (was, is) = (
                    was.pointer(pointer).and_then(Value::as_u64),
                    is.pointer(pointer).and_then(Value::as_u64),
                );
                ensure!(
                    was <= is,
                    "{name}{pointer} went back from {was:?} to {is:?}: the maps are not the same"
                );
            }
        }
        Ok(())
    }

    /// A backend of v2 fails its health check and recovers. Its flows stay; new ones avoid it in between.
    pub(super) fn sickness(&mut self, house: &House<'_>) -> Result<()> {
        let begin = Instant::now();
        self.servers.set_healthy(PATIENT, false);
        house.stage.event(house.load.now_us(), format!("{PATIENT} sick"));
        self.wait_for_health(Some(PATIENT))?;
        house
            .view
            .say(&format!("    {PATIENT} answers 503; noticed after {} ms", begin.elapsed().as_millis()));
        // Between what status says and what the kernel does there may be a moment.
        self.pause(Duration::from_millis(200));
        let from = house.load.now_us();
        self.pause(self.pace.window);
        let to = house.load.now_us();
        let met = self.begun_on(house, PATIENT, from, to);
        ensure!(met == 0, "{met} new connections went to {PATIENT} after it was found unhealthy");
        self.servers.set_healthy(PATIENT, true);
        self.wait_for_health(None)?;
        house.stage.event(house.load.now_us(), format!("{PATIENT} well"));
        let from = house.load.now_us();
        self.pause(self.pace.window);
        let met = self.begun_on(house, PATIENT, from, house.load.now_us());
        ensure!(met > 0, "no new connection went to {PATIENT} after it had recovered");
        Ok(())
    }

    fn begun_on(&self, house: &House<'_>, backend: &str, from_us: u64, to_us: u64) -> usize {
        let members = self.scene.fleet.members();
        let ledger = house.load.ledger();
        ledger
            .begun(from_us, to_us)
            .filter(|r| members[usize::from(r.place.backend)].backend == backend)
            .count()
    }

    /// Waits until every backend is healthy, but for `sick`, which must be unhealthy.
    fn wait_for_health(&mut self, sick: Option<&str>) -> Result<()> {
        let zdd = self.cli()?;
        let address = sick.and_then(|name| self.scene.servers.iter().position(|s| s.member.backend == name));
        let address = address
            .and_then(|i| u8::try_from(i + 1).ok())
            .map(|i| format!("{}:", crate::rig::backend_address(i)));
        let what =
            sick.map_or("every backend to be healthy".to_owned(), |name| format!("{name} to be unhealthy"));
        let agent = &mut self.agent;
        wait_for(&what, self.pace.patience, LOOK_EVERY, || {
            if let Some(agent) = agent {
                agent.must_run()?;
            }
            let status = zdd.status()?;
            let mut all = true;
            for service in status["services"].as_array().into_iter().flatten() {
                for version in service["versions"].as_array().into_iter().flatten() {
                    for backend in version["backends"].as_array().into_iter().flatten() {
                        let is_sick = address
                            .as_ref()
                            .is_some_and(|a| text(&backend["address"]).starts_with(a.as_str()));
                        all &= backend["health"] == if is_sick { "unhealthy" } else { "healthy" };
                    }
                }
            }
            Ok(all.then_some(()))
        })
    }

    /// Drains v1 in both services. Its clients take their time to leave; the commands return when all have.
    pub(super) fn drain(&mut self, house: &House<'_>) -> Result<()> {
        let zdd = self.cli()?;
        let deadline = format!("{}s", self.pace.drain_deadline.as_secs());
        house.stage.event(house.load.now_us(), "drain v1");
        let begin = Instant::now();
        let answers = std::thread::scope(|scope| {
            let drains = ["web/v1", "echo/v1"].map(|what| {
                let (zdd, deadline) = (&zdd, &deadline);
                scope.spawn(move || {
                    let answer = zdd.json_any(&["drain", what, "--deadline", deadline, "--wait"]);
                    let ledger = house.load.ledger();
                    let v1 = usize::from(V1);
                    (what, answer, ledger.live_long[v1], ledger.live_udp[v1])
                })
            });
            self.pause(Duration::from_secs(1));
            let live = house.load.ledger().live_long[usize::from(V1)];
            house.view.say(&format!(
                "    {live} long-lived connections still live on v1; now their clients leave, one by one"
            ));
            house.load.hang_up(V1);
            drains.map(std::thread::ScopedJoinHandle::join)
        });
        for answer in answers {
            let Ok((what, answer, long, udp)) = answer else {
                anyhow::bail!("the thread that waits for a drain panicked")
            };
            let (status, said) = answer?;
            ensure!(
                status.success() && said["drained"] == true,
                "`zdd drain {what} --wait` ended with {status}: {said}"
            );
            let early = if what.starts_with("web") { long } else { udp };
            ensure!(early == 0, "`zdd drain {what} --wait` returned while {early} flows were alive on v1");
            let waited = said["waited_ms"]
                .as_u64()
                .unwrap_or_else(|| u64::try_from(begin.elapsed().as_millis()).unwrap_or(0));
            self.found.add_drain(waited, said["left"].as_u64().unwrap_or(0));
        }
        house.stage.event(house.load.now_us(), "v1 drained");
        let from = house.load.now_us();
        self.pause(Duration::from_secs(1));
        let late = house.load.ledger().begun(from, u64::MAX).filter(|r| r.place.version == V1).count();
        ensure!(late == 0, "{late} new connections went to v1 after it was drained");
        Ok(())
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}
