//! The rig of `l2` (backends own the VIPs and answer over a wire of their own) with IPv6, backends whose addresses are behind a
//! router, `zdd decap` on each, and an agent with a service per kind of tunnel.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use zdd_tests::rig::{
    Agent, Error, Forward, Netns, PREVIEW, Proc, Result, Rig, RigSpec, VIP, Zdd, built, v4, wait_for,
};
use zdd_tests::world::{LOOK_EVERY, PATIENCE};

use super::echo::Server;

/// The IPv6 VIP.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1);

/// Where testers dial, of each family.
pub const PREVIEW6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2);

/// Name, port, and whether the VIP is IPv6: 4in4, 4in6, 6in6.
pub const SERVICES: [(&str, u16, bool); 3] = [("four", 80, false), ("mixed", 81, false), ("six", 80, true)];

/// A VIP.
pub fn vip(v6: bool, port: u16) -> SocketAddr {
    if v6 { SocketAddr::new(VIP6.into(), port) } else { v4(VIP, port) }
}

/// The preview VIP beside it.
pub fn preview(v6: bool, port: u16) -> SocketAddr {
    if v6 { SocketAddr::new(PREVIEW6.into(), port) } else { v4(PREVIEW, port) }
}

/// A backend's address: on its loopback, behind the address of its wire.
pub fn backend(i: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, i, 1)
}

/// An address of the prefix that tunnels come from.
pub fn balancer_source() -> Ipv4Addr {
    Ipv4Addr::new(10, 255, 1, 2)
}

/// Everything, running.
pub struct Net {
    // Dropped in this order.
    agent: Option<Agent>,
    decaps: BTreeMap<String, Proc>,
    _servers: Vec<Server>,
    binary: PathBuf,
    rig: Rig,
}

impl Net {
    /// Builds it; the way from the balancer to its backends carries packets of `mtu` bytes.
    pub fn running(mtu: u32) -> Result<Self> {
        Self::running_behind(mtu, None)
    }

    /// The same; before b1 there is a router, `m`, behind which the way carries only so many.
    pub fn running_behind(mtu: u32, narrow: Option<u32>) -> Result<Self> {
        let binary = built("zdd").expect("the binary zdd: cargo build -p zdd-agent");
        let spec =
            RigSpec { forward: Forward::L2, backends: 2, clients: 3, vips: vec![VIP, PREVIEW], v6: false };
        let mut rig = Rig::new(spec)?;
        wire_v6(&rig)?;
        if let Some(narrow) = narrow {
            put_router_before_b1(&mut rig, narrow)?;
        }
        for i in 1..=2u8 {
            let b = format!("b{i}");
            for (role, device) in [("lb", format!("zlb{i}")), (b.as_str(), "b0".to_owned())] {
                rig.ns(role).run(&["ip", "link", "set", &device, "mtu", &mtu.to_string()])?;
            }
            rig.ns(&b).ip_batch(&[format!("addr add {}/32 dev lo", backend(i))])?;
            rig.ns("lb").ip_batch(&[format!("route add {}/32 via 10.81.{i}.2", backend(i))])?;
        }
        let mut servers = vec![];
        for i in 1..=2u8 {
            for port in [80, 81] {
                servers.push(Server::start(rig.ns(&format!("b{i}")), port, i)?);
            }
        }
        let mut net = Self { agent: None, decaps: BTreeMap::new(), _servers: servers, binary, rig };
        for b in ["b1", "b2"] {
            net.start_decap(b)?;
        }
        let config = net.rig.scratch().path("zdd.toml");
        std::fs::write(&config, net.config()).map_err(Error::io("write the configuration"))?;
        net.agent = Some(Agent::start(&net.rig, &net.binary, &config, PATIENCE)?);
        net.wait_for_hops()?;
        Ok(net)
    }

    fn config(&self) -> String {
        let dir = self.rig.scratch().dir().display().to_string();
        let mut text = format!(
            "[agent]\ninterfaces = [\"zl*\"]\npin_dir = \"{dir}/bpf/zdd\"\nstate_dir = \"{dir}/state\"\n\
             socket = \"{dir}/zdd.sock\"\nmetrics = \"off\"\nsyn_memory = \"1s\"\n\
             [agent.limits]\nservices = 8\nbackends = 64\ncells = 131072\nflows = 16384\nsyn_filter = 1048576\n"
        );
        for (name, port, v6) in SERVICES {
            text += &format!(
                "[[service]]\nname = \"{name}\"\nvip = \"{}/tcp\"\npreview = \"{}/tcp\"\nforward = \"ipip\"\n\
                 affinity = \"flow\"\nidle_timeout = \"30s\"\n",
                vip(v6, port),
                preview(v6, port)
            );
            for i in 1..=2u8 {
                let to: IpAddr = if name == "four" { backend(i).into() } else { backend6(i).into() };
                let weight = if i == 1 { 100 } else { 0 };
                text += &format!(
                    "[[service.version]]\nname = \"v{i}\"\nweight = {weight}\nbackends = [\"{}\"]\n",
                    SocketAddr::new(to, port)
                );
            }
        }
        text
    }

