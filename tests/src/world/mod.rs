//! Everything together: namespaces, servers, an agent and its command line, and traffic that must not notice what a test does.

mod dial;
mod setup;
pub mod status;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use zdd_agent::api::client::Client;

use crate::rig::{
    self, Agent, Error, Families, Forward, PREVIEW, PREVIEW6, Proc, Result, Rig, RigSpec, VIP, VIP6, Zdd, v4,
    wait_for,
};
use crate::traffic::{Counts, Fleet, Ledger, Load, LoadSpec, Member, ServerSpec, Servers, Target};

pub use dial::{Met, ask_from, curl, talk, talk_within, unanswered};
pub use setup::{ECHO_PORT, HEALTH_PORT, Setup, WEB_PORT};

/// How long something that should happen soon may take: minutes where it takes seconds, because a machine may be busy, and slow, and stand
/// still for a while. Only a test that fails waits for so long.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Between two looks.
pub const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a command said when it was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Exit status.
    pub code: i32,
    /// Standard error.
    pub stderr: String,
}

impl Refusal {
    /// Panics unless the command ended with `code` and its message holds all of `words`.
    pub fn says(&self, code: i32, words: &[&str]) -> &Self {
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is missing in {:?}", self.stderr);
        }
        assert_eq!(self.code, code, "{}", self.stderr);
        self
    }
}

/// A rig with servers and, once started, an agent.
#[derive(Debug)]
pub struct World {
    // Dropped in this order.
    agent: Option<Agent>,
    /// Under `ipip`, of each backend.
    decaps: Vec<Proc>,
    servers: Option<Servers>,
    /// What it was made from. Changing it changes what [`World::write_config`] writes.
    pub setup: Setup,
    /// What the next agent's environment has besides.
    pub environment: Vec<(String, String)>,
    /// The namespaces.
    pub rig: Rig,
    fleet: Fleet,
    binary: PathBuf,
}

impl World {
    /// Namespaces, the usual servers and the configuration file. No agent yet.
    ///
    /// # Panics
    /// When `zdd` was not built: tests of the whole workspace build it.
    pub fn new(setup: Setup) -> Result<Self> {
        let mut world = Self::without_servers(setup)?;
        let servers = world.server_specs();
        world.servers = Some(Servers::start(&world.rig, &servers)?);
        Ok(world)
    }

    /// The same for a test that brings its own servers for all backends but these.
    ///
    /// # Panics
    /// When `zdd` was not built.
    pub fn with_servers_on(setup: Setup, backends: &[u8]) -> Result<Self> {
        let mut world = Self::without_servers(setup)?;
        let mut servers = world.server_specs();
        servers.retain(|spec| backends.iter().any(|i| spec.role == format!("b{i}")));
        world.servers = Some(Servers::start(&world.rig, &servers)?);
        Ok(world)
    }

    /// The same for a test that brings its own servers.
    ///
    /// # Panics
    /// When `zdd` was not built.
    pub fn without_servers(setup: Setup) -> Result<Self> {
        let Some(binary) = rig::built("zdd") else {
            panic!("zdd is not built: run `cargo build -p zdd-agent` first, or test the whole workspace")
        };
        let rig = Rig::new(RigSpec {
            forward: setup.forward,
            backends: setup.backends,
            clients: 100,
            vips: if setup.preview { vec![VIP, PREVIEW] } else { vec![VIP] },
            v6: setup.families.v6(),
        })?;
        let (environment, fleet) = (Vec::new(), Fleet::new(vec![]));
        let decaps = Vec::new();
        let mut world = Self { agent: None, decaps, servers: None, setup, environment, rig, fleet, binary };
        if world.setup.forward == Forward::Ipip {
            world.start_decaps()?;
        }
        world.fleet = Fleet::new(world.server_specs().into_iter().map(|s| s.member).collect());
        world.write_config()?;
        Ok(world)
    }

    /// `zdd decap` on every backend.
    fn start_decaps(&mut self) -> Result<()> {
        for i in 1..=self.setup.backends {
            let (role, log) = (format!("b{i}"), self.rig.scratch().path(&format!("decap-b{i}.log")));
            let mut command = Command::new(&self.binary);
            command.args(["decap", "--interface", "b0", "--pin-dir"]);
            command.arg(self.rig.scratch().bpffs().join(format!("decap-b{i}")));
            for vip in [IpAddr::from(VIP), PREVIEW.into(), VIP6.into(), PREVIEW6.into()] {
                command.args(["--vip", &vip.to_string()]);
            }
            let mut decap = self.rig.ns(&role).spawn_logged(command, &log)?;
            wait_for("zdd decap to be ready", PATIENCE, LOOK_EVERY, || {
                decap.must_run()?;
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                Ok::<_, Error>(text.contains("ready").then_some(()))
            })?;
            self.decaps.push(decap);
        }
        Ok(())
    }

