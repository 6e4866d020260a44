//! Packets per second through a veth pair: frames of 64 bytes, sent by XDP without any socket, counted where they end.
//!
//! The generator is the bench's driver program run with live frames (BPF_F_TEST_XDP_LIVE_FRAMES, Linux 5.18): what it returns is
//! done, and it returns a redirection to the client's interface. The frame crosses the wire and is received by the
//! balancer's interface, whose native XDP program (or, without one, the kernel's stack) sends it on; an XDP program at the
//! far end drops it. The balancer's receiving thread has a CPU of its own where there are two.

use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, Map, MapData, ProgramArray};
use aya::programs::xdp::XdpLinkId;
use aya::programs::{ProgramFd, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use zdd_common::bench::{Drive, PORT_BITS};
use zdd_common::checksum::Delta;

use super::cpu;
use super::rows::{Report, Series, Unit};
use super::scene::{Scene, Way, Work};
use crate::bench::cases::{Case, Flows, Kind, State};
use crate::bench::options::Options;
use crate::bench::{frame, lab};
use crate::bpf::{self, Mapped};
use crate::rig::Netns;

/// Name of the case.
pub(super) const CASE: &str = "live frames: v4 UDP, 64 B";
/// Flows, as many as differ by their ports alone: the frame's header checksum is that of one client.
const FLOWS: u32 = 1 << PORT_BITS;
/// The floors: program, name in the report, where frames end.
const FLOORS: [(&str, &str, Sink); 3] = [
    ("tx", "floor: XDP_TX", Sink::Client),
    ("redirect", "floor: redirect", Sink::Backend),
    ("stateless_live", "floor: stateless", Sink::Backend),
];
/// Frames of one system call.
const BURST: u32 = 1 << 13;

/// Where frames end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sink {
    Client,
    Backend,
}

impl Sink {
    fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::Client => ("c", "c0"),
            Self::Backend => ("b1", "b0"),
        }
    }
}

/// One contender.
struct Turn {
    name: &'static str,
    scene: usize,
    /// A floor's program, put on the balancer's interface for the turn.
    floor: Option<&'static str>,
    sink: Sink,
    series: Series,
}

/// Measures all that receive frames: everybody but the proxy.
pub(super) fn measure(
    scenes: &mut [Scene],
    programs: &[u8],
    options: &Options,
    report: &mut Report,
    say: &dyn Fn(&str),
) -> Result<()> {
    let mut turns = turns(scenes);
    if turns.is_empty() {
        return Ok(());
    }
    let mut generator = Generator::new(programs)?;
    let mut floors = Floors { ebpf: lab::floors(programs)? };
    for name in FLOORS.map(|(program, ..)| program).into_iter().chain(["sink"]) {
        floors.program(name)?.load().with_context(|| format!("the kernel refused {name}"))?;
    }
    // As many as have it as long as the turns last.
    let mut sinks = vec![];
    for turn in &turns {
        let place = (turn.scene, turn.sink.place());
        if !sinks.contains(&place) {
            let (role, device) = place.1;
            floors.attach("sink", scenes[turn.scene].rig.ns(role), device)?;
            sinks.push(place);
        }
    }
    let cpus = cpu::cpus();
    let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
    for scene in scenes.iter() {
        scene.front.alone(last)?;
        scene.ends.iter().try_for_each(|end| end.alone(first))?;
    }
    let (rounds, length) = if options.quick { (7, 60) } else { (15, 150) };
    let rounds = options.rounds.unwrap_or(rounds);
    for round in 0..=rounds {
        for n in 0..turns.len() {
            let count = turns.len();
            let turn = &mut turns[(n + round) % count];
            say(&format!("frames, round {round} of {rounds}: {}", turn.name));
            // Round 0 resolves neighbours and fills tables.
            let length = Duration::from_millis(if round == 0 { 20 } else { length });
            let measured = turn.run(&scenes[turn.scene], &mut generator, &mut floors, length, first)?;
            if round > 0 {
                turn.series.push(measured);
            }
        }
    }
    for scene in scenes.iter() {
        scene.front.among_others(&cpus)?;
        scene.ends.iter().try_for_each(|end| end.among_others(&cpus))?;
    }
    let series = turns.into_iter().map(|turn| turn.series).collect();
    report.add(CASE, "16k", Unit::Packet, series, "floor: redirect", Some("floor: stateless"));
    Ok(())
}