    /// Until every backend's next hop is known.
    fn wait_for_hops(&self) -> Result<()> {
        wait_for("all next hops", PATIENCE, LOOK_EVERY, || {
            let list = self.zdd().json(&["backend", "list"])?;
            let text = list.to_string();
            Ok::<_, Error>((text.contains(" via ") && !text.contains("unresolved")).then_some(()))
        })
    }

    pub fn ns(&self, role: &str) -> &Netns {
        self.rig.ns(role)
    }

    pub fn zdd(&self) -> &Zdd {
        self.agent.as_ref().expect("an agent").zdd()
    }

    /// A packet counter of the balancer.
    pub fn reason(&self, name: &str) -> Result<u64> {
        let status = self.zdd().status()?;
        Ok(status["reasons"][name].as_u64().unwrap_or_else(|| panic!("no reason {name} in {status}")))
    }

    // --- zdd decap ------------------------------------------------------------------------------------------------------

    /// The directory of a backend's pins.
    pub fn pin_dir(&self, b: &str) -> PathBuf {
        self.rig.scratch().bpffs().join(format!("decap-{b}"))
    }

    fn decap_command(&self, device: &str, pin_dir: &std::path::Path) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(["decap", "--interface", device, "--pin-dir"]).arg(pin_dir);
        command
    }

    /// Starts it on a backend's wire and waits until it is ready.
    pub fn start_decap(&mut self, b: &str) -> Result<()> {
        let log = self.rig.scratch().path(&format!("decap-{b}.log"));
        let mut command = self.decap_command("b0", &self.pin_dir(b));
        for vip in [VIP.into(), PREVIEW.into(), IpAddr::from(VIP6), PREVIEW6.into()] {
            command.args(["--vip", &vip.to_string()]);
        }
        let ready = || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            text.matches("ready").count()
        };
        let before = ready();
        let mut proc = self.rig.ns(b).spawn_logged(command, &log)?;
        wait_for("zdd decap to be ready", PATIENCE, LOOK_EVERY, || {
            proc.must_run()?;
            Ok::<_, Error>((ready() > before).then_some(()))
        })?;
        self.decaps.insert(b.to_owned(), proc);
        Ok(())
    }

    pub fn decap(&self, b: &str) -> &Proc {
        &self.decaps[b]
    }

    pub fn kill_decap(&mut self, b: &str) {
        self.decaps.remove(b).expect("it runs").kill();
    }

    /// Tells it to end; its log.
    pub fn end_decap(&mut self, b: &str, patience: Duration) -> Result<String> {
        let status = self.decaps.remove(b).expect("it runs").terminate(patience)?;
        assert!(status.success(), "{status}");
        let log = self.rig.scratch().path(&format!("decap-{b}.log"));
        std::fs::read_to_string(log).map_err(Error::io("read the log"))
    }

    /// What one says that cannot start.
    pub fn refused_decap(&self, b: &str, device: &str, pin_dir: &std::path::Path) -> Result<String> {
        let mut command = self.ns(b).command(&self.binary);
        command.args(["decap", "--interface", device, "--vip", "10.0.0.1", "--pin-dir"]).arg(pin_dir);
        let out = command.output().map_err(Error::io("run zdd decap"))?;
        assert_eq!(out.status.code(), Some(1), "{out:?}");
        Ok(String::from_utf8_lossy(&out.stderr).into_owned())
    }

    /// `zdd decap --status --json`.
    pub fn decap_status(&self, b: &str) -> Result<Value> {
        let mut command = self.decap_command("b0", &self.pin_dir(b));
        let out =
            command.args(["--status", "--json"]).output().map_err(Error::io("run zdd decap --status"))?;
        assert!(out.status.success(), "{out:?}");
        Ok(serde_json::from_slice(&out.stdout).unwrap_or_else(|error| panic!("{error}: {out:?}")))
    }

    /// Its counters by name.
    pub fn counts(&self, b: &str) -> Result<impl Fn(&str) -> u64 + use<>> {
        let status = self.decap_status(b)?;
        Ok(move |name: &str| {
            let all = status["packets"].as_array().into_iter().flatten();
            let one = all.into_iter().find(|count| count["outcome"] == name);
            one.and_then(|count| count["packets"].as_u64()).unwrap_or_else(|| panic!("no {name} in {status}"))
        })
    }
}

fn backend6(i: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd99, i.into(), 0, 0, 0, 0, 0, 1)
}

