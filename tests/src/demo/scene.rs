//! Who plays: backends, addresses, ports and traffic of the demo.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;

use super::plan::Pace;
use super::{Options, config};
use crate::rig::{self, Forward, VIP, v4};
use crate::traffic::{Fleet, LoadSpec, Member, ServerSpec, Target};

/// Port of the VIP for TCP.
pub const WEB_PORT: u16 = 80;
/// Port of the VIP for UDP, and of the backends that echo.
pub const ECHO_PORT: u16 = 5353;
/// Port on which backends answer `GET /health`.
pub const HEALTH_PORT: u16 = 8081;
/// Index of v1.
pub const V1: u8 = 0;
/// Index of v2.
pub const V2: u8 = 1;
/// The backend of v2 that will fail its health check.
pub const PATIENT: &str = "b3";

/// Backends b1 and b2 of v1, b3 and b4 of v2.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The backends.
    pub servers: Vec<ServerSpec>,
    /// Their names.
    pub fleet: Fleet,
    /// Port on which backends serve TCP.
    pub backend_port: u16,
}

impl Scene {
    /// The scene of these options.
    pub fn new(options: &Options) -> Result<Self> {
        // Under l2 the packet arrives as the client sent it: VIP and its port.
        let backend_port = if options.forward == Forward::L2 { WEB_PORT } else { 8080 };
        let any = Ipv4Addr::UNSPECIFIED;
        let mut servers = Vec::new();
        for i in 1..=4u8 {
            let version = if i <= 2 { "v1" } else { "v2" };
            // A UDP reply leaves from the address the socket is bound to: under l2 that must be the VIP.
            let own = options.forward == Forward::L2 && !options.direct;
            let udp = if own { VIP } else { rig::backend_address(i) };
            servers.push(ServerSpec {
                role: format!("b{i}"),
                member: Member { version: version.to_owned(), backend: format!("b{i}") },
                tcp: v4(any, backend_port),
                udp: vec![v4(udp, ECHO_PORT)],
                health: v4(any, HEALTH_PORT),
            });
        }
        let fleet = Fleet::new(servers.iter().map(|s| s.member.clone()).collect());
        Ok(Self { servers, fleet, backend_port })
    }

    /// Whom TCP clients dial.
    pub fn web(&self, options: &Options) -> Target {
        self.target(options, WEB_PORT, self.backend_port)
    }

    fn target(&self, options: &Options, vip_port: u16, backend_port: u16) -> Target {
        if options.direct {
            Target::InTurn((1..=4).map(|i| v4(rig::backend_address(i), backend_port)).collect())
        } else {
            Target::Vip(v4(VIP, vip_port))
        }
    }

    /// The traffic.
    pub fn load(&self, options: &Options) -> LoadSpec {
        LoadSpec {
            sources_seen: options.forward != Forward::Snat,
            tcp: self.web(options),
            udp: self.target(options, ECHO_PORT, ECHO_PORT),
            fleet: self.fleet.clone(),
            clients: usize::from(options.clients),
            short_per_second: options.rate,
            echo_every: Duration::from_millis(50),
        }
    }

    /// The configuration file for the agent.
    pub fn config(&self, options: &Options, pace: &Pace, scratch: &rig::Scratch) -> String {
        config::toml(options, pace, scratch.dir(), self.backend_port)
    }

    /// What is about to happen, for a newcomer.
    pub fn introduction(&self, options: &Options, pace: &Pace) -> String {
        let Options { long_lived, rate, udp, clients, .. } = options;
        let way = match options.forward {
            Forward::Nat => "rewrites their destination (nat); replies come back through it",
            Forward::Snat => "rewrites both ends (snat); backends answer it, and need no way to the clients",
            Forward::L2 => "hands them on as they are (l2); replies go straight to the clients",
            Forward::Ipip => "hands them on in tunnels (ipip); replies go straight to the clients",
        };
        if options.direct {
            return format!(
                "No balancer: {clients} clients dial four backends. {long_lived} long-lived connections, {rate} new ones per second, {udp} UDP \
                 flows."
            );
        }
        format!(
            "A small network in namespaces of this machine, removed at the end:\n\n\
             \x20 {clients} clients ---> load balancer (XDP) ---> b1 b2 run v1\n\
             \x20                      {VIP}:80           b3 b4 run v2\n\n\
             {long_lived} connections stay open and exchange a numbered line every 50 ms, {rate} new ones begin per second, {udp} UDP flows echo.\n\
             The balancer's kernel program decides for each packet and {way}.\n\
             Affinity {}: {}.\n\
             Timeouts are scaled down for the show: a flow counts as gone after {} s of silence (350 s by default), UDP after {} s (60 s),\n\
             a SYN is remembered for {} s (64 s).\n",
            options.affinity.name(),
            match options.affinity {
                super::Affinity::Flow => "each connection is placed by itself",
                super::Affinity::Client => "a client's connections all go to the same backend",
                super::Affinity::ClientVersion => "a client's connections all meet the same version",
            },
            pace.idle_timeout_s,
            pace.udp_idle_timeout_s,
            pace.syn_memory_s,
        )
    }
}
