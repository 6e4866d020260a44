//! The XDP program: parse, steer, forward, count. Every decision is in `zdd_common`; this object only brings packet
//! memory, maps and helpers to it.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    allow(internal_features, reason = "the BPF target has no AtomicU64, see atomics")
)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics, asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod alarm;
#[cfg(target_arch = "bpf")]
mod atomics;
#[cfg(target_arch = "bpf")]
mod bytes;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod program;
#[cfg(target_arch = "bpf")]
mod route;
#[cfg(target_arch = "bpf")]
mod stats;
#[cfg(target_arch = "bpf")]
mod tables;
#[cfg(target_arch = "bpf")]
mod trace;

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("this is an eBPF object; zdd-agent's build script builds it for the BPF target");
}
