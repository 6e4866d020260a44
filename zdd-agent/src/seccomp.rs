//! System calls that the agent gives up once it has started, for itself and for all that it starts: those that reach into other
//! processes, change the machine, or have opened kernels before, and that nothing of ours makes.
//!
//! It is a list of what is denied, and not one of what is allowed: bpf(2), netlink and files are what the agent is made of, so a list of
//! what is allowed would have all that matters on it, and break with every new version of libc, and with every hook. What is denied
//! fails with EPERM, as it does for a user who may not; nothing is killed for it. The systemd unit's own filter is narrower.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    sock_filter,
};

/// What is denied, by what it could do in the hands of somebody who has taken over the agent or a hook.
const DENIED: &[(libc::c_long, &str)] = &[
    // Other processes: read them, write them, take their files.
    (libc::SYS_ptrace, "ptrace"),
    (libc::SYS_process_vm_readv, "process_vm_readv"),
    (libc::SYS_process_vm_writev, "process_vm_writev"),
    (libc::SYS_pidfd_getfd, "pidfd_getfd"),
    // The kernel: another one, or more of it.
    (libc::SYS_kexec_load, "kexec_load"),
    // The libc crate does not know its number there.
    #[cfg(not(all(target_arch = "aarch64", target_env = "musl")))]
    (libc::SYS_kexec_file_load, "kexec_file_load"),
    (libc::SYS_init_module, "init_module"),
    (libc::SYS_finit_module, "finit_module"),
    (libc::SYS_delete_module, "delete_module"),
    (libc::SYS_reboot, "reboot"),
    (libc::SYS_syslog, "syslog"),
    // What files are where; namespaces in which one is root again, from where most holes of kernels are reached.
    (libc::SYS_mount, "mount"),
    (libc::SYS_umount2, "umount2"),
    (libc::SYS_move_mount, "move_mount"),
    (libc::SYS_open_tree, "open_tree"),
    (libc::SYS_fsopen, "fsopen"),
    (libc::SYS_fsconfig, "fsconfig"),
    (libc::SYS_fsmount, "fsmount"),
    (libc::SYS_fspick, "fspick"),
    (libc::SYS_mount_setattr, "mount_setattr"),
    (libc::SYS_pivot_root, "pivot_root"),
    (libc::SYS_chroot, "chroot"),
    (libc::SYS_unshare, "unshare"),
    (libc::SYS_setns, "setns"),
    (libc::SYS_open_by_handle_at, "open_by_handle_at"),
    (libc::SYS_swapon, "swapon"),
    (libc::SYS_swapoff, "swapoff"),
    (libc::SYS_quotactl, "quotactl"),
    (libc::SYS_acct, "acct"),
    // Keys of users; the clock and the name of the machine.
    (libc::SYS_keyctl, "keyctl"),
    (libc::SYS_add_key, "add_key"),
    (libc::SYS_request_key, "request_key"),
    (libc::SYS_settimeofday, "settimeofday"),
    (libc::SYS_clock_settime, "clock_settime"),
    (libc::SYS_clock_adjtime, "clock_adjtime"),
    (libc::SYS_adjtimex, "adjtimex"),
    (libc::SYS_sethostname, "sethostname"),
    (libc::SYS_setdomainname, "setdomainname"),
    // Large, young, and the way into many a kernel; programs do without when they are told no.
    (libc::SYS_io_uring_setup, "io_uring_setup"),
    (libc::SYS_io_uring_enter, "io_uring_enter"),
    (libc::SYS_io_uring_register, "io_uring_register"),
    (libc::SYS_userfaultfd, "userfaultfd"),
];

/// Numbers from here on are those of x32, a second door to the same calls on x86-64 (asm/unistd.h: `__X32_SYSCALL_BIT`). Other
/// processors have no calls with such numbers.
const X32: u32 = 0x4000_0000;

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
#[error(
    "the kernel takes no seccomp filter: {0}\nhelp: boot one with CONFIG_SECCOMP_FILTER; the agent works without, and somebody who takes it over can do more"
)]
pub struct NoFilter(String);

/// Denies [`DENIED`] to this thread and to all that it starts, for good. Call it before there are others. Also sets `no_new_privs`, without
/// which the kernel takes a filter from CAP_SYS_ADMIN only.
///
/// # Errors
/// The kernel has no seccomp.
pub fn give_up() -> Result<(), NoFilter> {
    apply(&program()?).map_err(|error| NoFilter(error.to_string()))
}

