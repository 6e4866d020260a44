//! Per-CPU counters, many at a time. aya has no batch commands, and asks the system for the number of CPUs at each read:
//! with 20,000 backends that is most of a second for one status.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use zdd_common::maps::Counters;

use super::grace::bpf;

const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;

/// First fields of `union bpf_attr` for BPF_MAP_LOOKUP_BATCH (include/uapi/linux/bpf.h).
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    /// In: room. Out: values read.
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The same for BPF_MAP_UPDATE_ELEM.
#[repr(C)]
struct Update {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Values of one system call: 64 Ki of 48 bytes on 64 CPUs would be 200 MiB at once.
const ROOM: usize = 4096;

/// Sums over `cpus` CPUs of the first `count` values of a per-CPU array of [`Counters`], by index. Linux 5.13.
pub(super) fn sums(map: BorrowedFd<'_>, count: u32, cpus: usize) -> io::Result<Vec<Counters>> {
    all(map, count, cpus, |each: &[Counters]| Counters::sum(each.iter().copied()))
}

/// The same of an array of plain numbers.
pub(super) fn totals(map: BorrowedFd<'_>, count: u32, cpus: usize) -> io::Result<Vec<u64>> {
    all(map, count, cpus, |each: &[u64]| each.iter().sum())
}

/// The first `count` values of a per-CPU array, by index, each as `sum` makes one of what `cpus` CPUs have. `T` is what the map holds: its
/// size is a multiple of 8 bytes, to which the kernel rounds.
fn all<T: Copy + Default, S: Clone + Default>(
    map: BorrowedFd<'_>,
    count: u32,
    cpus: usize,
    sum: impl Fn(&[T]) -> S,
) -> io::Result<Vec<S>> {
    const { assert!(size_of::<T>().is_multiple_of(8), "the kernel rounds values up to 8 bytes") };
    let mut sums = Vec::with_capacity(count as usize);
    let room = ROOM.min(count as usize);
    let mut keys = vec![0u32; room];
    let mut values = vec![T::default(); room * cpus];
    let mut at = 0u32;
    while sums.len() < count as usize {
        let mut next = 0u32;
        let mut batch = Batch {
            in_batch: if sums.is_empty() { 0 } else { std::ptr::from_ref(&at) as u64 },
            out_batch: std::ptr::from_mut(&mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: room as u32,
            map_fd: map.as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        let last = match bpf(BPF_MAP_LOOKUP_BATCH, &mut batch) {
            Ok(_) => false,
            // The kernel's way to say that these were the last.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        let read = (batch.count as usize).min(room);
        sums.extend(values[..read * cpus].chunks(cpus).map(&sum));
        if last || read == 0 {
            break;
        }
        at = next;
    }
    sums.resize(count as usize, S::default());
    Ok(sums)
}

/// Sets one value to 0 on all `cpus` CPUs.
pub(super) fn clear(map: BorrowedFd<'_>, index: u32, cpus: usize) -> io::Result<()> {
    write(map, index, vec![Counters::default(); cpus].as_slice())
}

/// Sets one value of an array to `value`, which is as long as the map's values are.
pub(super) fn write<T: ?Sized>(map: BorrowedFd<'_>, index: u32, value: &T) -> io::Result<()> {
    let mut update = Update {
        map_fd: map.as_raw_fd() as u32,
        pad: 0,
        key: std::ptr::from_ref(&index) as u64,
        value: std::ptr::from_ref(value).cast::<u8>() as u64,
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut update).map(drop)
}
