//! The maps. Sizes are placeholders that the agent overrides from its limits; all are pinned by name, so that they outlive
//! agent and program. What agent and packets both touch word by word is mapped into the agent.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{
    Array, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerfEventArray, ProgramArray,
};
use zdd_common::entries::{Backend, EndEntry, Facts, Port, Service};
use zdd_common::flows::Bucket;
use zdd_common::limits::{FRAGMENTED_MAX, PACED_MAX, PREFIXES_MAX, REASONS_MAX};
use zdd_common::maps::{Config, Counters, Quotas, Refusals, Repliers};
use zdd_common::net::{Addr, DirectKey, End};
use zdd_common::odd::{DatagramKey, Odd, Trail};
use zdd_common::pace::PaceKey;
use zdd_common::process::Work;
use zdd_common::signals::{SignalBucket, SignalConfig, SignalCounters};
use zdd_common::snat::{Job, Order, mapping, pool::Pool};
use zdd_common::sources::{Source, SourceKey};
use zdd_common::spans::{Span, SpanKey};
use zdd_common::syn_filter::Line;
use zdd_common::trace::{TraceAsk, TraceBudget, TraceMark};
use zdd_common::vips::VipLine;

/// What the agent sets before it loads the program.
#[unsafe(no_mangle)]
static CONFIG: Config = Config { buckets: 1, lines: 1, epoch_shift: 8 };

/// The same for signals.
#[unsafe(no_mangle)]
static SIGNAL_CONFIG: SignalConfig = SignalConfig { secret: 0, buckets: 1, reserved: 0 };

/// Where the hashes of clients begin.
#[unsafe(no_mangle)]
static HASH_START: u64 = 0;

/// It, as [`config`].
#[inline(always)]
pub(crate) fn hash_start() -> u64 {
    // SAFETY: a static is valid.
    unsafe { (&raw const HASH_START).read_volatile() }
}

/// Lines of [`VIPS`], a power of two.
#[unsafe(no_mangle)]
static VIP_LINES: u32 = 1;

/// Their number, as [`config`].
#[inline(always)]
pub(crate) fn vip_lines() -> u32 {
    // SAFETY: a static is valid.
    unsafe { (&raw const VIP_LINES).read_volatile() }
}

/// The signals' configuration, as [`config`].
#[inline(always)]
pub(crate) fn signal_config() -> SignalConfig {
    // SAFETY: a static is valid.
    unsafe { (&raw const SIGNAL_CONFIG).read_volatile() }
}

/// The configuration. Read volatile: the compiler must not believe the initial value.
#[inline(always)]
pub(crate) fn config() -> Config {
    // SAFETY: a static is valid.
    unsafe { (&raw const CONFIG).read_volatile() }
}