/// IPv6 beside the rig's IPv4: the same wires, fd80::/64 towards the client, fd81:i::/64 towards backends, fd82:i::/64 back.
fn wire_v6(rig: &Rig) -> Result<()> {
    for role in rig.roles() {
        rig.ns(role).sysctl("net/ipv6/conf/all/disable_ipv6", "0")?;
        rig.ns(role).sysctl("net/ipv6/conf/all/accept_dad", "0")?;
    }
    let c = vec!["addr add fd80::2/64 dev c0 nodad".to_owned(), "route add fd09::/16 via fd80::1".to_owned()];
    let mut lb =
        vec!["addr add fd80::1/64 dev zlc nodad".to_owned(), format!("addr add {VIP6}/128 dev lo nodad")];
    lb.push(format!("addr add {PREVIEW6}/128 dev lo nodad"));
    let mut back = vec![];
    for i in 1..=2u8 {
        lb.push(format!("addr add fd81:{i}::1/64 dev zlb{i} nodad"));
        lb.push(format!("route add {}/128 via fd81:{i}::2", backend6(i)));
        back.push(format!("addr add fd82:{i}::1/64 dev r{i} nodad"));
        rig.ns(&format!("b{i}")).ip_batch(&[
            format!("addr add fd81:{i}::2/64 dev b0 nodad"),
            format!("addr add fd82:{i}::2/64 dev r0 nodad"),
            format!("addr add {}/128 dev lo nodad", backend6(i)),
            format!("addr add {VIP6}/128 dev lo nodad"),
            format!("addr add {PREVIEW6}/128 dev lo nodad"),
            format!("route add fd80::/64 via fd82:{i}::1"),
        ])?;
    }
    rig.ns("lb").ip_batch(&lb)?;
    rig.ns("c").ip_batch(&[c, back].concat())
}

/// Replaces the wire between the balancer and b1 by two, with a router between them that knows its way to outer sources.
fn put_router_before_b1(rig: &mut Rig, narrow: u32) -> Result<()> {
    rig.add_namespace("m")?;
    rig.ns("lb").run(&["ip", "link", "del", "zlb1"])?;
    rig.wire(("lb", "zlb1"), ("m", "m0"))?;
    rig.wire(("m", "m1"), ("b1", "b0"))?;
    let m = rig.ns("m");
    for (key, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/disable_ipv6", "0"),
        ("net/ipv6/conf/all/accept_dad", "0"),
        ("net/ipv6/conf/all/forwarding", "1"),
    ] {
        m.sysctl(key, value)?;
    }
    // Without it the balancer would make no use of a route that it knows.
    rig.ns("lb").sysctl("net/ipv6/conf/all/forwarding", "1")?;
    let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    m.ip_batch(&lines(&[
        "link set m0 mtu 1540",
        &format!("link set m1 mtu {narrow}"),
        "addr add 10.81.1.2/30 dev m0",
        "addr add fd81:1::2/64 dev m0 nodad",
        "addr add 10.83.1.1/30 dev m1",
        "addr add fd83:1::1/64 dev m1 nodad",
        "route add 10.255.0.0/16 via 10.81.1.1",
        "route add fd7a:6464::/64 via fd81:1::1",
        &format!("route add {}/32 via 10.83.1.2", backend(1)),
        &format!("route add {}/128 via fd83:1::2", backend6(1)),
    ]))?;
    rig.ns("b1").ip_batch(&lines(&["addr add 10.83.1.2/30 dev b0", "addr add fd83:1::2/64 dev b0 nodad"]))?;
    rig.ns("lb").ip_batch(&lines(&[
        "addr add 10.81.1.1/30 dev zlb1",
        "addr add fd81:1::1/64 dev zlb1 nodad",
        &format!("route add {}/128 via fd81:1::2", backend6(1)),
    ]))
}

/// A UDP datagram for the VIP: all that matters of it is where it is going.
pub fn datagram() -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ipv4([198, 51, 100, 7], VIP.octets(), 64).udp(4000, 9);
    let mut packet = vec![];
    builder.write(&mut packet, b"inner").expect("a packet");
    packet
}

/// Sends a packet in an IPv4 header of the kernel's, from `from` if given.
pub fn send_tunnelled(from: Option<Ipv4Addr>, to: Ipv4Addr, inner: &[u8]) -> std::io::Result<()> {
    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
    let address = |addr: Ipv4Addr| libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(addr.octets()) },
        sin_zero: [0; 8],
    };
    let size = size_of::<libc::sockaddr_in>() as u32;
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_IPIP) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that is ours.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    if let Some(from) = from {
        let from = address(from);
        // SAFETY: a valid address and its size.
        if unsafe { libc::bind(socket.as_raw_fd(), (&raw const from).cast(), size) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    let to = address(to);
    // SAFETY: a valid buffer, a valid address, and their sizes.
    let sent = unsafe {
        libc::sendto(socket.as_raw_fd(), inner.as_ptr().cast(), inner.len(), 0, (&raw const to).cast(), size)
    };
    if sent == inner.len() as isize { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
