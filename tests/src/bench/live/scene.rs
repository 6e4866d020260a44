//! One contender: its namespaces, its balancer, the backend's servers, and who does the work.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::cpu::{self, Receiver};
use super::{config, servers};
use crate::rig::{Agent, Forward, Proc, Rig, RigSpec, VIP, backend_address, built, wait_for};

/// How long anything that starts may take on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Port of nginx, and of the VIP.
pub(super) const WEB_PORT: u16 = 80;
/// Port of iperf3, and of the VIP.
pub(super) const BULK_PORT: u16 = 5201;

/// How a client's packets get to the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Over a wire between the two. Its idle balancer carries the floors' programs.
    Direct,
    /// Through the balancer's host, which only routes.
    Routed,
    /// Destination NAT of the kernel's.
    Nftables,
    /// A proxy.
    Haproxy,
    /// `forward = "nat"`.
    Nat,
    /// `forward = "l2"`.
    L2,
    /// `forward = "ipip"`, with `zdd decap` on the backend.
    Ipip,
}

/// All of them, in the order of the report.
const WAYS: [Way; 7] = [Way::Direct, Way::Routed, Way::L2, Way::Ipip, Way::Nat, Way::Nftables, Way::Haproxy];

impl Way {
    /// As the report names it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Routed => "forwarding",
            Self::Nftables => "nftables DNAT",
            Self::Haproxy => "HAProxy (tcp)",
            Self::Nat => "zdd nat",
            Self::L2 => "zdd l2",
            Self::Ipip => "zdd ipip",
        }
    }

    /// What clients dial.
    pub(super) fn dialled(self) -> Ipv4Addr {
        match self {
            // The rig's wire past the balancer.
            Self::Direct => Ipv4Addr::new(10, 82, 1, 2),
            Self::Routed => backend_address(1),
            _ => VIP,
        }
    }

    fn of_zdd(self) -> bool {
        matches!(self, Self::Nat | Self::L2 | Self::Ipip)
    }

    fn forward(self) -> Forward {
        match self {
            Self::Direct | Self::L2 | Self::Ipip => Forward::L2,
            _ => Forward::Nat,
        }
    }
}

/// A contender, ready.
pub(super) struct Scene {
    pub(super) way: Way,
    /// Who receives at the balancer's interface towards the clients.
    pub(super) front: Receiver,
    /// Who receives where frames end.
    pub(super) ends: Vec<Receiver>,
    /// The balancer's threads and processes.
    balancer: (Vec<Receiver>, Vec<u32>),
    /// Everybody else's, but the client's.
    others: (Vec<Receiver>, Vec<u32>),
    // Dropped in this order.
    agent: Option<Agent>,
    _procs: Vec<Proc>,
    pub(super) rig: Rig,
}

/// CPU time in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    /// The balancer's interfaces and processes.
    pub(super) balancer: u64,
    /// Everybody's but the client program's.
    pub(super) all: u64,
}

/// All contenders.
pub(super) fn all(say: &dyn Fn(&str)) -> Result<Vec<Scene>> {
    let one = |way: Way| {
        say(&format!("setting up: {}", way.name()));
        Scene::new(way).with_context(|| format!("cannot set up {}", way.name()))
    };
    WAYS.into_iter().map(one).collect()
}