/// VIPs and `nat` backends by address, port and protocol.
#[map]
pub(crate) static ENDS: HashMap<End, EndEntry> = HashMap::pinned(1, 0);
/// VIPs once more, for a quick look.
#[map]
pub(crate) static VIPS: Array<VipLine> = Array::pinned(1, BPF_F_MMAPABLE);
/// Those of many ports.
#[map]
pub(crate) static SPANS: LpmTrie<SpanKey, Span> = LpmTrie::pinned(PREFIXES_MAX, 0);
/// What VIPs make of the sources of their packets.
#[map]
pub(crate) static SOURCES: LpmTrie<SourceKey, Source> = LpmTrie::pinned(PREFIXES_MAX, 0);
/// Buckets of the sources whose new connections are limited.
#[map]
pub(crate) static PACES: LruHashMap<PaceKey, u64> = LruHashMap::pinned(PACED_MAX, 0);
/// A sketch of those among the ends that are not in [`VIPS`].
#[map]
pub(crate) static REPLIERS: Array<Repliers> = Array::pinned(1, BPF_F_MMAPABLE);
/// Services by number.
#[map]
pub(crate) static SERVICES: Array<Service> = Array::pinned(1, BPF_F_MMAPABLE);
/// Rows of cells.
#[map]
pub(crate) static CELLS: Array<u64> = Array::pinned(1, BPF_F_MMAPABLE);
/// Backends by id.
#[map]
pub(crate) static BACKENDS: Array<Backend> = Array::pinned(1, BPF_F_MMAPABLE);
/// Interfaces that frames leave by.
#[map]
pub(crate) static PORTS: Array<Port> = Array::pinned(1, 0);
/// Interfaces that can take redirected frames, by index.
#[map]
pub(crate) static TX: DevMapHash = DevMapHash::pinned(1, 0);
/// Addresses of this host.
#[map]
pub(crate) static LOCALS: HashMap<Addr, u32> = HashMap::pinned(1, 0);
/// Conversations with backends' own addresses.
#[map]
pub(crate) static DIRECT: LruHashMap<DirectKey, u32> = LruHashMap::pinned(1, 0);
/// Where the first fragments of datagrams went.
#[map]
pub(crate) static FRAGMENTS: LruHashMap<DatagramKey, Trail> = LruHashMap::pinned(FRAGMENTED_MAX, 0);
/// Destinations of replies whose neighbour the kernel does not know: the agent has them resolved.
#[map]
pub(crate) static WANTED: LruHashMap<Addr, u32> = LruHashMap::pinned(1024, 0);
/// The flow table.
#[map]
pub(crate) static FLOWS: Array<Bucket> = Array::pinned(1, BPF_F_MMAPABLE);
/// The SYN filter.
#[map]
pub(crate) static SYNS: Array<Line> = Array::pinned(1, BPF_F_MMAPABLE);
/// What packets tell the agent, by service.
#[map]
pub(crate) static FACTS: Array<Facts> = Array::pinned(1, BPF_F_MMAPABLE);
/// Entries per class, used and allowed.
#[map]
pub(crate) static QUOTAS: Array<Quotas> = Array::pinned(1, BPF_F_MMAPABLE);
/// Where sampled flows are followed.
#[map]
pub(crate) static SIGNAL_FLOWS: Array<SignalBucket> = Array::pinned(1, BPF_F_MMAPABLE);
/// What they tell, by backend.
#[map]
pub(crate) static SIGNALS: Array<SignalCounters> = Array::pinned(1, BPF_F_MMAPABLE);
/// What `snat` may give out.
#[map]
pub(crate) static SNAT_POOL: Array<Pool> = Array::pinned(1, 0);
/// What it has given out.
#[map]
pub(crate) static MAPPINGS: Array<mapping::Bucket> = Array::pinned(1, BPF_F_MMAPABLE);
/// The order for the program that maps. Pinned: whoever leaves it may be of an earlier run than whoever takes it.
#[map]
pub(crate) static HANDED: PerCpuArray<Order> = PerCpuArray::pinned(1, 0);
/// Slot of the program for frames that are not plain.
pub(crate) const ODD: u32 = 0;
/// Slot of the program for `snat`.
pub(crate) const SNAT: u32 = 1;
/// Programs that another goes on in. Pinned like all maps, and for one reason more: the kernel empties such an array when
/// nobody in user space holds it any longer.
#[map]
pub(crate) static PROGRAMS: ProgramArray = ProgramArray::pinned(2, 0);
/// Where the first program works on a frame. Not pinned: it belongs to the program alone, and its layout may change with it.
#[map]
pub(crate) static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);
/// The same of the second one.
#[map]
pub(crate) static ODD_WORK: PerCpuArray<Odd> = PerCpuArray::with_max_entries(1, 0);
/// What traces want. This and what belongs to it is not pinned: a trace ends with the agent that asked for it.
#[map]
pub(crate) static TRACE: Array<TraceAsk> = Array::with_max_entries(1, 0);
/// How much of it each CPU may tell.
#[map]
pub(crate) static TRACE_BUDGET: PerCpuArray<TraceBudget> = PerCpuArray::with_max_entries(1, 0);
/// Where it goes: a ring for each CPU, with the first bytes of the frame behind each mark.
#[map]
pub(crate) static TRACE_OUT: PerfEventArray<TraceMark> = PerfEventArray::new(0);
/// The same of the third one.
#[map]
pub(crate) static SNAT_WORK: PerCpuArray<Job> = PerCpuArray::with_max_entries(1, 0);
/// Packets by reason.
#[map]
pub(crate) static REASON_COUNT: PerCpuArray<u64> = PerCpuArray::pinned(REASONS_MAX, 0);
/// Counters by service.
#[map]
pub(crate) static SERVICE_COUNT: PerCpuArray<Counters> = PerCpuArray::pinned(1, 0);
/// What was turned away, by service.
#[map]
pub(crate) static REFUSED_COUNT: PerCpuArray<Refusals> = PerCpuArray::pinned(1, 0);
/// Counters by backend.
#[map]
pub(crate) static BACKEND_COUNT: PerCpuArray<Counters> = PerCpuArray::pinned(1, 0);