    /// With a running agent, all backends healthy.
    ///
    /// # Panics
    /// When `zdd` was not built.
    pub fn running(setup: Setup) -> Result<Self> {
        let mut world = Self::new(setup)?;
        world.start_agent()?;
        world.wait_healthy()?;
        Ok(world)
    }

    /// With a running agent, whatever it thinks of the backends' health.
    ///
    /// # Panics
    /// When `zdd` was not built.
    pub fn running_unchecked(setup: Setup) -> Result<Self> {
        let mut world = Self::new(setup)?;
        world.start_agent()?;
        Ok(world)
    }

    fn server_specs(&self) -> Vec<ServerSpec> {
        let families = self.setup.families;
        let any = |port| {
            let any: IpAddr =
                if families.v6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            SocketAddr::new(any, port)
        };
        let spec = |i: u8| {
            // Backends that the file does not name are meant for v2.
            let version = if self.setup.v1.contains(&i) { "v1" } else { "v2" };
            // A UDP reply leaves from the address that the socket is bound to.
            let own = self.setup.forward.direct();
            let mut udp: Vec<IpAddr> = Vec::new();
            if families.v4() {
                udp.push(if own { VIP } else { rig::backend_address(i) }.into());
            }
            if families.v6() {
                udp.push(if own { VIP6 } else { rig::backend_address6(i) }.into());
            }
            ServerSpec {
                role: format!("b{i}"),
                member: Member { version: version.to_owned(), backend: format!("b{i}") },
                tcp: any(self.setup.backend_port()),
                udp: udp.into_iter().map(|addr| SocketAddr::new(addr, ECHO_PORT)).collect(),
                health: any(HEALTH_PORT),
            }
        };
        (1..=self.setup.backends).map(spec).collect()
    }

    /// The usual servers.
    ///
    /// # Panics
    /// In a world without them.
    pub fn servers(&self) -> &Servers {
        self.servers.as_ref().expect("this world was made with servers")
    }

    /// Who may answer.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// The VIP for TCP: the IPv4 one if there is one.
    pub fn web(&self) -> SocketAddr {
        if self.setup.families.v4() { v4(VIP, WEB_PORT) } else { SocketAddr::new(VIP6.into(), WEB_PORT) }
    }

    /// Whom clients dial: the VIP, or those of both families in turn.
    pub fn dialled(&self, port: u16) -> Target {
        self.target(v4(VIP, port), SocketAddr::new(VIP6.into(), port))
    }

    fn target(&self, four: SocketAddr, six: SocketAddr) -> Target {
        match self.setup.families {
            Families::V4 => Target::Vip(four),
            Families::V6 => Target::Vip(six),
            Families::Both => Target::InTurn(vec![four, six]),
        }
    }

    /// Where a backend's own TCP server listens, as the configuration spells it.
    pub fn address(&self, backend: u8) -> String {
        if self.setup.families.v4() {
            format!("{}:{}", rig::backend_address(backend), self.setup.backend_port())
        } else {
            self.address6(backend)
        }
    }

    /// The IPv6 one.
    pub fn address6(&self, backend: u8) -> String {
        format!("[{}]:{}", rig::backend_address6(backend), self.setup.backend_port())
    }

    /// The agent's configuration file.
    pub fn config(&self) -> PathBuf {
        self.rig.scratch().path("zdd.toml")
    }

    /// Where the agent's maps are.
    pub fn pin_dir(&self) -> PathBuf {
        self.rig.scratch().dir().join(&self.setup.pin_dir)
    }

    /// Writes what `setup` says.
    pub fn write_config(&self) -> Result<()> {
        self.write("zdd.toml", &self.setup.toml(self.rig.scratch().dir())).map(drop)
    }

