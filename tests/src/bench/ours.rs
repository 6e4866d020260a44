//! The program of ours (this revision's, or another's) with its maps filled, without an agent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, HashMap, Map, MapData, ProgramArray};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader, Pod};
use zdd_common::atomic::{Atomics as _, Host};
use zdd_common::entries::{
    Affinity, Backend, Cell, Commit, EndEntry, EndKind, Mode, NextHop, Port, Service, VipWord,
};
use zdd_common::flows::{self, Bucket};
use zdd_common::hash::{HashKey, fold};
use zdd_common::limits::{CELLS_DEFAULT, SNAT_SOURCES_MAX, SYN_FILTER_DEFAULT, WAYS};
use zdd_common::maps::{Config, Quotas, Repliers};
use zdd_common::net::{Addr, End, TCP, UDP};
use zdd_common::reason::REASONS;
use zdd_common::snat::{mapping, pool::Pool};
use zdd_common::syn_filter::{self, Line};
use zdd_common::vips::{self, VIP_WAYS, VipLine};
use zdd_common::wire::Wire;

use super::cases::{FORWARDS, MANY, many_forward};
use super::frame::{PORT, first_of_many, first_service, vip};
use super::namespace::LOOPBACK;
use crate::bpf::{self, Mapped};

/// Backends of each forwarding mode.
const BACKENDS: u32 = 100;
/// Known ends: each service has four.
pub(super) const ENDS: u32 = 1 << 14;
/// Of all services.
const KEY: HashKey = HashKey { k0: 11, k1: 12 };
/// The agent's default.
const LINES: u32 = SYN_FILTER_DEFAULT / size_of::<Line>() as u32;
/// As the agent sizes them for so many services.
pub(super) const VIP_LINES: u32 = vips::lines_for(2 * SERVICES);
/// Services: see `frame::service`.
pub(super) const SERVICES: u32 = 100 + 2 * MANY;
/// Backends of each address family.
const PER_FAMILY: u32 = FORWARDS.len() as u32 * BACKENDS;
/// Slot of the program for `snat`: `zdd-ebpf/src/maps.rs`.
const SNAT: u32 = 1;
/// The port by which everything leaves: where it came in.
pub(super) const BOUNCE: u16 = 1;

/// A wire type as aya wants it.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Plain<T>(T);
// SAFETY: only made of types that `wire!` has proved to be plain.
unsafe impl<T: Wire> Pod for Plain<T> {}

/// The program and its maps.
pub(super) struct Ours {
    ebpf: Ebpf,
    services: Mapped<Service>,
    cells: Mapped<u64>,
    backends: Mapped<Backend>,
    flows: Mapped<Bucket>,
    buckets: u32,
    filter: Mapped<Line>,
    quotas: Mapped<Quotas>,
    ends: HashMap<MapData, Plain<End>, Plain<EndEntry>>,
    /// `None`: the revision has none.
    vips: Option<Mapped<VipLine>>,
    repliers: Mapped<Repliers>,
    ports: Array<MapData, Plain<Port>>,
    pool: Array<MapData, Plain<Pool>>,
    mappings: Mapped<mapping::Bucket>,
    // Keeps the program for `snat` in its slot.
    _programs: ProgramArray<MapData>,
    reasons: MapData,
    cpus: usize,
    /// SYNs that the filter may hold.
    syns: u64,
}

