//! The program in the kernel, in a network namespace with interfaces, routes and neighbours of its own.
//!
//! One for the whole test binary: the verifier takes seconds. Namespaces and the BPF file system belong to threads of this
//! process alone and have no names, so nothing is left behind, however it ends.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use aya::programs::ProgramFd;
use zdd_agent::dataplane::Dataplane;
use zdd_agent::desired::{AgentSpec, AttachMode, Limits, SnatSpec};
use zdd_common::entries::{Backend, Facts, Port, Service};
use zdd_common::flows::Bucket;
use zdd_common::hash::HashKey;
use zdd_common::maps::Quotas;
use zdd_common::reason::{REASONS, Reason};
use zdd_common::signals::table::SIGNAL_WAYS;
use zdd_common::signals::{SignalBucket, SignalCounters};
use zdd_common::syn_filter::Line;

use crate::bpf::{self, Mapped};

/// Services that the map holds.
pub const SERVICES: usize = 64;
/// Backends that the map holds; ids below.
pub const BACKENDS: usize = 64;
/// Cells that the map holds.
pub const CELLS: usize = 1 << 16;
/// Buckets of the flow table: 64 ways, so that it fills.
pub const BUCKETS: usize = 16;
/// Lines of the SYN filter.
pub const LINES: usize = 64;
/// Flows that can be followed: nobody has to give way.
pub const SIGNAL_FLOWS: usize = 1 << 16;
/// Of all services; it also chooses which are followed.
pub const KEY: HashKey = HashKey { k0: 11, k1: 12 };
/// How long a SYN is remembered at the least.
pub const SYN_MEMORY: Duration = Duration::from_secs(2);
/// Port slots that tests use.
pub const PORTS: u16 = 8;

/// MAC address of the interface towards clients.
pub const MAC_A: [u8; 6] = [2, 0, 0, 0, 0x0a, 0];
/// MAC address of the interface towards backends.
pub const MAC_B: [u8; 6] = [2, 0, 0, 0, 0x0b, 0];
/// Last octets of the neighbours on both links: 10.0.1.n and fd00:1::n towards clients, 2 in place of 1 towards backends.
pub const NEIGHBOURS: std::ops::Range<u8> = 10..18;
/// A client behind a router; the router is neighbour 17.
pub const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// The same for IPv6.
pub const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
/// Behind the same router, over a path with an MTU of 1000.
pub const NARROW: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 8);
/// What its way takes.
pub const NARROW_MTU: u32 = 1000;
/// Routed to a blackhole.
pub const BLACKHOLE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);

/// What `snat` sends from: addresses of the link towards backends.
pub const SNAT_SOURCE: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);
/// The same for IPv6.
pub const SNAT_SOURCE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 1);
/// Its first port of 16: two buckets of each family, so that they run out.
pub const SNAT_PORT: u16 = 61_000;
/// Buckets of its table.
pub const SNAT_BUCKETS: usize = 4;

/// The links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Towards clients.
    A = 1,
    /// Towards backends.
    B = 2,
}

/// MAC address of a neighbour.
pub fn neighbour_mac(link: Link, host: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0xc0 + link as u8, host]
}

/// Address of a neighbour.
pub fn neighbour4(link: Link, host: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, link as u8, host).into()
}

/// IPv6 address of a neighbour.
pub fn neighbour6(link: Link, host: u8) -> IpAddr {
    Ipv6Addr::new(0xfd00, link as u16, 0, 0, 0, 0, 0, host.into()).into()
}

/// What the program did with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// XDP action.
    pub action: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// The one counter that moved.
    pub reason: Reason,
}

/// Runs the program; any thread in the namespace may have one.
pub struct Runner {
    program: ProgramFd,
}

impl Runner {
    /// Runs it `repeat` times on one buffer.
    pub fn run(&self, ifindex: u32, frame: &[u8], repeat: u32) -> (u32, Vec<u8>) {
        bpf::test_run(self.program.as_fd(), ifindex, frame, repeat).expect("BPF_PROG_TEST_RUN")
    }
}