fn turns(scenes: &[Scene]) -> Vec<Turn> {
    let mut turns = vec![];
    for (scene, of) in scenes.iter().enumerate() {
        let (name, sink) = (of.way.name(), if of.way == Way::Ipip { Sink::Client } else { Sink::Backend });
        match of.way {
            Way::Direct => turns.extend(FLOORS.map(|(program, name, sink)| Turn {
                name,
                scene,
                floor: Some(program),
                sink,
                series: Series::new(name),
            })),
            Way::Haproxy => {}
            _ => turns.push(Turn { name, scene, floor: None, sink, series: Series::new(name) }),
        }
    }
    turns
}

impl Turn {
    /// Nanoseconds per packet on the clock, and of the balancer's thread.
    fn run(
        &self,
        scene: &Scene,
        generator: &mut Generator,
        floors: &mut Floors,
        length: Duration,
        cpu: usize,
    ) -> Result<(f64, u64, Work)> {
        let (rig, (role, device)) = (&scene.rig, self.sink.place());
        let attached = match self.floor {
            Some(program) => {
                floors.exit(link(rig.ns("lb"), "zlb1")?.0)?;
                Some(floors.attach(program, rig.ns("lb"), "zlc")?)
            }
            None => None,
        };
        let settled = scene.counted("settled")?;
        // At the balancer, and where frames end.
        let received = || -> Result<[u64; 2]> {
            Ok([rig.in_ns("lb", || packets("zlc"))??, rig.in_ns(role, || packets(device))??])
        };
        let mac = link(rig.ns("lb"), "zlc")?.1;
        let to =
            if self.floor.is_none() && scene.way == Way::Routed { Some(scene.way.dialled()) } else { None };
        let out = link(rig.ns("c"), "c0")?.0;
        let (before, work) = (received()?, scene.front.ns()?);
        let send = || {
            cpu::pin(0, &[cpu])?;
            generator.run(out, mac, to, length)
        };
        let seconds = rig.in_ns("c", send)??;
        // Threads account for their time when they rest.
        std::thread::sleep(Duration::from_millis(2));
        let (after, work) = (received()?, scene.front.ns()? - work);
        let [taken, packets] = [after[0] - before[0], after[1] - before[1]];
        if let Some(link) = attached {
            floors.detach(self.floor.unwrap_or_default(), link)?;
        }
        ensure!(packets > 0 && packets <= taken, "{}: {packets} of {taken} frames arrived", self.name);
        if let (Some(before), Some(after)) = (settled, scene.counted("settled")?) {
            ensure!(
                (after - before) * 20 >= packets * 19,
                "{}: {packets} frames arrived, but only {} were steered",
                self.name,
                after - before
            );
        }
        // What the balancer has sent and the far end had no room for was work, too.
        let balancer = (work as f64 * packets as f64 / taken as f64) as u64;
        Ok((seconds, packets, Work { balancer, all: 0 }))
    }
}

/// The floors' programs and the sink.
struct Floors {
    ebpf: Ebpf,
}

impl Floors {
    fn program(&mut self, name: &str) -> Result<&mut Xdp> {
        Ok(self.ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
    }

    fn exit(&mut self, index: u32) -> Result<()> {
        let mut exit: Array<_, u32> = self.ebpf.map_mut("EXIT").context("no EXIT")?.try_into()?;
        Ok(exit.set(0, &index, 0)?)
    }

    /// Native; it stays until it is detached, or the namespace or this ends.
    fn attach(&mut self, name: &str, ns: &Netns, device: &str) -> Result<XdpLinkId> {
        let index = link(ns, device)?.0;
        let program = self.program(name)?;
        let link = ns.enter(|| program.attach(index, XdpMode::Driver))?;
        link.with_context(|| format!("attach {name} to {device} of {}", ns.name()))
    }

    fn detach(&mut self, name: &str, link: XdpLinkId) -> Result<()> {
        Ok(self.program(name)?.detach(link)?)
    }
}

/// The driver program, ending in a redirection.
struct Generator {
    driver: ProgramFd,
    drive: Mapped<Drive>,
    exit: Array<MapData, u32>,
    // Keeps the driver's prog array: the kernel empties one that no user space holds.
    _array: ProgramArray<MapData>,
    _ebpf: Ebpf,
}

impl Generator {
    fn new(object: &[u8]) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(object).context("the bench's object does not load")?;
        let mut load = |name: &str| -> Result<ProgramFd> {
            let program: &mut Xdp =
                ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
            program.load().with_context(|| format!("the kernel refused {name}"))?;
            Ok(program.fd()?.try_clone()?)
        };
        let (driver, redirect) = (load("drive")?, load("redirect")?);
        let Some(Map::Array(drive)) = ebpf.take_map("DRIVE") else { bail!("no DRIVE") };
        let drive = Mapped::new(drive.fd().as_fd(), 1)?;
        let exit = ebpf.take_map("EXIT").context("no EXIT")?.try_into()?;
        let mut array: ProgramArray<MapData> = ebpf.take_map("PROGRAM").context("no PROGRAM")?.try_into()?;
        array.set(0, &redirect, 0)?;
        Ok(Self { driver, drive, exit, _array: array, _ebpf: ebpf })
    }