impl Ours {
    /// Loads an object and fills its maps, with a flow table for so many entries. `dir`: on a BPF file system, for this instance's pins.
    pub(super) fn load(object: &[u8], dir: &Path, entries: u32) -> Result<Self> {
        let buckets = flows::buckets_for(entries);
        std::fs::create_dir_all(dir)?;
        let config = Plain(Config {
            buckets,
            lines: LINES,
            epoch_shift: syn_filter::epoch_shift(zdd_common::time::ticks(64_000_000_000)),
        });
        let (services, cells) = (SERVICES, SERVICES * CELLS_DEFAULT);
        let backends = 2 * PER_FAMILY + 1;
        let mut loader = EbpfLoader::new();
        loader
            .default_map_pin_directory(dir)
            .map_max_entries("ENDS", ENDS)
            .map_max_entries("VIPS", VIP_LINES)
            .map_max_entries("SERVICES", services)
            .map_max_entries("CELLS", cells)
            .map_max_entries("BACKENDS", backends)
            .map_max_entries("PORTS", 64)
            .map_max_entries("TX", 64)
            .map_max_entries("LOCALS", 65_536)
            .map_max_entries("DIRECT", 65_536)
            .map_max_entries("FLOWS", buckets)
            .map_max_entries("SYNS", LINES)
            .map_max_entries("MAPPINGS", pool().table())
            .map_max_entries("FACTS", services)
            .map_max_entries("SERVICE_COUNT", services)
            .map_max_entries("BACKEND_COUNT", backends);
        loader.override_global("CONFIG", &config, true);
        // Not there yet in older revisions, as is the other.
        loader.override_global("HASH_START", &KEY.k0, false);
        loader.override_global("VIP_LINES", &VIP_LINES, false);
        let mut ebpf =
            loader.load(&zdd_agent::dataplane::raw::plain(object)).context("the XDP object does not load")?;
        let program: &mut Xdp = ebpf.program_mut("zdd").context("no program zdd")?.try_into()?;
        program.load().context("the kernel refused the XDP program")?;
        let snat: &mut Xdp = ebpf.program_mut("zdd_snat").context("no program zdd_snat")?.try_into()?;
        snat.load().context("the kernel refused the program for snat")?;
        let snat = snat.fd()?.try_clone()?;
        let mut programs: ProgramArray<_> = ebpf.take_map("PROGRAMS").context("PROGRAMS")?.try_into()?;
        programs.set(SNAT, &snat, 0)?;
        let mut this = Self {
            services: mapped(&mut ebpf, "SERVICES", services)?,
            cells: mapped(&mut ebpf, "CELLS", cells)?,
            backends: mapped(&mut ebpf, "BACKENDS", backends)?,
            flows: mapped(&mut ebpf, "FLOWS", buckets)?,
            buckets,
            filter: mapped(&mut ebpf, "SYNS", LINES)?,
            quotas: mapped(&mut ebpf, "QUOTAS", 1)?,
            ends: ebpf.take_map("ENDS").context("ENDS")?.try_into()?,
            repliers: mapped(&mut ebpf, "REPLIERS", 1)?,
            vips: ebpf.map("VIPS").is_some().then(|| mapped(&mut ebpf, "VIPS", VIP_LINES)).transpose()?,
            ports: ebpf.take_map("PORTS").context("PORTS")?.try_into()?,
            pool: ebpf.take_map("SNAT_POOL").context("SNAT_POOL")?.try_into()?,
            mappings: mapped(&mut ebpf, "MAPPINGS", pool().table())?,
            _programs: programs,
            reasons: MapData::from_pin(dir.join("REASON_COUNT"))?,
            cpus: aya::util::nr_cpus().map_err(|(_, error)| error)?.get() as usize,
            syns: 0,
            ebpf,
        };
        this.fill()?;
        Ok(this)
    }

    /// The program.
    pub(super) fn program(&mut self) -> Result<&mut Xdp> {
        Ok(self.ebpf.program_mut("zdd").context("no program zdd")?.try_into()?)
    }

