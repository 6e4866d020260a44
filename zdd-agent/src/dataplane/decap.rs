//! The decapsulation program on a backend's interface, its maps and its pins.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, Map, MapData, PerCpuArray};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use zdd_common::decap::OUTCOMES;
use zdd_common::net::Addr;

use super::DataplaneError;
use super::attach::{Attached, Links};
use super::frags;
use super::object::{Plain, kernel_is_new_enough, missing, take};
use super::pins::{self, Pins};
use crate::desired::AttachMode;
use crate::prefix::Prefix;

/// The object, built for this agent.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/zdd-decap.bpf.o"));

const PROGRAM: &str = "zdd_decap";

/// The oldest Linux that it has been run on (`cargo xtask vm --kernel 5.10`). It has no atomics, so it is below the balancer's.
const FLOOR: (u32, u32) = (5, 10);

/// What is unwrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecapSpec {
    /// Where outer headers of balancers come from.
    pub from: Vec<Prefix>,
    /// What inner packets may be for.
    pub vips: Vec<IpAddr>,
}

/// The program, loaded, with its pin directory locked.
pub struct Decap {
    ebpf: Ebpf,
    links: Links,
    pins: Pins,
    counts: PerCpuArray<MapData, u64>,
}

/// Packets by outcome, in the order of [`OUTCOMES`].
pub type DecapCounts = Vec<u64>;

impl Decap {
    /// Loads the program and makes or finds its maps below `dir`, which is this interface's own. What an earlier run left
    /// there goes on meanwhile. Nothing is attached yet.
    pub fn open(dir: &Path, spec: &DecapSpec) -> Result<Self, DataplaneError> {
        kernel_is_new_enough(FLOOR, "pinned XDP links (5.9)")?;
        let (pins, adopted) = Pins::open(dir)?;
        // It redirects nothing, and shares no map with any other program: whatever comes from the wire may come in several buffers.
        let frags = frags::known();
        let fragmented = u32::from(frags);
        let mut ebpf = EbpfLoader::new()
            .default_map_pin_directory(&pins.dir)
            .override_global("FRAGS", &fragmented, true)
            .load(&frags::object(OBJECT, frags))
            .map_err(|error| super::object::load_error(dir, error))?;
        let mut balancers: LpmTrie<MapData, [u8; 16], u32> = take(&mut ebpf, "BALANCERS")?;
        let mut vips: HashMap<MapData, Plain<Addr>, u32> = take(&mut ebpf, "VIPS")?;
        let counts = take(&mut ebpf, "OUTCOME_COUNT")?;
        set_balancers(&mut balancers, &spec.from)?;
        set_vips(&mut vips, &spec.vips)?;
        program(&mut ebpf)?
            .load()
            .map_err(|error| DataplaneError::kernel("the kernel refused the XDP program", error))?;
        if !adopted {
            pins.mark()?;
        }
        Ok(Self { ebpf, links: Links::default(), pins, counts })
    }

    /// Attaches to the interface, or replaces the program of an earlier run there without a gap. `present`: the id of an XDP
    /// program that the interface has now. From here on it stays, whatever becomes of this process.
    pub fn attach(
        &mut self,
        interface: (u32, &str),
        mode: AttachMode,
        present: Option<u32>,
    ) -> Result<Attached, DataplaneError> {
        self.links.attach(program(&mut self.ebpf)?, &self.pins.dir, interface, mode, present)
    }

    /// What was counted since the maps were made.
    pub fn counts(&self) -> DecapCounts {
        sums(&self.counts)
    }

    /// Takes the program off the interface and its maps away. Without it both stay: the pins outlive the process on purpose.
    pub fn detach(self) -> Result<(), DataplaneError> {
        let dir = self.pins.dir.clone();
        pins::remove_all(&dir).map(drop).map_err(|error| {
            DataplaneError::kernel(format!("cannot remove the pins in {}", dir.display()), error)
        })
    }

    /// The program, for tests that run it on frames.
    #[doc(hidden)]
    pub fn program(&mut self) -> Option<&mut Xdp> {
        program(&mut self.ebpf).ok()
    }
}

/// What a program counted whose pins are in `dir`, whether or not its process runs; `None` if there is none.
pub fn decap_counts(dir: &Path) -> Result<Option<DecapCounts>, DataplaneError> {
    let path: PathBuf = dir.join("OUTCOME_COUNT");
    if !path.exists() {
        return Ok(None);
    }
    let opened = MapData::from_pin(&path)
        .and_then(Map::from_map_data)
        .and_then(PerCpuArray::<MapData, u64>::try_from)
        .map_err(|error| DataplaneError::kernel(format!("cannot read {}", path.display()), error))?;
    Ok(Some(sums(&opened)))
}

/// Whether a process keeps the pins in `dir`.
pub fn decap_runs(dir: &Path) -> bool {
    dir.exists() && matches!(Pins::open(dir), Err(DataplaneError::Locked { .. }))
}

fn sums(counts: &PerCpuArray<MapData, u64>) -> DecapCounts {
    (0..OUTCOMES.len() as u32)
        .map(|index| counts.get(&index, 0).map_or(0, |values| values.iter().sum()))
        .collect()
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, DataplaneError> {
    ebpf.program_mut(PROGRAM)
        .ok_or_else(|| missing(PROGRAM))?
        .try_into()
        .map_err(|error| DataplaneError::kernel("the object's program", error))
}

/// The key of a prefix: IPv4 below `::ffff:0:0/96`.
fn key(prefix: &Prefix) -> Key<[u8; 16]> {
    let inside = u32::from(128 - prefix.width());
    Key::new(inside + u32::from(prefix.length), Addr::from(prefix.addr).octets())
}

fn set_balancers(map: &mut LpmTrie<MapData, [u8; 16], u32>, from: &[Prefix]) -> Result<(), DataplaneError> {
    let same =
        |a: &Key<[u8; 16]>, b: &Key<[u8; 16]>| a.prefix_len() == b.prefix_len() && a.data() == b.data();
    let want: Vec<_> = from.iter().map(key).collect();
    let have: Vec<_> = map.keys().flatten().collect();
    // Added before others are taken away: what is in both stays believed all the time.
    for key in &want {
        map.insert(key, &1, 0).map_err(|error| {
            DataplaneError::kernel("cannot write a balancer's prefix (at most 1024)", error)
        })?;
    }
    for key in have.iter().filter(|key| !want.iter().any(|other| same(key, other))) {
        let _ = map.remove(key);
    }
    Ok(())
}

fn set_vips(map: &mut HashMap<MapData, Plain<Addr>, u32>, vips: &[IpAddr]) -> Result<(), DataplaneError> {
    let want: Vec<Addr> = vips.iter().map(|vip| Addr::from(*vip)).collect();
    let have: Vec<Addr> = map.keys().flatten().map(|key| key.0).collect();
    for vip in &want {
        map.insert(&Plain(*vip), &1, 0)
            .map_err(|error| DataplaneError::kernel("cannot write a VIP (at most 16384)", error))?;
    }
    for vip in have.iter().filter(|vip| !want.contains(vip)) {
        let _ = map.remove(&Plain(*vip));
    }
    Ok(())
}

/// Takes the program off the interface and its maps away. Refuses while another process keeps them; nothing there is fine.
pub fn decap_detach(dir: &Path) -> Result<bool, DataplaneError> {
    Ok(super::detach(dir)? > 0)
}
