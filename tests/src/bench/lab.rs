//! Everything loaded: floors, ours, another revision's, a stranger's, each behind a driver of its own.

use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData, ProgramArray};
use aya::programs::{ProgramFd, ProgramInfo, Xdp, XdpMode, loaded_programs};
use aya::{Ebpf, EbpfLoader, Pod};
use serde::Serialize;
use zdd_common::bench::{Drive, SLOTS, Vip4, Vip6};
use zdd_common::hash::fold;
use zdd_common::net::{Addr, TCP, UDP};

use super::Objects;
use super::cases::FORWARDS;
use super::frame::{PORT, first_service, vip};
use super::namespace::{LOOPBACK, PINS};
use super::ours::{ENDS, Ours, SERVICES};
use crate::bpf::{self, Mapped};
use crate::rig::index_of;

/// The floors, by the names of their programs.
pub(super) const FLOORS: [&str; 4] = ["tx", "mac", "pass", "stateless"];

/// How large a program is.
#[derive(Clone, Debug, Serialize)]
pub struct Size {
    /// Its name here.
    pub program: String,
    /// Instructions as the kernel translated them.
    pub instructions: u32,
    /// Instructions that the verifier looked at, paths counted each.
    pub verified: u32,
    /// Machine code, bytes.
    pub machine_code: u32,
}

/// A program behind a driver.
pub(super) struct Station {
    pub(super) name: String,
    driver: ProgramFd,
    drive: Mapped<Drive>,
    // Keeps the driver's prog array: the kernel empties one that no user space holds.
    _ebpf: Ebpf,
    _array: ProgramArray<MapData>,
}

/// All programs.
pub(super) struct Lab {
    pub(super) stations: Vec<Station>,
    pub(super) ours: Ours,
    pub(super) base: Option<Ours>,
    pub(super) sizes: Vec<Size>,
    _floors: Ebpf,
}

/// Name of ours among the stations.
pub(super) const OURS: &str = "zdd";
/// Name of the other revision's.
pub(super) const BASE: &str = "base";
/// Name of a stranger's.
pub(super) const OTHER: &str = "other";

/// Finds a loaded program: `pinned:PATH` or `id:N`.
pub(super) fn find_program(spec: &str) -> Result<ProgramFd> {
    let info = match spec.split_once(':') {
        Some(("pinned", path)) => {
            ProgramInfo::from_pin(path).with_context(|| format!("no program is pinned at {path}"))?
        }
        Some(("id", id)) => {
            let id: u32 = id.parse().with_context(|| format!("{id} is no program's number"))?;
            loaded_programs()
                .find_map(|info| info.ok().filter(|info| info.id() == id))
                .with_context(|| format!("no program has the number {id}; `bpftool prog` lists them"))?
        }
        _ => bail!("--program takes pinned:PATH or id:N, not {spec}"),
    };
    ensure!(info.program_type() as u32 == XDP, "{spec} is no XDP program");
    Ok(info.fd()?)
}

/// BPF_PROG_TYPE_XDP.
const XDP: u32 = 6;

impl Lab {
    /// Loads all of it, with flow tables for so many entries.
    pub(super) fn new(objects: &Objects, other: Option<&ProgramFd>, entries: u32) -> Result<Self> {
        let programs = &objects.programs;
        // Of one size at a time.
        let ours = |object: &[u8], name: &str| {
            Ours::load(object, &Path::new(PINS).join(format!("{name}-{entries}")), entries)
        };
        let mut base = objects.base.as_deref().map(|object| ours(object, BASE)).transpose()?;
        let mut ours = ours(&objects.ours, OURS)?;
        let mut floors = floors(programs)?;
        let mut stations = vec![];
        let mut sizes = vec![];
        for name in FLOORS {
            let program: &mut Xdp =
                floors.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
            program.load()?;
            sizes.push(size(name, &program.info()?));
            stations.push(Station::new(programs, name, program.fd()?)?);
        }
        for (name, instance) in [(OURS, Some(&mut ours)), (BASE, base.as_mut())] {
            let Some(instance) = instance else { continue };
            let program = instance.program()?;
            sizes.push(size(name, &program.info()?));
            stations.push(Station::new(programs, name, program.fd()?)?);
        }
        if let Some(program) = other {
            stations.push(Station::new(programs, OTHER, program)?);
        }
        Ok(Self { stations, ours, base, sizes, _floors: floors })
    }

    /// A station by its program's name.
    pub(super) fn station(&self, name: &str) -> Option<usize> {
        self.stations.iter().position(|station| station.name == name)
    }
}

fn size(program: &str, info: &ProgramInfo) -> Size {
    Size {
        program: program.to_owned(),
        // Of eight bytes each.
        instructions: info.size_translated().unwrap_or(0) / 8,
        verified: info.verified_instruction_count().unwrap_or(0),
        machine_code: info.size_jitted(),
    }
}

