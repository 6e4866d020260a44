//! What can go wrong between the agent and the kernel.

use std::path::PathBuf;

/// Every message says what, where and the way out.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// No rights.
    #[error(
        "not allowed to use eBPF: {what}\nhelp: run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (in a container: privileged)"
    )]
    Privileges {
        /// What was refused.
        what: String,
    },
    /// The pin directory is not on a BPF file system.
    #[error(
        "{dir} is not on a BPF file system\nhelp: mount -t bpf bpf /sys/fs/bpf, or set agent.pin_dir to a directory below a mounted one"
    )]
    NoBpffs {
        /// The directory.
        dir: PathBuf,
    },
    /// Linux is too old.
    #[error(
        "Linux {release} is too old: this needs {}.{} or later, for {needs}\nhelp: boot a newer kernel; `zdd doctor` tells what this one lacks", floor.0, floor.1
    )]
    Kernel {
        /// The running kernel.
        release: String,
        /// The oldest that will do: major and minor number.
        floor: (u32, u32),
        /// Some of what it lacks.
        needs: &'static str,
    },
    /// Another agent runs.
    #[error(
        "another zdd agent uses {dir}\nhelp: stop it first (its traffic goes on), or give this one its own agent.pin_dir"
    )]
    Locked {
        /// The pin directory.
        dir: PathBuf,
    },
    /// Maps of another layout.
    #[error(
        "the maps pinned in {dir} have layout {found}, this zdd speaks layout {ours}\nhelp: traffic goes on as it is; run the zdd that made them, or `zdd detach --pin-dir {dir}` in a quiet moment and start again"
    )]
    Layout {
        /// The pin directory.
        dir: PathBuf,
        /// What is pinned.
        found: String,
        /// What this build has.
        ours: u32,
    },
    /// Pinned maps of another size.
    #[error(
        "agent.limits differ from the maps pinned in {dir}: {what}\nhelp: put the old limits back, or `zdd detach --pin-dir {dir}` in a quiet moment and start again: maps cannot grow under traffic"
    )]
    Resized {
        /// The pin directory.
        dir: PathBuf,
        /// Which map, and how.
        what: String,
    },
    /// Another pool for `snat` while flows are mapped.
    #[error(
        "agent.snat_source, snat_source6, snat_ports or limits.snat differ from what is in force in {dir}, and flows are mapped there: {what}\nhelp: put the old values back, or drain the snat versions first: they can change once no flow is mapped"
    )]
    PoolInUse {
        /// The pin directory.
        dir: PathBuf,
        /// What differs.
        what: String,
    },
    /// Somebody else's XDP program is there.
    #[error(
        "{interface} already has an XDP program that is not zdd's: {program} (id {id})\nhelp: detach it (`ip link set dev {interface} xdp off`, or stop its owner; if that is another zdd agent, `zdd detach` with its --socket or --pin-dir), or leave {interface} out (of agent.interfaces); zdd never replaces it"
    )]
    Foreign {
        /// The interface.
        interface: String,
        /// Name of the other program.
        program: String,
        /// Its id.
        id: u32,
    },
    /// The driver cannot do it.
    #[error(
        "{interface} cannot run XDP in its driver: {reason}\nhelp: set agent.mode = \"generic\" (slower, works everywhere), or choose another interface"
    )]
    Native {
        /// The interface.
        interface: String,
        /// What the kernel said.
        reason: String,
    },
    /// Anything else the kernel refused.
    #[error("{what}: {reason}")]
    Kernelspace {
        /// What was tried.
        what: String,
        /// What the kernel said.
        reason: String,
    },
    /// A map has no room.
    #[error(
        "map {map} is full at {limit} entries while {doing}\nhelp: raise agent.limits.{knob} (needs `zdd detach` and a new start), or shorten drains"
    )]
    Full {
        /// The map.
        map: &'static str,
        /// Its size.
        limit: u32,
        /// What for.
        doing: String,
        /// The setting.
        knob: &'static str,
    },
}

impl DataplaneError {
    /// From any error with a source chain.
    pub(super) fn kernel(what: impl Into<String>, error: impl std::error::Error) -> Self {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            let text = inner.to_string();
            if !reason.contains(&text) {
                reason = format!("{reason}: {text}");
            }
            source = inner.source();
        }
        Self::Kernelspace { what: what.into(), reason }
    }
}
