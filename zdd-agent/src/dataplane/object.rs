//! The object in the kernel: loading it, finding its maps again, and what the reconciler may do with them.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{
    Array, HashMap, Map, MapData, MapError, PerCpuArray, PerfEventArray, ProgramArray, xdp::DevMapHash,
};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfError, EbpfLoader, Pod};
use zdd_common::entries::{Backend, EndEntry, Facts, Port, Service};
use zdd_common::flows::{self, Bucket};
use zdd_common::hash::HashKey;
use zdd_common::maps::{Config, Counters, Quotas, Refusals, Repliers};
use zdd_common::net::{Addr, End};
use zdd_common::signals::table::SIGNAL_WAYS;
use zdd_common::signals::{SignalBucket, SignalConfig, SignalCounters};
use zdd_common::snat::mapping;
use zdd_common::snat::pool::Pool;
use zdd_common::sources::{Source, SourceKey};
use zdd_common::spans::{Span, SpanKey};
use zdd_common::syn_filter::{self, Line};
use zdd_common::trace::{TraceAsk, TraceBudget};
use zdd_common::vips::lines_for;

use super::DataplaneError;
use super::attach::{Attached, Links};
use super::fault::{self, Write};
use super::frags;
use super::grace::GraceWaiter;
use super::mapped::Mapped;
use super::mappings;
use super::pins::Pins;
use super::vips::Vips;
use crate::desired::{AgentSpec, AttachMode};

/// The XDP object, built for this agent.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/zdd.bpf.o"));

/// Ports (interfaces and their MAC addresses) that one run of the agent can name.
const PORTS: u32 = 4096;

/// A wire type as aya wants it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Plain<T>(pub(super) T);
// SAFETY: only made of types that `wire!` has proved to be plain.
unsafe impl<T: zdd_common::wire::Wire> Pod for Plain<T> {}

/// The kernel's side, open.
pub struct Dataplane {
    ebpf: Ebpf,
    links: Links,
    pub(super) pins: Pins,
    pub(super) services: Mapped<Service>,
    pub(super) cells: Arc<Mapped<u64>>,
    pub(super) backends: Mapped<Backend>,
    pub(super) flows: Mapped<Bucket>,
    pub(super) filter: Mapped<Line>,
    pub(super) facts: Mapped<Facts>,
    pub(super) quotas: Mapped<Quotas>,
    pub(super) signal_flows: Mapped<SignalBucket>,
    pub(super) signals: Mapped<SignalCounters>,
    pub(super) key: HashKey,
    pub(super) signal_secret: u64,
    pub(super) pool: Pool,
    pub(super) mappings: Mapped<mapping::Bucket>,
    pub(super) ends: HashMap<MapData, Plain<End>, Plain<EndEntry>>,
    pub(super) spans: LpmTrie<MapData, Plain<SpanKey>, Plain<Span>>,
    pub(super) sources: LpmTrie<MapData, Plain<SourceKey>, Plain<Source>>,
    pub(super) repliers: Mapped<Repliers>,
    pub(super) vips: Vips,
    pub(super) ports: Array<MapData, Plain<Port>>,
    pub(super) tx: DevMapHash<MapData>,
    pub(super) wanted: HashMap<MapData, Plain<Addr>, u32>,
    pub(super) locals: HashMap<MapData, Plain<Addr>, u32>,
    /// Packets by reason: a per-CPU array of `u64`.
    pub(super) reasons: OwnedFd,
    pub(super) service_count: PerCpuArray<MapData, Plain<Counters>>,
    pub(super) refused_count: PerCpuArray<MapData, Plain<Refusals>>,
    pub(super) backend_count: PerCpuArray<MapData, Plain<Counters>>,
    /// The same map, for reading many at once.
    pub(super) backend_count_fd: OwnedFd,
    /// CPUs that per-CPU values have room for.
    pub(super) cpus: usize,
    pub(super) config: Config,
    pub(super) limit_ends: u32,
    programs: ProgramArray<MapData>,
    pub(super) trace: Array<MapData, Plain<TraceAsk>>,
    pub(super) trace_budget: PerCpuArray<MapData, Plain<TraceBudget>>,
    pub(super) trace_out: PerfEventArray<MapData>,
    grace: GraceWaiter,
}

