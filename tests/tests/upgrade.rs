//! Three balancers behind a router that spreads flows over them (ECMP) get a new agent, one after the other, in the middle of a shift.
//! Needs root.
//!
//! With ZDD_OLD=PATH they begin with that build; else with a copy of the one that they get.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use zdd_tests::rig::{Error, Forward, Proc, Result, Rig, RigSpec, VIP, backend_address, built, v4, wait_for};
use zdd_tests::traffic::{Fleet, Load, LoadSpec, Member, ServerSpec, Servers, Target};
use zdd_tests::world::status::{count, number, service, version};
use zdd_tests::world::{ECHO_PORT, HEALTH_PORT, LOOK_EVERY, PATIENCE, WEB_PORT, goes_on, unharmed};

const NODES: [u8; 3] = [1, 2, 3];
/// The first two are v1's.
const BACKENDS: [u8; 4] = [1, 2, 3, 4];

/// One balancer.
struct Node<'a> {
    rig: &'a Rig,
    number: u8,
    binary: PathBuf,
    agent: Option<Proc>,
}

impl Node<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.rig.scratch().path(&format!("n{}-{name}", self.number))
    }

    fn start(&mut self) -> Result<()> {
        let mut command = Command::new(&self.binary);
        command.arg("agent").arg("--config").arg(self.path("zdd.toml")).stdin(Stdio::null());
        let role = format!("n{}", self.number);
        let agent = self.rig.ns(&role).spawn_logged(command, &self.path("agent.log"))?;
        let pid = agent.pid();
        self.agent = Some(agent);
        wait_for(&format!("the agent of {role}, all backends healthy"), PATIENCE, LOOK_EVERY, || {
            self.agent.as_mut().map_or(Ok(()), Proc::must_run)?;
            let Ok(status) = self.status() else { return Ok(None) };
            let healthy = !status.to_string().contains("\"unhealthy\"");
            Ok((count(&status, "/pid") == u64::from(pid) && healthy).then_some(()))
        })
    }

    fn ask(&self, args: &[&str]) -> Result<Value> {
        let mut command = Command::new(&self.binary);
        command.arg("--json").arg("--socket").arg(self.path("zdd.sock")).args(args).stdin(Stdio::null());
        let text = zdd_tests::rig::run(command)?;
        Ok(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
    }

    fn status(&self) -> Result<Value> {
        self.ask(&["status"])
    }

    /// The old agent ends, however, and the new build takes over.
    fn upgrade(&mut self, new: &Path, kill: bool) -> Result<()> {
        let before = self.status()?;
        let old = self.agent.take().expect("it runs");
        if kill {
            old.kill();
        } else {
            assert!(old.terminate(PATIENCE)?.success(), "the old agent failed");
        }
        self.binary = new.to_owned();
        self.start()?;
        let pid = self.agent.as_ref().expect("it runs").pid();
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).expect("a process");
        assert_eq!(exe, new.canonicalize().expect("a binary"), "the new build runs");
        let after = self.status()?;
        for name in ["web", "echo"] {
            let (was, is) = (service(&before, name), service(&after, name));
            assert!(count(is, "/generation") >= count(was, "/generation"), "{name} began anew");
            assert!(count(is, "/counters/packets") >= count(was, "/counters/packets"), "{name} began anew");
        }
        Ok(())
    }

    fn packets(&self) -> Result<u64> {
        Ok(count(service(&self.status()?, "web"), "/counters/packets"))
    }
}

