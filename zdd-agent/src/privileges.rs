//! The rights that the agent keeps: three capabilities, for itself alone. What it starts has none. System calls that nobody here needs are
//! given up in [`seccomp`](crate::seccomp).

use std::io;

use caps::{CapSet, Capability, CapsHashSet};

/// Load programs and maps; attach them, redirect, ask for neighbours; load programs that look at pointers.
const KEPT: [Capability; 3] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON];

/// Gives up everything but [`KEPT`], in this thread and in all that it starts. Call it before there are others. Says what could not be
/// given up. A caller who has less keeps less.
///
/// # Errors
/// The kernel refused to take rights away.
pub fn keep_what_is_needed() -> io::Result<()> {
    let failed = |error: caps::errors::CapsError| io::Error::other(error.to_string());
    // What is exec'd can gain nothing, whatever the file says.
    // SAFETY: these arguments touch no memory.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let bounding = caps::read(None, CapSet::Bounding).map_err(failed)?;
    let may_shrink = caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).map_err(failed)?;
    if may_shrink {
        for other in bounding.iter().filter(|capability| !KEPT.contains(capability)) {
            caps::drop(None, CapSet::Bounding, *other).map_err(failed)?;
        }
    }
    caps::clear(None, CapSet::Ambient).map_err(failed)?;
    let permitted = caps::read(None, CapSet::Permitted).map_err(failed)?;
    let kept: CapsHashSet = KEPT.into_iter().filter(|capability| permitted.contains(capability)).collect();
    caps::set(None, CapSet::Effective, &kept).map_err(failed)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(failed)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new()).map_err(failed)?;
    Ok(())
}

/// Makes a program that is about to be started have no capability at all: hooks and probes look and tell, nothing else. With
/// `no_new_privs` set, running as root does not bring them back.
pub fn none_for(command: &mut tokio::process::Command) {
    /// `struct __user_cap_header_struct` and two `__user_cap_data_struct` of linux/capability.h.
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    /// `_LINUX_CAPABILITY_VERSION_3`.
    const VERSION: u32 = 0x2008_0522;
    // SAFETY: between fork and exec only one system call is made, on memory of its own.
    unsafe {
        command.pre_exec(|| {
            let header = Header { version: VERSION, pid: 0 };
            let data = [0u32; 6];
            match libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
}
