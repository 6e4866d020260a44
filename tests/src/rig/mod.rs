//! A small network on one machine: clients, a load balancer, backends, each in a namespace of its own.
//!
//! ```text
//!   c  10.80.1.1..250               lb                            b1 .. bN
//!   c0 10.80.0.2 ------- zlc 10.80.0.1 | zlb<i> 10.81.<i>.1 ------- b0 10.81.<i>.2
//!   r<i> 10.82.<i>.1 ------------- l2 only: the way back ---------- r0 10.82.<i>.2
//! ```
//!
//! The VIPs are addresses on the balancer's loopback. Under `nat` it forwards, and is every backend's way back to the clients. Under
//! `l2` the backends own the VIPs too, silently (no ARP), and answer over a wire of their own that does not touch the balancer.
//!
//! Transmit checksum offload is off on every wire, so that a checksum nobody computed shows. Both ends take frames that XDP
//! redirects to them (GRO on); for XDP_TX the receiving end needs [`XdpPass`].

mod agent;
mod cleanup;
mod error;
mod netns;
mod process;
mod scratch;
mod v6;
mod xdp_pass;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub use agent::{Agent, Zdd};
pub use cleanup::remove_stale;
pub use error::{Error, Result};
pub use netns::Netns;
pub use process::{Proc, line_of, run};
pub use scratch::Scratch;
pub use v6::{Families, PREVIEW6, SNAT_SOURCE6, VIP6, backend_address6, client_address6};
pub use xdp_pass::XdpPass;
pub(crate) use xdp_pass::index_of;

/// How replies come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Forward {
    /// Through the balancer; backends are unmodified.
    #[default]
    Nat,
    /// Directly to the clients; backends own the VIPs.
    L2,
    /// To an address of the balancer's, the only one that backends have a way to.
    Snat,
    /// Directly to the clients; packets come in tunnels, for which the wires towards the backends have room.
    #[value(skip)]
    Ipip,
}

impl Forward {
    /// As the configuration file spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::L2 => "l2",
            Self::Snat => "snat",
            Self::Ipip => "ipip",
        }
    }

    /// Whether backends own the VIPs and answer past the balancer.
    pub fn direct(self) -> bool {
        matches!(self, Self::L2 | Self::Ipip)
    }
}

/// What to build.
#[derive(Clone, Debug)]
pub struct RigSpec {
    /// How replies come back.
    pub forward: Forward,
    /// Number of backends, 1 to 250; they get the roles `b1`, `b2` ...
    pub backends: u8,
    /// Number of client addresses, 1 to 250.
    pub clients: u8,
    /// Addresses that the balancer owns (and, under `l2`, the backends).
    pub vips: Vec<Ipv4Addr>,
    /// Everything has an IPv6 address beside its IPv4 one: the first VIP [`VIP6`], the second [`PREVIEW6`].
    pub v6: bool,
}

impl Default for RigSpec {
    /// Four backends, 250 clients, one VIP, `nat`.
    fn default() -> Self {
        Self { forward: Forward::Nat, backends: 4, clients: 250, vips: vec![VIP], v6: false }
    }
}

/// The VIP of the default specification.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 80, 255, 10);

/// Another one, for testers and probes.
pub const PREVIEW: Ipv4Addr = Ipv4Addr::new(10, 80, 255, 11);

/// The balancer's own address towards the clients.
pub const LB_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 80, 0, 1);

/// What the balancer sends from under `snat`.
pub const SNAT_SOURCE: Ipv4Addr = Ipv4Addr::new(10, 80, 254, 1);

/// Matches the balancer's interfaces, those where zdd attaches.
pub const LB_INTERFACES: &str = "zl*";

/// Address number `i`, from 0, of the clients: 10.80.1.1 and so on.
pub fn client_address(i: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 80, 1, u8::try_from(i % 250 + 1).expect("1 to 250"))
}

