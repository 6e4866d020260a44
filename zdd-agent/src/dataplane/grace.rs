//! Waiting until no XDP program that was running can still be running.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use super::DataplaneError;

/// A map of maps that nobody looks at: replacing its element makes the kernel wait for an RCU grace period before it
/// returns (kernel/bpf/syscall.c, `maybe_wait_bpf_programs`), which is what we are after. aya makes no such map from
/// user space, so these are two raw bpf(2) commands.
#[derive(Clone)]
pub struct GraceWaiter(Arc<Maps>);

struct Maps {
    outer: OwnedFd,
    inner: OwnedFd,
}

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

/// The first fields of `union bpf_attr` for BPF_MAP_CREATE.
#[repr(C)]
#[derive(Default)]
struct Create {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
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

/// One bpf(2) command. `attr` is the prefix of `union bpf_attr` that it needs; the kernel may write answers into it.
pub(super) fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: attr is a valid prefix of the union for the command; the kernel takes the rest as 0.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn create(mut attr: Create) -> io::Result<OwnedFd> {
    let fd = bpf(BPF_MAP_CREATE, &mut attr)?;
    // SAFETY: a new descriptor that is ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

impl GraceWaiter {
    /// Makes the two maps.
    pub(crate) fn new() -> io::Result<Self> {
        let shape = Create { key_size: 4, value_size: 4, max_entries: 1, ..Create::default() };
        let inner = create(Create { map_type: BPF_MAP_TYPE_ARRAY, ..shape })?;
        let outer = create(Create {
            map_type: BPF_MAP_TYPE_ARRAY_OF_MAPS,
            key_size: 4,
            value_size: 4,
            max_entries: 1,
            inner_map_fd: inner.as_raw_fd() as u32,
            ..Create::default()
        })?;
        Ok(Self(Arc::new(Maps { outer, inner })))
    }

    /// Returns when every XDP program that ran at the call has ended. Milliseconds.
    pub fn wait(&self) -> Result<(), DataplaneError> {
        let (key, value) = (0u32, self.0.inner.as_raw_fd() as u32);
        let mut attr = Update {
            map_fd: self.0.outer.as_raw_fd() as u32,
            pad: 0,
            key: std::ptr::from_ref(&key) as u64,
            value: std::ptr::from_ref(&value) as u64,
            flags: 0,
        };
        bpf(BPF_MAP_UPDATE_ELEM, &mut attr)
            .map(drop)
            .map_err(|error| DataplaneError::kernel("cannot wait for running programs", error))
    }
}