    fn fill(&mut self) -> Result<()> {
        self.ports.set(BOUNCE.into(), &Plain(port()), 0)?;
        self.pool.set(0, &Plain(pool()), 0)?;
        // SAFETY: a mapped value; no program runs.
        unsafe { (*self.quotas.at(0)).limit = [u64::MAX / 2; 3] };
        for v6 in [false, true] {
            for (forward, (_, mode)) in (0u32..).zip(FORWARDS) {
                let first = 1 + u32::from(v6) * PER_FAMILY + forward * BACKENDS;
                for id in first..first + BACKENDS {
                    // SAFETY: a mapped value; no program runs.
                    unsafe { self.backends.at(id as usize).write(backend(id, v6, *mode)) };
                }
                let n = first_service(v6) + 2 * forward;
                self.service(n, v6, first, false)?;
                self.service(n + 1, v6, first, true)?;
                if *mode == many_forward(v6) {
                    for n in 0..MANY {
                        self.service(first_of_many(v6) + n, v6, first, false)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Service `n` with a VIP of either protocol; its cells spread over the backends from `first` on.
    fn service(&mut self, n: u32, v6: bool, first: u32, dirty: bool) -> Result<()> {
        let row = n * CELLS_DEFAULT;
        for index in 0..CELLS_DEFAULT {
            let pick = |salt| (first + (fold(salt, index.into()) % u64::from(BACKENDS)) as u32) as u16;
            let cell = if dirty {
                Cell::new(pick(1), pick(2), Cell::DIRTY | Cell::LOOKUP)
            } else {
                Cell::settled(pick(1))
            };
            // SAFETY: a mapped value; no program runs.
            unsafe { self.cells.at((row + index) as usize).write(cell.0) };
        }
        let service = Service {
            commit: Commit::new(row, 1).0,
            key: KEY,
            groups: CELLS_DEFAULT,
            per_group: 1,
            affinity: Affinity::Flow as u32,
            udp_idle: 400,
            ..Service::default()
        };
        // SAFETY: as above.
        unsafe { self.services.at(n as usize).write(service) };
        for proto in [TCP, UDP] {
            let end = End::new(vip(n, v6).into(), PORT.to_be(), proto);
            let id = (2 * n + u32::from(proto == UDP)) as u16;
            let entry = EndEntry { kind: EndKind::Vip as u16, service: n as u16, id, ..EndEntry::default() };
            self.ends.insert(&Plain(end), &Plain(entry), 0)?;
            self.find_quickly(&end, &entry);
        }
        Ok(())
    }

    /// Gives a VIP a way of its line, as the agent does, or tells the sketch of it.
    fn find_quickly(&self, end: &End, entry: &EndEntry) {
        let (Some(vips), Some(word)) = (&self.vips, VipWord::of(entry)) else { return };
        let (line, tag) = vips::place(end, VIP_LINES);
        let line = vips.at(line as usize);
        // SAFETY: a mapped value; no program runs.
        let free = |way: &usize| unsafe { (*line).words[*way] == 0 };
        match (0..VIP_WAYS).find(free) {
            // SAFETY: as above.
            Some(way) => unsafe {
                vips::claim::<Host>(line, way, end);
                (*line).words[way] = word.0 | tag;
            },
            None => {
                let (word, bit) = Repliers::place(end);
                // SAFETY: as above.
                unsafe { (*self.repliers.at(0)).words[word] |= bit };
            }
        }
    }

    /// Gives all ports of `snat` back.
    pub(super) fn give_ports_back(&mut self) {
        self.mappings.clear();
    }

    /// Forgets all flows and SYNs.
    pub(super) fn forget(&mut self) {
        self.flows.clear();
        self.filter.clear();
        // SAFETY: a mapped value; no program runs.
        unsafe { (*self.quotas.at(0)).used = [0; 3] };
        self.syns = 0;
    }

    /// Tells of SYNs to come. The filter is emptied before it is so full that new ones look like old ones, and the flow table
    /// before it is half full.
    pub(super) fn make_room(&mut self, syns: u64) {
        self.syns += syns;
        if self.entries() > u64::from(self.buckets) * WAYS as u64 / 2 {
            self.forget();
        } else if self.syns > u64::from(LINES) * 4 {
            self.filter.clear();
            self.syns = syns;
        }
    }

    /// Entries of the flow table.
    pub(super) fn entries(&self) -> u64 {
        // SAFETY: a mapped value; three words, no program runs.
        unsafe { (0..3).map(|class| Host::load(&raw const (*self.quotas.at(0)).used[class])).sum() }
    }

    /// Packets by reason.
    pub(super) fn reasons(&self) -> Result<Vec<u64>> {
        // Another revision's may know fewer, and each has room for more.
        let names = REASONS.len().min(self.reasons.info()?.max_entries() as usize);
        Ok(bpf::per_cpu_sums(self.reasons.fd().as_fd(), names, self.cpus)?)
    }
}

/// The interface that frames come in by, where they are bounced.
pub(super) fn port() -> Port {
    Port { ifindex: LOOPBACK, flags: Port::TX, mac: [2, 0, 0, 0, 0, 1], tags: 0, mtu: 1500 }
}

/// What `snat` gives out: half a million ports of each family, an eighth of which 64k flows take.
pub(super) fn pool() -> Pool {
    let mut sources = [[Addr::default(); SNAT_SOURCES_MAX]; 2];
    for n in 0..2 {
        sources[0][usize::from(n)] = IpAddr::V4(Ipv4Addr::new(10, 7, 0, n)).into();
        sources[1][usize::from(n)] = IpAddr::V6(Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, n.into())).into();
    }
    Pool {
        key: HashKey { k0: 13, k1: 14 },
        first: 1024,
        ports: 64_512,
        planes: 4,
        addresses: [2, 2],
        sources,
    }
}

/// Backend `id`, of the family that its service's packets are of.
pub(super) fn backend(id: u32, v6: bool, mode: Mode) -> Backend {
    let [.., a, b] = id.to_be_bytes();
    let (addr, source): (IpAddr, IpAddr) = if v6 {
        (
            Ipv6Addr::new(0xfd08, 0, 0, 0, 0, 0, 0, id as u16).into(),
            Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, 0).into(),
        )
    } else {
        ([10, 8, a, b].into(), [172, 16, 0, 0].into())
    };
    Backend {
        addr: addr.into(),
        next_hop: NextHop::new([2, 0, 0, 0xbb, a, b], BOUNCE).0,
        port: 8080u16.to_be(),
        mode: mode as u16,
        service: 0,
        source: source.into(),
        spread: 0xffff,
        ..Backend::default()
    }
}

fn mapped<T: Copy + Default>(ebpf: &mut Ebpf, name: &str, values: u32) -> Result<Mapped<T>> {
    let Some(Map::Array(data)) = ebpf.take_map(name) else { anyhow::bail!("no array {name} in the object") };
    let size = data.info()?.value_size() as usize;
    ensure!(
        size == size_of::<T>(),
        "{name} has values of {size} bytes, this revision's have {}",
        size_of::<T>()
    );
    Mapped::new(data.fd().as_fd(), values as usize).with_context(|| format!("map {name} into memory"))
}
