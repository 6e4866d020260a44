//! The two bpf(2) commands that tests and bench issue themselves, so that threads can run a program while another changes
//! its tables, and an array map in memory.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;

/// First fields of `union bpf_attr` for BPF_PROG_TEST_RUN.
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

/// First fields of `union bpf_attr` for BPF_MAP_LOOKUP_BATCH.
#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// `struct xdp_md`.
#[repr(C)]
#[derive(Default)]
struct XdpMd {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<()> {
    // SAFETY: attr is a valid prefix of the union for the command; the pointers in it are to live buffers of the callers.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Runs an XDP program once on a frame that came in by nothing that the program could look at. Linux before 5.14 takes no more.
pub fn run_anywhere(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<(u32, Vec<u8>)> {
    run_with(program, frame, 1, None)
}

/// Runs an XDP program `repeat` times on a frame that came in by `ifindex` (queue 0) of the calling thread's network
/// namespace. Returns the last action and the frame as it is afterwards.
pub fn test_run(
    program: BorrowedFd<'_>,
    ifindex: u32,
    frame: &[u8],
    repeat: u32,
) -> io::Result<(u32, Vec<u8>)> {
    run_behind(program, ifindex, frame, repeat, 0)
}

/// [`test_run`] with metadata in front of the frame, which takes that many bytes (a multiple of 4) of the 256 there are.
pub fn run_behind(
    program: BorrowedFd<'_>,
    ifindex: u32,
    frame: &[u8],
    repeat: u32,
    metadata: usize,
) -> io::Result<(u32, Vec<u8>)> {
    let input = [&vec![0; metadata][..], frame].concat();
    let (data, data_end) = (metadata as u32, input.len() as u32);
    let ctx = XdpMd { data, data_end, ingress_ifindex: ifindex, ..XdpMd::default() };
    let (action, mut out) = run_with(program, &input, repeat, Some(&ctx))?;
    out.drain(..metadata);
    Ok((action, out))
}

fn run_with(
    program: BorrowedFd<'_>,
    input: &[u8],
    repeat: u32,
    ctx: Option<&XdpMd>,
) -> io::Result<(u32, Vec<u8>)> {
    let mut out = vec![0; input.len() + 64];
    let mut attr = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: input.len() as u32,
        data_size_out: out.len() as u32,
        data_in: input.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat,
        ctx_size_in: ctx.map_or(0, |_| size_of::<XdpMd>() as u32),
        ctx_in: ctx.map_or(0, |ctx| std::ptr::from_ref(ctx) as u64),
        ..TestRun::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut attr)?;
    out.truncate(attr.data_size_out as usize);
    Ok((attr.retval, out))
}

/// Runs an XDP program on `count` frames that really go where it sends them (BPF_F_TEST_XDP_LIVE_FRAMES, Linux 5.18). A frame may
/// come back as the program left it. The namespace is the calling thread's.
pub fn send_frames(program: BorrowedFd<'_>, frame: &[u8], count: u32) -> io::Result<()> {
    const LIVE_FRAMES: u32 = 1 << 1;
    let mut attr = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat: count,
        flags: LIVE_FRAMES,
        batch_size: 64,
        ..TestRun::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut attr)
}

/// Sums of all `count` values of a per-CPU array of u64 over `cpus` CPUs.
pub fn per_cpu_sums(map: BorrowedFd<'_>, count: usize, cpus: usize) -> io::Result<Vec<u64>> {
    let mut keys = vec![0u32; count];
    let mut values = vec![0u64; count * cpus];
    let mut next = 0u32;
    let mut attr = Batch {
        out_batch: std::ptr::from_mut(&mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: count as u32,
        map_fd: map.as_raw_fd() as u32,
        ..Batch::default()
    };
    match bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) {
        // The kernel says so when the last batch reached the end.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        other => other?,
    }
    assert_eq!(attr.count as usize, count, "values read");
    let mut sums = vec![0; count];
    for (key, value) in keys.iter().zip(values.chunks(cpus)) {
        sums[*key as usize] = value.iter().sum();
    }
    Ok(sums)
}

/// An mmapable array map, shared with the program. Access by pointer: packets may change it at any moment.
pub struct Mapped<T> {
    start: *mut T,
    values: usize,
}

// SAFETY: access is by raw pointer only; whoever shares it says at each access why it is sound.
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mapped<T> {}

impl<T: Copy + Default> Mapped<T> {
    /// Maps all values, for as long as the process lives.
    pub fn new(map: BorrowedFd<'_>, values: usize) -> io::Result<Self> {
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

    /// Address of a value.
    ///
    /// # Panics
    /// Beyond the end.
    #[must_use]
    pub fn at(&self, index: usize) -> *mut T {
        assert!(index < self.values);
        // SAFETY: within the mapping.
        unsafe { self.start.add(index) }
    }

    /// All values as they stand. Only while no thread runs the program.
    pub fn all(&self) -> Vec<T> {
        // SAFETY: within the mapping.
        (0..self.values).map(|index| unsafe { self.at(index).read_volatile() }).collect()
    }

    /// Whether the values are these. Only while no thread runs the program.
    pub fn is(&self, values: &[T]) -> bool
    where
        T: PartialEq,
    {
        // SAFETY: the mapping, and nobody changes it meanwhile.
        values == unsafe { std::slice::from_raw_parts(self.start, self.values) }
    }

    /// Sets all values to their default. Only while no thread runs the program.
    pub fn clear(&self) {
        for index in 0..self.values {
            // SAFETY: within the mapping.
            unsafe { self.at(index).write_volatile(T::default()) };
        }
    }
}