/// By prctl(2) and not by seccomp(2): a service manager's own filter, as systemd's `@system-service`, may kill whoever calls that one.
fn apply(program: &[sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    // The two types of an instruction are the kernel's, by another name each.
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: these arguments touch no memory.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the program is valid for `len` instructions for as long as the call lasts, and the kernel copies it.
    if unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn program() -> Result<BpfProgram, NoFilter> {
    let failed = |error: seccompiler::BackendError| NoFilter(error.to_string());
    let no = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    // No conditions: whatever their arguments.
    let mut rules: BTreeMap<i64, Vec<_>> = DENIED.iter().map(|(number, _)| (*number, Vec::new())).collect();
    // clone(2) makes threads and children, and also what unshare(2) makes.
    let user = u64::from(libc::CLONE_NEWUSER.unsigned_abs());
    let asked = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(user), user);
    let asked = SeccompRule::new(vec![asked.map_err(failed)?]).map_err(failed)?;
    rules.insert(libc::SYS_clone, vec![asked]);
    let arch = std::env::consts::ARCH.try_into().map_err(failed)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, no, arch).map_err(failed)?;
    let own: BpfProgram = filter.try_into().map_err(failed)?;
    // In front of it: load the call's number (offset 0 of `struct seccomp_data`), deny those of x32, and say that there is no clone3(2),
    // whose flags lie in memory where no filter can look: every libc then takes clone(2).
    let op = |code: u32, jt: u8, jf: u8, k: u32| sock_filter { code: code as u16, jt, jf, k };
    let errno =
        |errno: i32| op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno.unsigned_abs());
    let clone3 = u32::try_from(libc::SYS_clone3).unwrap_or(u32::MAX);
    let mut program = vec![
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, X32),
        errno(libc::EPERM),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, clone3),
        errno(libc::ENOSYS),
    ];
    program.extend(own);
    Ok(program)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Sizes as linux/filter.h has them.
    const _: () =
        assert!(size_of::<sock_filter>() == 8 && size_of::<sock_filter>() == size_of::<libc::sock_filter>());

    /// In a thread of its own, which ends with its filter; the other tests go on without.
    #[test]
    fn what_is_denied_fails_and_the_rest_goes_on() {
        let program = program().unwrap();
        std::thread::spawn(move || {
            let asked = |number: libc::c_long, first: libc::c_long| {
                // SAFETY: no pointers but null: the kernel refuses them, if it comes to look at them at all.
                let got = unsafe { libc::syscall(number, first, 0, 0, 0, 0, 0) };
                (got < 0).then(|| std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
            };
            let errno = |number| asked(number, 0);
            // A call that does nothing and needs no rights, so that it can only be the filter that refuses it.
            assert_eq!(errno(libc::SYS_unshare), None, "before");
            apply(&program).unwrap();
            for (number, name) in DENIED {
                assert_eq!(errno(*number), Some(libc::EPERM), "{name}");
            }
            assert_eq!(
                asked(libc::SYS_clone, libc::CLONE_NEWUSER.into()),
                Some(libc::EPERM),
                "a user namespace"
            );
            assert_eq!(errno(libc::SYS_clone3), Some(libc::ENOSYS));
            #[cfg(target_arch = "x86_64")]
            assert_eq!(errno(libc::c_long::from(X32) | libc::SYS_getpid), Some(libc::EPERM), "x32");
            // What the agent, its probes and its hooks live by. bpf(2) may be refused for want of rights, and only for that.
            assert_eq!(errno(libc::SYS_getpid), None);
            assert!(std::fs::read("/proc/self/status").is_ok_and(|text| !text.is_empty()));
            assert!(std::net::UdpSocket::bind("127.0.0.1:0").is_ok());
            let child = std::process::Command::new("true").status();
            assert!(child.is_ok_and(|status| status.success()), "a program can be started");
            assert_eq!(std::thread::spawn(|| 7).join().ok(), Some(7), "a thread can be started");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn no_call_is_listed_twice_and_none_that_we_make() {
        let numbers: BTreeSet<_> = DENIED.iter().map(|(number, _)| number).collect();
        assert_eq!(numbers.len(), DENIED.len());
        for ours in [libc::SYS_bpf, libc::SYS_perf_event_open, libc::SYS_execve, libc::SYS_capset] {
            assert!(!numbers.contains(&ours), "{ours}");
        }
    }
}