    /// Writes a file into the rig's directory and returns its path.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.rig.scratch().path(name);
        std::fs::write(&path, text).map_err(Error::io(format!("write {}", path.display())))?;
        Ok(path)
    }

    /// Starts the agent and waits until it answers.
    pub fn start_agent(&mut self) -> Result<()> {
        let (rig, binary, config) = (&self.rig, &self.binary, self.config());
        self.agent = Some(Agent::start_with(rig, binary, &config, &self.environment, PATIENCE)?);
        Ok(())
    }

    /// What the agents of this world log.
    pub fn agent_log(&self) -> PathBuf {
        self.rig.scratch().path("agent.log")
    }

    /// SIGKILL.
    pub fn kill_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.kill();
        }
    }

    /// SIGTERM; the agent must end well.
    pub fn stop_agent(&mut self) -> Result<()> {
        if let Some(agent) = self.agent.take() {
            let status = agent.terminate(PATIENCE)?;
            assert!(status.success(), "the agent ended with {status} when asked to end");
        }
        Ok(())
    }

    /// Waits until the agent has ended by itself.
    pub fn agent_ends(&mut self) -> Result<()> {
        let Some(mut agent) = self.agent.take() else { return Ok(()) };
        wait_for("the agent to end", PATIENCE, LOOK_EVERY, || Ok(agent.must_run().is_err().then_some(())))
    }

    /// Starts an agent that must refuse: what it said on its way out. One that is still there after a while is an error.
    pub fn refused_start(&self, config: &std::path::Path) -> Result<Refusal> {
        let mut command = self.zdd().command(&["agent", "--config"]);
        command.arg(config);
        self.refused_command(command)
    }

    /// Runs `command` in the balancer's namespace; it must end by itself.
    pub fn refused_command(&self, command: std::process::Command) -> Result<Refusal> {
        let log = self.rig.scratch().path("refused.log");
        drop(std::fs::remove_file(&log));
        let mut proc = self.rig.ns("lb").spawn_logged(command, &log)?;
        let ended = proc.wait(PATIENCE);
        let stderr = std::fs::read_to_string(&log).unwrap_or_default();
        match ended {
            Ok(status) => Ok(Refusal { code: status.code().unwrap_or(-1), stderr }),
            Err(e) => panic!("{e}; it said: {stderr}"),
        }
    }

    /// The command line.
    pub fn zdd(&self) -> Zdd {
        Zdd::new(&self.binary, self.rig.scratch())
    }

    /// The binary.
    pub fn binary(&self) -> &std::path::Path {
        &self.binary
    }

    /// A command that must not be done.
    ///
    /// # Panics
    /// When it is done.
    pub fn refused(&self, args: &[&str]) -> Result<Refusal> {
        let Output { status, stdout, stderr } = self.zdd().output(args)?;
        assert!(!status.success(), "`zdd {}` was done: {}", args.join(" "), String::from_utf8_lossy(&stdout));
        Ok(Refusal {
            code: status.code().unwrap_or(-1),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        })
    }

    /// `zdd status --json`.
    pub fn status(&self) -> Result<Value> {
        self.zdd().status()
    }

    /// Waits until `enough` finds what it looks for in the status; the error shows the last one.
    pub fn wait_status<T>(&mut self, what: &str, enough: impl Fn(&Value) -> Option<T>) -> Result<T> {
        let zdd = self.zdd();
        let agent = &mut self.agent;
        let mut last = Value::Null;
        let found = wait_for(what, PATIENCE, LOOK_EVERY, || {
            if let Some(agent) = agent {
                agent.must_run()?;
            }
            last = zdd.status()?;
            Ok(enough(&last))
        });
        found.map_err(|e| match e {
            Error::Timeout { what, waited_ms, .. } => {
                Error::Timeout { what, waited_ms, detail: format!("; last: {last}") }
            }
            other => other,
        })
    }

    /// Waits until every backend of every service is healthy.
    pub fn wait_healthy(&mut self) -> Result<()> {
        self.wait_health(&[])
    }

    /// Waits until the backends `sick` are unhealthy and all others healthy, in every service.
    pub fn wait_health(&mut self, sick: &[u8]) -> Result<()> {
        let sick: Vec<String> = sick
            .iter()
            .flat_map(|i| {
                [format!("{}:", rig::backend_address(*i)), format!("[{}]:", rig::backend_address6(*i))]
            })
            .collect();
        self.wait_status(&format!("only {sick:?} to be unhealthy"), |status| {
            let services = status["services"].as_array()?;
            let versions = services.iter().filter_map(|s| s["versions"].as_array()).flatten();
            let mut backends = versions.filter_map(|v| v["backends"].as_array()).flatten();
            backends
                .all(|b| {
                    let ill = sick.iter().any(|s| b["address"].as_str().is_some_and(|a| a.starts_with(s)));
                    b["health"] == if ill { "unhealthy" } else { "healthy" }
                })
                .then_some(())
        })
    }

    /// Makes the health pages of `backends` fail (or not), and waits until the agent has noticed.
    pub fn set_health(&mut self, backends: &[u8], healthy: bool) -> Result<()> {
        for i in backends {
            self.servers().set_healthy(&format!("b{i}"), healthy);
        }
        self.wait_health(if healthy { &[] } else { backends })
    }

    /// Short connections that began at `from_us` or later and were answered by backend `b<i>`.
    pub fn begun_on(&self, load: &Load, backend: u8, from_us: u64) -> usize {
        let name = format!("b{backend}");
        let members = self.fleet.members();
        let ledger = load.ledger();
        ledger
            .begun(from_us, u64::MAX)
            .filter(|r| members[usize::from(r.place.backend)].backend == name)
            .count()
    }

    /// Waits until short connections that began after this call come to backend `b<i>`.
    pub fn comes_to(&self, load: &Load, backend: u8) -> Result<()> {
        let from = load.now_us();
        wait_for(&format!("new connections to come to b{backend}"), PATIENCE, LOOK_EVERY, || {
            Ok((self.begun_on(load, backend, from) > 0).then_some(()))
        })
    }

    /// Lets the traffic go on; none of the short connections that begin from now on may come to `backends`.
    pub fn avoids(&self, load: &Load, backends: &[u8]) -> Result<()> {
        let from = load.now_us();
        goes_on(load)?;
        for i in backends {
            assert_eq!(self.begun_on(load, *i, from), 0, "new connections came to b{i}");
        }
        Ok(())
    }

    /// What `zdd explain` says of a new connection from each of `clients` addresses: version and backend.
    ///
    /// All are asked on one connection: a program for each would take seconds on a busy machine, in which things go on.
    ///
    /// # Panics
    /// When the agent does not answer.
    pub fn explained(&self, service: &str, clients: usize) -> Result<Vec<String>> {
        let families = self.setup.families;
        let four = (0..clients).filter(|_| families.v4()).map(|i| IpAddr::from(rig::client_address(i)));
        let six = (0..clients).filter(|_| families.v6()).map(|i| rig::client_address6(i).into());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::io("start a runtime"))?;
        Ok(runtime.block_on(async {
            let mut client = Client::connect(self.zdd().socket()).await.expect("an agent");
            let mut all = Vec::new();
            for address in four.chain(six) {
                // Port 9 is nobody's: the answer is about the client, not about a flow with an entry.
                let said = client
                    .explain(service, SocketAddr::new(address, 9), None, false)
                    .await
                    .expect("an answer");
                let said = serde_json::to_value(said).expect("a report is JSON");
                all.push(format!("{} {}", said["version"], said["backend"]));
            }
            all
        }))
    }

    /// What was changed so far by whoever asked for it, as `zdd events` tells it. What happens by itself is not among it: settling and health
    /// raise a service's generation whenever their time comes, so that a generation says nothing about a request.
    pub fn changes(&self) -> Result<Vec<String>> {
        let told = self.zdd().run(&["events", "--json"])?;
        Ok(told.lines().filter(|line| line.contains(r#""kind":"change""#)).map(str::to_owned).collect())
    }

    /// Commits of each change whose words begin with `what`, as the agent has written them down: what is committed in between by itself is not
    /// among them.
    ///
    /// # Panics
    /// When the record of changes cannot be read.
    pub fn commits(&self, what: &str) -> Result<Vec<u64>> {
        let path = self.rig.scratch().path(self.setup.state_dir).join("audit.jsonl");
        let text = std::fs::read_to_string(&path).map_err(Error::io(format!("read {}", path.display())))?;
        let records = whole_lines(&text).map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let done = records.filter(|record| {
            record["outcome"] == "done"
                && record["what"].as_str().is_some_and(|words| words.starts_with(what))
        });
        let at = |record: &Value, when| status::count(record, &format!("/generations/0/{when}"));
        Ok(done.map(|record| at(&record, "after") - at(&record, "before")).collect())
    }

    /// SYNs that the clients have repeated so far: one or its answer was lost, or came later than a second.
    ///
    /// # Panics
    /// When the kernel does not count them.
    pub fn syns_repeated(&self) -> Result<u64> {
        let read = || std::fs::read_to_string("/proc/thread-self/net/netstat");
        let text = self.rig.in_ns("c", read)?.map_err(Error::io("read /proc/thread-self/net/netstat"))?;
        let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:")).map(str::split_whitespace);
        let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
        let found = names.zip(values).find(|(name, _)| *name == "TCPSynRetrans");
        Ok(found
            .and_then(|(_, value)| value.parse().ok())
            .unwrap_or_else(|| panic!("no TCPSynRetrans in {text}")))
    }

    /// Waits until every cell of `service` has settled.
    pub fn wait_settled(&mut self, service: &str) -> Result<()> {
        self.wait_status(&format!("{service} to settle"), |s| {
            (status::service(s, service)["dirty_cells"] == 0).then_some(())
        })
    }

    /// Traffic through the VIP: `long` long-lived connections with a line every 20 ms, 100 short ones per second, 10 UDP flows.
    pub fn load(&self, long: usize) -> Result<Load> {
        let load = self.idle_load()?;
        load.set_rate(100);
        load.open_long(long);
        load.open_udp(10);
        let counts = load.ledger().counts;
        assert_eq!(
            (counts.long_opened, counts.long_broken, counts.udp_answered),
            (long as u64, 0, 10),
            "{:?}",
            load.ledger().incidents
        );
        Ok(load)
    }

    /// The same without any traffic yet.
    pub fn idle_load(&self) -> Result<Load> {
        let spec = LoadSpec {
            tcp: self.dialled(WEB_PORT),
            udp: self.dialled(ECHO_PORT),
            fleet: self.fleet.clone(),
            sources_seen: self.setup.forward != Forward::Snat,
            clients: 100,
            short_per_second: 0,
            echo_every: Duration::from_millis(20),
        };
        Load::start(&self.rig, spec)
    }

    /// Traffic of testers, through the preview VIP, with the clients' addresses: `long` long-lived connections, 100 short ones per second,
    /// and `udp` UDP flows.
    pub fn preview_load(&self, long: usize, udp: usize) -> Result<Load> {
        let at = |port| self.target(v4(PREVIEW, port), SocketAddr::new(PREVIEW6.into(), port));
        let spec = LoadSpec {
            tcp: at(WEB_PORT),
            udp: at(ECHO_PORT),
            fleet: self.fleet.clone(),
            // Under `nat` too they come from an address of the balancer's.
            sources_seen: self.setup.forward.direct(),
            clients: 100,
            short_per_second: 100,
            echo_every: Duration::from_millis(20),
        };
        let load = Load::start(&self.rig, spec)?;
        load.open_long(long);
        load.open_udp(udp);
        let counts = load.ledger().counts;
        let met = (counts.long_opened, counts.long_broken, counts.udp_answered);
        assert_eq!(met, (long as u64, 0, udp as u64), "{:?}", load.ledger().incidents);
        Ok(load)
    }
}

/// Lines of its agent's log that a test which fails shows.
const LOG_LINES: usize = 25;

/// Says what its agent said last: of a test that fails it is shown, and of one that passes nothing is.
impl Drop for World {
    fn drop(&mut self) {
        let log = std::fs::read_to_string(self.agent_log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
        if !last.is_empty() {
            println!("the agent's log ends with:\n{}", last.join("\n"));
        }
    }
}

/// The lines of a text that another process may be writing: one that has no end yet is not there yet.
pub fn whole_lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'))
}

/// Waits until, from now on, every long-lived connection has exchanged several lines on average, and 50 short ones have ended.
pub fn goes_on(load: &Load) -> Result<()> {
    let before = load.ledger().counts;
    let lines = 10 * u64::from(load.ledger().live_long.iter().sum::<u32>());
    wait_for("the traffic to go on", PATIENCE, LOOK_EVERY, || {
        let more = load.ledger().counts.since(&before);
        Ok((more.long_lines >= lines && more.short_total >= 50).then_some(()))
    })
}

/// Panics when anything was broken, moved, failed, lost or seen from a wrong address.
pub fn unharmed(ledger: &Ledger) {
    let Counts { short_failed, udp_lost, wrong_source, .. } = ledger.counts;
    let harm = ledger.counts.broken() + short_failed + udp_lost + wrong_source;
    assert_eq!(harm, 0, "{:?}\n{:#?}", ledger.counts, ledger.incidents);
}

/// The traffic goes on, and nothing has been harmed so far.
pub fn as_before(load: &Load) -> Result<()> {
    goes_on(load)?;
    unharmed(&load.ledger());
    Ok(())
}
