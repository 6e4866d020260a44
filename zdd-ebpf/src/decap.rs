//! The XDP program for backends under `ipip`: takes the outer header off. Every decision is in `zdd_common::decap`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod bytes;

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, xdp_action};
    use aya_ebpf::macros::{map, xdp};
    use aya_ebpf::maps::lpm_trie::Key;
    use aya_ebpf::maps::{HashMap, LpmTrie, PerCpuArray};
    use aya_ebpf::programs::XdpContext;
    use zdd_common::decap::{Known, OUTCOMES, unwrap};
    use zdd_common::net::Addr;

    use crate::bytes::Bytes;

    /// Prefixes that outer headers of balancers come from; IPv4 as mapped addresses.
    #[map]
    static BALANCERS: LpmTrie<[u8; 16], u32> = LpmTrie::pinned(1024, BPF_F_NO_PREALLOC);
    /// Addresses that inner packets may be for.
    #[map]
    static VIPS: HashMap<Addr, u32> = HashMap::pinned(16384, BPF_F_NO_PREALLOC);
    /// Packets by outcome.
    #[map]
    static OUTCOME_COUNT: PerCpuArray<u64> = PerCpuArray::pinned(OUTCOMES.len() as u32, 0);

    struct Maps;

    impl Known for Maps {
        #[inline(always)]
        fn balancer(&mut self, source: &Addr) -> bool {
            BALANCERS.get(&Key::new(128, source.octets())).is_some()
        }

        #[inline(always)]
        fn vip(&mut self, addr: &Addr) -> bool {
            // SAFETY: only presence is looked at.
            unsafe { VIPS.get(addr) }.is_some()
        }
    }

    #[xdp(frags)]
    fn zdd_decap(ctx: XdpContext) -> u32 {
        let outcome = unwrap(&mut Bytes::of(&ctx), &mut Maps);
        if let Some(count) = OUTCOME_COUNT.get_ptr_mut(outcome as u32) {
            // SAFETY: this CPU's own value; XDP is not preempted by itself.
            unsafe { *count += 1 };
        }
        if outcome.passes() { xdp_action::XDP_PASS } else { xdp_action::XDP_DROP }
    }

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        // Nothing here can panic; the verifier would refuse an endless loop that is reachable.
        loop {}
    }

    /// The licence that the kernel checks before it lets a program call GPL-only helpers.
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("this is an eBPF object; zdd-agent's build script builds it for the BPF target");
}