/// Clients - router (`lb`) - three balancers - four backends, every balancer with a link to every backend; replies go straight back.
fn network() -> Result<Rig> {
    let spec = RigSpec { forward: Forward::L2, backends: 0, clients: 100, vips: vec![], v6: false };
    let mut rig = Rig::new(spec)?;
    let names = NODES.map(|n| format!("n{n}")).into_iter().chain(BACKENDS.map(|b| format!("b{b}")));
    for role in names.collect::<Vec<_>>() {
        rig.add_namespace(&role)?;
    }
    let router = rig.ns("lb");
    router.sysctl("net/ipv4/fib_multipath_hash_policy", "1")?;
    for n in NODES {
        let role = format!("n{n}");
        rig.wire(("lb", &format!("r{n}")), (&role, "zlc"))?;
        router.ip_batch(&[format!("addr add 10.83.{n}.1/30 dev r{n}")])?;
        let ns = rig.ns(&role);
        ns.sysctl("net/ipv4/ip_forward", "1")?;
        ns.ip_batch(&[
            format!("addr add 10.83.{n}.2/30 dev zlc"),
            format!("route add default via 10.83.{n}.1"),
            format!("addr add {VIP}/32 dev lo"),
        ])?;
    }
    let hops: Vec<String> = NODES.iter().map(|n| format!("nexthop via 10.83.{n}.2")).collect();
    router.ip_batch(&[format!("route add {VIP}/32 {}", hops.join(" "))])?;
    for b in BACKENDS {
        let role = format!("b{b}");
        let ns = rig.ns(&role);
        ns.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
        ns.sysctl("net/ipv4/conf/all/arp_announce", "2")?;
        rig.wire(("lb", &format!("b{b}")), (&role, "r0"))?;
        router.ip_batch(&[format!("addr add 10.86.{b}.1/30 dev b{b}")])?;
        ns.ip_batch(&[
            format!("addr add 10.86.{b}.2/30 dev r0"),
            format!("route add default via 10.86.{b}.1"),
            format!("addr add {VIP}/32 dev lo"),
            format!("addr add {}/32 dev lo", backend_address(b)),
        ])?;
        for n in NODES {
            let (node, link) = (format!("n{n}"), 10 * n + b);
            rig.wire((&node, &format!("zlb{b}")), (&role, &format!("e{n}")))?;
            ns.ip_batch(&[format!("addr add 10.85.{link}.2/30 dev e{n}")])?;
            rig.ns(&node).ip_batch(&[
                format!("addr add 10.85.{link}.1/30 dev zlb{b}"),
                format!("route add {}/32 via 10.85.{link}.2", backend_address(b)),
            ])?;
        }
    }
    Ok(rig)
}

/// Both services, as every balancer has them.
fn config(node: &Node<'_>) -> String {
    let own = |name: &str| node.path(name).display().to_string();
    let pins = node.rig.scratch().path(&format!("bpf/n{}", node.number)).display().to_string();
    let key = node.rig.scratch().path("hash.key").display().to_string();
    let mut text = format!(
        "[agent]\ninterfaces = [\"zl*\"]\npin_dir = \"{pins}\"\nstate_dir = \"{}\"\nsocket = \"{}\"\nmetrics = \"off\"\n\
         key_file = \"{key}\"\nsyn_memory = \"1s\"\n\
         [agent.limits]\nservices = 8\nbackends = 64\ncells = 131072\nflows = 16384\nsyn_filter = 1048576\n",
        own("state"),
        own("zdd.sock")
    );
    for (name, vip) in [("web", format!("{VIP}:{WEB_PORT}/tcp")), ("echo", format!("{VIP}:{ECHO_PORT}/udp"))]
    {
        let port = if name == "web" { WEB_PORT } else { ECHO_PORT };
        text += &format!(
            "[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nforward = \"l2\"\naffinity = \"flow\"\ncells = 4096\n\
             idle_timeout = \"600s\"\nudp_idle_timeout = \"600s\"\n\
             health = {{ http = \"/health\", port = {HEALTH_PORT}, interval = \"150ms\", timeout = \"1s\" }}\n"
        );
        for (version, weight, members) in [("v1", 100, [1, 2]), ("v2", 0, [3, 4])] {
            let members = members.map(|b| format!("\"{}:{port}\"", backend_address(b)));
            text += &format!(
                "[[service.version]]\nname = \"{version}\"\nweight = {weight}\nbackends = [{}]\n",
                members.join(", ")
            );
        }
    }
    text
}