/// Attaches a driver to an interface that nobody uses. As long as it is attached anywhere, the kernel calls it directly (the XDP
/// dispatcher, kernel/bpf/dispatcher.c); else it would rewrite its own text before and after each turn and wait for all CPUs, 20 ms in
/// which the caches forget.
fn keep_direct(driver: &mut Xdp) -> Result<()> {
    let name = format!("drive{}", driver.info()?.id());
    let made = std::process::Command::new("ip")
        .args(["link", "add", &name, "type", "veth", "peer", "name", &format!("{name}p")])
        .output()
        .context("ip")?;
    ensure!(made.status.success(), "ip link add {name}: {}", String::from_utf8_lossy(&made.stderr));
    driver
        .attach(index_of(&name)?, XdpMode::Driver)
        .with_context(|| format!("attach the driver to {name}"))?;
    Ok(())
}

impl Station {
    fn new(object: &[u8], name: &str, program: &ProgramFd) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(object).context("the bench's object does not load")?;
        let driver: &mut Xdp = ebpf.program_mut("drive").context("no program drive")?.try_into()?;
        driver.load().context("the kernel refused the driver")?;
        keep_direct(driver)?;
        let driver = driver.fd()?.try_clone()?;
        let Some(Map::Array(drive)) = ebpf.take_map("DRIVE") else { bail!("no DRIVE") };
        let drive = Mapped::new(drive.fd().as_fd(), 1)?;
        let mut array: ProgramArray<MapData> = ebpf.take_map("PROGRAM").context("no PROGRAM")?.try_into()?;
        array.set(0, program, 0).with_context(|| {
            format!(
                "{name} cannot be called by the driver: it is no XDP program, or one for multi-buffer frames"
            )
        })?;
        Ok(Self { name: name.to_owned(), driver, drive, _ebpf: ebpf, _array: array })
    }

    /// Feeds the program `packets` frames and returns its last action. `drive` goes on where it was.
    pub(super) fn run(&self, drive: &mut Drive, frame: &[u8], packets: u32) -> Result<u32> {
        // SAFETY: a mapped value; no program runs.
        unsafe { self.drive.at(0).write(*drive) };
        let (action, _) = bpf::test_run(self.driver.as_fd(), LOOPBACK, frame, packets)
            .with_context(|| format!("BPF_PROG_TEST_RUN of {}", self.name))?;
        // SAFETY: as above.
        *drive = unsafe { self.drive.at(0).read() };
        Ok(action)
    }
}

/// Plain keys of the floors' maps.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Plain<T>(T);
// SAFETY: only made of types that `wire!` has proved to be plain.
unsafe impl<T: zdd_common::wire::Wire> Pod for Plain<T> {}

/// The floors' programs and maps: they know the VIPs that ours knows.
pub(super) fn floors(object: &[u8]) -> Result<Ebpf> {
    let services = SERVICES;
    let mut ebpf = EbpfLoader::new()
        .map_max_entries("VIPS4", ENDS)
        .map_max_entries("VIPS6", ENDS)
        .map_max_entries("TABLE4", services * SLOTS)
        .map_max_entries("TABLE6", services * SLOTS)
        .load(object)
        .context("the bench's object does not load")?;
    let known = (0..services).filter(|n| *n < 2 * FORWARDS.len() as u32 || *n >= first_service(true));
    {
        let mut vips: HashMap<_, Plain<Vip4>, u32> = ebpf.map_mut("VIPS4").context("VIPS4")?.try_into()?;
        for (n, proto) in known.clone().flat_map(|n| [(n, TCP), (n, UDP)]) {
            let std::net::IpAddr::V4(addr) = vip(n, false) else { bail!("an IPv4 VIP") };
            let key =
                Vip4 { addr: u32::from_ne_bytes(addr.octets()), port: PORT.to_be(), proto: proto.into() };
            vips.insert(&Plain(key), &n, 0)?;
        }
    }
    {
        let mut vips: HashMap<_, Plain<Vip6>, u32> = ebpf.map_mut("VIPS6").context("VIPS6")?.try_into()?;
        for (n, proto) in known.flat_map(|n| [(n, TCP), (n, UDP)]) {
            let key = Vip6 { addr: vip(n, true).into(), port: PORT.to_be(), proto: proto.into(), zero: 0 };
            vips.insert(&Plain(key), &n, 0)?;
        }
    }
    fill::<u64>(&mut ebpf, "TABLE4", |n| u64::from_ne_bytes([10, 8, 0, n, 0, 0, 0, 0]))?;
    fill::<Addr>(&mut ebpf, "TABLE6", |n| Addr { hi: 0xfd, lo: u64::from(n) << 56 })?;
    Ok(ebpf)
}

/// Fills a table with a hundred backends at random.
fn fill<T: Copy + Default>(ebpf: &mut Ebpf, name: &str, backend: impl Fn(u8) -> T) -> Result<()> {
    let Some(Map::Array(data)) = ebpf.map(name) else { bail!("no array {name}") };
    let values = data.info()?.max_entries() as usize;
    let table: Mapped<T> = Mapped::new(data.fd().as_fd(), values).with_context(|| format!("map {name}"))?;
    for index in 0..values {
        let pick = 1 + (fold(3, index as u64) % 100) as u8;
        // SAFETY: a mapped value; no program runs.
        unsafe { table.at(index).write(backend(pick)) };
    }
    Ok(())
}