/// Program, maps, namespace.
pub struct Rig {
    pub plane: Dataplane,
    pub runner: Runner,
    pub services: Mapped<Service>,
    pub cells: Mapped<u64>,
    pub backends: Mapped<Backend>,
    pub flows: Mapped<Bucket>,
    pub filter: Mapped<Line>,
    pub facts: Mapped<Facts>,
    pub quotas: Mapped<Quotas>,
    pub signal_flows: Mapped<SignalBucket>,
    pub signals: Mapped<SignalCounters>,
    pub mappings: Mapped<zdd_common::snat::mapping::Bucket>,
    /// Index of the interface towards clients.
    pub a: u32,
    /// Index of the interface towards backends.
    pub b: u32,
    direct: HashMap<MapData, [u8; 48], u32>,
    trails: HashMap<MapData, [u8; 40], [u8; 16]>,
    paces: HashMap<MapData, [u8; 24], u64>,
    reasons: MapData,
    cpus: usize,
    netns: File,
}

static RIG: LazyLock<Mutex<Rig>> = LazyLock::new(|| made(false));
static JUMBO: LazyLock<Mutex<Rig>> = LazyLock::new(|| made(true));

fn made(jumbo: bool) -> Mutex<Rig> {
    let made = std::thread::Builder::new().name("rig".into()).spawn(move || make(jumbo)).and_then(|thread| {
        thread.join().map_err(|_| io::Error::other("the rig could not be made, see above"))
    });
    Mutex::new(made.expect("a rig; it needs root"))
}

/// Runs a test with the rig, empty, to itself, on a thread in its namespace.
pub fn with<R>(test: impl FnOnce(&mut Rig) -> R) -> R {
    with_one(&RIG, test)
}

/// The same with programs that take frames in several buffers (Linux 6.3).
pub fn with_jumbo<R>(test: impl FnOnce(&mut Rig) -> R) -> R {
    with_one(&JUMBO, test)
}

fn with_one<R>(rig: &LazyLock<Mutex<Rig>>, test: impl FnOnce(&mut Rig) -> R) -> R {
    let mut rig = rig.lock().unwrap_or_else(PoisonError::into_inner);
    rig.enter();
    rig.reset();
    test(&mut rig)
}

fn check(result: libc::c_int, what: &str) {
    assert!(result == 0, "{what}: {}", io::Error::last_os_error());
}

/// Gives the calling thread a network namespace, and a BPF file system of its own at /tmp.
pub fn alone() {
    // SAFETY: plain system calls with constant arguments; only this thread moves.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS), "unshare: run as root");
        let (none, root) = (std::ptr::null(), c"/".as_ptr());
        check(libc::mount(none, root, none, libc::MS_REC | libc::MS_PRIVATE, none.cast()), "make / private");
        let (name, at) = (c"bpf".as_ptr(), c"/tmp".as_ptr());
        check(libc::mount(name, at, name, 0, none.cast()), "mount a BPF file system");
    }
}

fn make(jumbo: bool) -> Rig {
    alone();
    network();
    let dir = Path::new("/tmp/zdd");
    let limits = Limits {
        services: SERVICES as u32,
        backends: BACKENDS as u32 - 1,
        cells: CELLS as u32,
        flows: (BUCKETS * zdd_common::limits::WAYS) as u32,
        syn_filter: (LINES * size_of::<Line>()) as u32,
        direct: 1024,
        signals: SIGNAL_FLOWS as u32,
        snat: 16,
    };
    let spec = AgentSpec {
        interfaces: vec![],
        mode: AttachMode::Native,
        pin_dir: dir.into(),
        state_dir: dir.into(),
        key_file: None,
        socket: dir.into(),
        metrics: None,
        page: None,
        otlp: None,
        log_json: false,
        seccomp: true,
        limits,
        syn_memory: SYN_MEMORY,
        encap: Default::default(),
        snat: SnatSpec {
            sources: vec![SNAT_SOURCE.into(), SNAT_SOURCE6.into()],
            first: SNAT_PORT,
            last: SNAT_PORT + 15,
        },
        api: Default::default(),
        probe_budget: Default::default(),
        alerts: Vec::new(),
    };
    let (mut plane, _) = Dataplane::open(&spec, KEY, jumbo).unwrap_or_else(|error| panic!("{error}"));
    let info = plane.program().expect("the program").info().expect("its info");
    let map = |name: &str| MapData::from_pin(dir.join(name)).expect("a pinned map");
    fn mapped<T: Copy + Default>(map: MapData, values: usize) -> Mapped<T> {
        Mapped::new(map.fd().as_fd(), values).expect("a mapped array")
    }
    let direct = Map::from_map_data(map("DIRECT")).expect("DIRECT").try_into().expect("DIRECT");
    Rig {
        runner: Runner { program: info.fd().expect("the program's descriptor") },
        services: mapped(map("SERVICES"), SERVICES),
        cells: mapped(map("CELLS"), CELLS),
        backends: mapped(map("BACKENDS"), BACKENDS),
        flows: mapped(map("FLOWS"), BUCKETS),
        filter: mapped(map("SYNS"), LINES),
        facts: mapped(map("FACTS"), SERVICES),
        quotas: mapped(map("QUOTAS"), 1),
        signal_flows: mapped(map("SIGNAL_FLOWS"), SIGNAL_FLOWS / SIGNAL_WAYS),
        signals: mapped(map("SIGNALS"), BACKENDS),
        mappings: mapped(map("MAPPINGS"), SNAT_BUCKETS),
        a: index_of(c"a0"),
        b: index_of(c"b0"),
        direct,
        trails: Map::from_map_data(map("FRAGMENTS")).expect("FRAGMENTS").try_into().expect("FRAGMENTS"),
        paces: Map::from_map_data(map("PACES")).expect("PACES").try_into().expect("PACES"),
        reasons: map("REASON_COUNT"),
        cpus: aya::util::nr_cpus().expect("CPUs").get() as usize,
        netns: File::open("/proc/thread-self/ns/net").expect("this thread's namespace"),
        plane,
    }
}