    /// Sends for a while by interface `out`, to the MAC address `mac`; `to` instead of the VIP. Returns how long it took, in
    /// seconds. Call it inside the namespace.
    fn run(&mut self, out: u32, mac: [u8; 6], to: Option<Ipv4Addr>, length: Duration) -> Result<f64> {
        self.exit.set(0, &out, 0)?;
        let mut bytes = example();
        bytes[..6].copy_from_slice(&mac);
        if let Some(to) = to {
            bytes[30..34].copy_from_slice(&to.octets());
        }
        check(&mut bytes);
        let mut drive = Drive { mask: FLOWS - 1, vips: 1, length: bytes.len() as u32, ..Drive::default() };
        for (word, bytes) in drive.header.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        // SAFETY: a mapped value; no program runs.
        unsafe { self.drive.at(0).write(drive) };
        let begin = Instant::now();
        while begin.elapsed() < length {
            bpf::send_frames(self.driver.as_fd(), &bytes, BURST)
                .context("BPF_PROG_TEST_RUN with live frames, which needs Linux 5.18")?;
        }
        Ok(begin.elapsed().as_secs_f64())
    }
}

/// A frame of the bench's.
fn example() -> Vec<u8> {
    let mut bytes = frame::bytes(&Case {
        v6: false,
        kind: Kind::Udp,
        flows: Flows::Some(FLOWS),
        state: State::Settled,
        forward: 0,
        services: 1,
    });
    // UDP without a checksum (RFC 768): connection tracking looks at one that is there.
    bytes[40..42].fill(0);
    bytes
}

/// Puts the right checksum into the IPv4 header.
fn check(bytes: &mut [u8]) {
    bytes[24..26].fill(0);
    let words = bytes[14..34].as_chunks::<4>().0;
    let sum = words.iter().fold(Delta::default(), |sum, word| sum.more(u32::from_ne_bytes(*word))).whole();
    bytes[24..26].copy_from_slice(&sum.to_ne_bytes());
}

/// Index and MAC address of an interface.
fn link(ns: &Netns, device: &str) -> Result<(u32, [u8; 6])> {
    let text = ns.run(&["ip", "-j", "link", "show", device])?;
    let links: serde_json::Value = serde_json::from_str(&text)?;
    let index = links[0]["ifindex"].as_u64().with_context(|| format!("no index in {text}"))?;
    let mut mac = [0; 6];
    let words = links[0]["address"].as_str().unwrap_or_default().split(':');
    for (byte, word) in mac.iter_mut().zip(words) {
        *byte = u8::from_str_radix(word, 16)?;
    }
    Ok((u32::try_from(index)?, mac))
}

/// Packets that an interface of this thread's namespace has received.
fn packets(device: &str) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'));
    let packets = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    packets.with_context(|| format!("/proc/net/dev tells nothing of {device}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generators_frame_is_one_that_a_kernel_takes() {
        let mut bytes = example();
        check(&mut bytes);
        // RFC 1071: with its checksum, a header sums up to all ones.
        let sum: u32 =
            bytes[14..34].chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        assert_eq!((bytes.len(), bytes[23], &bytes[40..42]), (64, 17, &[0u8, 0][..]));
    }
}
