//! XDP programs of a few instructions, written here instead of in an object file: one passes everything, one redirects everything.
//!
//! A veth only takes frames that XDP sends by TX when the receiving end runs an XDP program too; the passing one is for that.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::error::{Error, Result};
use super::netns::Netns;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
/// Native: in the driver, or fail.
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// `r0 = XDP_PASS (2)`, `exit`: opcode, registers, offset and immediate of struct bpf_insn as one word each.
const PASS: [u64; 2] = [0x0000_0002_0000_00b7, EXIT];
const EXIT: u64 = 0x0000_0000_0000_0095;

/// `return bpf_redirect(index, 0)`: `r1 = index`, `r2 = 0`, `call 23`, `exit`.
fn redirect(index: u32) -> [u64; 4] {
    [(u64::from(index) << 32) | 0x01b7, 0x02b7, 0x0000_0017_0000_0085, EXIT]
}

/// The beginning of `union bpf_attr` for BPF_PROG_LOAD; the kernel takes any prefix.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
}

/// The beginning of `union bpf_attr` for BPF_LINK_CREATE.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Keeps the program on the interface; dropping it takes the program off.
#[derive(Debug)]
pub struct XdpPass {
    _link: OwnedFd,
}

impl XdpPass {
    /// Puts the program on `device` inside `ns`, in native mode.
    pub fn attach(ns: &Netns, device: &str) -> Result<Self> {
        let what = || format!("attach a passing XDP program to {device} in {}", ns.name());
        let link = ns.enter(|| try_attach(device, &PASS))?.map_err(Error::io(what()))?;
        Ok(Self { _link: link })
    }

    /// Puts a program on `device` that hands every frame, unchanged, to the device `to` of the same namespace.
    pub fn attach_redirect(ns: &Netns, device: &str, to: &str) -> Result<Self> {
        let what = || format!("attach an XDP program to {device} in {} that redirects to {to}", ns.name());
        let attach = || index_of(to).and_then(|index| try_attach(device, &redirect(index)));
        let link = ns.enter(attach)?.map_err(Error::io(what()))?;
        Ok(Self { _link: link })
    }
}

/// Index of an interface of the calling thread's namespace.
pub(crate) fn index_of(device: &str) -> std::io::Result<u32> {
    let name = std::ffi::CString::new(device).map_err(std::io::Error::other)?;
    // SAFETY: a NUL-terminated string that lives through the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(index)
}

fn try_attach(device: &str, program: &[u64]) -> std::io::Result<OwnedFd> {
    let index = index_of(device)?;
    let load = ProgLoad {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: u32::try_from(program.len()).map_err(std::io::Error::other)?,
        insns: program.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
    };
    let program = bpf(BPF_PROG_LOAD, &load)?;
    let create = LinkCreate {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_ifindex: index,
        attach_type: BPF_XDP,
        flags: XDP_FLAGS_DRV_MODE,
    };
    bpf(BPF_LINK_CREATE, &create)
}

fn bpf<T>(command: libc::c_int, attr: &T) -> std::io::Result<OwnedFd> {
    // SAFETY: the attribute is a live repr(C) prefix of union bpf_attr of the given size, its pointers outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: both commands return a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(std::io::Error::other)?) })
}