fn index_of(name: &std::ffi::CStr) -> u32 {
    // SAFETY: a C string.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

fn network() {
    let mut lines = vec!["link set lo up".to_owned()];
    for (name, link, mac) in [("a", Link::A, MAC_A), ("b", Link::B, MAC_B)] {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        let n = link as u8;
        // The largest MTU: random packets lie about their length, which the kernel compares with it.
        lines.push(format!("link add {name}0 address {mac} mtu 65535 type veth peer name {name}1 mtu 65535"));
        lines.push(format!("addr add 10.0.{n}.1/24 dev {name}0"));
        lines.push(format!("addr add fd00:{n}::1/64 dev {name}0 nodad"));
        lines.push(format!("link set {name}0 up"));
        lines.push(format!("link set {name}1 up"));
        for host in NEIGHBOURS {
            let mac = neighbour_mac(link, host).map(|byte| format!("{byte:02x}")).join(":");
            for addr in [neighbour4(link, host), neighbour6(link, host)] {
                lines.push(format!("neigh replace {addr} lladdr {mac} dev {name}0 nud permanent"));
            }
        }
    }
    lines.push(format!("route add {FAR}/32 via {}", neighbour4(Link::A, 17)));
    lines.push(format!("route add {FAR6}/128 via {}", neighbour6(Link::A, 17)));
    lines.push(format!("route add {NARROW}/32 via {} mtu lock {NARROW_MTU}", neighbour4(Link::A, 17)));
    lines.push(format!("route add blackhole {BLACKHOLE}/32"));
    for (key, value) in [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")] {
        std::fs::write(format!("/proc/sys/net/{key}"), value).expect(key);
    }
    let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("iproute2");
    let mut input = ip.stdin.take().expect("its input");
    input.write_all((lines.join("\n") + "\n").as_bytes()).expect("commands written");
    drop(input);
    assert!(ip.wait().expect("ip").success(), "the namespace could not be set up");
}

impl Rig {
    /// Moves the calling thread into the namespace.
    pub fn enter(&self) {
        // SAFETY: a namespace's descriptor.
        check(unsafe { libc::setns(self.netns.as_raw_fd(), libc::CLONE_NEWNET) }, "setns");
    }

    /// Empties every table. Counters go on.
    pub fn reset(&mut self) {
        self.services.clear();
        self.cells.clear();
        self.backends.clear();
        self.flows.clear();
        self.filter.clear();
        self.facts.clear();
        self.quotas.clear();
        self.signal_flows.clear();
        self.signals.clear();
        self.mappings.clear();
        self.limit_quotas([16; 3]);
        for end in self.plane.ends() {
            self.plane.remove_end(end);
        }
        self.plane.keep_spans(&[]);
        for (set, table) in self.plane.source_sets() {
            self.plane.remove_sources(set, &table);
        }
        for key in self.paces.keys().flatten().collect::<Vec<_>>() {
            self.paces.remove(&key).expect("a key removed");
        }
        for port in 0..PORTS {
            self.plane.set_port(port, Port::default()).expect("a port cleared");
        }
        self.plane.set_locals(&[]).expect("no addresses");
        for key in self.trails().into_keys() {
            self.trails.remove(&key).expect("a key removed");
        }
        self.plane.set_odd().expect("the second program");
        for key in self.direct() {
            self.direct.remove(&key).expect("a key removed");
        }
        for ifindex in [self.a, self.b] {
            self.plane.set_redirect(ifindex, true).expect("a veth takes redirects");
        }
    }

    /// Keys of the remembered direct conversations, as bytes.
    pub fn direct(&self) -> Vec<[u8; 48]> {
        self.direct.keys().flatten().collect()
    }

    /// Trails of fragmented datagrams by their keys, both as bytes.
    pub fn trails(&self) -> std::collections::HashMap<[u8; 40], [u8; 16]> {
        self.trails.iter().flatten().collect()
    }

    /// Sources whose connections are limited, as bytes, with when their buckets are full.
    pub fn paces(&self) -> std::collections::HashMap<[u8; 24], u64> {
        self.paces.iter().flatten().collect()
    }

    /// One of them, found without a walk through the whole table.
    pub fn pace(&self, key: &[u8; 24]) -> Option<u64> {
        self.paces.get(key, 0).ok()
    }

    /// Makes all trails older.
    pub fn age_trails(&mut self, ticks: u32) {
        for (key, mut trail) in self.trails() {
            let made = u32::from_ne_bytes([trail[8], trail[9], trail[10], trail[11]]);
            trail[8..12].copy_from_slice(&made.wrapping_sub(ticks).to_ne_bytes());
            self.trails.insert(&key, &trail, 0).expect("a trail replaced");
        }
    }

    /// Sets the quotas.
    pub fn limit_quotas(&self, limit: [u64; 3]) {
        // SAFETY: a mapped value; no thread runs the program.
        unsafe { (*self.quotas.at(0)).limit = limit };
    }

    /// Packets by reason.
    pub fn reasons(&self) -> Vec<u64> {
        bpf::per_cpu_sums(self.reasons.fd().as_fd(), REASONS.len(), self.cpus).expect("the counters")
    }

    /// Interface index of a link.
    pub fn ifindex(&self, link: Link) -> u32 {
        if link == Link::A { self.a } else { self.b }
    }

    /// Runs the program on a frame that came in by `link`, and sees that exactly one reason was counted, once.
    pub fn run(&self, link: Link, frame: &[u8]) -> Ran {
        self.run_behind(link, frame, 0).expect("BPF_PROG_TEST_RUN")
    }

    /// [`Rig::run`] of a frame with hardly any room in front of it; `None` where the kernel takes no more than 32 bytes of
    /// metadata, which fill the room here (before Linux 6.8).
    pub fn run_crowded(&self, link: Link, frame: &[u8]) -> Option<Ran> {
        // The kernel keeps 40 of 256 bytes in front for itself.
        match self.run_behind(link, frame, 208) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => None,
            ran => Some(ran.expect("BPF_PROG_TEST_RUN")),
        }
    }

    fn run_behind(&self, link: Link, frame: &[u8], metadata: usize) -> io::Result<Ran> {
        Ok(self.run_after(link, frame, metadata, &self.reasons())?.0)
    }

    /// [`Rig::run`] for who has the counters of before, and wants those of afterwards: a system call less for each frame.
    pub fn run_after(
        &self,
        link: Link,
        frame: &[u8],
        metadata: usize,
        before: &[u64],
    ) -> io::Result<(Ran, Vec<u64>)> {
        let ifindex = self.ifindex(link);
        let (action, frame) = bpf::run_behind(self.runner.program.as_fd(), ifindex, frame, 1, metadata)?;
        let after = self.reasons();
        let moved: Vec<_> = (after.iter().zip(before).map(|(after, before)| after - before))
            .zip(REASONS)
            .filter(|(count, _)| *count != 0)
            .collect();
        let &[(1, reason)] = &moved[..] else { panic!("one packet, one reason: {moved:?}") };
        Ok((Ran { action, frame, reason: *reason }, after))
    }

    /// Verified instructions and bytes of machine code of the program for plain frames, for others, or for `snat`.
    pub fn size(&mut self, which: usize) -> (u32, u32) {
        let program = match which {
            0 => self.plane.program(),
            1 => self.plane.odd_program(),
            _ => self.plane.snat_program(),
        };
        let info = program.expect("the program").info().expect("its info");
        (info.verified_instruction_count().expect("Linux 5.16 or later tells it"), info.size_jitted())
    }
}