/// The address of backend `b<i>`, `i` from 1.
pub fn backend_address(i: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 81, i, 2)
}

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// The namespaces with their wires. Everything is removed on drop, on SIGINT, SIGTERM and SIGHUP; what a killed run left behind is
/// removed when the next rig is made.
#[derive(Debug)]
pub struct Rig {
    spec: RigSpec,
    id: String,
    // Dropped in this order: namespaces (with whatever still runs inside) before the directory.
    namespaces: Vec<(String, Netns)>,
    scratch: Scratch,
}

impl Rig {
    /// Builds it. Needs root, `ip` (iproute2) and `ethtool`.
    pub fn new(spec: RigSpec) -> Result<Self> {
        // SAFETY: takes nothing, touches nothing.
        if unsafe { libc::geteuid() } != 0 {
            return Err(Error::NotRoot);
        }
        cleanup::install_signal_handler()?;
        remove_stale();
        let id =
            format!("{}{}-{}", cleanup::PREFIX, std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let scratch = Scratch::new(&id)?;
        let mut rig = Self { spec, id, namespaces: Vec::new(), scratch };
        rig.add_namespace("c")?;
        rig.add_namespace("lb")?;
        rig.wire_clients()?;
        for i in 1..=rig.spec.backends {
            rig.add_namespace(&format!("b{i}"))?;
            rig.wire_backend(i)?;
        }
        Ok(rig)
    }

    /// What it was built from.
    pub fn spec(&self) -> &RigSpec {
        &self.spec
    }

    /// The run's directory and BPF file system.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The namespace with this role: `c`, `lb`, `b1` ... or one added later.
    ///
    /// # Panics
    /// When there is none: a mistake in the test, not in the world.
    pub fn ns(&self, role: &str) -> &Netns {
        match self.namespaces.iter().find(|(r, _)| r == role) {
            Some((_, ns)) => ns,
            None => panic!("the rig has no namespace {role:?}; it has {:?}", self.roles()),
        }
    }

    /// Roles of all namespaces.
    pub fn roles(&self) -> Vec<&str> {
        self.namespaces.iter().map(|(r, _)| r.as_str()).collect()
    }

    /// Runs `work` on a thread inside the namespace of `role`; see [`Netns::enter`].
    pub fn in_ns<R: Send>(&self, role: &str, work: impl FnOnce() -> R + Send) -> Result<R> {
        self.ns(role).enter(work)
    }

    /// Adds an unconnected namespace.
    pub fn add_namespace(&mut self, role: &str) -> Result<&Netns> {
        let ns = Netns::new(format!("{}-{role}", self.id))?;
        if self.spec.v6 {
            v6::enable(&ns)?;
        }
        self.namespaces.push((role.to_owned(), ns));
        Ok(self.ns(role))
    }

    /// Connects two namespaces by a veth pair, both ends up, offloads as described above.
    pub fn wire(&self, a: (&str, &str), b: (&str, &str)) -> Result<()> {
        let (a_ns, b_ns) = (self.ns(a.0), self.ns(b.0));
        a_ns.run(&["ip", "link", "add", a.1, "type", "veth", "peer", "name", b.1, "netns", b_ns.name()])?;
        let ends = [(a_ns, a.1), (b_ns, b.1)];
        for (ns, device) in ends {
            ns.run(&["ethtool", "-K", device, "tx", "off"])?;
            ns.run(&["ip", "link", "set", device, "up"])?;
        }
        // Only now: GRO that was asked for while the device was down does not make its peer a target for XDP redirects.
        for (ns, device) in ends {
            ns.run(&["ethtool", "-K", device, "gro", "on"])?;
        }
        Ok(())
    }

    fn wire_clients(&self) -> Result<()> {
        let (c, lb) = (self.ns("c"), self.ns("lb"));
        c.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
        c.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        lb.sysctl("net/ipv4/ip_forward", "1")?;
        lb.sysctl("net/ipv4/conf/all/send_redirects", "0")?;
        self.wire(("lb", "zlc"), ("c", "c0"))?;
        let mut lines = vec!["addr add 10.80.0.2/24 dev c0".to_owned()];
        lines.extend(
            (0..self.spec.clients).map(|i| format!("addr add {}/32 dev c0", client_address(i.into()))),
        );
        lines.push(format!("route add default via {LB_ADDRESS}"));
        c.ip_batch(&lines)?;
        // The clients' addresses are routed, not on the link: one neighbour to resolve instead of 250.
        let mut lines = vec![
            format!("addr add {LB_ADDRESS}/24 dev zlc"),
            "route add 10.80.1.0/24 via 10.80.0.2".to_owned(),
        ];
        lines.extend(self.spec.vips.iter().map(|vip| format!("addr add {vip}/32 dev lo")));
        lines.push(format!("addr add {SNAT_SOURCE}/32 dev lo"));
        lb.ip_batch(&lines)?;
        if self.spec.v6 { self.wire_clients6() } else { Ok(()) }
    }

    fn wire_backend(&self, i: u8) -> Result<()> {
        let role = format!("b{i}");
        let (b, c) = (self.ns(&role), self.ns("c"));
        self.wire(("lb", &format!("zlb{i}")), (&role, "b0"))?;
        if self.spec.forward == Forward::Ipip {
            self.ns("lb").run(&["ip", "link", "set", &format!("zlb{i}"), "mtu", TUNNEL_MTU])?;
            b.run(&["ip", "link", "set", "b0", "mtu", TUNNEL_MTU])?;
        }
        self.ns("lb").ip_batch(&[format!("addr add 10.81.{i}.1/30 dev zlb{i}")])?;
        b.ip_batch(&[format!("addr add {}/30 dev b0", backend_address(i))])?;
        if self.spec.forward == Forward::Nat {
            b.ip_batch(&[format!("route add default via 10.81.{i}.1")])?;
            return if self.spec.v6 { self.wire_backend6(i, false) } else { Ok(()) };
        }
        if self.spec.forward == Forward::Snat {
            b.ip_batch(&[format!("route add {SNAT_SOURCE}/32 via 10.81.{i}.1")])?;
            return if self.spec.v6 { self.wire_backend6(i, false) } else { Ok(()) };
        }
        // The VIP is the balancer's in everybody's ARP table: a backend that answered for it would take the traffic past it.
        b.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
        b.sysctl("net/ipv4/conf/all/arp_announce", "2")?;
        self.wire(("c", &format!("r{i}")), (&role, "r0"))?;
        c.ip_batch(&[format!("addr add 10.82.{i}.1/30 dev r{i}")])?;
        let mut lines =
            vec![format!("addr add 10.82.{i}.2/30 dev r0"), format!("route add default via 10.82.{i}.1")];
        lines.extend(self.spec.vips.iter().map(|vip| format!("addr add {vip}/32 dev lo")));
        b.ip_batch(&lines)?;
        if self.spec.v6 { self.wire_backend6(i, true) } else { Ok(()) }
    }
}

/// 1,500 bytes and the largest outer header.
const TUNNEL_MTU: &str = "1540";

/// Where something listens.
pub fn v4(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(address, port))
}

/// Calls `check` until it returns `Ok(Some(_))`, at most for `patience`, pausing `pause` between calls. `Ok(None)` means not yet; an `Err`
/// ends the wait at once.
pub fn wait_for<T, E: From<Error>>(
    what: &str,
    patience: Duration,
    pause: Duration,
    mut check: impl FnMut() -> std::result::Result<Option<T>, E>,
) -> std::result::Result<T, E> {
    let begin = Instant::now();
    loop {
        if let Some(found) = check()? {
            return Ok(found);
        }
        if begin.elapsed() >= patience {
            let waited_ms = begin.elapsed().as_millis();
            return Err(Error::Timeout { what: what.to_owned(), waited_ms, detail: String::new() }.into());
        }
        std::thread::sleep(pause);
    }
}

/// The path of a binary of this workspace that was built beside the running one, for example `zdd`; `None` if it was not built.
pub fn built(name: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    // Tests run from target/<profile>/deps, binaries from target/<profile>.
    own.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file())
}
