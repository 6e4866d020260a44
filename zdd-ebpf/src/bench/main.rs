//! Programs that only the bench loads: floors to measure the XDP program against, and the driver that feeds both. The agent
//! does not carry them.
#![cfg_attr(
    target_arch = "bpf",
    allow(internal_features, reason = "the BPF target has no AtomicU64, see the other object's atomics")
)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod driver;
#[cfg(target_arch = "bpf")]
mod floors;
#[cfg(target_arch = "bpf")]
mod live;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here can panic; the verifier would refuse an endless loop that is reachable.
    loop {}
}

/// The licence that the kernel checks before it lets a program call GPL-only helpers.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("this is an eBPF object; `cargo xtask bench` builds it for the BPF target");
}
