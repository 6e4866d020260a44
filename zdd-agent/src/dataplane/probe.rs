//! What this kernel can do, and what is pinned: looked at, never changed. For `zdd doctor`.

use std::fs;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use aya::maps::MapInfo;
use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_btf_supported, is_helper_supported, is_map_supported, is_program_supported};
use zdd_common::limits::LAYOUT;

use super::{attach, frags, object, pins};
use crate::desired::AgentSpec;

/// One thing that zdd asks of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// In the kernel's words.
    pub name: &'static str,
    /// Since which Linux it is there, for the way out.
    pub since: &'static str,
    /// It was tried and works; an error says why that could not be told.
    pub there: Result<bool, String>,
    /// zdd does not run without it.
    pub needed: bool,
}

/// Tries each feature that the XDP program and its maps use, by loading or making something tiny that goes away at once.
pub fn features() -> Vec<Feature> {
    let text = |error: &dyn std::error::Error| {
        let mut text = error.to_string();
        if let Some(source) = error.source() {
            text = format!("{text}: {source}");
        }
        text
    };
    let helper = |helper| is_helper_supported(ProgramType::Xdp, helper).map_err(|error| text(&error));
    let map = |kind| is_map_supported(kind).map_err(|error| text(&error));
    let feature = |name, since, there| Feature { name, since, there, needed: true };
    let xdp = is_program_supported(ProgramType::Xdp).map_err(|error| text(&error));
    vec![
        feature("XDP programs", "4.8", xdp),
        feature("atomic compare-and-swap in BPF", "5.12", compare_and_swap().map_err(|error| text(&error))),
        feature("helper ktime_get_coarse_ns", "5.11", helper(BpfHelper::BPF_FUNC_ktime_get_coarse_ns)),
        feature("helper redirect_map", "4.14", helper(BpfHelper::BPF_FUNC_redirect_map)),
        feature("helper fib_lookup", "4.18", helper(BpfHelper::BPF_FUNC_fib_lookup)),
        feature("map devmap_hash", "5.4", map(MapType::DevMapHash)),
        feature("map lru_hash", "4.10", map(MapType::LruHash)),
        feature("map ringbuf", "5.8", map(MapType::RingBuf)),
        Feature {
            name: "BTF",
            since: "5.2, CONFIG_DEBUG_INFO_BTF",
            there: is_btf_supported().map_err(|error| text(&error)),
            needed: false,
        },
    ]
}

/// The beginning of `union bpf_attr` for BPF_PROG_LOAD (include/uapi/linux/bpf.h); the kernel takes any prefix.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log: [u32; 4],
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
/// The program takes frames in several buffers (Linux 5.18).
pub(super) const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;

/// Loads `*(u64 *)(r10 - 8) = 0; r0 = 0; r1 = 1; lock cmpxchg(*(u64 *)(r10 - 8), r0, r1); exit`. An old verifier does not know the opcode.
fn compare_and_swap() -> io::Result<bool> {
    const PROGRAM: [u64; 5] = [
        0x0000_0000_fff8_0a7a,
        0x0000_0000_0000_00b7,
        0x0000_0001_0000_01b7,
        0x0000_00f1_fff8_1adb,
        0x0000_0000_0000_0095,
    ];
    loads(&PROGRAM, 0)
}

/// Whether the kernel takes an XDP program of these instructions and flags.
pub(super) fn loads(program: &[u64], flags: u32) -> io::Result<bool> {
    let attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log: [0; 4],
        kern_version: 0,
        prog_flags: flags,
        prog_name: [0; 16],
        prog_ifindex: 0,
        // As of the object's: programs that name one array must agree in it.
        expected_attach_type: BPF_XDP,
    };
    // SAFETY: a live repr(C) prefix of union bpf_attr of the given size; what it points to outlives the call.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, std::ptr::from_ref(&attr), size_of::<ProgLoad>())
    };
    if fd >= 0 {
        // SAFETY: a new descriptor that nobody else owns; dropping it unloads the program.
        drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        error => Err(error),
    }
}

/// Whether a directory, or the nearest of its ancestors that exists, is on a BPF file system.
pub fn on_bpffs(dir: &Path) -> bool {
    pins::on_bpffs(dir)
}

/// Whether the maps that are pinned in a directory belong to programs that take jumbo frames; `None`: there are none, or that cannot be told.
pub fn takes_jumbo(dir: &Path) -> Option<bool> {
    frags::owns(&dir.join(object::NEXT))
}

/// Whether a kernel release, as in `/proc/sys/kernel/osrelease`, is below what zdd needs.
pub fn too_old(release: &str) -> bool {
    object::too_old(release)
}

/// The name of a loaded program.
pub fn program_name(id: u32) -> String {
    attach::program_name(id)
}

/// What is pinned in a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pinned {
    /// There are maps of this build's layout.
    pub ours: bool,
    /// What else is there, in words.
    pub strange: Option<String>,
    /// Interfaces with a pinned link, by index.
    pub links: Vec<u32>,
    /// Maps whose size is not what the limits say: what, and how.
    pub resized: Vec<String>,
    /// The process that holds the directory: a running agent.
    pub holder: Option<u32>,
}

/// Looks at a pin directory without locking it: an agent that starts meanwhile must not meet us there.
pub fn pinned(agent: &AgentSpec) -> Pinned {
    let dir = &agent.pin_dir;
    let mut found = Pinned::default();
    if !dir.is_dir() {
        return found;
    }
    let marker = dir.join(pins::MARKER);
    if marker.exists() {
        match pins::read_marker(&marker) {
            Ok(LAYOUT) => found.ours = true,
            Ok(other) => {
                found.strange = Some(format!("maps of layout {other}; this zdd speaks layout {LAYOUT}"))
            }
            Err(why) => found.strange = Some(format!("a layout marker that is {why}")),
        }
    } else if let Some(name) = pins::any_map(dir) {
        found.strange = Some(format!("{name}, but no {}", pins::MARKER));
    }
    let links = fs::read_dir(dir.join("links")).into_iter().flatten().flatten();
    found.links = links.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    found.links.sort_unstable();
    if found.ours {
        found.resized = object::sizes(agent)
            .into_iter()
            .filter_map(|(name, wanted)| {
                let has = MapInfo::from_pin(dir.join(name)).ok()?.max_entries();
                (has != wanted).then(|| format!("{name} has room for {has}, agent.limits ask for {wanted}"))
            })
            .collect();
    }
    found.holder = fs::metadata(dir).ok().and_then(|meta| holder(meta.ino()));
    found
}

/// Who has a `flock` on the inode, by /proc/locks: `1: FLOCK  ADVISORY  WRITE 812 00:1d:4021 0 EOF`. Device numbers are left out: no two
/// pin directories that are asked about here have one inode number by chance and both a lock.
fn holder(inode: u64) -> Option<u32> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let of = fields.get(5)?.rsplit(':').next()?;
        (fields.get(1) == Some(&"FLOCK") && of.parse() == Ok(inode))
            .then(|| fields.get(4)?.parse().ok())
            .flatten()
    })
}