impl Scene {
    fn new(way: Way) -> Result<Self> {
        let rig = Rig::new(RigSpec {
            forward: way.forward(),
            backends: 1,
            clients: 1,
            vips: vec![VIP],
            v6: false,
        })?;
        // The default 1,000 connections' worth of queues would be a limit of its own.
        rig.ns("b1").sysctl("net/core/somaxconn", "4096")?;
        rig.ns("lb").sysctl("net/ipv4/conf/all/accept_local", "1")?;
        let server = servers::start(&rig)?;
        let mut others: Vec<u32> = server.iter().map(Proc::pid).collect();
        let (mut procs, mut balancer, mut agent) = (server, vec![], None);
        match way {
            Way::Direct | Way::Routed => {}
            Way::Nftables => {
                let file = rig.scratch().path("nftables");
                std::fs::write(&file, config::nftables())?;
                rig.ns("lb").run(&["nft", "-f", &file.to_string_lossy()])?;
            }
            Way::Haproxy => {
                let proxy = servers::haproxy(&rig)?;
                balancer.push(proxy.pid());
                procs.push(proxy);
            }
            Way::Nat | Way::L2 | Way::Ipip => {
                if way == Way::Ipip {
                    let decap = tunnel(&rig)?;
                    others.push(decap.pid());
                    procs.push(decap);
                }
                let started = start_agent(&rig, way)?;
                balancer.push(started.pid());
                agent = Some(started);
            }
        }
        let threads = |devices: &[(&str, &str)]| -> Result<Vec<Receiver>> {
            devices.iter().map(|(role, device)| Receiver::of(rig.ns(role), device)).collect()
        };
        let front = threads(&[("lb", "zlc")])?[0];
        let back = threads(&[("lb", "zlb1")])?[0];
        let ends = threads(&[("b1", "b0"), ("c", "c0")])?;
        let mut rest = ends.clone();
        if way.forward() == Forward::L2 {
            rest.extend(threads(&[("c", "r1"), ("b1", "r0")])?);
        }
        let scene = Self {
            way,
            front,
            ends,
            balancer: (vec![front, back], balancer),
            others: (rest, others),
            agent,
            _procs: procs,
            rig,
        };
        servers::wait(&scene.rig, way)?;
        Ok(scene)
    }

    /// CPU time so far.
    pub(super) fn work(&self) -> Result<Work> {
        let sum = |(threads, processes): &(Vec<Receiver>, Vec<u32>)| -> Result<u64> {
            let threads: u64 = threads.iter().map(|thread| thread.ns()).sum::<Result<u64>>()?;
            let processes: u64 = processes.iter().map(|pid| cpu::of_process(*pid)).sum::<Result<u64>>()?;
            Ok(threads + processes)
        };
        let balancer = sum(&self.balancer)?;
        Ok(Work { balancer, all: balancer + sum(&self.others)? })
    }

    /// Whether there is something in the middle whose work can be told.
    pub(super) fn balances(&self) -> bool {
        self.way != Way::Direct
    }

    /// Packets that zdd counted for a reason; `None` without zdd.
    pub(super) fn counted(&self, reason: &str) -> Result<Option<u64>> {
        let Some(agent) = self.agent.as_ref().filter(|_| self.way.of_zdd()) else { return Ok(None) };
        let status = agent.zdd().status()?;
        Ok(Some(status["reasons"][reason].as_u64().with_context(|| format!("no reason {reason}"))?))
    }
}

/// The backend's end of the tunnel, with room for the outer header on the wire.
fn tunnel(rig: &Rig) -> Result<Proc> {
    for (role, device) in [("lb", "zlb1"), ("b1", "b0")] {
        rig.ns(role).run(&["ip", "link", "set", device, "mtu", "1600"])?;
    }
    rig.ns("b1").ip_batch(&[format!("addr add {}/32 dev lo", config::TUNNEL_END)])?;
    rig.ns("lb").ip_batch(&[
        format!("route add {}/32 via {}", config::TUNNEL_END, backend_address(1)),
        format!("route add {}/32 via 10.80.0.2", config::TUNNEL_SINK),
    ])?;
    let mut command = std::process::Command::new(built("zdd").context("zdd")?);
    command.args(["decap", "--interface", "b0", "--vip", &VIP.to_string(), "--pin-dir"]);
    command.arg(rig.scratch().bpffs().join("decap"));
    let log = rig.scratch().path("decap.log");
    let mut decap = rig.ns("b1").spawn_logged(command, &log)?;
    wait_for("zdd decap to be ready", PATIENCE, LOOK_EVERY, || {
        decap.must_run()?;
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        Ok::<_, crate::rig::Error>(text.contains("ready").then_some(()))
    })?;
    Ok(decap)
}

fn start_agent(rig: &Rig, way: Way) -> Result<Agent> {
    let file = rig.scratch().path("zdd.toml");
    std::fs::write(&file, config::zdd(way, rig.scratch().dir()))?;
    let agent = Agent::start(rig, &built("zdd").context("zdd")?, &file, PATIENCE)?;
    wait_for("all next hops", PATIENCE, LOOK_EVERY, || {
        let list = agent.zdd().json(&["backend", "list"])?.to_string();
        Ok::<_, crate::rig::Error>((!list.contains("unresolved")).then_some(()))
    })?;
    Ok(agent)
}