fn servers(rig: &Rig) -> Result<(Servers, Fleet)> {
    let specs: Vec<ServerSpec> = BACKENDS
        .map(|b| ServerSpec {
            role: format!("b{b}"),
            member: Member { version: if b <= 2 { "v1" } else { "v2" }.to_owned(), backend: format!("b{b}") },
            tcp: v4(std::net::Ipv4Addr::UNSPECIFIED, WEB_PORT),
            udp: vec![v4(VIP, ECHO_PORT)],
            health: v4(std::net::Ipv4Addr::UNSPECIFIED, HEALTH_PORT),
        })
        .into();
    let fleet = Fleet::new(specs.iter().map(|spec| spec.member.clone()).collect());
    Ok((Servers::start(rig, &specs)?, fleet))
}

#[test]
fn three_balancers_get_a_new_agent_in_the_middle_of_a_shift_and_no_connection_breaks() -> Result<()> {
    let new = built("zdd").expect("zdd is not built: run `cargo build -p zdd-agent` first");
    let rig = network()?;
    let old = rig.scratch().path("zdd-old");
    let from = std::env::var_os("ZDD_OLD").map_or_else(|| new.clone(), PathBuf::from);
    std::fs::copy(&from, &old).map_err(Error::io(format!("copy {}", from.display())))?;
    let key = rig.scratch().path("hash.key");
    std::fs::write(&key, "00112233445566778899aabbccddeeff\n").map_err(Error::io("write a key"))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&key, mode).map_err(Error::io("close the key"))?;
    let (_servers, fleet) = servers(&rig)?;
    let mut nodes = NODES.map(|number| Node { rig: &rig, number, binary: old.clone(), agent: None });
    for node in &mut nodes {
        std::fs::write(node.path("zdd.toml"), config(node)).map_err(Error::io("write a configuration"))?;
        node.start()?;
    }
    let spec = LoadSpec {
        tcp: Target::Vip(v4(VIP, WEB_PORT)),
        udp: Target::Vip(v4(VIP, ECHO_PORT)),
        fleet,
        sources_seen: true,
        clients: 100,
        short_per_second: 0,
        echo_every: Duration::from_millis(100),
    };
    let load = Load::start(&rig, spec)?;
    load.set_rate(100);
    load.open_long(45);
    load.open_udp(10);
    let mut seen = [0; 3];
    for (node, seen) in nodes.iter().zip(&mut seen) {
        *seen = node.packets()?;
        assert!(*seen > 0, "the router gives n{} nothing", node.number);
    }
    // The change that is under way meanwhile: cells stay dirty until long after the test, so every flow needs its entry after the upgrade, too.
    for node in &nodes {
        node.ask(&["shift", "web", "v2=50%"])?;
    }
    load.open_long(15);
    for node in &mut nodes {
        // One as by a crash, the others as by a package.
        node.upgrade(&new, node.number == 2)?;
        let status = node.status()?;
        assert!((number(version(&status, "web", "v2"), "share") - 0.5).abs() < 0.001, "{status}");
        assert!(count(service(&status, "web"), "/dirty_cells") > 0, "the shift is not over");
        goes_on(&load)?;
    }
    // The new ones go on with it, and take it back.
    for weights in ["v2=100%", "v2=0%"] {
        for node in &nodes {
            node.ask(&["shift", "web", weights])?;
        }
        load.open_long(10);
        goes_on(&load)?;
    }
    for (node, seen) in nodes.iter().zip(seen) {
        assert!(node.packets()? > seen, "n{} was passed by", node.number);
    }
    unharmed(&load.finish());
    for node in &mut nodes {
        node.ask(&["detach"])?;
        let ended = node.agent.as_mut().expect("it runs").wait(PATIENCE)?;
        assert!(ended.success(), "{ended}");
    }
    Ok(())
}