fn read(logger: aya_log::EbpfLogger<&'static dyn log::Log>) {
    // SAFETY: the logger owns its descriptor, keeps it for life and is moved into the registration.
    let registered =
        unsafe { tokio::io::unix::AsyncFd::register_with_interest(logger, tokio::io::Interest::READABLE) };
    let Ok(mut readable) = registered else {
        tracing::warn!("what the programs log is not readable");
        return;
    };
    tokio::spawn(async move {
        while let Ok(mut guard) = readable.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
}

/// What opening found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// No maps: first start, or a reboot.
    Fresh,
    /// Maps of an earlier run, with whatever traffic they carry.
    Adopted,
}

/// Sizes of the tables as they are made.
fn config_of(agent: &AgentSpec) -> Config {
    let limits = &agent.limits;
    let memory = zdd_common::time::ticks(agent.syn_memory.as_nanos() as u64);
    Config {
        buckets: flows::buckets_for(limits.flows),
        lines: (limits.syn_filter / size_of::<Line>() as u32).max(1).next_power_of_two(),
        epoch_shift: syn_filter::epoch_shift(memory),
    }
}

/// Buckets of the table in which flows are followed.
fn signal_buckets(agent: &AgentSpec) -> u32 {
    (agent.limits.signals / SIGNAL_WAYS as u32).max(1).next_power_of_two()
}

/// The maps whose size follows from the limits alone, with that size.
pub(super) fn sizes(agent: &AgentSpec) -> [(&'static str, u32); 7] {
    let (config, limits) = (config_of(agent), &agent.limits);
    [
        ("SERVICES", limits.services),
        ("CELLS", limits.cells),
        ("BACKENDS", limits.backends + 1),
        ("DIRECT", limits.direct),
        ("FLOWS", config.buckets),
        ("SYNS", config.lines),
        ("SIGNAL_FLOWS", signal_buckets(agent)),
    ]
}

impl Dataplane {
    /// Whether maps are pinned there that [`Self::open`] would adopt, or refuse.
    pub fn is_pinned(pin_dir: &Path) -> bool {
        Pins::found(pin_dir)
    }

    /// Loads the program and opens or makes the maps. Nothing is attached yet.
    ///
    /// `key` is that of all services, and chooses the flows that are followed. It must be the same for as long as the maps live: else
    /// every client is mapped anew, and those under way are not found again.
    ///
    /// `jumbo`: frames may be larger than a page. Maps that are there already go on as they were made.
    pub fn open(agent: &AgentSpec, key: HashKey, jumbo: bool) -> Result<(Self, Opened), DataplaneError> {
        let signal_secret = Self::signal_secret_of(key);
        kernel_is_new_enough(FLOOR, "atomic compare-and-swap in BPF (5.12)")?;
        let (pins, adopted) = Pins::open(&agent.pin_dir)?;
        let frags = takes_frags(&pins.dir, adopted, jumbo);
        let config = config_of(agent);
        let signal_buckets = signal_buckets(agent);
        let limits = &agent.limits;
        let wanted = mappings::pool_of(agent);
        mappings::make_room(&pins.dir, &wanted)?;
        // Each VIP, its address, and each backend.
        let limit_ends = 2 * limits.services + limits.backends;
        let vip_lines = lines_for(2 * limits.services);
        let mut loader = EbpfLoader::new();
        loader
            .default_map_pin_directory(&pins.dir)
            .map_max_entries("ENDS", limit_ends)
            .map_max_entries("VIPS", vip_lines)
            .map_max_entries("SERVICES", limits.services)
            .map_max_entries("CELLS", limits.cells)
            .map_max_entries("BACKENDS", limits.backends + 1)
            .map_max_entries("PORTS", PORTS)
            .map_max_entries("TX", PORTS)
            .map_max_entries("LOCALS", 65_536)
            .map_max_entries("DIRECT", limits.direct)
            .map_max_entries("FLOWS", config.buckets)
            .map_max_entries("SYNS", config.lines)
            .map_max_entries("MAPPINGS", mappings::buckets(&wanted))
            .map_max_entries("FACTS", limits.services)
            .map_max_entries("SIGNAL_FLOWS", signal_buckets)
            .map_max_entries("SIGNALS", limits.backends + 1)
            .map_max_entries("SERVICE_COUNT", limits.services)
            .map_max_entries("REFUSED_COUNT", limits.services)
            .map_max_entries("BACKEND_COUNT", limits.backends + 1);
        let plain = Plain(config);
        loader.override_global("CONFIG", &plain, true);
        let signals = Plain(SignalConfig { secret: signal_secret, buckets: signal_buckets, reserved: 0 });
        loader.override_global("SIGNAL_CONFIG", &signals, true);
        loader.override_global("HASH_START", &key.k0, true);
        loader.override_global("VIP_LINES", &vip_lines, true);
        let fragmented = u32::from(frags);
        loader.override_global("FRAGS", &fragmented, true);
        let mut ebpf =
            loader.load(&frags::object(OBJECT, frags)).map_err(|error| load_error(&agent.pin_dir, error))?;
        for name in [MAIN, ODD, SNAT] {
            program(&mut ebpf, name)?.load().map_err(|error| {
                DataplaneError::kernel(format!("the kernel refused the XDP program {name}"), error)
            })?;
        }
        let table = mapped(&mut ebpf, "MAPPINGS", mappings::buckets(&wanted))?;
        let pool = mappings::open_pool(map_of(&mut ebpf, "SNAT_POOL")?, &table, &pins.dir, agent)?;
        let mut dataplane = Self {
            pool,
            mappings: table,
            links: Links::default(),
            services: mapped(&mut ebpf, "SERVICES", limits.services)?,
            cells: Arc::new(mapped(&mut ebpf, "CELLS", limits.cells)?),
            backends: mapped(&mut ebpf, "BACKENDS", limits.backends + 1)?,
            flows: mapped(&mut ebpf, "FLOWS", config.buckets)?,
            filter: mapped(&mut ebpf, "SYNS", config.lines)?,
            facts: mapped(&mut ebpf, "FACTS", limits.services)?,
            quotas: mapped(&mut ebpf, "QUOTAS", 1)?,
            signal_flows: mapped(&mut ebpf, "SIGNAL_FLOWS", signal_buckets)?,
            signals: mapped(&mut ebpf, "SIGNALS", limits.backends + 1)?,
            key,
            signal_secret,
            ends: take(&mut ebpf, "ENDS")?,
            spans: take(&mut ebpf, "SPANS")?,
            sources: take(&mut ebpf, "SOURCES")?,
            repliers: mapped(&mut ebpf, "REPLIERS", 1)?,
            vips: Vips::new(mapped(&mut ebpf, "VIPS", vip_lines)?),
            ports: take(&mut ebpf, "PORTS")?,
            tx: take(&mut ebpf, "TX")?,
            wanted: take(&mut ebpf, "WANTED")?,
            locals: take(&mut ebpf, "LOCALS")?,
            reasons: descriptor(&ebpf, "REASON_COUNT")?,
            service_count: take(&mut ebpf, "SERVICE_COUNT")?,
            refused_count: take(&mut ebpf, "REFUSED_COUNT")?,
            backend_count_fd: descriptor(&ebpf, "BACKEND_COUNT")?,
            backend_count: take(&mut ebpf, "BACKEND_COUNT")?,
            cpus: cpus()?,
            grace: GraceWaiter::new()
                .map_err(|error| DataplaneError::kernel("cannot make the grace map", error))?,
            programs: take(&mut ebpf, "PROGRAMS")?,
            trace: take(&mut ebpf, "TRACE")?,
            trace_budget: take(&mut ebpf, "TRACE_BUDGET")?,
            trace_out: take(&mut ebpf, "TRACE_OUT")?,
            config,
            limit_ends,
            pins,
            ebpf,
        };
        dataplane.set_quotas();
        dataplane.set_odd()?;
        dataplane.set_snat()?;
        dataplane.note_repliers();
        dataplane.compare_vips();
        if !adopted {
            dataplane.pins.mark()?;
        }
        Ok((dataplane, if adopted { Opened::Adopted } else { Opened::Fresh }))
    }

    /// Attaches to an interface, or replaces the program of an earlier run there. `present`: the id of an XDP program
    /// that the interface has now.
    pub fn attach(
        &mut self,
        interface: (u32, &str),
        mode: AttachMode,
        present: Option<u32>,
    ) -> Result<Attached, DataplaneError> {
        let program = program(&mut self.ebpf, MAIN)?;
        self.links.attach(program, &self.pins.dir, interface, mode, present)
    }

    /// Detaches from an interface, or forgets one that is gone.
    pub fn detach_interface(&mut self, ifindex: u32) -> Result<(), DataplaneError> {
        self.links
            .detach(&self.pins.dir, ifindex)
            .map_err(|error| DataplaneError::kernel(format!("cannot detach from interface {ifindex}"), error))
    }

    /// What waits until no packet that was being processed can still be.
    pub fn grace(&self) -> GraceWaiter {
        self.grace.clone()
    }

    /// Ticks per epoch of the SYN filter, as a power of two.
    pub fn epoch_shift(&self) -> u32 {
        self.config.epoch_shift
    }

    /// Reads what the programs have to say to the log, until the agent ends.
    pub fn read_alarms(&mut self) {
        match aya_log::EbpfLogger::init(&mut self.ebpf) {
            Ok(logger) => read(logger),
            Err(error) => tracing::warn!(%error, "what the programs log is not readable"),
        }
    }

    /// The program, for tests that run it on frames.
    #[doc(hidden)]
    pub fn program(&mut self) -> Option<&mut Xdp> {
        program(&mut self.ebpf, MAIN).ok()
    }

    /// The program for frames that are not plain.
    #[doc(hidden)]
    pub fn odd_program(&mut self) -> Option<&mut Xdp> {
        program(&mut self.ebpf, ODD).ok()
    }

    /// The program for `snat`.
    #[doc(hidden)]
    pub fn snat_program(&mut self) -> Option<&mut Xdp> {
        program(&mut self.ebpf, SNAT).ok()
    }

    /// Makes the first program go on in ours for frames that are not plain. An earlier run's first program, which is still
    /// attached, does so too from now on: the two share maps of one layout and nothing else.
    #[doc(hidden)]
    pub fn set_odd(&mut self) -> Result<(), DataplaneError> {
        self.set_next(0, ODD)
    }

    /// The same for packets to and from `snat` backends.
    fn set_snat(&mut self) -> Result<(), DataplaneError> {
        self.set_next(1, SNAT)
    }

    fn set_next(&mut self, slot: u32, name: &'static str) -> Result<(), DataplaneError> {
        let what = || format!("cannot make {name} known to {MAIN}");
        let fd =
            program(&mut self.ebpf, name)?.fd().map_err(|error| DataplaneError::kernel(what(), error))?;
        fault::before(Write::Program);
        self.programs.set(slot, fd, 0).map_err(|error| DataplaneError::kernel(what(), error))
    }

    /// Takes it out again, for the test that shows what happens without it.
    #[doc(hidden)]
    pub fn clear_odd(&mut self) -> Result<(), DataplaneError> {
        self.programs
            .clear_index(&0)
            .map_err(|error| DataplaneError::kernel(format!("cannot take {ODD} out"), error))
    }
}

/// The attached program.
const MAIN: &str = "zdd";
/// The program that it goes on in for frames that are not plain.
const ODD: &str = "zdd_odd";
/// The program that both go on in for `snat`.
const SNAT: &str = "zdd_snat";

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, DataplaneError> {
    ebpf.program_mut(name)
        .ok_or_else(|| missing(name))?
        .try_into()
        .map_err(|error| DataplaneError::kernel("the object's program", error))
}

pub(super) fn missing(what: &str) -> DataplaneError {
    DataplaneError::Kernelspace {
        what: format!("{what} is missing in the object"),
        reason: "a build fault".into(),
    }
}

fn cpus() -> Result<usize, DataplaneError> {
    let cpus =
        aya::util::nr_cpus().map_err(|(_, error)| DataplaneError::kernel("cannot count CPUs", error))?;
    Ok(cpus.get() as usize)
}

/// A descriptor of a per-CPU array of its own.
fn descriptor(ebpf: &Ebpf, name: &'static str) -> Result<OwnedFd, DataplaneError> {
    let Some(Map::PerCpuArray(data)) = ebpf.map(name) else { return Err(missing(name)) };
    data.fd().as_fd().try_clone_to_owned().map_err(|error| DataplaneError::kernel(name, error))
}

fn map_of(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, DataplaneError> {
    ebpf.take_map(name).ok_or_else(|| missing(name))
}

pub(super) fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, DataplaneError>
where
    T: TryFrom<Map, Error = MapError>,
{
    T::try_from(map_of(ebpf, name)?).map_err(|error| DataplaneError::kernel(name, error))
}

fn mapped<T>(ebpf: &mut Ebpf, name: &'static str, values: u32) -> Result<Mapped<T>, DataplaneError> {
    let Map::Array(data) = map_of(ebpf, name)? else { return Err(missing(name)) };
    Mapped::new(data.fd().as_fd(), values)
        .map_err(|error| DataplaneError::kernel(format!("cannot map {name} into memory"), error))
}

pub(super) fn load_error(dir: &Path, error: EbpfError) -> DataplaneError {
    if let EbpfError::MapError(MapError::IncompatiblePinnedMap { name, property, expected, actual }) = &error
    {
        return DataplaneError::Resized {
            dir: dir.to_owned(),
            what: format!("{name} has {property} {actual}, asked for {expected}"),
        };
    }
    let text = DataplaneError::kernel("cannot load the XDP object", &error);
    let denied = |io: &std::io::Error| matches!(io.raw_os_error(), Some(libc::EPERM | libc::EACCES));
    match &error {
        EbpfError::MapError(MapError::CreateError { io_error, .. }) if denied(io_error) => {
            DataplaneError::Privileges { what: "making maps".into() }
        }
        _ => text,
    }
}

/// The first Linux that the balancer's programs run on: their features (5.12), and the oldest series with all of them that is kept up.
pub(super) const FLOOR: (u32, u32) = (5, 15);

/// The pinned map that belongs to programs of one kind: those that it names.
pub(super) const NEXT: &str = "PROGRAMS";

/// From which Linux on frames in several buffers are redirected; before, they vanish.
const REDIRECTS_FRAGS: (u32, u32) = (6, 3);

/// Whether this kernel does.
pub(super) fn redirects_frags() -> bool {
    kernel_is_new_enough(REDIRECTS_FRAGS, "frames in several buffers").is_ok() && frags::known()
}

/// Whether the programs are loaded so that they take frames in several buffers.
fn takes_frags(dir: &Path, adopted: bool, jumbo: bool) -> bool {
    if !adopted {
        return jumbo && redirects_frags();
    }
    let frags = frags::owns(&dir.join(NEXT)).unwrap_or(false);
    if jumbo && !frags {
        tracing::warn!(
            "an interface has an MTU above a page, and the maps are of a start when none had: XDP does not attach to it in native mode; \
             `zdd detach` in a quiet moment and start again"
        );
    }
    frags
}

/// Refuses a kernel below `floor`; `needs` says what it lacks.
pub(super) fn kernel_is_new_enough(floor: (u32, u32), needs: &'static str) -> Result<(), DataplaneError> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    if older(release, floor) {
        return Err(DataplaneError::Kernel { release: release.to_owned(), floor, needs });
    }
    Ok(())
}

/// Whether a kernel release is below what the balancer needs.
pub(super) fn too_old(release: &str) -> bool {
    older(release, FLOOR)
}

/// Whether a kernel release is below a floor. One that cannot be read is not: the kernel itself will say what it lacks.
fn older(release: &str, floor: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < floor,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_below_5_15_are_refused() {
        for (release, old) in [
            ("5.10.218-debian", true),
            ("4.19.0", true),
            ("5.14.21", true),
            ("5.15.0-rc1", false),
            ("6.1.176+", false),
            ("7.0", false),
            ("weird", false),
        ] {
            assert_eq!(too_old(release), old, "{release}");
        }
        assert!(!older("5.10.0-46-cloud-amd64", (5, 10)) && older("5.9.16", (5, 10)));
    }
}
