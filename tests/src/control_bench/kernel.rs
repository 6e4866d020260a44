//! The few bpf(2) commands that measuring needs, and an array map in memory.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_TEST_RUN: libc::c_int = 10;

/// First fields of `union bpf_attr` for BPF_OBJ_GET.
#[repr(C)]
struct ObjGet {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The same for BPF_PROG_TEST_RUN.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: attr is a valid prefix of the union for the command; pointers in it are to buffers that live in the callers.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Opens a pinned map.
pub(super) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let name = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let fd = bpf(BPF_OBJ_GET, &mut ObjGet { path: name.as_ptr() as u64, fd: 0, flags: 0 })?;
    // SAFETY: a new descriptor that is ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Runs an XDP program once. The frame is as the program left it afterwards (it must not change its length). Returns the action
/// and the nanoseconds that the kernel measured.
pub(super) fn test_run(program: BorrowedFd<'_>, frame: &mut [u8]) -> io::Result<(u32, u32)> {
    let mut attr = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_size_out: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        data_out: frame.as_mut_ptr() as u64,
        repeat: 1,
        ..TestRun::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut attr)?;
    Ok((attr.retval, attr.duration))
}

/// Bytes that the kernel accounts for a map.
pub(super) fn memlock(map: BorrowedFd<'_>) -> io::Result<u64> {
    told(map, "memlock:")
}

/// Values that a map has room for.
pub(super) fn max_entries(map: BorrowedFd<'_>) -> io::Result<u64> {
    told(map, "max_entries:")
}

fn told(map: BorrowedFd<'_>, what: &str) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let line = text.lines().find_map(|line| line.strip_prefix(what));
    line.and_then(|number| number.trim().parse().ok())
        .ok_or_else(|| io::Error::other(format!("fdinfo tells no {what}")))
}

/// The values of an mmapable array, shared with the program, for as long as the process lives. Access by pointer.
pub(super) struct Mapped<T> {
    start: *mut T,
    pub(super) values: usize,
}

impl<T> Mapped<T> {
    pub(super) fn new(map: BorrowedFd<'_>, values: usize) -> io::Result<Self> {
        let bytes = (values * size_of::<T>()).next_multiple_of(4096);
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping; the kernel checks the length.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, rights, libc::MAP_SHARED, map.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: start.cast(), values })
    }

    pub(super) fn at(&self, index: usize) -> *mut T {
        assert!(index < self.values);
        // SAFETY: within the mapping.
        unsafe { self.start.add(index) }
    }
}
